// SPDX-License-Identifier: Apache-2.0
//! Header blocks, several on one decoder, so that its table is in every state.
//!
//! Input: table size, limit of the list, then blocks, each behind a length of two bytes.
//! Held: no panic; fields given stay below the limit; an independent decoder that accepts what we
//! accept reads the same; what was decoded survives our encoder.
#![no_main]

use hbone_fuzz::Input;
use hbone_proto::hpack::{Decoder, ENTRY_OVERHEAD, Encoder, Outcome};
use libfuzzer_sys::fuzz_target;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn decode(decoder: &mut Decoder, block: &[u8], limit: usize) -> Option<(Outcome, Fields)> {
    let mut fields = Vec::new();
    let outcome = decoder
        .decode(block, limit, |n, v| fields.push((n.to_vec(), v.to_vec())))
        .ok()?;
    let size: usize = fields
        .iter()
        .map(|(n, v)| n.len() + v.len() + ENTRY_OVERHEAD)
        .sum();
    assert!(size <= limit, "{size} of {limit}");
    Some((outcome, fields))
}

/// Our encoder writes text only.
fn survives(fields: &Fields) {
    let texts = fields
        .iter()
        .map(|(n, v)| Some((std::str::from_utf8(n).ok()?, std::str::from_utf8(v).ok()?)));
    let Some(texts) = texts.collect::<Option<Vec<_>>>() else {
        return;
    };
    let mut block = Vec::new();
    let mut encoder = Encoder::new(&mut block, false);
    texts.iter().for_each(|(n, v)| encoder.field(n, v));
    let again = decode(&mut Decoder::new(0), &block, usize::MAX);
    assert_eq!(again, Some((Outcome::Complete, fields.clone())));
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let table = [0, 64, 200, 4096][usize::from(input.byte() & 3)];
    let limit = [100, 1000, 65_536, usize::MAX][usize::from(input.byte() & 3)];
    let mut ours = Decoder::new(table);
    let mut theirs = loona_hpack::Decoder::new();
    theirs.set_max_allowed_table_size(table);
    while !input.is_empty() {
        let length = usize::from(input.word());
        let block = input.take(length);
        let Some((outcome, fields)) = decode(&mut ours, block, limit) else {
            return;
        };
        survives(&fields);
        if table == 4096 {
            // Its table begins with the default size, whatever is allowed.
            let read: Fields = match theirs.decode(block) {
                Ok(read) => read
                    .into_iter()
                    .map(|(n, v)| (n.to_vec(), v.to_vec()))
                    .collect(),
                // A block of nothing but size updates is no message; they say so sooner than we.
                Err(loona_hpack::decoder::DecoderError::SizeUpdateAtEnd) => return,
                Err(error) => panic!("only we accept it: {error:?}"),
            };
            assert_eq!(outcome == Outcome::Complete, fields.len() == read.len());
            assert_eq!(fields[..], read[..fields.len()]);
        }
    }
});
