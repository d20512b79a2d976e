// SPDX-License-Identifier: Apache-2.0
//! Records between our own two ends, and against rustls' own record layer.

mod common;

use common::{
    CLIENT, Ca, SERVER, feed, id, open_all, ours, pending, read, seal, send, take, with_rustls,
};
use hbone_tls::{
    AlertDescription, ExpectedPeers, HEADER_LEN, Handshake, MAX_CIPHERTEXT, MAX_PLAINTEXT,
    OVERHEAD, Opened, RecordError, record_body_len,
};
use rustls::{CipherSuite, Error};

#[test]
fn records_of_every_size_get_through() {
    let (mut client, mut server) = ours();
    for len in [0, 1, 15, 16, 17, 1000, MAX_PLAINTEXT - 1, MAX_PLAINTEXT] {
        let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let record = seal(&mut client, &data).unwrap();
        assert_eq!(record.len(), len + OVERHEAD);
        assert_eq!(
            open_all(&mut server, &record).unwrap(),
            (data.clone(), Some(Opened::Data(len)))
        );
        let record = seal(&mut server, &data).unwrap();
        assert_eq!(open_all(&mut client, &record).unwrap().0, data);
    }
}

#[test]
fn rustls_reads_what_we_write_and_we_what_it_writes() {
    use rustls::crypto::aws_lc_rs::cipher_suite::*;
    for suite in [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384] {
        for (mut session, mut peer) in with_rustls(|o| o.provider.cipher_suites = vec![suite]) {
            assert_eq!(
                peer.negotiated_cipher_suite().unwrap().suite(),
                suite.suite()
            );
            let big: Vec<u8> = (0..100_000_u32).map(|i| (i * 7) as u8).collect();
            let mut got = Vec::new();
            for part in big.chunks(MAX_PLAINTEXT) {
                feed(&mut peer, &seal(&mut session, part).unwrap()).unwrap();
                got.extend(read(&mut peer));
            }
            assert_eq!(got, big);
            let wire = send(&mut peer, &big);
            assert_eq!(open_all(&mut session, &wire).unwrap().0, big);
        }
    }
}

#[test]
fn the_faster_suite_is_chosen_even_if_the_client_prefers_the_other() {
    use rustls::crypto::aws_lc_rs::cipher_suite::*;
    let suites = vec![TLS13_AES_256_GCM_SHA384, TLS13_AES_128_GCM_SHA256];
    let [_, (_, client)] = with_rustls(|o| o.provider.cipher_suites = suites.clone());
    let suite = client.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
}

#[test]
fn closing_is_heard_on_both_sides() {
    for (mut session, mut peer) in with_rustls(|_| {}) {
        session.close();
        assert_eq!(seal(&mut session, b"late").unwrap_err(), RecordError::Ended);
        let alert = pending(&mut session);
        feed(&mut peer, &alert).unwrap();
        assert!(peer.process_new_packets().unwrap().peer_has_closed());
        // The other direction still works.
        let wire = send(&mut peer, b"last words");
        assert_eq!(open_all(&mut session, &wire).unwrap().0, b"last words");
        peer.send_close_notify();
        let mut wire = Vec::new();
        take(&mut peer, &mut wire);
        assert_eq!(
            open_all(&mut session, &wire).unwrap().1,
            Some(Opened::Close)
        );
        // What follows a close is ignored, whatever it is.
        assert_eq!(session.open([23, 3, 3, 0, 1], &mut [0]), Ok(Opened::Close));
        session.close();
        assert!(session.pending_out().is_none());
    }
}

#[test]
fn we_may_send_after_the_peer_has_closed() {
    let (mut client, mut server) = ours();
    client.close();
    let alert = pending(&mut client);
    assert_eq!(
        open_all(&mut server, &alert).unwrap().1,
        Some(Opened::Close)
    );
    let record = seal(&mut server, b"rest").unwrap();
    assert_eq!(open_all(&mut client, &record).unwrap().0, b"rest");
}

#[test]
fn a_damaged_record_ends_the_session_with_an_alert() {
    for (mut session, mut peer) in with_rustls(|_| {}) {
        let mut wire = send(&mut peer, b"hello");
        let again = send(&mut peer, b"again");
        *wire.last_mut().unwrap() ^= 1;
        assert_eq!(
            open_all(&mut session, &wire).unwrap_err(),
            RecordError::BadMac
        );
        let alert = pending(&mut session);
        let heard = feed(&mut peer, &alert);
        assert_eq!(
            heard,
            Err(Error::AlertReceived(AlertDescription::BadRecordMac))
        );
        assert_eq!(seal(&mut session, b"x").unwrap_err(), RecordError::Ended);
        assert_eq!(
            open_all(&mut session, &again).unwrap_err(),
            RecordError::Ended
        );
        assert!(session.pending_out().is_none());
    }
}

