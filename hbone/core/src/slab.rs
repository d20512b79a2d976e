// SPDX-License-Identifier: Apache-2.0
//! Things with a number, where an old number never means a new thing.

use std::ops::{Index, IndexMut};

/// The place of a thing in its slab, and which of the things that ever lived there it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Handle {
    pub index: u32,
    /// 30 bits: it travels in the epoll token beside the kind.
    pub generation: u32,
}

const GENERATION_MASK: u32 = (1 << 30) - 1;

/// Empty boxes kept for what comes next: in a steady state nothing is allocated for each connection,
/// and after a peak the rest goes back.
const KEPT: usize = 256;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<Box<Option<T>>>,
}

#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    boxes: Vec<Box<Option<T>>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            boxes: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn insert(&mut self, value: T) -> Handle {
        let value = match self.boxes.pop() {
            Some(mut place) => {
                *place = Some(value);
                place
            }
            None => Box::new(Some(value)),
        };
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return Handle {
                index,
                generation: slot.generation,
            };
        }
        let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 descriptors exist");
        self.slots.push(Slot {
            generation: 1,
            value: Some(value),
        });
        Handle {
            index,
            generation: 1,
        }
    }

    pub fn get(&self, handle: Handle) -> Option<&T> {
        let slot = self.slots.get(handle.index as usize)?;
        if slot.generation != handle.generation {
            return None;
        }
        slot.value.as_deref()?.as_ref()
    }

    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let slot = self.slots.get_mut(handle.index as usize)?;
        if slot.generation != handle.generation {
            return None;
        }
        slot.value.as_deref_mut()?.as_mut()
    }

    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        let slot = self.slots.get_mut(handle.index as usize)?;
        if slot.generation != handle.generation {
            return None;
        }
        let mut place = slot.value.take()?;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(handle.index);
        let value = place.take();
        if self.boxes.len() < KEPT {
            self.boxes.push(place);
        }
        value
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let handle = Handle {
                index: index as u32,
                generation: slot.generation,
            };
            let value = slot.value.as_deref()?.as_ref()?;
            Some((handle, value))
        })
    }

    pub fn handles(&self) -> Vec<Handle> {
        self.iter().map(|(handle, _)| handle).collect()
    }
}

impl<T> Index<Handle> for Slab<T> {
    type Output = T;

    fn index(&self, handle: Handle) -> &T {
        self.get(handle).expect("the handle was looked up before")
    }
}

impl<T> IndexMut<Handle> for Slab<T> {
    fn index_mut(&mut self, handle: Handle) -> &mut T {
        self.get_mut(handle)
            .expect("the handle was looked up before")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_handle_finds_nothing() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(first.index, second.index);
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&"second")));
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.len(), 1);
    }
}
