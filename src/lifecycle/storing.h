/*-------------------------------------------------------------------------
 *
 * storing.h
 *	  A credential that is handed over, as it is to be stored.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_STORING_H
#define CONDUIT_STORING_H

#include "base/compat.h"
#include "lifecycle/credential.h"

typedef struct StoredGrant
{
	bytea	   *access;			/* NULL: none */
	bytea	   *refresh;		/* NULL: none */
	TimestampTz due_at;			/* DT_NOEND: never */
	TimestampTz refresh_at;		/* when the worker refreshes it unasked; DT_NOEND: never */
} StoredGrant;

/*
 * conduit_storing_seal seals a grant for its place and generation and finds
 * its times; raises PT500 if the vault is locked.
 */
extern void conduit_storing_seal(const CredentialPlace *place, const ConduitConnector *connector,
								 const TokenGrant *grant, int64 generation, TimestampTz now,
								 StoredGrant *stored);

#endif							/* CONDUIT_STORING_H */
