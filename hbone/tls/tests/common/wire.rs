// SPDX-License-Identifier: Apache-2.0
//! Sessions, and records between them.

use hbone_tls::{
    ExpectedPeers, HEADER_LEN, Handshake, OVERHEAD, Opened, RecordError, Session, Svid,
    record_body_len,
};
use rustls::Connection;

use super::{CLIENT, Ca, PeerOptions, SERVER, id, shake};

/// One record of application data.
pub fn seal(session: &mut Session, data: &[u8]) -> Result<Vec<u8>, RecordError> {
    let mut record = vec![0; OVERHEAD + data.len()];
    record[HEADER_LEN..HEADER_LEN + data.len()].copy_from_slice(data);
    session.seal(&mut record)?;
    Ok(record)
}

/// Everything a session has to say of its own.
pub fn pending(session: &mut Session) -> Vec<u8> {
    std::iter::from_fn(|| session.pending_out())
        .flatten()
        .collect()
}

/// Opens whole records; returns the data and what the last record was.
pub fn open_all(
    session: &mut Session,
    wire: &[u8],
) -> Result<(Vec<u8>, Option<Opened>), RecordError> {
    let mut data = Vec::new();
    let mut last = None;
    let mut rest = wire.to_vec();
    while !rest.is_empty() {
        let header: [u8; HEADER_LEN] = rest[..HEADER_LEN].try_into().unwrap();
        let end = HEADER_LEN + record_body_len(header)?;
        let opened = session.open(header, &mut rest[HEADER_LEN..end])?;
        if let Opened::Data(len) = opened {
            data.extend_from_slice(&rest[HEADER_LEN..HEADER_LEN + len]);
        }
        last = Some(opened);
        rest.drain(..end);
    }
    Ok((data, last))
}

/// Both ends ours.
pub fn session_pair(client: &Svid, server: &Svid) -> (Session, Session) {
    let expected = ExpectedPeers::from(server.id().clone());
    let mut client = Handshake::client(client, &expected).unwrap();
    let mut server = Handshake::server(server).unwrap();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    loop {
        let c = client.step(&mut to_client, &mut to_server).unwrap();
        to_client.drain(..c.consumed);
        let s = server.step(&mut to_server, &mut to_client).unwrap();
        to_server.drain(..s.consumed);
        if c.done && s.done {
            return (client.finish().unwrap(), server.finish().unwrap());
        }
    }
}

pub fn ours() -> (Session, Session) {
    let ca = Ca::new("cluster.local");
    session_pair(&ca.svid(CLIENT), &ca.svid(SERVER))
}

/// Both ways to pair a session of ours with a rustls connection.
pub fn with_rustls(change: impl Fn(&mut PeerOptions)) -> [(Session, Connection); 2] {
    let ca = Ca::new("cluster.local");
    let options = |uri| {
        let mut options = PeerOptions::new(ca.issue(&[uri]));
        change(&mut options);
        options
    };
    let expected = ExpectedPeers::from(id(SERVER));
    let client = Handshake::client(&ca.svid(CLIENT), &expected).unwrap();
    let server = Handshake::server(&ca.svid(SERVER)).unwrap();
    [
        (client, options(SERVER).server()),
        (server, options(CLIENT).client()),
    ]
    .map(|(ours, mut peer)| {
        let outcome = shake(ours, &mut peer, usize::MAX);
        assert_eq!(outcome.theirs, Ok(()));
        let mut session = outcome.ours.unwrap();
        // Tickets, if we are the client.
        let (data, _) = open_all(&mut session, &outcome.leftover).unwrap();
        assert!(data.is_empty() && session.pending_out().is_none());
        (session, peer)
    })
}
