// SPDX-License-Identifier: Apache-2.0
//! Another client than ours at the HBONE port, that keeps the rules.

mod common;
#[path = "common/raw.rs"]
#[allow(dead_code, reason = "shared with the hostile peers")]
mod raw;

use common::*;
use hbone_proto::{ErrorCode, Event};
use raw::Client;
use std::io::{Read, Write};
use std::net::SocketAddr;

#[test]
fn data_may_come_in_the_record_of_its_connect() {
    let pair = Pair::new();
    let mut client = Client::connect(&pair);
    let key = client.open(pair.app.local_addr().unwrap());
    let early = client.frame(key, b"early, and all of it", true);
    client.send(&early);
    let (mut far, _) = pair.app.accept().unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    far.read_to_string(&mut text).unwrap();
    assert_eq!(text, "early, and all of it");
    far.write_all(b"thanks").unwrap();
    drop(far);
    client.wait_status(200);
    client.wait(|event| matches!(event, Event::Data { end: true, .. }));
    assert_eq!(client.data, b"thanks");
    assert_eq!(wait_closed(&pair.server).bytes_received, 20);
}

#[test]
fn a_connect_that_is_reset_in_its_own_record_dials_nobody() {
    let pair = Pair::new();
    let mut client = Client::connect(&pair);
    let first = client.open(pair.app.local_addr().unwrap());
    let early = client.frame(first, b"never mind", false);
    // RST_STREAM comes behind the DATA.
    let mut wire = [client.h2.control(), &early].concat();
    client.h2.control_taken(client.h2.control().len());
    client.h2.reset(first, ErrorCode::CANCEL);
    wire.extend_from_slice(client.h2.control());
    client.h2.control_taken(client.h2.control().len());
    client.send(&wire);
    // The next is served as if nothing had been.
    client.open(pair.app.local_addr().unwrap());
    client.send(&[]);
    client.wait_status(200);
    assert_eq!(pair.server.connections().unwrap().len(), 1);
    pair.app.accept().unwrap();
    pair.app.set_nonblocking(true).unwrap();
    assert!(pair.app.accept().is_err(), "the first was dialled");
}

#[test]
fn an_authority_must_be_the_address_that_was_dialled() {
    let pair = Pair::new();
    let mut client = Client::connect(&pair);
    let port = pair.app.local_addr().unwrap().port();
    client.open(SocketAddr::new(CLIENT_IP, port));
    client.send(&[]);
    client.wait_status(400);
    client.open(SocketAddr::new(SERVER_IP, port));
    client.send(&[]);
    client.wait_status(200);
}
