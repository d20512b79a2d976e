// SPDX-License-Identifier: Apache-2.0
//! From bytes in any split to pieces: whole small frames, whole header blocks, DATA as it comes.
//!
//! ```text
//! Preface ─▶ Head ─▶ Pad ─▶ Data ─┐        DATA is never copied
//!             │ ▲                 │
//!             │ ├─────────────────┘
//!             ├─┼─▶ Collect ─▶ (Skip) ─┐   everything else is seen whole,
//!             ├─┼─▶ Skip ──────────────┤   copied only if it straddles
//!             │ └──────────────────────┘
//! ```
//! Rules that need no stream are enforced here: sizes, ids 0 or not 0, the order of fragments.

mod form;
mod piece;

use crate::error::{ConnectionError, ErrorCode};
use crate::frame::{HEADER_LEN, Header, PREFACE, flag, kind};
use crate::limits::{MAX_CONTINUATIONS, MAX_SETTINGS_ENTRIES};
use crate::settings::ENTRY_LEN;
use form::{check_stream_zero, size, unpadded};
pub(crate) use piece::Piece;

/// GOAWAY's fixed part; its debug data is not kept.
const GOAWAY_LEN: u32 = 8;
/// Padding length and priority in front of a header block.
const HEADERS_EXTRA: u32 = 6;

/// Buffer sizes worth keeping between header blocks.
const KEEP: usize = 4096;

#[derive(Debug, Clone, Copy)]
enum State {
    Preface {
        matched: usize,
    },
    Head,
    Pad {
        header: Header,
    },
    Data {
        left: usize,
        pad: usize,
    },
    Collect {
        header: Header,
        take: usize,
        skip: usize,
    },
    Skip {
        left: usize,
    },
}

/// A header block whose END_HEADERS has not come.
#[derive(Debug, Clone, Copy)]
struct OpenBlock {
    stream: u32,
    end: bool,
    continuations: u32,
}

#[derive(Debug)]
pub(crate) struct Reader {
    state: State,
    max_frame: u32,
    max_block: usize,
    begun: bool,
    /// Start of a frame that straddles two calls.
    partial: Vec<u8>,
    block: Vec<u8>,
    open: Option<OpenBlock>,
}

impl Reader {
    pub fn new(expect_preface: bool, max_frame: u32, max_block: usize) -> Self {
        let state = if expect_preface {
            State::Preface { matched: 0 }
        } else {
            State::Head
        };
        Self {
            state,
            max_frame,
            max_block,
            begun: false,
            partial: Vec::new(),
            block: Vec::new(),
            open: None,
        }
    }

