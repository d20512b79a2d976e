// SPDX-License-Identifier: Apache-2.0
//! The 9-byte frame header (RFC 9113 section 4.1), frame types and flags.

/// Bytes of a frame header.
pub const HEADER_LEN: usize = 9;
/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest frame that everybody takes (RFC 9113 section 4.2).
pub const DEFAULT_MAX_FRAME: u32 = 16_384;

/// Frame types (RFC 9113 section 6).
pub mod kind {
    #![allow(missing_docs)]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags; the meaning of a bit depends on the type.
pub mod flag {
    #![allow(missing_docs)]
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes behind the header, 24 bits.
    pub length: u32,
    /// One of [`kind`], or unknown.
    pub kind: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Stream id without the reserved bit; 0 is the connection.
    pub stream: u32,
}

impl Header {
    /// Reads a header.
    pub const fn decode(b: &[u8; HEADER_LEN]) -> Self {
        Self {
            length: u32::from_be_bytes([0, b[0], b[1], b[2]]),
            kind: b[3],
            flags: b[4],
            stream: u32::from_be_bytes([b[5], b[6], b[7], b[8]]) & 0x7fff_ffff,
        }
    }

    /// Writes a header. The length must fit 24 bits.
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        debug_assert!(self.length < 1 << 24);
        let l = self.length.to_be_bytes();
        let s = self.stream.to_be_bytes();
        [
            l[1], l[2], l[3], self.kind, self.flags, s[0], s[1], s[2], s[3],
        ]
    }

    /// Whether a flag is set.
    pub const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a whole frame.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = payload.len() as u32;
    out.extend_from_slice(
        &Header {
            length,
            kind,
            flags,
            stream,
        }
        .encode(),
    );
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives() {
        let header = Header {
            length: 0x01_02_03,
            kind: 9,
            flags: 5,
            stream: 0x7fff_fffe,
        };
        assert_eq!(header.encode(), [1, 2, 3, 9, 5, 0x7f, 0xff, 0xff, 0xfe]);
        assert_eq!(Header::decode(&header.encode()), header);
        let mut reserved = header.encode();
        reserved[5] |= 0x80;
        assert_eq!(Header::decode(&reserved), header);
    }
}
