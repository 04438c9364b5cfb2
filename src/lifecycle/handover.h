/*-------------------------------------------------------------------------
 *
 * handover.h
 *	  Reading a secret that a caller hands over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_HANDOVER_H
#define CONDUIT_HANDOVER_H

#include "base/compat.h"
#include "base/json.h"
#include "provider/token_response.h"

/*
 * conduit_handover_read reads an object of the kind that the connector asks
 * for.  Returns NULL, or what is wrong as a stable code, with *hint set.  The
 * grant's secrets are copies or point into the object's buffer: the caller
 * wipes both, in the first case with conduit_token_grant_wipe().
 */
extern const char *conduit_handover_read(const ConduitConnector *connector, const ConduitJson *object,
										 TimestampTz now, TokenGrant *grant, const char **hint);

/* The kind of credential that the connector asks for: "OAUTH2", "API_KEY", ... */
extern const char *conduit_handover_kind(const ConduitConnector *connector);

/* True if there is a kind of that name. */
extern bool conduit_handover_kind_known(const char *kind);

#endif							/* CONDUIT_HANDOVER_H */
