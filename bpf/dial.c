// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A dial: from what was dialled to what was chosen, the policy's word on it, and what is told.
 */

#define CONNECT_PASS 1
#define CONNECT_REFUSE 0

/* A connection attempt, from what was dialled to what was chosen. */
struct dial {
	struct address address; /* where the socket will go */
	__be16 port;
	u8 protocol;
	u8 family; /* of the dialled address */
	u32 service_id;
	u32 workload_id; /* of the destination; 0: not in the mesh */
	u16 workload_flags;
	u8 route;	/* 0: no workload of the mesh */
	bool rewritten; /* `address` is not what was dialled */
	u32 frontend_id;
	u32 endpoint_index;
	u16 reason;	/* not REASON_NONE: refuse */
	u32 generation; /* of the policy that let it go */
};

inline_only void choose_endpoint(struct dial *dial, const struct frontend *frontend)
{
	struct endpoint_key key = {};
	struct endpoint *endpoint;

	dial->service_id = frontend->service_id;
	dial->reason = REASON_NO_ENDPOINT;
	if (frontend->endpoint_count == 0)
		return;
	key.frontend_id = frontend->frontend_id;
	key.index = bpf_get_prandom_u32() % frontend->endpoint_count;
	endpoint = endpoints.lookup(&key);
	if (!endpoint)
		return;
	dial->address = endpoint->address;
	dial->port = endpoint->port;
	dial->frontend_id = key.frontend_id;
	dial->endpoint_index = key.index;
	dial->rewritten = true;
	dial->reason = REASON_NONE;
}

/* A VIP becomes an endpoint; any other address stays as it is. */
inline_only void resolve_frontend(struct dial *dial)
{
	struct frontend_key key = {};
	struct frontend *frontend;

	key.address = dial->address;
	key.port = dial->port;
	key.protocol = dial->protocol;
	frontend = frontends.lookup(&key);
	if (frontend) {
		choose_endpoint(dial, frontend);
		return;
	}
	key.port = 0;
	key.protocol = 0;
	frontend = frontends.lookup(&key);
	if (frontend) {
		dial->service_id = frontend->service_id;
		dial->reason = REASON_NO_SERVICE_PORT;
	}
}

inline_only void resolve_workload(struct dial *dial)
{
	struct address key = dial->address;
	struct workload *workload = workloads.lookup(&key);

	if (!workload)
		return;
	dial->workload_id = workload->workload_id;
	dial->workload_flags = workload->flags;
	dial->route = workload->route;
}

/* errno of a refused connect(): a service without an endpoint looks like a closed port. */
inline_only int refuse(u16 reason)
{
	switch (reason) {
	case REASON_NO_ENDPOINT:
	case REASON_NO_SERVICE_PORT:
		bpf_set_retval(-ECONNREFUSED);
		break;
	case REASON_NO_CAPTURE_ADDRESS:
		bpf_set_retval(-EADDRNOTAVAIL);
		break;
	case REASON_CAPTURE_PORT_RESERVED:
		bpf_set_retval(-EADDRINUSE);
		break;
	case REASON_RESOURCE_LIMIT:
		bpf_set_retval(-ENOBUFS);
		break;
	default:
		bpf_set_retval(-EPERM);
	}
	return CONNECT_REFUSE;
}

/* One line of the story of a connect(): refused, or dialled outside the mesh. */
inline_only void report_dial(u32 source, const struct dial *dial, const struct address *original,
			     __be16 original_port, u8 kind)
{
	u8 route = kind == EVENT_DENIED ? ROUTE_DENY : ROUTE_DIRECT;
	struct traffic *total = traffic_of(source, dial->workload_id, dial->service_id,
					   dial->reason, route, dial->protocol);
	struct event *event;

	if (total && kind == EVENT_DENIED)
		total->failed++;
	else if (total)
		total->opened++;
	event = start_event(kind, dial->protocol);
	if (!event)
		return;
	event->destination = dial->address;
	event->destination_port = dial->port;
	event->original = *original;
	event->original_port = original_port;
	event->reason = (u16)dial->reason;
	if (kind == EVENT_DENIED)
		event->direction = DIRECTION_EGRESS;
	event->source_workload = source;
	event->destination_workload = dial->workload_id;
	event->service_id = dial->service_id;
	events.ringbuf_submit(event, 0);
}

/* Policies in dry run would refuse it. */
inline_only void report_dry_run(u32 source, const struct dial *dial)
{
	struct event *event;

	count_statistic(STATISTIC_DRY_DENIED);
	event = start_event(EVENT_DRY_DENIED, dial->protocol);
	if (!event)
		return;
	event->destination = dial->address;
	event->destination_port = dial->port;
	event->reason = REASON_POLICY_DENY;
	event->direction = DIRECTION_EGRESS;
	event->source_workload = source;
	event->destination_workload = dial->workload_id;
	event->service_id = dial->service_id;
	events.ringbuf_submit(event, 0);
}

/* May this pod send there? The endpoint is asked about, not the VIP: as NetworkPolicy has it. */
inline_only void judge_dial(struct dial *dial, const struct enrollment *enrollment)
{
	struct verdict_query query = {};
	struct verdict verdict;

	query.subject = enrollment->workload_id;
	query.peer = dial->workload_id;
	query.port = dial->port;
	query.protocol = dial->protocol;
	query.direction = DIRECTION_EGRESS;
	query.flags = enrollment->flags & ENROLLMENT_FAIL_OPEN ? QUERY_FAIL_OPEN : 0;
	query.address = dial->address;
	decide(&query, &verdict);
	dial->reason = (u16)verdict.reason;
	dial->generation = verdict.generation;
	if (verdict.reason == REASON_NONE && verdict.flags & VERDICT_DRY_DENY)
		report_dry_run(enrollment->workload_id, dial);
}
