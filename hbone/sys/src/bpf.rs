// SPDX-License-Identifier: Apache-2.0
//! bpf(2), as far as the core needs it.

use crate::flow::{FlowKey, FlowRecord};
use crate::verdict::{Verdict, VerdictQuery};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM` of `enum bpf_cmd` in <linux/bpf.h>; hash maps have it since 5.14.
const LOOKUP_AND_DELETE: libc::c_int = 21;

/// The members of `union bpf_attr` that the BPF_MAP_*_ELEM commands read.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Takes one record out of a hash map in one step; `None` if the key is not there.
pub(crate) fn lookup_and_delete(map: &OwnedFd, key: &FlowKey) -> io::Result<Option<FlowRecord>> {
    let mut record = FlowRecord::default();
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(&mut record) as u64,
        flags: 0,
    };
    // SAFETY: `attr` is the start of union bpf_attr and its true size is passed. The kernel reads
    // key_size bytes at `key` and writes value_size bytes at `value`; BpfFlowRecords::new
    // checked the map's sizes against these mirrors, and both outlive the call.
    // Any bit pattern is a valid FlowRecord: it holds integers only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            LOOKUP_AND_DELETE,
            std::ptr::from_mut(&mut attr),
            size_of::<ElementAttr>(),
        )
    };
    if result == 0 {
        return Ok(Some(record));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        error => Err(error),
    }
}

/// Runs `mesh_query` once: its packet is a query with room for the verdict behind it.
pub(crate) fn run_query(program: &OwnedFd, query: &VerdictQuery) -> io::Result<Verdict> {
    /// `BPF_PROG_TEST_RUN` of `enum bpf_cmd`.
    const TEST_RUN: libc::c_int = 10;
    /// `TC_ACT_OK` of <linux/pkt_cls.h>: the program has answered.
    const ANSWERED: u32 = 0;
    /// The members of `union bpf_attr.test` up to `duration`.
    #[repr(C)]
    struct TestAttr {
        program: u32,
        returned: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Packet {
        query: VerdictQuery,
        verdict: Verdict,
    }
    let sent = Packet {
        query: *query,
        verdict: Verdict::default(),
    };
    let mut answer = Packet::default();
    let mut attr = TestAttr {
        program: program.as_raw_fd() as u32,
        returned: 0,
        size_in: size_of::<Packet>() as u32,
        size_out: size_of::<Packet>() as u32,
        data_in: std::ptr::from_ref(&sent) as u64,
        data_out: std::ptr::from_mut(&mut answer) as u64,
        repeat: 1,
        duration: 0,
    };
    // SAFETY: `attr` is the start of union bpf_attr and its true size is passed. The kernel reads
    // size_in bytes at `data_in` and writes at most size_out bytes at `data_out`, which are their
    // sizes; both outlive the call. Any bit pattern is a valid Packet: it holds integers only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            TEST_RUN,
            std::ptr::from_mut(&mut attr),
            size_of::<TestAttr>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if attr.returned != ANSWERED || attr.size_out as usize != size_of::<Packet>() {
        return Err(io::Error::other("the query program gave no answer"));
    }
    Ok(answer.verdict)
}

/// Key and value size of a map, from `bpf_obj_get_info_by_fd`.
pub(crate) fn map_sizes(map: &OwnedFd) -> io::Result<(u32, u32)> {
    /// `BPF_OBJ_GET_INFO_BY_FD` of `enum bpf_cmd`.
    const GET_INFO: libc::c_int = 15;
    #[repr(C)]
    struct InfoAttr {
        fd: u32,
        info_len: u32,
        info: u64,
    }
    /// The first members of `struct bpf_map_info`; the kernel fills no more than `info_len`.
    #[repr(C)]
    #[derive(Default)]
    struct MapInfo {
        kind: u32,
        id: u32,
        key_size: u32,
        value_size: u32,
    }
    let mut info = MapInfo::default();
    let mut attr = InfoAttr {
        fd: map.as_raw_fd() as u32,
        info_len: size_of::<MapInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: as above; the kernel writes at most info_len bytes at `info`, which is their size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            GET_INFO,
            std::ptr::from_mut(&mut attr),
            size_of::<InfoAttr>(),
        )
    };
    if result == 0 {
        Ok((info.key_size, info.value_size))
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests;
