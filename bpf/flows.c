// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sockops: what follows a connect() that the connect hook has touched.
 *
 *   TCP_CONNECT_CB      same node: ask to write into the SYN
 *   WRITE_HDR_OPT       same node: the nonce, and who made it
 *   ACTIVE_ESTABLISHED  captured: the flow record, before the agent can accept
 *   STATE_CB            direct: what the connection carried
 */

#define STATE_FIN_WAIT2 5
#define STATE_CLOSE 7
#define STATE_CLOSE_WAIT 8
#define STATE_LAST_ACK 9
#define STATE_CLOSING 11
#define STATE_SYN_SENT 2

struct nonce_option {
	u8 kind;
	u8 length;
	__be16 exid;
	__be32 high;
	__be32 low;
};

struct short_nonce_option {
	u8 kind;
	u8 length;
	u8 tag;
	u8 high;
	__be32 low;
};

inline_only struct socket_state *state_of(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return NULL;
	return sockets.sk_storage_get(sk, 0, 0);
}

/*
 * Every read of the context stands alone and is not optional: the compiler would else compute an
 * offset into the context, which the verifier refuses.
 */
#define FROM_CONTEXT(field) (*(volatile __u32 *)&(field))

inline_only void source_of(struct bpf_sock_ops *ctx, u8 family, struct address *source)
{
	u32 v4 = FROM_CONTEXT(ctx->local_ip4);

	source->words[0] = FROM_CONTEXT(ctx->local_ip6[0]);
	source->words[1] = FROM_CONTEXT(ctx->local_ip6[1]);
	source->words[2] = FROM_CONTEXT(ctx->local_ip6[2]);
	source->words[3] = FROM_CONTEXT(ctx->local_ip6[3]);
	if (family == FAMILY_V4)
		address_from_v4(source, v4);
}

/*
 * NOEXIST: a second unread record under one key means that one of them would be read for the wrong
 * connection. The key lacks the capture address: sockets of one source that a bound device sends to
 * different ones may meet here too, and are refused alike.
 */
inline_only void leave_record(struct bpf_sock_ops *ctx, const struct socket_state *state)
{
	struct flow_record record = {};
	struct flow_record *unread;
	struct flow_key key = {};

	key.netns_cookie = state->netns_cookie;
	source_of(ctx, state->family, &key.source);
	key.source_port = bpf_htons((u16)ctx->local_port);
	key.capture_port = state->capture_port;
	key.family = state->family;
	record.original = state->original;
	record.upstream = state->upstream;
	record.original_port = state->original_port;
	record.upstream_port = state->upstream_port;
	record.source_workload = state->source_workload;
	record.upstream_workload = state->destination_workload;
	record.service_id = state->service_id;
	record.generation = state->generation;
	record.created_ns = bpf_ktime_get_ns();
	if (flow_records.insert(&key, &record) == 0)
		return;
	unread = flow_records.lookup(&key);
	if (!unread) {
		count_statistic(STATISTIC_RECORDS_LOST);
		return;
	}
	unread->flags |= FLOW_POISONED;
	count_statistic(STATISTIC_RECORDS_POISONED);
}

/* A pod whose SYNs get lost in thousands must not fill the map against the others. */
inline_only struct nonce_quota *quota_of(u64 netns_cookie)
{
	struct nonce_quota zero = {};
	struct nonce_quota *quota = nonce_quotas.lookup_or_try_init(&netns_cookie, &zero);
	u64 *aged;

	if (!quota)
		return NULL;
	aged = nonces_aged.lookup(&netns_cookie);
	if (is_used_up(quota, aged ? *aged : 0, MESH_NONCE_QUOTA))
		return NULL;
	return quota;
}

/*
 * A number that nobody can foretell, 0 where the agent has not drawn the secret yet. Time and CPU
 * make the input differ each time (two nonces of one CPU in one nanosecond differ by the counter);
 * the secret is what makes the output unpredictable.
 */
