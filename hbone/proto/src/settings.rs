// SPDX-License-Identifier: Apache-2.0
//! SETTINGS (RFC 9113 section 6.5).

use crate::error::{ConnectionError, ErrorCode};
use crate::flow::MAX_WINDOW;
use crate::frame::DEFAULT_MAX_FRAME;

/// Setting identifiers.
pub mod id {
    #![allow(missing_docs)]
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Bytes of one setting on the wire.
pub const ENTRY_LEN: usize = 6;
/// The table size both sides begin with.
pub const DEFAULT_TABLE_SIZE: u32 = 4096;
/// The window every stream begins with until SETTINGS say otherwise.
pub const DEFAULT_WINDOW: u32 = 65_535;

/// What the peer told us about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSettings {
    /// Our encoder keeps no table; only a lowering matters.
    pub header_table_size: u32,
    /// `None`: it did not say.
    pub max_concurrent_streams: Option<u32>,
    /// Window of our streams towards it.
    pub initial_window: u32,
    /// Largest frame it takes.
    pub max_frame: u32,
    /// Largest header list it takes.
    pub max_header_list: u32,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            header_table_size: DEFAULT_TABLE_SIZE,
            max_concurrent_streams: None,
            initial_window: DEFAULT_WINDOW,
            max_frame: DEFAULT_MAX_FRAME,
            max_header_list: u32::MAX,
        }
    }
}

impl PeerSettings {
    /// Takes a whole payload; later entries win. Unknown ones are ignored.
    ///
    /// # Errors
    /// A value outside the RFC's range, or a payload that is not a row of entries.
    pub fn apply(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        if !payload.len().is_multiple_of(ENTRY_LEN) {
            return Err(ConnectionError::broke(
                ErrorCode::FRAME_SIZE_ERROR,
                "settings_size",
            ));
        }
        for entry in payload.as_chunks::<ENTRY_LEN>().0 {
            let name = u16::from_be_bytes([entry[0], entry[1]]);
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            self.set(name, value)?;
        }
        Ok(())
    }

    fn set(&mut self, name: u16, value: u32) -> Result<(), ConnectionError> {
        match name {
            id::HEADER_TABLE_SIZE => self.header_table_size = value,
            id::ENABLE_PUSH if value > 1 => {
                return Err(ConnectionError::protocol("settings_push"));
            }
            id::MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = Some(value),
            id::INITIAL_WINDOW_SIZE => {
                if i64::from(value) > MAX_WINDOW {
                    let code = ErrorCode::FLOW_CONTROL_ERROR;
                    return Err(ConnectionError::broke(code, "settings_window"));
                }
                self.initial_window = value;
            }
            id::MAX_FRAME_SIZE => {
                if !(DEFAULT_MAX_FRAME..1 << 24).contains(&value) {
                    return Err(ConnectionError::protocol("settings_frame_size"));
                }
                self.max_frame = value;
            }
            id::MAX_HEADER_LIST_SIZE => self.max_header_list = value,
            _ => {}
        }
        Ok(())
    }
}

/// The wire form of our own settings.
pub(crate) fn encode(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(entries.len() * ENTRY_LEN);
    for (name, value) in entries {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(entries: &[(u16, u32)]) -> Result<PeerSettings, ConnectionError> {
        let mut settings = PeerSettings::default();
        settings.apply(&encode(entries)).map(|()| settings)
    }

    #[test]
    fn later_entries_win_and_unknown_ones_pass() {
        let got = apply(&[(4, 1), (0x99, 7), (4, 2), (3, 0), (5, 1 << 20)]).unwrap();
        assert_eq!(got.initial_window, 2);
        assert_eq!(got.max_concurrent_streams, Some(0));
        assert_eq!(got.max_frame, 1 << 20);
    }

    #[test]
    fn values_out_of_range() {
        let code = |entries: &[(u16, u32)]| apply(entries).unwrap_err().code;
        assert_eq!(code(&[(2, 2)]), ErrorCode::PROTOCOL_ERROR);
        assert_eq!(code(&[(4, 1 << 31)]), ErrorCode::FLOW_CONTROL_ERROR);
        assert_eq!(code(&[(5, 16_383)]), ErrorCode::PROTOCOL_ERROR);
        assert_eq!(code(&[(5, 1 << 24)]), ErrorCode::PROTOCOL_ERROR);
        let odd = PeerSettings::default().apply(&[0; 5]).unwrap_err();
        assert_eq!(odd.code, ErrorCode::FRAME_SIZE_ERROR);
    }
}
