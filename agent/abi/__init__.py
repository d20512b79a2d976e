# SPDX-License-Identifier: Apache-2.0
"""The structs that the agent shares with the kernel half, as ctypes mirrors.

``structs`` mirrors ``bpf/include/mesh_types.h``, ``layout`` lists which mirror belongs to which C
struct and makes the probe that a contract test compiles, ``codec`` turns rows' values into fields
and back. Nothing here makes a system call.
"""
