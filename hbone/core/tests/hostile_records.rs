// SPDX-License-Identifier: Apache-2.0
//! Peers with a good certificate that break TLS afterwards. Each ends its own tunnel, with a number,
//! a count and an alert, while another client's bulk transfer through the same worker goes on.

#[path = "common/bulk.rs"]
mod bulk;
mod common;
#[path = "common/raw.rs"]
#[allow(dead_code, reason = "shared with peers that keep the rules")]
mod raw;
#[path = "common/raw_server.rs"]
mod raw_server;
#[path = "common/scene.rs"]
#[allow(dead_code, reason = "shared with other attacks")]
mod scene;

use bulk::Bulk;
use common::*;
use hbone_core::EventKind;
use hbone_proto::Reason;
use hbone_tls::{AlertDescription, HEADER_LEN, Opened, RecordError, fuzzing, record_body_len};
use raw::Client;
use raw_server::Server;
use scene::Scene;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const DATA: u8 = 23;
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const KEY_UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];

/// Far more than what any limit allows.
const FLOOD: usize = 3000;

/// What the victim must get in each direction while an attack goes on.
const VICTIM_GETS: u64 = 4 << 20;

/// A record with the right key, of any content type.
fn sealed(attacker: &mut Client, typ: u8, content: &[u8]) -> Vec<u8> {
    fuzzing::seal_as(&mut attacker.session, typ, content).unwrap()
}

/// Reads until the peer ends the connection; the alert it gave, if any.
fn alert_of(attacker: &mut Client) -> Option<AlertDescription> {
    loop {
        let mut header = [0; HEADER_LEN];
        attacker.socket.read_exact(&mut header).ok()?;
        let mut body = vec![0; record_body_len(header).ok()?];
        attacker.socket.read_exact(&mut body).ok()?;
        match attacker.session.open(header, &mut body) {
            Ok(Opened::Close) => return Some(AlertDescription::CloseNotify),
            Ok(_) => {}
            Err(RecordError::Alert(alert)) => return Some(alert),
            Err(error) => panic!("{error}"),
        }
    }
}

/// An attacker with an open stream sends this; the end is a protocol error and the victim is served.
#[track_caller]
fn assert_ends(scene: &Scene, alert: AlertDescription, attack: impl Fn(&mut Client) -> Vec<u8>) {
    let bulk = Bulk::start(&scene.pair);
    let closed = |scene: &Scene| {
        let stats = scene.pair.server.stats().unwrap();
        stats
            .tunnels_closed
            .get(&Reason::TlsProtocolError.number())
            .copied()
            .unwrap_or(0)
    };
    let before = closed(scene);
    let mut attacker = scene.attacker();
    attacker.open(scene.app());
    attacker.send(&[]);
    let (mut app, _) = scene.pair.app.accept().unwrap();
    attacker.wait_status(200);
    let wire = attack(&mut attacker);
    let _ = attacker.socket.write_all(&wire);
    let heard = alert_of(&mut attacker);
    // The end of a flood comes before all of it is read, and then its RST may overtake the alert.
    let may_be_lost = heard.is_none() && wire.len() > 65_536;
    assert!(heard == Some(alert) || may_be_lost, "{heard:?}");
    let event = scene.wait_tunnel_closed(Reason::TlsProtocolError);
    assert!(!event.detail.is_empty());
    assert_eq!(closed(scene), before + 1);
    app.set_read_timeout(Some(PATIENCE)).unwrap();
    let end = app
        .read_to_end(&mut Vec::new())
        .map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    bulk.wait_for(VICTIM_GETS);
    bulk.finish();
}

