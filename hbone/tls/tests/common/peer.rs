// SPDX-License-Identifier: Apache-2.0
//! A peer that shares no code of ours: rustls' own buffered connections.

use std::io::{Read, Write};
use std::sync::Arc;

use hbone_tls::{Handshake, HandshakeError, Session};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, ServerConfig,
    ServerConnection, SignatureScheme, SupportedProtocolVersion,
};

use super::Material;

/// How an independent peer behaves.
pub struct PeerOptions {
    pub identity: Option<Material>,
    pub alpn: Vec<Vec<u8>>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    pub provider: CryptoProvider,
    pub tickets: usize,
    pub max_fragment: Option<usize>,
}

impl PeerOptions {
    pub fn new(identity: Material) -> Self {
        Self {
            identity: Some(identity),
            alpn: vec![b"h2".to_vec()],
            versions: vec![&rustls::version::TLS13],
            provider: aws_lc_rs::default_provider(),
            tickets: 2,
            max_fragment: None,
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
        config.max_fragment_size = self.max_fragment;
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
        config.max_fragment_size = self.max_fragment;
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
