// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * guard_ingress: clsact ingress of every interface of an enrolled pod but lo. The policy point for
 * whatever enters the pod, of any protocol.
 *
 *   packet ─ parse ─▶ inspect ─┬▶ PASS     a reply, an open connection judged under this policy
 *                              ├▶ REFUSE   with a reason
 *                              └▶ JUDGE ─▶ decide() ─▶ remember, or refuse
 *
 * A SYN with a nonce proves which workload of this node opened the connection (or that the node
 * itself did). The pod is the filter's classid (15 bits), which nothing in a packet can forge.
 * "Passes" is TC_ACT_UNSPEC: filters of others that come after ours still run.
 */

struct guard_scratch {
	struct packet packet;
	struct inspection inspection;
	u32 slot;
};

/*
 * Of this version of the programs alone, pinned beside them: halves of two versions never meet. A
 * map of programs is emptied when its last pin goes.
 */
BPF_TABLE_PINNED("percpu_array", u32, struct guard_scratch, guard_scratches, 1,
		 MESH_PROGRAM_DIR "/guard_scratches");
BPF_TABLE_PINNED("prog", u32, u32, guard_programs, 1, MESH_PROGRAM_DIR "/guard_programs");

#define GUARD_JUDGE 0

inline_only void ask(struct verdict_query *query, const struct packet *packet,
		     const struct guarded_pod *pod, const struct judged *judged)
{
	__builtin_memset(query, 0, sizeof(*query));
	query->subject = pod->workload_id;
	query->peer = judged->peer;
	query->protocol = packet->protocol;
	query->direction = judged->direction;
	query->port = judged->direction == DIRECTION_EGRESS ? packet->source_port
							    : packet->destination_port;
	if (packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6)
		query->port = 0;
	query->address = packet->source;
	if (judged->flags & JUDGED_ATTESTED)
		query->flags |= QUERY_ATTESTED;
	if (judged->flags & JUDGED_NODE)
		query->flags |= QUERY_NODE;
	if (pod->flags & GUARDED_FAIL_OPEN)
		query->flags |= QUERY_FAIL_OPEN;
}

