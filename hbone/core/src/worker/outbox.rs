// SPDX-License-Identifier: Apache-2.0
//! What a tunnel is about to send, sealed where it lies.
//!
//! ```text
//! buffer: [ sent | sealed records, unsent | header 5 · open record's content | free ... ]
//!                ^start                   ^sealed                            ^end
//! ```
//! Applications are read straight to where their frames get sealed, behind room for the frame
//! header, so a byte is copied by the kernel only. Frames of many streams share a record.

use crate::config::{MAX_OUTBOXES, RECORDS_PER_READ, UNSENT_HIGH};
use hbone_sys::{Errno, socket};
use hbone_tls::{HEADER_LEN, MAX_PLAINTEXT, OVERHEAD, RecordError, Session, TRAILER_LEN};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};

/// A DATA frame's header (RFC 9113 section 4.1).
const FRAME_HEADER: usize = 9;

/// A full read on top of the most that may be unsent, and some control frames.
const BUFFER_BYTES: usize = UNSENT_HIGH + (RECORDS_PER_READ + 2) * (MAX_PLAINTEXT + OVERHEAD);

/// An open record with less room than this is closed before an application is read into it.
const SMALL_ROOM: usize = 1024;

/// Buffers kept for reuse by one worker; the rest goes back to the allocator.
const KEPT: usize = 8;

/// Lends buffers to the tunnels that have something unsent; an idle tunnel holds none.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    free: Vec<Vec<u8>>,
    lent: usize,
}

impl BufferPool {
    /// No more than [`MAX_OUTBOXES`] for the bytes of applications; control frames always fit.
    pub fn is_exhausted(&self) -> bool {
        self.lent >= MAX_OUTBOXES
    }

    /// Half of them are lent.
    pub fn is_scarce(&self) -> bool {
        self.lent >= MAX_OUTBOXES / 2
    }

    pub fn bytes(&self) -> usize {
        (self.lent + self.free.len()) * BUFFER_BYTES
    }

    /// The tunnel leaves for another worker, and what it was lent with it.
    pub fn give_away(&mut self, outbox: &Outbox) {
        self.lent -= usize::from(!outbox.buffer.is_empty());
    }

    /// The tunnel comes from another worker, and what it was lent with it.
    pub fn adopt(&mut self, outbox: &Outbox) {
        self.lent += usize::from(!outbox.buffer.is_empty());
    }

    fn take(&mut self) -> Vec<u8> {
        self.lent += 1;
        self.free.pop().unwrap_or_else(|| vec![0; BUFFER_BYTES])
    }

