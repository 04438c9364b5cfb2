/*-------------------------------------------------------------------------
 *
 * assertion.h
 *	  JWTs that Conduit signs: to authenticate a client (RFC 7523, 2.2) and as
 *	  a grant (RFC 7523, 2.1).
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_ASSERTION_H
#define CONDUIT_ASSERTION_H

#include "base/compat.h"
#include "nodes/pg_list.h"
#include "provider/sized_text.h"

/* A claim beyond those of Assertion; both in UTF-8. */
typedef struct AssertionClaim
{
	const char *name;
	const char *value;
} AssertionClaim;

typedef struct Assertion
{
	const char *algorithm;		/* RFC 7518, 3.1; NULL: RS256 */
	SecretText	key;			/* PEM, without a password */
	const char *key_id;			/* "kid"; NULL: none */
	const char *issuer;			/* NULL: no such claim */
	const char *subject;		/* the same */
	const char *audience;		/* the same */
	const char *scope;			/* the same */
	int			lifetime_s;
	List	   *claims;			/* AssertionClaim *; none of ours */
} Assertion;

/*
 * conduit_assertion_sign makes the JWT, in memory of the current context that
 * the caller wipes (conduit_sized_wipe), also after false: the key cannot be
 * used for the algorithm.
 */
extern bool conduit_assertion_sign(const Assertion *assertion, SizedText *jwt);

/*
 * conduit_assertion_check_key returns NULL if the PEM text is a private key
 * that signs by the algorithm (NULL: RS256), else a constant sentence for a
 * hint that says what is expected.
 */
extern const char *conduit_assertion_check_key(const char *pem, int length, const char *algorithm);

#endif							/* CONDUIT_ASSERTION_H */
