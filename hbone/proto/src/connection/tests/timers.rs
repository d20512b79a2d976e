// SPDX-License-Identifier: Apache-2.0
//! What the peer owes us in time: an acknowledgement, and room while streams wait for it.

use super::*;
use crate::error::Blame;
use crate::limits::STALL_CREDIT;

/// A client whose peer answers PINGs but does nothing else until `until`.
fn pass(client: &mut Connection, until: Millis) -> Result<(), ConnectionError> {
    while let Some(due) = client.next_deadline().filter(|due| *due <= until) {
        client.on_time(due)?;
        let pong = frame(kind::PING, flag::ACK, 0, b"nm-alive");
        client.recv(due, &pong, &mut Vec::new())?;
        sent(client);
    }
    Ok(())
}

/// A client that has filled the connection's window and has more to send on one stream.
fn blocked() -> (Connection, StreamKey) {
    let mut client = client();
    feed(&mut client, &settings_frame(&[(4, 1 << 20)])).unwrap();
    let key = client.open(&request(), 1).unwrap();
    fill(&mut client, key);
    (client, key)
}

/// Sends all that there is room for, and wants to send more.
fn fill(client: &mut Connection, key: StreamKey) -> usize {
    let mut total = 0;
    loop {
        let room = client.capacity(key);
        if room == 0 {
            return total;
        }
        client.data_header(key, room, false).unwrap();
        total += room;
    }
}

fn stalled(outcome: Result<(), ConnectionError>) {
    let error = outcome.unwrap_err();
    assert_eq!((error.token, error.blame), ("stalled", Blame::PeerFlooded));
}

#[test]
fn settings_must_be_acknowledged() {
    let config = Config::client();
    let wait = config.settings_timeout;
    let mut client = Connection::new(Role::Client, config, NOW);
    feed(&mut client, &settings_frame(&[])).unwrap();
    pass(&mut client, NOW + wait - Millis(1)).unwrap();
    let error = pass(&mut client, NOW + wait).unwrap_err();
    assert_eq!(error.code, ErrorCode::SETTINGS_TIMEOUT);
    assert_eq!(error.token, "settings_timeout");
    assert_eq!(sent(&mut client).pop().unwrap().0.kind, kind::GOAWAY);
    assert_eq!(client.next_deadline(), None);
}

#[test]
fn who_is_gone_is_said_to_be_gone_and_not_slow_to_acknowledge() {
    let mut client = Connection::new(Role::Client, Config::client(), NOW);
    let mut outcome = Ok(());
    while let (Some(due), Ok(())) = (client.next_deadline(), outcome) {
        outcome = client.on_time(due);
    }
    assert_eq!(outcome.unwrap_err().token, "keepalive_timeout");
}

#[test]
fn a_peer_that_never_gives_room_has_stalled() {
    let (mut client, _) = blocked();
    let wait = Config::client().stall_timeout;
    pass(&mut client, NOW + wait - Millis(1)).unwrap();
    stalled(pass(&mut client, NOW + wait));
}

#[test]
fn drips_do_not_count_and_room_does() {
    let (mut client, key) = blocked();
    let wait = Config::client().stall_timeout;
    // A byte a second.
    for second in 1..300 {
        let now = NOW + Millis::seconds(second);
        pass(&mut client, now).unwrap();
        client.recv(now, &update(0, 1), &mut Vec::new()).unwrap();
        assert_eq!(client.pop_writable(), Some((key, 1)));
        assert_eq!(fill(&mut client, key), 1);
    }
    let (mut honest, honest_key) = blocked();
    let half = NOW + Millis(wait.0 / 2);
    pass(&mut honest, half).unwrap();
    honest
        .recv(half, &update(0, STALL_CREDIT), &mut Vec::new())
        .unwrap();
    assert_eq!(honest.pop_writable(), Some((honest_key, 1)));
    assert_eq!(fill(&mut honest, honest_key), STALL_CREDIT as usize);
    stalled(pass(&mut client, NOW + wait));
    pass(&mut honest, half + wait - Millis(1)).unwrap();
    stalled(pass(&mut honest, half + wait));
}

#[test]
fn nobody_waits_nobody_stalls() {
    let day = NOW + Millis::seconds(86_400);
    // The window is shut, and the stream that wanted it is gone.
    let (mut client, key) = blocked();
    client.reset(key, ErrorCode::CANCEL);
    pass(&mut client, day).unwrap();
    // It had no more to say: the end needs no room.
    let (mut client, key) = blocked();
    client.data_header(key, 0, true).unwrap();
    pass(&mut client, day).unwrap();
    // A slow app shuts its own stream only.
    let mut client = super::client();
    let key = client.open(&request(), 1).unwrap();
    feed(&mut client, &update(0, 1 << 20)).unwrap();
    assert_eq!(fill(&mut client, key), 65_535);
    pass(&mut client, day).unwrap();
}

#[test]
fn a_stream_put_off_waits_too() {
    let mut client = client();
    let keys = [1, 2].map(|user| client.open(&request(), user).unwrap());
    client.queue_writable(keys[1]);
    feed(&mut client, &update(keys[0].id(), 1 << 20)).unwrap();
    // The first takes the whole window and wants no more; the second is still in the queue.
    while let room @ 1.. = client
        .capacity(keys[0])
        .min(client.core.send_window.available())
    {
        client.data_header(keys[0], room, false).unwrap();
        if client.is_congested() {
            break;
        }
    }
    assert_eq!(client.pop_writable(), None);
    stalled(pass(&mut client, NOW + Config::client().stall_timeout));
}
