// SPDX-License-Identifier: Apache-2.0
//! One end of the pair: a connection and its apps.

use std::collections::{BTreeMap, VecDeque};

use super::*;

/// One side with its apps.
pub struct Side {
    pub connection: Connection,
    /// Bytes on their way to the other side, with the time they arrive.
    pub pipe: VecDeque<(Millis, Vec<u8>)>,
    pub apps: BTreeMap<u32, App>,
}

/// The app at one end of a stream. Byte `n` of a stream is `n % 251`.
#[derive(Default)]
pub struct App {
    pub key: Option<StreamKey>,
    pub to_send: usize,
    pub sent: usize,
    pub ends: bool,
    pub end_sent: bool,
    pub received: usize,
    pub unread: usize,
    pub end_received: bool,
    pub dead: bool,
    pub answered: bool,
}

impl Side {
    pub fn new(role: Role, config: Config) -> Self {
        let connection = Connection::new(role, config, Millis(0));
        Self {
            connection,
            pipe: VecDeque::new(),
            apps: BTreeMap::new(),
        }
    }

    /// Queues control, then all that the windows allow.
    pub fn pump(&mut self, now: Millis) {
        let mut out = Vec::new();
        let ids: Vec<u32> = self.apps.keys().copied().collect();
        for id in ids {
            self.pump_stream(id, &mut out);
        }
        while let Some((key, user)) = self.connection.pop_writable() {
            assert_eq!(u64::from(key.id()), user);
            self.pump_stream(key.id(), &mut out);
        }
        self.flush_control(&mut out);
        if !out.is_empty() {
            self.pipe.push_back((now + LATENCY, out));
        }
    }

    fn flush_control(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.connection.control());
        self.connection.control_taken(usize::MAX);
    }

    fn pump_stream(&mut self, id: u32, out: &mut Vec<u8>) {
        self.flush_control(out);
        let Some(app) = self.apps.get_mut(&id) else {
            return;
        };
        let Some(key) = app
            .key
            .filter(|_| !app.dead && app.answered && !app.end_sent)
        else {
            return;
        };
        while app.to_send > 0 {
            let n = self.connection.capacity(key).min(app.to_send);
            if n == 0 {
                return;
            }
            out.extend(self.connection.data_header(key, n, false).unwrap());
            out.extend((app.sent..app.sent + n).map(|at| (at % 251) as u8));
            app.sent += n;
            app.to_send -= n;
        }
        if app.ends {
            out.extend(self.connection.data_header(key, 0, true).unwrap());
            app.end_sent = true;
        }
    }

    pub fn receive(&mut self, now: Millis, bytes: &[u8]) {
        let mut events = Vec::new();
        self.connection.recv(now, bytes, &mut events).unwrap();
        for event in events {
            match event {
                Event::Opened { stream, .. } => {
                    self.connection.set_user(stream, u64::from(stream.id()));
                    let app = App {
                        key: Some(stream),
                        ..App::default()
                    };
                    self.apps.insert(stream.id(), app);
                }
                Event::Response {
                    stream, response, ..
                } => {
                    assert_eq!(response.status, 200);
                    self.app(stream).answered = true;
                }
                Event::Data {
                    stream,
                    user,
                    range,
                    end,
                } => {
                    assert_eq!(user, u64::from(stream.id()));
                    let app = self.app(stream);
                    for &byte in &bytes[range] {
                        assert_eq!(byte, (app.received % 251) as u8);
                        app.received += 1;
                        app.unread += 1;
                    }
                    app.end_received |= end;
                }
                Event::Reset { stream, .. } => {
                    self.app(stream).dead = true;
                    self.connection.reset(stream, ErrorCode::CANCEL);
                }
                Event::SettingsChanged => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn app(&mut self, stream: StreamKey) -> &mut App {
        self.apps
            .get_mut(&stream.id())
            .expect("an app for every stream")
    }

    pub fn pick(&mut self, n: usize) -> Option<(u32, &mut App)> {
        let live = self.apps.iter_mut().filter(|(_, app)| !app.dead);
        let mut live: Vec<_> = live.collect();
        if live.is_empty() {
            return None;
        }
        let at = n % live.len();
        let (id, app) = live.swap_remove(at);
        Some((*id, app))
    }

    pub fn read(&mut self, n: usize, most: usize) {
        let Some((_, app)) = self.pick(n) else { return };
        let count = app.unread.min(most);
        app.unread -= count;
        let key = app.key.unwrap();
        self.connection.consumed(key, count);
    }
}
