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
    /// Server: a CONNECT arrived. Give it a mark with [`Connection::set_user`](crate::Connection::set_user) and answer it with
    /// [`Connection::respond`](crate::Connection::respond). DATA may follow before the answer.
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
    /// Reset by the peer, or by us because the peer broke the rules of the stream. Nothing more can be
    /// sent or will be received; bytes not yet consumed were credited and the key is dead.
    ///
    /// Except when `complete`: the peer had ended its half in order before, so what was received is
    /// all there is, and the app should get it. While some of it is not consumed the key lives on;
    /// call [`Connection::consumed`] as ever, or [`Connection::reset`] if the app is gone.
    ///
    /// [`Connection::consumed`]: crate::Connection::consumed
    /// [`Connection::reset`]: crate::Connection::reset
    Reset {
        /// The stream.
        stream: StreamKey,
        /// The caller's mark.
        user: u64,
        /// The code of RST_STREAM.
        code: ErrorCode,
        /// The peer says that it did nothing with the request: it may be sent again elsewhere.
        unprocessed: bool,
        /// The peer had ended its half in order.
        complete: bool,
    },
    /// The peer takes no new streams. Streams that it will not process were reset before this.
    GoAway {
        /// Its code.
        code: ErrorCode,
    },
    /// The peer's SETTINGS arrived: [`Connection::max_streams`](crate::Connection::max_streams) may have changed.
    SettingsChanged,
}
