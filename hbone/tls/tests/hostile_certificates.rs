// SPDX-License-Identifier: Apache-2.0
//! Certificates that the right authority signed and that prove nothing all the same; chains that lead
//! nowhere, too far, or are too much to read. Both as a client's and as a server's.

mod common;

use common::{CLIENT, Ca, Material, PeerOptions, SERVER, id, shake};
use hbone_tls::{ExpectedPeers, Handshake, HandshakeError};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};

/// What our server says of this client, and our client of this server.
fn refusals(ca: &Ca, material: impl Fn(&str) -> Material) -> [HandshakeError; 2] {
    let server = Handshake::server(&ca.svid(SERVER)).unwrap();
    let mut peer = PeerOptions::new(material(CLIENT)).client();
    let inbound = shake(server, &mut peer, usize::MAX);
    let client = Handshake::client(&ca.svid(CLIENT), &ExpectedPeers::from(id(SERVER))).unwrap();
    let mut peer = PeerOptions::new(material(SERVER)).server();
    let outbound = shake(client, &mut peer, usize::MAX);
    assert!(
        peer.peer_certificates().is_none(),
        "our certificate went to a refused server"
    );
    let refusals = [inbound.ours.unwrap_err(), outbound.ours.unwrap_err()];
    for (error, theirs) in refusals.iter().zip([inbound.theirs, outbound.theirs]) {
        // rustls has no alert for a message beyond its measure.
        assert!(
            theirs.is_err() || error.token() == "malformed",
            "the peer was not told"
        );
    }
    refusals
}

#[track_caller]
fn assert_refused(ca: &Ca, tokens: [&str; 2], material: impl Fn(&str) -> Material) {
    let refusals = refusals(ca, material);
    assert_eq!(
        refusals.each_ref().map(HandshakeError::token),
        tokens,
        "{refusals:?}"
    );
}

/// Both ends take this material.
#[track_caller]
fn assert_accepted(ca: &Ca, material: impl Fn(&str) -> Material) {
    let server = Handshake::server(&ca.svid(SERVER)).unwrap();
    let mut peer = PeerOptions::new(material(CLIENT)).client();
    let session = shake(server, &mut peer, usize::MAX).ours.unwrap();
    assert_eq!(session.peer(), &id(CLIENT));
    let client = Handshake::client(&ca.svid(CLIENT), &ExpectedPeers::from(id(SERVER))).unwrap();
    let mut peer = PeerOptions::new(material(SERVER)).server();
    let session = shake(client, &mut peer, usize::MAX).ours.unwrap();
    assert_eq!(session.peer(), &id(SERVER));
}

/// A leaf whose alternative names are these bytes, URI names each.
fn raw_uris(ca: &Ca, uris: &[&[u8]]) -> Material {
    let mut names = Vec::new();
    for uri in uris {
        names.extend([0x86, u8::try_from(uri.len()).unwrap()]);
        names.extend_from_slice(uri);
    }
    let mut content = vec![0x30, u8::try_from(names.len()).unwrap()];
    content.extend(names);
    ca.issue_with(&[], |p| {
        p.custom_extensions
            .push(CustomExtension::from_oid_content(&[2, 5, 29, 17], content));
    })
}

