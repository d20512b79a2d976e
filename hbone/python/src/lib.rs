// SPDX-License-Identifier: Apache-2.0
//! `agent.tunnel._hbone`: the core as Python sees it. The surface is `agent/tunnel/_hbone.pyi`.
//!
//! Only conversion happens here. Whatever waits does so with the GIL released, and no thread of the
//! core ever asks for it: events come by an eventfd and one call that takes them all.

#![forbid(unsafe_code)]

mod arguments;
mod binding;
mod closed;
mod records;

use pyo3::prelude::*;

/// The byte path: HBONE tunnels in Rust. See the stub for the documentation of each call.
#[pymodule]
mod _hbone {
    #[pymodule_export]
    use super::binding::Core;
    #[pymodule_export]
    use super::build_fingerprint;
    #[pymodule_export]
    use super::closed::ClosedConnection;
}

/// Hash of the sources this module was built from, to refuse a stale build.
#[pyfunction]
fn build_fingerprint() -> &'static str {
    env!("HBONE_FINGERPRINT")
}
