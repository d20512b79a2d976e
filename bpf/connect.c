// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * connect4/6: where a connection of an enrolled pod goes.
 *
 *   dialled address --frontends/endpoints--> endpoint --workloads--> route
 *   TUNNEL: the socket is pointed at the pod's own address and one of its capture ports
 *   DIRECT: at the endpoint, by the kernel alone
 *   DENY, or nowhere to go: connect() fails at once
 *
 * IPv4-mapped IPv6 sockets come through connect6 only and are handled as IPv4.
 */

/* The address of the pod that a socket can be pointed at; a bound device limits the choice. */
inline_only bool capture_address(struct bpf_sock_addr *ctx, const struct enrollment *enrollment,
				 u64 netns_cookie, u8 family, struct address *capture)
{
	u32 device = ctx->sk ? ctx->sk->bound_dev_if : 0;

	if (device) {
		struct device_capture_key key = {};
		struct address *address;

		key.netns_cookie = netns_cookie;
		key.ifindex = device;
		key.family = family;
		address = device_captures.lookup(&key);
		if (!address)
			return false;
		*capture = *address;
		return true;
	}
	*capture = family == FAMILY_V4 ? enrollment->capture4 : enrollment->capture6;
	return !address_is_zero(capture);
}

inline_only void fill_state(struct socket_state *state, const struct dial *dial,
			    const struct address *original, __be16 original_port, u64 netns_cookie,
			    u32 source)
{
	state->original = *original;
	state->upstream = dial->address;
	state->original_port = original_port;
	state->upstream_port = dial->port;
	state->capture_port = 0;
	state->route = dial->route ? dial->route : ROUTE_DIRECT;
	state->family = dial->family;
	state->flags = dial->rewritten ? SOCKET_REDIRECTED : 0;
	state->source_workload = source;
	state->destination_workload = dial->workload_id;
	state->service_id = dial->service_id;
	state->generation = dial->generation;
	state->pad = 0;
	state->netns_cookie = netns_cookie;
	state->connected_ns = bpf_ktime_get_ns();
	state->fin_wait_received = 0;
}

/* The MPTCP socket whose first subflow this is; NULL for any other socket. */
inline_only struct mptcp_sock *mptcp_socket(struct bpf_sock_addr *ctx)
{
#ifdef MESH_NO_MPTCP
	return NULL;
#else
	return ctx->sk ? bpf_skc_to_mptcp_sock(ctx->sk) : NULL;
#endif
}

/*
 * The hook sees the first subflow of an MPTCP socket, the application asks the MPTCP socket: what
 * getpeername() has to answer is kept on both.
 */
inline_only void copy_state_to_mptcp(struct bpf_sock_addr *ctx, struct socket_state *state)
{
	struct mptcp_sock *msk = mptcp_socket(ctx);
	struct socket_state *copy;

	if (!msk)
		return;
	copy = sockets.sk_storage_get(msk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (copy)
		*copy = *state;
}

/* An earlier connect() on this socket (a retry, AF_UNSPEC between) must leave nothing behind. */
inline_only void forget_socket(struct bpf_sock_addr *ctx)
{
	struct mptcp_sock *msk;

	if (!ctx->sk)
		return;
	sockets.sk_storage_delete(ctx->sk);
	if (ctx->protocol == IPPROTO_UDP) {
		udp_sockets.sk_storage_delete(ctx->sk);
		return;
	}
	msk = mptcp_socket(ctx);
	if (msk)
		sockets.sk_storage_delete(msk);
}

/* Is there a connection already from where this socket is bound to the capture port? */
inline_only bool tuple_is_taken(struct bpf_sock_addr *ctx, struct bpf_sock *sk, u8 family,
				const struct address *address, __be16 capture_port)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *other;
	u32 size;
	bool taken;

	if (family == FAMILY_V4) {
		u32 bound = sk->src_ip4;

		tuple.ipv4.saddr = address->words[3];
		tuple.ipv4.daddr = bound ? bound : address->words[3];
		tuple.ipv4.sport = capture_port;
		tuple.ipv4.dport = bpf_htons((u16)sk->src_port);
		size = sizeof(tuple.ipv4);
	} else {
		struct address bound;

		bound.words[0] = sk->src_ip6[0];
		bound.words[1] = sk->src_ip6[1];
		bound.words[2] = sk->src_ip6[2];
		bound.words[3] = sk->src_ip6[3];
		if (address_is_zero(&bound))
			bound = *address;
		__builtin_memcpy(tuple.ipv6.saddr, address->words, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, bound.words, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = capture_port;
		tuple.ipv6.dport = bpf_htons((u16)sk->src_port);
		size = sizeof(tuple.ipv6);
	}
	other = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!other)
		return false;
	taken = other->state != BPF_TCP_LISTEN;
	bpf_sk_release(other);
	return taken;
}