    /// The next piece of `bytes` from `at` on; `at` moves. `None`: all of `bytes` was taken.
    pub fn next<'a>(
        &'a mut self,
        bytes: &'a [u8],
        at: &mut usize,
    ) -> Result<Option<Piece<'a>>, ConnectionError> {
        loop {
            match self.state {
                State::Preface { matched } => {
                    if !self.preface(matched, bytes, at)? {
                        return Ok(None);
                    }
                }
                State::Head => {
                    let Some(header) = self.head(bytes, at) else {
                        return Ok(None);
                    };
                    if let Some(piece) = self.begin(header)? {
                        return Ok(Some(piece));
                    }
                }
                State::Pad { header } => {
                    let Some(&pad) = bytes.get(*at) else {
                        return Ok(None);
                    };
                    *at += 1;
                    let left = header.length as usize - 1;
                    let pad = usize::from(pad);
                    let data = left
                        .checked_sub(pad)
                        .ok_or(ConnectionError::protocol("padding"))?;
                    return Ok(Some(self.begin_data(header, data, pad)));
                }
                State::Data { left, pad } => return Ok(self.data(left, pad, bytes, at)),
                State::Collect { header, take, skip } => {
                    if !self.gather(take, bytes, at) {
                        return Ok(None);
                    }
                    self.state = if skip > 0 {
                        State::Skip { left: skip }
                    } else {
                        State::Head
                    };
                    return self.whole(header, take, bytes, *at);
                }
                State::Skip { left } => {
                    let n = left.min(bytes.len() - *at);
                    *at += n;
                    if n < left {
                        self.state = State::Skip { left: left - n };
                        return Ok(None);
                    }
                    self.state = State::Head;
                }
            }
        }
    }

    /// True once the whole preface came.
    fn preface(
        &mut self,
        matched: usize,
        bytes: &[u8],
        at: &mut usize,
    ) -> Result<bool, ConnectionError> {
        let n = (PREFACE.len() - matched).min(bytes.len() - *at);
        if bytes[*at..*at + n] != PREFACE[matched..matched + n] {
            return Err(ConnectionError::protocol("preface"));
        }
        *at += n;
        let matched = matched + n;
        let done = matched == PREFACE.len();
        self.state = if done {
            State::Head
        } else {
            State::Preface { matched }
        };
        Ok(done)
    }

    fn head(&mut self, bytes: &[u8], at: &mut usize) -> Option<Header> {
        if self.partial.is_empty()
            && let Some(whole) = bytes[*at..].first_chunk::<HEADER_LEN>()
        {
            *at += HEADER_LEN;
            return Some(Header::decode(whole));
        }
        let n = (HEADER_LEN - self.partial.len()).min(bytes.len() - *at);
        self.partial.extend_from_slice(&bytes[*at..*at + n]);
        *at += n;
        let header = Header::decode(self.partial.first_chunk::<HEADER_LEN>()?);
        self.partial.clear();
        Some(header)
    }

    /// Decides how a frame is read, by its header alone.
    fn begin(&mut self, header: Header) -> Result<Option<Piece<'static>>, ConnectionError> {
        let Header {
            length,
            kind,
            stream,
            ..
        } = header;
        if length > self.max_frame {
            return Err(ConnectionError::broke(
                ErrorCode::FRAME_SIZE_ERROR,
                "frame_too_large",
            ));
        }
        if !self.begun && (kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(ConnectionError::protocol("settings_first"));
        }
        self.begun = true;
        if let Some(open) = self.open
            && (kind != kind::CONTINUATION || stream != open.stream)
        {
            return Err(ConnectionError::protocol("continuation_expected"));
        }
        check_stream_zero(header)?;
        let take = match kind {
            kind::DATA if header.has(flag::PADDED) => {
                size(length >= 1)?;
                self.state = State::Pad { header };
                return Ok(None);
            }
            kind::DATA => return Ok(Some(self.begin_data(header, length as usize, 0))),
            kind::HEADERS | kind::CONTINUATION => {
                self.admit_fragment(header)?;
                length
            }
            kind::PRIORITY => size(length == 5).map(|()| length)?,
            kind::RST_STREAM | kind::WINDOW_UPDATE => size(length == 4).map(|()| length)?,
            kind::PING => size(length == 8).map(|()| length)?,
            kind::SETTINGS => {
                size(!header.has(flag::ACK) || length == 0)?;
                if length > MAX_SETTINGS_ENTRIES * ENTRY_LEN as u32 {
                    return Err(ConnectionError::flood("settings_too_many"));
                }
                length
            }
            kind::GOAWAY => size(length >= GOAWAY_LEN).map(|()| GOAWAY_LEN)?,
            // We never allow it (client), and clients must not send it (RFC 9113 section 8.4).
            kind::PUSH_PROMISE => return Err(ConnectionError::protocol("push_promise")),
            _ => {
                self.state = State::Skip {
                    left: length as usize,
                };
                return Ok(Some(Piece::Unknown));
            }
        };
        let skip = (length - take) as usize;
        self.state = State::Collect {
            header,
            take: take as usize,
            skip,
        };
        Ok(None)
    }

    fn begin_data(&mut self, header: Header, data: usize, pad: usize) -> Piece<'static> {
        self.state = State::Data { left: data, pad };
        Piece::Begin {
            stream: header.stream,
            flow: header.length,
            data: data as u32,
            end: header.has(flag::END_STREAM),
        }
    }

    /// Bounds what a header block may hold before any of it is kept.
    fn admit_fragment(&mut self, header: Header) -> Result<(), ConnectionError> {
        if header.kind == kind::HEADERS {
            self.block.clear();
            // One huge block must not hold its memory for the life of a tunnel.
            self.block.shrink_to(KEEP);
            self.partial.shrink_to(KEEP);
        } else {
            let open = self.open.as_mut();
            let open = open.ok_or(ConnectionError::protocol("continuation_unexpected"))?;
            open.continuations += 1;
            if open.continuations > MAX_CONTINUATIONS {
                return Err(ConnectionError::flood("continuation_flood"));
            }
        }
        let extra = HEADERS_EXTRA + if header.has(flag::PADDED) { 255 } else { 0 };
        let most = self.max_block + extra as usize;
        if self.block.len() + header.length as usize > most {
            return Err(ConnectionError::flood("header_list_way_too_large"));
        }
        Ok(())
    }

    fn data(
        &mut self,
        left: usize,
        pad: usize,
        bytes: &[u8],
        at: &mut usize,
    ) -> Option<Piece<'static>> {
        let n = left.min(bytes.len() - *at);
        let range = *at..*at + n;
        *at += n;
        let left = left - n;
        let skipped = if left == 0 {
            pad.min(bytes.len() - *at)
        } else {
            0
        };
        *at += skipped;
        let pad = pad - skipped;
        let last = left == 0 && pad == 0;
        self.state = if last {
            State::Head
        } else {
            State::Data { left, pad }
        };
        (n > 0 || last).then_some(Piece::Chunk { range, last })
    }

    /// True once `take` bytes are at hand: in `bytes` right before `at`, or in `partial`.
    fn gather(&mut self, take: usize, bytes: &[u8], at: &mut usize) -> bool {
        let n = (take - self.partial.len()).min(bytes.len() - *at);
        if n < take {
            self.partial.extend_from_slice(&bytes[*at..*at + n]);
        }
        *at += n;
        n == take || self.partial.len() == take
    }

    fn whole<'a>(
        &'a mut self,
        header: Header,
        take: usize,
        bytes: &'a [u8],
        at: usize,
    ) -> Result<Option<Piece<'a>>, ConnectionError> {
        let is_block = matches!(header.kind, kind::HEADERS | kind::CONTINUATION);
        let straddled = !self.partial.is_empty();
        if !is_block {
            if !straddled {
                return Ok(Some(Piece::Frame {
                    header,
                    payload: &bytes[at - take..at],
                }));
            }
            // Moved to `block`, which no other frame uses while it is read: `partial` must be empty
            // for the next header.
            std::mem::swap(&mut self.partial, &mut self.block);
            self.partial.clear();
            return Ok(Some(Piece::Frame {
                header,
                payload: &self.block,
            }));
        }
        let (stream, end) = (header.stream, header.has(flag::END_STREAM));
        let continued = self.open.take();
        let done = header.has(flag::END_HEADERS);
        // Of no meaning when the block straddled: its start lies in an earlier record.
        let from = at.saturating_sub(take);
        let payload = if straddled {
            &self.partial[..]
        } else {
            &bytes[from..at]
        };
        let keep = if header.kind == kind::HEADERS {
            unpadded(header, payload)?
        } else {
            0..payload.len()
        };
        if done && continued.is_none() && !straddled {
            let block = &bytes[from + keep.start..from + keep.end];
            return Ok(Some(Piece::Headers { stream, end, block }));
        }
        self.block.extend_from_slice(&payload[keep]);
        self.partial.clear();
        let open = continued.unwrap_or(OpenBlock {
            stream,
            end,
            continuations: 0,
        });
        if !done {
            self.open = Some(open);
            return Ok(Some(Piece::Fragment));
        }
        Ok(Some(Piece::Headers {
            stream,
            end: open.end,
            block: &self.block,
        }))
    }
}
