// SPDX-License-Identifier: Apache-2.0
//! The pool, one conversation per test.

use super::*;
use proptest::prelude::*;

fn key(n: u8) -> PoolKey {
    let destination = SocketAddr::from(([10, 0, 1, n], 15008));
    PoolKey {
        source_workload: 1,
        source_ip: [10, 0, 0, 1].into(),
        destination,
        identities: 1,
    }
}

fn pool(max_streams: u32, max_tunnels: usize) -> Pool<u32> {
    Pool::new(PoolConfig {
        max_streams,
        idle: Millis(100),
        max_tunnels,
        workload_tunnels: 100,
        max_waiters: 4,
    })
}

/// Acquires `waiter` by a dial that succeeds at once.
fn dial(pool: &mut Pool<u32>, now: u64, key: &PoolKey, id: TunnelId, waiter: u32) {
    assert_eq!(pool.acquire(key, waiter), Acquire::Dial);
    let mut ready = Vec::new();
    assert_eq!(
        pool.connected(Millis(now), key, id, u32::MAX, &mut ready),
        Next::Done
    );
    assert_eq!(ready, [waiter]);
}

#[test]
fn one_dial_at_a_time_and_waiters_fill_tunnels() {
    let mut pool = pool(2, 10);
    assert_eq!(pool.acquire(&key(1), 1), Acquire::Dial);
    assert_eq!(pool.acquire(&key(1), 2), Acquire::Wait);
    assert_eq!(pool.acquire(&key(1), 3), Acquire::Wait);
    assert_eq!(
        pool.acquire(&key(2), 9),
        Acquire::Dial,
        "other keys do not wait"
    );
    assert_eq!(pool.acquire(&key(1), 4), Acquire::Wait);
    assert_eq!(pool.acquire(&key(1), 5), Acquire::Full(5));
    let mut ready = Vec::new();
    assert_eq!(
        pool.connected(Millis(0), &key(1), 7, 100, &mut ready),
        Next::DialAgain,
        "two remain"
    );
    assert_eq!(ready, [1, 2]);
    assert_eq!(pool.acquire(&key(1), 6), Acquire::Wait);
    assert_eq!(
        pool.stream_ended(Millis(1), 7),
        Some(3),
        "a freed slot goes to who waits"
    );
    ready.clear();
    assert_eq!(
        pool.connected(Millis(2), &key(1), 8, 100, &mut ready),
        Next::Done
    );
    assert_eq!(ready, [4, 6]);
}

#[test]
fn a_full_tunnel_is_used_again_once_streams_end() {
    let mut pool = pool(1, 10);
    dial(&mut pool, 0, &key(1), 7, 1);
    assert_eq!(pool.acquire(&key(1), 2), Acquire::Dial);
    assert_eq!(pool.dial_failed(&key(1)), [2]);
    assert_eq!(pool.stream_ended(Millis(1), 7), None);
    assert_eq!(pool.acquire(&key(1), 3), Acquire::Use(7, 3));
}

#[test]
fn what_a_peer_allows_holds_for_its_next_tunnel_too() {
    let mut pool = pool(100, 10);
    assert_eq!(pool.acquire(&key(1), 1), Acquire::Dial);
    assert_eq!(pool.acquire(&key(1), 2), Acquire::Wait);
    let mut ready = Vec::new();
    let next = pool.connected(Millis(0), &key(1), 7, u32::MAX, &mut ready);
    assert_eq!(next, Next::Done);
    assert!(!pool.is_over_limit(7));
    pool.set_limit(7, 1);
    assert!(pool.is_over_limit(7), "the second will be refused");
    assert_eq!(pool.stream_ended(Millis(1), 7), None);
    assert!(!pool.is_over_limit(7));
    assert_eq!(pool.acquire(&key(1), 2), Acquire::Dial, "but not the first");
    assert_eq!(pool.acquire(&key(1), 3), Acquire::Wait);
    ready.clear();
    let next = pool.connected(Millis(2), &key(1), 8, u32::MAX, &mut ready);
    assert_eq!(next, Next::DialAgain);
    assert_eq!(ready, [2]);
}

#[test]
fn what_the_key_holds_keeps_apart() {
    let mut pool = pool(10, 10);
    dial(&mut pool, 0, &key(1), 7, 1);
    for other in [
        PoolKey {
            source_workload: 2,
            ..key(1)
        },
        PoolKey {
            source_ip: [10, 0, 0, 2].into(),
            ..key(1)
        },
        PoolKey {
            identities: 2,
            ..key(1)
        },
        key(2),
    ] {
        assert_eq!(pool.acquire(&other, 2), Acquire::Dial);
    }
    assert_eq!(pool.acquire(&key(1), 3), Acquire::Use(7, 3));
}

#[test]
fn idle_tunnels_are_released_and_busy_ones_are_not() {
    let mut pool = pool(10, 10);
    dial(&mut pool, 0, &key(1), 7, 1);
    dial(&mut pool, 0, &key(2), 8, 2);
    assert_eq!(pool.next_deadline(), None);
    assert_eq!(pool.stream_ended(Millis(50), 7), None);
    assert_eq!(pool.next_deadline(), Some(Millis(150)));
    let mut released = Vec::new();
    pool.expire(Millis(149), &mut released);
    assert_eq!(released, []);
    pool.expire(Millis(150), &mut released);
    assert_eq!(released, [7]);
    assert_eq!(pool.acquire(&key(1), 3), Acquire::Dial, "forgotten");
    assert_eq!(pool.len(), 1);
}

