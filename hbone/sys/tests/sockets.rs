// SPDX-License-Identifier: Apache-2.0
//! Each call on real sockets of loopback: addresses of both families, buffers that must not be
//! overrun, errors that must come back as such. `scripts/sanitize` runs these under memcheck too.

use hbone_sys::{Errno, descriptor_limit, socket};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

fn loopback() -> [SocketAddr; 2] {
    [
        "127.0.0.1:0".parse().unwrap(),
        SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0),
    ]
}

/// Asks until the answer is not "try again".
fn eventually<T>(mut ask: impl FnMut() -> Result<T, Errno>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(Errno::AGAIN) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A listener, and both ends of a connection to it.
fn connected(at: SocketAddr) -> (OwnedFd, OwnedFd, OwnedFd) {
    let listener = socket::listen(at).unwrap();
    let near = socket::tcp(at).unwrap();
    socket::start_connect(&near, socket::local_address(&listener).unwrap()).unwrap();
    let (far, _) = eventually(|| socket::accept(&listener));
    (listener, near, far)
}

#[test]
fn addresses_of_both_families_come_back_as_they_are() {
    for at in loopback() {
        let listener = socket::listen(at).unwrap();
        let bound = socket::local_address(&listener).unwrap();
        assert_eq!(bound.ip(), at.ip());
        assert_ne!(bound.port(), 0);
        let near = socket::tcp(at).unwrap();
        socket::start_connect(&near, bound).unwrap();
        let (far, peer) = eventually(|| socket::accept(&listener));
        assert_eq!(peer, Some(socket::local_address(&near).unwrap()));
        assert_eq!(socket::local_address(&far).unwrap(), bound);
        assert_eq!(socket::take_error(&near), Ok(()));
        assert!(matches!(socket::accept(&listener), Err(Errno::AGAIN)));
    }
}

#[test]
fn a_socket_is_bound_to_the_address_that_is_asked_for() {
    for (source, at) in [("127.0.0.7", loopback()[0]), ("::1", loopback()[1])] {
        let source: IpAddr = source.parse().unwrap();
        let listener = socket::listen(at).unwrap();
        let near = socket::tcp(at).unwrap();
        socket::bind_address(&near, source).unwrap();
        assert_eq!(
            socket::local_address(&near).unwrap(),
            SocketAddr::new(source, 0)
        );
        socket::start_connect(&near, socket::local_address(&listener).unwrap()).unwrap();
        let (_, peer) = eventually(|| socket::accept(&listener));
        let local = socket::local_address(&near).unwrap();
        assert_eq!((local.ip(), Some(local)), (source, peer));
        assert_ne!(local.port(), 0);
    }
    let wrong_family = socket::tcp(loopback()[0]).unwrap();
    assert!(socket::bind_address(&wrong_family, Ipv6Addr::LOCALHOST.into()).is_err());
    assert!(socket::start_connect(&wrong_family, loopback()[1]).is_err());
}

#[test]
fn a_foreign_address_needs_to_be_transparent() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    for foreign in ["198.51.100.7", "2001:db8::7"] {
        let foreign: IpAddr = foreign.parse().unwrap();
        let family = SocketAddr::new(foreign, 0);
        let plain = socket::tcp(family).unwrap();
        assert!(socket::bind_address(&plain, foreign).is_err());
        let transparent = socket::tcp(family).unwrap();
        socket::set_transparent(&transparent, foreign, u32::MAX).unwrap();
        socket::bind_address(&transparent, foreign).unwrap();
        assert_eq!(socket::local_address(&transparent).unwrap().ip(), foreign);
    }
}

