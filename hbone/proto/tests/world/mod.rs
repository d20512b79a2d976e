// SPDX-License-Identifier: Apache-2.0
//! A world of two connections: apps at both ends, a network that delays, cuts, stops and breaks, a
//! clock that jumps to whatever is due next, and a referee of flow control on the wire.
//!
//! Every decision comes from [`Choices`], so the simulation (seeds) and the fuzz target `sequence`
//! (inputs) drive the same world. After every step each side must agree with its apps on which
//! streams live, the books must balance and the referee be content; see `Side::check`.
#![allow(dead_code, reason = "each user needs its own part of this")]

pub mod choices;
pub mod referee;
pub mod side;

use std::collections::VecDeque;

use hbone_proto::{
    Authority, Config, ConnectRequest, Connection, ConnectionError, Forwarded, Millis, Role,
};

use choices::Choices;
use referee::Referee;
use side::Side;

const CLIENT: usize = 0;
const SERVER: usize = 1;
const LATENCY: Millis = Millis(5);
/// A timeout may still strike this soon after the network stood still.
const THAW: Millis = Millis(1000);

/// Bytes on their way from one side, with the time they arrive.
#[derive(Debug, Default)]
struct Link {
    flight: VecDeque<(Millis, Vec<u8>)>,
    frozen: bool,
}

/// How often the rare happened, so that a test can see that it did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub connections: u64,
    pub streams: u64,
    pub bytes: u64,
    pub lost: u64,
    pub drained: u64,
    pub keepalive_timeouts: u64,
    pub stalls: u64,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    now: Millis,
    sides: [Side; 2],
    links: [Link; 2],
    /// Of what each side sends.
    referees: [Referee; 2],
    windows: (u32, u32),
    frozen_until: Millis,
    pub tally: Tally,
}

impl World {
    /// Two sides that have not spoken yet.
    pub fn new(choices: &mut impl Choices) -> Self {
        let now = Millis(1_000_000);
        let (sides, windows) = connect(now, choices);
        Self {
            now,
            sides,
            links: [Link::default(), Link::default()],
            referees: referees(windows),
            windows,
            frozen_until: Millis(0),
            tally: Tally {
                connections: 1,
                ..Tally::default()
            },
        }
    }

    /// One action, and all that must hold after it.
    pub fn step(&mut self, choices: &mut impl Choices) {
        let side = choices.below(2) as usize;
        let nth = choices.below(64);
        match choices.below(100) {
            0..8 => {
                let _ = self.sides[CLIENT].open(&request());
            }
            8..18 => {
                let status = if choices.one_in(12) { 503 } else { 200 };
                self.sides[SERVER].answer(nth, status);
            }
            18..36 => {
                let size = choices.size(150_000) as u64;
                if let Some(app) = self.sides[side].pick(nth)
                    && !app.wants_end
                {
                    app.to_send += size;
                }
            }
            36..42 => {
                if let Some(app) = self.sides[side].pick(nth) {
                    app.wants_end = true;
                }
            }
            42..62 => self.sides[side].read(nth, choices.size(200_000) as u64),
            62..66 => self.sides[side].set_aside(nth, choices.size(200_000) as u64),
            66..69 => self.sides[side].reset(nth),
            69..84 => {
                let most = choices.size(60_000);
                self.deliver(side, most);
            }
            84..94 => self.wait(Millis(1 + choices.below(40)), choices),
            94 => {
                // Anything from a hiccup to what ends a tunnel.
                let span = Millis(1 + choices.below(40_000));
                self.wait(span, choices);
            }
            95 => self.freeze(side, !self.links[side].frozen),
            96 => {
                (0..2).for_each(|side| self.freeze(side, false));
                self.wait(LATENCY, choices);
            }
            97 if choices.one_in(4) => {
                self.sides[side].connection.drain(self.now);
            }
            98 if choices.one_in(8) => {
                self.tally.lost += 1;
                self.reconnect(choices);
            }
            // A slow app for minutes: only flow control and the stall timer tell.
            99 if choices.one_in(8) => {
                (0..2).for_each(|side| self.freeze(side, false));
                self.wait(Millis::seconds(400), choices);
            }
            _ => {}
        }
        self.after(choices);
    }