#[test]
fn records_lost_repeated_or_swapped_are_noticed() {
    let records = || {
        let (mut client, server) = ours();
        (
            seal(&mut client, b"one").unwrap(),
            seal(&mut client, b"two").unwrap(),
            server,
        )
    };
    let (_, second, mut server) = records();
    assert_eq!(open_all(&mut server, &second), Err(RecordError::BadMac));
    let (first, _, mut server) = records();
    open_all(&mut server, &first).unwrap();
    assert_eq!(open_all(&mut server, &first), Err(RecordError::BadMac));
}

#[test]
fn headers_that_are_not_of_protected_records_are_refused_early() {
    let len = |typ, len: usize| record_body_len([typ, 3, 3, (len >> 8) as u8, len as u8]);
    assert_eq!(len(23, MAX_CIPHERTEXT), Ok(MAX_CIPHERTEXT));
    assert_eq!(len(23, MAX_CIPHERTEXT + 1), Err(RecordError::TooLong));
    for typ in [0, 20, 21, 22, 24, b'G'] {
        assert!(
            matches!(len(typ, 1), Err(RecordError::Unexpected(_))),
            "{typ}"
        );
    }
    let (mut client, mut server) = ours();
    let too_long = [23, 3, 3, 0x41, 1];
    assert_eq!(client.body_len(too_long), Err(RecordError::TooLong));
    let overflow = RecordError::Alert(AlertDescription::RecordOverflow);
    let alert = pending(&mut client);
    assert_eq!(open_all(&mut server, &alert), Err(overflow));
    // A ChangeCipherSpec was allowed during the handshake only.
    let (mut client, _) = ours();
    let error = client.open([20, 3, 3, 0, 1], &mut [1]).unwrap_err();
    assert!(error.to_string().contains("ChangeCipherSpec"));
    assert!(!pending(&mut client).is_empty());
}

#[test]
fn short_and_mismatched_bodies_are_refused() {
    for len in 0..=16 {
        let (mut client, _) = ours();
        let mut body = vec![0; len];
        let header = [23, 3, 3, 0, len as u8];
        assert_eq!(
            client.open(header, &mut body),
            Err(RecordError::BadMac),
            "{len}"
        );
    }
    let (mut client, mut server) = ours();
    let mut record = seal(&mut client, b"hello").unwrap();
    let header = record[..HEADER_LEN].try_into().unwrap();
    let cut = record.len() - 1;
    let error = server
        .open(header, &mut record[HEADER_LEN..cut])
        .unwrap_err();
    assert!(matches!(error, RecordError::Misuse(_)));
}

#[test]
fn buffers_of_another_shape_are_not_sealed() {
    let (mut client, mut server) = ours();
    for len in [0, OVERHEAD - 1, OVERHEAD + MAX_PLAINTEXT + 1] {
        assert!(
            matches!(client.seal(&mut vec![0; len]), Err(RecordError::Misuse(_))),
            "{len}"
        );
    }
    // Nothing was spent on them.
    let record = seal(&mut client, b"fine").unwrap();
    assert_eq!(open_all(&mut server, &record).unwrap().0, b"fine");
}

#[test]
fn a_server_that_refuses_us_says_so_on_the_session() {
    let ca = Ca::new("cluster.local");
    // Our client trusts both roots, the server only its own.
    let foreign = Ca::new("else");
    let material = foreign.issue(&[CLIENT]);
    let roots = [ca.der.clone(), foreign.der.clone()];
    let svid = hbone_tls::Svid::new(&material.chain, &material.key, &roots).unwrap();
    let mut client = Handshake::client(&svid, &ExpectedPeers::from(id(SERVER))).unwrap();
    let mut server = Handshake::server(&ca.svid(SERVER)).unwrap();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    client.step(&mut [], &mut up).unwrap();
    let step = server.step(&mut up, &mut down).unwrap();
    up.drain(..step.consumed);
    let step = client.step(&mut down, &mut up).unwrap();
    down.drain(..step.consumed);
    assert!(step.done);
    let error = server.step(&mut up, &mut down).unwrap_err();
    assert_eq!(error.token(), "unknown-issuer");
    let mut session = client.finish().unwrap();
    let error = open_all(&mut session, &down).unwrap_err();
    assert_eq!(error, RecordError::Alert(AlertDescription::UnknownCA));
    assert!(error.is_refusal_of_our_certificate());
    assert!(session.pending_out().is_none());
}

#[test]
fn secrets_are_not_printed() {
    let (client, _) = ours();
    assert_eq!(
        format!("{client:?}"),
        format!("Session {{ peer: SpiffeId({SERVER}), .. }}")
    );
}