#[test]
fn a_retired_tunnel_takes_nothing_new() {
    let mut pool = pool(10, 10);
    dial(&mut pool, 0, &key(1), 7, 1);
    pool.retire(7);
    pool.retire(7);
    assert_eq!(pool.acquire(&key(1), 2), Acquire::Dial);
    assert_eq!(
        pool.stream_ended(Millis(1), 7),
        None,
        "its slot is nobody's"
    );
    let mut released = Vec::new();
    pool.expire(Millis(1), &mut released);
    assert_eq!(released, [7]);
    assert_eq!(pool.dial_failed(&key(1)), [2]);
    assert!(pool.is_empty() && pool.groups.is_empty() && pool.spent.is_empty());
}

#[test]
fn settings_narrow_and_widen_a_tunnel() {
    let mut pool = pool(10, 10);
    dial(&mut pool, 0, &key(1), 7, 1);
    pool.set_limit(7, 1);
    assert_eq!(pool.acquire(&key(1), 2), Acquire::Dial);
    pool.set_limit(7, 1000);
    assert_eq!(pool.acquire(&key(1), 3), Acquire::Use(7, 3));
}

#[test]
fn a_removed_peer_is_found_by_key() {
    let mut pool = pool(10, 10);
    dial(&mut pool, 0, &key(1), 7, 1);
    dial(&mut pool, 0, &key(2), 8, 1);
    assert_eq!(pool.matching(|k| k.destination == key(2).destination), [8]);
    pool.remove(8);
    assert_eq!(pool.len(), 1);
    assert_eq!(
        pool.stream_ended(Millis(0), 8),
        None,
        "unknown tunnels are ignored"
    );
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Acquire(u8),
    Connected(u8),
    Failed(u8),
    Ended(usize),
    Retire(usize),
    Remove(usize),
    Expire,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..3u8).prop_map(Act::Acquire),
        3 => (0..3u8).prop_map(Act::Connected),
        1 => (0..3u8).prop_map(Act::Failed),
        5 => any::<usize>().prop_map(Act::Ended),
        1 => any::<usize>().prop_map(Act::Retire),
        1 => any::<usize>().prop_map(Act::Remove),
        1 => Just(Act::Expire),
    ]
}

proptest! {
    /// No slot is given twice, no waiter lost, nobody waits without a dial, all is forgotten at last.
    #[test]
    fn slots_and_waiters_balance(acts in prop::collection::vec(act(), 0..300)) {
        let mut pool = pool(3, 4);
        let mut open: Vec<TunnelId> = Vec::new(); // one entry per stream
        let mut waiting = 0usize;
        let (mut now, mut next) = (1, 1);
        for act in acts {
            now += 7;
            match act {
                Act::Acquire(n) => match pool.acquire(&key(n), 0) {
                    Acquire::Use(id, _) => open.push(id),
                    Acquire::Dial | Acquire::Wait => waiting += 1,
                    Acquire::Full(_) => {}
                },
                Act::Connected(n) if pool.groups.get(&key(n)).is_some_and(|g| g.dialing) => {
                    let mut ready = Vec::new();
                    match pool.connected(Millis(now), &key(n), next, 100, &mut ready) {
                        Next::Done => prop_assert!(!pool.groups[&key(n)].dialing),
                        Next::DialAgain => prop_assert!(pool.groups[&key(n)].dialing),
                        Next::Refused(who) => waiting -= who.len(),
                    }
                    waiting -= ready.len();
                    open.extend(ready.iter().map(|_| next));
                    next += 1;
                }
                Act::Failed(n) => waiting -= pool.dial_failed(&key(n)).len(),
                Act::Ended(at) if !open.is_empty() => {
                    let id = open.swap_remove(at % open.len());
                    if pool.stream_ended(Millis(now), id).is_some() {
                        waiting -= 1;
                        open.push(id);
                    }
                }
                Act::Retire(at) if !open.is_empty() => pool.retire(open[at % open.len()]),
                Act::Remove(at) if !open.is_empty() => {
                    let id = open[at % open.len()];
                    pool.remove(id);
                    open.retain(|&other| other != id);
                }
                Act::Expire => {
                    let mut released = Vec::new();
                    pool.expire(Millis(now), &mut released);
                    prop_assert!(released.iter().all(|id| !open.contains(id)));
                }
                _ => {}
            }
            for (id, tunnel) in &pool.tunnels {
                let streams = open.iter().filter(|&o| o == id).count();
                prop_assert_eq!(tunnel.streams as usize, streams);
                prop_assert!(streams <= 3);
            }
            prop_assert_eq!(pool.groups.values().map(|g| g.waiters.len()).sum::<usize>(), waiting);
            prop_assert!(pool.groups.values().all(|g| g.dialing || g.waiters.is_empty()));
            pool.assert_shares();
        }
        for n in 0..3 {
            let _ = pool.dial_failed(&key(n));
        }
        for id in std::mem::take(&mut open) {
            let _ = pool.stream_ended(Millis(now), id);
        }
        let mut released = Vec::new();
        pool.expire(Millis(now + 1000), &mut released);
        prop_assert!(pool.is_empty() && pool.groups.is_empty() && pool.idle.is_empty());
    }
}

impl<W> Pool<W> {
    /// What is counted of each workload is what there is.
    fn assert_shares(&self) {
        let dialling = self.groups.values().filter(|group| group.dialing).count();
        assert_eq!(dialling, self.dialling);
        let counted: usize = self.shares.values().map(|share| share.tunnels).sum();
        assert_eq!(counted, self.tunnels.len() + dialling);
        assert!(self.tunnels.len() + dialling <= self.config.max_tunnels + self.spent.len());
    }
}
