// SPDX-License-Identifier: Apache-2.0
//! The core's snapshots and events as the dicts of the stub.

use hbone_core::{ConnectionInfo, Counter, CounterKey, Event, Stats, TunnelInfo, WorkerShare};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Sets each named item of a dict.
macro_rules! fill {
    ($dict:expr, $($name:literal: $value:expr),+ $(,)?) => {{
        $( $dict.set_item($name, $value)?; )+
    }};
}

fn text(value: &Option<impl ToString>) -> Option<String> {
    value.as_ref().map(ToString::to_string)
}

/// Items that do not apply to this kind are left out.
pub(crate) fn event<'py>(py: Python<'py>, event: &Event) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    fill!(dict, "kind": event.kind.name(), "reason": event.reason);
    if let Some(direction) = event.direction {
        dict.set_item("direction", direction.name())?;
    }
    fill!(dict,
        "workload_id": event.workload_id,
        "peer_workload_id": event.peer_workload_id,
        "service_id": event.service_id,
        "bytes_sent": event.bytes_sent,
        "bytes_received": event.bytes_received,
        "duration_us": event.duration_us,
        "connect_us": event.connect_us,
    );
    let optional = [
        ("source", text(&event.source)),
        ("destination", text(&event.destination)),
        ("original_destination", text(&event.original_destination)),
        ("hbone_address", text(&event.hbone_address)),
        ("source_identity", text(&event.source_identity)),
        ("destination_identity", text(&event.destination_identity)),
        ("trace_id", event.trace_id.map(hexadecimal)),
        (
            "detail",
            (!event.detail.is_empty()).then(|| event.detail.clone()),
        ),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            dict.set_item(name, value)?;
        }
    }
    Ok(dict)
}

pub(crate) fn counter<'py>(
    py: Python<'py>,
    key: &CounterKey,
    counter: &Counter,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    fill!(dict,
        "direction": key.direction.name(),
        "workload_id": key.workload_id,
        "peer_workload_id": key.peer_workload_id,
        "service_id": key.service_id,
        // What the core carries goes through mutual TLS, always.
        "secure": true,
        "opened": counter.opened,
        "closed": counter.closed,
        "bytes_sent": counter.bytes_sent,
        "bytes_received": counter.bytes_received,
        "failed": counter.failed.clone(),
    );
    Ok(dict)
}

pub(crate) fn connection<'py>(
    py: Python<'py>,
    info: &ConnectionInfo,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    fill!(dict,
        "direction": info.direction.name(),
        "workload_id": info.workload_id,
        "peer_workload_id": info.peer_workload_id,
        "service_id": info.service_id,
        "source": info.source.to_string(),
        "destination": info.destination.to_string(),
        "original_destination": text(&info.original_destination).unwrap_or_default(),
        "source_identity": text(&info.source_identity).unwrap_or_default(),
        "destination_identity": text(&info.destination_identity).unwrap_or_default(),
        "bytes_sent": info.bytes_sent,
        "bytes_received": info.bytes_received,
        "age_us": info.age_us,
        "connect_us": info.connect_us,
    );
    Ok(dict)
}

pub(crate) fn tunnel<'py>(py: Python<'py>, info: &TunnelInfo) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    fill!(dict,
        "direction": info.direction.name(),
        "workload_id": info.workload_id,
        "local": info.local.to_string(),
        "remote": info.remote.to_string(),
        "peer_identity": &*info.peer_identity,
        "streams": info.streams,
        "age_us": info.age_us,
        "worker": info.worker,
    );
    Ok(dict)
}

/// The busy share goes as a number from 0 to 1.
fn share<'py>(py: Python<'py>, share: &WorkerShare) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    fill!(dict,
        "worker": share.worker,
        "busy": f64::from(share.busy) / 1000.0,
        "tunnels": share.tunnels,
        "connections": share.connections,
    );
    Ok(dict)
}

pub(crate) fn stats<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let shares: Vec<_> = stats
        .shares
        .iter()
        .map(|of_worker| share(py, of_worker))
        .collect::<PyResult<_>>()?;
    let dict = PyDict::new(py);
    fill!(dict,
        "workers": stats.workers,
        "connections": stats.connections,
        "tunnels": stats.tunnels,
        "handshakes": stats.handshakes,
        "handshakes_failed": stats.handshakes_failed.clone(),
        "tunnels_opened": stats.tunnels_opened,
        "tunnels_reused": stats.tunnels_reused,
        "spills": stats.spills,
        "tunnels_moved": stats.tunnels_moved,
        "tunnels_evicted": stats.tunnels_evicted,
        "tunnels_refused": stats.tunnels_refused,
        "tunnels_closed": stats.tunnels_closed.clone(),
        "events_dropped": stats.events_dropped,
        "events_withheld": stats.events_withheld,
        "capture_refused": stats.capture_refused.clone(),
        "buffers_bytes": stats.buffers_bytes,
        "shares": shares,
    );
    Ok(dict)
}

pub(crate) fn hexadecimal(bytes: [u8; 16]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(digit).collect()
}
