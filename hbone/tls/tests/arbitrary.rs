// SPDX-License-Identifier: Apache-2.0
//! Whatever arrives, nothing panics and nothing false is believed.

mod common;

use common::{CLIENT, Ca, SERVER, id, ours, seal};
use hbone_tls::{ExpectedPeers, HEADER_LEN, Handshake};
use proptest::prelude::*;

/// The rest of the input is often dropped with the connection; asking again must still answer.
#[test]
fn a_failed_handshake_needs_no_input_to_say_so() {
    let ca = Ca::new("cluster.local");
    let mut server = Handshake::server(&ca.svid(SERVER)).unwrap();
    let mut out = Vec::new();
    let error = server.step(&mut [22, 3, 1, 0, 0], &mut out).unwrap_err();
    assert_eq!(server.step(&mut [], &mut out).unwrap_err(), error);
    assert_eq!(server.finish().unwrap_err(), error);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn opening_anything_returns(header in any::<[u8; 5]>(), mut body in prop::collection::vec(any::<u8>(), 0..300)) {
        let (mut client, _) = ours();
        prop_assert!(client.open(header, &mut body).is_err());
        prop_assert!(client.open([23, 3, 3, 0, 20], &mut [0; 20]).is_err());
    }

    #[test]
    fn any_change_to_a_record_is_noticed(at in 0..30_usize, with in 1..=255_u8) {
        let (mut client, mut server) = ours();
        let mut record = seal(&mut client, b"8 bytes.").unwrap();
        record[at] ^= with;
        let header: [u8; HEADER_LEN] = record[..HEADER_LEN].try_into().unwrap();
        prop_assert!(server.open(header, &mut record[HEADER_LEN..]).is_err());
        prop_assert!(seal(&mut server, b"x").is_err());
    }

    #[test]
    fn stepping_over_a_damaged_handshake_returns(at in any::<prop::sample::Index>(), with in 1..=255_u8,
                                                 server_side in any::<bool>()) {
        let ca = Ca::new("cluster.local");
        let expected = ExpectedPeers::from(id(SERVER));
        let mut client = Handshake::client(&ca.svid(CLIENT), &expected).unwrap();
        let mut server = Handshake::server(&ca.svid(SERVER)).unwrap();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        client.step(&mut [], &mut up).unwrap();
        if server_side {
            let at = at.index(up.len());
            up[at] ^= with;
            let _ = server.step(&mut up, &mut down);
            let _ = server.step(&mut up, &mut down);
        } else {
            server.step(&mut up, &mut down).unwrap();
            let at = at.index(down.len());
            down[at] ^= with;
            // The version in a plaintext record's header means nothing and is not protected.
            if client.step(&mut down, &mut up).is_ok_and(|step| step.done) {
                let session = client.finish().unwrap();
                prop_assert_eq!(session.peer(), &id(SERVER));
            }
        }
    }
}
