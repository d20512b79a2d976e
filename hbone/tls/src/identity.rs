// SPDX-License-Identifier: Apache-2.0
//! SPIFFE IDs: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, and how a certificate
//! carries them.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID section 2: an implementation must support, and may refuse more than, 2048 bytes.
const MAX_ID_LEN: usize = 2048;
/// SPIFFE-ID section 2.1.
const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// The identity of a workload. A `SpiffeId` in hand is a valid one; cloning it is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain_len: u16,
    namespace_len: u16,
}

impl SpiffeId {
    /// Parses an ID of exactly the five parts trust domain, `ns`, namespace, `sa`, service account.
    ///
    /// The characters are those of the SPIFFE-ID standard, section 2; nothing is normalised, so two
    /// IDs are the same only if their bytes are.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let malformed = |problem| IdentityError::Malformed {
            uri: printable(text),
            problem,
        };
        if text.len() > MAX_ID_LEN {
            return Err(malformed("it is longer than 2048 bytes"));
        }
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| malformed("it does not begin with spiffe://"))?;
        let mut parts = rest.split('/');
        let mut next = || {
            parts
                .next()
                .ok_or_else(|| malformed("it has fewer than five parts"))
        };
        let (trust_domain, ns, namespace, sa, account) =
            (next()?, next()?, next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(malformed("it has more than five parts"));
        }
        if ns != "ns" || sa != "sa" {
            return Err(malformed(
                "its path is not /ns/<namespace>/sa/<service account>",
            ));
        }
        if !is_trust_domain(trust_domain) {
            return Err(malformed(
                "its trust domain is not 1 to 255 of a-z, 0-9, '.', '-', '_'",
            ));
        }
        if !is_segment(namespace) || !is_segment(account) {
            return Err(malformed(
                "a part is empty, a dot segment, or not of A-Z a-z 0-9 . - _",
            ));
        }
        Ok(Self {
            text: text.into(),
            trust_domain_len: trust_domain.len() as u16,
            namespace_len: namespace.len() as u16,
        })
    }

    /// The whole ID, as it stands in certificates.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The root of the name, such as `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..SCHEME.len() + usize::from(self.trust_domain_len)]
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        let start = self.namespace_start();
        &self.text[start..start + usize::from(self.namespace_len)]
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.text[self.namespace_start() + usize::from(self.namespace_len) + "/sa/".len()..]
    }

    fn namespace_start(&self) -> usize {
        SCHEME.len() + usize::from(self.trust_domain_len) + "/ns/".len()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

impl std::str::FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

fn is_trust_domain(text: &str) -> bool {
    (1..=MAX_TRUST_DOMAIN_LEN).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// A peer's text, cut and cleaned so that it can stand in a log line.
fn printable(text: &str) -> String {
    let cut: String = text
        .chars()
        .take(200)
        .flat_map(char::escape_default)
        .collect();
    if text.chars().nth(200).is_some() {
        cut + "…"
    } else {
        cut
    }
}

/// The identities of which a server must prove one. Empty means that no server is acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedPeers(Arc<[SpiffeId]>);

impl ExpectedPeers {
    /// Any one of these.
    pub fn any_of(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        Self(ids.into_iter().collect())
    }

    /// The identities, in the order given.
    pub fn ids(&self) -> &[SpiffeId] {
        &self.0
    }

    /// The identity among these that the certificate proves.
    pub(crate) fn find(&self, cert: &CertificateDer<'_>) -> Result<SpiffeId, IdentityError> {
        let uri = only_uri_name(cert)?;
        let found = self.0.iter().find(|id| id.as_str() == uri);
        found.cloned().ok_or_else(|| IdentityError::Unexpected {
            expected: self.clone(),
            presented: printable(&uri),
        })
    }
}

impl From<SpiffeId> for ExpectedPeers {
    fn from(id: SpiffeId) -> Self {
        Self::any_of([id])
    }
}

/// The identity of a certificate: its one URI name.
pub(crate) fn spiffe_id(cert: &CertificateDer<'_>) -> Result<SpiffeId, IdentityError> {
    SpiffeId::parse(&only_uri_name(cert)?)
}

/// Like [`spiffe_id`], and the identity must be of this trust domain.
pub(crate) fn spiffe_id_in(
    trust_domain: &str,
    cert: &CertificateDer<'_>,
) -> Result<SpiffeId, IdentityError> {
    let id = spiffe_id(cert)?;
    if id.trust_domain() == trust_domain {
        return Ok(id);
    }
    Err(IdentityError::WrongTrustDomain {
        expected: trust_domain.into(),
        got: id,
    })
}

/// X509-SVID section 2: exactly one URI name, and a certificate with more must be refused. Else one
/// that was issued for two would be taken for whichever the reader looks at. Names of other kinds
/// prove nothing and are not looked at.
fn only_uri_name(cert: &CertificateDer<'_>) -> Result<String, IdentityError> {
    let mut names = uri_names(cert)?;
    match (names.pop(), names.len()) {
        (Some(name), 0) => Ok(name),
        (None, _) => Err(IdentityError::NoUriName),
        (Some(_), others) => Err(IdentityError::SeveralUriNames(others + 1)),
    }
}

pub(crate) fn uri_names(cert: &CertificateDer<'_>) -> Result<Vec<String>, IdentityError> {
    let parsed = webpki::EndEntityCert::try_from(cert)
        .map_err(|e| IdentityError::BadCertificate(format!("{e:?}")))?;
    Ok(parsed.valid_uri_names().map(str::to_owned).collect())
}

/// Why a certificate does not prove the identity that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityError {
    /// The certificate cannot be read at all.
    BadCertificate(String),
    /// There is no URI name in it.
    NoUriName,
    /// There are this many URI names, so it is not clear whom it proves.
    SeveralUriNames(usize),
    /// A URI is not a SPIFFE ID of the form this mesh uses.
    Malformed {
        /// The URI, cut and escaped for printing.
        uri: String,
        /// What is wrong, as the second half of a sentence.
        problem: &'static str,
    },
    /// A valid identity, but of another trust domain than ours.
    WrongTrustDomain {
        /// Our trust domain.
        expected: String,
        /// The identity that was proved.
        got: SpiffeId,
    },
    /// The URI name is none of the identities that may be at this address.
    Unexpected {
        /// Who may be there.
        expected: ExpectedPeers,
        /// The URI name presented, cut and escaped for printing.
        presented: String,
    },
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCertificate(why) => write!(f, "the certificate cannot be read ({why})"),
            Self::NoUriName => f.write_str(
                "the certificate carries no URI name, so it proves no SPIFFE identity; it was \
                 likely not issued for a workload of a mesh",
            ),
            Self::SeveralUriNames(count) => write!(
                f,
                "the certificate carries {count} URI names where a SPIFFE identity is exactly one; \
                 whoever issues certificates should not have signed it"
            ),
            Self::Malformed { uri, problem } => {
                write!(
                    f,
                    "the URI name {uri:?} is not a SPIFFE identity: {problem}"
                )
            }
            Self::WrongTrustDomain { expected, got } => write!(
                f,
                "the identity {got} is of trust domain {}, ours is {expected}",
                got.trust_domain()
            ),
            Self::Unexpected {
                expected,
                presented,
            } => {
                write!(f, "the certificate proves {presented}, but ")?;
                match expected.ids() {
                    [] => f.write_str("no identity is accepted at this address"),
                    ids => {
                        f.write_str("expected is ")?;
                        for (i, id) in ids.iter().enumerate() {
                            write!(f, "{}{id}", if i == 0 { "" } else { " or " })?;
                        }
                        f.write_str("; the address may have passed to another workload")
                    }
                }
            }
        }
    }
}

impl std::error::Error for IdentityError {}
