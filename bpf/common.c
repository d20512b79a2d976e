// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The first part of the one text that is compiled: BCC does not rewrite map accesses inside an
 * included header, so functions stand in .c files that are joined (agent/dataplane/source.py) in
 * the order common, connect, udp, bind, flows, guard.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>
#include <uapi/asm-generic/errno.h>

#include "mesh_consts.h"
#include "mesh_maps.h"
#include "mesh_policy.h"
#include "mesh_reasons.h"
#include "mesh_types.h"
#include "siphash.h"

#define inline_only static __always_inline

inline_only void count_statistic(u32 which)
{
	u64 *total = statistics.lookup(&which);

	if (total)
		(*total)++;
}

inline_only void address_from_v4(struct address *address, __be32 v4)
{
	address->words[0] = 0;
	address->words[1] = 0;
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = v4;
}

inline_only bool address_is_v4(const struct address *address)
{
	return address->words[0] == 0 && address->words[1] == 0 &&
	       address->words[2] == bpf_htonl(0xffff);
}

inline_only bool address_is_zero(const struct address *address)
{
	return (address->words[0] | address->words[1] | address->words[2] | address->words[3]) == 0;
}

inline_only bool address_equal(const struct address *a, const struct address *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] &&
	       a->words[2] == b->words[2] && a->words[3] == b->words[3];
}

/* 127.0.0.0/8, ::1, and the unspecified addresses, which connect() takes for loopback. */
inline_only bool address_is_loopback(const struct address *address)
{
	if (address_is_v4(address))
		return (address->words[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000) ||
		       address->words[3] == 0;
	return address->words[0] == 0 && address->words[1] == 0 && address->words[2] == 0 &&
	       (address->words[3] == bpf_htonl(1) || address->words[3] == 0);
}

inline_only struct traffic *traffic_of(u32 source, u32 destination, u32 service, u16 reason,
				       u8 route, u8 protocol)
{
	struct traffic_key key = {};
	struct traffic zero = {};
	struct traffic *total;

	key.source_workload = source;
	key.destination_workload = destination;
	key.service_id = service;
	key.reason = reason;
	key.route = route;
	key.protocol = protocol;
	total = traffic.lookup_or_try_init(&key, &zero);
	if (!total)
		count_statistic(STATISTIC_TRAFFIC_LOST);
	return total;
}

/* Is the current task the agent itself? Its sockets are never captured and may bind anything. */
inline_only bool is_agent(void)
{
	u32 zero = 0;
	struct config *settings = config.lookup(&zero);

	return settings && settings->agent_cgroup_id &&
	       settings->agent_cgroup_id == bpf_get_current_cgroup_id();
}

/* Of the network namespace that is the node itself. */
inline_only u64 node_netns_cookie(void)
{
	u32 zero = 0;
	struct config *settings = config.lookup(&zero);

	return settings ? settings->node_netns_cookie : 0;
}

inline_only u32 current_generation(void)
{
	u32 zero = 0;
	struct config *settings = config.lookup(&zero);

	return settings ? settings->generation : 0;
}

/*
 * Signed: what is consumed or aged after its pod has left and come again was made before, and is
 * no longer counted there.
 */
inline_only bool is_used_up(const struct nonce_quota *quota, u64 aged, s64 most)
{
	return (s64)(quota->made - quota->consumed - aged) >= most;
}

/* Space for an event, zeroed but for kind, protocol and time; NULL (counted) where none is left. */
inline_only struct event *start_event(u8 kind, u8 protocol)
{
	struct event *event = events.ringbuf_reserve(sizeof(struct event));

	if (!event) {
		count_statistic(STATISTIC_EVENTS_LOST);
		return NULL;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->kind = kind;
	event->protocol = protocol;
	return event;
}
