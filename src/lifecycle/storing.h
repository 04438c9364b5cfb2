/*-------------------------------------------------------------------------
 *
 * storing.h
 *	  A credential that is handed over, as it is stored.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_STORING_H
#define CONDUIT_STORING_H

#include "base/compat.h"
#include "lifecycle/credential.h"

/* The longest secret there may be, in bytes of its JSON text. */
#define CONDUIT_MAX_SECRET_LEN (256 * 1024)

/* A row of conduit.credential to be. */
typedef struct StoredGrant
{
	const CredentialPlace *place;
	int64		generation;
	const char *kind;
	TimestampTz issued_at;
	TimestampTz expires_at;		/* DT_NOEND: none */
	TimestampTz refresh_expires_at; /* DT_NOEND: not known */
	double		lifetime;
	TimestampTz due_at;			/* DT_NOEND: never */
	TimestampTz refresh_at;		/* when the worker refreshes it unasked; DT_NOEND: never */
	char	   *token_type;		/* UTF-8 */
	char	   *scope;			/* UTF-8 */
	char	   *own_client;		/* UTF-8: id of the client that is the credential's own; NULL: none */
	bytea	   *imported;		/* digest of what an import brings; NULL: it is none */
	bytea	   *access;			/* sealed; NULL: none */
	bytea	   *refresh;		/* sealed; NULL: none */
} StoredGrant;

/*
 * conduit_storing_seal seals a grant for its place and generation and finds
 * its times; raises PT500 if the vault is locked.  The result points to the
 * place and to the grant's texts.
 */
extern void conduit_storing_seal(const CredentialPlace *place, const ConduitConnector *connector,
								 const TokenGrant *grant, int64 generation, TimestampTz now,
								 StoredGrant *stored);

/*
 * conduit_storing_write writes credentials of locked connections, replacing
 * those they have.  Within conduit_store_begin and _end.
 */
extern void conduit_storing_write(const StoredGrant *stored, int n);

#endif							/* CONDUIT_STORING_H */
