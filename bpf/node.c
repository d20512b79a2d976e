// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The node proves itself: sockops at the root of the cgroup tree write a nonce into the SYNs that
 * sockets of the node's own network namespace send to its enrolled pods. So the kubelet's probes
 * pass because the kernel says whose they are; an address says nothing, NodePort traffic has it
 * too.
 *
 * A pod of the host's network is a pod and not the node: the connect hook, which runs before this,
 * has marked its sockets.
 */

inline_only void remote_of(struct bpf_sock_ops *ctx, struct address *remote)
{
	u32 family = FROM_CONTEXT(ctx->family);
	u32 v4 = FROM_CONTEXT(ctx->remote_ip4);

	remote->words[0] = FROM_CONTEXT(ctx->remote_ip6[0]);
	remote->words[1] = FROM_CONTEXT(ctx->remote_ip6[1]);
	remote->words[2] = FROM_CONTEXT(ctx->remote_ip6[2]);
	remote->words[3] = FROM_CONTEXT(ctx->remote_ip6[3]);
	if (family == MESH_AF_INET)
		address_from_v4(remote, v4);
}

inline_only void node_connects(struct bpf_sock_ops *ctx)
{
	const u16 here = WORKLOAD_ENROLLED | WORKLOAD_LOCAL;
	struct bpf_sock *sk = ctx->sk;
	struct socket_state *state;
	struct workload *workload;
	struct address remote;
	u64 cookie = bpf_get_netns_cookie(ctx);

	if (!sk || cookie != node_netns_cookie())
		return;
	remote_of(ctx, &remote);
	workload = workloads.lookup(&remote);
	if (!workload || (workload->flags & here) != here)
		return;
	state = sockets.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state || state->flags & SOCKET_HOST_POD)
		return;
	state->flags = SOCKET_NONCE | SOCKET_NODE;
	state->destination_workload = workload->workload_id;
	state->netns_cookie = cookie;
	bpf_sock_ops_cb_flags_set(ctx,
				  ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

inline_only bool is_node_socket(const struct socket_state *state)
{
	return state && state->flags & SOCKET_NODE;
}

/* A handshake that the guard has let in is a socket now, in whatever cgroup. */
inline_only void node_sees_accepted(struct bpf_sock_ops *ctx)
{
	u64 cookie = bpf_get_netns_cookie(ctx);
	u32 family = FROM_CONTEXT(ctx->family);
	struct bpf_sock *sk = ctx->sk;
	struct peering_key key = {};

	if (!sk || !enrollments.lookup(&cookie))
		return;
	key.netns_cookie = cookie;
	remote_of(ctx, &key.remote);
	source_of(ctx, family == MESH_AF_INET ? FAMILY_V4 : FAMILY_V6, &key.local);
	key.remote_port = (__be16)(FROM_CONTEXT(ctx->remote_port) >> 16);
	key.local_port = bpf_htons((u16)ctx->local_port);
	key.protocol = IPPROTO_TCP;
	settle_peering(&key, sk);
}

int mesh_node_sockops(struct bpf_sock_ops *ctx)
{
	struct socket_state *state;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		node_connects(ctx);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		if (is_node_socket(state_of(ctx)))
			reserve_nonce(ctx);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		state = state_of(ctx);
		if (is_node_socket(state) && is_syn(ctx))
			write_nonce(ctx, state);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (is_node_socket(state_of(ctx)))
			bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags &
							       ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		node_sees_accepted(ctx);
		break;
	}
	return 1;
}
