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
#include "door/jwk.h"

/*
 * conduit_jwt_keys opens the keys of a facade, or, schema_name being NULL, of
 * all facades of a tenant; NULL if there are none.  Within conduit_store_begin
 * and _end, in whose memory they live.
 */
extern JwkSet *conduit_jwt_keys(const char *schema_name, const char *tenant);

#endif							/* CONDUIT_JWT_KEY_H */
