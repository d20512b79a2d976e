// SPDX-License-Identifier: Apache-2.0
//! Handshakes against rustls' own connections: the good ones, and every way to be refused.

mod common;

use common::{
    CLIENT, Ca, Material, PeerOptions, SERVER, id, open_all, ours, send, shake, shake_with,
};
use hbone_tls::{
    ExpectedPeers, Handshake, HandshakeError, IdentityError, REASON_PEER_IDENTITY_MISMATCH,
    REASON_TLS_HANDSHAKE_FAILED, Svid,
};
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::{AlertDescription, Connection, Error};

const WHOLE: usize = usize::MAX;

fn client(svid: &Svid) -> Handshake {
    Handshake::client(svid, &ExpectedPeers::from(id(SERVER))).unwrap()
}

fn server(svid: &Svid) -> Handshake {
    Handshake::server(svid).unwrap()
}

/// Our server refuses this client with this error and this alert.
#[track_caller]
fn assert_client_refused(peer: &mut Connection, ca: &Ca, token: &str, alert: AlertDescription) {
    let outcome = shake(server(&ca.svid(SERVER)), peer, WHOLE);
    let error = outcome.ours.unwrap_err();
    assert_eq!(error.token(), token, "{error}");
    assert_eq!(outcome.theirs, Err(Error::AlertReceived(alert)));
}

/// Our client refuses this server with this error and this alert.
#[track_caller]
fn assert_server_refused(peer: &mut Connection, ca: &Ca, token: &str, alert: AlertDescription) {
    let outcome = shake(client(&ca.svid(CLIENT)), peer, WHOLE);
    let error = outcome.ours.unwrap_err();
    assert_eq!(error.token(), token, "{error}");
    assert_eq!(outcome.theirs, Err(Error::AlertReceived(alert)));
    assert!(
        peer.peer_certificates().is_none(),
        "our certificate went to a refused server"
    );
}

#[test]
fn both_ends_learn_who_the_other_is() {
    let (client, server) = ours();
    assert_eq!(client.peer(), &id(SERVER));
    assert_eq!(server.peer(), &id(CLIENT));
}

#[test]
fn works_with_rustls_however_the_bytes_are_cut() {
    let ca = Ca::new("cluster.local");
    for chunk in [1, 2, 3, 7, 100, 1000, WHOLE] {
        let mut peer = PeerOptions::new(ca.issue(&[SERVER])).server();
        let outcome = shake(client(&ca.svid(CLIENT)), &mut peer, chunk);
        assert_eq!(outcome.theirs, Ok(()));
        assert_eq!(outcome.ours.unwrap().peer(), &id(SERVER));

        let mut peer = PeerOptions::new(ca.issue(&[CLIENT])).client();
        let outcome = shake(server(&ca.svid(SERVER)), &mut peer, chunk);
        assert_eq!(outcome.theirs, Ok(()));
        assert_eq!(outcome.ours.unwrap().peer(), &id(CLIENT));
    }
}

#[test]
fn messages_cut_into_many_records_are_put_together() {
    let ca = Ca::new("cluster.local");
    for (fragment, chunk) in [(32, 1), (32, WHOLE), (100, 13), (257, WHOLE)] {
        let options = |uri| {
            let mut options = PeerOptions::new(ca.issue(&[uri]));
            options.max_fragment = Some(fragment);
            options
        };
        let mut peer = options(SERVER).server();
        let outcome = shake(client(&ca.svid(CLIENT)), &mut peer, chunk);
        assert_eq!(outcome.ours.unwrap().peer(), &id(SERVER));
        let mut peer = options(CLIENT).client();
        let outcome = shake_with(server(&ca.svid(SERVER)), &mut peer, chunk, b"early bird");
        let mut session = outcome.ours.unwrap();
        assert_eq!(
            open_all(&mut session, &outcome.leftover).unwrap().0,
            b"early bird"
        );
    }
}

#[test]
fn data_sent_with_the_last_of_the_handshake_is_kept() {
    let ca = Ca::new("cluster.local");
    for chunk in [1, 50, WHOLE] {
        let mut peer = PeerOptions::new(ca.issue(&[CLIENT])).client();
        let outcome = shake_with(server(&ca.svid(SERVER)), &mut peer, chunk, b"early bird");
        let mut session = outcome.ours.unwrap();
        let (data, _) = open_all(&mut session, &outcome.leftover).unwrap();
        assert_eq!(data, b"early bird");
        let later = send(&mut peer, b"and more");
        assert_eq!(open_all(&mut session, &later).unwrap().0, b"and more");
    }
}

