// SPDX-License-Identifier: Apache-2.0
//! Peers at the door that prove nothing, or the wrong thing: as clients of our HBONE port, and as
//! servers that we dialled. Each is refused with a number and counted; the victim notices nothing.

mod common;
#[path = "common/raw.rs"]
#[allow(dead_code, reason = "shared with peers that keep the rules")]
mod raw;
#[path = "common/scene.rs"]
#[allow(dead_code, reason = "shared with other attacks")]
mod scene;
#[path = "../../tls/tests/common/mod.rs"]
mod tls;

use common::*;
use hbone_core::{Event, EventKind};
use hbone_proto::Reason;
use raw::dial_from;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use rustls::Connection;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
use scene::{MALLORY, Scene};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use tls::{Material, PeerOptions};

const TLS: Reason = Reason::TlsHandshakeFailed;
const IDENTITY: Reason = Reason::PeerIdentityMismatch;

/// A peer that is wrong in one way, why it is refused, and a word of what the person on call reads.
struct Impostor {
    name: &'static str,
    options: PeerOptions,
    reason: Reason,
    words: &'static str,
}

/// Every way to be wrong with a certificate of this identity.
fn impostors(authority: &Authority, identity: &str) -> Vec<Impostor> {
    let mut all = forged(authority, identity);
    all.extend(misbuilt(authority, identity));
    all.extend(strangers(authority, identity));
    all
}

fn options((leaf, key): (Vec<u8>, Vec<u8>)) -> PeerOptions {
    PeerOptions::new(Material {
        chain: vec![leaf],
        key,
    })
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Certificates of another authority or time.
fn forged(authority: &Authority, identity: &str) -> Vec<Impostor> {
    let make = |name, words, issuer: &Authority, change: fn(&mut CertificateParams)| Impostor {
        name,
        options: options(issuer.issue(identity, change)),
        reason: TLS,
        words,
    };
    let foreign = Authority::new();
    vec![
        make("another authority", "any of our roots", &foreign, |_| {}),
        make("expired", "expired", authority, |p| {
            p.not_after = date_time_ymd(2020, 1, 1);
        }),
        make("not yet valid", "becomes valid", authority, |p| {
            p.not_before = date_time_ymd(2900, 1, 1);
        }),
    ]
}

/// Certificates that our own authority should not have signed.
fn misbuilt(authority: &Authority, identity: &str) -> Vec<Impostor> {
    let make = |name, reason, words, change: &dyn Fn(&mut CertificateParams)| Impostor {
        name,
        options: options(authority.issue(identity, change)),
        reason,
        words,
    };
    let names = |names: Vec<SanType>| {
        move |p: &mut CertificateParams| p.subject_alt_names.clone_from(&names)
    };
    let host = || SanType::DnsName("web.shop.svc.cluster.local".try_into().unwrap());
    let elsewhere = names(vec![uri("spiffe://other.example/ns/shop/sa/client")]);
    let several = names(vec![uri(identity), uri("spiffe://cluster.local/ns/a/sa/b")]);
    vec![
        make(
            "another trust domain",
            IDENTITY,
            "other.example",
            &elsewhere,
        ),
        make("several identities", TLS, "2 URI names", &several),
        make("no name", TLS, "no URI name", &names(vec![])),
        make(
            "a host's name only",
            TLS,
            "no URI name",
            &names(vec![host()]),
        ),
        make("for signing code", TLS, "refused", &|p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        }),
        make("not for signatures", TLS, "refused", &|p| {
            p.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
        }),
        make("an authority's own", TLS, "refused", &|p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }),
    ]
}

/// A good certificate, and no TLS that we speak.
fn strangers(authority: &Authority, identity: &str) -> Vec<Impostor> {
    let make = |name, words, change: &dyn Fn(&mut PeerOptions)| {
        let mut options = options(authority.issue(identity, |_| {}));
        change(&mut options);
        Impostor {
            name,
            options,
            reason: TLS,
            words,
        }
    };
    let twelve: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
    vec![
        make("TLS 1.2", "TLS 1.3", &|o| o.versions = twelve.to_vec()),
        make("no ALPN", "ALPN", &|o| o.alpn.clear()),
        make("no common suite", "in common", &|o| {
            o.provider.cipher_suites = vec![TLS13_CHACHA20_POLY1305_SHA256];
        }),
    ]
}

/// Lets a peer talk over a socket until either side has had enough.
fn talk(peer: &mut Connection, socket: &mut TcpStream) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut chunk = [0; 4096];
    loop {
        let mut wire = Vec::new();
        tls::take(peer, &mut wire);
        if socket.write_all(&wire).is_err() {
            return;
        }
        match socket.read(&mut chunk) {
            Ok(count @ 1..) => {
                // Its alert, should it have one, is sent before the end.
                let failed = tls::feed(peer, &chunk[..count]).is_err();
                let mut wire = Vec::new();
                tls::take(peer, &mut wire);
                let _ = socket.write_all(&wire);
                if failed {
                    return;
                }
            }
            Ok(0) => return,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                return;
            }
        }
    }
}

fn failed(event: &Event) -> bool {
    event.kind == EventKind::HandshakeFailed
}

