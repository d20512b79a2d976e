// SPDX-License-Identifier: Apache-2.0
//! Out of descriptors. Alone in its file: the limit is one of the process.

mod common;

use common::*;
use hbone_core::EventKind;
use hbone_proto::Reason;
use hbone_sys::socket;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fs;
use std::io::{Read, Seek};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// CPU time of this process, in clock ticks of 10 ms (proc(5), utime and stime).
fn cpu_ticks(open: &mut fs::File) -> u64 {
    let mut stat = String::new();
    open.rewind().unwrap();
    open.read_to_string(&mut stat).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn out_of_descriptors_connections_are_refused_without_spinning() {
    let pair = Pair::new();
    drop(pair.connect());
    let mut stat = fs::File::open("/proc/self/stat").unwrap();
    let sockets: Vec<OwnedFd> = (0..20)
        .map(|_| socket::tcp(pair.capture).unwrap())
        .collect();
    let limits = getrlimit(Resource::Nofile);
    let lowest_free = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let mut tight = limits;
    tight.current = Some(std::os::fd::AsRawFd::as_raw_fd(&lowest_free) as u64);
    drop(lowest_free);
    setrlimit(Resource::Nofile, tight).unwrap();
    for socket in &sockets {
        socket::start_connect(socket, pair.capture).unwrap();
    }
    let refused = wait_for(&pair.client, |event| {
        event.kind == EventKind::CaptureRefused
    });
    assert!(is_reason(&refused, Reason::ResourceLimit), "{refused:?}");
    let before = cpu_ticks(&mut stat);
    std::thread::sleep(Duration::from_millis(1000));
    let burnt = cpu_ticks(&mut stat) - before;
    setrlimit(Resource::Nofile, limits).unwrap();
    assert!(
        burnt < 30,
        "{burnt} ticks of CPU in a second of having no descriptors"
    );
    drop(sockets);
    eventually("connections work again", || {
        let Ok(near) = TcpStream::connect(pair.capture) else {
            return false;
        };
        near.set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        pair.app.set_nonblocking(true).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        pair.app.accept().is_ok()
    });
}