inline_only u64 draw_nonce(void)
{
	u32 zero = 0, made = STATISTIC_NONCES_MADE;
	struct nonce_secret *secret = nonce_secrets.lookup(&zero);
	u64 *counter = statistics.lookup(&made);
	u64 words[3];

	if (!secret || !(secret->key[0] | secret->key[1]))
		return 0;
	words[0] = (u64)bpf_get_smp_processor_id() << 32 | bpf_get_prandom_u32();
	words[1] = bpf_ktime_get_ns();
	words[2] = counter ? *counter : 0;
	return siphash_2_4(secret->key, words, 3, (u64)sizeof(words) << 56);
}

/* Writes the option in the longest form that there is room for. False: the SYN goes without. */
inline_only bool store_nonce(struct bpf_sock_ops *ctx, u64 *nonce)
{
	struct short_nonce_option brief = {};
	struct nonce_option option = {};

	*nonce = draw_nonce();
	if (!*nonce)
		return false;
	option.kind = NONCE_OPTION_KIND;
	option.length = NONCE_LONG_BYTES;
	option.exid = bpf_htons(NONCE_EXID);
	option.high = bpf_htonl((u32)(*nonce >> 32));
	option.low = bpf_htonl((u32)*nonce);
	if (bpf_store_hdr_opt(ctx, &option, sizeof(option), 0) == 0)
		return true;
	*nonce &= NONCE_SHORT_MASK;
	brief.kind = NONCE_OPTION_KIND;
	brief.length = NONCE_SHORT_BYTES;
	brief.tag = NONCE_SHORT_TAG;
	brief.high = (u8)(*nonce >> 32);
	brief.low = option.low;
	if (bpf_store_hdr_opt(ctx, &brief, sizeof(brief), 0))
		return false;
	count_statistic(STATISTIC_NONCES_SHORT);
	return true;
}

inline_only void write_nonce(struct bpf_sock_ops *ctx, const struct socket_state *state)
{
	struct nonce_quota *quota = quota_of(state->netns_cookie);
	struct nonce_record record = {};
	u64 nonce;

	record.netns_cookie = state->netns_cookie;
	record.created_ns = bpf_ktime_get_ns();
	record.source_workload = state->source_workload;
	record.destination_workload = state->destination_workload;
	record.service_id = state->service_id;
	record.flags = state->flags & SOCKET_NODE ? NONCE_NODE : 0;
	if (!quota || !store_nonce(ctx, &nonce) || nonces.insert(&nonce, &record)) {
		count_statistic(STATISTIC_NONCES_REFUSED);
		return;
	}
	__sync_fetch_and_add(&quota->made, 1);
	count_statistic(STATISTIC_NONCES_MADE);
}

inline_only void fill_flow_event(struct bpf_sock_ops *ctx, const struct socket_state *state,
				 struct event *event)
{
	source_of(ctx, state->family, &event->source);
	event->source_port = bpf_htons((u16)ctx->local_port);
	event->destination = state->upstream;
	event->destination_port = state->upstream_port;
	event->original = state->original;
	event->original_port = state->original_port;
	event->source_workload = state->source_workload;
	event->destination_workload = state->destination_workload;
	event->service_id = state->service_id;
}

inline_only void report_established(struct bpf_sock_ops *ctx, struct socket_state *state)
{
	struct traffic *total =
		traffic_of(state->source_workload, state->destination_workload, state->service_id,
			   REASON_NONE, ROUTE_DIRECT, IPPROTO_TCP);
	struct event *event;

	if (total)
		total->opened++;
	event = start_event(EVENT_CONNECTED, IPPROTO_TCP);
	if (!event)
		return;
	fill_flow_event(ctx, state, event);
	event->duration_ns = event->time_ns - state->connected_ns;
	events.ringbuf_submit(event, 0);
}

