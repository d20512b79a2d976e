// SPDX-License-Identifier: Apache-2.0
//! What the policy says: of each CONNECT before its application is dialled, and of every open stream
//! again when the policy has changed.

use super::Worker;
use super::stream::About;
use crate::model::Direction;
use crate::slab::Handle;
use hbone_proto::Reason;
use hbone_sys::verdict::VerdictQuery;

impl Worker {
    /// Whether the policy lets this connection be. No answer is a refusal.
    ///
    /// Who came through a tunnel has proven an identity; which workload that is, its address claims.
    /// Where the mesh knows the address, both must agree; where it does not, the peer is nobody that
    /// a policy can name.
    pub(super) fn judge(&self, about: &About) -> Result<(), Reason> {
        let query = match about.direction {
            Direction::Outbound => {
                VerdictQuery::egress(about.workload.id, about.peer_workload, about.destination)
            }
            Direction::Inbound => {
                self.check_claim(about)?;
                let port = about.destination.port();
                let (id, peer) = (about.workload.id, about.peer_workload);
                VerdictQuery::ingress(id, peer, about.source, port, true)
            }
        };
        match self.config.verdicts.ask(&query) {
            Ok(verdict) if verdict.reason == 0 => Ok(()),
            Ok(verdict) => Err(Reason::from_number(verdict.reason).unwrap_or(Reason::PolicyDeny)),
            Err(_) => Err(Reason::PolicyUnknown),
        }
    }

    /// By the address and not by the tunnel's peer: a tunnel whose certificate disagrees has none.
    fn check_claim(&self, about: &About) -> Result<(), Reason> {
        let owner = self.peer_by_address.get(&about.source.ip());
        let Some(known) = owner.and_then(|id| self.peers.get(id)) else {
            return Ok(());
        };
        let proven = about.peer_identity.as_deref().unwrap_or_default();
        let expected = known.peer.expected.ids();
        if expected.iter().any(|id| id.as_str() == proven) {
            Ok(())
        } else {
            Err(Reason::PeerIdentityMismatch)
        }
    }

    /// The policy has changed: what it refuses now ends, everything else is not touched.
    pub(super) fn judge_again(&mut self) {
        let refused: Vec<(Handle, Reason)> = self
            .streams
            .iter()
            .filter_map(|(handle, stream)| Some((handle, self.judge(&stream.about).err()?)))
            .collect();
        for (handle, reason) in refused {
            self.end_stream(handle, reason);
        }
    }
}
