/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * SipHash-2-4 (Aumasson and Bernstein, 2012): a keyed pseudo random function of 64 bits. Who does
 * not know the key cannot tell the next value from any number of earlier ones, which holds neither
 * for bpf_get_prandom_u32 (taus88 is linear, and all pods of a CPU share its state) nor for hashes
 * without a key. 2-4 and not the faster 1-3: an adversary sees the values here, and the difference
 * is some ten nanoseconds a connection.
 *
 * Only <linux/types.h> types, so that a host compiler can build it for its test.
 */
#ifndef MESH_SIPHASH_H
#define MESH_SIPHASH_H

#include <linux/types.h>

struct siphash_state {
	__u64 v0;
	__u64 v1;
	__u64 v2;
	__u64 v3;
};

static __always_inline __u64 siphash_rotate(__u64 word, __u32 bits)
{
	return word << bits | word >> (64 - bits);
}

static __always_inline void siphash_round(struct siphash_state *s)
{
	s->v0 += s->v1;
	s->v1 = siphash_rotate(s->v1, 13) ^ s->v0;
	s->v0 = siphash_rotate(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = siphash_rotate(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = siphash_rotate(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = siphash_rotate(s->v1, 17) ^ s->v2;
	s->v2 = siphash_rotate(s->v2, 32);
}

static __always_inline void siphash_absorb(struct siphash_state *s, __u64 word)
{
	s->v3 ^= word;
	siphash_round(s);
	siphash_round(s);
	s->v0 ^= word;
}

/*
 * Of `count` words (a constant) and up to seven bytes more: `last` holds these and, in its highest
 * byte, the length of the whole in bytes, as the paper's padding has it. Words are little endian.
 */
static __always_inline __u64 siphash_2_4(const __u64 key[2], const __u64 *words, __u32 count,
					 __u64 last)
{
	struct siphash_state s = {
		.v0 = key[0] ^ 0x736f6d6570736575ULL,
		.v1 = key[1] ^ 0x646f72616e646f6dULL,
		.v2 = key[0] ^ 0x6c7967656e657261ULL,
		.v3 = key[1] ^ 0x7465646279746573ULL,
	};
	__u32 i;

	for (i = 0; i < count; i++)
		siphash_absorb(&s, words[i]);
	siphash_absorb(&s, last);
	s.v2 ^= 0xff;
	siphash_round(&s);
	siphash_round(&s);
	siphash_round(&s);
	siphash_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

#endif
