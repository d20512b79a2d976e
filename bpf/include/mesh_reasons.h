/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Numbered reasons, as in mesh/reasons.py, which explains each: one number, one meaning, for ever.
 * Only those stand here that the kernel half itself gives.
 */
#ifndef MESH_REASONS_H
#define MESH_REASONS_H

enum reason {
	REASON_NONE = 0,
	REASON_POLICY_DENY = 1,
	REASON_APP_CONNECT_FAILED = 26,
	REASON_NO_ENDPOINT = 30,
	REASON_NO_SERVICE_PORT = 31,
	REASON_CAPTURE_PORT_RESERVED = 32,
	REASON_CAPTURE_PORT_FROM_OUTSIDE = 33,
	REASON_RESOURCE_LIMIT = 35,
	REASON_NO_CAPTURE_ADDRESS = 37,
};

#endif
