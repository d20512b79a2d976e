// SPDX-License-Identifier: Apache-2.0
//! Handshakes: with arbitrary bytes, with real flights that were edited on the way, and with an
//! independent peer that proves anything but what it should.
//!
//! Input: a byte of kind, one for the pieces in which bytes arrive, then bytes, edits, or a peer.
//! Held: no panic; `step` takes no more than it was given; an error is final and stays the same; a
//! handshake succeeds with whom it may, and (for the peer) if and only if it may.
#![no_main]

use std::cell::LazyCell;

use hbone_fuzz::certificates::{CLIENT, Ca, SERVER, id};
use hbone_fuzz::tls::{Material, PeerOptions, shake};
use hbone_fuzz::{Input, cut};
use hbone_tls::{ExpectedPeers, Handshake, SpiffeId, Svid};
use libfuzzer_sys::fuzz_target;

struct World {
    ca: Ca,
    foreign: Ca,
    svids: [Svid; 2],
}

thread_local! {
    static WORLD: LazyCell<World> = LazyCell::new(|| {
        let ca = Ca::default();
        let svids = [ca.svid(CLIENT), ca.svid(SERVER)];
        World { ca, foreign: Ca::default(), svids }
    });
}

impl World {
    fn ours(&self, server: bool) -> Handshake {
        let expected = ExpectedPeers::from(id(SERVER));
        if server {
            Handshake::server(&self.svids[1]).expect("randomness")
        } else {
            Handshake::client(&self.svids[0], &expected).expect("randomness")
        }
    }
}

/// One end and what it has received and not consumed.
struct End {
    handshake: Handshake,
    received: Vec<u8>,
    done: bool,
    failed: bool,
}

impl End {
    fn new(handshake: Handshake) -> Self {
        Self {
            handshake,
            received: Vec::new(),
            done: false,
            failed: false,
        }
    }

    fn step(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.received.extend_from_slice(bytes);
        if self.done {
            return;
        }
        match self.handshake.step(&mut self.received, out) {
            Ok(step) => {
                assert!(!self.failed && step.consumed <= self.received.len());
                self.received.drain(..step.consumed);
                self.done = step.done;
            }
            Err(error) => {
                self.failed = true;
                let again = self.handshake.step(&mut [], &mut Vec::new());
                assert_eq!(again.map(|_| ()), Err(error));
            }
        }
    }
}

fn raw(world: &World, server: bool, seed: u8, bytes: &[u8]) {
    let mut end = End::new(world.ours(server));
    end.step(&[], &mut Vec::new());
    let mut answer = Vec::new();
    for piece in cut(bytes, seed) {
        end.step(piece, &mut answer);
        assert!(!end.done, "nobody guesses a handshake");
        assert!(answer.len() < 10_000);
    }
}

/// Edits a flight: exchange, cut out, repeat or insert, at an offset.
fn edit(flight: &mut Vec<u8>, input: &mut Input<'_>) {
    if flight.is_empty() {
        return;
    }
    let (op, at, value) = (
        input.byte(),
        usize::from(input.word()) % flight.len(),
        input.byte(),
    );
    match op % 5 {
        0 | 1 => flight[at] ^= value,
        2 => drop(flight.drain(at..(at + usize::from(value)).min(flight.len()))),
        3 => {
            let part = flight[at..(at + usize::from(value)).min(flight.len())].to_vec();
            flight.splice(at..at, part);
        }
        _ => {
            let part = input.take(usize::from(value)).to_vec();
            flight.splice(at..at, part);
        }
    }
}

fn edited(world: &World, seed: u8, mut input: Input<'_>) {
    let mut ends = [false, true].map(|server| End::new(world.ours(server)));
    let mut flight = Vec::new();
    ends[0].step(&[], &mut flight);
    // Three flights are a handshake; alerts may follow.
    for turn in 0..5 {
        let edits = if input.is_empty() {
            0
        } else {
            input.byte() % 4
        };
        (0..edits).for_each(|_| edit(&mut flight, &mut input));
        let to = &mut ends[(turn + 1) % 2];
        let mut answer = Vec::new();
        for piece in cut(&flight, seed) {
            to.step(piece, &mut answer);
        }
        flight = answer;
    }
    for (end, peer) in ends.into_iter().zip([SERVER, CLIENT]) {
        if end.done && !end.failed {
            let session = end.handshake.finish().expect("a session when done");
            assert_eq!(session.peer(), &id(peer));
        } else {
            assert!(end.handshake.finish().is_err());
        }
    }
}

/// An independent peer whose certificate, chain and protocols follow from the input.
fn stranger(world: &World, server: bool, seed: u8, mut input: Input<'_>) {
    let (options, alpn) = (input.byte(), input.byte());
    let names = String::from_utf8_lossy(input.0).into_owned();
    let names: Vec<&str> = names.split('\n').take(8).collect();
    let ca = if options & 1 == 0 {
        &world.ca
    } else {
        &world.foreign
    };
    let Some(leaf) = ca.leaf(&names) else { return };
    let mut peer = PeerOptions::new(Material {
        chain: vec![leaf],
        key: ca.key(),
    });
    if options & 2 != 0 && server {
        peer.identity = None;
    }
    peer.max_fragment = (options & 4 != 0).then_some(100);
    peer.tickets = usize::from(options >> 6);
    peer.alpn = match alpn % 4 {
        0 | 1 => vec![b"h2".to_vec()],
        2 => vec![],
        _ => vec![b"http/1.1".to_vec()],
    };
    let has_identity = peer.identity.is_some();
    let mut peer = if server { peer.client() } else { peer.server() };
    let chunk = if seed == 0 {
        usize::MAX
    } else {
        usize::from(seed)
    };
    let outcome = shake(world.ours(server), &mut peer, chunk);

    let only = match names[..] {
        [only] => SpiffeId::parse(only).ok(),
        _ => None,
    };
    let proved = only.filter(|only| {
        if server {
            only.trust_domain() == "cluster.local"
        } else {
            only == &id(SERVER)
        }
    });
    let may = options & 1 == 0 && has_identity && alpn % 4 < 2;
    let session = outcome.ours.map(|session| session.peer().clone());
    assert_eq!(session.ok(), proved.filter(|_| may));
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (kind, seed) = (input.byte(), input.byte());
    let server = kind & 0x80 != 0;
    WORLD.with(|world| match kind % 4 {
        0 => raw(world, server, seed, input.0),
        1 | 2 => edited(world, seed, input),
        _ => stranger(world, server, seed, input),
    });
});
