// SPDX-License-Identifier: Apache-2.0
//! A thousand pods of one node, each with tunnels of its own.

mod common;

use common::*;
use hbone_core::Listeners;
use hbone_sys::socket;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

const PODS: u32 = 1000;
/// Ids of the pods begin here, above those of the pair.
const FIRST: u32 = 100;

fn address_of(index: u32) -> IpAddr {
    Ipv4Addr::from(0x7f01_0000 + index + 1).into()
}

/// Enrols them all; returns where their captured connections go.
fn enrol(pair: &Pair) -> Vec<SocketAddr> {
    (0..PODS)
        .map(|index| {
            let listener = socket::listen(SocketAddr::new(address_of(index), 0)).unwrap();
            let capture = socket::local_address(&listener).unwrap();
            let listeners = Listeners {
                capture: vec![listener],
                inbound: vec![],
            };
            let pod = pod(FIRST + index, CLIENT_ID, address_of(index));
            pair.client.put_workload(pod, listeners).unwrap();
            capture
        })
        .collect()
}

fn echo(near: &mut TcpStream, far: &mut TcpStream) {
    let mut word = [0; 5];
    near.write_all(b"there").unwrap();
    far.read_exact(&mut word).unwrap();
    far.write_all(b"again").unwrap();
    near.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"again");
}

/// Resident memory of this process in bytes (proc(5), statm).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_thousand_pods_have_a_tunnel_each_and_all_serve() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    let captures = enrol(&pair);
    let before = resident();
    let mut open: Vec<(TcpStream, TcpStream)> = captures
        .iter()
        .map(|&capture| {
            let near = TcpStream::connect(capture).unwrap();
            let (far, _) = pair.app.accept().unwrap();
            for end in [&near, &far] {
                end.set_read_timeout(Some(PATIENCE)).unwrap();
            }
            (near, far)
        })
        .collect();
    for (near, far) in &mut open {
        echo(near, far);
    }
    let grown = resident().saturating_sub(before);
    // Both ends of a tunnel and of a stream are in this process: far less than a window each.
    println!("{} bytes for each pod, both ends", grown / PODS as usize);
    assert!(grown < PODS as usize * 128 * 1024, "{grown} bytes");
    let tunnels = pair.client.tunnels().unwrap();
    assert_eq!(tunnels.len(), PODS as usize + 1);
    // Idle for a moment, and every one of them is used again; the first pod waits for none of them.
    for (near, far) in open.iter_mut().rev() {
        echo(near, far);
    }
    echo(&mut near, &mut far);
    assert_eq!(pair.client.stats().unwrap().handshakes, u64::from(PODS) + 1);
    drop(open);
    eventually("only the first is open", || {
        pair.client.stats().unwrap().connections == 1
    });
}
