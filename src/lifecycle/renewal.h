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
#include "base/report.h"
#include "lifecycle/credential.h"
#include "shared/flight.h"

/*
 * conduit_credential_look_up reads the credential of a connection for its
 * owner, in the order owner and tenant, status, credential.  False with the
 * problem set to PT404, PT409 or PT410, as the error table says, if there is
 * none to be had.
 */
extern bool conduit_credential_look_up(const pg_uuid_t *connection, const char *owner, const char *tenant,
									   CredentialView *view, ConduitProblem *problem);

/*
 * conduit_credential_entitled reads the credential of a connection for its
 * owner as conduit_credential_look_up() does, but raises what is in the way.
 */
extern void conduit_credential_entitled(const pg_uuid_t *connection, const char *owner,
										const char *tenant, CredentialView *view);

extern bool conduit_credential_usable(const CredentialView *view, TimestampTz now);
extern bool conduit_credential_due(const CredentialView *view, TimestampTz now, int64 min_ttl);

/*
 * conduit_renew has the worker refresh the credential and reads it again, also
 * where its reply is parked.  forced: also in backoff, and the caller waits the
 * whole conduit.vend_timeout.  until: but no longer than that, in real time;
 * DT_NOEND: no end of its own.  Afterwards the view is of the newest generation
 * there is; returns whether it is newer than before.  If it is not: a WARNING
 * where the token is still usable, else the error that says why.
 */
extern bool conduit_renew(CredentialView *view, const char *owner, const char *tenant, bool forced,
						  TimestampTz until);

/*
 * A renewal in parts, for who asks for several at once and must not raise.
 *
 * conduit_renewal_begin returns whether the worker is to be asked for the
 * view's generation; if not, that is the end of it.  conduit_renewal_end reads
 * the row again once the worker has answered.  problem is what conduit_renew
 * would raise or warn of; renewed what it would return.
 */
typedef struct Renewal
{
	CredentialView *view;
	bool		forced;
	int64		generation;		/* that the caller saw */
	bool		renewed;
	ConduitProblem problem;
} Renewal;

extern bool conduit_renewal_begin(Renewal *renewal, CredentialView *view, bool forced);
extern void conduit_renewal_end(Renewal *renewal, const char *owner, const char *tenant, RequestAnswer answer);

#endif							/* CONDUIT_RENEWAL_H */
