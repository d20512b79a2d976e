// SPDX-License-Identifier: Apache-2.0
//! HPACK (RFC 7541): full decoding; encoding of our few fields without a dynamic table.
//!
//! Written here because the crates that fit a sans-I/O core build their Huffman table anew for every
//! string (on the path of every CONNECT) or copy the rest of the block for every field.
//! One of them (`loona-hpack`) is the independent other side in the tests.

mod decode;
mod encode;
mod huffman;
mod table;

pub use decode::{Decoder, HpackError, Outcome};
pub use encode::Encoder;
pub use table::ENTRY_OVERHEAD;

#[cfg(test)]
pub(crate) mod tests;
