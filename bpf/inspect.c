// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the guard makes of a packet that enters a pod before any policy is asked: whose it is, and
 * whether that has been judged.
 *
 * The kernel's sockets are the flow table of TCP: `judged_sockets` (SK_STORAGE) says who is at the
 * other end and under which generation of the policy that was judged; a handshake has a short
 * `peerings` entry until there is a socket. Protocols without sockets have an entry for as long as
 * packets go by.
 */

enum step {
	STEP_PASS = 0,
	STEP_JUDGE = 1,
	STEP_REFUSE = 2,
};

enum keep {
	KEEP_NOTHING = 0,
	KEEP_SOCKET = 1,  /* the judgement belongs to the socket */
	KEEP_PEERING = 2, /* to the handshake or flow */
};

/* What is to be done with a packet, and what is known of the other end. */
struct inspection {
	struct judged judged;
	struct peering_key key;
	u8 step;
	u8 keep;
	u16 reason;
	bool drop_peering; /* the socket has taken the peering's judgement over */
};

/* Under the policy in force, or never to be. */
inline_only bool is_in_force(const struct judged *judged)
{
	return judged->flags & JUDGED_EXEMPT || judged->generation == current_generation();
}

/* Has it been judged under the policy in force? Then it passes, else it is judged again. */
inline_only void resume(struct inspection *inspection, const struct judged *judged, u8 keep)
{
	inspection->judged = *judged;
	inspection->keep = keep;
	inspection->step = is_in_force(judged) ? STEP_PASS : STEP_JUDGE;
}

/* A first packet of somebody: judged by what its address claims, unless a nonce proves more. */
inline_only void begin(struct inspection *inspection, const struct packet *packet, u8 keep,
		       u8 direction)
{
	inspection->judged.peer = claimed_by(&packet->source);
	inspection->judged.direction = direction;
	inspection->step = STEP_JUDGE;
	inspection->keep = keep;
}

/*
 * Only what a nonce has proven is remembered of a handshake: a claim is judged again from the
 * packet that ends it, so that a flood of SYNs takes no memory.
 */
inline_only void inspect_syn(struct __sk_buff *skb, const struct packet *packet,
			     const struct guarded_pod *pod, struct inspection *inspection,
			     u32 state)
{
	struct peering *earlier;

	begin(inspection, packet, KEEP_NOTHING, DIRECTION_INGRESS);
	if (consume_nonce(skb, packet, pod, &inspection->judged)) {
		if (state == BPF_TCP_LISTEN || state == BPF_TCP_NEW_SYN_RECV ||
		    state == BPF_TCP_TIME_WAIT)
			inspection->keep = KEEP_PEERING;
		return;
	}
	earlier = peering_of(&inspection->key);
	if (!earlier)
		return;
	/* A retransmitted SYN's nonce has been used: what it proved is remembered. */
	if (state == BPF_TCP_NEW_SYN_RECV)
		inspection->judged = earlier->judged;
	else
		forget_peering(&inspection->key);
}

/* A connection that is older than the guard: inbound where something listens on its port. */
inline_only bool is_inbound(struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_sock_tuple tuple;
	struct bpf_sock *listener;
	bool found;
	u32 size;

	size = tuple_of(packet, &tuple);
	if (packet->family == FAMILY_V4) {
		tuple.ipv4.saddr = 0;
		tuple.ipv4.sport = 0;
	} else {
		__builtin_memset(tuple.ipv6.saddr, 0, 16);
		tuple.ipv6.sport = 0;
	}
	listener = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!listener)
		return false;
	found = listener->state == BPF_TCP_LISTEN;
	bpf_sk_release(listener);
	return found;
}

/*
 * A packet for a socket that knows its peer. The storage is read twice: sockops moves a peering
 * into it, and forgets the peering only then.
 */
