// SPDX-License-Identifier: Apache-2.0
//! New keys in the middle of a connection, in both directions.

mod common;

use common::{feed, open_all, ours, pending, read, seal, send, take, with_rustls};
use hbone_tls::{OVERHEAD, Opened, RecordError, Session};
use rustls::Connection;

/// Data gets through in both directions.
#[track_caller]
fn assert_talking(session: &mut Session, peer: &mut Connection) {
    let control = pending(session);
    feed(peer, &control).unwrap();
    feed(peer, &seal(session, b"from us").unwrap()).unwrap();
    assert_eq!(read(peer), b"from us");
    let wire = send(peer, b"from them");
    assert_eq!(open_all(session, &wire).unwrap().0, b"from them");
}

/// So much data that a KeyUpdate more is nothing unusual.
fn earn(session: &mut Session, peer: &mut Connection) {
    let wire = send(peer, &[7; 256]);
    assert_eq!(open_all(session, &wire).unwrap().0.len(), 256);
}

fn refresh(peer: &mut Connection) -> Vec<u8> {
    match peer {
        Connection::Client(peer) => peer.refresh_traffic_keys().unwrap(),
        Connection::Server(peer) => peer.refresh_traffic_keys().unwrap(),
    }
    let mut wire = Vec::new();
    take(peer, &mut wire);
    wire
}

#[test]
fn the_hybrid_group_works_for_peers_that_insist_on_it() {
    let group = rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768;
    for (mut session, mut peer) in with_rustls(|o| o.provider.kx_groups = vec![group]) {
        assert_talking(&mut session, &mut peer);
    }
}

#[test]
fn the_peer_may_change_its_key() {
    for (mut session, mut peer) in with_rustls(|_| {}) {
        for _ in 0..40 {
            let wire = refresh(&mut peer);
            assert_eq!(
                open_all(&mut session, &wire).unwrap().1,
                Some(Opened::Control)
            );
            // rustls asks for ours in return; that goes out under our old key.
            let answer = pending(&mut session);
            assert_eq!(answer.len(), OVERHEAD + 5);
            feed(&mut peer, &answer).unwrap();
            assert_talking(&mut session, &mut peer);
            earn(&mut session, &mut peer);
        }
    }
}

#[test]
fn an_answer_to_a_key_update_stands_where_it_was_taken() {
    let [(mut session, mut peer), _] = with_rustls(|_| {});
    let wire = refresh(&mut peer);
    open_all(&mut session, &wire).unwrap();
    let mut out = seal(&mut session, b"before ").unwrap();
    out.extend(pending(&mut session));
    out.extend(seal(&mut session, b"after").unwrap());
    feed(&mut peer, &out).unwrap();
    assert_eq!(read(&mut peer), b"before after");
}

#[test]
fn several_requests_get_one_answer() {
    let [(mut session, mut peer), _] = with_rustls(|_| {});
    let wire = [refresh(&mut peer), refresh(&mut peer), refresh(&mut peer)].concat();
    open_all(&mut session, &wire).unwrap();
    assert!(session.pending_out().is_some());
    assert!(session.pending_out().is_none());
}

#[test]
fn we_change_our_key_after_so_many_records() {
    for (mut session, mut peer) in with_rustls(|_| {}) {
        session.set_records_per_key(100);
        let mut updates = 0;
        for i in 0..1000_u32 {
            if let Some(update) = session.pending_out() {
                assert_eq!(i % 100, 0, "not after 100 records");
                feed(&mut peer, &update).unwrap();
                updates += 1;
            }
            feed(&mut peer, &seal(&mut session, &i.to_be_bytes()).unwrap()).unwrap();
            assert_eq!(read(&mut peer), i.to_be_bytes());
        }
        assert_eq!(updates, 9);
        assert_talking(&mut session, &mut peer);
    }
}

#[test]
fn both_of_us_change_keys_at_once() {
    let (mut client, mut server) = ours();
    client.set_records_per_key(3);
    server.set_records_per_key(5);
    for i in 0..200_u8 {
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = [&mut client, &mut server];
            let mut wire = pending(ends[from]);
            // As much as pays for a KeyUpdate in every third record.
            wire.extend(seal(ends[from], &[i; 100]).unwrap());
            assert_eq!(open_all(ends[to], &wire).unwrap().0, [i; 100]);
        }
    }
}

/// KeyUpdates until one is refused, with so much data between; how many passed.
fn flood(between: &[u8]) -> usize {
    let [(mut session, mut peer), _] = with_rustls(|_| {});
    for count in 0..1000 {
        let wire = [refresh(&mut peer), send(&mut peer, between)].concat();
        if let Err(error) = open_all(&mut session, &wire) {
            assert_eq!(error, RecordError::TooManyControlMessages);
            return count;
        }
    }
    1000
}

#[test]
fn endless_key_updates_are_refused() {
    // The tickets of the server count too.
    assert!((28..=32).contains(&flood(b"")));
}

#[test]
fn a_byte_of_data_does_not_pay_for_a_key_update() {
    assert!((28..=33).contains(&flood(b"x")));
    assert_eq!(flood(&[7; 256]), 1000);
}