#[test]
fn an_intermediate_in_the_chain_is_followed_and_the_root_not_sent() {
    let root = Ca::new("root");
    let middle = root.intermediate("middle");
    let with_chain = |uri| {
        let mut material = middle.issue(&[uri]);
        material
            .chain
            .extend([middle.der.clone(), root.der.clone()]);
        material
    };
    let svid = with_chain(SERVER).svid(&root.der);
    let mut peer = PeerOptions::new(with_chain(CLIENT)).client();
    let outcome = shake(server(&svid), &mut peer, WHOLE);
    assert_eq!(outcome.ours.unwrap().peer(), &id(CLIENT));
    let sent = peer.peer_certificates().unwrap();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[1].as_ref(), middle.der);
}

#[test]
fn any_of_the_expected_identities_will_do() {
    let ca = Ca::new("cluster.local");
    let mut peer = PeerOptions::new(ca.issue(&[SERVER])).server();
    let expected = ExpectedPeers::any_of([id("spiffe://x/ns/y/sa/z"), id(SERVER)]);
    let handshake = Handshake::client(&ca.svid(CLIENT), &expected).unwrap();
    assert_eq!(
        shake(handshake, &mut peer, WHOLE).ours.unwrap().peer(),
        &id(SERVER)
    );
}

#[test]
fn a_server_with_another_identity_is_refused() {
    let ca = Ca::new("cluster.local");
    let other = "spiffe://cluster.local/ns/shop/sa/intruder";
    let mut peer = PeerOptions::new(ca.issue(&[other])).server();
    let outcome = shake(client(&ca.svid(CLIENT)), &mut peer, WHOLE);
    let error = outcome.ours.unwrap_err();
    let HandshakeError::Identity(IdentityError::Unexpected {
        expected,
        presented,
    }) = &error
    else {
        panic!("{error}");
    };
    assert_eq!(expected.ids(), [id(SERVER)]);
    assert_eq!(presented, other);
    assert_eq!(error.reason(), REASON_PEER_IDENTITY_MISMATCH);
    assert!(error.to_string().contains(other) && error.to_string().contains(SERVER));
    assert!(
        peer.peer_certificates().is_none(),
        "our certificate went to a refused server"
    );
}

#[test]
fn nobody_expected_means_nobody_accepted() {
    let ca = Ca::new("cluster.local");
    let mut peer = PeerOptions::new(ca.issue(&[SERVER])).server();
    let handshake = Handshake::client(&ca.svid(CLIENT), &ExpectedPeers::any_of([])).unwrap();
    assert_eq!(
        shake(handshake, &mut peer, WHOLE).ours.unwrap_err().token(),
        "identity-mismatch"
    );
}

#[test]
fn a_client_of_another_trust_domain_is_refused() {
    let ca = Ca::new("cluster.local");
    let foreign = "spiffe://other.example/ns/shop/sa/curl";
    let mut peer = PeerOptions::new(ca.issue(&[foreign])).client();
    let outcome = shake(server(&ca.svid(SERVER)), &mut peer, WHOLE);
    let error = outcome.ours.unwrap_err();
    assert_eq!(error.token(), "wrong-trust-domain");
    assert_eq!(error.reason(), REASON_PEER_IDENTITY_MISMATCH);
    assert!(error.to_string().contains("other.example"));
}

#[test]
fn certificates_without_a_usable_identity_are_refused() {
    let ca = Ca::new("cluster.local");
    for uris in [
        &[][..],
        &["https://example.com/"],
        &["spiffe://cluster.local/ns/shop"],
    ] {
        let alert = AlertDescription::CertificateUnknown;
        let mut peer = PeerOptions::new(ca.issue(uris)).client();
        assert_client_refused(&mut peer, &ca, "no-identity", alert);
        let token = if uris.is_empty() {
            "no-identity"
        } else {
            "identity-mismatch"
        };
        let mut peer = PeerOptions::new(ca.issue(uris)).server();
        assert_server_refused(&mut peer, &ca, token, alert);
    }
}

#[test]
fn another_ca_is_refused_even_under_the_same_name() {
    let ca = Ca::new("cluster.local");
    for name in ["cluster.local", "else"] {
        let foreign = Ca::new(name);
        let alert = AlertDescription::UnknownCA;
        let mut peer = PeerOptions::new(foreign.issue(&[CLIENT])).client();
        assert_client_refused(&mut peer, &ca, "unknown-issuer", alert);
        let mut peer = PeerOptions::new(foreign.issue(&[SERVER])).server();
        assert_server_refused(&mut peer, &ca, "unknown-issuer", alert);
    }
}

#[test]
fn certificates_out_of_their_time_are_refused() {
    let ca = Ca::new("cluster.local");
    let expired = |uri| ca.issue_with(&[uri], |p| p.not_after = date_time_ymd(2020, 1, 1));
    let early = |uri| ca.issue_with(&[uri], |p| p.not_before = date_time_ymd(2900, 1, 1));
    let alert = AlertDescription::CertificateExpired;
    let as_client = |m: Material| PeerOptions::new(m).client();
    let as_server = |m: Material| PeerOptions::new(m).server();
    assert_client_refused(&mut as_client(expired(CLIENT)), &ca, "expired", alert);
    assert_client_refused(&mut as_client(early(CLIENT)), &ca, "not-yet-valid", alert);
    assert_server_refused(&mut as_server(expired(SERVER)), &ca, "expired", alert);
    assert_server_refused(&mut as_server(early(SERVER)), &ca, "not-yet-valid", alert);
}

