// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The short way for what nearly every packet is: TCP without SYN, of a connection that was judged
 * under the policy in force, on a link with Ethernet headers, without options, extension headers or
 * fragments. It is read in place and lets pass what the long way (packet.c, inspect.c, outgoing.c,
 * seal.c) would let pass, at half the cost; whatever else there is goes the long way, which
 * decides.
 */

#define SOCKET_STREAM 1
#define LINK_BYTES 14
#define PLAIN_IPV4_BYTES (LINK_BYTES + 20 + 20)
#define PLAIN_IPV6_BYTES (LINK_BYTES + 40 + 20)

/*
 * Fills in the addresses and ports; returns the tuple's size, 0 where the packet is not plain. A
 * link without Ethernet headers has no place for its type: its bytes could be made to look so.
 */
inline_only u32 read_plain(struct __sk_buff *skb, struct bpf_sock_tuple *tuple)
{
	u8 *start = (u8 *)(long)skb->data;
	u8 *end = (u8 *)(long)skb->data_end;
	__be16 type;

	if (!(skb->tc_classid & MESH_LINK_ETHERNET) || start + PLAIN_IPV4_BYTES > end)
		return 0;
	type = *(__be16 *)(start + 12);
	if (type != (__be16)skb->protocol)
		return 0;
	if (type == bpf_htons(ETHERTYPE_IPV4)) {
		if (start[14] != 0x45 || start[23] != IPPROTO_TCP || start[47] & TCP_FLAGS_SYN ||
		    *(__be16 *)(start + 20) & bpf_htons(0x3fff))
			return 0;
		tuple->ipv4.saddr = *(__be32 *)(start + 26);
		tuple->ipv4.daddr = *(__be32 *)(start + 30);
		tuple->ipv4.sport = *(__be16 *)(start + 34);
		tuple->ipv4.dport = *(__be16 *)(start + 36);
		return sizeof(tuple->ipv4);
	}
	if (type != bpf_htons(ETHERTYPE_IPV6) || start + PLAIN_IPV6_BYTES > end)
		return 0;
	/* One that begins with zeros may be an IPv4 address within, which parse_ipv6() refuses. */
	if (start[14] >> 4 != 6 || start[20] != IPPROTO_TCP || start[67] & TCP_FLAGS_SYN ||
	    !*(__be32 *)(start + 22) || !*(__be32 *)(start + 38))
		return 0;
	__builtin_memcpy(tuple->ipv6.saddr, start + 22, 16);
	__builtin_memcpy(tuple->ipv6.daddr, start + 38, 16);
	tuple->ipv6.sport = *(__be16 *)(start + 54);
	tuple->ipv6.dport = *(__be16 *)(start + 56);
	return sizeof(tuple->ipv6);
}

/* Under the policy in force. */
inline_only bool is_judged(struct bpf_sock *sk)
{
	struct judged *judged = judged_sockets.sk_storage_get(sk, 0, 0);

	return judged && is_in_force(judged);
}

/* What enters for the socket of a judged connection. Nobody else's has the capture ports. */
inline_only bool enters_plainly(struct __sk_buff *skb)
{
	struct bpf_sock_tuple tuple;
	struct bpf_sock *full;
	struct bpf_sock *sk;
	bool judged = false;
	u32 size;

	size = read_plain(skb, &tuple);
	if (!size)
		return false;
	if (size == sizeof(tuple.ipv4))
		sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	full = bpf_sk_fullsock(sk);
	if (full && full->state != BPF_TCP_LISTEN)
		judged = is_judged(full);
	bpf_sk_release(sk);
	return judged;
}

/* The packet says what its socket says: nobody has rewritten it on its way here. */
inline_only bool is_of_socket(const struct bpf_sock_tuple *tuple, u32 size, struct bpf_sock *sk)
{
	if (size == sizeof(tuple->ipv4))
		return tuple->ipv4.saddr == sk->src_ip4 && tuple->ipv4.daddr == sk->dst_ip4 &&
		       tuple->ipv4.sport == bpf_htons((u16)sk->src_port) &&
		       tuple->ipv4.dport == (__be16)sk->dst_port;
	return sk->family == MESH_AF_INET6 && tuple->ipv6.saddr[0] == sk->src_ip6[0] &&
	       tuple->ipv6.saddr[1] == sk->src_ip6[1] && tuple->ipv6.saddr[2] == sk->src_ip6[2] &&
	       tuple->ipv6.saddr[3] == sk->src_ip6[3] && tuple->ipv6.daddr[0] == sk->dst_ip6[0] &&
	       tuple->ipv6.daddr[1] == sk->dst_ip6[1] && tuple->ipv6.daddr[2] == sk->dst_ip6[2] &&
	       tuple->ipv6.daddr[3] == sk->dst_ip6[3] &&
	       tuple->ipv6.sport == bpf_htons((u16)sk->src_port) &&
	       tuple->ipv6.dport == (__be16)sk->dst_port;
}

/* What the socket of a judged connection sends. No look-up: the packet still has its socket. */
inline_only bool leaves_plainly(struct __sk_buff *skb)
{
	struct bpf_sock_tuple tuple;
	struct bpf_sock *sk = skb->sk;
	u32 size;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	if (!sk || sk->type != SOCKET_STREAM || sk->protocol != IPPROTO_TCP ||
	    sk->state == BPF_TCP_LISTEN || !is_judged(sk))
		return false;
	size = read_plain(skb, &tuple);
	return size && is_of_socket(&tuple, size, sk);
}

/* What has the stamp, from an address of the pod that nobody else claims. */
inline_only bool is_plainly_sealed(struct __sk_buff *skb, u32 slot)
{
	struct pod_address_key key = {.slot = slot, .ifindex = skb->ifindex};
	struct bpf_sock_tuple tuple;
	u32 *owner;
	u32 claimed;
	u32 size;

	if (skb->tc_index != (u16)slot)
		return false;
	size = read_plain(skb, &tuple);
	if (!size)
		return false;
	if (size == sizeof(tuple.ipv4))
		address_from_v4(&key.address, tuple.ipv4.saddr);
	else
		__builtin_memcpy(key.address.words, tuple.ipv6.saddr, 16);
	owner = pod_addresses.lookup(&key);
	if (!owner)
		return false;
	claimed = claimed_by(&key.address);
	return !claimed || claimed == *owner;
}
