// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the guard makes of a packet that leaves a pod. It has been turned round: `source` is where
 * it goes, as if it had come from there.
 */

/* The agent's own sockets, wherever in the node they were made: known by their cgroup. */
inline_only bool is_agent_packet(struct __sk_buff *skb)
{
	u32 zero = 0;
	struct config *settings = config.lookup(&zero);

	return settings && settings->agent_cgroup_id &&
	       settings->agent_cgroup_id == bpf_skb_cgroup_id(skb);
}

/*
 * What comes back to a socket of the agent is not judged either: TLS asks for more than a policy,
 * and the streams in it are judged one by one.
 */
inline_only void exempt_socket(struct __sk_buff *skb)
{
	struct judged exempt = {.direction = DIRECTION_EGRESS, .flags = JUDGED_EXEMPT};
	struct judged *judged;
	struct bpf_sock *sk = skb->sk;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	if (!sk)
		return;
	judged = judged_sockets.sk_storage_get(sk, &exempt, BPF_SK_STORAGE_GET_F_CREATE);
	/* A reply has come before: then the guard took it for a socket of the pod. */
	if (judged && !(judged->flags & JUDGED_EXEMPT))
		judged->flags = JUDGED_EXEMPT;
}

/*
 * A socket that has no judgement yet: has the connect hook let it go, under the policy in force? A
 * change since then is asked about here, where a refusal is a reset: the answer to its SYN would be
 * refused without the socket hearing of it.
 */
inline_only bool is_dialled(struct bpf_sock *sk)
{
	struct socket_state *state = sockets.sk_storage_get(sk, 0, 0);

	return state && state->generation == current_generation();
}

/* A header and nothing behind it. */
inline_only bool is_bare(const struct packet *packet)
{
	return packet->fragment == FRAGMENT_NONE &&
	       packet->end == packet->offset + packet->header_bytes;
}

/* What belongs in the tunnel does not leave by a packet of somebody's own making. */
inline_only bool belongs_in_tunnel(const struct packet *packet, const struct guarded_pod *pod)
{
	struct workload *workload = workloads.lookup((struct address *)&packet->source);

	return workload && workload->route == ROUTE_TUNNEL &&
	       workload->workload_id != pod->workload_id;
}

/*
 * TCP that leaves: of a socket that was judged, or of the kernel answering; else somebody makes
 * packets himself, or the hook has not seen his connect().
 */
inline_only void inspect_outgoing_tcp(struct __sk_buff *skb, const struct packet *packet,
				      const struct guarded_pod *pod, struct inspection *inspection)
{
	u8 flags = packet->flags & (TCP_FLAGS_SYN | TCP_FLAGS_ACK);
	struct bpf_sock_tuple tuple;
	struct bpf_sock *full;
	struct bpf_sock *sk;
	bool known = false;
	u32 state = 0;
	u32 size;

	/* What the kernel answers with: it carries nothing, and opens nothing. */
	if (packet->flags & TCP_FLAGS_RST && is_bare(packet))
		return;
	size = tuple_of(packet, &tuple);
	sk = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (sk) {
		state = sk->state;
		full = bpf_sk_fullsock(sk);
		if (full && state != BPF_TCP_LISTEN) {
			known = judged_before(full, inspection);
			if (!known && state == BPF_TCP_SYN_SENT)
				known = is_dialled(full);
		}
		bpf_sk_release(sk);
	}
	if (known)
		return;
	/* Sockets of exactly this connection, which was let in, or is older than the guard. */
	if (state && state != BPF_TCP_LISTEN && flags != TCP_FLAGS_SYN)
		return;
	/* With SYN cookies it is the listener that answers; it has been asked by a SYN. */
	if (state == BPF_TCP_LISTEN && flags == (TCP_FLAGS_SYN | TCP_FLAGS_ACK) &&
	    is_bare(packet)) {
		inspect_handshake(inspection, packet);
		return;
	}
	begin(inspection, packet, KEEP_NOTHING, DIRECTION_EGRESS);
	if (belongs_in_tunnel(packet, pod)) {
		inspection->step = STEP_REFUSE;
		inspection->reason = REASON_TUNNEL_BYPASSED;
	}
}

/*
 * A later fragment goes after its first, which was judged a moment before: else it is somebody who
 * sends nothing but later ones, to a receiver who knows what to make of them.
 */
inline_only void inspect_later_fragment(struct inspection *inspection, const struct packet *packet)
{
	fill_fragment_key(&inspection->key, packet);
	if (!peering_of(&inspection->key)) {
		inspection->step = STEP_REFUSE;
		inspection->reason = REASON_HANDSHAKE_UNKNOWN;
	} else if (packet->last) {
		forget_peering(&inspection->key);
	}
}

inline_only void inspect_outgoing(struct __sk_buff *skb, const struct packet *packet,
				  const struct guarded_pod *pod, struct inspection *inspection)
{
	if (packet->malformed) {
		inspection->step = STEP_REFUSE;
		inspection->reason = REASON_PACKET_MALFORMED;
		return;
	}
	fill_peering_key(&inspection->key, packet, pod);
	if (packet->fragment == FRAGMENT_LATER) {
		inspect_later_fragment(inspection, packet);
		return;
	}
	if (is_link_upkeep(packet) || (is_icmp_error(packet) && error_has_owner(skb, packet, pod)))
		return;
	if (packet->protocol == IPPROTO_TCP) {
		inspect_outgoing_tcp(skb, packet, pod, inspection);
		return;
	}
	inspect_peering(inspection, packet, KEEP_PEERING, DIRECTION_EGRESS);
}
