// SPDX-License-Identifier: Apache-2.0
//! Time as the caller tells it.

use std::ops::{Add, Sub};

/// Milliseconds of a monotonic clock whose zero the caller chooses. This crate never asks a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds * 1000)
    }

    /// Time passed since `earlier`; zero if the caller's clock went backwards.
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Millis {
    type Output = Self;
    fn add(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub for Millis {
    type Output = Self;
    fn sub(self, span: Self) -> Self {
        self.since(span)
    }
}