#[test]
fn several_uri_names_prove_nobody() {
    let ca = Ca::new("cluster.local");
    let both = ["several-identities"; 2];
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    assert_refused(&ca, both, |uri| ca.issue(&[uri, other]));
    assert_refused(&ca, both, |uri| ca.issue(&[other, uri]));
    assert_refused(&ca, both, |uri| ca.issue(&[uri, uri]));
    assert_refused(&ca, both, |uri| ca.issue(&["https://example.com/x", uri]));
    assert_refused(&ca, both, |uri| {
        ca.issue(&["spiffe://cluster.local/odd", uri])
    });
    let many: Vec<String> = (0..300)
        .map(|i| format!("spiffe://td/ns/a/sa/{i}"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let [inbound, _] = refusals(&ca, |_| ca.issue(&many));
    assert!(inbound.to_string().contains("300 URI names"));
}

#[test]
fn names_of_other_kinds_prove_nothing_and_do_no_harm() {
    let ca = Ca::new("cluster.local");
    let with =
        |uris: &[&str], name: SanType| ca.issue_with(uris, |p| p.subject_alt_names.push(name));
    let host = || SanType::DnsName("web.shop.svc.cluster.local".try_into().unwrap());
    let address = || SanType::IpAddress("10.0.0.1".parse().unwrap());
    let mail = || SanType::Rfc822Name(SERVER.try_into().unwrap());
    for name in [host, address, mail] {
        assert_refused(&ca, ["no-identity"; 2], |_| with(&[], name()));
        assert_accepted(&ca, |uri| with(&[uri], name()));
    }
    // An identity in the host's name, or in the subject, is none.
    assert_refused(&ca, ["no-identity"; 2], |uri| {
        ca.issue_with(&[], |p| {
            p.distinguished_name.push(rcgen::DnType::CommonName, uri)
        })
    });
}

#[test]
fn a_uri_that_only_looks_like_the_identity_is_not_it() {
    let ca = Ca::new("cluster.local");
    let account = |uri: &str| uri.rsplit_once('/').unwrap().1.to_owned();
    type Disguise = fn(&str) -> String;
    let disguises: [Disguise; 15] = [
        |who| format!("spiffe://cluster.local/ns/shop/sa/{who}\0"),
        |who| format!("spiffe://cluster.local/ns/shop/sa/{who}\0.evil.example"),
        |who| format!("spiffe://cluster.local\0.evil.example/ns/shop/sa/{who}"),
        |who| format!("SPIFFE://cluster.local/ns/shop/sa/{who}"),
        |who| format!("spiffe://Cluster.Local/ns/shop/sa/{who}"),
        |who| format!("spiffe://cluster.local:443/ns/shop/sa/{who}"),
        |who| format!("spiffe://root@cluster.local/ns/shop/sa/{who}"),
        |who| format!("spiffe://cluster.local/ns/shop/sa/{who}?a=b"),
        |who| format!("spiffe://cluster.local/ns/shop/sa/{who}#a"),
        |who| format!("spiffe://cluster.local/ns/shop/sa/{who}/"),
        |who| format!("spiffe://cluster.local//ns/shop/sa/{who}"),
        |who| format!("spiffe://cluster.local/ns/shop/sa/x/../{who}"),
        |who| format!("spiffe://cluster.local/ns/sh%6fp/sa/{who}"),
        |who| format!(" spiffe://cluster.local/ns/shop/sa/{who}"),
        |who| format!("spiffe://cluster.local/ns/shop/sa/{who}\n"),
    ];
    for disguise in disguises {
        assert_refused(&ca, ["no-identity", "identity-mismatch"], |uri| {
            raw_uris(&ca, &[disguise(&account(uri)).as_bytes()])
        });
    }
    // Bytes that are no text are no name at all.
    let tokens = ["no-identity"; 2];
    assert_refused(&ca, tokens, |uri| {
        raw_uris(&ca, &[&[uri.as_bytes(), &[0xff]].concat()])
    });
}

#[test]
fn a_key_must_be_for_handshakes_and_for_nothing_that_makes_certificates() {
    use KeyUsagePurpose as Usage;
    let ca = Ca::new("cluster.local");
    let usages = |usages: &'static [Usage]| {
        let ca = &ca;
        move |uri: &str| ca.issue_with(&[uri], |p| p.key_usages = usages.to_vec())
    };
    assert_accepted(&ca, usages(&[]));
    assert_accepted(
        &ca,
        usages(&[Usage::DigitalSignature, Usage::KeyEncipherment]),
    );
    let both = ["bad-certificate"; 2];
    assert_refused(&ca, both, usages(&[Usage::KeyAgreement]));
    assert_refused(
        &ca,
        both,
        usages(&[Usage::DigitalSignature, Usage::KeyCertSign]),
    );
    assert_refused(
        &ca,
        both,
        usages(&[Usage::DigitalSignature, Usage::CrlSign]),
    );
    // Extended: none is any, another is refused.
    assert_accepted(&ca, |uri| {
        ca.issue_with(&[uri], |p| p.extended_key_usages.clear())
    });
    assert_refused(&ca, both, |uri| {
        let only = vec![ExtendedKeyUsagePurpose::CodeSigning];
        ca.issue_with(&[uri], |p| p.extended_key_usages = only)
    });
}

#[test]
fn an_authority_is_no_workload_and_a_workload_no_authority() {
    let ca = Ca::new("cluster.local");
    let both = ["bad-certificate"; 2];
    // A CA's own certificate with a workload's name.
    assert_refused(&ca, both, |uri| {
        ca.issue_with(&[uri], |p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
        })
    });
    // A workload that issues certificates.
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let workload = ca.intermediate_with("a workload", |p| p.is_ca = is_ca);
        assert_refused(&ca, both, |uri| chain(&workload, uri, &[&workload]));
    }
    // What signed it does not sign at all: a root that is not in the bundle, sent along.
    let foreign = Ca::new("cluster.local");
    assert_refused(&ca, ["unknown-issuer"; 2], |uri| {
        chain(&foreign, uri, &[&foreign])
    });
}

