// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * bind4/6: the capture ports of an enrolled pod belong to the agent, and so does 15008 but on
 * loopback. Without this a process of the pod could sit on one while the agent restarts, and be
 * handed the connections of the others, or keep the next agent from serving the pod.
 */

inline_only int bind_common(struct bpf_sock_addr *ctx, bool is_loopback)
{
	u64 netns_cookie = bpf_get_netns_cookie(ctx);
	struct enrollment *enrollment;
	struct traffic *total;
	struct event *event;
	__be16 port = (__be16)ctx->user_port;
	bool reserved = port == bpf_htons(HBONE_PORT) && !is_loopback;
	u32 i;

	if (!port || ctx->protocol != IPPROTO_TCP)
		return CONNECT_PASS;
	enrollment = enrollments.lookup(&netns_cookie);
	if (!enrollment)
		return CONNECT_PASS;
#pragma unroll
	for (i = 0; i < MESH_CAPTURE_PORTS; i++)
		reserved |= enrollment->capture_ports[i] == port;
	if (!reserved || is_agent())
		return CONNECT_PASS;
	total = traffic_of(enrollment->workload_id, 0, 0, REASON_CAPTURE_PORT_RESERVED, ROUTE_DENY,
			   IPPROTO_TCP);
	if (total)
		total->failed++;
	event = start_event(EVENT_DENIED, IPPROTO_TCP);
	if (event) {
		event->source_port = port;
		event->reason = REASON_CAPTURE_PORT_RESERVED;
		event->source_workload = enrollment->workload_id;
		events.ringbuf_submit(event, 0);
	}
	return refuse(REASON_CAPTURE_PORT_RESERVED);
}

int mesh_bind4(struct bpf_sock_addr *ctx)
{
	return bind_common(ctx, (ctx->user_ip4 & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000));
}

int mesh_bind6(struct bpf_sock_addr *ctx)
{
	struct dial bound = {};

	READ_DIAL6(bound);
	return bind_common(ctx, address_is_loopback(&bound.address) && bound.address.words[3] != 0);
}
