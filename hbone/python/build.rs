// SPDX-License-Identifier: Apache-2.0
//! Hashes the sources of the core into the module, so that the agent can refuse a stale build.
//!
//! The hash is FNV-1a (64 bits) over, for each file in the order of its path relative to the
//! workspace: the path, a zero byte, the content, a zero byte. Files: Cargo.toml and Cargo.lock of
//! the workspace; Cargo.toml, build.rs and src/**/*.rs of each crate.

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
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (name, path) in named {
        println!("cargo::rerun-if-changed={}", path.display());
        let content = fs::read(&path).expect("a source file that can be read");
        for byte in name.bytes().chain([0]).chain(content).chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    println!("cargo::rustc-env=HBONE_FINGERPRINT={hash:016x}");
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
