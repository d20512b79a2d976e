// SPDX-License-Identifier: Apache-2.0
//! Windows: overflowed, overrun, of one byte, and never opened.

use crate::raw::h2_frame;
use crate::stage::*;
use hbone_proto::ErrorCode;

const FLOW: ErrorCode = ErrorCode::FLOW_CONTROL_ERROR;
const MOST: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];

#[test]
fn window_of_the_connection_overflows() {
    let attack = h2_frame(kind::WINDOW_UPDATE, 0, 0, &MOST);
    both_end(FLOW, "window_overflow", &attack);
}

#[test]
fn window_overflows_by_settings() {
    let shift = h2_frame(kind::WINDOW_UPDATE, 0, OPEN, &[0x7f, 0, 0, 0]);
    let settings = h2_frame(kind::SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    let attack = [shift, settings].concat();
    both_end(FLOW, "settings_window_overflow", &attack);
}

#[test]
fn window_update_of_zero() {
    let attack = h2_frame(kind::WINDOW_UPDATE, 0, OPEN, &[0; 4]);
    both_end(ErrorCode::PROTOCOL_ERROR, "window_update_zero", &attack);
}

/// More than a stream's window, to an application that takes nothing.
#[test]
fn window_of_a_stream_is_overrun() {
    let attack = h2_frame(kind::DATA, 0, OPEN, &[7; 16_000]).repeat(1500);
    both_end(FLOW, "stream_window_exceeded", &attack);
}
