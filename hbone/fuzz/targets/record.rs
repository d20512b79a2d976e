// SPDX-License-Identifier: Apache-2.0
//! Two established sessions and a wire between them that an attacker owns, and a peer with the right
//! keys that sends what no honest one would.
//!
//! Input: operations, a byte each with its arguments behind it.
//! Held: no panic; data that was opened is what was sealed, in order; what was touched is refused;
//! a session that failed stays failed and has at most one alert to say.
#![no_main]

use std::cell::LazyCell;

use hbone_fuzz::Input;
use hbone_fuzz::certificates::{CLIENT, Ca, SERVER};
use hbone_fuzz::tls::session_pair;
use hbone_tls::{HEADER_LEN, OVERHEAD, Opened, RecordError, Session, Svid, fuzzing};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static SVIDS: LazyCell<[Svid; 2]> = LazyCell::new(|| {
        let ca = Ca::default();
        [ca.svid(CLIENT), ca.svid(SERVER)]
    });
}

/// More work says nothing new, and key updates are slow.
const MAX_STEPS: usize = 200;

struct Side {
    session: Session,
    failed: bool,
    closed: bool,
    /// It was told that the peer sends no more.
    heard_close: bool,
}

impl Side {
    fn new(session: Session) -> Self {
        Self {
            session,
            failed: false,
            closed: false,
            heard_close: false,
        }
    }

    /// Opens a record; `sealed` is what an untouched one holds.
    fn open(&mut self, mut record: Vec<u8>, sealed: Option<&[u8]>) {
        let Some(&header) = record.first_chunk::<HEADER_LEN>() else {
            return;
        };
        let body = &mut record[HEADER_LEN..];
        let opened = self.session.open(header, body);
        if self.failed {
            assert_eq!(opened, Err(RecordError::Ended));
            return;
        }
        if self.heard_close {
            assert_eq!(opened, Ok(Opened::Close));
            return;
        }
        match opened {
            Ok(Opened::Data(len)) => assert_eq!(Some(&body[..len]), sealed),
            Ok(Opened::Control) => {}
            Ok(Opened::Close) => self.heard_close = true,
            Err(_) => self.failed = true,
        }
    }

    fn seal(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        let mut record = vec![0; OVERHEAD + data.len()];
        record[HEADER_LEN..HEADER_LEN + data.len()].copy_from_slice(data);
        let sealed = self.session.seal(&mut record);
        assert_eq!(sealed.is_ok(), !self.failed && !self.closed, "{sealed:?}");
        sealed.ok().map(|()| record)
    }
}

fn step(sides: &mut [Side; 2], input: &mut Input<'_>) {
    let op = input.byte();
    let [from, to] = sides;
    let (from, to) = if op & 0x80 == 0 {
        (from, to)
    } else {
        (to, from)
    };
    match op % 8 {
        0 | 1 => {
            let length = usize::from(input.byte()) * if op & 0x40 == 0 { 1 } else { 64 };
            let data: Vec<u8> = (0..length).map(|at| at as u8).collect();
            if let Some(record) = from.seal(&data) {
                to.open(record, Some(&data));
            }
        }
        2 => {
            let (typ, length) = (input.byte(), usize::from(input.byte()));
            let content = input.take(length);
            // The type is the last byte that is not 0; zeros behind it are padding.
            let inner = [content, &[typ]].concat();
            let end = inner.iter().rposition(|&byte| byte != 0);
            let sealed = end.filter(|&end| inner[end] == 23).map(|end| &inner[..end]);
            if let Ok(record) = fuzzing::seal_as(&mut from.session, typ, content) {
                to.open(record, sealed);
            }
        }
        3 => {
            let Some(mut record) = from.seal(b"touched") else {
                return;
            };
            let at = usize::from(input.byte()) % record.len();
            let with = input.byte();
            record[at] ^= with;
            let was_open = !to.heard_close;
            to.open(record, Some(b"touched"));
            assert!(with == 0 || to.failed || !was_open);
        }
        4 => {
            let length = usize::from(input.byte());
            let record = input.take(length).to_vec();
            to.open(record, None);
        }
        5 => {
            let mut said = 0;
            while let Some(record) = from.session.pending_out() {
                to.open(record, None);
                said += 1;
                assert!(said <= 2, "a KeyUpdate and an alert are all there can be");
            }
        }
        6 => from
            .session
            .set_records_per_key(u64::from(input.byte()) + 1),
        _ if op & 0x78 == 0x78 => {
            from.session.close();
            from.closed = true;
        }
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (client, server) = SVIDS.with(|svids| session_pair(&svids[0], &svids[1]));
    let mut sides = [Side::new(client), Side::new(server)];
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut sides, &mut input);
    }
});
