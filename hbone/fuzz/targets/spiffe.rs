// SPDX-License-Identifier: Apache-2.0
//! Identities: as text, and in certificates of which parts or all are arbitrary.
//!
//! Input: a byte of kind, then text, a list of names, the content of the names' extension, a whole
//! certificate, or edits of a good one.
//! Held: no panic; an identity that is accepted stands in the certificate byte for byte, alone, takes
//! itself apart and together again, and is one of those expected.
#![no_main]

use std::cell::LazyCell;

use hbone_fuzz::Input;
use hbone_fuzz::certificates::{CLIENT, Ca, SERVER, id};
use hbone_tls::{ExpectedPeers, SpiffeId, fuzzing};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static CA: LazyCell<Ca> = LazyCell::new(Ca::default);
}

fn text(text: &str) -> Option<SpiffeId> {
    let id = match SpiffeId::parse(text) {
        Ok(id) => id,
        Err(error) => {
            let sentence = error.to_string();
            assert!(!sentence.contains(char::is_control), "{sentence:?}");
            return None;
        }
    };
    let (domain, namespace, account) = (id.trust_domain(), id.namespace(), id.service_account());
    assert_eq!(
        format!("spiffe://{domain}/ns/{namespace}/sa/{account}"),
        text
    );
    assert!(text.len() <= 2048 && !text.contains("//ns") && !text.contains("/../"));
    Some(id)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|part| part == needle)
}

fn certificate(der: &[u8]) {
    let uris = fuzzing::uris(der);
    if let Ok(uris) = &uris {
        assert!(uris.iter().all(|uri| contains(der, uri.as_bytes())));
    }
    let valid = match uris.as_deref() {
        Ok([only]) => text(only),
        _ => None,
    };
    assert_eq!(fuzzing::identity(der).ok(), valid);
    fuzzing::allows_tls(der);
    let expected = ExpectedPeers::any_of([id(CLIENT), id(SERVER)]);
    match fuzzing::find(&expected, der) {
        Ok(found) => {
            assert!(uris.is_ok_and(|uris| uris == [found.as_str()]));
            assert!(expected.ids().contains(&found));
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let kind = input.byte();
    CA.with(|ca| match kind % 5 {
        0 => {
            if let Ok(words) = std::str::from_utf8(input.0) {
                text(words);
            }
        }
        1 => {
            let names = String::from_utf8_lossy(input.0).into_owned();
            if let Some(der) = ca.leaf(&names.split('\n').collect::<Vec<_>>()) {
                certificate(&der);
            }
        }
        2 => certificate(&ca.leaf_with_raw_names(input.0)),
        3 => certificate(input.0),
        _ => {
            let mut der = ca.leaf(&[SERVER]).expect("a leaf");
            while !input.is_empty() {
                let at = usize::from(input.word()) % der.len();
                der[at] ^= input.byte();
            }
            certificate(&der);
        }
    });
});