#[test]
fn floods_of_records_without_data() {
    use AlertDescription as Alert;
    let scene = Scene::new();
    let flood = |typ: u8, content: &'static [u8]| {
        move |attacker: &mut Client| {
            let one = |_| sealed(attacker, typ, content);
            (0..FLOOD).flat_map(one).collect::<Vec<u8>>()
        }
    };
    assert_ends(&scene, Alert::UnexpectedMessage, flood(DATA, &[]));
    // user_canceled, which alone of all alerts ends nothing.
    assert_ends(&scene, Alert::UnexpectedMessage, flood(ALERT, &[1, 90]));
    // Pieces of a message that never gets whole.
    assert_ends(&scene, Alert::UnexpectedMessage, flood(HANDSHAKE, &[24]));
}

#[test]
fn floods_of_key_updates() {
    let scene = Scene::new();
    // A byte of a long frame now and then does not make it better.
    let frame = raw::h2_frame(0, 0, 1, &[0; 16_000]);
    for (asked, with_data) in [(true, false), (false, false), (true, true)] {
        assert_ends(&scene, AlertDescription::UnexpectedMessage, |attacker| {
            let mut wire = Vec::new();
            for byte in &frame[..FLOOD] {
                wire.extend(fuzzing::seal_key_update(&mut attacker.session, asked).unwrap());
                if with_data {
                    wire.extend(sealed(attacker, DATA, &[*byte]));
                }
            }
            wire
        });
    }
}

#[test]
fn messages_that_may_not_come_after_the_handshake() {
    use AlertDescription as Alert;
    let scene = Scene::new();
    let message =
        |content: &'static [u8]| move |attacker: &mut Client| sealed(attacker, HANDSHAKE, content);
    let unexpected = Alert::UnexpectedMessage;
    // HelloRequest and ClientHello, which were renegotiation until TLS 1.2.
    assert_ends(&scene, unexpected, message(&[0, 0, 0, 0]));
    assert_ends(&scene, unexpected, message(&[1, 0, 0, 2, 3, 3]));
    // NewSessionTicket, CertificateRequest, Certificate and Finished, from a client.
    assert_ends(&scene, unexpected, message(&[4, 0, 0, 4, 1, 2, 3, 4]));
    assert_ends(&scene, unexpected, message(&[13, 0, 0, 3, 0, 0, 0]));
    assert_ends(&scene, unexpected, message(&[11, 0, 0, 4, 0, 0, 0, 0]));
    assert_ends(&scene, unexpected, message(&[20, 0, 0, 0]));
    // EndOfEarlyData, and a KeyUpdate that is none.
    assert_ends(&scene, unexpected, message(&[5, 0, 0, 0]));
    assert_ends(&scene, Alert::DecodeError, message(&[24, 0, 0, 1, 2]));
    assert_ends(&scene, unexpected, message(&[24, 0xff, 0xff, 0xff]));
    // A message behind a KeyUpdate in its record would be under which key?
    let two = [KEY_UPDATE, KEY_UPDATE_REQUESTED].concat();
    assert_ends(&scene, unexpected, move |attacker| {
        sealed(attacker, HANDSHAKE, &two)
    });
}

