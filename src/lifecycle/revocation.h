/*-------------------------------------------------------------------------
 *
 * revocation.h
 *	  Grants that are to be revoked at their providers.
 *
 * What is destroyed here is queued, sealed as it was, and worked off by the
 * worker, one errand (errand.h) a row, best effort: what fails is tried again,
 * ever later, for a week.
 *
 * Most providers know one grant of a user to a client, however many tokens
 * there are of it: unless the connector says otherwise, nothing is revoked
 * while another connection may live on that grant.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_REVOCATION_H
#define CONDUIT_REVOCATION_H

#include "base/compat.h"
#include "lifecycle/credential.h"
#include "lifecycle/errand.h"
#include "utils/uuid.h"

/*
 * conduit_revocation_destroy_credential removes the credential of a locked
 * connection, remembers its generation, and queues the revocation of what it
 * held where the connector has a revocation endpoint.  The sealed tokens are
 * moved as they are: they stay bound to the place they had.
 */
extern void conduit_revocation_destroy_credential(const pg_uuid_t *connection);

/*
 * conduit_revocation_queue_flight queues what a flight brought, parked or
 * about to be, whose connection is gone; for the worker.
 */
extern void conduit_revocation_queue_flight(const pg_uuid_t *connection, int64 generation,
											const char *tenant, const char *owner,
											const char *connector, const char *origin,
											const char *account, const char *client_id,
											const char *params,
											const bytea *access, const bytea *refresh);

/*
 * conduit_revocation_warn_queued sends a WARNING where revocations are queued
 * that what the caller is about to do will make fail; client_id NULL: any.
 */
extern void conduit_revocation_warn_queued(const char *connector, const char *client_id, const char *tenant);

/* A row that is due. */
typedef struct RevocationDue
{
	pg_uuid_t	id;
	char	   *connector;
} RevocationDue;

/*
 * conduit_revocation_due lists up to max rows that are due, of_each of a
 * connector at most, into context; conduit_revocation_next says when the first
 * one after now will be, DT_NOEND if none.
 */
extern int	conduit_revocation_due(TimestampTz now, int of_each, int max, MemoryContext context, RevocationDue **rows);
extern TimestampTz conduit_revocation_next(TimestampTz now);

/* A row as the worker has locked it; texts and blobs of the context asked for. */
typedef struct Revocation
{
	pg_uuid_t	id;
	CredentialPlace place;		/* that its tokens are bound to */
	int64		generation;
	char	   *account;		/* NULL: not known */
	char	   *client_id;		/* NULL: not known */
	char	   *params;			/* JSON object text */
	bytea	   *access;
	bytea	   *refresh;
	TimestampTz queued_at;
	int			attempts;
	bool		connector_there;
	bool		builtin;
} Revocation;

typedef enum RevocationLock
{
	REVOCATION_LOCKED,
	REVOCATION_HELD,			/* by somebody's open transaction */
	REVOCATION_GONE
} RevocationLock;

extern RevocationLock conduit_revocation_lock(const pg_uuid_t *id, MemoryContext context, Revocation *row);

/* Whether the grant may be ended: what the rule above says. */
typedef enum RevocationRule
{
	RULE_REVOKE,
	RULE_SHARED,				/* another connection may live on it */
	RULE_WAIT					/* somebody may be about to be granted it again */
} RevocationRule;

extern RevocationRule conduit_revocation_rule(const Revocation *row);

/* What becomes of a locked row. */
extern void conduit_revocation_delete(const pg_uuid_t *id);
extern void conduit_revocation_postpone(const pg_uuid_t *id, TimestampTz until, int attempts,
										const char *outcome, const char *code);

/* conduit_revocation_fail ends it with a LOG line and an event. */
extern void conduit_revocation_fail(const Revocation *row, const char *reason);

/* revocation_errand.c */
extern const ErrandKind conduit_revocation_errand;
extern Errand *conduit_revocation_errand_make(const pg_uuid_t *id, const char *connector);
extern bool conduit_revocation_errand_is(const Errand *errand, const void *id);

#endif							/* CONDUIT_REVOCATION_H */
