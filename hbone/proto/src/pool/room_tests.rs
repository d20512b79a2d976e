// SPDX-License-Identifier: Apache-2.0
//! Who makes room for whom.

use super::super::{Acquire, Next, PoolConfig};
use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::SocketAddr;

fn key(workload: u32, n: u16) -> PoolKey {
    PoolKey {
        source_workload: workload,
        source_ip: [10, 0, 0, workload as u8].into(),
        destination: SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 15008)),
        identities: 1,
    }
}

fn pool(max_tunnels: usize, workload_tunnels: usize) -> Pool<u32> {
    Pool::new(PoolConfig {
        max_tunnels,
        workload_tunnels,
        ..PoolConfig::default()
    })
}

fn id(workload: u32, n: u16) -> TunnelId {
    u64::from(workload) << 16 | u64::from(n)
}

/// A tunnel with one stream.
fn busy(pool: &mut Pool<u32>, workload: u32, n: u16) -> bool {
    let key = key(workload, n);
    match pool.acquire(&key, 0) {
        Acquire::Dial => {
            let next = pool.connected(Millis(0), &key, id(workload, n), 100, &mut Vec::new());
            assert_eq!(next, Next::Done);
            true
        }
        Acquire::Full(0) => false,
        other => panic!("{other:?}"),
    }
}

/// A tunnel without streams since `at`.
fn idle(pool: &mut Pool<u32>, workload: u32, n: u16, at: u64) {
    assert!(busy(pool, workload, n));
    assert_eq!(pool.stream_ended(Millis(at), id(workload, n)), None);
}

fn released(pool: &mut Pool<u32>) -> Vec<TunnelId> {
    let mut released = Vec::new();
    pool.expire(Millis(1000), &mut released);
    released
}

#[test]
fn a_pod_over_its_share_loses_its_own_longest_idle() {
    let mut pool = pool(1000, 3);
    idle(&mut pool, 9, 1, 1);
    idle(&mut pool, 1, 1, 30);
    idle(&mut pool, 1, 2, 20);
    idle(&mut pool, 1, 3, 40);
    assert!(busy(&mut pool, 1, 4));
    assert_eq!(released(&mut pool), [id(1, 2)]);
    assert!(busy(&mut pool, 1, 5));
    assert_eq!(
        released(&mut pool),
        [id(1, 1)],
        "not the other pod's, idle for longer"
    );
    assert_eq!(pool.evicted_and_refused(), (2, 0));
}

#[test]
fn a_pod_whose_tunnels_are_all_in_use_may_have_more_while_there_are_enough() {
    let mut pool = pool(40, 3);
    assert!((0..10).all(|n| busy(&mut pool, 1, n)));
    assert!((0..20).all(|n| busy(&mut pool, 2, n)));
    assert!(
        !busy(&mut pool, 1, 30),
        "three quarters are taken, and it has its quarter"
    );
    assert!(busy(&mut pool, 3, 0), "others have not");
    assert_eq!(pool.stream_ended(Millis(9), id(1, 7)), None);
    assert!(busy(&mut pool, 1, 30));
    assert_eq!(released(&mut pool), [id(1, 7)]);
    assert_eq!(pool.evicted_and_refused(), (1, 1));
}

#[test]
fn at_the_cap_of_all_whoever_has_most_pays() {
    let mut pool = pool(40, 100);
    (0..20).for_each(|n| idle(&mut pool, 1, n, 50 + u64::from(n)));
    (0..9).for_each(|n| idle(&mut pool, 2, n, 1));
    (0..9).for_each(|n| idle(&mut pool, 4, n, 1));
    (0..2).for_each(|n| idle(&mut pool, 5, n, 1));
    assert!(busy(&mut pool, 3, 0));
    assert_eq!(released(&mut pool), [id(1, 0)]);
    assert!(busy(&mut pool, 1, 30));
    assert_eq!(
        released(&mut pool),
        [id(1, 1)],
        "its own, though others are idle for longer"
    );
    assert_eq!(pool.len(), 40);
}