/*
 * One of the capture ports, at random. Where the application has bound the socket to a port, one to
 * which that port has no connection yet: its connections to different destinations differ in
 * nothing else, and the kernel would refuse the second (EADDRNOTAVAIL).
 */
inline_only __be16 choose_capture_port(struct bpf_sock_addr *ctx,
				       const struct enrollment *enrollment, u8 family,
				       const struct address *address)
{
	u32 first = bpf_get_prandom_u32();
	struct bpf_sock *sk = ctx->sk;
	__be16 port;
	u32 i;

	port = enrollment->capture_ports[first % MESH_CAPTURE_PORTS];
	if (!sk || !sk->src_port)
		return port;
#pragma unroll
	for (i = 0; i < MESH_CAPTURE_PORTS; i++) {
		port = enrollment->capture_ports[(first + i) % MESH_CAPTURE_PORTS];
		if (!tuple_is_taken(ctx, sk, family, address, port))
			break;
	}
	return port;
}

/* Points the socket at the pod's own capture port. */
inline_only void capture(struct bpf_sock_addr *ctx, struct dial *dial, struct socket_state *state,
			 const struct enrollment *enrollment)
{
	struct address address;

	/* Nobody listens on port 0, and no CONNECT can name it. */
	if (!dial->port) {
		dial->reason = REASON_NO_SERVICE_PORT;
		return;
	}
	if (!capture_address(ctx, enrollment, state->netns_cookie, dial->family, &address)) {
		dial->reason = REASON_NO_CAPTURE_ADDRESS;
		return;
	}
	state->capture_port = choose_capture_port(ctx, enrollment, dial->family, &address);
	state->flags |= SOCKET_REDIRECTED;
	dial->address = address;
	dial->port = state->capture_port;
	dial->rewritten = true;
}

inline_only void go_direct(struct dial *dial, struct socket_state *state)
{
	/* An IPv4 socket cannot be sent to an IPv6 endpoint, nor the other way round. */
	if (address_is_v4(&dial->address) != (dial->family == FAMILY_V4)) {
		dial->reason = REASON_NO_ENDPOINT;
		return;
	}
	if ((dial->workload_flags & (WORKLOAD_ENROLLED | WORKLOAD_LOCAL)) ==
		    (WORKLOAD_ENROLLED | WORKLOAD_LOCAL) &&
	    dial->workload_id != state->source_workload)
		state->flags |= SOCKET_NONCE;
}

inline_only int connect_tcp(struct bpf_sock_addr *ctx, struct dial *dial,
			    const struct enrollment *enrollment, u64 netns_cookie)
{
	struct address original = dial->address;
	__be16 original_port = dial->port;
	u32 source = enrollment->workload_id;
	struct socket_state *state;

	resolve_frontend(dial);
	if (dial->reason)
		goto refused;
	resolve_workload(dial);
	if (dial->route == ROUTE_DENY) {
		dial->reason = REASON_POLICY_DENY;
		goto refused;
	}
	judge_dial(dial, enrollment);
	if (dial->reason)
		goto refused;
	if (!dial->route && !dial->rewritten) {
		report_dial(source, dial, &original, original_port, EVENT_PASSTHROUGH);
		return CONNECT_PASS;
	}
	state = ctx->sk ? sockets.sk_storage_get(ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : NULL;
	if (!state) {
		count_statistic(STATISTIC_STATE_LOST);
		dial->reason = REASON_RESOURCE_LIMIT;
		goto refused;
	}
	fill_state(state, dial, &original, original_port, netns_cookie, source);
	/* A pod that calls itself, by its address or through a service, needs no tunnel. */
	if (dial->route == ROUTE_TUNNEL && dial->workload_id != source) {
		capture(ctx, dial, state, enrollment);
	} else {
		state->route = ROUTE_DIRECT;
		go_direct(dial, state);
	}
	if (dial->reason) {
		sockets.sk_storage_delete(ctx->sk);
		goto refused;
	}
	copy_state_to_mptcp(ctx, state);
	return CONNECT_PASS;
refused:
	report_dial(source, dial, &original, original_port, EVENT_DENIED);
	return refuse(dial->reason);
}
