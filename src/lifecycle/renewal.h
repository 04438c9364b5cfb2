/*-------------------------------------------------------------------------
 *
 * renewal.h
 *	  How a reader gets at an up-to-date credential.
 *
 * Wording:
 *	   - A token is usable until it expires; from due_at on it is due.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_RENEWAL_H
#define CONDUIT_RENEWAL_H

#include "base/compat.h"
#include "lifecycle/credential.h"

/*
 * conduit_credential_entitled reads the credential of a connection for its
 * owner, in the order owner and tenant, status, credential; raises PT404, PT409
 * or PT410 as the error table says.
 */
extern void conduit_credential_entitled(const pg_uuid_t *connection, const char *owner,
										const char *tenant, CredentialView *view);

extern bool conduit_credential_usable(const CredentialView *view, TimestampTz now);
extern bool conduit_credential_due(const CredentialView *view, TimestampTz now, int64 min_ttl);

/*
 * conduit_renew has the worker refresh the credential and reads it again, also
 * where its reply is parked.  forced: also in backoff, and the caller waits the
 * whole conduit.vend_timeout.  Afterwards the view is of the newest generation
 * there is; returns whether it is newer than before.  If it is not: a WARNING
 * where the token is still usable, else the error that says why.
 */
extern bool conduit_renew(CredentialView *view, const char *owner, const char *tenant, bool forced);

#endif							/* CONDUIT_RENEWAL_H */
