// SPDX-License-Identifier: Apache-2.0
//! The stage of an attack: the victim's transfer, the attacker's tunnel with one open stream, and what
//! must be true when the attack is over.

use crate::bulk::Bulk;
use crate::common::*;
use crate::raw::{Client, h2_frame};
use crate::raw_server::Server;
use crate::scene::Scene;
use hbone_core::{Core, EventKind};
use hbone_proto::{ErrorCode, Reason};
use hbone_tls::{HEADER_LEN, OVERHEAD, Opened, Session, record_body_len};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    pub const UNKNOWN: u8 = 0xbe;
}

pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
}

/// The attacker's stream, which is open both ways when the attack begins.
pub const OPEN: u32 = 1;

/// What the attacker says between two looks at whether it was cut off.
const RECORD: usize = 16_000;

/// An attack of up to a record is read as a whole, so its GOAWAY must arrive. After more, bytes that
/// nobody read make the kernel send RST, which may overtake it.
const SURELY_ANSWERED: usize = RECORD;

/// The victim's share of what it moved in the same time before: it competes with the attacker for one
/// core, and with the rest of the machine.
const SHARE: u64 = 50;

/// What buffers may hold with a victim and one attacker; one tunnel's window is 16 MiB.
const HELD_AT_MOST: usize = 48 << 20;

/// By how much the whole process may grow, the test's own ends and other tests included.
const GROWTH_AT_MOST: usize = 512 << 20;

/// One end of a tunnel, past its handshake.
pub struct Wire {
    pub socket: TcpStream,
    pub session: Session,
    /// Bytes that came before anybody read.
    pub early: Vec<u8>,
}

impl Wire {
    /// False once the peer is gone.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        bytes.chunks(RECORD).all(|content| {
            let mut record = vec![0; content.len() + OVERHEAD];
            record[HEADER_LEN..HEADER_LEN + content.len()].copy_from_slice(content);
            self.session.seal(&mut record).unwrap();
            self.socket.write_all(&record).is_ok()
        })
    }

    /// The next record's content; `None` at the end.
    pub fn read(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut header = [0; HEADER_LEN];
            self.fill(&mut header)?;
            let mut body = vec![0; record_body_len(header).ok()?];
            self.fill(&mut body)?;
            match self.session.open(header, &mut body) {
                Ok(Opened::Data(count)) => {
                    body.truncate(count);
                    return Some(body);
                }
                Ok(Opened::Control) => {}
                _ => return None,
            }
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        let early = self.early.len().min(bytes.len());
        bytes[..early].copy_from_slice(&self.early[..early]);
        self.early.drain(..early);
        self.socket.read_exact(&mut bytes[early..]).ok()
    }

    /// Reads to the end; what the last GOAWAY said, if one came.
    pub fn goodbye(&mut self) -> Option<(ErrorCode, String)> {
        let mut all = Vec::new();
        while let Some(content) = self.read() {
            all.extend(content);
        }
        frames_of(&all)
            .filter(|(kind, _, _)| *kind == kind::GOAWAY)
            .last()
            .map(|(_, _, payload)| {
                let code = u32::from_be_bytes(*payload[4..].first_chunk().unwrap());
                let token = String::from_utf8_lossy(&payload[8..]).into_owned();
                (ErrorCode(code), token)
            })
    }
}

/// Whole frames: kind, stream, payload.
pub fn frames_of(mut bytes: &[u8]) -> impl Iterator<Item = (u8, u32, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes(*head[5..].first_chunk().unwrap());
        let payload = bytes.get(9..9 + length)?;
        bytes = &bytes[9 + length..];
        Some((head[3], stream, payload))
    })
}

/// A client that attacks our inbound side, with a stream to the application.
pub fn client_of(scene: &Scene) -> (Wire, TcpStream) {
    let mut client: Client = scene.attacker();
    client.open(scene.app());
    client.send(&[]);
    let (app, _) = scene.pair.app.accept().unwrap();
    client.wait_status(200);
    let wire = Wire {
        socket: client.socket,
        session: client.session,
        early: Vec::new(),
    };
    (wire, app)
}

/// A server that attacks our outbound side, which has asked it for a stream and got 200.
pub fn server_of(scene: &Scene) -> (Wire, TcpStream) {
    let (mut wire, near) = silent_server_of(scene);
    wire.send(&answer(OPEN, &[0x88]));
    (wire, near)
}

/// The same, with the answer to come.
pub fn silent_server_of(scene: &Scene) -> (Wire, TcpStream) {
    let mut server = Server::at(&scene.pair, "127.0.0.3");
    let (near, accepted) = server.accept();
    let mut wire = Wire {
        socket: accepted.socket,
        session: accepted.session,
        early: accepted.rest,
    };
    wire.send(&h2_frame(kind::SETTINGS, 0, 0, &[]));
    let mut heard = Vec::new();
    const PREFACE: usize = 24;
    while !frames_of(heard.get(PREFACE..).unwrap_or(&[])).any(|(kind, ..)| kind == kind::HEADERS) {
        heard.extend(wire.read().expect("a CONNECT"));
    }
    (wire, near)
}

/// HEADERS with this block.
pub fn answer(stream: u32, block: &[u8]) -> Vec<u8> {
    h2_frame(kind::HEADERS, flag::END_HEADERS, stream, block)
}