    /// Lets everything reach its end: all is answered, read and delivered until nothing moves. Then
    /// every byte has arrived, and no window has lost a byte.
    pub fn settle(&mut self, choices: &mut impl Choices) {
        (0..2).for_each(|side| self.freeze(side, false));
        for _ in 0..10_000 {
            let before = self.tally.connections;
            for n in 0..self.sides[SERVER].live.len() as u64 {
                self.sides[SERVER].answer(n, 200);
            }
            for side in 0..2 {
                for n in 0..self.sides[side].live.len() as u64 {
                    self.sides[side].read(n, u64::MAX);
                }
            }
            self.after(choices);
            self.wait(LATENCY, choices);
            let quiet = self.links.iter().all(|link| link.flight.is_empty())
                && self.sides.iter().all(|side| {
                    let idle =
                        |app: &side::App| app.unread == 0 && (!app.may_send || app.to_send == 0);
                    side.live.values().all(idle)
                });
            if quiet && before == self.tally.connections {
                return self.balance();
            }
        }
        panic!("it never settles: {:?}", self.tally);
    }

    /// Ends every stream in order and sees that nothing is left.
    pub fn finish(&mut self, choices: &mut impl Choices) {
        self.settle(choices);
        for app in self
            .sides
            .iter_mut()
            .flat_map(|side| side.live.values_mut())
        {
            app.wants_end = true;
        }
        self.settle(choices);
        for side in &self.sides {
            assert_eq!(side.connection.streams(), 0);
        }
        self.count();
    }

