// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The cgroup/sock_addr programs: they read the context, ask connect.c and udp.c, and write the
 * context. The verifier wants every access to the context to be plain, hence the repetition.
 */

/* The hooks are the pods': whoever is seen here in the node's own network is a pod there. */
inline_only void mark_host_pod(struct bpf_sock_addr *ctx)
{
	struct socket_state *state;

	if (!ctx->sk || ctx->protocol != IPPROTO_TCP)
		return;
	state = sockets.sk_storage_get(ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (state)
		state->flags = SOCKET_HOST_POD;
}

inline_only int connect_common(struct bpf_sock_addr *ctx, struct dial *dial)
{
	u64 netns_cookie = bpf_get_netns_cookie(ctx);
	struct enrollment *enrollment = enrollments.lookup(&netns_cookie);

	forget_socket(ctx);
	if (!enrollment && netns_cookie == node_netns_cookie())
		mark_host_pod(ctx);
	if (!enrollment || address_is_loopback(&dial->address) || is_agent())
		return CONNECT_PASS;
	if (dial->protocol == IPPROTO_TCP)
		return connect_tcp(ctx, dial, enrollment, netns_cookie);
	/* Echo requests, which have no port. */
	if (dial->protocol == IPPROTO_ICMP || dial->protocol == IPPROTO_ICMPV6)
		return CONNECT_PASS;
	return connect_udp(ctx, dial, enrollment, netns_cookie);
}

inline_only int sendmsg_common(struct bpf_sock_addr *ctx, struct dial *dial)
{
	u64 netns_cookie = bpf_get_netns_cookie(ctx);
	struct enrollment *enrollment = enrollments.lookup(&netns_cookie);

	if (!enrollment || address_is_loopback(&dial->address) || is_agent())
		return CONNECT_PASS;
	return resolve_udp(ctx, dial, enrollment->workload_id);
}

#define READ_DIAL4(dial)                                                                           \
	do {                                                                                       \
		address_from_v4(&(dial).address, ctx->user_ip4);                                   \
		(dial).port = (__be16)ctx->user_port;                                              \
		(dial).protocol = (u8)ctx->protocol;                                               \
		(dial).family = FAMILY_V4;                                                         \
	} while (0)

#define READ_DIAL6(dial)                                                                           \
	do {                                                                                       \
		(dial).address.words[0] = ctx->user_ip6[0];                                        \
		(dial).address.words[1] = ctx->user_ip6[1];                                        \
		(dial).address.words[2] = ctx->user_ip6[2];                                        \
		(dial).address.words[3] = ctx->user_ip6[3];                                        \
		(dial).port = (__be16)ctx->user_port;                                              \
		(dial).protocol = (u8)ctx->protocol;                                               \
		(dial).family = address_is_v4(&(dial).address) ? FAMILY_V4 : FAMILY_V6;            \
	} while (0)

#define WRITE_ADDRESS4(address, port)                                                              \
	do {                                                                                       \
		ctx->user_ip4 = (address).words[3];                                                \
		ctx->user_port = (port);                                                           \
	} while (0)

#define WRITE_ADDRESS6(address, port)                                                              \
	do {                                                                                       \
		ctx->user_ip6[0] = (address).words[0];                                             \
		ctx->user_ip6[1] = (address).words[1];                                             \
		ctx->user_ip6[2] = (address).words[2];                                             \
		ctx->user_ip6[3] = (address).words[3];                                             \
		ctx->user_port = (port);                                                           \
	} while (0)

int mesh_connect4(struct bpf_sock_addr *ctx)
{
	struct dial dial = {};
	int verdict;

	READ_DIAL4(dial);
	verdict = connect_common(ctx, &dial);
	if (verdict == CONNECT_PASS && dial.rewritten)
		WRITE_ADDRESS4(dial.address, dial.port);
	return verdict;
}

int mesh_connect6(struct bpf_sock_addr *ctx)
{
	struct dial dial = {};
	int verdict;

	READ_DIAL6(dial);
	verdict = connect_common(ctx, &dial);
	if (verdict == CONNECT_PASS && dial.rewritten)
		WRITE_ADDRESS6(dial.address, dial.port);
	return verdict;
}

int mesh_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct dial dial = {};
	int verdict;

	READ_DIAL4(dial);
	dial.protocol = IPPROTO_UDP; /* or UDP-Lite, which goes where UDP does */
	verdict = sendmsg_common(ctx, &dial);
	if (verdict == CONNECT_PASS && dial.rewritten)
		WRITE_ADDRESS4(dial.address, dial.port);
	return verdict;
}

int mesh_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct dial dial = {};
	int verdict;

	READ_DIAL6(dial);
	dial.protocol = IPPROTO_UDP; /* or UDP-Lite, which goes where UDP does */
	verdict = sendmsg_common(ctx, &dial);
	if (verdict == CONNECT_PASS && dial.rewritten)
		WRITE_ADDRESS6(dial.address, dial.port);
	return verdict;
}

int mesh_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct udp_state *state = ctx->sk ? udp_sockets.sk_storage_get(ctx->sk, 0, 0) : NULL;
	struct address from;
	struct udp_peer *peer;

	if (!state)
		return 1;
	address_from_v4(&from, ctx->user_ip4);
	peer = find_endpoint(state, &from, (__be16)ctx->user_port);
	if (peer)
		WRITE_ADDRESS4(peer->vip, peer->vip_port);
	return 1;
}

int mesh_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct udp_state *state = ctx->sk ? udp_sockets.sk_storage_get(ctx->sk, 0, 0) : NULL;
	struct dial from = {};
	struct udp_peer *peer;

	if (!state)
		return 1;
	READ_DIAL6(from);
	peer = find_endpoint(state, &from.address, from.port);
	if (peer)
		WRITE_ADDRESS6(peer->vip, peer->vip_port);
	return 1;
}

int mesh_getpeername4(struct bpf_sock_addr *ctx)
{
	struct socket_state *state = ctx->sk ? sockets.sk_storage_get(ctx->sk, 0, 0) : NULL;

	if (state && state->flags & SOCKET_REDIRECTED)
		WRITE_ADDRESS4(state->original, state->original_port);
	return 1;
}

int mesh_getpeername6(struct bpf_sock_addr *ctx)
{
	struct socket_state *state = ctx->sk ? sockets.sk_storage_get(ctx->sk, 0, 0) : NULL;

	if (state && state->flags & SOCKET_REDIRECTED)
		WRITE_ADDRESS6(state->original, state->original_port);
	return 1;
}
