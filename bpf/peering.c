// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Peerings: the memory of proven handshakes that have no socket yet, and of flows of protocols
 * without sockets. A pod has a quota of them, so that none can fill the map against another.
 */

#define SECOND_NS 1000000000ULL
/* A peering that was not seen for so long is none: Linux keeps an answered UDP flow 120 s. */
#define PEERING_AGE_NS (120 * SECOND_NS)

/* The workload that an address claims to be. */
inline_only u32 claimed_by(const struct address *address)
{
	struct workload *workload = workloads.lookup((struct address *)address);

	return workload ? workload->workload_id : 0;
}

inline_only void fill_peering_key(struct peering_key *key, const struct packet *packet,
				  const struct guarded_pod *pod)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->netns_cookie = pod->netns_cookie;
	key->remote = packet->source;
	key->local = packet->destination;
	key->remote_port = packet->source_port;
	key->local_port = packet->destination_port;
	key->protocol = packet->protocol;
}

/* The peering of a packet that has come or goes; NULL where none is remembered. */
inline_only struct peering *peering_of(struct peering_key *key)
{
	struct peering *peering = peerings.lookup(key);
	u64 now = bpf_ktime_get_ns();

	if (!peering || now - peering->seen_ns > PEERING_AGE_NS)
		return NULL;
	/* Written once a second, so that the CPUs of one flow do not fight for the line. */
	if (now - peering->seen_ns > SECOND_NS)
		peering->seen_ns = now;
	return peering;
}

inline_only void remember_peering(struct peering_key *key, const struct judged *judged)
{
	struct peering peering = {.judged = *judged, .seen_ns = bpf_ktime_get_ns()};
	struct peering *have = peerings.lookup(key);
	struct nonce_quota *quota;
	struct nonce_quota none = {};
	u64 *aged;

	if (have) {
		have->judged = *judged;
		have->seen_ns = peering.seen_ns;
		return;
	}
	quota = peering_quotas.lookup_or_try_init(&key->netns_cookie, &none);
	aged = peerings_aged.lookup(&key->netns_cookie);
	if (!quota || is_used_up(quota, aged ? *aged : 0, MESH_PEERING_QUOTA) ||
	    peerings.insert(key, &peering)) {
		count_statistic(STATISTIC_PEERINGS_REFUSED);
		return;
	}
	__sync_fetch_and_add(&quota->made, 1);
}

inline_only void forget_peering(struct peering_key *key)
{
	struct nonce_quota *quota;

	if (peerings.delete(key))
		return;
	quota = peering_quotas.lookup(&key->netns_cookie);
	if (quota)
		__sync_fetch_and_add(&quota->consumed, 1);
}

/* What the fragments of one datagram share, in the place of the ports. */
inline_only void fill_fragment_key(struct peering_key *key, const struct packet *packet)
{
	key->remote_port = (__be16)packet->datagram;
	key->local_port = (__be16)(packet->datagram >> 16);
	key->protocol = EXTENSION_FRAGMENT;
	key->pad[0] = packet->family == FAMILY_V4 ? packet->protocol : 0;
}

/* The handshake has a socket now: what is known of the other end moves there. */
inline_only void settle_peering(struct peering_key *key, struct bpf_sock *sk)
{
	struct peering *peering = peerings.lookup(key);
	struct judged *judged;

	if (!peering)
		return;
	judged = judged_sockets.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!judged) {
		count_statistic(STATISTIC_STATE_LOST);
		return;
	}
	*judged = peering->judged;
	forget_peering(key);
}
