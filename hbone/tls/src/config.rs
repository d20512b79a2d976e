// SPDX-License-Identifier: Apache-2.0
//! An SVID, and the rustls configuration prepared from it once.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group, sign};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig};

use crate::error::HandshakeError;
use crate::identity::{ExpectedPeers, SpiffeId, spiffe_id};
use crate::verify::{ClientVerifier, ServerTrust, ServerVerifier};

/// The application protocol of HBONE.
pub(crate) const ALPN: &[u8] = b"h2";

/// A workload's certificate, key and trust bundle, checked and ready for handshakes.
///
/// Cloning is cheap; handshakes and sessions outlive it. The key is never printed.
#[derive(Clone)]
pub struct Svid {
    id: SpiffeId,
    trust: Arc<ServerTrust>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Svid {
    /// From DER: the chain leaf first, the key as PKCS#8, the roots of the trust domain.
    ///
    /// Everything that would make handshakes fail later is refused here: a key that is not the
    /// leaf's, a leaf that is not valid now, one that its own roots do not vouch for, or without a
    /// SPIFFE identity. Roots that came as part of the chain are not sent to peers.
    ///
    /// # Errors
    /// [`SvidError`] names the field that is wrong.
    pub fn new(
        chain: &[Vec<u8>],
        private_key: &[u8],
        roots: &[Vec<u8>],
    ) -> Result<Self, SvidError> {
        let provider = Arc::new(provider());
        let algorithms = provider.signature_verification_algorithms;
        let store = Arc::new(parse_roots(roots)?);
        let chain = parse_chain(chain, roots)?;
        let id = spiffe_id(&chain[0]).map_err(|e| wrong("chain[0]", e))?;
        let key = Arc::new(certified_key(chain, private_key)?);

        let trust = Arc::new(ServerTrust {
            roots: Arc::clone(&store),
            algorithms,
        });
        let chain_verifier =
            WebPkiClientVerifier::builder_with_provider(store, Arc::clone(&provider))
                .build()
                .map_err(|e| wrong("roots", e))?;
        check_leaf(&key.cert, &trust, &*chain_verifier)?;

        let verifier = ClientVerifier {
            chain: chain_verifier,
            trust_domain: id.trust_domain().to_owned(),
        };
        let server = server_config(&provider, verifier, &key).map_err(unsuitable)?;
        let client = client_config(&provider, &trust, &key).map_err(unsuitable)?;
        Ok(Self {
            id,
            trust,
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }

    /// Whose it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// The shared configuration with this connection's verifier. The copy is a dozen reference
    /// counts, a thousandth of a handshake.
    pub(crate) fn client_config(&self, expected: &ExpectedPeers) -> Arc<ClientConfig> {
        let mut config = (*self.client).clone();
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(ServerVerifier {
                trust: Arc::clone(&self.trust),
                expected: expected.clone(),
            }));
        Arc::new(config)
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// AES-128 first: it is the faster, and enough. The key share a client sends unasked is X25519;
/// the hybrid group stays on offer for peers that insist on it.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
            kx_group::X25519MLKEM768,
        ],
        ..default_provider()
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    verifier: ClientVerifier,
    key: &Arc<CertifiedKey>,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // A ticket would also move our sequence number away from 0 and cost a record.
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    Ok(config)
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    trust: &Arc<ServerTrust>,
    key: &Arc<CertifiedKey>,
) -> Result<ClientConfig, Error> {
    // Trusts nobody until `Svid::client_config` says who is expected.
    let nobody = ServerVerifier {
        trust: Arc::clone(trust),
        expected: ExpectedPeers::any_of([]),
    };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(nobody))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    Ok(config)
}

fn parse_roots(roots: &[Vec<u8>]) -> Result<RootCertStore, SvidError> {
    if roots.is_empty() {
        return Err(wrong("roots", "there is none, so no peer could be trusted"));
    }
    let mut store = RootCertStore::empty();
    for (i, der) in roots.iter().enumerate() {
        store.add(CertificateDer::from(der.clone())).map_err(|e| {
            wrong(
                format!("roots[{i}]"),
                format!("not a DER certificate ({e})"),
            )
        })?;
    }
    Ok(store)
}

fn parse_chain(
    chain: &[Vec<u8>],
    roots: &[Vec<u8>],
) -> Result<Vec<CertificateDer<'static>>, SvidError> {
    let mut parsed = Vec::new();
    for (i, der) in chain.iter().enumerate() {
        let der = CertificateDer::from(der.clone());
        webpki::EndEntityCert::try_from(&der).map_err(|e| {
            wrong(
                format!("chain[{i}]"),
                format!("not a DER certificate ({e:?})"),
            )
        })?;
        // Peers hold the roots already; CAs such as Istio's end the chain with one.
        if i == 0 || !roots.iter().any(|root| root.as_slice() == der.as_ref()) {
            parsed.push(der);
        }
    }
    if parsed.is_empty() {
        return Err(wrong(
            "chain",
            "there is no certificate; the leaf must come first",
        ));
    }
    Ok(parsed)
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    private_key: &[u8],
) -> Result<CertifiedKey, SvidError> {
    let der = PrivatePkcs8KeyDer::from(private_key);
    // The cause is not repeated: it could quote key material.
    let key = sign::any_supported_type(&der.into()).map_err(|_| {
        wrong(
            "private_key",
            "not a PKCS#8 key that TLS 1.3 can sign with (ECDSA, Ed25519 or RSA)",
        )
    })?;
    let key = CertifiedKey::new(chain, key);
    match key.keys_match() {
        Ok(()) => Ok(key),
        Err(Error::InconsistentKeys(_)) => Err(wrong(
            "private_key",
            "it is not the key of the leaf, chain[0]",
        )),
        Err(e) => Err(wrong("chain[0]", e)),
    }
}

/// The leaf must pass as a server's and as a client's, by its own roots and now.
fn check_leaf(
    chain: &[CertificateDer<'_>],
    trust: &ServerTrust,
    client: &dyn ClientCertVerifier,
) -> Result<(), SvidError> {
    let now = UnixTime::now();
    trust
        .verify_chain(&chain[0], &chain[1..], now)
        .and_then(|()| {
            client
                .verify_client_cert(&chain[0], &chain[1..], now)
                .map(drop)
        })
        .map_err(|e| match HandshakeError::from(e) {
            HandshakeError::Expired(s) => wrong(
                "chain[0]",
                format!("it, or one it chains through, expired {s} s ago"),
            ),
            HandshakeError::NotYetValid(s) => wrong(
                "chain[0]",
                format!(
                    "it, or one it chains through, is valid only in {s} s; is the clock right?"
                ),
            ),
            HandshakeError::UnknownIssuer => wrong(
                "chain[0]",
                "none of the roots vouches for it: an intermediate may be missing from the chain, \
                 or the roots may be another CA's",
            ),
            HandshakeError::BadCertificate(why) => wrong("chain[0]", why),
            other => wrong("chain[0]", other),
        })
}

fn unsuitable(error: Error) -> SvidError {
    wrong("private_key", error)
}

fn wrong(field: impl Into<String>, problem: impl fmt::Display) -> SvidError {
    SvidError {
        field: field.into(),
        problem: problem.to_string(),
    }
}

/// What is wrong with the material of an SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvidError {
    /// `chain[0]`, `private_key`, `roots[2]`, …
    pub field: String,
    /// The problem, as a sentence.
    pub problem: String,
}

impl fmt::Display for SvidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for SvidError {}
