// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What a packet says of itself: addresses, protocol, ports. For packet programs; every byte is
 * read relative to the network header, so a VLAN tag makes no difference.
 */

#define IPV4_HEADER_BYTES 20
#define IPV6_HEADER_BYTES 40
#define IPV6_MAX_EXTENSIONS 8
#define IPV4_MAX_OPTIONS 10
#define IPV4_LOOSE_SOURCE_ROUTE 131
#define IPV4_STRICT_SOURCE_ROUTE 137
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_PROVIDER_VLAN 0x88a8
#define EXTENSION_HOP_BY_HOP 0
#define EXTENSION_ROUTING 43
#define EXTENSION_FRAGMENT 44
#define EXTENSION_AUTHENTICATION 51
#define EXTENSION_DESTINATION 60

enum fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1,
	FRAGMENT_LATER = 2, /* has no transport header */
};

struct packet {
	struct address source;
	struct address destination;
	__be16 source_port; /* of an ICMP echo: its identifier, in both */
	__be16 destination_port;
	u32 offset;   /* of the transport header from the network header */
	u32 end;      /* of the IP packet; what follows is padding, which the receiver cuts off */
	u32 datagram; /* the number that its fragments share; 0: it has none */
	u8 hops;      /* TTL or hop limit */
	u8 family;    /* 4 or 6; 0: not IP */
	u8 protocol;  /* the transport, behind every extension header */
	u8 fragment;  /* enum fragment */
	bool last;    /* of the fragments */
	u8 header_bytes; /* TCP */
	u8 flags;	 /* TCP */
	u8 type;	 /* ICMP */
	bool malformed;	 /* it says one thing and is another, or cannot be followed */
	bool outgoing; /* it leaves the pod: `source` is where it goes, as if it had come from there
			*/
};

inline_only int load(struct __sk_buff *skb, u32 offset, void *to, u32 length)
{
	return bpf_skb_load_bytes_relative(skb, offset, to, length, BPF_HDR_START_NET);
}

/* Only what is within the IP packet is what the receiver will see. */
inline_only int load_within(struct __sk_buff *skb, const struct packet *packet, u32 offset,
			    void *to, u32 length)
{
	return offset + length > packet->end || load(skb, offset, to, length);
}

/* 0 is the length of a packet beyond 64 KB, which only the kernel's own segmentation makes. */
inline_only u32 end_of(struct __sk_buff *skb, u32 said)
{
	return !said && skb->gso_segs ? skb->len : said;
}

/* Options that send the packet elsewhere than its address says, or cannot be followed. */
inline_only bool has_bad_options(struct __sk_buff *skb, u32 end)
{
	u32 offset = IPV4_HEADER_BYTES;
	u8 option[2];
	u32 i;

#pragma nounroll
	for (i = 0; i < IPV4_MAX_OPTIONS; i++) {
		if (offset >= end)
			return false;
		if (load(skb, offset, option, sizeof(option)))
			return true;
		if (option[0] == 0)
			return false;
		if (option[0] == 1) {
			offset++;
			continue;
		}
		if (option[0] == IPV4_LOOSE_SOURCE_ROUTE || option[0] == IPV4_STRICT_SOURCE_ROUTE ||
		    option[1] < 2)
			return true;
		offset += option[1];
	}
	return offset < end;
}

inline_only void parse_ipv4(struct __sk_buff *skb, struct packet *packet)
{
	__be32 header[IPV4_HEADER_BYTES / 4];
	u32 fragment;
	u32 first;

	packet->family = FAMILY_V4;
	packet->malformed = true;
	if (load(skb, 0, header, sizeof(header)))
		return;
	first = bpf_ntohl(header[0]);
	packet->protocol = bpf_ntohl(header[2]) >> 16 & 0xff;
	packet->hops = bpf_ntohl(header[2]) >> 24;
	packet->offset = (first >> 24 & 0xf) * 4;
	packet->end = end_of(skb, first & 0xffff);
	address_from_v4(&packet->source, header[3]);
	address_from_v4(&packet->destination, header[4]);
	packet->datagram = header[1] & bpf_htonl(0xffff0000);
	fragment = bpf_ntohl(header[1]) & 0x3fff; /* more fragments, and the place in 8 bytes */
	if (fragment & 0x1fff)
		packet->fragment = FRAGMENT_LATER;
	else if (fragment)
		packet->fragment = FRAGMENT_FIRST;
	packet->last = !(fragment & 0x2000);
	packet->malformed = first >> 28 != 4 || packet->offset < IPV4_HEADER_BYTES ||
			    packet->offset > packet->end;
	if (packet->offset > IPV4_HEADER_BYTES && has_bad_options(skb, packet->offset))
		packet->malformed = true;
}

