// SPDX-License-Identifier: Apache-2.0
//! A server of our own making at an HBONE port that the client's core dials: a good handshake, and
//! then whatever the test has in mind.

use super::{PATIENCE, Pair, SERVER, SERVER_ID, SERVER_IP, peer, record};
use hbone_tls::{Handshake, Session, Svid};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

const WORKLOAD: u32 = 3;

pub struct Server<'a> {
    pair: &'a Pair,
    listener: TcpListener,
    svid: Svid,
}

/// What the server has of one tunnel.
pub struct Accepted {
    pub socket: TcpStream,
    pub session: Session,
    /// What came right behind the handshake.
    #[allow(dead_code, reason = "for tests that read what the client asks")]
    pub rest: Vec<u8>,
}

impl<'a> Server<'a> {
    /// From now on the client's connections go to a workload at this address, with the identity of
    /// the pair's server.
    pub fn at(pair: &'a Pair, address: &str) -> Self {
        let at = SocketAddr::new(address.parse().unwrap(), pair.hbone.port());
        let listener = TcpListener::bind(at).unwrap();
        let peers = vec![
            peer(SERVER, SERVER_IP, SERVER_ID),
            peer(WORKLOAD, at.ip(), SERVER_ID),
        ];
        pair.client.put_peers(peers).unwrap();
        let upstream = SocketAddr::new(at.ip(), 80);
        pair.records.set(Some(record(upstream, WORKLOAD)));
        let svid = pair.authority.svid(SERVER_ID);
        Self {
            pair,
            listener,
            svid,
        }
    }

    /// A connection of the client's application, and the tunnel that was dialled for it.
    pub fn accept(&mut self) -> (TcpStream, Accepted) {
        let near = self.pair.dial();
        let (mut socket, _) = self.listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut handshake = Handshake::server(&self.svid).unwrap();
        let (mut input, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let mut out = Vec::new();
            let step = handshake.step(&mut input, &mut out).unwrap();
            input.drain(..step.consumed);
            socket.write_all(&out).unwrap();
            if step.done {
                break;
            }
            let count = socket.read(&mut chunk).unwrap();
            assert_ne!(count, 0, "the handshake was cut off");
            input.extend_from_slice(&chunk[..count]);
        }
        let session = handshake.finish().unwrap();
        let accepted = Accepted {
            socket,
            session,
            rest: input,
        };
        (near, accepted)
    }
}
