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
	union {
		__u8 bytes[16];
		__be32 words[4];
	};
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
	__be16 port;   /* 0: the address is a VIP */
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

#define ENROLLMENT_FAIL_OPEN (1U << 0) /* no known policy means: may pass */

/* Stored under the pod's netns cookie (__u64). */
struct enrollment {
	__u32 workload_id;
	__u32 flags;
	struct address capture4; /* all zero: no address of this family */
	struct address capture6;
	__be16 capture_ports[MESH_CAPTURE_PORTS];
};

/*
 * A socket bound to a device (SO_BINDTODEVICE) can only reach an address of that device, so a pod
 * of several interfaces has a capture address on each.
 */
struct device_capture_key {
	__u64 netns_cookie;
	__u32 ifindex;
	__u8 family; /* 4 or 6 */
	__u8 pad[3];
};

#define GUARDED_FAIL_OPEN (1U << 31) /* no known policy means: may pass */

/* Whose packets the guard sees: stored under the low 16 bits of its filter's classid (__u32). */
struct guarded_pod {
	__u64 netns_cookie;
	__u32 workload_id;
	__u32 flags; /* the agent's notes: which sysctls to put back at un-enrolment */
	__be16 capture_ports[MESH_CAPTURE_PORTS];
};

/* Which addresses a pod may send from. */
struct pod_address_key {
	struct address address;
	__u32 slot;
	__u32 ifindex; /* of the host's end of the link that it may send over */
};

struct config {
	__u64 agent_cgroup_id; /* exempt from every hook; 0: nobody */
	__u64 node_netns_cookie;
	__u32 generation;
	__u32 pad;
};

/*
 * The key of the function that nonces come from: drawn by the agent when it makes the map, never
 * changed. All zero: there is none yet, and no nonce is made.
 */
struct nonce_secret {
	__u64 key[2];
};

#define SOCKET_REDIRECTED (1U << 0) /* the peer that the application dialled is `original` */
#define SOCKET_NONCE (1U << 1)	    /* its SYN carries a nonce */
#define SOCKET_ESTABLISHED (1U << 2)
#define SOCKET_CLOSED (1U << 3)	  /* its end has been reported */
#define SOCKET_NODE (1U << 4)	  /* of the node's own network namespace */
#define SOCKET_HOST_POD (1U << 5) /* of a pod in the node's network namespace */

/* SK_STORAGE of a socket that the connect hook redirected, or whose traffic it accounts. */
struct socket_state {
	struct address original;
	struct address upstream;
	__be16 original_port;
	__be16 upstream_port;
	__be16 capture_port;
	__u8 route;  /* enum route */
	__u8 family; /* of the connection: 4 also for an IPv4-mapped one */
	__u32 flags;
	__u32 source_workload;
	__u32 destination_workload;
	__u32 service_id;
	__u32 generation;
	__u32 pad;
	__u64 netns_cookie;
	__u64 connected_ns;
	__u64 fin_wait_received; /* bytes_received when the peer had acknowledged our FIN */
};

#define UDP_PEERS 8

/* One VIP that a UDP socket has talked to, and the endpoint that answers for it. */
struct udp_peer {
	struct address vip;
	struct address endpoint;
	__be16 vip_port;
	__be16 endpoint_port;
	__u32 frontend_id;
	__u32 index;
	__u32 used; /* the larger, the later; 0: free */
};

/* SK_STORAGE of a UDP socket that talks to VIPs. */
struct udp_state {
	struct udp_peer peers[UDP_PEERS];
	__u32 sequence;
	__u32 pad;
};

/* Stored under the nonce (__u64) from the SYN until the destination's guard has consumed it. */
struct nonce_record {
	__u64 netns_cookie;
	__u64 created_ns;
	__u32 source_workload; /* 0 with NONCE_NODE */
	__u32 destination_workload;
	__u32 service_id;
	__u32 flags;
};

#define NONCE_NODE (1U << 0) /* a socket of the node's own network namespace */

/* Under a netns cookie (__u64): made - consumed - aged are outstanding. */
struct nonce_quota {
	__u64 made;
	__u64 consumed;
};

struct traffic_key {
	__u32 source_workload;
	__u32 destination_workload; /* 0: not in the mesh */
	__u32 service_id;	    /* 0: dialled by address */
	__u16 reason;		    /* enum reason */
	__u8 route;		    /* enum route */
	__u8 protocol;		    /* IPPROTO_TCP or IPPROTO_UDP */
};

/* Totals since the map was made; one per possible CPU. */
struct traffic {
	__u64 opened;
	__u64 closed;
	__u64 failed;
	__u64 attested;
	__u64 bytes_sent;
	__u64 bytes_received;
};

enum statistic {
	STATISTIC_EVENTS_LOST = 0,  /* the ring buffer was full */
	STATISTIC_TRAFFIC_LOST = 1, /* the traffic map was full */
	STATISTIC_RECORDS_POISONED = 2,
	STATISTIC_RECORDS_LOST = 3, /* the record map was full */
	STATISTIC_NONCES_MADE = 4,
	STATISTIC_NONCES_CONSUMED = 5,
	STATISTIC_NONCES_SHORT = 6,   /* no room for more than the short form */
	STATISTIC_NONCES_REFUSED = 7, /* quota, full map or no room: the SYN is unattested */
	STATISTIC_NONCES_UNKNOWN = 8, /* a nonce that the kernel did not make, or not for here */
	STATISTIC_STATE_LOST = 9,     /* no memory for a socket's state */
	STATISTIC_CAPTURE_PORT_DROPS = 10,
	STATISTIC_PEERINGS_REFUSED =
		11,		      /* quota or full map: the handshake or flow has no memory */
	STATISTIC_SOCKETLESS = 12,    /* TCP for no socket, passed for the kernel to reset */
	STATISTIC_NODE_ATTESTED = 13, /* SYNs of the node itself */
	STATISTIC_SEALED = 14,	      /* packets that the seal did not let out of a pod */
	STATISTIC_DRY_DENIED = 15,    /* passed, but policies in dry run would refuse it */
	STATISTIC_COUNT = 16,
};

enum event_kind {
	EVENT_CONNECTED = 1,   /* by the kernel's direct path, to a workload of the mesh */
	EVENT_PASSTHROUGH = 2, /* dialled outside the mesh */
	EVENT_DENIED = 3,
	EVENT_ATTESTED = 4,   /* a SYN arrived whose source the kernel has proven */
	EVENT_CLOSED = 5,     /* end of a direct connection, with what it carried */
	EVENT_DROPPED = 6,    /* a packet that the guard refused, or an open connection that ends */
	EVENT_DRY_DENIED = 7, /* passed, but policies in dry run would refuse it */
};

struct event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u64 duration_ns;
	__u64 bytes_sent;
	__u64 bytes_received;
	struct address source;
	struct address destination;
	struct address original; /* what the application dialled */
	__be16 source_port;
	__be16 destination_port;
	__be16 original_port;
	__u8 kind; /* enum event_kind */
	__u8 protocol;
	__u16 reason;	/* enum reason */
	__u8 direction; /* enum direction: which end was judged; 0: the event says no verdict */
	__u8 pad;
	__u32 source_workload;
	__u32 destination_workload;
	__u32 service_id;
};

#endif
