// SPDX-License-Identifier: Apache-2.0
//! One connection, the apps at the ends of its streams, and what they must agree on.

use std::collections::BTreeMap;

use hbone_proto::frame::HEADER_LEN;
use hbone_proto::{
    ConnectRequest, ConnectResponse, Connection, ConnectionError, ErrorCode, Event, Millis,
    OpenError, StreamKey,
};

use super::choices::Choices;

/// Byte `n` of a stream.
fn byte(id: u32, n: u64) -> u8 {
    ((n + u64::from(id)) % 251) as u8
}

/// The app at one end of a stream, and all it knows.
#[derive(Debug, Clone)]
pub struct App {
    pub key: StreamKey,
    pub to_send: u64,
    pub sent: u64,
    pub received: u64,
    /// Received and not consumed; `aside` of it is set aside.
    pub unread: u64,
    pub aside: u64,
    pub wants_end: bool,
    pub send_ended: bool,
    pub recv_ended: bool,
    /// A server answered with success; a client may send at once.
    pub may_send: bool,
    pub answered: bool,
    /// It found no room: its turn comes by `pop_writable` alone.
    pub waiting: bool,
    /// Reset, or refused.
    pub dead: bool,
}

impl App {
    fn new(key: StreamKey, client: bool) -> Self {
        Self {
            key,
            to_send: 0,
            sent: 0,
            received: 0,
            unread: 0,
            aside: 0,
            wants_end: false,
            send_ended: false,
            recv_ended: false,
            may_send: client,
            answered: false,
            waiting: false,
            dead: false,
        }
    }

    fn is_live(&self) -> bool {
        let over = self.send_ended && self.recv_ended && self.unread == 0;
        !self.dead && !over
    }

    fn has_work(&self) -> bool {
        self.may_send && !self.send_ended && (self.to_send > 0 || self.wants_end)
    }
}

/// One end of the tunnel.
#[derive(Debug)]
pub struct Side {
    pub connection: Connection,
    /// Streams that the connection must know.
    pub live: BTreeMap<u32, App>,
    /// Streams that it must have forgotten.
    pub past: BTreeMap<u32, App>,
    pub opened: u64,
    pub closed: u64,
}

