// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * UDP and VIPs: connect4/6 for connected sockets, sendmsg4/6 and recvmsg4/6 for the others.
 *
 * A socket keeps the endpoint it has for a VIP as long as the endpoint exists, and sees replies
 * come from the VIP. That memory belongs to the socket (SK_STORAGE): no other pod can evict it.
 */

/* How far an endpoint is searched for that has moved to another index of its frontend. */
#define UDP_ENDPOINT_SEARCH 128

inline_only bool is_endpoint(const struct udp_peer *peer, u32 index)
{
	struct endpoint_key key = {};
	struct endpoint *endpoint;

	key.frontend_id = peer->frontend_id;
	key.index = index;
	endpoint = endpoints.lookup(&key);
	return endpoint && endpoint->port == peer->endpoint_port &&
	       address_equal(&endpoint->address, &peer->endpoint);
}

/* Does the remembered endpoint still stand behind its frontend? Rows move when others leave. */
inline_only bool endpoint_lives(struct udp_peer *peer, const struct frontend *frontend)
{
	u32 index;

	if (frontend->frontend_id != peer->frontend_id)
		return false;
	if (peer->index < frontend->endpoint_count && is_endpoint(peer, peer->index))
		return true;
#pragma nounroll
	for (index = 0; index < UDP_ENDPOINT_SEARCH; index++) {
		if (index >= frontend->endpoint_count)
			return false;
		if (is_endpoint(peer, index)) {
			peer->index = index;
			return true;
		}
	}
	return false;
}

inline_only struct udp_peer *find_vip(struct udp_state *state, const struct dial *dial)
{
	u32 i;

#pragma unroll
	for (i = 0; i < UDP_PEERS; i++) {
		struct udp_peer *peer = &state->peers[i];

		if (peer->used && peer->vip_port == dial->port &&
		    address_equal(&peer->vip, &dial->address))
			return peer;
	}
	return NULL;
}

/* The free or the longest unused place. */
inline_only struct udp_peer *oldest_peer(struct udp_state *state)
{
	struct udp_peer *oldest = &state->peers[0];
	u32 i;

#pragma unroll
	for (i = 1; i < UDP_PEERS; i++) {
		if (state->peers[i].used < oldest->used)
			oldest = &state->peers[i];
	}
	return oldest;
}

/*
 * A datagram to the endpoint itself: replies from there are no longer the VIP's. But a connected
 * IPv4-mapped socket sends by way of sendmsg4 with the address that connect() was given.
 */
inline_only void forget_endpoint(struct bpf_sock *sk, struct udp_state *state,
				 const struct dial *dial)
{
	struct socket_state *connected = sockets.sk_storage_get(sk, 0, 0);
	u32 i;

	if (connected && sk->dst_port == dial->port && connected->upstream_port == dial->port &&
	    address_equal(&connected->upstream, &dial->address))
		return;
#pragma unroll
	for (i = 0; i < UDP_PEERS; i++) {
		struct udp_peer *peer = &state->peers[i];

		if (peer->used && peer->endpoint_port == dial->port &&
		    address_equal(&peer->endpoint, &dial->address))
			peer->used = 0;
	}
}

inline_only void remember_endpoint(struct bpf_sock *sk, const struct address *vip, __be16 vip_port,
				   const struct dial *dial)
{
	struct udp_state *state = udp_sockets.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	struct udp_peer *peer;

	if (!state) {
		count_statistic(STATISTIC_STATE_LOST);
		return;
	}
	peer = oldest_peer(state);
	peer->used = 0;
	peer->vip = *vip;
	peer->vip_port = vip_port;
	peer->endpoint = dial->address;
	peer->endpoint_port = dial->port;
	peer->frontend_id = dial->frontend_id;
	peer->index = dial->endpoint_index;
	state->sequence++;
	peer->used = state->sequence;
}

/* The endpoint that this socket already has for the VIP; false where it has none that lives. */
inline_only bool keep_endpoint(struct udp_state *state, struct dial *dial)
{
	struct udp_peer *peer = find_vip(state, dial);
	struct frontend_key key = {};
	struct frontend *frontend;

	if (!peer)
		return false;
	key.address = dial->address;
	key.port = dial->port;
	key.protocol = IPPROTO_UDP;
	frontend = frontends.lookup(&key);
	if (!frontend || !endpoint_lives(peer, frontend)) {
		peer->used = 0;
		return false;
	}
	dial->service_id = frontend->service_id;
	dial->address = peer->endpoint;
	dial->port = peer->endpoint_port;
	dial->rewritten = true;
	state->sequence++;
	peer->used = state->sequence;
	return true;
}

