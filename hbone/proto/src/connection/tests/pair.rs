// SPDX-License-Identifier: Apache-2.0
//! Two connections, a pipe with latency and partial delivery, and a clock that the test moves.
//!
//! Random actions; after every step the windows balance, and at the end every byte that was not reset
//! has arrived, in order, and both sides agree on every window.

use super::*;
use proptest::prelude::*;
use side::{App, Side};

mod side;

const LATENCY: Millis = Millis(5);

#[derive(Debug, Clone, Copy)]
enum Act {
    Open,
    Answer(usize),
    Write(bool, usize, usize),
    End(bool, usize),
    Read(bool, usize, usize),
    Aside(bool, usize, usize),
    Reset(bool, usize),
    Deliver(bool, usize),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let nth = any::<usize>;
    prop_oneof![
        2 => Just(Act::Open),
        3 => nth().prop_map(Act::Answer),
        6 => (any::<bool>(), nth(), 1..90_000usize).prop_map(|(s, n, b)| Act::Write(s, n, b)),
        2 => (any::<bool>(), nth()).prop_map(|(s, n)| Act::End(s, n)),
        6 => (any::<bool>(), nth(), 1..60_000usize).prop_map(|(s, n, b)| Act::Read(s, n, b)),
        2 => (any::<bool>(), nth(), 1..60_000usize).prop_map(|(s, n, b)| Act::Aside(s, n, b)),
        1 => (any::<bool>(), nth()).prop_map(|(s, n)| Act::Reset(s, n)),
        8 => (any::<bool>(), 1..70_000usize).prop_map(|(s, b)| Act::Deliver(s, b)),
        2 => (1..20u64).prop_map(Act::Wait),
    ]
}

struct Pair {
    now: Millis,
    sides: [Side; 2],
}

impl Pair {
    fn new(stream_window: u32, connection_window: u32) -> Self {
        let config = |base: Config| Config {
            stream_window,
            connection_window,
            ..base
        };
        let client = Side::new(Role::Client, config(Config::client()));
        let server = Side::new(Role::Server, config(Config::server()));
        Self {
            now: Millis(0),
            sides: [client, server],
        }
    }

    fn act(&mut self, act: Act) {
        let now = self.now;
        match act {
            Act::Open => {
                let client = &mut self.sides[0];
                let id = client.connection.core.next_id;
                if let Ok(key) = client.connection.open(&request(), u64::from(id)) {
                    client.apps.insert(
                        id,
                        App {
                            key: Some(key),
                            ..App::default()
                        },
                    );
                }
            }
            Act::Answer(n) => {
                let server = &mut self.sides[1];
                if let Some((_, app)) = server.pick(n)
                    && !app.answered
                {
                    app.answered = true;
                    let key = app.key.unwrap();
                    server.connection.respond(key, &ok()).unwrap();
                }
            }
            Act::Write(side, n, bytes) => {
                if let Some((_, app)) = self.sides[usize::from(side)].pick(n)
                    && !app.ends
                {
                    app.to_send += bytes;
                }
            }
            Act::End(side, n) => {
                if let Some((_, app)) = self.sides[usize::from(side)].pick(n) {
                    app.ends = true;
                }
            }
            Act::Read(side, n, most) => self.sides[usize::from(side)].read(n, most),
            Act::Aside(side, n, most) => {
                let side = &mut self.sides[usize::from(side)];
                if let Some((_, app)) = side.pick(n) {
                    let (key, count) = (app.key.unwrap(), app.unread.min(most));
                    side.connection.set_aside(key, count);
                }
            }
            Act::Reset(side, n) => {
                let side = &mut self.sides[usize::from(side)];
                if let Some((_, app)) = side.pick(n) {
                    app.dead = true;
                    let key = app.key.unwrap();
                    side.connection.reset(key, ErrorCode::CANCEL);
                }
            }
            Act::Deliver(from, most) => self.deliver(usize::from(from), most),
            Act::Wait(span) => self.now = now + Millis(span),
        }
        for side in &mut self.sides {
            side.pump(self.now);
            side.connection.assert_invariants();
        }
    }

