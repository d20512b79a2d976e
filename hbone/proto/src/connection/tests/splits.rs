// SPDX-License-Identifier: Apache-2.0
//! Bytes in any split mean the same.

use super::*;
use proptest::prelude::*;

/// Events with the bytes of DATA instead of ranges, adjacent DATA of a stream joined.
#[derive(Debug, PartialEq)]
enum Seen {
    Data(StreamKey, Vec<u8>, bool),
    Other(Event),
}

fn play(connection: &mut Connection, pieces: &[&[u8]]) -> (Vec<Seen>, Option<ConnectionError>) {
    let mut seen: Vec<Seen> = Vec::new();
    for piece in pieces {
        let mut events = Vec::new();
        let outcome = connection.recv(NOW, piece, &mut events);
        for event in events {
            let Event::Data {
                stream, range, end, ..
            } = event
            else {
                seen.push(Seen::Other(event));
                continue;
            };
            if let Some(Seen::Data(last, bytes, ended)) = seen.last_mut()
                && *last == stream
                && !*ended
            {
                bytes.extend_from_slice(&piece[range]);
                *ended = end;
            } else {
                seen.push(Seen::Data(stream, piece[range].to_vec(), end));
            }
        }
        connection.assert_invariants();
        if let Err(error) = outcome {
            return (seen, Some(error));
        }
    }
    (seen, None)
}

/// A client that does everything it may, in odd ways.
fn script() -> Vec<u8> {
    let block = request_block();
    let (head, tail) = block.split_at(block.len() / 3);
    let (middle, tail) = tail.split_at(tail.len() / 2);
    let mut padded = vec![4, 0, 0, 0, 0, 16]; // Pad length, priority.
    padded.extend(&block);
    padded.extend([0; 4]);
    let get = frame(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        9,
        &[0x82, 0x84, 0x86],
    );
    [
        PREFACE.to_vec(),
        settings_frame(&[(4, 100_000), (3, 5)]),
        connect(1),
        frame(kind::SETTINGS, flag::ACK, 0, &[]),
        data(1, 0, b"hello"),
        frame(kind::HEADERS, 0, 3, head),
        frame(kind::CONTINUATION, 0, 3, middle),
        frame(kind::CONTINUATION, flag::END_HEADERS, 3, tail),
        frame(kind::PING, 0, 0, b"abcdefgh"),
        data(3, flag::PADDED, &[2, b'x', b'y', b'z', 0, 0]),
        frame(0xee, 0xff, 77, b"grease of the future"),
        frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::PADDED | flag::PRIORITY,
            5,
            &padded,
        ),
        data(3, flag::PADDED | flag::END_STREAM, &[1, b'w', 0]),
        update(1, 500),
        data(5, 0, &[7; 300]),
        frame(kind::PRIORITY, 0, 1, &[0; 5]),
        frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            5,
            &[0, 1, b'a', 1, b'b'],
        ),
        data(1, flag::PADDED, &[0]),
        get,
        connect(11),
        reset_frame(11, ErrorCode::CANCEL),
        data(11, 0, b"late"),
        data(1, flag::END_STREAM, b""),
        frame(kind::GOAWAY, 0, 0, &[0; 30]),
    ]
    .concat()
}

fn cut<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        let (piece, tail) = rest.split_at((*length).min(rest.len()));
        pieces.push(piece);
        rest = tail;
        if rest.is_empty() {
            return pieces;
        }
    }
    pieces
}

#[test]
fn byte_by_byte_and_whole() {
    let bytes = script();
    let mut whole = Connection::new(Role::Server, Config::server(), NOW);
    let (seen, error) = play(&mut whole, &[&bytes]);
    assert_eq!(error, None);
    assert_eq!(
        seen.iter()
            .filter(|s| matches!(s, Seen::Other(Event::Opened { .. })))
            .count(),
        4
    );
    let ends = seen
        .iter()
        .filter(|s| matches!(s, Seen::Data(_, _, true)))
        .count();
    assert_eq!(ends, 3);
    let mut single = Connection::new(Role::Server, Config::server(), NOW);
    assert_eq!(play(&mut single, &cut(&bytes, &[1])), (seen, None));
    assert_eq!(single.control(), whole.control());
}

proptest! {
    #[test]
    fn any_split_means_the_same(lengths in prop::collection::vec(1..80usize, 1..20)) {
        let bytes = script();
        let mut whole = Connection::new(Role::Server, Config::server(), NOW);
        let mut split = Connection::new(Role::Server, Config::server(), NOW);
        prop_assert_eq!(play(&mut split, &cut(&bytes, &lengths)), play(&mut whole, &[&bytes]));
        prop_assert_eq!(split.control(), whole.control());
    }

    /// One byte changed anywhere: never a panic, and still the same in any split.
    #[test]
    fn a_broken_script_breaks_the_same(
        at in 24..700usize, value: u8, lengths in prop::collection::vec(1..80usize, 1..20)
    ) {
        let mut bytes = script();
        let at = at % bytes.len();
        bytes[at] = value;
        let mut whole = Connection::new(Role::Server, Config::server(), NOW);
        let mut split = Connection::new(Role::Server, Config::server(), NOW);
        prop_assert_eq!(play(&mut split, &cut(&bytes, &lengths)), play(&mut whole, &[&bytes]));
        prop_assert_eq!(split.control(), whole.control());
    }

    /// Frames of all kinds with random content, as server and as client.
    #[test]
    fn noise_never_panics_and_stays_small(
        frames in prop::collection::vec(
            (0..11u8, any::<u8>(), 0..9u32, prop::collection::vec(any::<u8>(), 0..40)), 0..60),
        as_server: bool,
    ) {
        let mut connection = if as_server { server() } else { client() };
        if !as_server {
            for user in 0..3 {
                connection.open(&request(), user).unwrap();
            }
        }
        for (kind, flags, stream, payload) in frames {
            let bytes = frame(kind, flags, stream, &payload);
            if play(&mut connection, &[&bytes]).1.is_some() {
                break;
            }
        }
        prop_assert!(connection.control().len() < 16_384);
    }
}