inline_only int resolve_udp(struct bpf_sock_addr *ctx, struct dial *dial, u32 source)
{
	struct bpf_sock *sk = ctx->sk;
	struct address original = dial->address;
	__be16 original_port = dial->port;
	struct udp_state *state;
	struct traffic *total;

	if (!sk)
		return CONNECT_PASS;
	state = udp_sockets.sk_storage_get(sk, 0, 0);
	if (state && keep_endpoint(state, dial))
		return CONNECT_PASS;
	resolve_frontend(dial);
	if (!dial->reason && dial->rewritten &&
	    address_is_v4(&dial->address) != (dial->family == FAMILY_V4))
		dial->reason = REASON_NO_ENDPOINT;
	if (dial->reason) {
		report_dial(source, dial, &original, original_port, EVENT_DENIED);
		return refuse(dial->reason);
	}
	if (!dial->rewritten) {
		if (state)
			forget_endpoint(sk, state, dial);
		return CONNECT_PASS;
	}
	resolve_workload(dial);
	remember_endpoint(sk, &original, original_port, dial);
	total = traffic_of(source, dial->workload_id, dial->service_id, REASON_NONE, ROUTE_DIRECT,
			   IPPROTO_UDP);
	if (total)
		total->opened++;
	return CONNECT_PASS;
}

/*
 * getaddrinfo() sorts addresses by connect() on a UDP socket, with the port that will be used for
 * TCP or with none, and sends nothing (RFC 6724). Refusing it would turn the order round.
 */
inline_only bool is_address_probe(const struct dial *dial)
{
	struct frontend_key key = {};

	key.address = dial->address;
	if (dial->protocol != IPPROTO_UDP)
		return false;
	if (dial->port == 0)
		return frontends.lookup(&key) != NULL;
	key.port = dial->port;
	key.protocol = IPPROTO_UDP;
	if (frontends.lookup(&key))
		return false;
	key.protocol = IPPROTO_TCP;
	return frontends.lookup(&key) != NULL;
}

/*
 * What a connected socket sends passes no hook, so a VIP without such a UDP port must not be its
 * peer. The pod's own address gives the same answer to getsockname(), and whoever sends after all
 * is told at once that nobody is there.
 */
inline_only bool point_at_self(struct bpf_sock_addr *ctx, struct dial *dial,
			       const struct enrollment *enrollment, u64 netns_cookie)
{
	struct address address;

	if (!capture_address(ctx, enrollment, netns_cookie, dial->family, &address))
		return false;
	dial->address = address;
	dial->port = enrollment->capture_ports[0];
	dial->rewritten = true;
	return true;
}

/* Also for protocols that no service has: a VIP is on no wire. */
inline_only int connect_udp(struct bpf_sock_addr *ctx, struct dial *dial,
			    const struct enrollment *enrollment, u64 netns_cookie)
{
	struct address original = dial->address;
	__be16 original_port = dial->port;
	u32 source = enrollment->workload_id;
	struct socket_state *state;

	if (is_address_probe(dial)) {
		if (!point_at_self(ctx, dial, enrollment, netns_cookie))
			return refuse(REASON_NO_CAPTURE_ADDRESS);
	} else if (resolve_udp(ctx, dial, source) != CONNECT_PASS) {
		return CONNECT_REFUSE;
	}
	if (!dial->rewritten || !ctx->sk)
		return CONNECT_PASS;
	state = sockets.sk_storage_get(ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state) {
		count_statistic(STATISTIC_STATE_LOST);
		return CONNECT_PASS;
	}
	dial->route = ROUTE_DIRECT;
	fill_state(state, dial, &original, original_port, netns_cookie, source);
	return CONNECT_PASS;
}

/* The VIP for which `from` has answered last; NULL where the socket has none there. */
inline_only struct udp_peer *find_endpoint(struct udp_state *state, const struct address *from,
					   __be16 port)
{
	struct udp_peer *found = NULL;
	u32 i;

#pragma unroll
	for (i = 0; i < UDP_PEERS; i++) {
		struct udp_peer *peer = &state->peers[i];

		if (peer->used && peer->endpoint_port == port &&
		    address_equal(&peer->endpoint, from) && (!found || peer->used > found->used))
			found = peer;
	}
	return found;
}
