// SPDX-License-Identifier: Apache-2.0
//! Arbitrary bytes in arbitrary splits, as client and as server.
//!
//! Input: a byte of options, a byte that the splits follow from, then what the peer sends.
//! Held: no panic; the books balance after every piece; bytes in pieces mean what they mean whole;
//! what a peer makes us queue is bounded; a failed connection stays failed and says why once.
#![no_main]

use hbone_fuzz::script::{NOW, connection, hello};
use hbone_fuzz::{Input, cut};
use hbone_proto::{ConnectionError, Event, Role, StreamKey};
use libfuzzer_sys::fuzz_target;

/// Events with the bytes of DATA, adjacent DATA of a stream joined.
#[derive(Debug, PartialEq)]
enum Seen {
    Data(StreamKey, Vec<u8>, bool),
    Other(Event),
}

#[derive(Debug, PartialEq)]
struct Played {
    seen: Vec<Seen>,
    error: Option<ConnectionError>,
    control: Vec<u8>,
}

fn play(role: Role, small: bool, greeted: bool, pieces: &[&[u8]]) -> Played {
    let mut connection = connection(role, small);
    if greeted {
        connection
            .recv(NOW, &hello(role), &mut Vec::new())
            .expect("a polite hello");
    }
    let mut played = Played {
        seen: Vec::new(),
        error: None,
        control: Vec::new(),
    };
    for piece in pieces {
        let mut events = Vec::new();
        let outcome = connection.recv(NOW, piece, &mut events);
        events
            .into_iter()
            .for_each(|event| see(&mut played.seen, event, piece));
        connection.assert_invariants();
        if let Err(error) = outcome {
            assert_eq!(connection.recv(NOW, b"x", &mut Vec::new()), Err(error));
            assert_eq!(connection.next_deadline(), None);
            played.error = Some(error);
            break;
        }
    }
    played.control = connection.control().to_vec();
    // An answer is at most some 30 bytes per frame of 9: nobody can make us queue much more than
    // they send.
    let sent: usize = pieces.iter().map(|piece| piece.len()).sum();
    assert!(
        played.control.len() <= 2000 + 8 * sent,
        "{} for {sent}",
        played.control.len()
    );
    let live = connection.streams();
    assert_eq!(connection.take_streams().len(), live);
    played
}

fn see(seen: &mut Vec<Seen>, event: Event, piece: &[u8]) {
    let Event::Data {
        stream, range, end, ..
    } = event
    else {
        seen.push(Seen::Other(event));
        return;
    };
    match seen.last_mut() {
        Some(Seen::Data(last, bytes, ended)) if *last == stream && !*ended => {
            bytes.extend_from_slice(&piece[range]);
            *ended = end;
        }
        _ => seen.push(Seen::Data(stream, piece[range].to_vec(), end)),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (options, seed) = (input.byte(), input.byte());
    let role = if options & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    let (small, greeted) = (options & 2 != 0, options & 4 == 0);
    let bytes = input.0;
    let whole = play(role, small, greeted, &[bytes]);
    let split = play(role, small, greeted, &cut(bytes, seed));
    assert_eq!(whole, split);
});
