// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Telling a sender that it is refused: a RST, or for UDP an ICMP error, back out of the interface
 * that the packet came from. Without it a client would wait for its timeout. What cannot be
 * answered is dropped.
 */

#define ETHERNET_HEADER_BYTES 14
#define TCP_HEADER_BYTES 20

struct tcp_reply {
	__be16 source_port;
	__be16 destination_port;
	__be32 sequence;
	__be32 acknowledged;
	u8 offset; /* of the data, in 4 bytes, in the high half */
	u8 flags;
	__be16 window;
	__sum16 check;
	__be16 urgent;
};

struct pseudo_header {
	struct address source;
	struct address destination;
	__be32 length;
	__be32 protocol;
};

/*
 * bpf_csum_diff() fails only for sizes that are no multiple of 4 or above 512, which ours are not;
 * and no error can be told from a sum: BCC declares an int, and Linux before 6.13 returns 32 bits.
 */
inline_only u32 add_up(const void *bytes, u32 size, u32 sum)
{
	return (u32)bpf_csum_diff(0, 0, (__be32 *)bytes, size, sum);
}

inline_only __sum16 fold(u32 sum)
{
	u64 folded = sum;

	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	return (__sum16)~folded;
}

/* RFC 9293 3.10.7: a RST takes its sequence from an ACK, or acknowledges what it answers. */
inline_only bool make_reset(struct __sk_buff *skb, const struct packet *packet,
			    struct tcp_reply *reply)
{
	struct pseudo_header pseudo = {};
	__be32 numbers[2];
	u32 sum;

	if (load(skb, packet->offset + 4, numbers, sizeof(numbers)))
		return false;
	reply->source_port = packet->destination_port;
	reply->destination_port = packet->source_port;
	reply->offset = TCP_HEADER_BYTES / 4 << 4;
	if (packet->flags & TCP_FLAGS_ACK) {
		reply->sequence = numbers[1];
		reply->flags = TCP_FLAGS_RST;
	} else {
		reply->acknowledged = bpf_htonl(bpf_ntohl(numbers[0]) + 1);
		reply->flags = TCP_FLAGS_RST | TCP_FLAGS_ACK;
	}
	if (packet->family == FAMILY_V4) {
		/* An IPv4-mapped prefix would count: leave only the last word. */
		pseudo.source.words[3] = packet->destination.words[3];
		pseudo.destination.words[3] = packet->source.words[3];
	} else {
		pseudo.source = packet->destination;
		pseudo.destination = packet->source;
	}
	pseudo.length = bpf_htonl(TCP_HEADER_BYTES);
	pseudo.protocol = bpf_htonl(IPPROTO_TCP);
	sum = add_up(&pseudo, sizeof(pseudo), 0);
	reply->check = fold(add_up(reply, sizeof(*reply), sum));
	return true;
}

inline_only bool write_ipv4(struct __sk_buff *skb, const struct packet *packet, u8 protocol,
			    u32 bytes)
{
	__be32 header[IPV4_HEADER_BYTES / 4] = {};

	header[0] = bpf_htonl(0x45000000 | (IPV4_HEADER_BYTES + bytes));
	header[1] = bpf_htonl(0x4000); /* don't fragment */
	header[2] = bpf_htonl(64U << 24 | (u32)protocol << 16);
	header[3] = packet->destination.words[3];
	header[4] = packet->source.words[3];
	/* Bytes 10 and 11 of the header. */
	header[2] |= (__be32)fold(add_up(header, sizeof(header), 0)) << 16;
	return bpf_skb_store_bytes(skb, ETHERNET_HEADER_BYTES, header, sizeof(header), 0) == 0;
}

inline_only bool write_ipv6(struct __sk_buff *skb, const struct packet *packet, u8 protocol,
			    u32 bytes)
{
	__be32 header[2];

	header[0] = bpf_htonl(0x60000000);
	header[1] = bpf_htonl(bytes << 16 | (u32)protocol << 8 | 64);
	return bpf_skb_store_bytes(skb, ETHERNET_HEADER_BYTES, header, 8, 0) == 0 &&
	       bpf_skb_store_bytes(skb, ETHERNET_HEADER_BYTES + 8, (void *)&packet->destination, 16,
				   0) == 0 &&
	       bpf_skb_store_bytes(skb, ETHERNET_HEADER_BYTES + 24, (void *)&packet->source, 16,
				   0) == 0;
}

inline_only bool turn_round(struct __sk_buff *skb)
{
	u8 addresses[12];
	u8 swapped[12];

	if (bpf_skb_load_bytes(skb, 0, addresses, sizeof(addresses)))
		return false;
	__builtin_memcpy(swapped, addresses + 6, 6);
	__builtin_memcpy(swapped + 6, addresses, 6);
	return bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0) == 0;
}

/*
 * An answer to a packet that wanted to leave comes in by the same interface, where the guard must
 * know it. The mark says so: what comes over a link from another namespace has none.
 */
#define ANSWER_MARK 0x6d657361

