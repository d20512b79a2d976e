// SPDX-License-Identifier: Apache-2.0
//! Where connections go, whatever the workers' loads do.

use super::*;
use proptest::prelude::*;

fn loads(busy: &[u32]) -> impl Fn(usize) -> Load + Copy {
    move |worker| Load {
        busy: busy[worker],
        placed: 0,
    }
}

#[test]
fn a_new_key_goes_to_the_least_busy_and_ties_to_who_has_least() {
    let busy = |worker: usize| Load {
        busy: [620, 40, 90][worker],
        placed: [0, 3, 2][worker],
    };
    let (slot, worker) = Slot::default().route(3, busy, 0, 0);
    assert_eq!((worker, slot.holds()), (2, 1));
}

#[test]
fn a_saturated_key_gets_a_further_worker_once_it_has_settled() {
    let (slot, owner) = Slot::default().route(2, loads(&[0, 0]), 250, 0);
    assert_eq!(owner, 0);
    let (early, _) = slot.route(2, loads(&[1000, 0]), 255, 0);
    assert!(!early.has(1), "it has not settled");
    let (unsure, _) = slot.route(2, loads(&[1000, 701]), 2, 0);
    assert!(!unsure.has(1), "nobody is idle");
    let (spilt, _) = slot.route(2, loads(&[1000, 700]), 2, 0);
    assert!(spilt.has(0) && spilt.has(1));
    let to_the_new =
        (0..1000).filter(|&random| spilt.route(2, loads(&[1000, 0]), 2, random).1 == 1);
    assert!(to_the_new.count() > 900);
    let (calm, _) = spilt.route(2, loads(&[300, 200]), 10, 0);
    assert_eq!(calm.members().collect::<Vec<_>>(), [0]);
    assert_eq!(calm.holds(), 3);
}

#[test]
fn the_last_one_out_leaves_it_to_whoever_is_idle_then() {
    let (slot, _) = Slot::default().route(2, loads(&[0, 500]), 0, 0);
    let slot = slot.hold().release().release();
    assert_eq!(slot, Slot::default());
    assert_eq!(slot.route(2, loads(&[500, 0]), 1, 0).1, 1);
}

#[test]
fn a_moved_tunnel_takes_its_key_along() {
    let (slot, _) = Slot::default().route(3, loads(&[0, 0, 0]), 0, 0);
    let moved = slot.moved(0, 2, 1);
    assert_eq!(moved.members().collect::<Vec<_>>(), [2]);
    assert_eq!(moved.moved(0, 1, 2), moved, "it had gone already");
    assert_eq!(moved.holds(), 1);
}

/// What the outside does to a slot.
#[derive(Debug, Clone)]
enum Step {
    Connect(u64),
    End,
    Loads(Vec<u32>),
    Tick(u8),
    Move(usize, usize),
}

const WORKERS: usize = 6;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u64>().prop_map(Step::Connect),
        3 => Just(Step::End),
        2 => prop::collection::vec(0..=1000_u32, WORKERS).prop_map(Step::Loads),
        2 => (0..20_u8).prop_map(Step::Tick),
        1 => (0..WORKERS, 0..WORKERS).prop_map(|(from, to)| Step::Move(from, to)),
    ]
}

proptest! {
    /// Each connection goes to a member; there are further members only if every one before was
    /// saturated while another had room; holds are those of the connections that are open.
    #[test]
    fn one_owner_unless_saturated(steps in prop::collection::vec(step(), 1..200)) {
        let (mut slot, mut open) = (Slot::default(), 0_u64);
        let (mut busy, mut tick, mut changed) = (vec![0; WORKERS], 0_u8, 0_u32);
        let mut elapsed = 0_u32;
        for step in steps {
            match step {
                Step::Loads(new) => busy = new,
                Step::Tick(by) => {
                    tick = tick.wrapping_add(by);
                    elapsed += u32::from(by);
                }
                Step::End if open > 0 => {
                    slot = slot.release();
                    open -= 1;
                }
                Step::End => {}
                Step::Move(from, to) => {
                    let next = slot.moved(from, to, tick);
                    prop_assert_eq!(next.members().count(), slot.members().count());
                    if next != slot {
                        changed = elapsed;
                    }
                    slot = next;
                }
                Step::Connect(random) => {
                    let load = |worker: usize| Load { busy: busy[worker], placed: 0 };
                    let before: Vec<usize> = slot.members().collect();
                    let (next, worker) = slot.route(WORKERS, load, tick, random);
                    prop_assert!(next.has(worker));
                    let after: Vec<usize> = next.members().collect();
                    if before.is_empty() {
                        prop_assert_eq!(after.len(), 1);
                        changed = elapsed;
                    } else if after.len() > before.len() {
                        let new = after[before.len()];
                        prop_assert_eq!(&after[..before.len()], &before[..]);
                        prop_assert!(before.iter().all(|&w| busy[w] >= SATURATED.max(busy[new] + GAP)));
                        prop_assert!(elapsed - changed >= u32::from(SETTLE));
                        changed = elapsed;
                    } else if after.len() < before.len() {
                        prop_assert_eq!(&after[..], &before[..1]);
                        prop_assert!(elapsed - changed >= u32::from(SETTLE));
                        changed = elapsed;
                    } else {
                        prop_assert_eq!(after, before);
                    }
                    slot = next;
                    open += 1;
                }
            }
            prop_assert_eq!(slot.holds(), open);
            let mut members: Vec<usize> = slot.members().collect();
            prop_assert!(members.len() <= MEMBERS && members.iter().all(|&w| w < WORKERS));
            members.sort_unstable();
            members.dedup();
            prop_assert_eq!(members.len(), slot.members().count(), "a worker twice");
            prop_assert_eq!(open == 0, slot == Slot::default());
        }
    }
}
