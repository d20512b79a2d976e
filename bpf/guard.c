// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * guard_ingress: clsact ingress of every interface of an enrolled pod but lo.
 *
 *   to a capture port: dropped, nobody outside has business there
 *   a SYN with a nonce: consumed; proves which workload of this node opened the connection
 *   everything else passes
 *
 * The pod is the filter's classid (16 bits), which nothing in a packet can forge. "Passes" is
 * TC_ACT_UNSPEC: filters of others that come after ours still run.
 */

#define IPV4_HEADER_BYTES 20
#define IPV6_HEADER_BYTES 40
#define IPV6_MAX_EXTENSIONS 8
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define EXTENSION_HOP_BY_HOP 0
#define EXTENSION_ROUTING 43
#define EXTENSION_FRAGMENT 44
#define EXTENSION_AUTHENTICATION 51
#define EXTENSION_DESTINATION 60
#define TCP_MAX_OPTIONS 20

struct tcp_packet {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	u32 offset; /* of the TCP header from the network header */
	u8 header_bytes;
	u8 flags;
};

inline_only int load(struct __sk_buff *skb, u32 offset, void *to, u32 length)
{
	return bpf_skb_load_bytes_relative(skb, offset, to, length, BPF_HDR_START_NET);
}

/* True where a TCP header follows at packet->offset. A later fragment has none. */
inline_only bool parse_ipv4(struct __sk_buff *skb, struct tcp_packet *packet)
{
	__be32 header[IPV4_HEADER_BYTES / 4];

	if (load(skb, 0, header, sizeof(header)))
		return false;
	if ((bpf_ntohl(header[2]) >> 16 & 0xff) != IPPROTO_TCP)
		return false;
	if (bpf_ntohl(header[1]) & 0x1fff)
		return false;
	packet->offset = (bpf_ntohl(header[0]) >> 24 & 0xf) * 4;
	address_from_v4(&packet->source, header[3]);
	address_from_v4(&packet->destination, header[4]);
	return packet->offset >= IPV4_HEADER_BYTES;
}

inline_only bool parse_ipv6(struct __sk_buff *skb, struct tcp_packet *packet)
{
	u32 offset = IPV6_HEADER_BYTES;
	u8 extension[4];
	u8 next;
	u32 i;

	if (load(skb, 6, &next, sizeof(next)) || load(skb, 8, &packet->source, 16) ||
	    load(skb, 24, &packet->destination, 16))
		return false;
#pragma nounroll
	for (i = 0; i < IPV6_MAX_EXTENSIONS; i++) {
		if (next == IPPROTO_TCP)
			break;
		if (next != EXTENSION_HOP_BY_HOP && next != EXTENSION_ROUTING &&
		    next != EXTENSION_FRAGMENT && next != EXTENSION_DESTINATION &&
		    next != EXTENSION_AUTHENTICATION)
			return false;
		if (load(skb, offset, extension, sizeof(extension)))
			return false;
		if (next == EXTENSION_FRAGMENT) {
			if (extension[2] || extension[3] & 0xf8)
				return false;
			offset += 8;
		} else if (next == EXTENSION_AUTHENTICATION) {
			offset += (extension[1] + 2) * 4;
		} else {
			offset += (extension[1] + 1) * 8;
		}
		next = extension[0];
	}
	packet->offset = offset;
	return next == IPPROTO_TCP;
}

inline_only bool parse_tcp(struct __sk_buff *skb, struct tcp_packet *packet)
{
	__be16 ports[2];
	u8 control[2] = {};

	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		if (!parse_ipv4(skb, packet))
			return false;
	} else if (skb->protocol == bpf_htons(ETHERTYPE_IPV6)) {
		if (!parse_ipv6(skb, packet))
			return false;
	} else {
		return false;
	}
	if (load(skb, packet->offset, ports, sizeof(ports)))
		return false;
	packet->source_port = ports[0];
	packet->destination_port = ports[1];
	/* A first fragment may end before the flags: ports are enough to refuse it. */
	if (load(skb, packet->offset + 12, control, sizeof(control)) == 0) {
		packet->header_bytes = (control[0] >> 4) * 4;
		packet->flags = control[1];
	}
	return true;
}

/* The nonce in the options of a SYN; 0 where there is none. */
inline_only u64 find_nonce(struct __sk_buff *skb, const struct tcp_packet *packet)
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

inline_only void report_packet(const struct tcp_packet *packet, u8 kind, u32 reason, u32 source,
			       u32 destination, u32 service)
{
	struct event *event = start_event(kind, IPPROTO_TCP);

	if (!event)
		return;
	event->source = packet->source;
	event->destination = packet->destination;
	event->original = packet->destination;
	event->source_port = packet->source_port;
	event->destination_port = packet->destination_port;
	event->original_port = packet->destination_port;
	event->reason = reason;
	event->source_workload = source;
	event->destination_workload = destination;
	event->service_id = service;
	events.ringbuf_submit(event, 0);
}

/* Whoever deletes the nonce has it: a copy of the SYN on another CPU comes too late. */
inline_only void consume_nonce(struct __sk_buff *skb, const struct tcp_packet *packet,
			       const struct guarded_pod *pod)
{
	u64 nonce = find_nonce(skb, packet);
	struct nonce_record *found;
	struct nonce_record record;
	struct nonce_quota *quota;
	struct traffic *total;

	if (!nonce)
		return;
	found = nonces.lookup(&nonce);
	if (!found || found->destination_workload != pod->workload_id) {
		count_statistic(STATISTIC_NONCES_UNKNOWN);
		return;
	}
	record = *found;
	if (nonces.delete(&nonce)) {
		count_statistic(STATISTIC_NONCES_UNKNOWN);
		return;
	}
	count_statistic(STATISTIC_NONCES_CONSUMED);
	quota = nonce_quotas.lookup(&record.netns_cookie);
	if (quota)
		__sync_fetch_and_add(&quota->consumed, 1);
	total = traffic_of(record.source_workload, pod->workload_id, record.service_id, REASON_NONE,
			   ROUTE_DIRECT, IPPROTO_TCP);
	if (total)
		total->attested++;
	report_packet(packet, EVENT_ATTESTED, REASON_NONE, record.source_workload, pod->workload_id,
		      record.service_id);
}

int mesh_guard_ingress(struct __sk_buff *skb)
{
	u32 slot = skb->tc_classid & 0xffff;
	struct tcp_packet packet = {};
	struct guarded_pod *pod;
	struct traffic *total;
	u32 i;

	pod = guarded_pods.lookup(&slot);
	if (!pod || !parse_tcp(skb, &packet))
		return TC_ACT_UNSPEC;
#pragma unroll
	for (i = 0; i < MESH_CAPTURE_PORTS; i++) {
		if (packet.destination_port != pod->capture_ports[i])
			continue;
		count_statistic(STATISTIC_CAPTURE_PORT_DROPS);
		total = traffic_of(0, pod->workload_id, 0, REASON_CAPTURE_PORT_FROM_OUTSIDE,
				   ROUTE_DENY, IPPROTO_TCP);
		if (total)
			total->failed++;
		report_packet(&packet, EVENT_DROPPED, REASON_CAPTURE_PORT_FROM_OUTSIDE, 0,
			      pod->workload_id, 0);
		return TC_ACT_SHOT;
	}
	if ((packet.flags & (TCP_FLAGS_SYN | TCP_FLAGS_ACK)) == TCP_FLAGS_SYN)
		consume_nonce(skb, &packet, pod);
	return TC_ACT_UNSPEC;
}
