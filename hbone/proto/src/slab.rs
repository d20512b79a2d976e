// SPDX-License-Identifier: Apache-2.0
//! Streams by key (a slab) and by id (a small hash).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::stream::{Stream, StreamKey};

/// Spreads sequential ids by a multiplication (Fibonacci hashing). A peer that picks ids to collide
/// wins nothing: it cannot have more than some hundred streams at once.
#[derive(Debug, Default, Clone, Copy)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte) ^ (self.0 as u32));
        }
    }
    fn write_u32(&mut self, id: u32) {
        let product = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    places: Vec<Option<Stream>>,
    free: Vec<u32>,
    by_id: HashMap<u32, u32, BuildHasherDefault<IdHasher>>,
    /// The last found, because frames of one stream come in rows.
    last: Option<StreamKey>,
}

impl Slab {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn insert(&mut self, stream: Stream) -> StreamKey {
        let id = stream.id;
        let index = match self.free.pop() {
            Some(index) => {
                self.places[index as usize] = Some(stream);
                index
            }
            None => {
                self.places.push(Some(stream));
                (self.places.len() - 1) as u32
            }
        };
        self.by_id.insert(id, index);
        StreamKey { index, id }
    }

    pub fn get(&self, key: StreamKey) -> Option<&Stream> {
        self.places
            .get(key.index as usize)?
            .as_ref()
            .filter(|s| s.id == key.id)
    }

    pub fn get_mut(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.places
            .get_mut(key.index as usize)?
            .as_mut()
            .filter(|s| s.id == key.id)
    }

    pub fn find(&mut self, id: u32) -> Option<StreamKey> {
        if let Some(last) = self.last
            && last.id == id
        {
            return Some(last);
        }
        let key = StreamKey {
            index: *self.by_id.get(&id)?,
            id,
        };
        self.last = Some(key);
        Some(key)
    }

    pub fn remove(&mut self, key: StreamKey) -> Option<Stream> {
        self.get(key)?;
        if self.last == Some(key) {
            self.last = None;
        }
        self.by_id.remove(&key.id);
        self.free.push(key.index);
        self.places[key.index as usize].take()
    }

    pub fn into_marks(mut self) -> Vec<(StreamKey, u64)> {
        self.iter_mut().map(|(key, s)| (key, s.user)).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.places.iter().flatten()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (StreamKey, &mut Stream)> {
        self.places
            .iter_mut()
            .enumerate()
            .filter_map(|(index, place)| {
                let stream = place.as_mut()?;
                Some((
                    StreamKey {
                        index: index as u32,
                        id: stream.id,
                    },
                    stream,
                ))
            })
    }
}
