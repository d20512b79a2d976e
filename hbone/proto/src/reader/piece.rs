// SPDX-License-Identifier: Apache-2.0
//! What the reader gives.

use std::ops::Range;

use crate::frame::Header;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A DATA frame begins: `flow` bytes count for the windows, `data` of them are the app's.
    Begin {
        stream: u32,
        flow: u32,
        data: u32,
        end: bool,
    },
    /// Bytes of that frame; `last` once per frame, when all of it (and its padding) came.
    Chunk { range: Range<usize>, last: bool },
    /// A complete header block.
    Headers {
        stream: u32,
        end: bool,
        block: &'a [u8],
    },
    /// Any other complete frame.
    Frame { header: Header, payload: &'a [u8] },
    /// Part of a header block whose rest is to come.
    Fragment,
    /// A frame of a type that we do not know; it is skipped.
    Unknown,
}
