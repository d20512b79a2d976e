/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Keys and values of the maps that the kernel half and the agent share.
 *
 * Only <linux/types.h> types: this header compiles under BCC and under a host compiler, where the
 * layout is checked against the ctypes mirrors (agent/abi) and the Rust ones (hbone-sys).
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. __be16/__be32 are network order;
 * everything else is host order. Padding is explicit and zero: it is part of a key.
 */
#ifndef MESH_TYPES_H
#define MESH_TYPES_H

#include <linux/types.h>

enum route {
	ROUTE_DIRECT = 1,
	ROUTE_TUNNEL = 2,
	ROUTE_DENY = 3,
};

#define MESH_CAPTURE_PORTS 4

struct address {
	__u8 bytes[16];
};

/* Which connection: the full 4-tuple as the capture listener sees it, plus the netns. */
struct flow_key {
	__u64 netns_cookie;
	struct address source;
	__be16 source_port;
	__be16 capture_port;
	__u8 family; /* 4 or 6 */
	__u8 pad[3];
};

#define FLOW_POISONED (1U << 0) /* two unread records met under this key: trust neither */

/* What the connect hook decided for one captured socket; read once by the core. */
struct flow_record {
	struct address original;
	struct address upstream;
	__be16 original_port;
	__be16 upstream_port;
	__u32 source_workload;
	__u32 upstream_workload;
	__u32 service_id; /* 0: dialled by pod address */
	__u32 generation;
	__u32 flags;
	__u64 created_ns; /* CLOCK_MONOTONIC */
};

struct frontend_key {
	struct address address;
	__be16 port; /* 0: the address is a VIP */
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP; 0 with port 0 */
	__u8 pad;
};

struct frontend {
	__u32 frontend_id;
	__u32 service_id;
	__u32 endpoint_count;
};

struct endpoint_key {
	__u32 frontend_id;
	__u32 index;
};

struct endpoint {
	struct address address;
	__u32 workload_id;
	__be16 port;
	__u8 pad[2];
};

#define WORKLOAD_ENROLLED (1U << 0)
#define WORKLOAD_LOCAL (1U << 1)

struct workload {
	__u32 workload_id;
	__u16 flags;
	__u8 route; /* enum route */
	__u8 pad;
};

/* Stored under the pod's netns cookie (__u64). */
struct enrollment {
	__u32 workload_id;
	__u32 flags;
	struct address capture4; /* all zero: no address of this family */
	struct address capture6;
	__be16 capture_ports[MESH_CAPTURE_PORTS];
};

#endif
