/*-------------------------------------------------------------------------
 *
 * jwk.h
 *	  Keys that prove or sign a JWT (RFC 7517, 7518).
 *
 * HS256, RS256 and ES256 alone, each under keys of its own kind: what a token's
 * header says never chooses the kind of verification.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_JWK_H
#define CONDUIT_JWK_H

#include "base/compat.h"

#include <openssl/evp.h>

#include "base/json.h"

typedef enum JwkAlgorithm
{
	JWK_HS256,
	JWK_RS256,
	JWK_ES256
} JwkAlgorithm;

#define JWK_MAX_KEYS	16

typedef struct Jwk
{
	JwkAlgorithm algorithm;
	const char *kid;			/* NULL: none */
	const uint8 *secret;		/* HS256 */
	int			secret_length;
	EVP_PKEY   *pkey;			/* RS256, ES256 */
	bool		can_sign;
} Jwk;

typedef struct JwkSet
{
	int			nkeys;
	Jwk			keys[JWK_MAX_KEYS];
} JwkSet;

extern const char *conduit_jwk_algorithm_name(JwkAlgorithm algorithm);

/*
 * conduit_jwk_parse reads a JWK or a JWK Set.  Keys that are not for signatures
 * of our three algorithms are passed over.  Returns NULL and sets *set, or a
 * constant that says what is wrong.  The set is of the current context, whose
 * reset frees OpenSSL's part and wipes secrets.
 */
extern const char *conduit_jwk_parse(const ConduitJson *json, JwkSet **set);

#endif							/* CONDUIT_JWK_H */
