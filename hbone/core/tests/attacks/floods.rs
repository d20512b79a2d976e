// SPDX-License-Identifier: Apache-2.0
//! Good frames, too many of them.

use crate::bulk::Bulk;
use crate::raw::h2_frame;
use crate::scene::Scene;
use crate::stage::*;
use hbone_proto::ErrorCode;

const CALM: ErrorCode = ErrorCode::ENHANCE_YOUR_CALM;

fn reset(stream: u32) -> Vec<u8> {
    h2_frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

/// CVE-2023-44487.
#[test]
fn rapid_reset() {
    let scene = Scene::new();
    let app = scene.app().to_string();
    drop(scene);
    let attack: Vec<u8> = later_ids()
        .take(5000)
        .flat_map(|id| [connect(id, &app), reset(id)].concat())
        .collect();
    client_ends(End(CALM, "too_many_unanswered_resets"), &attack);
}

#[test]
fn resets_of_one_dead_stream() {
    let attack = reset(OPEN).repeat(30_000);
    both_end(CALM, "too_many_resets", &attack);
}

/// CVE-2025-8671 (MadeYouReset): it is we who reset, for a second HEADERS that ends nothing.
#[test]
fn streams_that_we_must_reset() {
    let attack: Vec<u8> = later_ids()
        .take(3000)
        .flat_map(|id| {
            let again = answer(id, &literal("x", "y"));
            [connect(id, "127.0.0.2:1"), again].concat()
        })
        .collect();
    client_ends(End(CALM, "too_many_internal_resets"), &attack);
}

/// The same by windows that overflow.
#[test]
fn windows_that_we_must_reset() {
    let attack: Vec<u8> = later_ids()
        .take(3000)
        .flat_map(|id| {
            let open = connect(id, "127.0.0.2:1");
            let over = h2_frame(kind::WINDOW_UPDATE, 0, id, &[0x7f, 0xff, 0xff, 0xff]);
            [open, over].concat()
        })
        .collect();
    client_ends(End(CALM, "too_many_internal_resets"), &attack);
}

#[test]
fn malformed_requests() {
    let attack: Vec<u8> = later_ids()
        .take(3000)
        .flat_map(|id| answer(id, &literal("Upper-Case", "x")))
        .collect();
    client_ends(End(CALM, "too_many_internal_resets"), &attack);
}

#[test]
fn requests_that_are_no_connect() {
    let block = [
        literal(":method", "GET"),
        literal(":scheme", "https"),
        literal(":path", "/"),
        literal(":authority", "127.0.0.2:80"),
    ]
    .concat();
    let attack: Vec<u8> = later_ids()
        .take(3000)
        .flat_map(|id| answer(id, &block))
        .collect();
    client_ends(End(CALM, "too_many_refused_requests"), &attack);
}

#[test]
fn settings_flood() {
    let attack = h2_frame(kind::SETTINGS, 0, 0, &[]).repeat(2000);
    both_end(CALM, "too_many_settings", &attack);
}

#[test]
fn settings_ack_flood() {
    let attack = h2_frame(kind::SETTINGS, flag::ACK, 0, &[]).repeat(8000);
    both_end(CALM, "too_many_glitches", &attack);
}

#[test]
fn ping_flood() {
    // In one record the answers cannot leave in between: whichever limit comes first.
    let attack = h2_frame(kind::PING, 0, 0, b"flooding").repeat(3000);
    both_end(CALM, "too_many_pings", &attack);
}

/// Answers to PINGs that nobody sent, from one that reads nothing.
#[test]
fn ping_ack_flood() {
    let attack = h2_frame(kind::PING, flag::ACK, 0, b"flooding").repeat(8000);
    both_end(CALM, "too_many_glitches", &attack);
}

#[test]
fn priority_flood() {
    let attack = h2_frame(kind::PRIORITY, 0, OPEN, &[0, 0, 0, 0, 1]).repeat(8000);
    both_end(CALM, "too_many_glitches", &attack);
}

#[test]
fn flood_of_unknown_frames() {
    let attack = h2_frame(kind::UNKNOWN, 0, OPEN, b"?").repeat(8000);
    both_end(CALM, "too_many_glitches", &attack);
}

/// CVE-2019-9518.
#[test]
fn flood_of_empty_data() {
    let attack = h2_frame(kind::DATA, 0, OPEN, &[]).repeat(2000);
    both_end(CALM, "too_many_empty_frames", &attack);
}

/// Padding alone is charged to the windows and says as little as nothing.
#[test]
fn flood_of_padding() {
    let attack = h2_frame(kind::DATA, flag::PADDED, OPEN, &[0]).repeat(2000);
    both_end(CALM, "too_many_empty_frames", &attack);
}

/// An honest peer sends one for each 32 KiB: no limit of its own, and no cost that matters.
#[test]
fn window_update_flood() {
    let scene = Scene::new();
    let (mut wire, _app) = client_of(&scene);
    let bulk = Bulk::start(&scene.pair);
    let pair = [
        h2_frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        h2_frame(kind::WINDOW_UPDATE, 0, OPEN, &[0, 0, 0, 1]),
    ];
    let attack = pair.concat().repeat(100_000);
    harmless(&scene, &scene.pair.server, &mut wire, bulk, &attack);
}

#[test]
fn streams_beyond_the_limit() {
    let attack: Vec<u8> = later_ids()
        .take(3000)
        .flat_map(|id| connect(id, "127.0.0.2:1"))
        .collect();
    // Some are refused at once (nobody listens there), the rest finds no place: either way it ends.
    let scene = Scene::new();
    let (mut wire, _app) = client_of(&scene);
    let bulk = Bulk::start(&scene.pair);
    ends(
        &scene,
        &scene.pair.server,
        &mut wire,
        bulk,
        End(CALM, "too_many_internal_resets"),
        &attack,
    );
}
