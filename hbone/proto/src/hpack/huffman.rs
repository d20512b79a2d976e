// SPDX-License-Identifier: Apache-2.0
//! The Huffman code of RFC 7541 appendix B, for decoding.
//!
//! The code is canonical (ordered by length, then by symbol), so the lengths alone define it. A table
//! of 256 finds the codes of up to 8 bits (all that text commonly uses) in one step.

/// Code length of every symbol, and of EOS at 256.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const EOS: u16 = 256;
const LONGEST: usize = 30;

struct Code {
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
    /// Per length: the first code value behind all codes of that length, left-aligned in 32 bits.
    /// 64 bits wide because the last one is 2^32.
    limit: [u64; LONGEST + 1],
    /// Per length: the first code of it (left-aligned), and its place in `symbols`.
    first: [u64; LONGEST + 1],
    place: [u16; LONGEST + 1],
    /// Per leading byte: symbol and length, or length 0 if the code is longer than 8 bits.
    short: [(u8, u8); 256],
}

static CODE: Code = build();

const fn build() -> Code {
    let mut code = Code {
        symbols: [0; 257],
        limit: [0; LONGEST + 1],
        first: [0; LONGEST + 1],
        place: [0; LONGEST + 1],
        short: [(0, 0); 256],
    };
    let mut next: u64 = 0;
    let mut place = 0;
    let mut length = 1;
    while length <= LONGEST {
        code.first[length] = next;
        code.place[length] = place as u16;
        let step = 1u64 << (32 - length);
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                code.symbols[place] = symbol as u16;
                if length <= 8 {
                    let from = (next >> 24) as usize;
                    let mut i = 0;
                    while i < (step >> 24) as usize {
                        code.short[from + i] = (symbol as u8, length as u8);
                        i += 1;
                    }
                }
                place += 1;
                next += step;
            }
            symbol += 1;
        }
        code.limit[length] = next;
        length += 1;
    }
    code
}

/// Appends the decoded bytes. `None` if the code is broken: EOS inside, or padding that is longer than
/// 7 bits or not all ones (RFC 7541 section 5.2). Output is at most 8/5 of the input.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut bytes = input.iter();
    let mut window: u64 = 0;
    let mut bits: u32 = 0;
    loop {
        while bits <= 56 {
            let Some(&byte) = bytes.next() else { break };
            window |= u64::from(byte) << (56 - bits);
            bits += 8;
        }
        if bits == 0 {
            return Some(());
        }
        let mut word = (window >> 32) as u32;
        if bits < 32 {
            word |= u32::MAX >> bits;
        }
        let (symbol, length) = lookup(word);
        if symbol == EOS || length > bits {
            return (bits < 8 && word == u32::MAX).then_some(());
        }
        out.push(symbol as u8);
        window <<= length;
        bits -= length;
    }
}

fn lookup(word: u32) -> (u16, u32) {
    let (symbol, length) = CODE.short[(word >> 24) as usize];
    if length > 0 {
        return (u16::from(symbol), u32::from(length));
    }
    let word = u64::from(word);
    for length in 9..=LONGEST {
        if word < CODE.limit[length] {
            let offset = (word - CODE.first[length]) >> (32 - length);
            let place = usize::from(CODE.place[length]) + offset as usize;
            return (CODE.symbols[place], length as u32);
        }
    }
    (EOS, LONGEST as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(hex: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(&super::super::tests::hex(hex), &mut out).map(|()| out)
    }

    #[test]
    fn text_of_the_rfc() {
        assert_eq!(
            decoded("f1e3 c2e5 f23a 6ba0 ab90 f4ff").unwrap(),
            b"www.example.com"
        );
        assert_eq!(decoded("25a8 49e9 5ba9 7d7f").unwrap(), b"custom-key");
        assert_eq!(decoded("").unwrap(), b"");
    }

    #[test]
    fn broken_padding_is_refused() {
        assert_eq!(decoded("ff"), None, "8 bits of padding");
        assert_eq!(decoded("00"), None, "zeros as padding"); // '0' takes 5 bits, 000 is left
        assert_eq!(decoded("07").unwrap(), b"0");
        assert_eq!(decoded("ffff ffff"), None, "EOS");
    }

    #[test]
    fn every_symbol_survives_an_independent_encoder() {
        let all: Vec<u8> = (0..=255).collect();
        let mut bits = String::new();
        for &symbol in &all {
            let length = usize::from(LENGTHS[usize::from(symbol)]);
            let index = CODE
                .symbols
                .iter()
                .position(|&s| s == u16::from(symbol))
                .unwrap();
            let rank = index - usize::from(CODE.place[length]);
            let code = (CODE.first[length] >> (32 - length)) + rank as u64;
            bits.push_str(&format!("{code:0length$b}"));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let packed: Vec<u8> = (0..bits.len() / 8)
            .map(|i| u8::from_str_radix(&bits[i * 8..i * 8 + 8], 2).unwrap())
            .collect();
        let mut out = Vec::new();
        decode(&packed, &mut out).unwrap();
        assert_eq!(out, all);
        let theirs = loona_hpack::huffman::HuffmanDecoder::new()
            .decode(&packed)
            .unwrap();
        assert_eq!(theirs, all);
    }
}
