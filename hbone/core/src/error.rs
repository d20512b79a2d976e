// SPDX-License-Identifier: Apache-2.0
//! What can go wrong for the owner of the core. Peers' faults become events, never errors.

use std::fmt;
use std::io;

#[derive(Debug)]
pub enum Error {
    /// The caller gave something that cannot be: a sentence says what.
    Invalid(String),
    /// The kernel refused something that the core cannot do without.
    System(&'static str, io::Error),
    /// The workers have stopped, or one of them did not answer in time.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => f.write_str(what),
            Self::System(what, error) => write!(f, "{what}: {error}"),
            Self::Stopped => f.write_str("the tunnel core has stopped or does not answer"),
        }
    }
}

impl std::error::Error for Error {}
