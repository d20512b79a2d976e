// SPDX-License-Identifier: Apache-2.0
//! OpenSSL's own client and server as peers (the `openssl` command): another implementation of the
//! record layer, KeyUpdate in both directions, and what it makes of our refusals.

mod common;
#[path = "common/raw.rs"]
#[allow(dead_code, reason = "shared with peers that keep the rules")]
mod raw;
#[path = "common/scene.rs"]
#[allow(dead_code, reason = "shared with other attacks")]
mod scene;

use common::*;
use hbone_core::EventKind;
use hbone_proto::Reason;
use raw::h2_frame;
use scene::{Scene, kind};
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// PEM files of an identity, in a folder of their own that goes with them.
struct Files(PathBuf);

impl Files {
    fn new(authority: &Authority, identity: &str) -> Self {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("openssl-{}-{count}", std::process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        let (leaf, key) = authority.issue(identity, |_| {});
        let this = Self(folder);
        for (file, form, bytes) in [
            ("root", "x509", &authority.der),
            ("leaf", "x509", &leaf),
            ("key", "pkey", &key),
        ] {
            fs::write(this.path("der"), bytes).unwrap();
            let mut convert = Command::new("openssl");
            convert
                .args([form, "-inform", "DER", "-in"])
                .arg(this.path("der"));
            convert.arg("-out").arg(this.path(file));
            assert!(convert.status().expect("the openssl command").success());
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running `openssl s_client` or `s_server`: what it is given on stdin goes to the peer, but for
/// lines that begin with a command (s_client(1)); what the peer sends comes out of stdout.
struct OpenSsl {
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl OpenSsl {
    fn run(files: &Files, what: &str, args: &[&str]) -> Self {
        let mut command = Command::new("openssl");
        command.arg(what).args(args);
        command.arg("-cert").arg(files.path("leaf"));
        command.arg("-key").arg(files.path("key"));
        command.arg("-CAfile").arg(files.path("root"));
        command.args(["-alpn", "h2"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the openssl command");
        let (sender, output) = channel();
        let pipes: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for mut pipe in pipes {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                    if sender.send(chunk[..count].to_vec()).is_err() {
                        return;
                    }
                }
            });
        }
        Self {
            child,
            output,
            seen: Vec::new(),
        }
    }

    /// One write of stdin, which is what it looks for commands in.
    fn say(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
        // So that two are not read as one.
        thread::sleep(Duration::from_millis(200));
    }

    /// Until its output, since the last wait, holds these bytes.
    fn wait(&mut self, words: &[u8]) {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self
                .seen
                .windows(words.len())
                .position(|part| part == words);
            if let Some(at) = found {
                self.seen.drain(..at + words.len());
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(chunk) => self.seen.extend(chunk),
                Err(_) => panic!(
                    "{:?} did not come; instead: {}",
                    String::from_utf8_lossy(words),
                    String::from_utf8_lossy(&self.seen)
                ),
            }
        }
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ping(payload: [u8; 8]) -> Vec<u8> {
    h2_frame(kind::PING, 0, 0, &payload)
}

fn pong(payload: [u8; 8]) -> Vec<u8> {
    h2_frame(kind::PING, 1, 0, &payload)
}

fn client(scene: &Scene, files: &Files, more: &[&str]) -> OpenSsl {
    let at = scene.pair.hbone.to_string();
    let args = [&["-connect", &at, "-noservername"], more].concat();
    OpenSsl::run(files, "s_client", &args)
}

#[test]
fn its_client_changes_keys_and_asks_us_to() {
    let scene = Scene::new();
    let files = Files::new(&scene.pair.authority, CLIENT_ID);
    let mut client = client(&scene, &files, &["-tls1_3", "-verify_return_error"]);
    client.wait(b"ALPN protocol: h2");
    client.say(&[PREFACE, &h2_frame(kind::SETTINGS, 0, 0, &[])].concat());
    client.say(&ping(*b"before..."[..8].first_chunk().unwrap()));
    client.wait(&pong(*b"before.."));
    for (round, command) in [b"k\n", b"K\n", b"k\n", b"K\n"].into_iter().enumerate() {
        client.say(command);
        client.wait(b"KEYUPDATE");
        let payload = [b'0' + round as u8; 8];
        client.say(&ping(payload));
        client.wait(&pong(payload));
    }
    assert_eq!(
        scene
            .pair
            .server
            .stats()
            .unwrap()
            .tunnels_closed
            .values()
            .sum::<u64>(),
        0
    );
    // In order, with close_notify.
    client.say(b"Q\n");
    scene.wait_tunnel_closed(Reason::None);
    scene.victim_is_well();
}

#[test]
fn its_client_follows_our_changes_of_key() {
    let scene = Scene::with(|config| config.records_per_key = 2);
    let files = Files::new(&scene.pair.authority, CLIENT_ID);
    let mut client = client(&scene, &files, &["-tls1_3"]);
    client.wait(b"ALPN protocol: h2");
    client.say(&[PREFACE, &h2_frame(kind::SETTINGS, 0, 0, &[])].concat());
    for round in 0..10 {
        let payload = [b'a' + round; 8];
        client.say(&ping(payload));
        client.wait(&pong(payload));
    }
    scene.victim_is_well();
}

#[test]
fn its_client_is_refused_with_tls_1_2_and_cannot_renegotiate() {
    let scene = Scene::new();
    let files = Files::new(&scene.pair.authority, CLIENT_ID);
    let failed = |event: &hbone_core::Event| event.kind == EventKind::HandshakeFailed;
    for options in [
        &["-tls1_2"][..],
        &["-tls1_2", "-legacy_renegotiation"],
        &["-no_tls1_3"],
    ] {
        let mut old = client(&scene, &files, options);
        old.wait(b"protocol version");
        let event = wait_for(&scene.pair.server, failed);
        assert!(event.detail.contains("TLS 1.3"), "{event:?}");
        scene.victim_is_well();
    }
}

#[test]
fn its_server_changes_keys_and_asks_us_to() {
    let scene = Scene::with(|config| config.records_per_key = 3);
    let files = Files::new(&scene.pair.authority, SERVER_ID);
    let at = SocketAddr::new("127.0.0.13".parse().unwrap(), scene.pair.hbone.port());
    let accept = at.to_string();
    let mut server = OpenSsl::run(
        &files,
        "s_server",
        &[
            "-accept",
            &accept,
            "-Verify",
            "1",
            "-verify_return_error",
            "-tls1_3",
            "-naccept",
            "1",
        ],
    );
    server.wait(b"ACCEPT");
    let peers = vec![
        peer(SERVER, SERVER_IP, SERVER_ID),
        peer(3, at.ip(), SERVER_ID),
    ];
    scene.pair.client.put_peers(peers).unwrap();
    let upstream = SocketAddr::new(at.ip(), 80);
    scene.pair.records.set(Some(record(upstream, 3)));
    let near = scene.pair.dial();
    server.wait(b"PRI * HTTP/2.0");
    server.say(&h2_frame(kind::SETTINGS, 0, 0, &[]));
    for (round, command) in [b"k\n", b"K\n", b"k\n", b"K\n"].into_iter().enumerate() {
        server.say(command);
        let payload = [b'0' + round as u8; 8];
        server.say(&ping(payload));
        server.wait(&pong(payload));
    }
    drop(near);
    assert_eq!(scene.pair.client.stats().unwrap().tunnels, 2);
    scene.victim_is_well();
}
