// SPDX-License-Identifier: Apache-2.0
//! Who may fill the queue of events: nobody alone.
//!
//! A refusal costs its sender one small frame, and an event costs us a line of the log. So of what
//! was refused, an address may have so many events a second told; the rest is counted, and its next
//! event says how many were withheld. What carried bytes is always told.

use crate::event::{Event, EventKind};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Refusals of one address that are told in a second, by each worker. A person reads a few, a
/// dashboard counts by the metric, which knows all; the queue holds 65,536.
pub(crate) const REFUSALS_TOLD: u32 = 200;

const WINDOW: Duration = Duration::from_secs(1);

/// Addresses that share a place share its allowance; a flood from many is bounded by all of them.
const PLACES: usize = 256;

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    began: Option<Instant>,
    told: u32,
    withheld: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Fairness {
    places: Box<[Place]>,
}

impl Default for Fairness {
    fn default() -> Self {
        Self {
            places: vec![Place::default(); PLACES].into_boxed_slice(),
        }
    }
}

impl Fairness {
    /// Whether the event is to be told; one that is says in its detail how many were not.
    pub fn admit(&mut self, event: &mut Event, now: Instant) -> bool {
        let Some(address) = refused(event) else {
            return true;
        };
        let place = &mut self.places[place_of(address)];
        if place.began.is_none_or(|began| now - began >= WINDOW) {
            place.began = Some(now);
            place.told = 0;
        }
        if place.told >= REFUSALS_TOLD {
            place.withheld += 1;
            return false;
        }
        place.told += 1;
        if place.withheld > 0 {
            let more = std::mem::take(&mut place.withheld);
            let gap = if event.detail.is_empty() { "" } else { "; " };
            event.detail += &format!("{gap}{more} refusals before it were not told");
        }
        true
    }
}

/// The address whose refusal this is, if it is one.
fn refused(event: &Event) -> Option<IpAddr> {
    let nothing = event.bytes_sent == 0 && event.bytes_received == 0;
    let refusal = match event.kind {
        EventKind::HandshakeFailed | EventKind::CaptureRefused => true,
        EventKind::ConnectionClosed => event.reason != 0 && nothing,
        _ => false,
    };
    event.source.filter(|_| refusal).map(|source| source.ip())
}

fn place_of(address: IpAddr) -> usize {
    let fold = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = match address {
        IpAddr::V4(v4) => v4.octets().iter().fold(0x811c_9dc5, fold),
        IpAddr::V6(v6) => v6.octets().iter().fold(0x811c_9dc5, fold),
    };
    (hash ^ hash >> 16) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(source: &str) -> Event {
        let mut event = Event::new(EventKind::ConnectionClosed);
        event.source = Some(source.parse().unwrap());
        event.reason = 27;
        event
    }

    #[test]
    fn a_flood_takes_its_own_share_and_says_what_was_withheld() {
        let (mut fairness, now) = (Fairness::default(), Instant::now());
        let mut admit = |source: &str, now| fairness.admit(&mut refusal(source), now);
        let told = (0..1000).filter(|_| admit("10.0.0.1:5", now)).count();
        assert_eq!(told, REFUSALS_TOLD as usize);
        assert!(admit("10.0.0.2:5", now), "another address");
        let mut next = refusal("10.0.0.1:5");
        assert!(fairness.admit(&mut next, now + WINDOW));
        assert_eq!(next.detail, "800 refusals before it were not told");
    }

    #[test]
    fn what_carried_bytes_or_ended_in_order_is_always_told() {
        let (mut fairness, now) = (Fairness::default(), Instant::now());
        for _ in 0..2 * REFUSALS_TOLD {
            let mut event = refusal("10.0.0.1:5");
            event.bytes_sent = 1;
            assert!(fairness.admit(&mut event, now));
            event = refusal("10.0.0.1:5");
            event.reason = 0;
            assert!(fairness.admit(&mut event, now));
        }
    }
}