inline_only bool judged_before(struct bpf_sock *sk, struct inspection *inspection)
{
	struct judged *judged = judged_sockets.sk_storage_get(sk, 0, 0);
	struct peering *peering;

	if (!judged) {
		peering = peerings.lookup(&inspection->key);
		if (peering) {
			inspection->drop_peering = true;
			resume(inspection, &peering->judged, KEEP_SOCKET);
			return true;
		}
		judged = judged_sockets.sk_storage_get(sk, 0, 0);
	}
	if (!judged)
		return false;
	resume(inspection, judged, KEEP_SOCKET);
	if (inspection->step == STEP_PASS)
		inspection->keep = KEEP_NOTHING;
	return true;
}

/* As remembered, else by what the address claims; whether that is remembered, `keep` says. */
inline_only void inspect_peering(struct inspection *inspection, const struct packet *packet,
				 u8 keep, u8 direction)
{
	struct peering *peering = peering_of(&inspection->key);

	if (peering)
		resume(inspection, &peering->judged, KEEP_PEERING);
	else
		begin(inspection, packet, keep, direction);
	if (inspection->step == STEP_PASS)
		inspection->keep = KEEP_NOTHING;
}

/* Of a handshake without a socket only what was proven is remembered. */
inline_only void inspect_handshake(struct inspection *inspection, const struct packet *packet)
{
	inspect_peering(inspection, packet, KEEP_NOTHING, DIRECTION_INGRESS);
}

/* A socket that nothing is known of: older than the guard, or dialled and not answered yet. */
inline_only void inspect_stranger(struct __sk_buff *skb, const struct packet *packet,
				  struct inspection *inspection, u32 state)
{
	u8 direction = state != BPF_TCP_SYN_SENT && is_inbound(skb, packet) ? DIRECTION_INGRESS
									    : DIRECTION_EGRESS;

	begin(inspection, packet, KEEP_SOCKET, direction);
}

inline_only void inspect_tcp(struct __sk_buff *skb, const struct packet *packet,
			     const struct guarded_pod *pod, struct inspection *inspection)
{
	bool syn = (packet->flags & (TCP_FLAGS_SYN | TCP_FLAGS_ACK)) == TCP_FLAGS_SYN;
	struct bpf_sock_tuple tuple;
	struct bpf_sock *full;
	struct bpf_sock *sk;
	bool known = false;
	u32 state = 0;
	u32 size;

	/* The agent listens there, nobody else can, and TLS asks for more proof than a policy. */
	if (packet->destination_port == bpf_htons(HBONE_PORT))
		return;
	size = tuple_of(packet, &tuple);
	sk = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (sk) {
		state = sk->state;
		full = bpf_sk_fullsock(sk);
		if (full && state != BPF_TCP_LISTEN && !syn)
			known = judged_before(full, inspection);
		bpf_sk_release(sk);
	}
	if (known)
		return;
	if (syn) {
		inspect_syn(skb, packet, pod, inspection, state);
		return;
	}
	switch (state) {
	case 0:
		count_statistic(STATISTIC_SOCKETLESS);
		return;
	case BPF_TCP_TIME_WAIT:
		return;
	case BPF_TCP_NEW_SYN_RECV:
	case BPF_TCP_LISTEN: /* with SYN cookies the request has no socket */
		inspect_handshake(inspection, packet);
		return;
	default:
		inspect_stranger(skb, packet, inspection, state);
	}
}

inline_only void inspect(struct __sk_buff *skb, const struct packet *packet,
			 const struct guarded_pod *pod, struct inspection *inspection)
{
	if (packet->malformed) {
		inspection->step = STEP_REFUSE;
		inspection->reason = REASON_PACKET_MALFORMED;
		return;
	}
	/* Never delivered without its first, which has been judged. */
	if (packet->fragment == FRAGMENT_LATER || is_link_upkeep(packet))
		return;
	fill_peering_key(&inspection->key, packet, pod);
	if (packet->protocol == IPPROTO_TCP) {
		inspect_tcp(skb, packet, pod, inspection);
		return;
	}
	if (is_icmp_error(packet)) {
		if (!error_has_owner(skb, packet, pod)) {
			inspection->step = STEP_REFUSE;
			inspection->reason = REASON_HANDSHAKE_UNKNOWN;
		}
		return;
	}
	inspect_peering(inspection, packet, KEEP_PEERING, DIRECTION_INGRESS);
}
