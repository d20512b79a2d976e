// SPDX-License-Identifier: Apache-2.0
//! Frames of a form that none may have: sizes, padding, stream 0, values of SETTINGS.

use crate::raw::h2_frame;
use crate::stage::*;
use hbone_proto::ErrorCode;

fn setting(name: u16, value: u32) -> Vec<u8> {
    let entry = [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    h2_frame(kind::SETTINGS, 0, 0, &entry)
}

#[test]
fn padding_longer_than_its_data_frame() {
    let frame = h2_frame(kind::DATA, flag::PADDED, OPEN, &[200; 100]);
    both_end(ErrorCode::PROTOCOL_ERROR, "padding", &frame);
}

#[test]
fn padding_longer_than_its_headers_frame() {
    let flags = flag::PADDED | flag::END_HEADERS;
    let frame = h2_frame(kind::HEADERS, flags, OPEN + 2, &[200; 100]);
    both_end(ErrorCode::PROTOCOL_ERROR, "padding", &frame);
}

#[test]
fn padding_without_room_for_its_length() {
    let frame = h2_frame(kind::DATA, flag::PADDED, OPEN, &[]);
    both_end(ErrorCode::FRAME_SIZE_ERROR, "frame_size", &frame);
}

#[test]
fn frame_larger_than_allowed() {
    let head = [&[0xff; 3][..], &[kind::DATA, 0], &OPEN.to_be_bytes()].concat();
    both_end(ErrorCode::FRAME_SIZE_ERROR, "frame_too_large", &head);
}

#[test]
fn ping_of_seven_bytes() {
    let frame = h2_frame(kind::PING, 0, 0, b"seven..");
    both_end(ErrorCode::FRAME_SIZE_ERROR, "frame_size", &frame);
}

#[test]
fn settings_ack_with_settings() {
    let frame = h2_frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]);
    both_end(ErrorCode::FRAME_SIZE_ERROR, "frame_size", &frame);
}

#[test]
fn settings_cut_off_in_the_middle() {
    let frame = h2_frame(kind::SETTINGS, 0, 0, &[0; 5]);
    both_end(ErrorCode::FRAME_SIZE_ERROR, "settings_size", &frame);
}

#[test]
fn settings_with_too_many_entries() {
    let frame = h2_frame(kind::SETTINGS, 0, 0, &[0; 6 * 65]);
    both_end(ErrorCode::ENHANCE_YOUR_CALM, "settings_too_many", &frame);
}

#[test]
fn settings_with_a_window_beyond_31_bits() {
    let frame = setting(4, 1 << 31);
    both_end(ErrorCode::FLOW_CONTROL_ERROR, "settings_window", &frame);
}

#[test]
fn settings_with_an_impossible_frame_size() {
    let frame = setting(5, 100);
    both_end(ErrorCode::PROTOCOL_ERROR, "settings_frame_size", &frame);
}

#[test]
fn settings_that_half_allow_push() {
    both_end(ErrorCode::PROTOCOL_ERROR, "settings_push", &setting(2, 2));
}

#[test]
fn data_on_stream_zero() {
    let frame = h2_frame(kind::DATA, 0, 0, b"whose?");
    both_end(ErrorCode::PROTOCOL_ERROR, "stream_id_zero", &frame);
}

#[test]
fn settings_on_a_stream() {
    let frame = h2_frame(kind::SETTINGS, 0, OPEN, &[]);
    both_end(ErrorCode::PROTOCOL_ERROR, "stream_id_zero", &frame);
}

#[test]
fn push_promise() {
    let frame = h2_frame(kind::PUSH_PROMISE, flag::END_HEADERS, OPEN, &[0, 0, 0, 2]);
    both_end(ErrorCode::PROTOCOL_ERROR, "push_promise", &frame);
}

#[test]
fn noise_instead_of_frames() {
    // A frame of 15 MiB, says its beginning.
    let mut noise = crate::common::noise(10_000, 5);
    noise[0] = 0xf0;
    both_end(ErrorCode::FRAME_SIZE_ERROR, "frame_too_large", &noise);
}
