// SPDX-License-Identifier: Apache-2.0
//! What a worker hears from a connection.

use std::ops::Range;

use crate::connect::{ConnectRequest, ConnectResponse};
use crate::error::ErrorCode;
use crate::reason::Reason;
use crate::stream::StreamKey;

/// Something that happened, in the order it happened. `user` is the caller's mark of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Server: a CONNECT arrived. Give it a mark with [`Connection::set_user`] and answer it with
    /// [`Connection::respond`]. DATA may follow before the answer.
    Opened {
        /// The new stream.
        stream: StreamKey,
        /// What it asks for.
        request: Box<ConnectRequest>,
        /// The client has already ended its half.
        end: bool,
    },
    /// Server: a request was answered with an error here, before it became a stream of the caller
    /// (not CONNECT, bad authority, limits). For counters only.
    Refused {
        /// What was answered.
        status: u16,
        /// Why.
        reason: Reason,
    },
    /// Client: the answer to a CONNECT.
    Response {
        /// The stream.
        stream: StreamKey,
        /// The caller's mark.
        user: u64,
        /// The answer.
        response: Box<ConnectResponse>,
        /// The server has already ended its half.
        end: bool,
    },
    /// Bytes for the app: `range` of the slice given to this `recv`. May be empty if `end`.
    Data {
        /// The stream.
        stream: StreamKey,
        /// The caller's mark.
        user: u64,
        /// Where the bytes are.
        range: Range<usize>,
        /// The peer ends its half after these bytes.
        end: bool,
    },
    /// The stream is gone and its key dead: reset by the peer, or by us because the peer broke the
    /// rules of the stream. Bytes not yet consumed were credited already.
    Reset {
        /// The stream.
        stream: StreamKey,
        /// The caller's mark.
        user: u64,
        /// The code of RST_STREAM.
        code: ErrorCode,
        /// The peer says that it did nothing with the request: it may be sent again elsewhere.
        unprocessed: bool,
    },
    /// The peer takes no new streams. Streams that it will not process were reset before this.
    GoAway {
        /// Its code.
        code: ErrorCode,
    },
    /// The peer's SETTINGS arrived: [`Connection::max_streams`] may have changed.
    SettingsChanged,
}
