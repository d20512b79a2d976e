// SPDX-License-Identifier: Apache-2.0
//! Header blocks: without end, without measure, and what HPACK makes of few bytes.

use crate::bulk::Bulk;
use crate::common::{eventually, wait_closed};
use crate::raw::h2_frame;
use crate::scene::Scene;
use crate::stage::*;
use hbone_proto::{ErrorCode, Reason};
use std::io::Read;

/// One entry of some 4000 bytes into the table, and then a byte for each time that it is named: 8 MiB
/// out of 6 KiB.
fn bomb(first: &[u8]) -> Vec<u8> {
    // Literal with incremental indexing, a name of one byte, a value of 4000 (RFC 7541 section 6.2.1).
    let mut block = [first, &[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]].concat();
    block.extend_from_slice(&[b'a'; 4000]);
    block.extend_from_slice(&[0xbe; 2000]);
    block
}

#[test]
fn continuation_flood() {
    let begun = h2_frame(kind::HEADERS, 0, OPEN + 2, &[0x82; 10]);
    let more = h2_frame(kind::CONTINUATION, 0, OPEN + 2, &[0x82; 10]).repeat(40);
    let token = "continuation_flood";
    both_end(ErrorCode::ENHANCE_YOUR_CALM, token, &[begun, more].concat());
}

#[test]
fn continuation_flood_of_empty_frames() {
    let begun = h2_frame(kind::HEADERS, 0, OPEN + 2, &[]);
    let more = h2_frame(kind::CONTINUATION, 0, OPEN + 2, &[]).repeat(1000);
    let token = "continuation_flood";
    both_end(ErrorCode::ENHANCE_YOUR_CALM, token, &[begun, more].concat());
}

#[test]
fn header_block_without_measure() {
    let begun = h2_frame(kind::HEADERS, 0, OPEN + 2, &[0x82; 16_000]);
    let more = h2_frame(kind::CONTINUATION, 0, OPEN + 2, &[0x82; 16_000]).repeat(5);
    let token = "header_list_way_too_large";
    both_end(ErrorCode::ENHANCE_YOUR_CALM, token, &[begun, more].concat());
}

#[test]
fn header_block_in_one_large_frame() {
    let whole = answer(OPEN + 2, &[0x82; 70_000]);
    let token = "header_list_way_too_large";
    both_end(ErrorCode::ENHANCE_YOUR_CALM, token, &whole);
}

#[test]
fn hpack_index_out_of_its_table() {
    let frame = answer(OPEN + 2, &[0xff, 0x80, 0x01]);
    both_end(ErrorCode::COMPRESSION_ERROR, "hpack", &frame);
}

#[test]
fn hpack_table_larger_than_allowed() {
    // A size update to 2^20 (RFC 7541 section 6.3).
    let frame = answer(OPEN + 2, &[0x3f, 0xe1, 0xff, 0x3f]);
    both_end(ErrorCode::COMPRESSION_ERROR, "hpack", &frame);
}

#[test]
fn hpack_integer_without_end() {
    let frame = answer(OPEN + 2, &[0xff; 40]);
    both_end(ErrorCode::COMPRESSION_ERROR, "hpack", &frame);
}

/// Each is answered with 431 and costs us next to nothing; a thousand are enough.
#[test]
fn hpack_bombs_of_a_client() {
    let bombs: Vec<u8> = later_ids()
        .take(1500)
        .flat_map(|id| answer(id, &bomb(&[])))
        .collect();
    let end = End(ErrorCode::ENHANCE_YOUR_CALM, "too_many_refused_requests");
    client_ends(end, &bombs);
}

/// An answer that is too large ends its stream, not the tunnel.
#[test]
fn hpack_bomb_of_a_server() {
    let scene = Scene::new();
    let bulk = Bulk::start(&scene.pair);
    let (mut wire, mut near) = silent_server_of(&scene);
    let attack = answer(OPEN, &bomb(&[0x88]));
    harmless(&scene, &scene.pair.client, &mut wire, bulk, &attack);
    let closed = wait_closed(&scene.pair.client);
    assert_eq!(closed.reason, Reason::StreamReset.number(), "{closed:?}");
    assert!(near.read(&mut [0; 1]).is_err());
}

/// Trailers say nothing but the end, whatever they hold.
#[test]
fn trailers_bomb_of_a_server() {
    let scene = Scene::new();
    let bulk = Bulk::start(&scene.pair);
    let (mut wire, mut near) = server_of(&scene);
    let flags = flag::END_HEADERS | flag::END_STREAM;
    let attack = h2_frame(kind::HEADERS, flags, OPEN, &bomb(&[]));
    harmless(&scene, &scene.pair.client, &mut wire, bulk, &attack);
    assert_eq!(near.read(&mut [0; 1]).unwrap(), 0, "an end in order");
}

#[test]
fn trailers_again_and_again() {
    let end = h2_frame(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        OPEN,
        &[],
    );
    let end = [end.clone(), end].concat();
    both_end(ErrorCode::STREAM_CLOSED, "headers_after_end", &end);
}

#[test]
fn interim_answers_without_end() {
    let end = End(ErrorCode::ENHANCE_YOUR_CALM, "too_many_glitches");
    let scene = Scene::new();
    let bulk = Bulk::start(&scene.pair);
    let (mut wire, _near) = silent_server_of(&scene);
    let interim = answer(OPEN, &literal(":status", "103")).repeat(6000);
    ends(&scene, &scene.pair.client, &mut wire, bulk, end, &interim);
}

/// The second HEADERS without END_STREAM ends the stream.
#[test]
fn answer_given_twice() {
    let scene = Scene::new();
    let bulk = Bulk::start(&scene.pair);
    let (mut wire, _near) = server_of(&scene);
    harmless(
        &scene,
        &scene.pair.client,
        &mut wire,
        bulk,
        &answer(OPEN, &[0x88]),
    );
    let closed = wait_closed(&scene.pair.client);
    assert_eq!(closed.reason, Reason::StreamReset.number(), "{closed:?}");
    eventually("only the victims are left", || {
        scene.pair.client.stats().unwrap().connections <= 2
    });
}
