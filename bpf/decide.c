// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * decide(): the one verdict function.
 *
 *   subject --subjects--> its policy set for the direction      peer --subjects--> its class
 *   rules that match = class_masks[set, class] & cidr_masks[set, address]
 *                                              & port_masks[set, protocol, port]
 *   a STRICT or DENY rule refuses; else a NETWORK rule is needed where a NetworkPolicy isolates,
 *   and for TCP an ALLOW rule where an ALLOW AuthorizationPolicy selects
 *
 * At most eight look-ups: the generation, two subjects, the set, two class masks, a CIDR, a port;
 * three where no policy selects the pod. What is missing is a refusal. The lowest matching bit is
 * the rule that decides. mesh/decide.py says the same from the specifications.
 */

/* The lowest bit of a word that is not zero; BPF has no instruction for it. */
inline_only u32 lowest_bit(u64 word)
{
	u64 bit = word & -word;

	return (u32)((bit & 0xaaaaaaaaaaaaaaaaULL) != 0) |
	       (u32)((bit & 0xccccccccccccccccULL) != 0) << 1 |
	       (u32)((bit & 0xf0f0f0f0f0f0f0f0ULL) != 0) << 2 |
	       (u32)((bit & 0xff00ff00ff00ff00ULL) != 0) << 3 |
	       (u32)((bit & 0xffff0000ffff0000ULL) != 0) << 4 |
	       (u32)((bit & 0xffffffff00000000ULL) != 0) << 5;
}

inline_only struct subject *subject_of(u32 workload_id, u32 generation)
{
	struct subject_key key = {.workload_id = workload_id, .buffer = generation & 1};

	return subjects.lookup(&key);
}

/*
 * The first matching rule of each kind (enum rule_kind). Without a branch: the verifier of Linux
 * 6.1 would follow each of them through all that comes after, beyond its limit.
 */
#define RULE_KINDS 8

inline_only void clear_hits(u32 hits[RULE_KINDS])
{
	u32 i;

#pragma unroll
	for (i = 0; i < RULE_KINDS; i++)
		hits[i] = POLICY_NO_RULE;
}

/* Words are noted from the last to the first, so that the first stays. */
inline_only void note_hit(u32 hits[RULE_KINDS], u8 kind, u32 place, u64 word)
{
	u32 hit = -(u32)((word | -word) >> 63); /* all ones where a rule matches */
	u32 *first = &hits[kind & (RULE_KINDS - 1)];

	*first = (*first & ~hit) | ((place + lowest_bit(word)) & hit);
}

/* False where a row is missing that every set has. */
inline_only bool match_rules(const struct verdict_query *query, const struct policy_set *set,
			     const struct verdict *verdict, u32 hits[RULE_KINDS])
{
	struct class_mask_key class_key = {.set_id = verdict->set_id,
					   .peer_class = verdict->peer_class};
	struct cidr_mask_key cidr_key = {
		.prefix_bits = 32 + 128, .set_id = verdict->set_id, .address = query->address};
	struct port_mask_key port_key = {.prefix_bits = 32 + 8 + 8 + 16,
					 .set_id = verdict->set_id,
					 .protocol = query->protocol,
					 .port = query->port};
	struct class_mask *classes = class_masks.lookup(&class_key);
	struct rule_mask *peers;
	struct rule_mask *cidrs;
	struct rule_mask *ports;
	u32 i;

	if (!classes && class_key.peer_class) {
		class_key.peer_class = 0;
		classes = class_masks.lookup(&class_key);
	}
	cidrs = cidr_masks.lookup(&cidr_key);
	ports = port_masks.lookup(&port_key);
	if (!classes || !cidrs || !ports)
		return false;
	peers = query->flags & QUERY_ATTESTED ? &classes->attested : &classes->claimed;
#pragma unroll
	for (i = POLICY_WORDS; i > 0; i--)
		note_hit(hits, set->kinds[i - 1], (i - 1) * 64,
			 peers->words[i - 1] & cidrs->words[i - 1] & ports->words[i - 1]);
	return true;
}

inline_only void conclude(struct verdict *verdict, const struct policy_set *set,
			  const u32 hits[RULE_KINDS], bool tcp)
{
	u32 reason = REASON_NONE;
	u32 rule = POLICY_NO_RULE;

	if (hits[RULE_DRY_DENY] != POLICY_NO_RULE ||
	    (tcp && set->flags & SET_DRY_ALLOW_NEEDED && hits[RULE_DRY_ALLOW] == POLICY_NO_RULE))
		verdict->flags |= VERDICT_DRY_DENY;
	verdict->dry_rule = hits[RULE_DRY_DENY];
	if (hits[RULE_STRICT] != POLICY_NO_RULE) {
		reason = REASON_NOT_ATTESTED;
		rule = hits[RULE_STRICT];
	} else if (hits[RULE_DENY] != POLICY_NO_RULE) {
		reason = REASON_POLICY_DENY;
		rule = hits[RULE_DENY];
	} else if (set->flags & SET_ISOLATED && hits[RULE_NETWORK] == POLICY_NO_RULE) {
		reason = REASON_NETWORK_POLICY;
	} else if (tcp && set->flags & SET_ALLOW_NEEDED && hits[RULE_ALLOW] == POLICY_NO_RULE) {
		reason = REASON_NO_ALLOW_RULE;
	} else {
		rule = hits[RULE_ALLOW] != POLICY_NO_RULE ? hits[RULE_ALLOW] : hits[RULE_NETWORK];
	}
	/* From memory (`pad` is zero), a number like any other: one state for the verifier. */
	verdict->reason = reason | set->pad;
	verdict->rule = rule | set->pad;
}

inline_only void decide(const struct verdict_query *query, struct verdict *verdict)
{
	u32 hits[RULE_KINDS];
	u32 generation = current_generation();
	struct subject *subject;
	struct policy_set *set;

	__builtin_memset(verdict, 0, sizeof(*verdict));
	verdict->generation = generation;
	verdict->rule = POLICY_NO_RULE;
	verdict->dry_rule = POLICY_NO_RULE;
	if (query->flags & QUERY_NODE)
		return;
	verdict->reason = query->flags & QUERY_FAIL_OPEN ? REASON_NONE : REASON_POLICY_UNKNOWN;
	if (query->peer) {
		subject = subject_of(query->peer, generation);
		verdict->peer_class = subject ? subject->peer_class : 0;
	}
	subject = subject_of(query->subject, generation);
	if (!subject || !(subject->flags & SUBJECT_JUDGED))
		return;
	verdict->set_id =
		query->direction == DIRECTION_EGRESS ? subject->egress_set : subject->ingress_set;
	if (!verdict->set_id) {
		verdict->reason = REASON_NONE;
		return;
	}
	verdict->reason = REASON_POLICY_UNKNOWN;
	set = policy_sets.lookup(&verdict->set_id);
	if (!set)
		return;
	clear_hits(hits);
	if (match_rules(query, set, verdict, hits))
		conclude(verdict, set, hits, query->protocol == IPPROTO_TCP);
}

/*
 * decide() for those who are no packet: the tunnel and `nodemesh explain`, by BPF_PROG_TEST_RUN.
 * The packet is a struct verdict_query, with room for the struct verdict behind it. Counts nothing.
 */
int mesh_query(struct __sk_buff *skb)
{
	struct verdict_query query;
	struct verdict verdict;

	if (bpf_skb_load_bytes(skb, 0, &query, sizeof(query)))
		return TC_ACT_SHOT;
	decide(&query, &verdict);
	if (bpf_skb_store_bytes(skb, sizeof(query), &verdict, sizeof(verdict), 0))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}
