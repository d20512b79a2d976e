// SPDX-License-Identifier: Apache-2.0
//! Moving one thread into another network namespace and back (root).

use hbone_sys::{netns, socket};
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A process that does nothing in a namespace of its own; ends with the test.
struct Elsewhere(Child);

impl Elsewhere {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        let this = Self(command.args(["--net", "sleep", "30"]).spawn().unwrap());
        let here = std::fs::read_link("/proc/self/ns/net").unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while std::fs::read_link(this.path()).is_ok_and(|there| there == here) {
            assert!(Instant::now() < until, "unshare did nothing");
            std::thread::sleep(Duration::from_millis(2));
        }
        this
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_thread_goes_and_comes_back_alone() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let elsewhere = Elsewhere::new();
    let there = File::open(elsewhere.path()).unwrap();
    let (home, cookie) = (
        netns::open_current().unwrap(),
        netns::current_cookie().unwrap(),
    );
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = socket::listen(loopback).unwrap();
    let server = socket::local_address(&listener).unwrap();

    netns::enter(there.as_fd()).unwrap();
    let other = netns::current_cookie().unwrap();
    assert_ne!(other, cookie);
    std::thread::spawn(move || {
        // Inherits from the one that started it.
        assert_eq!(netns::current_cookie().unwrap(), other);
    })
    .join()
    .unwrap();
    // Sockets stay where they were made: loopback is down there, and this port is not known.
    let abroad = socket::tcp(server).unwrap();
    let reached =
        socket::start_connect(&abroad, server).and_then(|()| Ok(socket::take_error(&abroad)?));
    assert!(reached.is_err());
    netns::enter(home.as_fd()).unwrap();
    assert_eq!(netns::current_cookie().unwrap(), cookie);
    let near = socket::tcp(server).unwrap();
    socket::start_connect(&near, server).unwrap();
    assert_eq!(socket::take_error(&near), Ok(()));

    let no_namespace = File::open("/dev/null").unwrap();
    assert!(netns::enter(no_namespace.as_fd()).is_err());
    assert_eq!(netns::current_cookie().unwrap(), cookie);
}
