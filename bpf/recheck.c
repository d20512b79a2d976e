// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * recheck: what the agent asks of an open connection before it ends it (SOCK_DESTROY), by
 * BPF_PROG_TEST_RUN. As mesh_query, but a refusal is counted and told, as that of a packet is: an
 * idle connection sends none for the guard to look at.
 *
 * The packet is a struct verdict_query, room for a struct verdict, and a struct open_connection.
 */
int mesh_recheck(struct __sk_buff *skb)
{
	const u32 behind = sizeof(struct verdict_query) + sizeof(struct verdict);
	struct open_connection open;
	struct verdict_query query;
	struct judged judged = {};
	struct packet packet = {};
	struct verdict verdict;

	if (bpf_skb_load_bytes(skb, 0, &query, sizeof(query)) ||
	    bpf_skb_load_bytes(skb, behind, &open, sizeof(open)))
		return TC_ACT_SHOT;
	decide(&query, &verdict);
	if (verdict.reason != REASON_NONE) {
		packet.source = query.address;
		packet.destination = open.local;
		packet.source_port = open.remote_port;
		packet.destination_port = open.local_port;
		packet.protocol = query.protocol;
		judged.peer = query.peer;
		judged.direction = query.direction;
		note_refusal(&packet, query.subject, &judged, (u16)verdict.reason);
	}
	if (bpf_skb_store_bytes(skb, sizeof(query), &verdict, sizeof(verdict), 0))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}
