/*-------------------------------------------------------------------------
 *
 * digest.h
 *	  Hashes and MACs, and comparing them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_DIGEST_H
#define CONDUIT_DIGEST_H

#include "base/compat.h"

#define CONDUIT_DIGEST_LEN	32

/* SHA-256 and HMAC-SHA-256; raise an error if OpenSSL has none. */
extern void conduit_sha256(const void *data, Size length, uint8 *digest);
extern void conduit_hmac(const void *key, Size key_length, const void *data, Size length, uint8 *mac);

/* True if equal, in a time that does not tell where they differ. */
extern bool conduit_digests_equal(const void *a, const void *b, Size length);

#endif							/* CONDUIT_DIGEST_H */
