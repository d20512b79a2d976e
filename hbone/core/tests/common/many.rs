// SPDX-License-Identifier: Apache-2.0
//! A pod that talks to many pods: one client core, and one server core that answers at each of many
//! loopback addresses. Every address is a pool key of its own.

#![allow(dead_code)] // each test file uses its part

use super::common::*;
use hbone_core::{Config, Core, Listeners};
use hbone_sys::socket;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

pub struct Many {
    pub client: Core,
    pub server: Core,
    pub records: Arc<Records>,
    pub capture: SocketAddr,
    pub app: TcpListener,
    pub addresses: Vec<IpAddr>,
}

/// The n-th address of a loopback network of its own (127.`net`.0.0/16).
pub fn address(net: u8, n: usize) -> IpAddr {
    let n = u16::try_from(n + 1).unwrap().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, net, n[0], n[1]))
}

impl Many {
    pub fn new(net: u8, peers: usize, change: impl Fn(&mut Config)) -> Self {
        let anywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let inbound = socket::listen(anywhere).unwrap();
        let mut config = Config {
            workers: 2,
            hbone_port: socket::local_address(&inbound).unwrap().port(),
            ..Config::default()
        };
        change(&mut config);
        let records = Arc::new(Records::default());
        let client = Core::start(config.clone(), records.clone()).unwrap();
        let server = Core::start(config, records.clone()).unwrap();
        let authority = Authority::new();
        let (svid, far_svid) = (authority.svid(CLIENT_ID), authority.svid(SERVER_ID));
        client.put_svid(CLIENT_ID, &svid).unwrap();
        server.put_svid(SERVER_ID, &far_svid).unwrap();
        let addresses: Vec<IpAddr> = (0..peers).map(|n| address(net, n)).collect();
        let mut far = peer(SERVER, addresses[0], SERVER_ID);
        far.addresses.clone_from(&addresses);
        client.put_peers(vec![far]).unwrap();
        let near = peer(CLIENT, CLIENT_IP, CLIENT_ID);
        server.put_peers(vec![near]).unwrap();
        let mut listeners = Listeners::default();
        listeners.inbound.push(inbound);
        let far_pod = pod(SERVER, SERVER_ID, addresses[0]);
        server.put_workload(far_pod, listeners).unwrap();
        let mut many = Self {
            client,
            server,
            records,
            capture: anywhere,
            app: TcpListener::bind(anywhere).unwrap(),
            addresses,
        };
        many.capture = many.add_pod(CLIENT);
        many
    }

    /// Another pod of the client's node; where it is captured.
    pub fn add_pod(&self, id: u32) -> SocketAddr {
        let capture = socket::listen(SocketAddr::new(CLIENT_IP, 0)).unwrap();
        let at = socket::local_address(&capture).unwrap();
        let mut listeners = Listeners::default();
        listeners.capture.push(capture);
        let pod = pod(id, CLIENT_ID, CLIENT_IP);
        self.client.put_workload(pod, listeners).unwrap();
        at
    }

    /// Both ends of a connection to the n-th peer.
    pub fn connect(&self, n: usize) -> (TcpStream, TcpStream) {
        self.connect_at(self.capture, n)
    }

    /// The same from another pod.
    pub fn connect_at(&self, capture: SocketAddr, n: usize) -> (TcpStream, TcpStream) {
        let near = self.dial(capture, n);
        let (far, _) = self.app.accept().unwrap();
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        (near, far)
    }

    pub fn dial(&self, capture: SocketAddr, n: usize) -> TcpStream {
        let port = self.app.local_addr().unwrap().port();
        let upstream = SocketAddr::new(self.addresses[n], port);
        self.records.set(Some(record(upstream, SERVER)));
        TcpStream::connect(capture).unwrap()
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        self.client.stop();
        self.server.stop();
    }
}