#[test]
fn what_is_received_stays_within_its_buffer() {
    let (_listener, near, far) = connected(loopback()[0]);
    assert_eq!(socket::receive(&far, &mut [0; 8]), Err(Errno::AGAIN));
    assert_eq!(socket::send(&near, b"0123456789"), Ok(10));
    let mut area = [0xaa; 16];
    assert_eq!(eventually(|| socket::receive(&far, &mut area[4..8])), 4);
    assert_eq!(
        &area,
        b"\xaa\xaa\xaa\xaa0123\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa"
    );
    assert_eq!(socket::receive(&far, &mut []), Ok(0));
    assert_eq!(socket::receive(&far, &mut area[15..]), Ok(1));
    assert_eq!(area[15], b'4');
}

#[test]
fn pieces_are_sent_and_received_in_their_order_and_nothing_between_them_is_touched() {
    let (_listener, near, far) = connected(loopback()[1]);
    let text: Vec<u8> = (0..2000_u32).map(|i| (i * 7) as u8).collect();
    for fin_follows in [false, true] {
        let mut pieces = Vec::new();
        let mut rest = &text[..];
        for length in (0..).map(|i: usize| i % 97) {
            let (piece, after) = rest.split_at(length.min(rest.len()));
            pieces.push(IoSlice::new(piece));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(
            socket::send_vectored(&near, &pieces, fin_follows),
            Ok(text.len())
        );
        let mut area = vec![0xaa; 4 * text.len()];
        let mut got = 0;
        while got < text.len() {
            // Every other ten bytes are to be filled.
            let mut places: Vec<IoSliceMut<'_>> = area
                .chunks_mut(20)
                .map(|chunk| IoSliceMut::new(&mut chunk[..10]))
                .collect();
            // From where the last call left off, ten by ten.
            got += eventually(|| socket::receive_vectored(&far, &mut places[got / 10..]));
            assert_eq!(got % 10, 0, "loopback keeps pieces of this size whole");
        }
        for (at, chunk) in area.chunks(20).enumerate() {
            let from = (at * 10).min(text.len());
            let filled = &text[from..(from + 10).min(text.len())];
            assert_eq!(&chunk[..filled.len()], filled);
            assert!(chunk[filled.len()..].iter().all(|&byte| byte == 0xaa));
        }
    }
}

#[test]
fn one_piece_and_none_are_pieces_too() {
    let (_listener, near, far) = connected(loopback()[0]);
    assert_eq!(socket::send_vectored(&near, &[], false), Ok(0));
    assert_eq!(
        socket::send_vectored(&near, &[IoSlice::new(b"one")], true),
        Ok(3)
    );
    let mut into = [0; 8];
    assert_eq!(eventually(|| socket::receive(&far, &mut into)), 3);
    assert_eq!(socket::receive_vectored(&far, &mut []), Ok(0));
}

#[test]
fn more_pieces_than_the_kernel_takes_are_an_error_or_a_part() {
    let (_listener, near, far) = connected(loopback()[0]);
    let pieces = vec![IoSlice::new(b"x"); 5000];
    match socket::send_vectored(&near, &pieces, false) {
        Ok(count) => assert!(count <= 5000),
        Err(error) => assert!(matches!(error, Errno::MSGSIZE | Errno::INVAL), "{error}"),
    }
    socket::send(&near, b"y").unwrap();
    let mut area = vec![0; 5000];
    let mut places: Vec<IoSliceMut<'_>> = area.chunks_mut(1).map(IoSliceMut::new).collect();
    match socket::receive_vectored(&far, &mut places) {
        Ok(count) => assert!(count <= 5000),
        Err(error) => assert!(matches!(error, Errno::AGAIN | Errno::INVAL), "{error}"),
    }
}

#[test]
fn a_refused_connect_says_so_once() {
    let listener = socket::listen(loopback()[0]).unwrap();
    let nobody = socket::local_address(&listener).unwrap();
    drop(listener);
    let near = socket::tcp(nobody).unwrap();
    // Loopback may answer before the call is over.
    if let Err(error) = socket::start_connect(&near, nobody) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        return;
    }
    let until = Instant::now() + PATIENCE;
    while socket::take_error(&near).is_ok() {
        assert!(Instant::now() < until, "the refusal never came");
    }
    assert_eq!(socket::take_error(&near), Ok(()));
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    let (_listener, near, far) = connected(loopback()[0]);
    socket::set_abort_on_close(&far);
    drop(far);
    let mut near = TcpStream::from(near);
    near.set_nonblocking(false).unwrap();
    let error = near.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    // SIGPIPE would end the process: Rust ignores it, Python too, other owners may not.
    assert_eq!(socket::send(&near, b"x"), Err(Errno::PIPE));
    assert_eq!(
        socket::send_vectored(&near, &[IoSlice::new(b"x"); 2], false),
        Err(Errno::PIPE)
    );
}

