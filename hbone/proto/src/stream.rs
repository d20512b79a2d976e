// SPDX-License-Identifier: Apache-2.0
//! One stream: its two halves, windows and the caller's mark.

/// Names one stream of one connection. It holds the place in a slab and the stream id, so that a key
/// kept too long never names the stream that took the place later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamKey {
    pub(crate) index: u32,
    pub(crate) id: u32,
}

impl StreamKey {
    /// The HTTP/2 stream id, for logs.
    pub const fn id(self) -> u32 {
        self.id
    }
}