/// A literal field that enters no table.
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// A CONNECT to this authority.
pub fn connect(stream: u32, authority: &str) -> Vec<u8> {
    let block = [
        literal(":method", "CONNECT"),
        literal(":authority", authority),
    ];
    answer(stream, &block.concat())
}

/// Client's stream ids after the open one.
pub fn later_ids() -> impl Iterator<Item = u32> {
    (OPEN + 2..).step_by(2)
}

/// What the attack must lead to.
pub struct End(pub ErrorCode, pub &'static str);

/// A client's attack that costs it its tunnel.
#[track_caller]
pub fn client_ends(end: End, attack: &[u8]) {
    let scene = Scene::new();
    let (mut wire, _app) = client_of(&scene);
    let bulk = Bulk::start(&scene.pair);
    ends(&scene, &scene.pair.server, &mut wire, bulk, end, attack);
}

/// A server's attack that costs it its tunnel; the application that asked for it learns.
#[track_caller]
pub fn server_ends(end: End, attack: &[u8]) {
    let scene = Scene::new();
    let bulk = Bulk::start(&scene.pair);
    let (mut wire, mut near) = server_of(&scene);
    ends(&scene, &scene.pair.client, &mut wire, bulk, end, attack);
    while near.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
}

/// The same attack from either end.
#[track_caller]
pub fn both_end(code: ErrorCode, token: &'static str, attack: &[u8]) {
    client_ends(End(code, token), attack);
    server_ends(End(code, token), attack);
}

#[track_caller]
pub fn ends(scene: &Scene, core: &Core, wire: &mut Wire, bulk: Bulk, end: End, attack: &[u8]) {
    let End(code, token) = end;
    let watch = Watch::begin(&bulk);
    let grown = rss();
    wire.send(attack);
    let closed = wait_for(core, |event| event.kind == EventKind::TunnelClosed);
    watch.assert_served(&bulk);
    assert_eq!(
        closed.reason,
        Reason::H2ProtocolError.number(),
        "{closed:?}"
    );
    let said = format!("{token} ({code})");
    assert!(closed.detail.ends_with(&said), "{said}: {closed:?}");
    let goodbye = wire.goodbye();
    if attack.len() <= SURELY_ANSWERED || goodbye.is_some() {
        assert_eq!(goodbye, Some((code, token.to_owned())));
    }
    assert_alone(scene, core);
    let grown = rss().saturating_sub(grown);
    assert!(grown < GROWTH_AT_MOST, "the process grew by {grown} bytes");
    bulk.finish();
}

/// The attacker's tunnel ended and is counted; nobody else's was.
fn assert_alone(scene: &Scene, core: &Core) {
    let stats = core.stats().unwrap();
    let one = [(Reason::H2ProtocolError.number(), 1)].into();
    assert_eq!(stats.tunnels_closed, one);
    assert!(stats.buffers_bytes < HELD_AT_MOST, "{stats:?}");
    scene.victim_is_well();
}

/// An attack that gets its author nothing, and is no reason to end a tunnel.
#[track_caller]
pub fn harmless(scene: &Scene, core: &Core, wire: &mut Wire, bulk: Bulk, attack: &[u8]) {
    let watch = Watch::begin(&bulk);
    assert!(wire.send(attack), "the tunnel lives");
    wire.send(&h2_frame(kind::PING, 0, 0, b"all read"));
    let mut heard = Vec::new();
    let all_read = |heard: &[u8]| {
        frames_of(heard).any(|(kind, _, payload)| kind == kind::PING && payload == b"all read")
    };
    while !all_read(&heard) {
        heard.extend(wire.read().expect("the tunnel lives"));
    }
    watch.assert_served(&bulk);
    let stats = core.stats().unwrap();
    assert!(stats.tunnels_closed.is_empty(), "{stats:?}");
    assert!(stats.buffers_bytes < HELD_AT_MOST, "{stats:?}");
    scene.victim_is_well();
    bulk.finish();
}

/// What the victim moves during an attack, held against what it moved before.
pub struct Watch {
    per_second: u64,
    began: Instant,
    arrived: u64,
}

impl Watch {
    pub fn begin(bulk: &Bulk) -> Self {
        const SAMPLE: Duration = Duration::from_millis(50);
        let before = bulk.arrived();
        std::thread::sleep(SAMPLE);
        let arrived = bulk.arrived();
        Self {
            per_second: (arrived - before) * 1000 / SAMPLE.as_millis() as u64,
            began: Instant::now(),
            arrived,
        }
    }

    #[track_caller]
    pub fn assert_served(self, bulk: &Bulk) {
        let took = self.began.elapsed();
        // A short attack is over before the victim's next turn may have come.
        let owed = self.per_second * took.as_millis() as u64 / 1000 / SHARE;
        let got = bulk.arrived() - self.arrived;
        assert!(
            took < Duration::from_millis(200) || got >= owed,
            "the victim got {got} bytes in {took:?}, and {} a second before",
            self.per_second
        );
        bulk.wait_for(1 << 20);
    }
}

/// Resident bytes of this process.
fn rss() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    kib.unwrap().parse::<usize>().unwrap() << 10
}
