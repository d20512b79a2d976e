// SPDX-License-Identifier: Apache-2.0
//! How a handful of heavy tunnels spreads over the workers: CPU of each worker's thread.
//!
//!     cargo run --release -p hbone-core --example balance -- WORKERS TUNNELS SECONDS TRIALS
//!
//! Two cores on loopback, as in the tests. Each trial has other addresses, so other pool keys.
//! Prints one line a trial: throughput, and for client and server the CPU of each worker in percent
//! of the side's, the busiest first.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/many.rs"]
mod many;

use many::Many;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    let argument = |place, default| {
        let given = std::env::args().nth(place);
        given.map_or(default, |text| text.parse().expect("a number"))
    };
    let (workers, tunnels) = (argument(1, 2), argument(2, 4));
    let (seconds, trials) = (argument(3, 6), argument(4, 4));
    for trial in 0..trials {
        measure(workers, tunnels, Duration::from_secs(seconds as u64), trial);
    }
}

fn measure(workers: usize, tunnels: usize, time: Duration, trial: usize) {
    let many = Many::new(100 + trial as u8, tunnels, |config| {
        config.workers = workers
    });
    let stop = Arc::new(AtomicBool::new(false));
    let carried = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for n in 0..tunnels {
        let (near, far) = many.connect(n);
        let (stopped, stopped_too) = (stop.clone(), stop.clone());
        let carried = carried.clone();
        threads.push(thread::spawn(move || write(near, &stopped)));
        threads.push(thread::spawn(move || read(far, &stopped_too, &carried)));
    }
    let half = time / 2;
    thread::sleep(half);
    let (before, bytes, began) = (cpu(), carried.load(Ordering::Relaxed), Instant::now());
    thread::sleep(half);
    let (after, bytes) = (cpu(), carried.load(Ordering::Relaxed) - bytes);
    let rate = bytes as f64 * 8e-9 / began.elapsed().as_secs_f64();
    let used: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    println!(
        "{workers} workers, {tunnels} tunnels: {rate:.1} Gb/s, client {}, server {}",
        shares(&used[..workers]),
        shares(&used[workers..])
    );
    stop.store(true, Ordering::Relaxed);
    many.client.stop();
    many.server.stop();
    threads.into_iter().for_each(|t| drop(t.join()));
}

fn write(mut near: TcpStream, stop: &AtomicBool) {
    let block = vec![7; 256 * 1024];
    while !stop.load(Ordering::Relaxed) && near.write_all(&block).is_ok() {}
}

fn read(mut far: TcpStream, stop: &AtomicBool, carried: &AtomicU64) {
    let mut block = vec![0; 256 * 1024];
    while !stop.load(Ordering::Relaxed)
        && let Ok(count @ 1..) = far.read(&mut block)
    {
        carried.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// CPU so far of each worker's thread, in microseconds (proc(5), schedstat); the client's first.
fn cpu() -> Vec<u64> {
    let mut threads: Vec<(u32, u64)> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with("hbone-") {
            let used = std::fs::read_to_string(entry.path().join("schedstat")).unwrap();
            let nanos: u64 = used.split(' ').next().unwrap().parse().unwrap();
            let tid = entry.file_name().into_string().unwrap();
            threads.push((tid.parse().unwrap(), nanos / 1000));
        }
    }
    threads.sort_unstable();
    threads.into_iter().map(|(_, used)| used).collect()
}

fn shares(used: &[u64]) -> String {
    let total = used.iter().sum::<u64>().max(1);
    let mut shares: Vec<u64> = used
        .iter()
        .map(|part| (part * 100 + total / 2) / total)
        .collect();
    shares.sort_unstable_by(|a, b| b.cmp(a));
    format!("{shares:?} %")
}
