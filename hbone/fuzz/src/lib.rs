// SPDX-License-Identifier: Apache-2.0
//! What the fuzz targets share.
#![forbid(unsafe_code)]

pub mod certificates;
pub mod script;

/// What the tests of hbone-tls share: an independent peer, records.
#[path = "../../tls/tests/common/mod.rs"]
pub mod tls;

/// Reads choices off a fuzz input; zero once it is used up.
#[derive(Debug, Clone)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    /// Two bytes, big end first.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// So many bytes, or what is left.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Cuts bytes into pieces whose lengths follow from `seed`, so that every split is reproducible.
pub fn cut(mut bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = u32::from(seed) | 0x100;
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Mostly tiny: headers and padding are what a split can go through.
        let most = [1, 3, 9, 40, 400][(state >> 24) as usize % 5];
        let n = 1 + (state >> 8) as usize % most;
        let (piece, rest) = bytes.split_at(n.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
