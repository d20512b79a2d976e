// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The receiving end of the nonce: who on this node has opened a connection, proven.
 */

#define TCP_MAX_OPTIONS 20

/* The nonce in the options of a SYN; 0 where there is none. */
inline_only u64 find_nonce(struct __sk_buff *skb, const struct packet *packet)
{
	u32 end = packet->offset + packet->header_bytes;
	u32 offset = packet->offset + 20;
	u8 option[NONCE_LONG_BYTES];
	u32 i;

#pragma nounroll
	for (i = 0; i < TCP_MAX_OPTIONS; i++) {
		if (offset + 2 > end || load(skb, offset, option, 2) || option[0] == 0)
			return 0;
		if (option[0] == 1) {
			offset++;
			continue;
		}
		if (option[1] < 2)
			return 0;
		if (option[0] == NONCE_OPTION_KIND && option[1] == NONCE_LONG_BYTES) {
			if (load(skb, offset, option, NONCE_LONG_BYTES))
				return 0;
			if (option[2] == NONCE_EXID >> 8 && option[3] == (NONCE_EXID & 0xff))
				return (u64)option[4] << 56 | (u64)option[5] << 48 |
				       (u64)option[6] << 40 | (u64)option[7] << 32 |
				       (u64)option[8] << 24 | (u64)option[9] << 16 |
				       (u64)option[10] << 8 | option[11];
		}
		if (option[0] == NONCE_OPTION_KIND && option[1] == NONCE_SHORT_BYTES) {
			if (load(skb, offset, option, NONCE_SHORT_BYTES))
				return 0;
			if (option[2] == NONCE_SHORT_TAG)
				return (u64)option[3] << 32 | (u64)option[4] << 24 |
				       (u64)option[5] << 16 | (u64)option[6] << 8 | option[7];
		}
		offset += option[1];
	}
	return 0;
}

inline_only void report_packet(const struct packet *packet, u8 kind, u16 reason, u8 direction,
			       u32 source, u32 destination, u32 service)
{
	struct event *event = start_event(kind, packet->protocol);

	if (!event)
		return;
	event->source = packet->source;
	event->destination = packet->destination;
	event->original = packet->destination;
	event->source_port = packet->source_port;
	event->destination_port = packet->destination_port;
	event->original_port = packet->destination_port;
	event->reason = reason;
	event->direction = direction;
	event->source_workload = source;
	event->destination_workload = destination;
	event->service_id = service;
	events.ringbuf_submit(event, 0);
}

/*
 * Whoever deletes the nonce has it: a copy of the SYN on another CPU comes too late. True where it
 * proved something: then `judged` says what.
 */
inline_only bool consume_nonce(struct __sk_buff *skb, const struct packet *packet,
			       const struct guarded_pod *pod, struct judged *judged)
{
	u64 nonce = find_nonce(skb, packet);
	struct nonce_record *found;
	struct nonce_record record;
	struct nonce_quota *quota;
	struct traffic *total;

	if (!nonce)
		return false;
	found = nonces.lookup(&nonce);
	if (!found || found->destination_workload != pod->workload_id) {
		count_statistic(STATISTIC_NONCES_UNKNOWN);
		return false;
	}
	record = *found;
	if (nonces.delete(&nonce)) {
		count_statistic(STATISTIC_NONCES_UNKNOWN);
		return false;
	}
	quota = nonce_quotas.lookup(&record.netns_cookie);
	if (quota)
		__sync_fetch_and_add(&quota->consumed, 1);
	judged->peer = record.source_workload;
	judged->flags = JUDGED_ATTESTED;
	if (record.flags & NONCE_NODE) {
		judged->flags |= JUDGED_NODE;
		count_statistic(STATISTIC_NODE_ATTESTED);
		return true;
	}
	count_statistic(STATISTIC_NONCES_CONSUMED);
	total = traffic_of(record.source_workload, pod->workload_id, record.service_id, REASON_NONE,
			   ROUTE_DIRECT, IPPROTO_TCP);
	if (total)
		total->attested++;
	report_packet(packet, EVENT_ATTESTED, REASON_NONE, DIRECTION_INGRESS,
		      record.source_workload, pod->workload_id, record.service_id);
	return true;
}
