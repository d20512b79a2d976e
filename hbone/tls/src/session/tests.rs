// SPDX-License-Identifier: Apache-2.0
//! Control records that no honest peer would send, and the limits that are far away.

use super::*;
use crate::common::{open_all, ours, pending, seal};

const TICKET: [u8; 8] = [4, 0, 0, 4, 1, 2, 3, 4];

/// What the other end makes of this content.
fn receive(to: &mut Session, from: &mut Session, typ: ContentType, content: &[u8]) -> String {
    let record = from.seal_control(typ, content).unwrap();
    match open_all(to, &record) {
        Ok((_, opened)) => format!("{:?}", opened.unwrap()),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn assert_server_refuses(typ: ContentType, content: &[u8], words: &str, alert: AlertDescription) {
    let (mut client, mut server) = ours();
    let said = receive(&mut server, &mut client, typ, content);
    assert!(said.contains(words), "{said}");
    assert_eq!(server.alert, Some(alert));
    let out = pending(&mut server);
    assert_eq!(open_all(&mut client, &out), Err(RecordError::Alert(alert)));
}

#[test]
fn handshake_messages_that_may_not_come_are_refused() {
    use AlertDescription as Alert;
    let refuse = |content: &[u8], words, alert| {
        assert_server_refuses(ContentType::Handshake, content, words, alert);
    };
    refuse(&[], "empty handshake", Alert::UnexpectedMessage);
    refuse(&TICKET, "ticket, to a server", Alert::UnexpectedMessage);
    refuse(&[1, 0, 0, 0], "not a KeyUpdate", Alert::UnexpectedMessage);
    refuse(&[24, 0, 0, 1, 2], "cannot be decoded", Alert::DecodeError);
    refuse(
        &[24, 0, 0, 2, 0, 0],
        "cannot be decoded",
        Alert::DecodeError,
    );
    refuse(&[24, 0, 0, 0], "cannot be decoded", Alert::DecodeError);
    refuse(
        &[24, 0, 0, 1, 0, 24],
        "after a KeyUpdate",
        Alert::UnexpectedMessage,
    );
    refuse(&[24, 1, 0, 0], "overlong", Alert::UnexpectedMessage);
}

#[test]
fn records_of_other_kinds_are_refused() {
    use AlertDescription as Alert;
    let unexpected = Alert::UnexpectedMessage;
    assert_server_refuses(
        ContentType::ChangeCipherSpec,
        &[1],
        "ChangeCipherSpec",
        unexpected,
    );
    assert_server_refuses(
        ContentType::Heartbeat,
        &[1],
        "unknown content type",
        unexpected,
    );
    assert_server_refuses(
        ContentType::Unknown(0),
        &[0, 0],
        "nothing but padding",
        unexpected,
    );
    assert_server_refuses(
        ContentType::Alert,
        &[1],
        "cannot be decoded",
        Alert::DecodeError,
    );
    assert_server_refuses(
        ContentType::Alert,
        &[1, 0, 0],
        "cannot be decoded",
        Alert::DecodeError,
    );
}

#[test]
fn tickets_to_a_client_are_dropped_however_they_are_cut() {
    let (mut client, mut server) = ours();
    let handshake = ContentType::Handshake;
    let two = [TICKET, TICKET].concat();
    assert_eq!(
        receive(&mut client, &mut server, handshake, &two),
        "Control"
    );
    for part in [&TICKET[..2], &TICKET[2..5], &TICKET[5..]] {
        assert_eq!(
            receive(&mut client, &mut server, handshake, part),
            "Control"
        );
    }
    // Nothing is kept, so data may follow.
    let record = seal(&mut server, b"data").unwrap();
    assert_eq!(open_all(&mut client, &record).unwrap().0, b"data");
    // But not in the middle of a message.
    receive(&mut client, &mut server, handshake, &TICKET[..5]);
    let record = seal(&mut server, b"data").unwrap();
    let error = open_all(&mut client, &record).unwrap_err();
    assert!(error.to_string().contains("middle of a handshake message"));
}

#[test]
fn a_key_update_may_follow_a_ticket_in_its_record() {
    let (mut client, mut server) = ours();
    let both = [&TICKET[..], &[24, 0, 0, 1, 1]].concat();
    assert_eq!(
        receive(&mut client, &mut server, ContentType::Handshake, &both),
        "Control"
    );
    assert!(client.key_update_due);
    server.sealer = Sealer::new(server.kernel.next_tx().unwrap()).unwrap();
    let record = seal(&mut server, b"data").unwrap();
    assert_eq!(open_all(&mut client, &record).unwrap().0, b"data");
}

#[test]
fn a_key_update_may_come_in_pieces() {
    let (mut client, mut server) = ours();
    let handshake = ContentType::Handshake;
    for part in [&[24][..], &[0, 0], &[1, 1]] {
        assert!(!server.key_update_due);
        assert_eq!(
            receive(&mut server, &mut client, handshake, part),
            "Control"
        );
    }
    assert!(server.key_update_due);
    client.sealer = Sealer::new(client.kernel.next_tx().unwrap()).unwrap();
    let record = seal(&mut client, b"data").unwrap();
    assert_eq!(open_all(&mut server, &record).unwrap().0, b"data");
    // Its answer is in one.
    let answer = pending(&mut server);
    assert_eq!(
        open_all(&mut client, &answer).unwrap().1,
        Some(Opened::Control)
    );
    let record = seal(&mut server, b"back").unwrap();
    assert_eq!(open_all(&mut client, &record).unwrap().0, b"back");
}

#[test]
fn padding_is_skipped() {
    let (mut client, mut server) = ours();
    // [content][type][zeros]: the sealer writes the last byte, so give it a zero as the type.
    let inner = [&b"data"[..], &[23, 0, 0, 0]].concat();
    let record = client
        .seal_control(ContentType::Unknown(0), &inner)
        .unwrap();
    assert_eq!(
        open_all(&mut server, &record).unwrap(),
        (b"data".into(), Some(Opened::Data(4)))
    );
}

#[test]
fn more_plaintext_than_allowed_is_refused_even_if_the_ciphertext_is_not() {
    let (mut client, mut server) = ours();
    let content = vec![1; crate::MAX_PLAINTEXT];
    let padded = [&content[..], &[23]].concat();
    let record = client.sealer.seal_unchecked(&padded);
    assert!(record.len() - HEADER_LEN <= crate::MAX_CIPHERTEXT);
    assert_eq!(open_all(&mut server, &record), Err(RecordError::TooLong));
}

#[test]
fn a_cancelling_user_is_no_reason_to_stop() {
    let (mut client, mut server) = ours();
    assert_eq!(
        receive(&mut server, &mut client, ContentType::Alert, &[1, 90]),
        "Control"
    );
    assert_eq!(
        receive(&mut server, &mut client, ContentType::Alert, &[1, 0]),
        "Close"
    );
}

#[test]
fn control_messages_of_every_kind_count_together() {
    let (mut client, mut server) = ours();
    for _ in 0..32 {
        assert_eq!(
            receive(&mut server, &mut client, ContentType::Alert, &[1, 90]),
            "Control"
        );
    }
    // So much data makes up for one.
    for part in [100, 156] {
        let data = seal(&mut client, &vec![0; part]).unwrap();
        open_all(&mut server, &data).unwrap();
    }
    assert_eq!(
        receive(&mut server, &mut client, ContentType::Alert, &[1, 90]),
        "Control"
    );
    let data = seal(&mut client, &[0; 255]).unwrap();
    open_all(&mut server, &data).unwrap();
    let said = receive(&mut server, &mut client, ContentType::Alert, &[1, 90]);
    assert!(said.contains("too many"), "{said}");
}

#[test]
fn empty_records_count_like_control_messages() {
    let (mut client, mut server) = ours();
    for _ in 0..32 {
        let empty = seal(&mut client, b"").unwrap();
        assert_eq!(
            open_all(&mut server, &empty).unwrap().1,
            Some(Opened::Data(0))
        );
    }
    let empty = seal(&mut client, b"").unwrap();
    let error = open_all(&mut server, &empty).unwrap_err();
    assert_eq!(error, RecordError::TooManyControlMessages);
}

#[test]
fn much_data_pays_for_no_more_than_was_owed() {
    let (mut client, mut server) = ours();
    let data = seal(&mut client, &[0; 16_000]).unwrap();
    open_all(&mut server, &data).unwrap();
    for _ in 0..32 {
        receive(&mut server, &mut client, ContentType::Alert, &[1, 90]);
    }
    let said = receive(&mut server, &mut client, ContentType::Alert, &[1, 90]);
    assert!(said.contains("too many"), "{said}");
}

#[test]
fn a_key_is_never_used_beyond_its_limit() {
    let (mut client, mut server) = ours();
    client.sealer.pretend_sealed(MAX_RECORDS_PER_KEY);
    assert_eq!(seal(&mut client, b"x"), Err(RecordError::KeyExhausted));
    // The peer counts too, so the KeyUpdate itself could only be read by one that lost as many.
    assert!(client.pending_out().is_some());
    let record = seal(&mut client, b"x").unwrap();
    server.opener = Opener::new(server.kernel.next_rx().unwrap()).unwrap();
    assert_eq!(open_all(&mut server, &record).unwrap().0, b"x");
}

#[test]
fn the_default_limit_leaves_a_margin() {
    let (mut client, _) = ours();
    client
        .sealer
        .pretend_sealed(MAX_RECORDS_PER_KEY - KEY_UPDATE_MARGIN - 1);
    assert!(client.pending_out().is_none());
    seal(&mut client, b"x").unwrap();
    assert!(client.pending_out().is_some());
    assert_eq!(client.sealer.records(), 0);
}
