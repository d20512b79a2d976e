// SPDX-License-Identifier: Apache-2.0
//! An agent goes without a word while requests are under way, and another has its address.

mod common;

use common::*;
use hbone_core::{Config, Core, Listeners};
use hbone_proto::Reason;
use hbone_sys::socket;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

/// An application whose accept queue is full: the kernel answers no more SYNs.
fn full_application() -> (TcpListener, Vec<OwnedFd>) {
    let listener = socket::tcp(SocketAddr::new(SERVER_IP, 0)).unwrap();
    socket::bind_address(&listener, SERVER_IP).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let waiting = (0..4).map(|_| {
        let filler = socket::tcp(address).unwrap();
        socket::start_connect(&filler, address).unwrap();
        filler
    });
    let waiting = waiting.collect();
    thread::sleep(Duration::from_millis(50));
    (listener, waiting)
}

/// The server's listener, with a second descriptor that outlives its core.
fn listener_that_stays(pair: &Pair) -> OwnedFd {
    let serve = |inbound| {
        let listeners = Listeners {
            capture: vec![],
            inbound,
        };
        pair.server
            .put_workload(pod(SERVER, SERVER_ID, SERVER_IP), listeners)
            .unwrap();
        pair.server.stats().unwrap();
    };
    serve(vec![]);
    let stays = socket::listen(pair.hbone).unwrap();
    serve(vec![stays.try_clone().unwrap()]);
    stays
}

fn successor(pair: &Pair, inbound: OwnedFd) -> Core {
    let config = Config {
        workers: 1,
        hbone_port: pair.hbone.port(),
        ..Config::default()
    };
    let core = Core::start(config, pair.records.clone()).unwrap();
    core.put_svid(SERVER_ID, &pair.authority.svid(SERVER_ID))
        .unwrap();
    core.put_peers(vec![peer(CLIENT, CLIENT_IP, CLIENT_ID)])
        .unwrap();
    let listeners = Listeners {
        capture: vec![],
        inbound: vec![inbound],
    };
    core.put_workload(pod(SERVER, SERVER_ID, SERVER_IP), listeners)
        .unwrap();
    core
}

#[test]
fn a_request_that_nobody_answered_goes_to_the_successor() {
    let pair = Pair::new();
    let stays = listener_that_stays(&pair);
    let (mut open, _far) = pair.connect();
    let (app, fillers) = full_application();
    pair.records
        .set(Some(record(app.local_addr().unwrap(), SERVER)));
    let mut asking = pair.dial();
    asking.write_all(b"first words").unwrap();
    eventually("it has asked", || {
        pair.server.stats().unwrap().connections == 2
    });
    pair.server.stop();
    // What flowed is broken; nobody knows what of it arrived.
    assert_reset(&mut open);
    assert!(is_reason(&wait_closed(&pair.client), Reason::TunnelLost));
    app.set_nonblocking(true).unwrap();
    while app.accept().is_ok() {}
    drop(fillers);
    app.set_nonblocking(false).unwrap();
    let successor = successor(&pair, stays);
    let mut words = [0; 11];
    let mut far = accept_one_that_speaks(&app, &mut words);
    assert_eq!(&words, b"first words");
    far.write_all(b"heard").unwrap();
    asking.read_exact(&mut words[..5]).unwrap();
    assert_eq!(&words[..5], b"heard");
    successor.stop();
}

/// Fillers that the kernel let in late say nothing.
fn accept_one_that_speaks(app: &TcpListener, words: &mut [u8]) -> TcpStream {
    loop {
        let (mut far, _) = app.accept().unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        if far.read_exact(words).is_ok() {
            return far;
        }
    }
}

#[test]
fn a_request_is_moved_once_and_no_more() {
    let pair = Pair::new();
    let stays = listener_that_stays(&pair);
    let (app, _fillers) = full_application();
    pair.records
        .set(Some(record(app.local_addr().unwrap(), SERVER)));
    let mut asking = pair.dial();
    eventually("it has asked", || {
        pair.server.stats().unwrap().connections == 1
    });
    pair.server.stop();
    let successor = successor(&pair, stays);
    eventually("it has asked again", || {
        successor.stats().unwrap().connections == 1
    });
    successor.stop();
    assert_reset(&mut asking);
    let closed = wait_closed(&pair.client);
    assert!(is_reason(&closed, Reason::TunnelLost), "{closed:?}");
    assert_eq!(pair.client.stats().unwrap().handshakes, 2);
}
