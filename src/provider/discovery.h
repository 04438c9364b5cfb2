/*-------------------------------------------------------------------------
 *
 * discovery.h
 *	  From an authorization server's metadata to a connector's definition
 *	  (RFC 8414, OpenID Connect Discovery 1.0).
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_DISCOVERY_H
#define CONDUIT_DISCOVERY_H

#include "base/compat.h"
#include "base/json.h"

/* Where the metadata of an issuer may stand, in the order to look. */
#define CONDUIT_DISCOVERY_PLACES 2

/*
 * conduit_discovery_check_issuer returns NULL, or a constant that says what is
 * wrong with an issuer: an https URL that may be reached, without a query.
 */
extern const char *conduit_discovery_check_issuer(const char *issuer);

/* The URL of one of the places; the issuer has been checked. */
extern char *conduit_discovery_url(const char *issuer, int place);

/*
 * conduit_discovery_definition makes a definition (JSON text) of metadata that
 * came for an issuer; NULL with *problem a stable code if it cannot be used:
 * "issuer_mismatch", "no_token_endpoint", "no_grant", "no_client_auth".
 */
extern char *conduit_discovery_definition(const char *issuer, const ConduitJson *metadata, const char **problem);

#endif							/* CONDUIT_DISCOVERY_H */
