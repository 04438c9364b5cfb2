/*-------------------------------------------------------------------------
 *
 * trusted_caller.h
 *	  Which proven JWTs are a backend's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_TRUSTED_CALLER_H
#define CONDUIT_TRUSTED_CALLER_H

#include "base/compat.h"
#include "base/json.h"

/*
 * True if the claims of a proven token match a trusted caller of the tenant in
 * everything that it names.  Within conduit_store_begin and _end.
 */
extern bool conduit_trusted_caller_matches(const char *tenant, const ConduitJson *claims);

#endif							/* CONDUIT_TRUSTED_CALLER_H */