inline_only void keep_with_socket(struct __sk_buff *skb, const struct packet *packet,
				  const struct judged *judged)
{
	struct bpf_sock_tuple tuple;
	struct judged *storage;
	struct bpf_sock *full;
	struct bpf_sock *sk;
	u32 size;

	size = tuple_of(packet, &tuple);
	sk = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return;
	full = bpf_sk_fullsock(sk);
	if (full) {
		storage = judged_sockets.sk_storage_get(full, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (storage)
			*storage = *judged;
		else
			count_statistic(STATISTIC_STATE_LOST);
	}
	bpf_sk_release(sk);
}

inline_only void remember(struct __sk_buff *skb, const struct packet *packet,
			  struct inspection *inspection)
{
	if (inspection->keep == KEEP_SOCKET) {
		keep_with_socket(skb, packet, &inspection->judged);
		if (inspection->drop_peering)
			forget_peering(&inspection->key);
	} else if (inspection->keep == KEEP_PEERING) {
		remember_peering(&inspection->key, &inspection->judged);
	}
	/* The others of its datagram may follow. */
	if (packet->outgoing && packet->fragment == FRAGMENT_FIRST && !packet->last) {
		fill_fragment_key(&inspection->key, packet);
		remember_peering(&inspection->key, &inspection->judged);
	}
}

inline_only bool is_capture_port(const struct guarded_pod *pod, __be16 port)
{
	u32 i;

#pragma unroll
	for (i = 0; i < MESH_CAPTURE_PORTS; i++) {
		if (port == pod->capture_ports[i])
			return true;
	}
	return false;
}

/*
 * Somebody who may know why not is told; who pokes about is not told that there is anything. A
 * socket that was dialled before its destination came into the mesh may know too: reset, it is
 * dialled again, and goes by the tunnel.
 */
inline_only bool is_told(u32 reason)
{
	return (reason >= REASON_POLICY_DENY && reason <= REASON_NOT_ATTESTED) ||
	       reason == REASON_TUNNEL_BYPASSED;
}

/*
 * Which end of the connection is judged. A packet that is no part of one is judged where it is.
 */
inline_only u8 direction_of(const struct packet *packet, const struct judged *judged)
{
	if (judged->direction)
		return judged->direction;
	return packet->outgoing ? DIRECTION_EGRESS : DIRECTION_INGRESS;
}

/* An event of the connection: its source is who began it, whichever way the packet goes. */
inline_only void tell(const struct packet *packet, u32 own, const struct judged *judged, u8 kind,
		      u16 reason)
{
	u8 direction = direction_of(packet, judged);
	struct packet seen = *packet;

	if (direction == DIRECTION_INGRESS) {
		report_packet(&seen, kind, reason, direction, judged->peer, own, 0);
		return;
	}
	turn_packet(&seen);
	report_packet(&seen, kind, reason, direction, own, judged->peer, 0);
}

/* Policies in dry run would refuse what passes. */
inline_only void note_dry_run(const struct packet *packet, const struct guarded_pod *pod,
			      const struct judged *judged)
{
	count_statistic(STATISTIC_DRY_DENIED);
	tell(packet, pod->workload_id, judged, EVENT_DRY_DENIED, REASON_POLICY_DENY);
}

/* Counts a refusal and tells of it; `own` is the pod that is judged. */
inline_only void note_refusal(const struct packet *packet, u32 own, const struct judged *judged,
			      u16 reason)
{
	bool egress = direction_of(packet, judged) == DIRECTION_EGRESS;
	u32 source = egress ? own : judged->peer;
	u32 destination = egress ? judged->peer : own;
	struct traffic *total =
		traffic_of(source, destination, 0, reason, ROUTE_DENY, packet->protocol);

	if (total)
		total->failed++;
	tell(packet, own, judged, EVENT_DROPPED, reason);
}

inline_only int refuse_packet(struct __sk_buff *skb, const struct packet *packet,
			      const struct guarded_pod *pod, const struct judged *judged,
			      u16 reason)
{
	note_refusal(packet, pod->workload_id, judged, reason);
	if (!is_told(reason))
		return TC_ACT_SHOT;
	if (packet->protocol == IPPROTO_TCP)
		return reset(skb, packet);
	if (packet->protocol == IPPROTO_UDP)
		return prohibit(skb, packet);
	return TC_ACT_SHOT;
}

/*
 * What leaves the pod by this guard is stamped, so that the seal at the host's end of the link can
 * tell it from what has gone round it. A stamp in the packet's metadata survives veth, and no
 * socket option sets it.
 */
inline_only int pass(struct __sk_buff *skb, const struct packet *packet, u32 slot)
{
	if (packet->outgoing)
		skb->tc_index = (u16)slot;
	return TC_ACT_UNSPEC;
}

/*
 * The second half of the guard, by a tail call: in one program the verifier would follow decide()
 * from every path through inspect(). They share the CPU's scratch, which nobody else can use in
 * between: packet programs run with bottom halves off.
 */
int mesh_guard_judge(struct __sk_buff *skb)
{
	struct guard_scratch *scratch;
	struct verdict_query query;
	struct guarded_pod *pod;
	struct verdict verdict;
	u32 zero = 0;

	scratch = guard_scratches.lookup(&zero);
	if (!scratch)
		return TC_ACT_SHOT;
	pod = guarded_pods.lookup(&scratch->slot);
	if (!pod)
		return TC_ACT_SHOT;
	if (scratch->inspection.step == STEP_JUDGE) {
		ask(&query, &scratch->packet, pod, &scratch->inspection.judged);
		decide(&query, &verdict);
		scratch->inspection.judged.generation = verdict.generation;
		scratch->inspection.reason = (u16)verdict.reason;
		if (verdict.reason == REASON_NONE && verdict.flags & VERDICT_DRY_DENY)
			note_dry_run(&scratch->packet, pod, &scratch->inspection.judged);
	}
	if (scratch->inspection.reason != REASON_NONE) {
		/* The answer leaves by guard_egress, where a policy must not refuse it. */
		if (!scratch->packet.outgoing)
			skb->tc_index = (u16)scratch->slot;
		return refuse_packet(skb, &scratch->packet, pod, &scratch->inspection.judged,
				     scratch->inspection.reason);
	}
	remember(skb, &scratch->packet, &scratch->inspection);
	return pass(skb, &scratch->packet, scratch->slot);
}

inline_only int finish(struct __sk_buff *skb, const struct packet *packet,
		       const struct inspection *inspection, u32 slot)
{
	struct guard_scratch *scratch;
	u32 zero = 0;

	if (inspection->step == STEP_PASS && inspection->keep == KEEP_NOTHING &&
	    packet->fragment != FRAGMENT_FIRST)
		return pass(skb, packet, slot);
	scratch = guard_scratches.lookup(&zero);
	if (!scratch)
		return TC_ACT_SHOT;
	scratch->packet = *packet;
	scratch->inspection = *inspection;
	scratch->slot = slot;
	guard_programs.call(skb, GUARD_JUDGE);
	return TC_ACT_SHOT; /* there is no such program: refuse */
}

int mesh_guard_ingress(struct __sk_buff *skb)
{
	u32 slot = skb->tc_classid & MESH_SLOT_MASK;
	struct inspection inspection;
	struct packet packet;
	struct guarded_pod *pod;

	if (enters_plainly(skb))
		return TC_ACT_UNSPEC;
	__builtin_memset(&inspection, 0, sizeof(inspection));
	__builtin_memset(&packet, 0, sizeof(packet));
	pod = guarded_pods.lookup(&slot);
	if (!pod || is_own_answer(skb))
		return TC_ACT_UNSPEC;
	skb->tc_index = 0; /* the stamp of another's guard */
	if (!parse_packet(skb, &packet)) {
		if (!is_tagged(skb))
			return TC_ACT_UNSPEC; /* nothing of IP will come of it */
		packet.malformed = true;
	}
	if (packet.protocol == IPPROTO_TCP && !packet.malformed &&
	    packet.fragment != FRAGMENT_LATER && is_capture_port(pod, packet.destination_port)) {
		count_statistic(STATISTIC_CAPTURE_PORT_DROPS);
		inspection.step = STEP_REFUSE;
		inspection.reason = REASON_CAPTURE_PORT_FROM_OUTSIDE;
	} else {
		inspect(skb, &packet, pod, &inspection);
	}
	return finish(skb, &packet, &inspection, slot);
}

/*
 * guard_egress: clsact egress of the same interfaces. The policy point for what leaves the pod
 * without the connect hook: datagrams, raw packets, processes of a cgroup that is not the pods'.
 */
int mesh_guard_egress(struct __sk_buff *skb)
{
	u32 slot = skb->tc_classid & MESH_SLOT_MASK;
	struct inspection inspection;
	struct packet packet;
	struct guarded_pod *pod;

	if (leaves_plainly(skb)) {
		skb->tc_index = (u16)slot;
		return TC_ACT_UNSPEC;
	}
	__builtin_memset(&inspection, 0, sizeof(inspection));
	__builtin_memset(&packet, 0, sizeof(packet));
	packet.outgoing = true;
	pod = guarded_pods.lookup(&slot);
	/* Stamped before it leaves: guard_ingress answers what it has refused. */
	if (!pod || skb->tc_index == (u16)slot)
		return TC_ACT_UNSPEC;
	if (is_agent_packet(skb)) {
		exempt_socket(skb);
		return pass(skb, &packet, slot);
	}
	/* An ARP packet says nothing that the seal does not look at. */
	if (!is_what_it_says(skb) ||
	    (!parse_packet(skb, &packet) && skb->protocol != bpf_htons(ETHERTYPE_ARP)))
		packet.malformed = true;
	turn_packet(&packet);
	if (packet.family || packet.malformed)
		inspect_outgoing(skb, &packet, pod, &inspection);
	return finish(skb, &packet, &inspection, slot);
}
