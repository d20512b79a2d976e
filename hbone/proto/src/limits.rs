// SPDX-License-Identifier: Apache-2.0
//! Limits against hostile peers.