#[test]
fn records_that_break_the_rules() {
    use AlertDescription as Alert;
    let scene = Scene::new();
    let raw = |bytes: &'static [u8]| move |_: &mut Client| bytes.to_vec();
    // Unprotected: ChangeCipherSpec, alert, a handshake as TLS 1.2 renegotiates, and what is no TLS.
    for bytes in [
        &[20, 3, 3, 0, 1, 1][..],
        &[21, 3, 3, 0, 2, 1, 0],
        &[22, 3, 3, 0, 4, 0, 0, 0, 0],
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        assert_ends(&scene, Alert::UnexpectedMessage, raw(bytes));
    }
    // One byte more than 2^14 + 256, said before any of it has come.
    assert_ends(&scene, Alert::RecordOverflow, raw(&[23, 3, 3, 0x41, 0x01]));
    assert_ends(&scene, Alert::BadRecordMac, raw(&[23, 3, 3, 0, 0]));
    assert_ends(&scene, Alert::UnexpectedMessage, |attacker| {
        sealed(attacker, 20, &[1])
    });
    assert_ends(&scene, Alert::UnexpectedMessage, |attacker| {
        sealed(attacker, 99, b"odd")
    });
    assert_ends(&scene, Alert::UnexpectedMessage, |attacker| {
        sealed(attacker, 0, &[0; 1000])
    });
    assert_ends(&scene, Alert::DecodeError, |attacker| {
        sealed(attacker, ALERT, &[1, 0, 0])
    });
    // Damaged, repeated, out of order.
    assert_ends(&scene, Alert::BadRecordMac, |attacker| {
        let mut record = sealed(attacker, DATA, b"damaged");
        *record.last_mut().unwrap() ^= 1;
        record
    });
    assert_ends(&scene, Alert::BadRecordMac, |attacker| {
        let ping = raw::h2_frame(scene::kind::PING, 0, 0, b"repeated");
        sealed(attacker, DATA, &ping).repeat(2)
    });
    assert_ends(&scene, Alert::BadRecordMac, |attacker| {
        drop(sealed(attacker, DATA, b"lost"));
        sealed(attacker, DATA, b"after it")
    });
}

/// A FIN without close_notify in the middle of a stream is how an attacker on the way would cut it
/// short: the application must not take it for the end.
#[test]
fn a_truncated_tunnel_is_no_end_in_order() {
    let scene = Scene::new();
    for whole in [true, false] {
        let mut attacker = scene.attacker();
        let key = attacker.open(scene.app());
        attacker.send(&[]);
        let (mut app, _) = scene.pair.app.accept().unwrap();
        app.set_read_timeout(Some(PATIENCE)).unwrap();
        attacker.wait_status(200);
        let content = attacker.frame(key, b"the first half", false);
        attacker.send(&content);
        app.read_exact(&mut [0; 14]).unwrap();
        if !whole {
            let record = sealed(&mut attacker, DATA, b"never whole");
            attacker
                .socket
                .write_all(&record[..record.len() - 1])
                .unwrap();
        }
        attacker.socket.shutdown(Shutdown::Write).unwrap();
        assert_reset(&mut app);
        scene.wait_tunnel_closed(Reason::TunnelLost);
        scene.victim_is_well();
    }
}

/// Odd, but by the rules: every byte of every record in a segment of its own, padding, records of one
/// byte, KeyUpdates between them.
#[test]
fn whatever_keeps_the_rules_is_served() {
    let scene = Scene::new();
    let mut client = scene.attacker();
    client.socket.set_nodelay(true).unwrap();
    let key = client.open(scene.app());
    client.send(&[]);
    let (mut app, _) = scene.pair.app.accept().unwrap();
    app.set_read_timeout(Some(PATIENCE)).unwrap();
    client.wait_status(200);
    let text = noise(500, 8);
    let frame = client.frame(key, &text, true);
    let mut wire = Vec::new();
    for (at, byte) in frame.iter().enumerate() {
        // The type is the last byte that is not 0: what follows is padding.
        let padding = vec![0; at % 40];
        let inner = [&[*byte, DATA][..], &padding].concat();
        wire.extend(sealed(&mut client, 0, &inner));
        if at % 100 == 99 {
            wire.extend(fuzzing::seal_key_update(&mut client.session, at % 200 == 199).unwrap());
        }
    }
    let (start, rest) = wire.split_at(2000);
    for byte in start {
        client.socket.write_all(&[*byte]).unwrap();
    }
    client.socket.write_all(rest).unwrap();
    let mut got = Vec::new();
    app.read_to_end(&mut got).unwrap();
    assert!(got == text);
    scene.victim_is_well();
}

