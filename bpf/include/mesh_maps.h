/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map, pinned by its name under MESH_PIN_DIR. BCC opens an existing pin without a look at its
 * layout, so agent/dataplane checks it before, and the path carries the layout's version.
 */
#ifndef MESH_MAPS_H
#define MESH_MAPS_H

#include "mesh_consts.h"
#include "mesh_policy.h"
#include "mesh_types.h"

#define MESH_MAP(type, key, value, name, entries, flags)                                           \
	BPF_TABLE_PINNED(type, key, value, name, entries, MESH_PIN_DIR "/" #name, flags)

/* BCC has no pinned form of BPF_RINGBUF_OUTPUT; this is the same declaration with a path. */
#define MESH_RINGBUF(name, bytes)                                                                  \
	struct name##_table_t {                                                                    \
		int key;                                                                           \
		u32 leaf;                                                                          \
		int (*ringbuf_output)(void *, u64, u64);                                           \
		void *(*ringbuf_reserve)(u64);                                                     \
		void (*ringbuf_discard)(void *, u64);                                              \
		void (*ringbuf_submit)(void *, u64);                                               \
		u32 max_entries;                                                                   \
	};                                                                                         \
	__attribute__((section("maps/ringbuf:" MESH_PIN_DIR                                        \
			       "/" #name))) struct name##_table_t name = {.max_entries = (bytes)}

/* Tables: written by the agent only. */
MESH_MAP("array", u32, struct config, config, 1, 0);
MESH_MAP("array", u32, struct nonce_secret, nonce_secrets, 1, BPF_F_RDONLY_PROG);
MESH_MAP("hash", u64, struct enrollment, enrollments, MESH_MAX_ENROLLMENTS, BPF_F_NO_PREALLOC);
MESH_MAP("hash", struct device_capture_key, struct address, device_captures,
	 MESH_MAX_ENROLLMENTS *MESH_DEVICE_CAPTURES, BPF_F_NO_PREALLOC);
MESH_MAP("hash", u32, struct guarded_pod, guarded_pods, MESH_MAX_ENROLLMENTS, BPF_F_NO_PREALLOC);
MESH_MAP("hash", struct pod_address_key, u32, pod_addresses, MESH_MAX_ENROLLMENTS * 8,
	 BPF_F_NO_PREALLOC);
MESH_MAP("hash", struct frontend_key, struct frontend, frontends, MESH_MAX_FRONTENDS,
	 BPF_F_NO_PREALLOC);
MESH_MAP("hash", struct endpoint_key, struct endpoint, endpoints, MESH_MAX_ENDPOINTS,
	 BPF_F_NO_PREALLOC);
MESH_MAP("hash", struct address, struct workload, workloads, MESH_MAX_WORKLOADS, BPF_F_NO_PREALLOC);
MESH_MAP("hash", struct subject_key, struct subject, subjects, MESH_MAX_SUBJECTS,
	 BPF_F_NO_PREALLOC);
MESH_MAP("hash", u32, struct policy_set, policy_sets, MESH_MAX_POLICY_SETS, BPF_F_NO_PREALLOC);
MESH_MAP("hash", struct class_mask_key, struct class_mask, class_masks, MESH_MAX_CLASS_MASKS,
	 BPF_F_NO_PREALLOC);
MESH_MAP("lpm_trie", struct cidr_mask_key, struct rule_mask, cidr_masks, MESH_MAX_CIDR_MASKS,
	 BPF_F_NO_PREALLOC);
MESH_MAP("lpm_trie", struct port_mask_key, struct rule_mask, port_masks, MESH_MAX_PORT_MASKS,
	 BPF_F_NO_PREALLOC);
MESH_MAP("hash", u64, u64, nonces_aged, MESH_MAX_ENROLLMENTS, BPF_F_NO_PREALLOC);
MESH_MAP("hash", u64, u64, peerings_aged, MESH_MAX_ENROLLMENTS, BPF_F_NO_PREALLOC);

/* Live state: written by the kernel half, read and aged by the agent. */
MESH_MAP("hash", struct flow_key, struct flow_record, flow_records, MESH_MAX_FLOW_RECORDS,
	 BPF_F_NO_PREALLOC);
MESH_MAP("hash", u64, struct nonce_record, nonces, MESH_MAX_NONCES, BPF_F_NO_PREALLOC);
MESH_MAP("hash", u64, struct nonce_quota, nonce_quotas, MESH_MAX_ENROLLMENTS, BPF_F_NO_PREALLOC);
MESH_MAP("sk_storage", int, struct socket_state, sockets, 0, BPF_F_NO_PREALLOC);
MESH_MAP("sk_storage", int, struct udp_state, udp_sockets, 0, BPF_F_NO_PREALLOC);

MESH_MAP("sk_storage", int, struct judged, judged_sockets, 0, BPF_F_NO_PREALLOC);
MESH_MAP("hash", struct peering_key, struct peering, peerings, MESH_MAX_PEERINGS,
	 BPF_F_NO_PREALLOC);
MESH_MAP("hash", u64, struct nonce_quota, peering_quotas, MESH_MAX_ENROLLMENTS, BPF_F_NO_PREALLOC);

/* What there is to tell. */
MESH_MAP("percpu_hash", struct traffic_key, struct traffic, traffic, MESH_MAX_TRAFFIC,
	 BPF_F_NO_PREALLOC);
MESH_MAP("percpu_array", u32, u64, statistics, STATISTIC_COUNT, 0);
MESH_RINGBUF(events, MESH_EVENTS_BYTES);

#endif
