/*-------------------------------------------------------------------------
 *
 * jwt_key.h
 *	  The keys that prove the tokens of a facade's callers, sealed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_JWT_KEY_H
#define CONDUIT_JWT_KEY_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "door/jwk.h"

typedef enum JwtProof
{
	JWT_NO_KEYS,				/* nothing to prove a token by */
	JWT_REFUSED,
	JWT_PROVEN
} JwtProof;

/* A token's claims, as the facade whose keys prove it reads them. */
typedef struct ProvenToken
{
	const ConduitJson *claims;
	const char *owner_claim;
} ProvenToken;

/*
 * conduit_jwt_prove proves a token by the keys of a facade, or, schema_name
 * being NULL, of any facade of a tenant: each by its own keys, for its own
 * audience.  Within conduit_store_begin and _end, in whose memory the result
 * lives.
 */
extern JwtProof conduit_jwt_prove(const char *schema_name, const char *tenant, const char *token,
								  TimestampTz now, ProvenToken *proven);

/* conduit_jwt_keys opens the keys of a facade; NULL if there are none.  Memory as above. */
extern JwkSet *conduit_jwt_keys(const char *schema_name, const char *tenant);

#endif							/* CONDUIT_JWT_KEY_H */
