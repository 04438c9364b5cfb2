/*-------------------------------------------------------------------------
 *
 * identity.h
 *	  Who is asking: the one place that believes anybody anything.
 *
 * Two questions, answered apart.  Is it a backend?  It is with a valid API key
 * of the tenant, or with a proven JWT of a trusted caller.  For which owner?
 * The key's; a backend without one names it in X-Conduit-Owner, else its
 * session or its token does; anybody else is the owner of a session or the
 * subject of a proven token.
 *
 * What is presented and not valid is refused, never passed over; two proofs
 * that name different owners prove nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_IDENTITY_H
#define CONDUIT_IDENTITY_H

#include "base/compat.h"
#include "door/api_key.h"

/* What a facade says about those who come through it. */
typedef struct DoorRules
{
	const char *schema_name;	/* whose JWT keys prove; NULL: those of each facade of the tenant, by its rules */
	const char *tenant;

	/* Of claims that are trusted as they stand; a proven token is read by its facade's. */
	const char *owner_claim;	/* "sub" */
	const char *audience;		/* that they must have; NULL: any */
	const char *owners;			/* function of further owners, "schema.name"; NULL: none */
	bool		trust_claims;	/* request.jwt.claims of a login role that may carry them */
} DoorRules;

typedef struct Identity
{
	bool		backend;
	bool		has_key;
	ApiKey		key;
	char	   *owner;			/* NULL: nobody's in particular */
	bool		bound;			/* by a session, to one connection */
	pg_uuid_t	connection;
} Identity;

/*
 * conduit_identify reads this request's headers; cookie: a session cookie
 * counts, too.  Raises PT401 for what does not prove.  Within
 * conduit_store_begin and _end.
 */
extern void conduit_identify(const DoorRules *rules, bool cookie, Identity *identity);

#endif							/* CONDUIT_IDENTITY_H */
