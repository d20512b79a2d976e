// SPDX-License-Identifier: Apache-2.0
//! Two cores on loopback: a client's pod at 127.0.0.1 and a server's at 127.0.0.2. Real sockets,
//! real TLS; only the flow records come from memory instead of the kernel. Needs no privilege.

#![allow(dead_code)] // each test file uses its part

use hbone_core::{Config, Core, Event, EventKind, Listeners, Peer, Workload};
use hbone_proto::Reason;
use hbone_sys::flow::{FlowKey, FlowRecord, FlowRecords, encode_address};
use hbone_sys::{netns, socket};
use hbone_tls::{ExpectedPeers, SpiffeId, Svid};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const CLIENT: u32 = 1;
pub const SERVER: u32 = 2;
pub const SERVICE: u32 = 7;
pub const CLIENT_ID: &str = "spiffe://cluster.local/ns/shop/sa/client";
pub const SERVER_ID: &str = "spiffe://cluster.local/ns/shop/sa/server";
pub const CLIENT_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
pub const SERVER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Longer than anything here takes; a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What the connect hook would have left for every connection from now on.
#[derive(Default)]
pub struct Records(Mutex<Option<FlowRecord>>);

impl Records {
    pub fn set(&self, record: Option<FlowRecord>) {
        *self.0.lock().unwrap() = record;
    }
}

impl FlowRecords for Records {
    fn take(&self, _: &FlowKey) -> io::Result<Option<FlowRecord>> {
        Ok(*self.0.lock().unwrap())
    }
}

pub fn record(upstream: SocketAddr, workload: u32) -> FlowRecord {
    FlowRecord {
        original: encode_address(Ipv4Addr::new(10, 96, 0, 10).into()),
        original_port: 80_u16.to_be_bytes(),
        upstream: encode_address(upstream.ip()),
        upstream_port: upstream.port().to_be_bytes(),
        source_workload: CLIENT,
        upstream_workload: workload,
        service_id: SERVICE,
        ..FlowRecord::default()
    }
}

pub struct Authority {
    pub der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            der,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn svid(&self, identity: &str) -> Svid {
        self.svid_that_also_trusts(identity, &[])
    }

    /// Issued here, with the roots of others as well.
    pub fn svid_that_also_trusts(&self, identity: &str, others: &[&Self]) -> Svid {
        let (leaf, key) = self.issue(identity, |_| {});
        let mut roots = vec![self.der.clone()];
        roots.extend(others.iter().map(|other| other.der.clone()));
        Svid::new(&[leaf], &key, &roots).unwrap()
    }

    /// A leaf that was changed before it was signed, and its key.
    pub fn issue(
        &self,
        identity: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Vec<u8>, Vec<u8>) {
        let mut params = CertificateParams::default();
        // rcgen would give it its issuer's name; an SVID needs none.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        (leaf, key.serialize_der())
    }
}

/// Both nodes.
pub struct Pair {
    pub authority: Authority,
    pub client: Core,
    pub server: Core,
    pub records: Arc<Records>,
    pub capture: SocketAddr,
    pub hbone: SocketAddr,
    /// Where the application listens, in the server's pod.
    pub app: TcpListener,
}

impl Pair {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl Fn(&mut Config)) -> Self {
        Self::at(CLIENT_IP, SERVER_IP, change)
    }

    /// The pods at other addresses.
    pub fn at(client_ip: IpAddr, server_ip: IpAddr, change: impl Fn(&mut Config)) -> Self {
        let inbound = socket::listen(SocketAddr::new(server_ip, 0)).unwrap();
        let capture = socket::listen(SocketAddr::new(client_ip, 0)).unwrap();
        let hbone = socket::local_address(&inbound).unwrap();
        let mut config = Config {
            workers: 2,
            hbone_port: hbone.port(),
            ..Config::default()
        };
        change(&mut config);
        let records = Arc::new(Records::default());
        let client = Core::start(config.clone(), records.clone()).unwrap();
        let server = Core::start(config, records.clone()).unwrap();
        let capture_address = socket::local_address(&capture).unwrap();
        let pair = Self {
            authority: Authority::new(),
            client,
            server,
            records,
            capture: capture_address,
            hbone,
            app: TcpListener::bind(SocketAddr::new(server_ip, 0)).unwrap(),
        };
        pair.client
            .put_svid(CLIENT_ID, &pair.authority.svid(CLIENT_ID))
            .unwrap();
        pair.server
            .put_svid(SERVER_ID, &pair.authority.svid(SERVER_ID))
            .unwrap();
        for core in [&pair.client, &pair.server] {
            core.put_peers(vec![
                peer(CLIENT, client_ip, CLIENT_ID),
                peer(SERVER, server_ip, SERVER_ID),
            ])
            .unwrap();
            core.put_services(vec![(SERVICE, "web.shop.svc.cluster.local".into())])
                .unwrap();
        }
        let capture = Listeners {
            capture: vec![capture],
            inbound: vec![],
        };
        pair.client
            .put_workload(pod(CLIENT, CLIENT_ID, client_ip), capture)
            .unwrap();
        let inbound = Listeners {
            capture: vec![],
            inbound: vec![inbound],
        };
        pair.server
            .put_workload(pod(SERVER, SERVER_ID, server_ip), inbound)
            .unwrap();
        pair.records
            .set(Some(record(pair.app.local_addr().unwrap(), SERVER)));
        pair
    }

    /// A captured connection, as the client's application has it.
    pub fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.capture).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Both ends of a connection through the tunnel.
    pub fn connect(&self) -> (TcpStream, TcpStream) {
        let near = self.dial();
        let (far, _) = self.app.accept().unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        far.set_write_timeout(Some(PATIENCE)).unwrap();
        (near, far)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.client.stop();
        self.server.stop();
    }
}

pub fn peer(id: u32, address: IpAddr, identity: &str) -> Peer {
    let expected = ExpectedPeers::from(identity.parse::<SpiffeId>().unwrap());
    Peer {
        id,
        addresses: vec![address],
        expected,
    }
}

pub fn pod(id: u32, identity: &str, address: IpAddr) -> Workload {
    Workload {
        id,
        uid: format!("cluster//Pod/shop/{id}"),
        identity: identity.into(),
        capture_ports: vec![],
        netns: netns::open_current().unwrap(),
        netns_cookie: netns::current_cookie().unwrap(),
        addresses: vec![address],
        mark: 0,
        baggage: "k8s.namespace.name=shop".into(),
    }
}

/// Waits for an event that matches; the others are dropped.
pub fn wait_for(core: &Core, matches: impl Fn(&Event) -> bool) -> Event {
    let until = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while Instant::now() < until {
        for event in core.drain_events() {
            if matches(&event) {
                return event;
            }
            seen.push(event);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the event did not come; instead: {seen:#?}");
}

/// The next closed connection.
pub fn wait_closed(core: &Core) -> Event {
    wait_for(core, |event| event.kind == EventKind::ConnectionClosed)
}

pub fn is_reason(event: &Event, reason: Reason) -> bool {
    event.reason == reason.number()
}

/// Waits until something becomes true.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "it never happened that {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The application reads RST, not an end in order.
pub fn assert_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0; 16]).expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
}

/// Bytes that no shift or repetition looks like.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