/*
 * The kernel's byte counts are sequence numbers: SYN and FIN count as one each. Ours is in
 * bytes_acked once the peer has acknowledged it, the peer's in bytes_received. From FIN_WAIT2 a
 * socket closes either by the peer's FIN or, orphaned, at once.
 */
inline_only void report_closed(struct bpf_sock_ops *ctx, struct socket_state *state, u32 old)
{
	bool established = state->flags & SOCKET_ESTABLISHED;
	u64 received = ctx->bytes_received;
	u64 sent = ctx->bytes_acked;
	u16 reason = established ? REASON_NONE : REASON_APP_CONNECT_FAILED;
	struct traffic *total;
	struct event *event;

	if (state->flags & SOCKET_CLOSED)
		return;
	state->flags |= SOCKET_CLOSED;
	if (sent && established)
		sent--;
	if (sent && (old == STATE_FIN_WAIT2 || old == STATE_CLOSING || old == STATE_LAST_ACK))
		sent--;
	if (received && (old == STATE_CLOSE_WAIT || old == STATE_CLOSING || old == STATE_LAST_ACK ||
			 (old == STATE_FIN_WAIT2 && received > state->fin_wait_received)))
		received--;
	total = traffic_of(state->source_workload, state->destination_workload, state->service_id,
			   reason, ROUTE_DIRECT, IPPROTO_TCP);
	if (total && established) {
		total->closed++;
		total->bytes_sent += sent;
		total->bytes_received += received;
	} else if (total) {
		total->failed++;
	}
	event = start_event(EVENT_CLOSED, IPPROTO_TCP);
	if (!event)
		return;
	fill_flow_event(ctx, state, event);
	event->reason = reason;
	event->bytes_sent = sent;
	event->bytes_received = received;
	event->duration_ns = event->time_ns - state->connected_ns;
	events.ringbuf_submit(event, 0);
}

inline_only void start_connect(struct bpf_sock_ops *ctx, const struct socket_state *state)
{
	int flags = BPF_SOCK_OPS_STATE_CB_FLAG;

	if (state->route != ROUTE_DIRECT)
		return;
	if (state->flags & SOCKET_NONCE)
		flags |= BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | flags);
}

inline_only void established(struct bpf_sock_ops *ctx, struct socket_state *state)
{
	state->flags |= SOCKET_ESTABLISHED;
	if (state->route == ROUTE_TUNNEL) {
		leave_record(ctx, state);
		return;
	}
	if (state->flags & SOCKET_NONCE)
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags &
						       ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
	report_established(ctx, state);
}

inline_only bool is_syn(struct bpf_sock_ops *ctx)
{
	return (ctx->skb_tcp_flags & (TCP_FLAGS_SYN | TCP_FLAGS_ACK)) == TCP_FLAGS_SYN;
}

inline_only void reserve_nonce(struct bpf_sock_ops *ctx)
{
	if (is_syn(ctx) && bpf_reserve_hdr_opt(ctx, NONCE_LONG_BYTES, 0) &&
	    bpf_reserve_hdr_opt(ctx, NONCE_SHORT_BYTES, 0))
		count_statistic(STATISTIC_NONCES_REFUSED);
}

int mesh_sockops(struct bpf_sock_ops *ctx)
{
	struct socket_state *state;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		state = state_of(ctx);
		if (state)
			start_connect(ctx, state);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		state = state_of(ctx);
		if (state && state->flags & SOCKET_NONCE)
			reserve_nonce(ctx);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		state = state_of(ctx);
		if (state && state->flags & SOCKET_NONCE && is_syn(ctx))
			write_nonce(ctx, state);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		state = state_of(ctx);
		if (state)
			established(ctx, state);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		state = state_of(ctx);
		if (!state || state->route != ROUTE_DIRECT)
			break;
		if (ctx->args[1] == STATE_FIN_WAIT2)
			state->fin_wait_received = ctx->bytes_received;
		else if (ctx->args[1] == STATE_CLOSE)
			report_closed(ctx, state, ctx->args[0]);
		break;
	}
	return 1;
}