    /// Hands over at most `most` bytes that have arrived.
    fn deliver(&mut self, from: usize, most: usize) {
        let Some((at, bytes)) = self.sides[from].pipe.front_mut() else {
            return;
        };
        if *at > self.now {
            return;
        }
        let piece: Vec<u8> = bytes.drain(..most.min(bytes.len())).collect();
        if bytes.is_empty() {
            self.sides[from].pipe.pop_front();
        }
        self.sides[1 - from].receive(self.now, &piece);
    }

    /// Answers, reads and delivers everything until nothing moves.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            self.now = self.now + LATENCY;
            for from in 0..2 {
                self.deliver(from, usize::MAX);
            }
            let live = self.sides[1].apps.len();
            for n in 0..live {
                self.act(Act::Answer(n));
            }
            for side in &mut self.sides {
                for n in 0..side.apps.len() {
                    side.read(n, usize::MAX);
                }
                side.pump(self.now);
                side.connection.assert_invariants();
            }
            if self.sides.iter().all(|side| side.pipe.is_empty()) {
                return;
            }
        }
        panic!("it never settles");
    }

    /// Both sides agree, and nothing was lost.
    fn balance(&mut self) {
        let [client, server] = &mut self.sides;
        for (from, to) in [(&*client, &*server), (&*server, &*client)] {
            for (id, app) in &from.apps {
                let Some(other) = to.apps.get(id) else {
                    continue;
                };
                if app.dead || other.dead {
                    continue;
                }
                assert_eq!((app.to_send, app.sent), (0, other.received), "stream {id}");
                assert_eq!(app.ends, other.end_received, "stream {id}");
            }
            let left = to.connection.core.recv_window.left();
            assert_eq!(from.connection.core.send_window.available() as i64, left);
        }
        let (client, server) = (&mut client.connection.core, &mut server.connection.core);
        assert_eq!(client.active, server.active);
        for (key, stream) in client.streams.iter_mut() {
            let other = server.streams.find(key.id).expect("open on both sides");
            let other = server.streams.get(other).unwrap();
            if stream.send != Half::Ended {
                let left = other.recv_window.left();
                assert_eq!(stream.send_window.available() as i64, left);
            }
            if other.send != Half::Ended {
                let left = stream.recv_window.left();
                assert_eq!(other.send_window.available() as i64, left);
            }
        }
    }
}

#[test]
fn bulk_both_ways_through_small_windows() {
    let mut pair = Pair::new(20_000, 65_535);
    pair.act(Act::Open);
    pair.settle();
    pair.act(Act::Write(false, 0, 3_000_000));
    pair.act(Act::Write(true, 0, 2_000_000));
    pair.act(Act::End(false, 0));
    pair.settle();
    assert!(pair.sides[1].apps[&1].end_received);
    pair.act(Act::End(true, 0));
    pair.settle();
    pair.balance();
    assert_eq!(pair.sides[1].apps[&1].received, 3_000_000);
    assert_eq!(pair.sides[0].apps[&1].received, 2_000_000);
    assert_eq!(
        pair.sides[0].connection.streams() + pair.sides[1].connection.streams(),
        0
    );
}

#[test]
fn a_slow_app_stops_only_itself() {
    let mut pair = Pair::new(65_535, 4 * 65_535);
    pair.act(Act::Open);
    pair.act(Act::Open);
    pair.settle();
    pair.act(Act::Write(false, 0, 1_000_000));
    pair.act(Act::Write(false, 1, 1_000_000));
    for _ in 0..200 {
        pair.act(Act::Wait(5));
        pair.act(Act::Deliver(false, usize::MAX));
        pair.act(Act::Deliver(true, usize::MAX));
        pair.act(Act::Read(true, 1, usize::MAX));
    }
    assert_eq!(pair.sides[1].apps[&3].received, 1_000_000);
    assert_eq!(
        pair.sides[1].apps[&1].received, 65_535,
        "what its window allows"
    );
    pair.settle();
    pair.balance();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn bytes_and_windows_balance(
        acts in prop::collection::vec(act(), 1..250),
        stream_window in prop_oneof![Just(1u32), 100..5000u32, Just(65_535), Just(200_000)],
        connection_window in prop_oneof![Just(65_535u32), 65_536..300_000u32],
    ) {
        let mut pair = Pair::new(stream_window.max(100), connection_window);
        for act in acts {
            pair.act(act);
        }
        pair.settle();
        pair.balance();
    }
}
