/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What decide() looks at, is asked and answers, and what the guard remembers of it. The rules of
 * mesh_types.h hold here too.
 */
#ifndef MESH_POLICY_H
#define MESH_POLICY_H

#include "mesh_types.h"

/*
 * Policy. A set holds the rules that judge one direction of some pods, one bit each; what a set id
 * stands for never changes, so only `subjects` has to change as a whole: its rows exist in two
 * buffers, and the lowest bit of config.generation says which one is in force.
 */
#define POLICY_WORDS 8 /* of 64 rules */

enum rule_kind {
	RULE_NONE = 0,
	RULE_STRICT = 1,
	RULE_DENY = 2,
	RULE_NETWORK = 3,
	RULE_ALLOW = 4,
	RULE_DRY_DENY = 5,
	RULE_DRY_ALLOW = 6,
};

struct subject_key {
	__u32 workload_id;
	__u32 buffer; /* 0 or 1 */
};

#define SUBJECT_JUDGED (1U << 0) /* the sets mean something */

struct subject {
	__u32 peer_class;
	__u32 ingress_set; /* 0: nothing judges */
	__u32 egress_set;
	__u32 flags;
};

#define SET_ISOLATED (1U << 0)	       /* nothing passes without a NETWORK rule */
#define SET_ALLOW_NEEDED (1U << 1)     /* no TCP passes without an ALLOW rule */
#define SET_DRY_ALLOW_NEEDED (1U << 2) /* the same of policies in dry run */

struct policy_set {
	__u8 kinds[POLICY_WORDS]; /* enum rule_kind of the 64 rules of each word */
	__u32 flags;
	__u32 pad;
};

struct rule_mask {
	__u64 words[POLICY_WORDS];
};

struct class_mask_key {
	__u32 set_id;
	__u32 peer_class; /* 0: every class that has no row */
};

struct class_mask {
	struct rule_mask claimed;
	struct rule_mask attested;
};

/* Longest prefix match; prefix_bits counts from set_id on. */
struct cidr_mask_key {
	__u32 prefix_bits;
	__u32 set_id;
	struct address address;
};

struct port_mask_key {
	__u32 prefix_bits;
	__u32 set_id;
	__u8 protocol;
	__u8 pad;
	__be16 port;
};

enum direction {
	DIRECTION_INGRESS = 1,
	DIRECTION_EGRESS = 2,
};

#define QUERY_ATTESTED (1U << 0)  /* the peer has proven who it is */
#define QUERY_NODE (1U << 1)	  /* the peer is this node, proven */
#define QUERY_FAIL_OPEN (1U << 2) /* no known policy means: may pass */

/*
 * What decide() is asked. As the packet of a BPF_PROG_TEST_RUN it must not look like an Ethernet
 * frame of IP: bytes 12 and 13 are zero.
 */
struct verdict_query {
	__u32 subject; /* workload id of the pod that is judged */
	__u32 peer;    /* workload id of the other side; 0: none that is known */
	__be16 port;   /* the destination's, also for ingress; 0 where the protocol has none */
	__u8 protocol;
	__u8 direction; /* enum direction */
	__u16 pad;
	__u16 flags;
	struct address address; /* of the peer */
};

#define VERDICT_DRY_DENY (1U << 0) /* policies in dry run would refuse */

struct verdict {
	__u32 reason; /* REASON_NONE: may pass */
	__u32 generation;
	__u32 set_id;
	__u32 rule; /* bit of the deciding rule; POLICY_NO_RULE: none decided */
	__u32 dry_rule;
	__u32 flags;
	__u32 peer_class;
	__u32 pad;
};

#define POLICY_NO_RULE 0xffffffffU

/* The ends of a connection that `recheck` is asked of; its peer's address stands in the query. */
struct open_connection {
	struct address local;
	__be16 local_port;
	__be16 remote_port;
	__u32 pad;
};

#define JUDGED_ATTESTED (1U << 0)
#define JUDGED_NODE (1U << 1)
#define JUDGED_EXEMPT (1U << 2) /* the agent's own */

/* Who is at the other end, and when that was judged: of a socket, a handshake or a flow. */
struct judged {
	__u32 peer;	  /* workload id; 0: none that is known */
	__u32 generation; /* of the policy that let it pass */
	__u8 direction;	  /* enum direction: who began */
	__u8 pad;
	__u16 flags;
};

/* A handshake that was let in and has no socket yet, and a flow of a protocol without sockets. */
struct peering_key {
	__u64 netns_cookie;
	struct address remote;
	struct address local;
	__be16 remote_port;
	__be16 local_port;
	__u8 protocol;
	__u8 pad[3];
};

struct peering {
	struct judged judged;
	__u32 pad;
	__u64 seen_ns; /* CLOCK_MONOTONIC, within a second */
};

#endif
