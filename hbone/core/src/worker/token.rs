// SPDX-License-Identifier: Apache-2.0
//! What an epoll event is about: `[2 bits kind][30 bits generation][32 bits index]`.

use crate::slab::Handle;

const OWN_BELL: Handle = Handle {
    index: 0,
    generation: 0,
};
const OWN_ALARM: Handle = Handle {
    index: 1,
    generation: 0,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// The worker's own bell: commands and connections from other threads.
    Bell,
    /// The worker's own timer.
    Alarm,
    Listener(Handle),
    Tunnel(Handle),
    Stream(Handle),
}

impl Token {
    pub fn encode(self) -> u64 {
        let (kind, handle) = match self {
            Self::Bell => (0, OWN_BELL),
            Self::Alarm => (0, OWN_ALARM),
            Self::Listener(handle) => (1, handle),
            Self::Tunnel(handle) => (2, handle),
            Self::Stream(handle) => (3, handle),
        };
        kind << 62 | u64::from(handle.generation) << 32 | u64::from(handle.index)
    }

    pub fn decode(token: u64) -> Self {
        let handle = Handle {
            index: token as u32,
            generation: (token >> 32) as u32 & ((1 << 30) - 1),
        };
        match token >> 62 {
            0 if handle == OWN_ALARM => Self::Alarm,
            0 => Self::Bell,
            1 => Self::Listener(handle),
            2 => Self::Tunnel(handle),
            _ => Self::Stream(handle),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_trip_through_the_kernel() {
        let handle = Handle {
            index: u32::MAX,
            generation: (1 << 30) - 1,
        };
        for token in [
            Token::Bell,
            Token::Alarm,
            Token::Listener(handle),
            Token::Tunnel(handle),
            Token::Stream(handle),
        ] {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