/// A leaf by `issuer`, and these behind it.
fn chain(issuer: &Ca, uri: &str, behind: &[&Ca]) -> Material {
    let mut material = issuer.issue(&[uri]);
    material
        .chain
        .extend(behind.iter().map(|ca| ca.der.clone()));
    material
}

/// Intermediates below a root, the last issuing.
fn ladder(root: &Ca, steps: usize, change: impl Fn(&mut CertificateParams) + Copy) -> Vec<Ca> {
    let mut ladder: Vec<Ca> = Vec::new();
    for step in 0..steps {
        let above = ladder.last().unwrap_or(root);
        let next = above.intermediate_with(&format!("step {step}"), change);
        ladder.push(next);
    }
    ladder
}

fn climb(ladder: &[Ca], uri: &str) -> Material {
    let behind: Vec<&Ca> = ladder.iter().rev().collect();
    chain(behind[0], uri, &behind)
}

#[test]
fn path_length_is_kept() {
    let ca = Ca::new("cluster.local");
    let none_below =
        |p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let one = ladder(&ca, 1, none_below);
    assert_accepted(&ca, |uri| climb(&one, uri));
    let two = ladder(&ca, 2, none_below);
    assert_refused(&ca, ["bad-certificate"; 2], |uri| climb(&two, uri));
}

#[test]
fn chains_are_followed_so_far_and_no_further() {
    let ca = Ca::new("cluster.local");
    let steps = ladder(&ca, 6, |_| {});
    assert_accepted(&ca, |uri| climb(&steps, uri));
    let steps = ladder(&ca, 7, |_| {});
    assert_refused(&ca, ["bad-certificate"; 2], |uri| climb(&steps, uri));
}

#[test]
fn certificates_that_are_too_much_to_read_are_not_read() {
    let ca = Ca::new("cluster.local");
    // RFC 8446 allows 16 MiB; rustls takes 64 KiB of one message.
    let big = |uri: &str, bytes: usize| {
        let padding = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![4; bytes]);
        ca.issue_with(&[uri], |p| p.custom_extensions.push(padding))
    };
    assert_accepted(&ca, |uri| big(uri, 50_000));
    let all = |uri: &str, count: usize| {
        let mut material = ca.issue(&[uri]);
        let again = material.chain[0].clone();
        material.chain.extend(std::iter::repeat_n(again, count));
        material
    };
    assert_accepted(&ca, |uri| all(uri, 20));
    assert_refused(&ca, ["malformed"; 2], |uri| all(uri, 300));
    let two = |uri: &str| {
        let mut material = big(uri, 40_000);
        material.chain.extend(big(uri, 40_000).chain);
        material
    };
    assert_refused(&ca, ["malformed"; 2], two);
}

/// A hundred certificates under one name, each a possible issuer of the next: what a stranger could
/// make us verify grows with its square, were it not bounded.
#[test]
fn a_maze_of_namesakes_ends() {
    let ca = Ca::new("cluster.local");
    let foreign = Ca::new("cluster.local");
    let namesakes: Vec<Ca> = (0..100)
        .map(|_| foreign.intermediate("cluster.local"))
        .collect();
    let material = |uri: &str| {
        let behind: Vec<&Ca> = namesakes.iter().collect();
        chain(&namesakes[0], uri, &behind)
    };
    for error in refusals(&ca, material) {
        assert!(
            matches!(error.token(), "unknown-issuer" | "bad-certificate"),
            "{error:?}"
        );
    }
}
