/*-------------------------------------------------------------------------
 *
 * credential.h
 *	  The sealed secret of a connection: its place, reading and writing it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_CREDENTIAL_H
#define CONDUIT_CREDENTIAL_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "provider/token_response.h"
#include "utils/uuid.h"
#include "vault/secret.h"

/*
 * In SQL: nothing has been minted yet.  That is done when somebody wants it, so
 * a failure to do so is not tried again for nobody.
 */
#define CONDUIT_NEVER_MINTED "access IS NULL AND kind = ANY ('{CLIENT,JWT}'::pg_catalog.text[])"

/* Who a credential belongs to; never changes while it exists. */
typedef struct CredentialPlace
{
	pg_uuid_t	connection;
	char	   *tenant;
	char	   *owner;
	char	   *connector;
	char	   *origin;			/* of the token endpoint, '' where none */
} CredentialPlace;

/* What conduit_vend needs of the row; memory of the context it was read in. */
typedef struct CredentialView
{
	CredentialPlace place;
	int64		generation;
	char	   *status;
	TimestampTz expires_at;		/* DT_NOEND: none */
	TimestampTz due_at;			/* DT_NOEND: never */
	TimestampTz next_attempt_at;	/* DT_NOEND: not in backoff */
	TimestampTz refreshed_at;	/* DT_NOEND: never */
	char	   *token_type;
	char	   *scope;
	char	   *last_error;
	char	   *last_error_code;
	bool		refreshable;
	bytea	   *access;			/* NULL: none */
	bool		own;			/* written by the current transaction */
} CredentialView;

/*
 * conduit_place_text returns a text as it stands in a SealPlace: in UTF-8, so
 * that a dump restored into a database of another encoding opens.
 */
extern const char *conduit_place_text(const char *text);

extern SealPlace conduit_credential_seal_place(const CredentialPlace *place, const char *field, int64 generation);

/*
 * conduit_credential_read reads the newest committed row (or the current
 * transaction's own) directly, by primary key, without locking it and without
 * keeping any lock.  False if there is none for this owner and tenant.
 */
extern bool conduit_credential_read(const pg_uuid_t *connection, const char *owner, const char *tenant,
									CredentialView *view);

/*
 * conduit_credential_seal_grant seals the parts of a grant for a generation;
 * *access or *refresh is NULL where the grant has none.
 */
extern SealStatus conduit_credential_seal_grant(const CredentialPlace *place, int64 generation,
												const ConduitSecret *secret,
												bytea **access, bytea **refresh);

#endif							/* CONDUIT_CREDENTIAL_H */