inline_only int send_back(struct __sk_buff *skb, const struct packet *packet)
{
	if (!packet->outgoing)
		return bpf_redirect(skb->ifindex, 0);
	skb->mark = ANSWER_MARK;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

inline_only bool is_own_answer(struct __sk_buff *skb)
{
	if (skb->mark != ANSWER_MARK)
		return false;
	skb->mark = 0;
	return true;
}

/*
 * Answers a TCP packet with a RST in its own place. A RST is never answered. What leaves the pod
 * has been turned round, so that its answer goes back as that of a packet that has come.
 */
inline_only int reset(struct __sk_buff *skb, const struct packet *refused)
{
	struct packet answered = *refused;
	const struct packet *packet = &answered;
	u32 network = packet->family == FAMILY_V4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES;
	struct tcp_reply reply = {};
	bool written;

	if (answered.outgoing)
		turn_packet(&answered);
	if (packet->flags & TCP_FLAGS_RST || packet->fragment != FRAGMENT_NONE ||
	    packet->offset != network || !make_reset(skb, packet, &reply))
		return TC_ACT_SHOT;
	if (bpf_skb_change_tail(skb, ETHERNET_HEADER_BYTES + network + TCP_HEADER_BYTES, 0))
		return TC_ACT_SHOT;
	written = packet->family == FAMILY_V4
			  ? write_ipv4(skb, packet, IPPROTO_TCP, TCP_HEADER_BYTES)
			  : write_ipv6(skb, packet, IPPROTO_TCP, TCP_HEADER_BYTES);
	if (!written || !turn_round(skb) ||
	    bpf_skb_store_bytes(skb, ETHERNET_HEADER_BYTES + network, &reply, sizeof(reply), 0))
		return TC_ACT_SHOT;
	return send_back(skb, packet);
}

#define ICMP_HEADER_BYTES 8
#define QUOTED_BYTES 8 /* of the refused packet behind its IP header: its ports */
#define ICMP_PROHIBITED 13
#define ICMPV6_PROHIBITED 1
/* As many as Linux sends itself (icmp_msgs_per_sec), and only so many on each CPU. */
#define ERRORS_PER_SECOND 1000

struct icmp_error {
	u8 type;
	u8 code;
	__sum16 check;
	__be32 unused;
	__be32 quoted[(IPV6_HEADER_BYTES + QUOTED_BYTES) / 4];
};

struct error_budget {
	u64 second;
	u64 spent;
};

BPF_TABLE_PINNED("percpu_array", u32, struct error_budget, error_budgets, 1,
		 MESH_PROGRAM_DIR "/error_budgets");

inline_only bool may_send_error(void)
{
	u64 second = bpf_ktime_get_ns() / SECOND_NS;
	struct error_budget *budget;
	u32 zero = 0;

	budget = error_budgets.lookup(&zero);
	if (!budget)
		return false;
	if (budget->second != second) {
		budget->second = second;
		budget->spent = 0;
	}
	return budget->spent++ < ERRORS_PER_SECOND;
}

inline_only void seal_error_v4(struct icmp_error *error)
{
	error->type = ICMP_UNREACHABLE;
	error->code = ICMP_PROHIBITED;
	error->check = fold(add_up(error, ICMP_HEADER_BYTES + IPV4_HEADER_BYTES + QUOTED_BYTES, 0));
}

inline_only void seal_error_v6(const struct packet *packet, struct icmp_error *error)
{
	struct pseudo_header pseudo = {};
	u32 sum;

	error->type = ICMPV6_UNREACHABLE;
	error->code = ICMPV6_PROHIBITED;
	pseudo.source = packet->destination;
	pseudo.destination = packet->source;
	pseudo.length = bpf_htonl(sizeof(*error));
	pseudo.protocol = bpf_htonl(IPPROTO_ICMPV6);
	sum = add_up(&pseudo, sizeof(pseudo), 0);
	error->check = fold(add_up(error, sizeof(*error), sum));
}

inline_only bool write_error_v4(struct __sk_buff *skb, const struct packet *packet)
{
	const u32 quoted = IPV4_HEADER_BYTES + QUOTED_BYTES;
	const u32 headers = ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES;
	struct icmp_error error = {};

	if (load(skb, 0, error.quoted, quoted))
		return false;
	seal_error_v4(&error);
	return bpf_skb_change_tail(skb, headers + ICMP_HEADER_BYTES + quoted, 0) == 0 &&
	       write_ipv4(skb, packet, IPPROTO_ICMP, ICMP_HEADER_BYTES + quoted) &&
	       bpf_skb_store_bytes(skb, headers, &error, ICMP_HEADER_BYTES + quoted, 0) == 0;
}

inline_only bool write_error_v6(struct __sk_buff *skb, const struct packet *packet)
{
	const u32 headers = ETHERNET_HEADER_BYTES + IPV6_HEADER_BYTES;
	struct icmp_error error = {};

	if (load(skb, 0, error.quoted, sizeof(error.quoted)))
		return false;
	seal_error_v6(packet, &error);
	return bpf_skb_change_tail(skb, headers + sizeof(error), 0) == 0 &&
	       write_ipv6(skb, packet, IPPROTO_ICMPV6, sizeof(error)) &&
	       bpf_skb_store_bytes(skb, headers, &error, sizeof(error), 0) == 0;
}

/* Answers a UDP packet: "communication administratively prohibited" (RFC 1812, RFC 4443). */
inline_only int prohibit(struct __sk_buff *skb, const struct packet *refused)
{
	struct packet answered = *refused;
	const struct packet *packet = &answered;
	u32 network = packet->family == FAMILY_V4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES;
	bool written;

	if (answered.outgoing)
		turn_packet(&answered);
	if (packet->fragment != FRAGMENT_NONE || packet->offset != network ||
	    is_multicast(&packet->destination) || is_multicast(&packet->source) ||
	    !may_send_error())
		return TC_ACT_SHOT;
	written = packet->family == FAMILY_V4 ? write_error_v4(skb, packet)
					      : write_error_v6(skb, packet);
	if (!written || !turn_round(skb))
		return TC_ACT_SHOT;
	return send_back(skb, packet);
}