    fn balance(&mut self) {
        let (stream_window, connection_window) = self.windows;
        let owed_at_most = |size: i64| size - size / 2;
        for (sender, receiver) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
            let referee = &self.referees[sender];
            let left = referee.connection_window();
            let size = i64::from(connection_window.max(65_535));
            assert!(
                left >= owed_at_most(size),
                "{left} of {size}: credit was lost"
            );
            for (id, app) in &self.sides[sender].live {
                let other = self.sides[receiver].live.get(id);
                let other = other.expect("a stream lives at both ends or at none");
                assert!(!app.may_send || app.sent == other.received, "stream {id}");
                let size = i64::from(stream_window);
                let left = referee.stream_window(*id);
                assert!(
                    app.send_ended || left >= owed_at_most(size),
                    "stream {id}: {left}"
                );
            }
        }
    }

    /// Output, invariants, and the end of connections that are finished.
    fn after(&mut self, choices: &mut impl Choices) {
        for from in 0..2 {
            let out = self.sides[from].pump(choices);
            if !out.is_empty() {
                self.referees[from].sends(&out);
                self.links[from].flight.push_back((self.now + LATENCY, out));
            }
            self.sides[from].check();
        }
        if self.sides.iter().any(|side| side.connection.is_finished()) {
            self.tally.drained += 1;
            self.reconnect(choices);
        }
    }

    fn freeze(&mut self, side: usize, frozen: bool) {
        if self.links[side].frozen {
            self.frozen_until = self.now;
        }
        self.links[side].frozen = frozen;
    }

    fn stood_still(&self) -> bool {
        self.links.iter().any(|link| link.frozen) || self.now.since(self.frozen_until) <= THAW
    }

    /// Hands over at most `most` bytes of what has arrived.
    fn deliver(&mut self, from: usize, most: usize) {
        let link = &mut self.links[from];
        let Some((at, bytes)) = link.flight.front_mut() else {
            return;
        };
        if link.frozen || *at > self.now {
            return;
        }
        let rest = bytes.split_off(most.min(bytes.len()));
        let piece = std::mem::replace(bytes, rest);
        if bytes.is_empty() {
            link.flight.pop_front();
        }
        self.tally.bytes += piece.len() as u64;
        let to = 1 - from;
        self.referees[to].receives(&piece);
        let (left, right) = self.sides.split_at_mut(1);
        let (to, peer) = if to == CLIENT {
            (&mut left[0], &right[0])
        } else {
            (&mut right[0], &left[0])
        };
        let outcome = to.receive(self.now, &piece, peer);
        assert_eq!(outcome, Ok(()), "neither side breaks a rule");
    }

    /// Time passes, from one thing that is due to the next.
    fn wait(&mut self, span: Millis, choices: &mut impl Choices) {
        let until = self.now + span;
        for _ in 0..1_000_000 {
            let next = self.next_due().filter(|next| *next <= until);
            let Some(next) = next else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            let most = choices.size(100_000);
            (0..2).for_each(|from| self.deliver(from, most));
            for side in 0..2 {
                let connection = &mut self.sides[side].connection;
                if connection
                    .next_deadline()
                    .is_some_and(|due| due <= self.now)
                    && let Err(error) = connection.on_time(self.now)
                {
                    self.timed_out(side, error);
                    self.reconnect(choices);
                    break;
                }
            }
            self.after(choices);
        }
        panic!("time stands still: {:?}", self.tally);
    }

    fn next_due(&self) -> Option<Millis> {
        let links = self.links.iter().filter(|link| !link.frozen);
        let arrivals = links.filter_map(|link| Some(link.flight.front()?.0));
        let deadlines = self
            .sides
            .iter()
            .filter_map(|side| side.connection.next_deadline());
        arrivals.chain(deadlines).min()
    }

    /// Only what the network did may end a connection.
    fn timed_out(&mut self, side: usize, error: ConnectionError) {
        match error.token {
            "keepalive_timeout" | "settings_timeout" => {
                assert!(self.stood_still(), "{error}");
                self.tally.keepalive_timeouts += 1;
            }
            "stalled" => {
                let left = self.referees[side].connection_window();
                assert!(left < 16_384, "{error} with {left} to go");
                let waiting = |app: &side::App| app.waiting;
                assert!(self.sides[side].live.values().any(waiting), "{error}");
                self.tally.stalls += 1;
            }
            _ => panic!("{error}"),
        }
        let failed = &mut self.sides[side].connection;
        assert_eq!(failed.next_deadline(), None);
        assert_eq!(failed.on_time(self.now), Err(error));
        assert!(failed.pop_writable().is_none());
    }

    /// The connection ends under its streams; another takes its place.
    fn reconnect(&mut self, choices: &mut impl Choices) {
        self.count();
        for side in &mut self.sides {
            let mut taken: Vec<u32> = side
                .connection
                .take_streams()
                .iter()
                .map(|(key, _)| key.id())
                .collect();
            taken.sort_unstable();
            let live: Vec<u32> = side.live.keys().copied().collect();
            assert_eq!(taken, live);
            assert_eq!(side.connection.streams(), 0);
        }
        let (sides, windows) = connect(self.now, choices);
        self.sides = sides;
        self.windows = windows;
        self.referees = referees(windows);
        self.links = [Link::default(), Link::default()];
        self.tally.connections += 1;
    }

    fn count(&mut self) {
        self.tally.streams += self.sides[CLIENT].opened;
    }
}

fn connect(now: Millis, choices: &mut impl Choices) -> ([Side; 2], (u32, u32)) {
    let stream_window = [1000, 16_384, 65_535, 300_000][choices.below(4) as usize];
    let connection_window = [65_535, 100_000, 1 << 20][choices.below(3) as usize];
    let max_streams = [3, 20, 100][choices.below(3) as usize];
    let config = |base: Config| Config {
        stream_window,
        connection_window,
        max_streams,
        ..base
    };
    let client = Connection::new(Role::Client, config(Config::client()), now);
    let server = Connection::new(Role::Server, config(Config::server()), now);
    (
        [Side::new(client), Side::new(server)],
        (stream_window, connection_window),
    )
}

fn referees((stream, connection): (u32, u32)) -> [Referee; 2] {
    [
        Referee::new(stream, connection),
        Referee::new(stream, connection),
    ]
}

fn request() -> ConnectRequest {
    ConnectRequest {
        authority: Authority::Address("10.1.2.3:80".parse().expect("an address")),
        baggage: Some("k8s.namespace.name=shop".into()),
        forwarded: Forwarded::default(),
        traceparent: None,
    }
}
