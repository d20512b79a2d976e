// SPDX-License-Identifier: Apache-2.0
//! Encoding header blocks: static names, raw values, nothing remembered.
//!
//! A dynamic table would save some 200 bytes per CONNECT and cost the peer 4 KiB per tunnel and both
//! sides a search; against a handshake's worth of bytes per tunnel it does not pay.

use super::table::ENTRY_OVERHEAD;

const INDEX_AUTHORITY: u8 = 1;
const INDEX_METHOD: u8 = 2;
const INDEX_STATUS: u8 = 8;
/// `:status: 200`, fully indexed.
const STATUS_200: u8 = 0x88;
/// A dynamic table size update to 0.
const TABLE_SIZE_ZERO: u8 = 0x20;

/// Writes one header block and counts its list size as the peer will.
#[derive(Debug)]
pub struct Encoder<'a> {
    block: &'a mut Vec<u8>,
    list_size: usize,
}

impl<'a> Encoder<'a> {
    /// Starts an empty block. `shrink`: the peer lowered its table size since our last block, which
    /// must be acknowledged in the block (RFC 7541 section 4.2).
    pub fn new(block: &'a mut Vec<u8>, shrink: bool) -> Self {
        block.clear();
        if shrink {
            block.push(TABLE_SIZE_ZERO);
        }
        Self {
            block,
            list_size: 0,
        }
    }

    /// `:method: CONNECT` and `:authority`.
    pub fn connect(&mut self, authority: &str) {
        self.indexed_name(INDEX_METHOD, ":method", b"CONNECT");
        self.indexed_name(INDEX_AUTHORITY, ":authority", authority.as_bytes());
    }

    /// `:status`, three digits.
    pub fn status(&mut self, status: u16) {
        if status == 200 {
            self.block.push(STATUS_200);
            self.list_size += ":status".len() + 3 + ENTRY_OVERHEAD;
            return;
        }
        let digits = [status / 100, status / 10 % 10, status % 10].map(|d| b'0' + (d % 10) as u8);
        self.indexed_name(INDEX_STATUS, ":status", &digits);
    }

    /// Any other field; `name` in lower case.
    pub fn field(&mut self, name: &str, value: &str) {
        self.block.push(0);
        self.string(name.as_bytes());
        self.string(value.as_bytes());
        self.list_size += name.len() + value.len() + ENTRY_OVERHEAD;
    }

    /// The list size so far, with 32 bytes per field.
    pub fn list_size(&self) -> usize {
        self.list_size
    }

    fn indexed_name(&mut self, index: u8, name: &str, value: &[u8]) {
        self.block.push(index);
        self.string(value);
        self.list_size += name.len() + value.len() + ENTRY_OVERHEAD;
    }

    fn string(&mut self, text: &[u8]) {
        const MASK: usize = 0x7f;
        if text.len() < MASK {
            self.block.push(text.len() as u8);
        } else {
            self.block.push(MASK as u8);
            let mut rest = text.len() - MASK;
            while rest >= 0x80 {
                self.block.push((rest & MASK) as u8 | 0x80);
                rest >>= 7;
            }
            self.block.push(rest as u8);
        }
        self.block.extend_from_slice(text);
    }
}
