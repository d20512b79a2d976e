/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sizes of the maps and numbers of the wire. A size can be set with -D; what it costs is said
 * beside it. Hash maps are not preallocated: an empty one costs its bucket heads, 16 bytes an
 * entry.
 */
#ifndef MESH_CONSTS_H
#define MESH_CONSTS_H

#ifndef MESH_PIN_DIR
#error "MESH_PIN_DIR names the directory of the maps in bpffs"
#endif

#ifndef MESH_MAX_ENROLLMENTS
#define MESH_MAX_ENROLLMENTS 4096 /* pods of one node */
#endif
#define MESH_DEVICE_CAPTURES 16 /* of one pod: the agent makes them for 8 devices, 2 families */
#ifndef MESH_MAX_FRONTENDS
#define MESH_MAX_FRONTENDS 65536 /* VIP and port pairs of the cluster */
#endif
#ifndef MESH_MAX_ENDPOINTS
#define MESH_MAX_ENDPOINTS 262144
#endif
#ifndef MESH_MAX_WORKLOADS
#define MESH_MAX_WORKLOADS 262144 /* addresses of the cluster */
#endif
#ifndef MESH_MAX_SUBJECTS
#define MESH_MAX_SUBJECTS 262144 /* two buffers of 131,072 workloads */
#endif
#ifndef MESH_MAX_POLICY_SETS
#define MESH_MAX_POLICY_SETS 16384
#endif
#ifndef MESH_MAX_CLASS_MASKS
#define MESH_MAX_CLASS_MASKS 262144 /* 152 bytes an entry */
#endif
#ifndef MESH_MAX_CIDR_MASKS
#define MESH_MAX_CIDR_MASKS 131072
#endif
#ifndef MESH_MAX_PORT_MASKS
#define MESH_MAX_PORT_MASKS 131072
#endif
/*
 * Records wait here from connect() to the agent's accept(). A pod can leave no more of them than
 * its capture listeners have room in their queues (4 ports x 2 families x 4096), so that no pod
 * can fill the map against another while the agent stands still.
 */
#ifndef MESH_MAX_FLOW_RECORDS
#define MESH_MAX_FLOW_RECORDS 262144
#endif
#ifndef MESH_MAX_NONCES
#define MESH_MAX_NONCES 262144
#endif
/* Nonces of one pod on their way: a SYN needs microseconds, a lost one is aged by the agent. */
#ifndef MESH_NONCE_QUOTA
#define MESH_NONCE_QUOTA 16384
#endif
#ifndef MESH_MAX_PEERINGS
#define MESH_MAX_PEERINGS 524288
#endif
/* Handshakes and flows without sockets that one pod may have remembered at a time. */
#ifndef MESH_PEERING_QUOTA
#define MESH_PEERING_QUOTA 32768
#endif
#ifndef MESH_MAX_TRAFFIC
#define MESH_MAX_TRAFFIC 65536 /* 48 bytes an entry and CPU */
#endif
#ifndef MESH_EVENTS_BYTES
#define MESH_EVENTS_BYTES (4 * 1024 * 1024) /* about 26,000 events */
#endif

/* Not in the UAPI headers that a BPF program may include. */
#define MESH_AF_INET 2
#define MESH_AF_INET6 10

/* <uapi/linux/in.h> draws in kernel headers, which BCC cannot compile from 6.8 on. */
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_IGMP 2
#define IPPROTO_DCCP 33
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132
#define IPPROTO_UDPLITE 136

/* RFC 792, RFC 4443, RFC 4861, RFC 2710 and 3810 */
#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_PARAMETER_PROBLEM 4
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129
#define ICMPV6_MLD_QUERY 130
#define ICMPV6_MLD_DONE 132
#define ICMPV6_ROUTER_SOLICITATION 133
#define ICMPV6_REDIRECT 137
#define ICMPV6_MLD_REPORT2 143

/* Where peers reach a pod: the agent listens there, in the pod, on the pod's own addresses. */
#define HBONE_PORT 15008

#define FAMILY_V4 4
#define FAMILY_V6 6

/*
 * The nonce travels in a TCP option of the experimental kind (RFC 6994). The long form carries an
 * ExID and 64 random bits. Where TCP Fast Open leaves only 8 bytes, the short form carries one tag
 * byte (which no known ExID begins with) and 40 random bits.
 */
#define NONCE_OPTION_KIND 254
#define NONCE_EXID 0x6e6d
#define NONCE_SHORT_TAG 0x6e
#define NONCE_LONG_BYTES 12
#define NONCE_SHORT_BYTES 8
#define NONCE_SHORT_MASK ((1ULL << 40) - 1)

/* A filter's classid, 16 bits for a program: the pod's slot, and whether the link has Ethernet. */
#define MESH_SLOT_MASK 0x7fff
#define MESH_LINK_ETHERNET 0x8000

#define TCP_FLAGS_SYN 0x02
#define TCP_FLAGS_RST 0x04
#define TCP_FLAGS_ACK 0x10

#endif
