// SPDX-License-Identifier: Apache-2.0
//! Certificates, and an independent peer: rustls' own buffered connections.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::{Read, Write};
use std::sync::Arc;

use hbone_tls::{
    ExpectedPeers, HEADER_LEN, Handshake, HandshakeError, OVERHEAD, Opened, RecordError, Session,
    SpiffeId, Svid, record_body_len,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, ServerConfig,
    ServerConnection, SignatureScheme, SupportedProtocolVersion,
};

pub const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/curl";
pub const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/web";

pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// DER of a chain and its key.
#[derive(Clone)]
pub struct Material {
    pub chain: Vec<Vec<u8>>,
    pub key: Vec<u8>,
}

pub struct Ca {
    pub der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = ca_params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            der,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn intermediate(&self, name: &str) -> Self {
        let params = ca_params(name);
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Self {
            der,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn issue(&self, uris: &[&str]) -> Material {
        self.issue_with(uris, |_| {})
    }

    pub fn issue_with(
        &self,
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Material {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Material {
            chain: vec![leaf],
            key: key.serialize_der(),
        }
    }

    pub fn svid(&self, uri: &str) -> Svid {
        self.issue(&[uri]).svid(&self.der)
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, name);
    params
}

impl Material {
    pub fn svid(&self, root: &[u8]) -> Svid {
        Svid::new(&self.chain, &self.key, &[root.to_vec()]).unwrap()
    }

    fn for_rustls(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = self
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        (chain, PrivatePkcs8KeyDer::from(self.key.clone()).into())
    }
}

/// How an independent peer behaves.
pub struct PeerOptions {
    pub identity: Option<Material>,
    pub alpn: Vec<Vec<u8>>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    pub provider: CryptoProvider,
    pub tickets: usize,
}

impl PeerOptions {
    pub fn new(identity: Material) -> Self {
        Self {
            identity: Some(identity),
            alpn: vec![b"h2".to_vec()],
            versions: vec![&rustls::version::TLS13],
            provider: aws_lc_rs::default_provider(),
            tickets: 2,
        }
    }

    pub fn client(self) -> Connection {
        let builder = ClientConfig::builder_with_provider(Arc::new(self.provider))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny));
        let mut config = match self.identity {
            Some(identity) => {
                let (chain, key) = identity.for_rustls();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn;
        let name = ServerName::try_from("peer.test").unwrap();
        ClientConnection::new(Arc::new(config), name)
            .unwrap()
            .into()
    }

    pub fn server(self) -> Connection {
        let (chain, key) = self.identity.unwrap().for_rustls();
        let mut config = ServerConfig::builder_with_provider(Arc::new(self.provider))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_client_cert_verifier(Arc::new(AcceptAny))
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = self.alpn;
        config.send_tls13_tickets = self.tickets;
        ServerConnection::new(Arc::new(config)).unwrap().into()
    }
}

/// Believes any certificate, but not a wrong signature.
#[derive(Debug)]
struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for AcceptAny {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

/// How a handshake with an independent peer ended, on both sides.
pub struct Outcome {
    pub ours: Result<Session, HandshakeError>,
    pub theirs: Result<(), Error>,
    /// What the peer sent after its part of the handshake.
    pub leftover: Vec<u8>,
}

/// Shakes hands, giving us `chunk` bytes at a time.
pub fn shake(ours: Handshake, peer: &mut Connection, chunk: usize) -> Outcome {
    shake_with(ours, peer, chunk, &[])
}

/// Likewise; the peer sends `early` as soon as it may.
pub fn shake_with(
    mut ours: Handshake,
    peer: &mut Connection,
    chunk: usize,
    early: &[u8],
) -> Outcome {
    peer.writer().write_all(early).unwrap();
    let (mut wire, mut received) = (Vec::new(), Vec::new());
    let mut theirs = Ok(());
    let mut failed = None;
    let mut done = false;
    for _ in 0..100_000 {
        let mut out = Vec::new();
        if failed.is_none() && !done {
            match ours.step(&mut received, &mut out) {
                Ok(step) => {
                    received.drain(..step.consumed);
                    done = step.done;
                }
                Err(error) => failed = Some(error),
            }
        }
        if theirs.is_ok() {
            theirs = feed(peer, &out);
        }
        take(peer, &mut wire);
        let n = chunk.min(wire.len());
        received.extend(wire.drain(..n));
        if n == 0 && out.is_empty() {
            break;
        }
    }
    received.append(&mut wire);
    let ours = match failed {
        Some(error) => Err(error),
        None => ours.finish(),
    };
    Outcome {
        ours,
        theirs,
        leftover: received,
    }
}

/// Gives bytes to the peer.
pub fn feed(peer: &mut Connection, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        peer.read_tls(&mut bytes).unwrap();
        peer.process_new_packets()?;
    }
    Ok(())
}

/// Takes what the peer has to send.
pub fn take(peer: &mut Connection, wire: &mut Vec<u8>) {
    while peer.wants_write() {
        peer.write_tls(wire).unwrap();
    }
}

/// The plaintext that the peer has read.
pub fn read(peer: &mut Connection) -> Vec<u8> {
    let mut data = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = peer.reader().read(&mut buffer) {
        data.extend_from_slice(&buffer[..n]);
    }
    data
}

pub fn send(peer: &mut Connection, data: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for part in data.chunks(8192) {
        peer.writer().write_all(part).unwrap();
        take(peer, &mut wire);
    }
    wire
}

/// One record of application data.
pub fn seal(session: &mut Session, data: &[u8]) -> Result<Vec<u8>, RecordError> {
    let mut record = vec![0; OVERHEAD + data.len()];
    record[HEADER_LEN..HEADER_LEN + data.len()].copy_from_slice(data);
    session.seal(&mut record)?;
    Ok(record)
}

/// Everything a session has to say of its own.
pub fn pending(session: &mut Session) -> Vec<u8> {
    std::iter::from_fn(|| session.pending_out())
        .flatten()
        .collect()
}

/// Opens whole records; returns the data and what the last record was.
pub fn open_all(
    session: &mut Session,
    wire: &[u8],
) -> Result<(Vec<u8>, Option<Opened>), RecordError> {
    let mut data = Vec::new();
    let mut last = None;
    let mut rest = wire.to_vec();
    while !rest.is_empty() {
        let header: [u8; HEADER_LEN] = rest[..HEADER_LEN].try_into().unwrap();
        let end = HEADER_LEN + record_body_len(header)?;
        let opened = session.open(header, &mut rest[HEADER_LEN..end])?;
        if let Opened::Data(len) = opened {
            data.extend_from_slice(&rest[HEADER_LEN..HEADER_LEN + len]);
        }
        last = Some(opened);
        rest.drain(..end);
    }
    Ok((data, last))
}

/// Both ends ours.
pub fn session_pair(client: &Svid, server: &Svid) -> (Session, Session) {
    let expected = ExpectedPeers::from(server.id().clone());
    let mut client = Handshake::client(client, &expected).unwrap();
    let mut server = Handshake::server(server).unwrap();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    loop {
        let c = client.step(&mut to_client, &mut to_server).unwrap();
        to_client.drain(..c.consumed);
        let s = server.step(&mut to_server, &mut to_client).unwrap();
        to_server.drain(..s.consumed);
        if c.done && s.done {
            return (client.finish().unwrap(), server.finish().unwrap());
        }
    }
}

pub fn ours() -> (Session, Session) {
    let ca = Ca::new("cluster.local");
    session_pair(&ca.svid(CLIENT), &ca.svid(SERVER))
}