/// Both nodes change their keys every few records, in both directions, under a full load.
#[test]
fn keys_change_in_both_directions_while_data_flow() {
    const RECORDS: u64 = 20;
    let pair = Pair::with(|config| {
        config.workers = 1;
        config.records_per_key = RECORDS;
    });
    let bulk = Bulk::start(&pair);
    // Records hold at most 16 KiB, so the keys have changed a hundred times.
    bulk.wait_for(RECORDS * 100 * 16_384);
    bulk.finish();
    assert_eq!(pair.client.stats().unwrap().tunnels_opened, 1);
}

/// The core's own KeyUpdates as its peer sees them, and its answers to those that ask for one.
#[test]
fn the_core_changes_its_key_before_the_limit_and_when_asked() {
    let scene = Scene::with(|config| config.records_per_key = 10);
    let mut client = scene.attacker();
    client.open(scene.app());
    client.send(&[]);
    let (mut app, _) = scene.pair.app.accept().unwrap();
    client.wait_status(200);
    let mut updates = 0;
    for round in 0..100_u8 {
        app.write_all(&[round]).unwrap();
        while client.data.len() <= usize::from(round) {
            updates += usize::from(client.read_one());
        }
    }
    assert!((9..=12).contains(&updates), "{updates} in 100 records");
    // Asked three times in one flight it answers at least once, and at most three times.
    let mut wire = Vec::new();
    for _ in 0..3 {
        wire.extend(fuzzing::seal_key_update(&mut client.session, true).unwrap());
    }
    client.socket.write_all(&wire).unwrap();
    let mut answers = 0;
    while answers == 0 {
        answers += usize::from(client.read_one());
    }
    app.write_all(b"x").unwrap();
    while client.data.len() <= 100 {
        answers += usize::from(client.read_one());
    }
    assert!((1..=3).contains(&answers), "{answers}");
    scene.victim_is_well();
}

#[test]
fn a_flood_of_tickets_to_our_client_ends_that_tunnel() {
    let scene = Scene::new();
    let mut server = Server::at(&scene.pair, "127.0.0.11");
    let (mut near, mut tunnel) = server.accept();
    let ticket = [4, 0, 0, 4, 1, 2, 3, 4];
    for _ in 0..20 {
        let record = fuzzing::seal_as(&mut tunnel.session, HANDSHAKE, &ticket).unwrap();
        tunnel.socket.write_all(&record).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(
        scene.pair.client.stats().unwrap().tunnels,
        2,
        "some are usual"
    );
    for _ in 0..FLOOD {
        let record = fuzzing::seal_as(&mut tunnel.session, HANDSHAKE, &ticket).unwrap();
        if tunnel.socket.write_all(&record).is_err() {
            break;
        }
    }
    wait_for(&scene.pair.client, |event| {
        event.kind == EventKind::TunnelClosed && is_reason(event, Reason::TlsProtocolError)
    });
    assert_reset(&mut near);
    scene.victim_is_well();
}

/// What a server may not send: a CertificateRequest after the handshake, which we never offered
/// (post_handshake_auth), a HelloRequest, and a record too long.
#[test]
fn servers_that_break_the_rules_lose_their_tunnel_only() {
    let scene = Scene::new();
    let mut server = Server::at(&scene.pair, "127.0.0.12");
    let request: &[u8] = &[13, 0, 0, 3, 0, 0, 0];
    for content in [request, &[0, 0, 0, 0], &[24, 0, 0, 0]] {
        let (mut near, mut tunnel) = server.accept();
        let record = fuzzing::seal_as(&mut tunnel.session, HANDSHAKE, content).unwrap();
        tunnel.socket.write_all(&record).unwrap();
        wait_for(&scene.pair.client, |event| {
            event.kind == EventKind::TunnelClosed && is_reason(event, Reason::TlsProtocolError)
        });
        assert_reset(&mut near);
        scene.victim_is_well();
    }
    let closed = scene.pair.client.stats().unwrap().tunnels_closed;
    assert_eq!(closed.get(&Reason::TlsProtocolError.number()), Some(&3));
}