inline_only bool is_extension(u8 next)
{
	return next == EXTENSION_HOP_BY_HOP || next == EXTENSION_ROUTING ||
	       next == EXTENSION_FRAGMENT || next == EXTENSION_DESTINATION ||
	       next == EXTENSION_AUTHENTICATION;
}

/*
 * An IPv4 address within an IPv6 one is an address of a socket; on the wire it is somebody who
 * wants to be taken for another (draft-itojun-v6ops-v4mapped-harmful).
 */
inline_only bool is_honest_ipv6(const struct packet *packet, u8 first)
{
	return first >> 4 == 6 && !address_is_v4(&packet->source) &&
	       !address_is_v4(&packet->destination);
}

inline_only void parse_ipv6(struct __sk_buff *skb, struct packet *packet)
{
	u32 offset = IPV6_HEADER_BYTES;
	u8 extension[8];
	u8 start[8];
	u8 next;
	u32 i;

	packet->family = FAMILY_V6;
	packet->malformed = true;
	if (load(skb, 0, start, sizeof(start)) || load(skb, 8, &packet->source, 16) ||
	    load(skb, 24, &packet->destination, 16) || !is_honest_ipv6(packet, start[0]))
		return;
	next = start[6];
	packet->hops = start[7];
	packet->end = (u32)start[4] << 8 | start[5];
	packet->end = end_of(skb, packet->end ? packet->end + IPV6_HEADER_BYTES : 0);
#pragma nounroll
	for (i = 0; i < IPV6_MAX_EXTENSIONS; i++) {
		if (!is_extension(next))
			break;
		if (load_within(skb, packet, offset, extension, sizeof(extension)))
			return;
		if (next == EXTENSION_FRAGMENT) {
			/* Fragments of fragments: nobody makes them who has nothing to hide. */
			if (packet->fragment != FRAGMENT_NONE)
				return;
			offset += 8;
			packet->last = !(extension[3] & 1);
			__builtin_memcpy(&packet->datagram, extension + 4, 4);
			if (extension[2] || extension[3] & 0xf8) {
				next = extension[0];
				packet->fragment = FRAGMENT_LATER;
				break;
			}
			packet->fragment = FRAGMENT_FIRST;
		} else if (next == EXTENSION_AUTHENTICATION) {
			offset += (extension[1] + 2) * 4;
		} else {
			/* Segments left: it will go elsewhere than its address says. */
			if (next == EXTENSION_ROUTING && extension[3])
				return;
			offset += (extension[1] + 1) * 8;
		}
		next = extension[0];
	}
	packet->protocol = next;
	packet->offset = offset;
	/* A later fragment's chain goes on in a header that it does not have. */
	packet->malformed = packet->fragment != FRAGMENT_LATER && is_extension(next);
}

inline_only bool has_ports(u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_UDPLITE || protocol == IPPROTO_DCCP;
}

inline_only bool is_echo(const struct packet *packet)
{
	if (packet->protocol == IPPROTO_ICMP)
		return packet->type == ICMP_ECHO_REQUEST || packet->type == ICMP_ECHO_REPLY;
	return packet->protocol == IPPROTO_ICMPV6 &&
	       (packet->type == ICMPV6_ECHO_REQUEST || packet->type == ICMPV6_ECHO_REPLY);
}

/* A header that ends in a later fragment (RFC 1858) says something else once it is whole. */
inline_only void parse_tcp(struct __sk_buff *skb, struct packet *packet)
{
	u8 control[2] = {};

	if (load_within(skb, packet, packet->offset + 12, control, sizeof(control))) {
		packet->malformed = true;
		return;
	}
	packet->header_bytes = (control[0] >> 4) * 4;
	packet->flags = control[1];
	packet->malformed =
		packet->header_bytes < 20 || packet->offset + packet->header_bytes > packet->end;
}

