// SPDX-License-Identifier: Apache-2.0
//! The class `ClosedConnection` of the stub: the one event that comes by the thousand.
//!
//! It stays as the core made it until somebody asks. Most are dropped from memory unseen, and text
//! of four addresses, two identities and a trace cost more than everything else about the event.

use crate::records::hexadecimal;
use hbone_core::{Direction, Event};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString, PyTuple};
use std::fmt::Write as _;
use std::net::SocketAddr;

/// A connection that ended; the members are those of the stub.
#[pyclass(frozen, module = "agent.tunnel._hbone")]
pub(crate) struct ClosedConnection(Event);

impl ClosedConnection {
    pub(crate) fn new(event: Event) -> Self {
        Self(event)
    }
}

#[pymethods]
impl ClosedConnection {
    #[getter]
    fn reason(&self) -> u32 {
        self.0.reason
    }

    #[getter]
    fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What connections of one pair of workloads have in common.
    #[getter]
    fn between<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let event = &self.0;
        (
            event.direction != Some(Direction::Inbound),
            event.workload_id,
            event.peer_workload_id,
            event.service_id,
            event.source_identity.as_deref().unwrap_or_default(),
            event.destination_identity.as_deref().unwrap_or_default(),
        )
            .into_pyobject(py)
    }

    /// What is its own.
    #[getter]
    fn own<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let event = &self.0;
        let mut line = String::with_capacity(64);
        let mut address = |value: Option<SocketAddr>| {
            line.clear();
            if let Some(value) = value {
                // Writing to a String cannot fail.
                let _ = write!(line, "{value}");
            }
            PyString::new(py, &line)
        };
        let trace = event.trace_id.map(hexadecimal).unwrap_or_default();
        let number = |value: u64| PyInt::new(py, value);
        PyTuple::new(
            py,
            [
                address(event.source).into_any(),
                address(event.destination).into_any(),
                address(event.original_destination).into_any(),
                address(event.hbone_address).into_any(),
                number(event.bytes_sent).into_any(),
                number(event.bytes_received).into_any(),
                number(event.connect_us).into_any(),
                number(event.duration_us).into_any(),
                PyString::new(py, &trace).into_any(),
            ],
        )
    }
}
