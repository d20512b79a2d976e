// SPDX-License-Identifier: Apache-2.0
//! Readiness as the workers rely on it: edges once, levels again, tokens unchanged, and never more
//! events than there is room for.

use hbone_sys::poll::{Alarm, Bell, Epoll, Event, EventFlags};
use hbone_sys::socket;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const SOON: Option<Duration> = Some(Duration::from_secs(5));
const NOW: Option<Duration> = Some(Duration::ZERO);

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Token and flags of what is ready.
fn ready(epoll: &Epoll, room: usize, timeout: Option<Duration>) -> Vec<(u64, EventFlags)> {
    let mut events: Vec<Event> = Vec::with_capacity(room);
    epoll.wait(&mut events, timeout).unwrap();
    assert!(events.len() <= events.capacity());
    events
        .iter()
        .map(|event| (event.data.u64(), event.flags))
        .collect()
}

#[test]
fn edges_come_once_and_again_when_asked_for() {
    let (near, mut far) = pair();
    let epoll = Epoll::new().unwrap();
    epoll.add_socket(&near, u64::MAX).unwrap();
    assert_eq!(ready(&epoll, 8, SOON), [(u64::MAX, EventFlags::OUT)]);
    assert_eq!(ready(&epoll, 8, NOW), []);
    far.write_all(b"x").unwrap();
    let both = EventFlags::IN | EventFlags::OUT;
    assert_eq!(ready(&epoll, 8, SOON), [(u64::MAX, both)]);
    assert_eq!(ready(&epoll, 8, NOW), []);
    epoll.rearm_socket(&near, 7).unwrap();
    assert_eq!(ready(&epoll, 8, SOON), [(7, both)]);
    drop(far);
    assert!(ready(&epoll, 8, SOON)[0].1.contains(EventFlags::RDHUP));
}

#[test]
fn levels_come_until_they_are_gone() {
    let (mut near, mut far) = pair();
    let epoll = Epoll::new().unwrap();
    epoll.add_level(&near, 0).unwrap();
    assert_eq!(ready(&epoll, 8, NOW), []);
    far.write_all(b"x").unwrap();
    for _ in 0..3 {
        assert_eq!(ready(&epoll, 8, SOON), [(0, EventFlags::IN)]);
    }
    near.read_exact(&mut [0]).unwrap();
    assert_eq!(ready(&epoll, 8, NOW), []);
    epoll.remove(&near).unwrap();
    far.write_all(b"x").unwrap();
    assert_eq!(ready(&epoll, 8, NOW), []);
    assert!(epoll.remove(&near).is_err(), "it is not there any more");
    assert!(epoll.rearm_socket(&near, 0).is_err());
}

#[test]
fn no_more_is_written_than_there_is_room_for() {
    let bells: Vec<Bell> = (0..100).map(|_| Bell::new().unwrap()).collect();
    let epoll = Epoll::new().unwrap();
    for (token, bell) in bells.iter().enumerate() {
        epoll.add_level(bell, token as u64).unwrap();
        bell.ring();
    }
    for room in [1, 3, 64] {
        assert_eq!(ready(&epoll, room, SOON).len(), room);
    }
    let mut tokens: Vec<u64> = ready(&epoll, 1000, SOON)
        .iter()
        .map(|event| event.0)
        .collect();
    tokens.sort_unstable();
    assert!(tokens.into_iter().eq(0..100));
}

#[test]
fn a_wait_lasts_as_long_as_it_should() {
    let epoll = Epoll::new().unwrap();
    let began = Instant::now();
    assert_eq!(ready(&epoll, 8, Some(Duration::new(0, 50_000_000))), []);
    assert!(began.elapsed() >= Duration::from_millis(49));
}

#[test]
fn a_bell_rings_until_somebody_looks() {
    let bell = Bell::new().unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add_level(&bell, 1).unwrap();
    // Nothing to silence: returns all the same.
    bell.reset();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| bell.ring()));
        }
        assert_eq!(ready(&epoll, 8, None), [(1, EventFlags::IN)]);
    });
    bell.reset();
    assert_eq!(ready(&epoll, 8, NOW), []);
    bell.ring();
    assert_eq!(ready(&epoll, 8, SOON).len(), 1);
    socket::duplicate(bell.as_fd()).unwrap();
}

#[test]
fn an_alarm_comes_again_until_it_is_taken_back() {
    let alarm = Alarm::new().unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add_level(&alarm, 7).unwrap();
    assert!(ready(&epoll, 8, NOW).is_empty());
    alarm.set(Some(Duration::from_millis(2))).unwrap();
    for _ in 0..3 {
        assert_eq!(ready(&epoll, 8, SOON), [(7, EventFlags::IN)]);
        alarm.reset();
    }
    alarm.set(None).unwrap();
    // Resetting one that has not run out does not block.
    alarm.reset();
    assert!(ready(&epoll, 8, NOW).is_empty());
}