inline_only void parse_ports(struct __sk_buff *skb, struct packet *packet)
{
	__be16 words[4] = {};

	if (has_ports(packet->protocol)) {
		packet->malformed = load_within(skb, packet, packet->offset, words, 4) != 0;
		packet->source_port = words[0];
		packet->destination_port = words[1];
	}
	if (packet->protocol == IPPROTO_TCP && !packet->malformed)
		parse_tcp(skb, packet);
	if (packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6) {
		packet->malformed = load_within(skb, packet, packet->offset, words, 8) != 0;
		packet->type = (u8)(bpf_ntohs(words[0]) >> 8);
		if (is_echo(packet)) {
			packet->source_port = words[2];
			packet->destination_port = words[2];
		}
	}
}

/* False where the packet is not IP. */
inline_only bool parse_packet(struct __sk_buff *skb, struct packet *packet)
{
	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4))
		parse_ipv4(skb, packet);
	else if (skb->protocol == bpf_htons(ETHERTYPE_IPV6))
		parse_ipv6(skb, packet);
	else
		return false;
	if (!packet->malformed && packet->fragment != FRAGMENT_LATER)
		parse_ports(skb, packet);
	return true;
}

/* VLAN tags that the kernel has not taken off: it will, after us, and deliver what is inside. */
inline_only bool is_tagged(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETHERTYPE_VLAN) ||
	       skb->protocol == bpf_htons(ETHERTYPE_PROVIDER_VLAN);
}

#define ETHERTYPE_OFFSET 12

/*
 * Is a packet that leaves what the kernel takes it for? Whoever sends by AF_PACKET says himself
 * what it is, and the receiver believes the frame. On a link without Ethernet headers (tun) the
 * frame begins with the packet.
 */
inline_only bool is_what_it_says(struct __sk_buff *skb)
{
	u32 frame[5], packet[5];
	__be16 type;

	if (bpf_skb_load_bytes(skb, ETHERTYPE_OFFSET, &type, sizeof(type)))
		return false;
	if (type == (__be16)skb->protocol)
		return true;
	if (bpf_skb_load_bytes(skb, 0, frame, sizeof(frame)) ||
	    load(skb, 0, packet, sizeof(packet)))
		return false;
	return skb->protocol != bpf_htons(ETHERTYPE_ARP) && frame[0] == packet[0] &&
	       frame[1] == packet[1] && frame[2] == packet[2] && frame[3] == packet[3] &&
	       frame[4] == packet[4];
}

/* fe80::/10 (RFC 4291) */
inline_only bool is_link_local(const struct address *address)
{
	return (address->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* 224.0.0.0/4 with the broadcast address, and ff00::/8 */
inline_only bool is_multicast(const struct address *address)
{
	if (address_is_v4(address))
		return (address->words[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
		       address->words[3] == 0xffffffff;
	return (address->words[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

/* Source for destination and the other way round. */
inline_only void turn_packet(struct packet *packet)
{
	struct address address = packet->source;
	__be16 port = packet->source_port;

	packet->source = packet->destination;
	packet->destination = address;
	packet->source_port = packet->destination_port;
	packet->destination_port = port;
}

/* The tuple for a look-up of the socket that the packet is for; returns its size. */
inline_only u32 tuple_of(const struct packet *packet, struct bpf_sock_tuple *tuple)
{
	__builtin_memset(tuple, 0, sizeof(*tuple));
	if (packet->family == FAMILY_V4) {
		tuple->ipv4.saddr = packet->source.words[3];
		tuple->ipv4.daddr = packet->destination.words[3];
		tuple->ipv4.sport = packet->source_port;
		tuple->ipv4.dport = packet->destination_port;
		return sizeof(tuple->ipv4);
	}
	__builtin_memcpy(tuple->ipv6.saddr, packet->source.words, 16);
	__builtin_memcpy(tuple->ipv6.daddr, packet->destination.words, 16);
	tuple->ipv6.sport = packet->source_port;
	tuple->ipv6.dport = packet->destination_port;
	return sizeof(tuple->ipv6);
}
