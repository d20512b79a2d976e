// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * seal: clsact ingress of the host's end of the pod's link. No stamp, no passage: the packet has
 * gone round the guard (AF_XDP, PACKET_QDISC_BYPASS), or the pod has removed it. And nobody uses
 * an address that is not the pod's: not as the sender of a packet, nor in ARP, nor in neighbour
 * discovery; and no pod is a router.
 */

struct arp_ipv4 {
	__be16 link;
	__be16 protocol;
	u8 link_bytes;
	u8 protocol_bytes;
	__be16 operation;
	u8 sender_link[6];
	u8 sender[4]; /* 0: a probe, RFC 5227 */
};

#define ARP_LINK_ETHERNET 1
#define ND_TARGET 8
#define ICMPV6_ROUTER_ADVERTISEMENT 134
#define ICMPV6_NEIGHBOUR_SOLICITATION 135
#define ICMPV6_NEIGHBOUR_ADVERTISEMENT 136

inline_only bool is_own_address(struct __sk_buff *skb, u32 slot, const struct address *address)
{
	struct pod_address_key key = {.slot = slot, .ifindex = skb->ifindex, .address = *address};

	return pod_addresses.lookup(&key) != NULL;
}

/* A link-local address may have come a moment ago, before the agent has heard of it. */
inline_only bool may_claim(struct __sk_buff *skb, u32 slot, const struct guarded_pod *pod,
			   const struct address *address)
{
	u32 claimed = claimed_by(address);

	return is_own_address(skb, slot, address) && (!claimed || claimed == pod->workload_id);
}

inline_only u32 seal_arp(struct __sk_buff *skb, u32 slot, const struct guarded_pod *pod,
			 struct packet *packet)
{
	struct arp_ipv4 arp;
	__be32 sender;

	packet->protocol = IPPROTO_ICMP; /* has no ports */
	if (load(skb, 0, &arp, sizeof(arp)) || arp.link != bpf_htons(ARP_LINK_ETHERNET) ||
	    arp.protocol != bpf_htons(ETHERTYPE_IPV4) || arp.link_bytes != 6 ||
	    arp.protocol_bytes != 4)
		return REASON_PACKET_MALFORMED;
	__builtin_memcpy(&sender, arp.sender, sizeof(sender));
	if (!sender)
		return REASON_NONE;
	address_from_v4(&packet->source, sender);
	return may_claim(skb, slot, pod, &packet->source) ? REASON_NONE : REASON_SOURCE_FORGED;
}

/* Who says where an address is, must have it. A router's word is nobody's here to give. */
inline_only u32 seal_discovery(struct __sk_buff *skb, u32 slot, const struct guarded_pod *pod,
			       const struct packet *packet)
{
	struct address target;

	if (packet->type == ICMPV6_ROUTER_ADVERTISEMENT || packet->type == ICMPV6_REDIRECT)
		return REASON_SOURCE_FORGED;
	if (packet->type != ICMPV6_NEIGHBOUR_ADVERTISEMENT &&
	    packet->type != ICMPV6_NEIGHBOUR_SOLICITATION)
		return REASON_NONE;
	if (load_within(skb, packet, packet->offset + ND_TARGET, &target, sizeof(target)))
		return REASON_PACKET_MALFORMED;
	/* With no source it asks whether it may have the target: duplicate address detection. */
	if (packet->type == ICMPV6_NEIGHBOUR_ADVERTISEMENT)
		return may_claim(skb, slot, pod, &target) ? REASON_NONE : REASON_SOURCE_FORGED;
	if (!address_is_zero(&packet->source) || is_link_local(&target))
		return REASON_NONE;
	return may_claim(skb, slot, pod, &target) ? REASON_NONE : REASON_SOURCE_FORGED;
}

inline_only u32 seal_packet(struct __sk_buff *skb, u32 slot, const struct guarded_pod *pod,
			    struct packet *packet)
{
	struct address none = {};

	if (skb->protocol == bpf_htons(ETHERTYPE_ARP))
		return seal_arp(skb, slot, pod, packet);
	if (!parse_packet(skb, packet) || packet->malformed)
		return REASON_PACKET_MALFORMED;
	if (skb->tc_index != (u16)slot)
		return REASON_NOT_STAMPED;
	if (packet->family == FAMILY_V4)
		address_from_v4(&none, 0); /* DHCP */
	if (!address_equal(&packet->source, &none) && !may_claim(skb, slot, pod, &packet->source))
		return REASON_SOURCE_FORGED;
	if (packet->protocol == IPPROTO_ICMPV6 && packet->fragment != FRAGMENT_LATER)
		return seal_discovery(skb, slot, pod, packet);
	return REASON_NONE;
}

int mesh_seal(struct __sk_buff *skb)
{
	u32 slot = skb->tc_classid & MESH_SLOT_MASK;
	struct judged unknown = {};
	struct packet packet;
	struct guarded_pod *pod;
	u32 reason;

	if (is_plainly_sealed(skb, slot))
		return TC_ACT_UNSPEC;
	__builtin_memset(&packet, 0, sizeof(packet));
	pod = guarded_pods.lookup(&slot);
	if (!pod)
		return TC_ACT_UNSPEC;
	reason = seal_packet(skb, slot, pod, &packet);
	if (reason == REASON_NONE)
		return TC_ACT_UNSPEC;
	count_statistic(STATISTIC_SEALED);
	packet.outgoing = true;
	turn_packet(&packet);
	return refuse_packet(skb, &packet, pod, &unknown, (u16)reason);
}
