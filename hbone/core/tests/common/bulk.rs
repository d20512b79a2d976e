// SPDX-License-Identifier: Apache-2.0
//! The victim's bulk transfer: a stream of known bytes through the tunnel, both ways, checked as it
//! comes and counted.

use super::{Pair, noise};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A prime, so that no record or frame begins twice at the same byte of it.
const PERIOD: usize = 65_521;

pub struct Bulk {
    stop: Arc<AtomicBool>,
    /// Bytes that arrived as they were sent: towards the application, and back.
    arrived: [Arc<AtomicU64>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    pub fn start(pair: &Pair) -> Self {
        let (near, far) = pair.connect();
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let mut threads = Vec::new();
        for (count, from, to) in [(&arrived[0], &near, &far), (&arrived[1], &far, &near)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let (stop, count) = (stop.clone(), count.clone());
            threads.push(thread::spawn(move || send(from, &stop)));
            threads.push(thread::spawn(move || check(to, &count)));
        }
        let bulk = Self {
            stop,
            arrived,
            threads,
        };
        bulk.wait_for(1 << 20);
        bulk
    }

    /// How much arrived so far, in the direction that got less.
    pub fn arrived(&self) -> u64 {
        let counts = self.arrived.each_ref().map(|n| n.load(Ordering::Relaxed));
        counts[0].min(counts[1])
    }

    /// Until so much more has arrived in each direction.
    pub fn wait_for(&self, more: u64) {
        let (wanted, began) = (self.arrived() + more, Instant::now());
        while self.arrived() < wanted {
            let waited = began.elapsed();
            assert!(
                waited < super::PATIENCE,
                "the victim got {} of {wanted} bytes in {waited:?}",
                self.arrived()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it in order: every byte that was sent has arrived.
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("the victim's bytes");
        }
        self.arrived
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

fn send(mut to: TcpStream, stop: &AtomicBool) {
    let block = noise(PERIOD, 3);
    while !stop.load(Ordering::Relaxed) {
        to.write_all(&block).expect("the victim may send");
    }
    to.shutdown(std::net::Shutdown::Write).unwrap();
}

fn check(mut from: TcpStream, count: &AtomicU64) {
    let expected = noise(PERIOD, 3).repeat(2);
    let (mut buffer, mut at) = (vec![0; PERIOD], 0);
    loop {
        let got = from.read(&mut buffer).expect("the victim may read");
        if got == 0 {
            assert_eq!(at, 0, "the end came in the middle of a block");
            return;
        }
        assert!(buffer[..got] == expected[at..at + got], "wrong bytes");
        at = (at + got) % PERIOD;
        count.fetch_add(got as u64, Ordering::Relaxed);
    }
}