#[test]
fn without_an_idle_tunnel_nobody_gets_room() {
    let mut pool = pool(4, 100);
    assert!((0..4).all(|n| busy(&mut pool, u32::from(n), n)));
    assert!(!busy(&mut pool, 8, 0));
    assert_eq!(released(&mut pool), []);
    assert_eq!((pool.len(), pool.evicted_and_refused()), (4, (0, 1)));
}

#[test]
fn waiters_that_no_further_tunnel_may_carry_are_told_so() {
    let mut pool = pool(2, 100);
    assert!(busy(&mut pool, 9, 0));
    let key = key(1, 1);
    assert_eq!(pool.acquire(&key, 1), Acquire::Dial);
    assert_eq!(pool.acquire(&key, 2), Acquire::Wait);
    let mut ready = Vec::new();
    let next = pool.connected(Millis(0), &key, 7, 1, &mut ready);
    assert_eq!((next, ready), (Next::Refused(vec![2]), vec![1]));
}

#[test]
fn a_tunnel_taken_from_one_pool_lives_on_in_another() {
    let (mut here, mut there) = (pool(10, 10), pool(10, 10));
    assert!(busy(&mut here, 1, 1));
    let pooled = here.take(id(1, 1)).unwrap();
    assert!(here.is_empty() && here.shares.is_empty() && here.groups.is_empty());
    there.adopt(Millis(5), &key(1, 1), 77, pooled);
    assert_eq!(there.acquire(&key(1, 1), 4), Acquire::Use(77, 4));
    assert_eq!(there.stream_ended(Millis(6), 77), None);
    assert_eq!(there.stream_ended(Millis(7), 77), None);
    assert_eq!(there.idle.first(), Some(&(Millis(7), 77)));
}

proptest! {
    /// Pods come as they like: a pod within its share never loses a tunnel to one with more than
    /// itself, busy tunnels are never released, and the cap holds.
    #[test]
    fn the_cap_holds_and_the_small_keep_theirs(
        acts in prop::collection::vec((0..4_u32, 0..40_u16, any::<bool>()), 1..400)
    ) {
        let mut pool = pool(24, 8);
        let mut streams: HashMap<TunnelId, u32> = HashMap::new();
        for (now, (workload, n, ends)) in acts.into_iter().enumerate() {
            // Pod 0 dials most: it has all forty peers, the others four each.
            let n = if workload == 0 { n } else { n % 4 };
            let (key, name) = (key(workload, n), id(workload, n));
            let before: HashMap<u32, usize> =
                pool.shares.iter().map(|(&w, share)| (w, share.tunnels)).collect();
            if ends {
                if streams.get(&name).is_some_and(|&count| count > 0) {
                    prop_assert_eq!(pool.stream_ended(Millis(now as u64), name), None);
                    *streams.get_mut(&name).unwrap() -= 1;
                }
            } else {
                match pool.acquire(&key, 0) {
                    Acquire::Use(found, _) => *streams.get_mut(&found).unwrap() += 1,
                    Acquire::Dial => {
                        let at = Millis(now as u64);
                        let next = pool.connected(at, &key, name, 100, &mut Vec::new());
                        prop_assert_eq!(next, Next::Done);
                        prop_assert_eq!(streams.insert(name, 1), None);
                    }
                    _ => {}
                }
            }
            let mut gone = Vec::new();
            pool.expire(Millis(now as u64), &mut gone);
            for name in gone {
                prop_assert_eq!(streams.remove(&name), Some(0), "in use");
                let payer = (name >> 16) as u32;
                prop_assert!(payer == workload || before[&payer] > before.get(&workload).copied().unwrap_or(0));
            }
            prop_assert!(pool.len() <= 24);
            prop_assert_eq!(pool.len(), streams.len());
        }
    }
}
