// SPDX-License-Identifier: Apache-2.0
//! On a real map (root).

use super::*;
use crate::flow::{BpfFlowRecords, FlowRecords};
use std::os::fd::FromRawFd;

/// `BPF_MAP_CREATE` and `BPF_MAP_UPDATE_ELEM` of `enum bpf_cmd`, `BPF_MAP_TYPE_HASH` of
/// `enum bpf_map_type`.
const CREATE: libc::c_int = 0;
const UPDATE: libc::c_int = 2;
const HASH: u32 = 1;

fn hash_map(key_size: u32, value_size: u32) -> Option<OwnedFd> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    /// The first members of the struct that BPF_MAP_CREATE reads.
    #[repr(C)]
    struct CreateAttr {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        /// Up to `map_ifindex`; memcheck asks for them whatever the size that is passed.
        none: [u32; 7],
    }
    let attr = CreateAttr {
        kind: HASH,
        key_size,
        value_size,
        max_entries: 4,
        flags: 0,
        none: [0; 7],
    };
    // SAFETY: `attr` is the start of union bpf_attr and its true size is passed; the kernel only
    // reads it, and it outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            CREATE,
            std::ptr::from_ref(&attr),
            size_of::<CreateAttr>(),
        )
    };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the kernel has just returned this descriptor, and nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn update(map: &OwnedFd, key: &FlowKey, record: &FlowRecord) {
    let attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(record) as u64,
        flags: 0,
    };
    // SAFETY: as in `lookup_and_delete`; the kernel reads key_size and value_size bytes, which are
    // the sizes of the mirrors, as the map was made with them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            UPDATE,
            std::ptr::from_ref(&attr),
            size_of::<ElementAttr>(),
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

fn key(port: u16) -> FlowKey {
    FlowKey::new(
        7,
        ([127, 0, 0, 1], port).into(),
        ([127, 0, 0, 1], 15001).into(),
    )
}

fn record(mark: u32) -> FlowRecord {
    FlowRecord {
        original: [0x11; 16],
        upstream: [0x22; 16],
        source_workload: mark,
        created_ns: u64::MAX,
        ..FlowRecord::default()
    }
}

#[test]
fn a_record_is_taken_once_and_whole() {
    let Some(map) = hash_map(size_of::<FlowKey>() as u32, size_of::<FlowRecord>() as u32) else {
        return;
    };
    assert_eq!(map_sizes(&map).unwrap(), (32, 64));
    update(&map, &key(1), &record(1));
    update(&map, &key(2), &record(2));
    let records = BpfFlowRecords::new(map).unwrap();
    assert_eq!(records.take(&key(1)).unwrap(), Some(record(1)));
    assert_eq!(records.take(&key(1)).unwrap(), None);
    assert_eq!(records.take(&key(3)).unwrap(), None);
    assert_eq!(records.take(&key(2)).unwrap(), Some(record(2)));
}

#[test]
fn many_threads_take_each_record_once() {
    let Some(map) = hash_map(size_of::<FlowKey>() as u32, size_of::<FlowRecord>() as u32) else {
        return;
    };
    for round in 0..200 {
        update(&map, &key(9), &record(round));
        let taken: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| lookup_and_delete(&map, &key(9)).unwrap()))
                .collect();
            let taken = takers.into_iter().filter_map(|taker| taker.join().unwrap());
            taken
                .inspect(|taken| assert_eq!(*taken, record(round)))
                .count()
        });
        assert_eq!(taken, 1);
    }
}

#[test]
fn a_map_of_another_layout_is_refused_before_the_kernel_writes() {
    for (key_size, value_size) in [(32, 72), (32, 4096), (16, 64), (36, 64)] {
        let Some(map) = hash_map(key_size, value_size) else {
            return;
        };
        assert_eq!(map_sizes(&map).unwrap(), (key_size, value_size));
        let error = BpfFlowRecords::new(map).unwrap_err();
        assert!(error.to_string().contains("not (32, 64)"), "{error}");
    }
}

#[test]
fn what_is_no_map_is_an_error() {
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    assert!(map_sizes(&file).is_err());
    assert!(lookup_and_delete(&file, &key(1)).is_err());
    assert!(BpfFlowRecords::new(file).is_err());
}
