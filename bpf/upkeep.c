// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What passes without a policy of its own: ICMP errors about what passed, and what a link needs.
 */

/* The packet in an ICMP error, as if it had come from the other side. False: it cannot be read. */
inline_only bool parse_inner(struct __sk_buff *skb, const struct packet *error,
			     struct packet *inner)
{
	u32 at = error->offset + 8;
	u8 header[IPV6_HEADER_BYTES];
	__be16 words[4] = {};

	inner->family = error->family;
	inner->end = error->end;
	if (error->family == FAMILY_V4) {
		if (load_within(skb, error, at, header, IPV4_HEADER_BYTES))
			return false;
		inner->protocol = header[9];
		inner->offset = at + (header[0] & 0xf) * 4;
		__builtin_memcpy(&inner->source.words[3], header + 16, 4);
		__builtin_memcpy(&inner->destination.words[3], header + 12, 4);
		inner->source.words[2] = bpf_htonl(0xffff);
		inner->destination.words[2] = bpf_htonl(0xffff);
	} else {
		if (load_within(skb, error, at, header, IPV6_HEADER_BYTES))
			return false;
		inner->protocol = header[6];
		inner->offset = at + IPV6_HEADER_BYTES;
		__builtin_memcpy(&inner->source, header + 24, 16);
		__builtin_memcpy(&inner->destination, header + 8, 16);
	}
	if (has_ports(inner->protocol)) {
		if (load_within(skb, error, inner->offset, words, 4))
			return false;
		inner->source_port = words[1];
		inner->destination_port = words[0];
	} else if (inner->protocol == IPPROTO_ICMP || inner->protocol == IPPROTO_ICMPV6) {
		if (load_within(skb, error, inner->offset, words, 8))
			return false;
		inner->source_port = words[2];
		inner->destination_port = words[2];
	}
	return true;
}

/*
 * Is there a socket or a flow that the packet in an ICMP error belongs to? An error that leaves is
 * about a packet that came, and goes to whom that came from.
 */
inline_only bool error_has_owner(struct __sk_buff *skb, const struct packet *error,
				 const struct guarded_pod *pod)
{
	struct bpf_sock_tuple tuple;
	struct packet inner = {};
	struct peering_key key;
	struct bpf_sock *sk;
	bool found;
	u32 size;

	if (!parse_inner(skb, error, &inner))
		return false;
	if (error->outgoing) {
		turn_packet(&inner);
		if (!address_equal(&inner.source, &error->source))
			return false;
	}
	if (inner.protocol == IPPROTO_TCP) {
		size = tuple_of(&inner, &tuple);
		sk = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (!sk)
			return false;
		found = sk->state != BPF_TCP_LISTEN;
		bpf_sk_release(sk);
		return found;
	}
	fill_peering_key(&key, &inner, pod);
	return peerings.lookup(&key) != NULL;
}

inline_only bool is_icmp_error(const struct packet *packet)
{
	if (packet->protocol == IPPROTO_ICMP)
		return packet->type == ICMP_UNREACHABLE || packet->type == ICMP_TIME_EXCEEDED ||
		       packet->type == ICMP_PARAMETER_PROBLEM;
	return packet->protocol == IPPROTO_ICMPV6 && packet->type >= ICMPV6_UNREACHABLE &&
	       packet->type <= ICMPV6_PARAMETER_PROBLEM;
}

#define DHCP_CLIENT_PORT 68
#define DHCPV6_CLIENT_PORT 546
#define ND_HOPS 255
#define ND_UNICAST_BYTES 32 /* a solicitation or advertisement with one link address */

/* RFC 4861 7.1: from the link itself; to one neighbour no more than the kernel says. */
inline_only bool is_neighbour_discovery(const struct packet *packet, const struct address *to)
{
	return packet->type >= ICMPV6_ROUTER_SOLICITATION && packet->type <= ICMPV6_REDIRECT &&
	       packet->hops == ND_HOPS &&
	       (!packet->outgoing || is_multicast(to) || is_link_local(to) ||
		packet->end - packet->offset <= ND_UNICAST_BYTES);
}

/* A client asks everybody on the link. What a server answers one address alone is judged. */
inline_only bool is_dhcp(const struct packet *packet, const struct address *to)
{
	/* An outgoing packet is turned round: in both directions the server is the source. */
	if (packet->source_port == bpf_htons(67) &&
	    packet->destination_port == bpf_htons(DHCP_CLIENT_PORT))
		return is_multicast(to);
	return packet->source_port == bpf_htons(547) &&
	       packet->destination_port == bpf_htons(DHCPV6_CLIENT_PORT) &&
	       (is_multicast(to) || is_link_local(&packet->source));
}

/* What a link needs before anybody can be asked: addresses, neighbours, group memberships. */
inline_only bool is_link_upkeep(const struct packet *packet)
{
	const struct address *to = packet->outgoing ? &packet->source : &packet->destination;

	if (packet->protocol == IPPROTO_IGMP)
		return is_multicast(to);
	if (packet->protocol == IPPROTO_ICMPV6) {
		if ((packet->type >= ICMPV6_MLD_QUERY && packet->type <= ICMPV6_MLD_DONE) ||
		    packet->type == ICMPV6_MLD_REPORT2)
			return is_multicast(to);
		return is_neighbour_discovery(packet, to);
	}
	return packet->protocol == IPPROTO_UDP && is_dhcp(packet, to);
}
