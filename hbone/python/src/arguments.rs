// SPDX-License-Identifier: Apache-2.0
//! Python's values into the core's, and the core's errors into exceptions.

use hbone_core::{Error, Peer};
use hbone_sys::socket;
use hbone_tls::{ExpectedPeers, SpiffeId};
use pyo3::PyErr;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// The one place where an error of the core becomes an exception.
pub(crate) fn raise(error: Error) -> PyErr {
    match error {
        Error::Invalid(what) => PyValueError::new_err(what),
        Error::System(what, cause) => match cause.raw_os_error() {
            Some(number) => PyOSError::new_err((number, format!("{what}: {cause}"))),
            None => PyOSError::new_err(format!("{what}: {cause}")),
        },
        Error::Stopped => PyRuntimeError::new_err(Error::Stopped.to_string()),
    }
}

pub(crate) fn invalid(what: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(what.to_string())
}

/// A duplicate: the caller keeps its own descriptor.
pub(crate) fn duplicate(what: &'static str, fd: i32) -> Result<OwnedFd, PyErr> {
    socket::duplicate_raw(fd).map_err(|error| raise(Error::System(what, error)))
}

pub(crate) fn duplicate_all(what: &'static str, fds: &[i32]) -> Result<Vec<OwnedFd>, PyErr> {
    fds.iter().map(|&fd| duplicate(what, fd)).collect()
}

pub(crate) fn parse_addresses(texts: &[String]) -> Result<Vec<IpAddr>, PyErr> {
    let parse = |text: &String| {
        let address: Result<IpAddr, _> = text.parse();
        address
            .map(|ip| ip.to_canonical())
            .map_err(|_| invalid(format!("not an address: {text}")))
    };
    texts.iter().map(parse).collect()
}

pub(crate) fn parse_peer(
    (id, addresses, identities): (u32, Vec<String>, Vec<String>),
) -> Result<Peer, PyErr> {
    let ids: Result<Vec<SpiffeId>, PyErr> = identities
        .iter()
        .map(|text| text.parse().map_err(invalid))
        .collect();
    Ok(Peer {
        id,
        addresses: parse_addresses(&addresses)?,
        expected: ExpectedPeers::any_of(ids?),
    })
}