#[test]
fn certificates_for_another_purpose_are_refused() {
    let ca = Ca::new("cluster.local");
    let only = |uri, purpose| ca.issue_with(&[uri], |p| p.extended_key_usages = vec![purpose]);
    let alert = AlertDescription::UnsupportedCertificate;
    let mut peer = PeerOptions::new(only(CLIENT, ExtendedKeyUsagePurpose::ServerAuth)).client();
    assert_client_refused(&mut peer, &ca, "bad-certificate", alert);
    let mut peer = PeerOptions::new(only(SERVER, ExtendedKeyUsagePurpose::ClientAuth)).server();
    assert_server_refused(&mut peer, &ca, "bad-certificate", alert);
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let ca = Ca::new("cluster.local");
    let mut options = PeerOptions::new(ca.issue(&[CLIENT]));
    options.identity = None;
    let alert = AlertDescription::CertificateRequired;
    assert_client_refused(&mut options.client(), &ca, "no-certificate", alert);
}

#[test]
fn tls_1_2_is_refused() {
    let ca = Ca::new("cluster.local");
    let old = |uri| {
        let mut options = PeerOptions::new(ca.issue(&[uri]));
        options.versions = vec![&rustls::version::TLS12];
        options
    };
    let alert = AlertDescription::ProtocolVersion;
    assert_client_refused(&mut old(CLIENT).client(), &ca, "tls-version", alert);
    let outcome = shake(client(&ca.svid(CLIENT)), &mut old(SERVER).server(), WHOLE);
    let error = outcome.ours.unwrap_err();
    assert_eq!(error, HandshakeError::TlsVersion);
    assert_eq!(error.reason(), REASON_TLS_HANDSHAKE_FAILED);
}

#[test]
fn peers_that_do_not_agree_on_http2_are_refused() {
    let ca = Ca::new("cluster.local");
    let alert = AlertDescription::NoApplicationProtocol;
    for alpn in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut options = PeerOptions::new(ca.issue(&[CLIENT]));
        options.alpn = alpn.clone();
        assert_client_refused(&mut options.client(), &ca, "no-alpn", alert);
    }
    let mut options = PeerOptions::new(ca.issue(&[SERVER]));
    options.alpn = vec![];
    let outcome = shake(client(&ca.svid(CLIENT)), &mut options.server(), WHOLE);
    assert_eq!(outcome.ours.unwrap_err(), HandshakeError::NoAlpn);
    assert_eq!(outcome.theirs, Err(Error::AlertReceived(alert)));
}

#[test]
fn a_peer_without_a_common_suite_is_refused() {
    let ca = Ca::new("cluster.local");
    let mut options = PeerOptions::new(ca.issue(&[CLIENT]));
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    options.provider.cipher_suites = vec![suite];
    let alert = AlertDescription::HandshakeFailure;
    assert_client_refused(&mut options.client(), &ca, "nothing-in-common", alert);
}

#[test]
fn plaintext_on_the_port_is_named_as_such() {
    let ca = Ca::new("cluster.local");
    let mut handshake = server(&ca.svid(SERVER));
    let mut input = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    let error = handshake.step(&mut input, &mut Vec::new()).unwrap_err();
    assert_eq!(error, HandshakeError::NotTls);
    assert_eq!(
        handshake.step(&mut input, &mut Vec::new()).unwrap_err(),
        HandshakeError::NotTls
    );
}

#[test]
fn a_handshake_that_is_not_done_has_no_session() {
    let ca = Ca::new("cluster.local");
    let mut handshake = client(&ca.svid(CLIENT));
    let mut out = Vec::new();
    let step = handshake.step(&mut [], &mut out).unwrap();
    assert!(!step.done && !out.is_empty());
    assert_eq!(handshake.finish().unwrap_err().token(), "internal");
}

#[test]
fn our_client_hello_names_no_server() {
    let ca = Ca::new("cluster.local");
    let mut out = Vec::new();
    client(&ca.svid(CLIENT)).step(&mut [], &mut out).unwrap();
    let hello = rustls::server::Acceptor::default();
    let mut acceptor = hello;
    acceptor.read_tls(&mut &out[..]).unwrap();
    let accepted = acceptor.accept().unwrap().unwrap();
    assert_eq!(accepted.client_hello().server_name(), None);
    let suites = accepted.client_hello().cipher_suites().to_vec();
    assert_eq!(suites[0], rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(suites[1], rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
}