#[test]
fn clients_that_prove_nothing_are_refused_with_a_reason() {
    let scene = Scene::new();
    let authority = &scene.pair.authority;
    let mut clients = impostors(authority, CLIENT_ID);
    let mut nobody = options(authority.issue(CLIENT_ID, |_| {}));
    nobody.identity = None;
    clients.push(Impostor {
        name: "no certificate",
        options: nobody,
        reason: TLS,
        words: "no certificate",
    });
    let mut other = options(authority.issue(CLIENT_ID, |_| {}));
    other.alpn = vec![b"http/1.1".to_vec()];
    clients.push(Impostor {
        name: "another ALPN",
        options: other,
        reason: TLS,
        words: "ALPN",
    });
    let count = clients.len() as u64;
    for client in clients {
        let mut socket = dial_from(MALLORY, scene.pair.hbone).unwrap();
        talk(&mut client.options.client(), &mut socket);
        let event = wait_for(&scene.pair.server, failed);
        assert!(
            is_reason(&event, client.reason),
            "{}: {event:?}",
            client.name
        );
        assert!(
            event.detail.contains(client.words),
            "{}: {event:?}",
            client.name
        );
        scene.victim_is_well();
    }
    let stats = scene.pair.server.stats().unwrap();
    assert_eq!(stats.handshakes_failed.values().sum::<u64>(), count);
    assert_eq!(stats.tunnels_opened, 1, "the victim's only");
    assert_eq!(stats.connections, 1);
    scene.newcomers_are_well();
}

#[test]
fn servers_that_prove_nothing_are_not_spoken_to() {
    let scene = Scene::new();
    let authority = &scene.pair.authority;
    let at = SocketAddr::new("127.0.0.10".parse().unwrap(), scene.pair.hbone.port());
    let listener = TcpListener::bind(at).unwrap();
    scene
        .pair
        .client
        .put_peers(vec![
            peer(SERVER, SERVER_IP, SERVER_ID),
            peer(3, at.ip(), SERVER_ID),
        ])
        .unwrap();
    let record_here = record(SocketAddr::new(at.ip(), 80), 3);
    scene.pair.records.set(Some(record_here));
    for mut server in impostors(authority, SERVER_ID) {
        match server.name {
            "another trust domain" => server.words = "expected is",
            // It is the one that chooses, so it is the one that says so.
            "no common suite" => server.words = "HandshakeFailure",
            _ => {}
        }
        let mut near = scene.pair.dial();
        let (mut socket, _) = listener.accept().unwrap();
        let mut wrong = server.options.server();
        talk(&mut wrong, &mut socket);
        assert!(wrong.peer_certificates().is_none() || server.name == "no ALPN");
        drop(socket);
        assert_reset(&mut near);
        let event = wait_for(&scene.pair.client, failed);
        assert!(
            is_reason(&event, server.reason),
            "{}: {event:?}",
            server.name
        );
        assert!(
            event.detail.contains(server.words),
            "{}: {event:?}",
            server.name
        );
        scene.victim_is_well();
    }
    let stats = scene.pair.client.stats().unwrap();
    assert_eq!(stats.tunnels_opened, 1, "the victim's only");
}

/// Bytes that were sent before anybody proved anything must not reach an application: neither as
/// 0-RTT data nor smuggled between the messages of the handshake.
#[test]
fn data_before_the_handshake_is_over_reaches_nobody() {
    let scene = Scene::new();
    let good = || options(scene.pair.authority.issue(CLIENT_ID, |_| {})).client();
    let sealed = [&[23, 3, 3, 0x40, 0][..], &noise(1 << 14, 9)].concat();
    let plain = [&[23, 3, 3, 0, 5][..], b"hello"].concat();
    for early in [sealed.repeat(4), plain] {
        let mut socket = dial_from(MALLORY, scene.pair.hbone).unwrap();
        let mut peer = good();
        let mut hello = Vec::new();
        tls::take(&mut peer, &mut hello);
        socket.write_all(&[hello, early].concat()).unwrap();
        talk(&mut peer, &mut socket);
        let event = wait_for(&scene.pair.server, failed);
        assert!(is_reason(&event, TLS), "{event:?}");
        scene.victim_is_well();
    }
    scene.pair.app.set_nonblocking(true).unwrap();
    assert!(scene.pair.app.accept().is_err());
}

/// A ClientHello of 48 KiB in records of one byte: what it costs us must not grow with its square.
#[test]
fn a_hello_in_crumbs_is_read_or_refused_but_not_chewed_for_ever() {
    let scene = Scene::new();
    let body = noise(48 << 10, 4);
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    let crumbs: Vec<u8> = message
        .iter()
        .flat_map(|&byte| [22, 3, 1, 0, 1, byte])
        .collect();
    let mut socket = dial_from(MALLORY, scene.pair.hbone).unwrap();
    let writer = thread::spawn(move || {
        for part in crumbs.chunks(600) {
            if socket.write_all(part).is_err() {
                break;
            }
        }
        let _ = socket.read_to_end(&mut Vec::new());
    });
    while !writer.is_finished() {
        scene.victim_is_well();
    }
    writer.join().unwrap();
    let event = wait_for(&scene.pair.server, failed);
    assert!(is_reason(&event, TLS), "{event:?}");
}

/// Alerts that mean nothing, ChangeCipherSpecs that do nothing: before anybody has proved anything.
#[test]
fn floods_before_the_handshake_end_it() {
    let scene = Scene::new();
    let user_canceled: &[u8] = &[21, 3, 3, 0, 2, 1, 90];
    let change_cipher_spec: &[u8] = &[20, 3, 3, 0, 1, 1];
    let empty_handshake: &[u8] = &[22, 3, 3, 0, 0];
    for flood in [user_canceled, change_cipher_spec, empty_handshake] {
        let mut socket = dial_from(MALLORY, scene.pair.hbone).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut hello = Vec::new();
        let peer = &mut options(scene.pair.authority.issue(CLIENT_ID, |_| {})).client();
        tls::take(peer, &mut hello);
        let _ = socket.write_all(&[hello, flood.repeat(2000)].concat());
        let _ = socket.read_to_end(&mut Vec::new());
        let event = wait_for(&scene.pair.server, failed);
        assert!(is_reason(&event, TLS), "{event:?}");
        scene.victim_is_well();
    }
}
