// SPDX-License-Identifier: Apache-2.0
//! Decoding header blocks.

use super::huffman;
use super::table::{ENTRY_OVERHEAD, Table};

/// A block that cannot be decoded. The shared state is lost, so the connection is too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HpackError {
    /// The block ends inside a field.
    Truncated,
    /// An index that neither table has.
    BadIndex,
    /// An integer beyond any sense (RFC 7541 section 5.1).
    BadInteger,
    /// A broken Huffman string.
    BadHuffman,
    /// A table size update above what we allow, or behind a field.
    BadSizeUpdate,
}

/// How decoding a whole block went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every field was given.
    Complete,
    /// The list exceeded the limit; fields beyond it were decoded (to keep the table) but not given.
    TooLarge,
}

/// Decoder of one direction of one connection.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    allowed: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// `allowed` is the table size in our SETTINGS (4096 unless sent).
    pub fn new(allowed: usize) -> Self {
        Self {
            table: Table::new(allowed),
            allowed,
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Gives each field of `block` to `field` until the list, counted with 32 bytes per field
    /// (RFC 9113 section 6.5.2), exceeds `limit`.
    ///
    /// # Errors
    /// If the block breaks HPACK; the decoder must not be used again.
    pub fn decode(
        &mut self,
        block: &[u8],
        limit: usize,
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<Outcome, HpackError> {
        let mut rest = block;
        let mut size = 0usize;
        let mut give = |name: &[u8], value: &[u8]| {
            size = size.saturating_add(name.len() + value.len() + ENTRY_OVERHEAD);
            if size <= limit {
                field(name, value);
            }
        };
        let mut begun = false;
        while let Some(&first) = rest.first() {
            if first & 0xe0 == 0x20 {
                // A size update, and only before the first field (RFC 7541 section 4.2).
                let max = integer(&mut rest, 5)?;
                if begun || max > self.allowed {
                    return Err(HpackError::BadSizeUpdate);
                }
                self.table.set_max(max);
                continue;
            }
            begun = true;
            if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                let (name, value) = self.table.get(index).ok_or(HpackError::BadIndex)?;
                give(name, value);
                continue;
            }
            let remember = first & 0x40 != 0;
            self.literal(&mut rest, if remember { 6 } else { 4 })?;
            give(&self.name, &self.value);
            if remember {
                self.table.insert(&self.name, &self.value);
            }
        }
        self.trim();
        Ok(if size <= limit {
            Outcome::Complete
        } else {
            Outcome::TooLarge
        })
    }

    /// Reads a literal field into `name` and `value`.
    fn literal(&mut self, rest: &mut &[u8], prefix: u32) -> Result<(), HpackError> {
        let index = integer(rest, prefix)?;
        self.name.clear();
        if index == 0 {
            string(rest, &mut self.name)?;
        } else {
            let (name, _) = self.table.get(index).ok_or(HpackError::BadIndex)?;
            self.name.extend_from_slice(name);
        }
        self.value.clear();
        string(rest, &mut self.value)
    }

    #[cfg(test)]
    pub(super) fn table_for_tests(&self) -> &Table {
        &self.table
    }

    /// One huge field must not hold its memory for the life of an idle tunnel.
    fn trim(&mut self) {
        const KEEP: usize = 4096;
        for buffer in [&mut self.name, &mut self.value] {
            if buffer.capacity() > KEEP {
                *buffer = Vec::new();
            }
        }
    }
}

/// RFC 7541 section 5.1. Values need at most 28 bits here; five bytes are the most that are read.
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, HpackError> {
    let (&first, mut tail) = rest.split_first().ok_or(HpackError::Truncated)?;
    let mask = (1usize << prefix) - 1;
    let mut value = usize::from(first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (&byte, next) = tail.split_first().ok_or(HpackError::Truncated)?;
            tail = next;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(HpackError::BadInteger);
            }
        }
    }
    *rest = tail;
    Ok(value)
}

/// RFC 7541 section 5.2.
fn string(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let coded = rest.first().ok_or(HpackError::Truncated)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (text, tail) = rest.split_at_checked(length).ok_or(HpackError::Truncated)?;
    *rest = tail;
    if coded {
        huffman::decode(text, out).ok_or(HpackError::BadHuffman)
    } else {
        out.extend_from_slice(text);
        Ok(())
    }
}
