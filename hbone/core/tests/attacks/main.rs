// SPDX-License-Identifier: Apache-2.0
//! Peers with a good certificate that attack by HTTP/2, as clients of our inbound side and as servers
//! of our outbound side. `docs/attacks.md` lists them. Each ends its own tunnel, with a number, a
//! count and a GOAWAY, while a bulk transfer through the same worker goes on.

#[path = "../common/bulk.rs"]
mod bulk;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/raw.rs"]
#[allow(dead_code, reason = "shared with peers that keep the rules")]
mod raw;
#[path = "../common/raw_server.rs"]
mod raw_server;
#[path = "../common/scene.rs"]
#[allow(dead_code, reason = "shared with other attacks")]
mod scene;

mod floods;
mod frames;
mod headers;
mod order;
mod stage;
mod windows;

use common::*;
