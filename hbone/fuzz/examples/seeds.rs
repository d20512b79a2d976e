// SPDX-License-Identifier: Apache-2.0
//! Writes the committed seeds anew: `cargo run --example seeds` in `hbone/fuzz`.

use std::path::Path;

use hbone_fuzz::certificates::{CLIENT, SERVER};
use hbone_fuzz::script::{NOW, connection, frame, hello};
use hbone_proto::frame::{flag, kind};
use hbone_proto::{ConnectResponse, Role};

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(name), bytes).expect("a file");
}

/// What our own client says, and what our own server answers.
fn dialogue() -> (Vec<u8>, Vec<u8>) {
    let (mut client, mut server) = (
        connection(Role::Client, false),
        connection(Role::Server, false),
    );
    let asked = client.control().to_vec();
    let mut events = Vec::new();
    server
        .recv(NOW, &asked, &mut events)
        .expect("our own bytes");
    for event in events {
        if let hbone_proto::Event::Opened { stream, .. } = event {
            let response = ConnectResponse {
                status: if stream.id() == 5 { 503 } else { 200 },
                baggage: Some("a=b".into()),
            };
            server.respond(stream, &response).expect("a live stream");
        }
    }
    client
        .recv(NOW, server.control(), &mut Vec::new())
        .expect("our own bytes");
    (asked, server.control().to_vec())
}

fn frames() {
    let (asked, answered) = dialogue();
    let more = [
        frame(kind::DATA, 0, 1, b"hello"),
        frame(kind::DATA, flag::PADDED, 1, &[2, b'x', 0, 0]),
        frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0x10, 0]),
        frame(kind::PING, 0, 0, b"abcdefgh"),
        frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            1,
            &[0, 1, b'a', 1, b'b'],
        ),
        frame(kind::RST_STREAM, 0, 3, &[0, 0, 0, 8]),
        frame(kind::GOAWAY, 0, 0, &[0; 8]),
        frame(0xee, 0, 9, b"grease"),
    ]
    .concat();
    // Options: 1 client, 2 small limits, 4 no hello before the input.
    write("frames", "server", &[&[4, 7], &asked[..], &more].concat());
    write(
        "frames",
        "server-small",
        &[&[6, 9], &asked[..], &more].concat(),
    );
    write(
        "frames",
        "client",
        &[&[5, 3], &answered[..], &more].concat(),
    );
    write(
        "frames",
        "client-small",
        &[&[7, 0], &answered[..], &more].concat(),
    );
    write("frames", "polite", &[&[0, 1], &more[..]].concat());
    write(
        "frames",
        "twice-greeted",
        &[&[0, 5], &hello(Role::Server)[..]].concat(),
    );
}

/// Blocks of RFC 7541, appendices C.3, C.4 and C.6.
fn hpack() {
    let stories: [(&str, &[&str]); 3] = [
        (
            "plain",
            &[
                "828684410f7777772e6578616d706c652e636f6d",
                "828684be58086e6f2d6361636865",
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            ],
        ),
        (
            "huffman",
            &[
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
        ),
        (
            "resize",
            &["3f21828684", "20008162", "3fe11f400161016240016301640ac0"],
        ),
    ];
    for (name, blocks) in stories {
        let mut out = vec![3, 2];
        for block in blocks {
            let bytes: Vec<u8> = (0..block.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&block[at..at + 2], 16).expect("hex"))
                .collect();
            out.extend((bytes.len() as u16).to_be_bytes());
            out.extend(bytes);
        }
        write("hpack", name, &out);
    }
}

fn connect() {
    let whole = "\
:method: CONNECT
:authority: 10.1.2.3:80
baggage: k8s.namespace.name=shop,service.name=web
forwarded: for=\"10.0.0.1:5\";host=web.shop
traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    write("connect", "whole", whole.as_bytes());
    write(
        "connect",
        "six",
        b":method: CONNECT\n:authority: [fd00::1]:80\nforwarded: For=\"[fd00::2]\"",
    );
    write(
        "connect",
        "host",
        b":method: CONNECT\n:authority: Web.shop:80\nforwarded: host=\"a\\\"b\"",
    );
    write(
        "connect",
        "get",
        b":method: GET\n:scheme: http\n:path: /\n:authority: web",
    );
    write("connect", "answer", b"answer\n:status: 200\nbaggage: a=b");
    write(
        "connect",
        "host-quoted",
        b":method: CONNECT\n:authority: web.shop:80\nforwarded: host=\"a;b\"",
    );
    write("connect", "interim", b"answer\n:status: 103\n:status: 200");
}

