// SPDX-License-Identifier: Apache-2.0
//! Good frames where they may not come: idle streams, ended halves, ids of the other side.

use crate::bulk::Bulk;
use crate::raw::h2_frame;
use crate::scene::Scene;
use crate::stage::*;
use hbone_proto::ErrorCode;
use std::io::Read;

const IDLE: u32 = 4001;

#[test]
fn data_on_an_idle_stream() {
    let frame = h2_frame(kind::DATA, 0, IDLE, b"early");
    both_end(ErrorCode::PROTOCOL_ERROR, "data_on_idle_stream", &frame);
}

#[test]
fn data_after_end_stream() {
    let frame = h2_frame(kind::DATA, flag::END_STREAM, OPEN, b"the end");
    let twice = [frame.clone(), frame].concat();
    both_end(ErrorCode::STREAM_CLOSED, "data_after_end", &twice);
}

#[test]
fn headers_after_end_stream() {
    let end = h2_frame(kind::DATA, flag::END_STREAM, OPEN, b"");
    let late = [end, answer(OPEN, &[0x88])].concat();
    both_end(ErrorCode::STREAM_CLOSED, "headers_after_end", &late);
}

#[test]
fn data_before_the_answer() {
    let scene = Scene::new();
    let bulk = Bulk::start(&scene.pair);
    let (mut wire, _near) = silent_server_of(&scene);
    let frame = h2_frame(kind::DATA, 0, OPEN, b"too soon");
    let end = End(ErrorCode::PROTOCOL_ERROR, "data_before_headers");
    ends(&scene, &scene.pair.client, &mut wire, bulk, end, &frame);
}

#[test]
fn reset_of_an_idle_stream() {
    let frame = h2_frame(kind::RST_STREAM, 0, IDLE, &[0, 0, 0, 8]);
    both_end(ErrorCode::PROTOCOL_ERROR, "reset_on_idle_stream", &frame);
}

#[test]
fn window_update_on_an_idle_stream() {
    let frame = h2_frame(kind::WINDOW_UPDATE, 0, IDLE, &[0, 0, 0, 1]);
    let token = "window_update_on_idle_stream";
    both_end(ErrorCode::PROTOCOL_ERROR, token, &frame);
}

#[test]
fn answer_that_nobody_asked_for() {
    let end = End(ErrorCode::PROTOCOL_ERROR, "headers_on_idle_stream");
    server_ends(end, &answer(IDLE, &[0x88]));
}

#[test]
fn stream_id_of_the_servers_side() {
    let end = End(ErrorCode::PROTOCOL_ERROR, "even_stream_id");
    client_ends(end, &connect(2, "127.0.0.2:80"));
}

#[test]
fn stream_ids_that_fall() {
    // Below the highest: a stream that is dead, whose trailers these seem to be.
    let high = connect(100_001, "nowhere:1");
    let low = connect(3, "127.0.0.2:80").repeat(6000);
    let end = End(ErrorCode::ENHANCE_YOUR_CALM, "too_many_glitches");
    client_ends(end, &[high, low].concat());
}

#[test]
fn fragments_of_two_streams_mixed() {
    let begun = h2_frame(kind::HEADERS, 0, OPEN + 2, &[0x82]);
    let other = h2_frame(kind::DATA, 0, OPEN, b"between");
    let frames = [begun, other].concat();
    both_end(ErrorCode::PROTOCOL_ERROR, "continuation_expected", &frames);
}

#[test]
fn continuation_of_nothing() {
    let frame = h2_frame(kind::CONTINUATION, flag::END_HEADERS, OPEN, &[0x82]);
    let token = "continuation_unexpected";
    both_end(ErrorCode::PROTOCOL_ERROR, token, &frame);
}

#[test]
fn go_away_again_and_again() {
    let frame = h2_frame(kind::GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let token = "too_many_glitches";
    both_end(ErrorCode::ENHANCE_YOUR_CALM, token, &frame.repeat(6000));
}

/// What was in flight when a stream was reset is no attack, however much it is.
#[test]
fn data_for_a_dead_stream() {
    let scene = Scene::new();
    let (mut wire, mut app) = client_of(&scene);
    let bulk = Bulk::start(&scene.pair);
    wire.send(&h2_frame(kind::RST_STREAM, 0, OPEN, &[0, 0, 0, 8]));
    while app.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    // Within the connection's window of 16 MiB; it is all given back.
    let late = h2_frame(kind::DATA, 0, OPEN, &[7; 16_000]).repeat(900);
    harmless(&scene, &scene.pair.server, &mut wire, bulk, &late);
}
