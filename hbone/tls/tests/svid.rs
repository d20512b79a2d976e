// SPDX-License-Identifier: Apache-2.0
//! Material that would make handshakes fail later is refused at once, naming the field.

mod common;

use std::slice;

use common::{Ca, Material, SERVER, id};
use hbone_tls::{Svid, SvidError};
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};

fn build(material: &Material, roots: &[Vec<u8>]) -> Result<Svid, SvidError> {
    Svid::new(&material.chain, &material.key, roots)
}

#[track_caller]
fn assert_refused(material: &Material, roots: &[Vec<u8>], field: &str, words: &str) {
    let error = build(material, roots).unwrap_err();
    assert_eq!(error.field, field, "{error}");
    assert!(error.problem.contains(words), "{error}");
}

#[test]
fn good_material_is_accepted_and_never_printed() {
    let ca = Ca::new("cluster.local");
    let svid = build(&ca.issue(&[SERVER]), slice::from_ref(&ca.der)).unwrap();
    assert_eq!(svid.id(), &id(SERVER));
    assert_eq!(
        format!("{svid:?}"),
        format!("Svid {{ id: SpiffeId({SERVER}), .. }}")
    );
}

#[test]
fn several_roots_may_be_given_in_any_order() {
    let (ca, next) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
    let material = ca.issue(&[SERVER]);
    build(&material, &[next.der.clone(), ca.der.clone()]).unwrap();
}

#[test]
fn what_is_missing_or_not_der_is_named() {
    let ca = Ca::new("cluster.local");
    let roots = [ca.der.clone()];
    let good = ca.issue(&[SERVER]);
    let chain = |chain| Material {
        chain,
        key: good.key.clone(),
    };
    assert_refused(&chain(vec![]), &roots, "chain", "no certificate");
    assert_refused(&chain(vec![b"junk".to_vec()]), &roots, "chain[0]", "DER");
    let with_junk = chain(vec![good.chain[0].clone(), b"junk".to_vec()]);
    assert_refused(&with_junk, &roots, "chain[1]", "DER");
    assert_refused(&good, &[], "roots", "none");
    assert_refused(
        &good,
        &[ca.der.clone(), b"junk".to_vec()],
        "roots[1]",
        "DER",
    );
}

#[test]
fn a_wrong_key_is_named() {
    let ca = Ca::new("cluster.local");
    let roots = [ca.der.clone()];
    let good = ca.issue(&[SERVER]);
    let key = |key: Vec<u8>| Material {
        chain: good.chain.clone(),
        key,
    };
    assert_refused(&key(b"junk".to_vec()), &roots, "private_key", "PKCS#8");
    assert_refused(
        &key(ca.issue(&[SERVER]).key),
        &roots,
        "private_key",
        "not the key of the leaf",
    );
}

#[test]
fn a_leaf_that_peers_would_refuse_is_named() {
    let ca = Ca::new("cluster.local");
    let roots = [ca.der.clone()];
    let expired = ca.issue_with(&[SERVER], |p| p.not_after = date_time_ymd(2020, 1, 1));
    assert_refused(&expired, &roots, "chain[0]", "expired");
    let early = ca.issue_with(&[SERVER], |p| p.not_before = date_time_ymd(2900, 1, 1));
    assert_refused(&early, &roots, "chain[0]", "valid only in");
    assert_refused(
        &Ca::new("else").issue(&[SERVER]),
        &roots,
        "chain[0]",
        "vouches",
    );
    assert_refused(&ca.issue(&[]), &roots, "chain[0]", "no URI name");
    let client_only = ca.issue_with(&[SERVER], |p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_refused(&client_only, &roots, "chain[0]", "server authentication");
}

#[test]
fn a_missing_intermediate_is_noticed() {
    let root = Ca::new("root");
    let middle = root.intermediate("middle");
    let mut material = middle.issue(&[SERVER]);
    assert_refused(
        &material,
        slice::from_ref(&root.der),
        "chain[0]",
        "intermediate may be missing",
    );
    material.chain.push(middle.der.clone());
    build(&material, slice::from_ref(&root.der)).unwrap();
}