    fn give_back(&mut self, buffer: Vec<u8>) {
        self.lent -= 1;
        if self.free.len() < KEPT && buffer.len() == BUFFER_BYTES {
            self.free.push(buffer);
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    buffer: Vec<u8>,
    start: usize,
    sealed: usize,
    end: usize,
}

/// What one read of an application brought.
#[derive(Debug)]
pub(crate) struct Filled {
    /// Bytes read; 0 is the end of its half.
    pub count: usize,
    /// Bytes that were asked for: fewer means that the socket is drained.
    pub asked: usize,
}

#[derive(Debug)]
pub(crate) enum FillError {
    App(Errno),
    Tunnel(RecordError),
}

impl Outbox {
    /// Bytes that the socket has not taken, the open record aside.
    pub fn unsent(&self) -> usize {
        self.sealed - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Gives the buffer back; for a tunnel that is closed.
    pub fn discard(&mut self, pool: &mut BufferPool) {
        if !self.buffer.is_empty() {
            pool.give_back(std::mem::take(&mut self.buffer));
        }
        (self.start, self.sealed, self.end) = (0, 0, 0);
    }

    /// Appends bytes that are on the wire as they are: the handshake, sealed records.
    pub fn put_raw(&mut self, pool: &mut BufferPool, bytes: &[u8]) {
        debug_assert!(!self.is_open());
        self.ensure(pool, bytes.len());
        self.buffer[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
        self.sealed = self.end;
    }

    /// Appends content: control frames.
    pub fn put(
        &mut self,
        pool: &mut BufferPool,
        session: &mut Session,
        mut bytes: &[u8],
    ) -> Result<(), RecordError> {
        while !bytes.is_empty() {
            if self.room() == 0 {
                self.seal(session)?;
            }
            self.open_record(pool, 1);
            let count = self.room().min(bytes.len());
            self.buffer[self.end..self.end + count].copy_from_slice(&bytes[..count]);
            self.end += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Reads at most `limit` bytes of an application into at most `records` records; `header` makes
    /// the frame header of each piece.
    pub fn fill(
        &mut self,
        pool: &mut BufferPool,
        session: &mut Session,
        app: &OwnedFd,
        (limit, records): (usize, usize),
        mut header: impl FnMut(usize) -> [u8; FRAME_HEADER],
    ) -> Result<Filled, FillError> {
        if self.room() < SMALL_ROOM + FRAME_HEADER {
            self.seal(session).map_err(FillError::Tunnel)?;
        }
        self.open_record(pool, records + 1);
        let first = self.end + FRAME_HEADER;
        let first_len = (self.sealed + HEADER_LEN + MAX_PLAINTEXT - first).min(limit);
        let read = if records == 1 || first_len == limit {
            let into = &mut self.buffer[first..first + first_len];
            socket::receive(app, into).map(|count| Filled {
                count,
                asked: first_len,
            })
        } else {
            self.read_many(app, (first, first_len), limit, records)
        };
        let filled = match read {
            Ok(filled) if filled.count > 0 => filled,
            other => {
                self.abandon_empty_record();
                return other.map_err(FillError::App);
            }
        };
        self.frame(session, first, first_len, filled.count, &mut header)
            .map_err(FillError::Tunnel)?;
        Ok(filled)
    }

    /// Closes the open record, if any.
    pub fn seal(&mut self, session: &mut Session) -> Result<(), RecordError> {
        if self.is_open() {
            session.seal(&mut self.buffer[self.sealed..self.end + TRAILER_LEN])?;
            self.end += TRAILER_LEN;
            self.sealed = self.end;
        }
        Ok(())
    }

    /// Sends what is sealed: how much, and false when the socket takes no more.
    pub fn send(&mut self, pool: &mut BufferPool, fd: impl AsFd) -> Result<(usize, bool), Errno> {
        let (mut sent, mut writable) = (0, true);
        while writable && self.start < self.sealed {
            match socket::send(&fd, &self.buffer[self.start..self.sealed]) {
                Ok(count) => {
                    writable = count == self.sealed - self.start;
                    self.start += count;
                    sent += count;
                }
                Err(Errno::AGAIN) => writable = false,
                Err(error) => return Err(error),
            }
        }
        if self.is_empty() {
            self.discard(pool);
        }
        Ok((sent, writable))
    }

    fn is_open(&self) -> bool {
        self.end > self.sealed
    }

    /// Content that still fits into the open record, or would into a new one.
    fn room(&self) -> usize {
        if self.is_open() {
            self.sealed + HEADER_LEN + MAX_PLAINTEXT - self.end
        } else {
            MAX_PLAINTEXT
        }
    }

    /// Makes space for so many full records from `sealed` on, and opens one.
    fn open_record(&mut self, pool: &mut BufferPool, records: usize) {
        let used = self.end - self.sealed;
        self.ensure(pool, records * (MAX_PLAINTEXT + OVERHEAD) - used);
        if !self.is_open() {
            self.end = self.sealed + HEADER_LEN;
        }
    }

    /// Drops what is not sealed: its session has failed, so it never will be.
    pub fn abandon_record(&mut self) {
        self.end = self.sealed;
    }

    fn abandon_empty_record(&mut self) {
        if self.end == self.sealed + HEADER_LEN {
            self.end = self.sealed;
        }
    }

    fn ensure(&mut self, pool: &mut BufferPool, more: usize) {
        if self.buffer.is_empty() {
            self.buffer = pool.take();
        }
        if self.end + more <= self.buffer.len() {
            return;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.sealed -= self.start;
        self.start = 0;
        if self.end + more > self.buffer.len() {
            self.buffer
                .resize((self.end + more).next_multiple_of(BUFFER_BYTES), 0);
        }
    }

    /// One vectored read over the places of several records' content.
    fn read_many(
        &mut self,
        app: &OwnedFd,
        (first, first_len): (usize, usize),
        limit: usize,
        records: usize,
    ) -> Result<Filled, Errno> {
        const FULL: usize = MAX_PLAINTEXT - FRAME_HEADER;
        let mut slices: [IoSliceMut<'_>; RECORDS_PER_READ] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let (into, mut rest) = self.buffer[first..].split_at_mut(first_len);
        slices[0] = IoSliceMut::new(into);
        let (mut used, mut asked) = (1, first_len);
        while used < records.min(RECORDS_PER_READ) && asked < limit {
            let skip = TRAILER_LEN + HEADER_LEN + FRAME_HEADER;
            let (into, after) = rest[skip..].split_at_mut(FULL.min(limit - asked));
            asked += into.len();
            slices[used] = IoSliceMut::new(into);
            rest = after;
            used += 1;
        }
        let count = socket::receive_vectored(app, &mut slices[..used])?;
        Ok(Filled { count, asked })
    }

    /// Puts headers before what was read, and closes each record that is full.
    fn frame(
        &mut self,
        session: &mut Session,
        first: usize,
        first_len: usize,
        count: usize,
        header: &mut impl FnMut(usize) -> [u8; FRAME_HEADER],
    ) -> Result<(), RecordError> {
        let piece = count.min(first_len);
        self.buffer[first - FRAME_HEADER..first].copy_from_slice(&header(piece));
        self.end = first + piece;
        let mut left = count - piece;
        while left > 0 {
            self.seal(session)?;
            let piece = left.min(MAX_PLAINTEXT - FRAME_HEADER);
            let at = self.sealed + HEADER_LEN;
            self.buffer[at..at + FRAME_HEADER].copy_from_slice(&header(piece));
            self.end = at + FRAME_HEADER + piece;
            left -= piece;
        }
        Ok(())
    }
}