#[test]
fn what_the_peer_has_not_acknowledged_is_known() {
    let (_listener, near, far) = connected(loopback()[0]);
    assert!(socket::has_delivered_all(&near));
    let block = [7; 65_536];
    let mut sent = 0;
    while let Ok(count) = socket::send(&near, &block) {
        sent += count;
    }
    assert!(!socket::has_delivered_all(&near));
    socket::shutdown_write(&near);
    let mut far = TcpStream::from(far);
    far.set_nonblocking(false).unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), sent);
    eventually(|| {
        socket::has_delivered_all(&near)
            .then_some(())
            .ok_or(Errno::AGAIN)
    });
    assert!(!socket::has_delivered_all(File::open("/dev/null").unwrap()));
}

#[test]
fn options_are_set_and_what_does_not_exist_is_an_error() {
    let (_listener, near, _far) = connected(loopback()[0]);
    socket::set_nodelay(&near).unwrap();
    socket::set_keepalive(&near, Duration::from_secs(180)).unwrap();
    socket::set_receive_buffer(&near, 4096).unwrap();
    socket::set_congestion_control(&near, "reno").unwrap();
    // TCP_CA_NAME_MAX is 16: longer names must not be cut to one that exists.
    let long = "reno".repeat(100);
    for name in ["no-such-thing", &long, ""] {
        assert!(
            socket::set_congestion_control(&near, name).is_err(),
            "{name:?}"
        );
    }
    let stream = TcpStream::from(near);
    assert!(stream.nodelay().unwrap());
    let no_socket = File::open("/dev/null").unwrap();
    assert!(socket::set_nodelay(&no_socket).is_err());
    assert!(socket::local_address(&no_socket).is_err());
    assert!(socket::bind_address(&no_socket, loopback()[0].ip()).is_err());
    assert_eq!(
        socket::receive(&no_socket, &mut [0; 4]),
        Err(Errno::NOTSOCK)
    );
}

#[test]
fn duplicates_live_on_their_own() {
    let (_listener, near, far) = connected(loopback()[0]);
    let copies = [
        socket::duplicate(near.as_fd()).unwrap(),
        socket::duplicate_raw(near.as_raw_fd()).unwrap(),
    ];
    drop(near);
    let mut far = TcpStream::from(far);
    far.set_nonblocking(false).unwrap();
    for copy in copies {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", copy.as_raw_fd()));
        // O_CLOEXEC of <fcntl.h>, in octal as proc(5) prints it.
        let flags = info.unwrap();
        let flags = flags
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .unwrap();
        assert_ne!(
            i64::from_str_radix(flags.trim(), 8).unwrap() & 0o2_000_000,
            0
        );
        let mut copy = TcpStream::from(copy);
        copy.write_all(b"still here").unwrap();
        far.read_exact(&mut [0; 10]).unwrap();
    }
    assert_eq!(
        far.read(&mut [0; 4]).unwrap(),
        0,
        "the last copy ends the connection"
    );
}

#[test]
fn numbers_that_are_no_descriptor_are_refused() {
    for number in [-1, i32::MIN, i32::MAX, 1_000_000] {
        let error = socket::duplicate_raw(number).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(Errno::BADF.raw_os_error()),
            "{number}"
        );
    }
    assert!(descriptor_limit() >= 3);
}