impl Side {
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            live: BTreeMap::new(),
            past: BTreeMap::new(),
            opened: 0,
            closed: 0,
        }
    }

    /// A live app, the `n`th in a ring.
    pub fn pick(&mut self, n: u64) -> Option<&mut App> {
        let count = self.live.len() as u64;
        (count > 0).then(|| self.live.values_mut().nth((n % count) as usize))?
    }

    pub fn app(&self, id: u32) -> Option<&App> {
        self.live.get(&id).or_else(|| self.past.get(&id))
    }

    pub fn open(&mut self, request: &ConnectRequest) -> Result<(), OpenError> {
        let may = self.connection.is_open();
        let mark = self.opened + 1;
        let opened = self.connection.open(request, mark);
        assert!(may || opened.is_err());
        let key = opened?;
        assert_eq!(
            u64::from(key.id()),
            2 * mark - 1,
            "ids rise by two, none is left out"
        );
        self.opened += 1;
        self.live.insert(key.id(), App::new(key, true));
        Ok(())
    }

    pub fn answer(&mut self, n: u64, status: u16) {
        let Some(app) = self.pick(n) else { return };
        let key = app.key;
        if app.answered {
            return;
        }
        app.answered = true;
        app.may_send = status == 200;
        app.dead = status != 200;
        let response = ConnectResponse {
            status,
            baggage: None,
        };
        self.connection
            .respond(key, &response)
            .expect("a live stream");
    }

    pub fn reset(&mut self, n: u64) {
        let Some(app) = self.pick(n) else { return };
        app.dead = true;
        let key = app.key;
        self.connection.reset(key, ErrorCode::CANCEL);
        assert!(!self.connection.is_live(key));
    }

    pub fn read(&mut self, n: u64, most: u64) {
        let Some(app) = self.pick(n) else { return };
        let count = app.unread.min(most);
        app.unread -= count;
        app.aside -= app.aside.min(count);
        let key = app.key;
        self.connection.consumed(key, count as usize);
    }

    pub fn set_aside(&mut self, n: u64, most: u64) {
        let Some(app) = self.pick(n) else { return };
        let count = (app.unread - app.aside).min(most);
        app.aside += count;
        let key = app.key;
        self.connection.set_aside(key, count as usize);
    }

    /// What goes on the wire now: control, and DATA up to a budget.
    pub fn pump(&mut self, choices: &mut impl Choices) -> Vec<u8> {
        let budget = choices.size(400_000);
        let mut out = Vec::new();
        let ready: Vec<u32> = self
            .live
            .iter()
            .filter(|(_, app)| app.has_work() && !app.waiting)
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            self.pump_stream(id, budget, &mut out);
        }
        while out.len() < budget {
            let Some((key, mark)) = self.connection.pop_writable() else {
                break;
            };
            let app = self.live.get_mut(&key.id()).expect("a live stream");
            assert!(app.waiting, "nobody asked");
            assert_eq!(self.connection.user(key), Some(mark));
            app.waiting = false;
            self.pump_stream(key.id(), budget, &mut out);
        }
        self.flush_control(&mut out);
        out
    }

    fn flush_control(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.connection.control());
        self.connection.control_taken(usize::MAX);
    }

    fn pump_stream(&mut self, id: u32, budget: usize, out: &mut Vec<u8>) {
        self.flush_control(out);
        let app = self.live.get_mut(&id).expect("a live stream");
        while app.has_work() {
            if out.len() >= budget {
                self.connection.queue_writable(app.key);
                app.waiting = true;
                return;
            }
            let room = self.connection.capacity(app.key) as u64;
            let n = room.min(app.to_send);
            if n == 0 && app.to_send > 0 {
                app.waiting = true;
                return;
            }
            let end = n == app.to_send && app.wants_end;
            let header = self.connection.data_header(app.key, n as usize, end);
            out.extend(header.expect("as much as there is room for"));
            out.extend((app.sent..app.sent + n).map(|at| byte(id, at)));
            app.sent += n;
            app.to_send -= n;
            app.send_ended = end;
        }
    }

    /// Takes received bytes; `peer` is the other end, to compare with.
    pub fn receive(
        &mut self,
        now: Millis,
        bytes: &[u8],
        peer: &Self,
    ) -> Result<(), ConnectionError> {
        let mut events = Vec::new();
        let outcome = self.connection.recv(now, bytes, &mut events);
        for event in events {
            self.handle(event, bytes, peer);
        }
        outcome
    }

    fn handle(&mut self, event: Event, bytes: &[u8], peer: &Self) {
        match event {
            Event::Opened { stream, end, .. } => {
                assert!(!end);
                self.opened += 1;
                self.connection.set_user(stream, self.opened);
                let known = self.live.insert(stream.id(), App::new(stream, false));
                assert!(known.is_none() && !self.past.contains_key(&stream.id()));
            }
            Event::Response {
                stream,
                response,
                end,
                ..
            } => {
                let app = self.expect(stream);
                assert!(!app.answered);
                app.answered = true;
                app.recv_ended = end;
                assert_eq!(end, response.status != 200);
            }
            Event::Data {
                stream, range, end, ..
            } => self.data(stream, &bytes[range], end, peer),
            Event::Reset {
                stream,
                unprocessed,
                complete,
                ..
            } => {
                let app = self.expect(stream);
                assert_eq!(app.recv_ended, complete);
                app.send_ended = true;
                app.answered = true;
                app.dead = !complete;
                assert!(
                    !unprocessed || peer.app(stream.id()).is_none(),
                    "it was processed"
                );
            }
            Event::GoAway { .. } => assert!(!self.connection.is_open()),
            Event::SettingsChanged => {}
            Event::Refused { .. } => panic!("{event:?}"),
        }
        self.retire();
    }

    fn expect(&mut self, stream: StreamKey) -> &mut App {
        self.live.get_mut(&stream.id()).expect("a live stream")
    }

    fn data(&mut self, stream: StreamKey, bytes: &[u8], end: bool, peer: &Self) {
        let app = self.expect(stream);
        assert!(!app.recv_ended);
        for &got in bytes {
            assert_eq!(got, byte(stream.id(), app.received));
            app.received += 1;
        }
        app.unread += bytes.len() as u64;
        app.recv_ended = end;
        if end {
            let from = peer.app(stream.id()).expect("its other end");
            assert!(from.send_ended);
            assert_eq!(from.sent, app.received, "stream {}", stream.id());
        }
    }

    /// Streams that are over move to the past, where the connection must not know them.
    fn retire(&mut self) {
        let over: Vec<u32> = self
            .live
            .iter()
            .filter(|(_, app)| !app.is_live())
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            let app = self.live.remove(&id).expect("it was there");
            assert!(!self.connection.is_live(app.key), "stream {id} is over");
            assert_eq!(
                self.connection.capacity(app.key),
                0,
                "a dead key sends nothing"
            );
            self.closed += 1;
            self.past.insert(id, app);
        }
    }

    /// What must hold after every step.
    pub fn check(&mut self) {
        self.retire();
        self.connection.assert_invariants();
        assert_eq!(self.opened - self.closed, self.live.len() as u64);
        assert_eq!(self.connection.streams(), self.live.len());
        for app in self.live.values() {
            assert!(self.connection.is_live(app.key));
        }
        let most = HEADER_LEN + hbone_proto::frame::DEFAULT_MAX_FRAME as usize;
        assert!(self.connection.control().len() < 100 * most);
    }
}
