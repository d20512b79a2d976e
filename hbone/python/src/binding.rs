// SPDX-License-Identifier: Apache-2.0
//! The class `Core` of the stub.

use crate::arguments::{duplicate, duplicate_all, invalid, parse_addresses, parse_peer, raise};
use crate::closed::ClosedConnection;
use crate::records;
use hbone_core::{Config, EventKind, Listeners, Workload};
use hbone_sys::flow::BpfFlowRecords;
use hbone_sys::socket;
use hbone_sys::verdict::BpfVerdicts;
use hbone_tls::Svid;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// Starts the workers; they live until stop().
#[pyclass(frozen, module = "agent.tunnel._hbone")]
pub(crate) struct Core(hbone_core::Core);

/// What Python gives for one peer: id, addresses, SPIFFE IDs.
type PeerTuple = (u32, Vec<String>, Vec<String>);

#[pymethods]
impl Core {
    #[new]
    #[pyo3(signature = (
        *, flow_records_fd, query_fd, workers = 0, hbone_port = 15008, congestion_control = "",
        max_events = 65536, half_close_idle_ms = 300_000, pool_idle_ms = 300_000,
        connect_timeout_ms = 10_000, spin_us = 0
    ))]
    #[allow(clippy::too_many_arguments)] // keyword-only settings of the stub
    fn new(
        py: Python<'_>,
        flow_records_fd: i32,
        query_fd: i32,
        workers: usize,
        hbone_port: u16,
        congestion_control: &str,
        max_events: usize,
        half_close_idle_ms: u64,
        pool_idle_ms: u64,
        connect_timeout_ms: u64,
        spin_us: u64,
    ) -> PyResult<Self> {
        let map = duplicate("flow_records_fd", flow_records_fd)?;
        let records = BpfFlowRecords::new(map)
            .map_err(|error| raise(hbone_core::Error::System("flow_records_fd", error)))?;
        let verdicts = BpfVerdicts::new(duplicate("query_fd", query_fd)?);
        let config = Config {
            workers,
            hbone_port,
            congestion_control: congestion_control.to_owned(),
            max_events,
            half_close_idle: Duration::from_millis(half_close_idle_ms),
            pool_idle: Duration::from_millis(pool_idle_ms),
            connect_timeout: Duration::from_millis(connect_timeout_ms),
            verdicts: Arc::new(verdicts),
            spin: Duration::from_micros(spin_us),
            ..Config::default()
        };
        py.detach(|| hbone_core::Core::start(config, Arc::new(records)))
            .map(Self)
            .map_err(raise)
    }

    fn event_fd(&self) -> i32 {
        self.0.event_fd().as_raw_fd()
    }

    #[allow(clippy::type_complexity)] // the pair of the stub
    fn drain_events<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Vec<ClosedConnection>, Vec<Bound<'py, PyDict>>)> {
        let (mut closed, mut others) = (Vec::new(), Vec::new());
        for event in self.0.drain_events() {
            if event.kind == EventKind::ConnectionClosed {
                closed.push(ClosedConnection::new(event));
            } else {
                others.push(records::event(py, &event)?);
            }
        }
        Ok((closed, others))
    }

    #[pyo3(signature = (identity, *, chain, private_key, roots))]
    fn put_svid(
        &self,
        py: Python<'_>,
        identity: &str,
        chain: Vec<Vec<u8>>,
        private_key: &[u8],
        roots: Vec<Vec<u8>>,
    ) -> PyResult<()> {
        let svid = Svid::new(&chain, private_key, &roots).map_err(invalid)?;
        if svid.id().as_str() != identity {
            return Err(invalid(format!(
                "the certificate is for {}, not {identity}",
                svid.id()
            )));
        }
        py.detach(|| self.0.put_svid(identity, &svid))
            .map_err(raise)
    }

    fn judge_again(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.judge_again()).map_err(raise)
    }

    fn remove_svid(&self, py: Python<'_>, identity: &str) -> PyResult<()> {
        py.detach(|| self.0.remove_svid(identity)).map_err(raise)
    }

    #[pyo3(signature = (
        workload_id, *, uid, identity, netns_fd, netns_cookie, addresses, capture_listeners,
        inbound_listeners, mark, baggage
    ))]
    #[allow(clippy::too_many_arguments)] // keyword-only fields of the stub
    fn put_workload(
        &self,
        py: Python<'_>,
        workload_id: u32,
        uid: String,
        identity: &str,
        netns_fd: i32,
        netns_cookie: u64,
        addresses: Vec<String>,
        capture_listeners: Vec<i32>,
        inbound_listeners: Vec<i32>,
        mark: u32,
        baggage: &str,
    ) -> PyResult<()> {
        let listeners = Listeners {
            capture: duplicate_all("capture_listeners", &capture_listeners)?,
            inbound: duplicate_all("inbound_listeners", &inbound_listeners)?,
        };
        let port = |fd| socket::local_address(fd).map(|address| address.port());
        let capture_ports = listeners.capture.iter().map(port).collect::<Result<_, _>>();
        let workload = Workload {
            id: workload_id,
            uid,
            identity: identity.into(),
            capture_ports: capture_ports.map_err(invalid)?,
            netns: duplicate("netns_fd", netns_fd)?,
            netns_cookie,
            addresses: parse_addresses(&addresses)?,
            mark,
            baggage: baggage.into(),
        };
        py.detach(|| self.0.put_workload(workload, listeners))
            .map_err(raise)
    }

    #[pyo3(signature = (workload_id, *, drain_ms))]
    fn remove_workload(&self, py: Python<'_>, workload_id: u32, drain_ms: u64) -> PyResult<()> {
        let drain = Duration::from_millis(drain_ms);
        py.detach(|| self.0.remove_workload(workload_id, drain))
            .map_err(raise)
    }

    fn put_peers(&self, py: Python<'_>, peers: Vec<PeerTuple>) -> PyResult<()> {
        let peers = peers
            .into_iter()
            .map(parse_peer)
            .collect::<PyResult<Vec<_>>>()?;
        py.detach(|| self.0.put_peers(peers)).map_err(raise)
    }

    fn remove_peers(&self, py: Python<'_>, workload_ids: Vec<u32>) -> PyResult<()> {
        py.detach(|| self.0.remove_peers(workload_ids))
            .map_err(raise)
    }

    fn put_services(&self, py: Python<'_>, services: Vec<(u32, String)>) -> PyResult<()> {
        let services = services
            .into_iter()
            .map(|(id, name)| (id, name.into()))
            .collect();
        py.detach(|| self.0.put_services(services)).map_err(raise)
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let counters = py.detach(|| self.0.counters()).map_err(raise)?;
        counters
            .iter()
            .map(|(key, counter)| records::counter(py, key, counter))
            .collect()
    }

    fn forget_counters(&self, py: Python<'_>, workload_ids: Vec<u32>) -> PyResult<()> {
        py.detach(|| self.0.forget_counters(workload_ids))
            .map_err(raise)
    }

    fn connections<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let connections = py.detach(|| self.0.connections()).map_err(raise)?;
        connections
            .iter()
            .map(|info| records::connection(py, info))
            .collect()
    }

    fn tunnels<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let tunnels = py.detach(|| self.0.tunnels()).map_err(raise)?;
        tunnels
            .iter()
            .map(|info| records::tunnel(py, info))
            .collect()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = py.detach(|| self.0.stats()).map_err(raise)?;
        records::stats(py, &stats)
    }

    fn drain(&self, py: Python<'_>, deadline_ms: u64) -> PyResult<()> {
        py.detach(|| self.0.drain(Duration::from_millis(deadline_ms)))
            .map_err(raise)
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }
}
