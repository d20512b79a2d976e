// SPDX-License-Identifier: Apache-2.0
//! The mirrors have the size and offsets that a C compiler gives to mesh_types.h.

use hbone_sys::flow::{FlowKey, FlowRecord};
use hbone_sys::verdict::{Verdict, VerdictQuery};
use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

macro_rules! layout {
    ($mirror:ty, $name:literal, $($field:ident),+) => {{
        let mut rust = format!("{} {}\n", $name, size_of::<$mirror>());
        let mut c = format!("printf(\"{0} %zu\\n\", sizeof(struct {0}));\n", $name);
        $(
            let field = stringify!($field);
            writeln!(rust, "{}.{} {}", $name, field, offset_of!($mirror, $field)).unwrap();
            writeln!(c, "printf(\"{0}.{1} %zu\\n\", offsetof(struct {0}, {1}));", $name, field)
                .unwrap();
        )+
        (rust, c)
    }};
}

#[test]
fn mirrors_match_the_header() {
    let (key, key_c) = layout!(
        FlowKey,
        "flow_key",
        netns_cookie,
        source,
        source_port,
        capture_port,
        family,
        pad
    );
    let (record, record_c) = layout!(
        FlowRecord,
        "flow_record",
        original,
        upstream,
        original_port,
        upstream_port,
        source_workload,
        upstream_workload,
        service_id,
        generation,
        flags,
        created_ns
    );
    let (query, query_c) = layout!(
        VerdictQuery,
        "verdict_query",
        subject,
        peer,
        port,
        protocol,
        direction,
        pad,
        flags,
        address
    );
    let (verdict, verdict_c) = layout!(
        Verdict, "verdict", reason, generation, set_id, rule, dry_rule, flags, peer_class, pad
    );
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf/include");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (directory.join("layout.c"), directory.join("layout"));
    let text = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"mesh_policy.h\"\n\
         int main(void)\n{{\n{key_c}{record_c}{query_c}{verdict_c}return 0;\n}}\n"
    );
    std::fs::write(&source, text).unwrap();
    let mut compiler = Command::new("cc");
    let built = compiler
        .arg("-I")
        .arg(include)
        .arg("-o")
        .arg(&program)
        .arg(&source);
    assert!(built.status().expect("a C compiler (cc)").success());
    let output = Command::new(&program).output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        key + &record + &query + &verdict
    );
}
