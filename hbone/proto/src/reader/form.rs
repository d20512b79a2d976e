// SPDX-License-Identifier: Apache-2.0
//! What the form of a single frame must be.

use std::ops::Range;

use crate::error::{ConnectionError, ErrorCode};
use crate::frame::{Header, flag, kind};

/// Where the fragment lies in a HEADERS payload, without padding and priority (RFC 9113 section 6.2).
pub(super) fn unpadded(header: Header, payload: &[u8]) -> Result<Range<usize>, ConnectionError> {
    let mut start = 0;
    let mut pad = 0;
    if header.has(flag::PADDED) {
        pad = usize::from(*payload.first().ok_or(FRAME_SIZE)?);
        start = 1;
    }
    if header.has(flag::PRIORITY) {
        start += 5;
    }
    size(start <= payload.len())?;
    let end = payload.len() - start;
    let end = end
        .checked_sub(pad)
        .ok_or(ConnectionError::protocol("padding"))?
        + start;
    Ok(start..end)
}

pub(super) const FRAME_SIZE: ConnectionError =
    ConnectionError::broke(ErrorCode::FRAME_SIZE_ERROR, "frame_size");

pub(super) fn size(right: bool) -> Result<(), ConnectionError> {
    if right { Ok(()) } else { Err(FRAME_SIZE) }
}

/// Which frames are about the connection, which about a stream, which about either.
pub(super) fn check_stream_zero(header: Header) -> Result<(), ConnectionError> {
    let right = match header.kind {
        kind::SETTINGS | kind::PING | kind::GOAWAY => header.stream == 0,
        kind::DATA
        | kind::HEADERS
        | kind::PRIORITY
        | kind::RST_STREAM
        | kind::PUSH_PROMISE
        | kind::CONTINUATION => header.stream != 0,
        _ => true,
    };
    if right {
        Ok(())
    } else {
        Err(ConnectionError::protocol("stream_id_zero"))
    }
}
