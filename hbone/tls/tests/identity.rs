// SPDX-License-Identifier: Apache-2.0
//! SPIFFE IDs as text.

use hbone_tls::{ExpectedPeers, IdentityError, SpiffeId};
use proptest::prelude::*;

#[test]
fn the_parts_of_an_id() {
    let id: SpiffeId = "spiffe://cluster.local/ns/my-shop/sa/web.v1_X"
        .parse()
        .unwrap();
    assert_eq!(id.trust_domain(), "cluster.local");
    assert_eq!(id.namespace(), "my-shop");
    assert_eq!(id.service_account(), "web.v1_X");
    assert_eq!(id.as_str(), "spiffe://cluster.local/ns/my-shop/sa/web.v1_X");
    assert_eq!(format!("{id} {id:?}").matches(id.as_str()).count(), 2);
}

#[test]
fn what_is_not_an_id_is_refused_with_its_problem() {
    for (text, words) in [
        ("", "begin with spiffe"),
        ("https://td/ns/a/sa/b", "begin with spiffe"),
        ("SPIFFE://td/ns/a/sa/b", "begin with spiffe"),
        ("spiffe://td", "fewer"),
        ("spiffe://td/ns/a/sa", "fewer"),
        ("spiffe://td/ns/a/sa/b/", "more"),
        ("spiffe://td/ns/a/sa/b/c", "more"),
        ("spiffe://td/sa/a/ns/b", "path"),
        ("spiffe://td/NS/a/sa/b", "path"),
        ("spiffe:///ns/a/sa/b", "trust domain"),
        ("spiffe://TD/ns/a/sa/b", "trust domain"),
        ("spiffe://td:1/ns/a/sa/b", "trust domain"),
        ("spiffe://u@td/ns/a/sa/b", "trust domain"),
        ("spiffe://td/ns//sa/b", "part"),
        ("spiffe://td/ns/a/sa/", "part"),
        ("spiffe://td/ns/../sa/b", "part"),
        ("spiffe://td/ns/a/sa/b?q", "part"),
        ("spiffe://td/ns/a/sa/b%2e", "part"),
        ("spiffe://td/ns/ä/sa/b", "part"),
    ] {
        let error = SpiffeId::parse(text).unwrap_err();
        assert!(error.to_string().contains(words), "{text}: {error}");
    }
    let long = format!("spiffe://td/ns/a/sa/{}", "b".repeat(2048));
    let error = SpiffeId::parse(&long).unwrap_err();
    assert!(
        matches!(&error, IdentityError::Malformed { uri, .. } if uri.len() < 300),
        "{error}"
    );
}

#[test]
fn control_characters_do_not_reach_the_log() {
    let error = SpiffeId::parse("spiffe://td\n/ns/a/sa/\u{1b}[31m").unwrap_err();
    assert!(!error.to_string().contains(['\n', '\u{1b}']));
}

#[test]
fn an_expectation_lists_its_identities() {
    let id = SpiffeId::parse("spiffe://td/ns/a/sa/b").unwrap();
    assert_eq!(ExpectedPeers::from(id.clone()).ids(), [id]);
}

proptest! {
    #[test]
    fn parsing_any_text_returns(text in ".*") {
        let _ = SpiffeId::parse(&text);
    }

    #[test]
    fn the_parts_make_up_the_whole(td in "[a-z0-9._-]{1,20}", ns in "[a-z][A-Za-z0-9._-]{0,20}",
                                   sa in "[a-z][A-Za-z0-9._-]{0,20}") {
        let text = format!("spiffe://{td}/ns/{ns}/sa/{sa}");
        let id = SpiffeId::parse(&text).unwrap();
        prop_assert_eq!((id.trust_domain(), id.namespace(), id.service_account(), id.as_str()),
                        (&*td, &*ns, &*sa, &*text));
    }
}