fn sequence() {
    // Two settings of windows and streams, then a byte of side, of app, and of action with its
    // arguments; these are only somewhere to begin.
    let open = [0u8, 0, 0];
    let answer = [1, 0, 10, 0];
    let write_some = [0, 0, 20, 2, 0, 200];
    let deliver = [0, 0, 70, 2, 0xff, 0xff];
    let wait = [0, 0, 85, 20];
    let read = [1, 0, 45, 2, 0xff, 0xff];
    let turn = [
        &open[..],
        &wait,
        &deliver,
        &answer,
        &write_some,
        &wait,
        &deliver,
        &read,
    ]
    .concat();
    write(
        "sequence",
        "small",
        &[&[0, 0, 0], &turn[..], &turn, &turn].concat(),
    );
    write(
        "sequence",
        "large",
        &[&[3, 2, 2], &turn[..], &turn, &turn].concat(),
    );
    write(
        "sequence",
        "drain",
        &[&[1, 1, 1], &turn[..], &[1, 0, 97, 3], &wait, &wait].concat(),
    );
    write(
        "sequence",
        "lose",
        &[&[1, 1, 1], &turn[..], &[1, 0, 98, 7], &turn].concat(),
    );
    write(
        "sequence",
        "freeze",
        &[&[1, 1, 1], &turn[..], &[1, 0, 95], &[0, 0, 94, 0x9c, 0x00]].concat(),
    );
}

fn record() {
    write("record", "data", &[0, 5, 0x80, 9, 0x40, 255]);
    write(
        "record",
        "key-update",
        &[2, 22, 5, 24, 0, 0, 1, 1, 0x85, 0, 3],
    );
    write("record", "alert", &[2, 21, 2, 2, 40, 5]);
    write("record", "ticket", &[0x82, 22, 8, 4, 0, 0, 4, 1, 2, 3, 4]);
    write("record", "worn", &[6, 0, 0, 3, 5, 0, 3, 5, 0, 3, 5]);
    write("record", "close", &[0x78, 5, 0, 3]);
    write("record", "touched", &[3, 6, 1, 5, 0x85]);
}

fn handshake() {
    write(
        "handshake",
        "raw-server",
        &[0x80, 0, 22, 3, 1, 0, 5, 1, 0, 0, 1, 0],
    );
    write(
        "handshake",
        "raw-client",
        &[0, 3, 22, 3, 3, 0, 4, 2, 0, 0, 0],
    );
    write("handshake", "untouched", &[1, 9]);
    write(
        "handshake",
        "edited",
        &[1, 0, 1, 0, 0, 60, 1, 1, 2, 0, 200, 4, 1, 3, 0, 9, 50],
    );
    for (name, kind, uri) in [("client", 0x83, CLIENT), ("server", 3, SERVER)] {
        write(
            "handshake",
            name,
            &[&[kind, 0, 0, 0], uri.as_bytes()].concat(),
        );
        write(
            "handshake",
            &format!("{name}-foreign"),
            &[&[kind, 9, 1, 0], uri.as_bytes()].concat(),
        );
        write(
            "handshake",
            &format!("{name}-no-alpn"),
            &[&[kind, 0, 4, 2], uri.as_bytes()].concat(),
        );
    }
}

fn spiffe() {
    write("spiffe", "text", &[&[0], SERVER.as_bytes()].concat());
    write(
        "spiffe",
        "names",
        format!("\u{1}https://web\n{SERVER}\n{CLIENT}").as_bytes(),
    );
    let uri = [&[0x86, SERVER.len() as u8], SERVER.as_bytes()].concat();
    let names = [&[0x30, uri.len() as u8], &uri[..]].concat();
    write("spiffe", "extension", &[&[2], &names[..]].concat());
    write("spiffe", "edits", &[4, 0, 90, 1, 1, 0, 3]);
}

fn main() {
    frames();
    hpack();
    connect();
    sequence();
    record();
    handshake();
    spiffe();
}
