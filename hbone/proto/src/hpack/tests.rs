// SPDX-License-Identifier: Apache-2.0
//! The vectors of RFC 7541 appendix C, an independent encoder, and hostile bytes.

use super::*;
use proptest::prelude::*;

type Fields = Vec<(String, String)>;

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, HpackError> {
    let mut fields = Vec::new();
    decoder.decode(block, usize::MAX, |n, v| {
        fields.push((
            String::from_utf8_lossy(n).into_owned(),
            String::from_utf8_lossy(v).into_owned(),
        ));
    })?;
    Ok(fields)
}

/// A block, the fields it must give, and the size of the table after it.
type Step<'a> = (&'a str, &'a [(&'a str, &'a str)], usize);

fn story(table: usize, blocks: &[Step<'_>]) {
    let mut decoder = Decoder::new(table);
    for (block, expected, size) in blocks {
        let got = decode(&mut decoder, &hex(block)).unwrap();
        let expected: Fields = expected
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(got, expected);
        assert_eq!(decoder.table_size(), *size);
    }
}

impl Decoder {
    fn table_size(&self) -> usize {
        self.table_for_tests().size()
    }
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
];

#[test]
fn c2_single_fields() {
    story(
        4096,
        &[(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            &[("custom-key", "custom-header")],
            55,
        )],
    );
    story(
        4096,
        &[(
            "040c 2f73 616d 706c 652f 7061 7468",
            &[(":path", "/sample/path")],
            0,
        )],
    );
    story(
        4096,
        &[(
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            &[("password", "secret")],
            0,
        )],
    );
    story(4096, &[("82", &[(":method", "GET")], 0)]);
}

fn second() -> Vec<(&'static str, &'static str)> {
    let mut fields = GET.to_vec();
    fields.push(("cache-control", "no-cache"));
    fields
}

const THIRD: [(&str, &str); 5] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

#[test]
fn c3_requests_without_huffman() {
    story(
        4096,
        &[
            (
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                &GET,
                57,
            ),
            ("8286 84be 5808 6e6f 2d63 6163 6865", &second(), 110),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                &THIRD,
                164,
            ),
        ],
    );
}

#[test]
fn c4_requests_with_huffman() {
    story(
        4096,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &GET, 57),
            ("8286 84be 5886 a8eb 1064 9cbf", &second(), 110),
            (
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                &THIRD,
                164,
            ),
        ],
    );
}

const FIRST_ANSWER: [(&str, &str); 4] = [
    (":status", "302"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("location", "https://www.example.com"),
];

fn second_answer() -> Vec<(&'static str, &'static str)> {
    let mut fields = FIRST_ANSWER.to_vec();
    fields[0].1 = "307";
    fields
}

const THIRD_ANSWER: [(&str, &str); 6] = [
    (":status", "200"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
    ("location", "https://www.example.com"),
    ("content-encoding", "gzip"),
    (
        "set-cookie",
        "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ),
];

#[test]
fn c5_answers_with_eviction() {
    story(
        256,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
             2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
             6c65 2e63 6f6d",
                &FIRST_ANSWER,
                222,
            ),
            ("4803 3330 37c1 c0bf", &second_answer(), 222),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
             54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
             5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
             3d31",
                &THIRD_ANSWER,
                215,
            ),
        ],
    );
}

#[test]
fn c6_answers_with_huffman_and_eviction() {
    story(
        256,
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                &FIRST_ANSWER,
                222,
            ),
            ("4883 640e ffc1 c0bf", &second_answer(), 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
             77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
             9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                &THIRD_ANSWER,
                215,
            ),
        ],
    );
}

#[test]
fn broken_blocks_have_their_names() {
    for (block, error) in [
        ("80", HpackError::BadIndex),
        ("ff ff ff ff ff 0f", HpackError::BadInteger),
        ("ff", HpackError::Truncated),
        ("be", HpackError::BadIndex),
        ("3fe2 1f", HpackError::BadSizeUpdate),
        ("82 20", HpackError::BadSizeUpdate),
        ("00 05 61", HpackError::Truncated),
        ("00 81ff 00", HpackError::BadHuffman),
        ("41", HpackError::Truncated),
    ] {
        assert_eq!(
            decode(&mut Decoder::new(4096), &hex(block)),
            Err(error),
            "{block}"
        );
    }
    assert_eq!(
        decode(&mut Decoder::new(4096), &hex("20 3fe1 1f 82"))
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_field_may_fill_the_table_to_the_last_byte() {
    let field = hex("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572");
    for (room, kept) in [(54, 0), (55, 55), (109, 55), (110, 110)] {
        let mut decoder = Decoder::new(room);
        decode(&mut decoder, &field).unwrap();
        decode(&mut decoder, &field).unwrap();
        assert_eq!(decoder.table_size(), kept);
    }
}

#[test]
fn a_bomb_is_counted_and_not_stored() {
    let mut decoder = Decoder::new(4096);
    let mut block = vec![0x40, 1, b'a', 0x7f, 0x80 + ((3873 - 127) & 0x7f) as u8];
    block.push(((3873usize - 127) >> 7) as u8);
    block.extend(std::iter::repeat_n(b'x', 3873));
    block.extend(std::iter::repeat_n(0xbe, 10_000));
    let mut given = 0;
    let outcome = decoder
        .decode(&block, 65_536, |_, v| given += v.len())
        .unwrap();
    assert_eq!(outcome, Outcome::TooLarge);
    assert!(given <= 65_536);
    // The table is intact for the next block.
    assert_eq!(decode(&mut decoder, &[0xbe]).unwrap()[0].1.len(), 3873);
}

#[test]
fn our_blocks_are_read_by_others() {
    let mut block = Vec::new();
    let long = "k".repeat(300);
    let mut encoder = Encoder::new(&mut block, true);
    encoder.connect("10.1.2.3:80");
    encoder.field("baggage", &long);
    let size = encoder.list_size();
    let fields = loona_hpack::Decoder::new().decode(&block).unwrap();
    assert_eq!(fields.len(), 3);
    assert_eq!(fields[0], (b":method".to_vec(), b"CONNECT".to_vec()));
    assert_eq!(fields[1], (b":authority".to_vec(), b"10.1.2.3:80".to_vec()));
    assert_eq!(fields[2].1, long.as_bytes());
    assert_eq!(
        size,
        fields
            .iter()
            .map(|(n, v)| n.len() + v.len() + 32)
            .sum::<usize>()
    );
    for status in [200, 400, 401, 503] {
        let mut encoder = Encoder::new(&mut block, false);
        encoder.status(status);
        let fields = loona_hpack::Decoder::new().decode(&block).unwrap();
        assert_eq!(
            fields,
            [(b":status".to_vec(), status.to_string().into_bytes())]
        );
    }
}

proptest! {
    #[test]
    fn hostile_blocks_never_panic(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8)) {
        let mut decoder = Decoder::new(4096);
        for block in blocks {
            if decoder.decode(&block, 1000, |_, _| {}).is_err() {
                break;
            }
            prop_assert!(decoder.table_size() <= 4096);
        }
    }

    #[test]
    fn another_encoder_is_understood(lists in prop::collection::vec(
        prop::collection::vec(("[a-z-]{1,20}", "[ -~]{0,300}"), 0..12), 1..12)) {
        let mut theirs = loona_hpack::Encoder::new();
        let mut ours = Decoder::new(4096);
        for list in lists {
            let block = theirs.encode(list.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
            prop_assert_eq!(decode(&mut ours, &block).unwrap(), list);
        }
    }
}
