// SPDX-License-Identifier: Apache-2.0
//! Hashes the sources of the core into the module, so that the agent can refuse a stale build.
//!
//! It is CRC-32 (as in zlib) and length, eight hexadecimal digits each, of what follows, for each
//! file in the order of its path relative to the workspace: the path, a zero byte, the content, a
//! zero byte. Files: Cargo.toml and Cargo.lock of the workspace; Cargo.toml, build.rs and src/**/*.rs
//! of each crate. `agent/tunnel/fingerprint.py` computes the same.

use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 5] = ["core", "proto", "python", "sys", "tls"];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned();
    let mut files = vec![root.join("Cargo.toml"), root.join("Cargo.lock")];
    for name in CRATES {
        files.push(root.join(name).join("Cargo.toml"));
        files.push(root.join(name).join("build.rs"));
        collect(&root.join(name).join("src"), &mut files);
        println!(
            "cargo::rerun-if-changed={}",
            root.join(name).join("src").display()
        );
    }
    let mut named: Vec<(String, PathBuf)> = files
        .into_iter()
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below the workspace");
            (name.to_string_lossy().replace('\\', "/"), path)
        })
        .collect();
    named.sort();
    let mut text = Vec::new();
    for (name, path) in named {
        println!("cargo::rerun-if-changed={}", path.display());
        text.extend_from_slice(name.as_bytes());
        text.push(0);
        text.extend(fs::read(&path).expect("a source file that can be read"));
        text.push(0);
    }
    println!(
        "cargo::rustc-env=HBONE_FINGERPRINT={:08x}{:08x}",
        crc32(&text),
        text.len()
    );
}

/// CRC-32 with the reversed polynomial of ISO 3309.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
