/*-------------------------------------------------------------------------
 *
 * kek.h
 *	  What keyring.c and seal.c know of a key-encryption key; private to vault/.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_KEK_H
#define CONDUIT_KEK_H

#include "base/compat.h"
#include "vault/keyring.h"

#define SHA256_LEN 32
#define SHA256_BLOCK 64

/*
 * The key is kept with the two blocks that HMAC-SHA256 begins its hashes with.
 * OpenSSL's HMAC objects would be as fast, but keep copies of the key in
 * ordinary memory, which can be swapped out and shows in a core dump.
 */
typedef struct ConduitKek
{
	uint8		bytes[CONDUIT_KEK_LEN];
	uint8		inner[SHA256_BLOCK];
	uint8		outer[SHA256_BLOCK];
} ConduitKek;

/*
 * conduit_kek_mac computes HMAC-SHA256 under kek.  False if OpenSSL cannot,
 * which is a matter of memory or configuration, never of the input.
 */
extern bool conduit_kek_mac(const ConduitKek *kek, const void *message, Size length,
							uint8 mac[SHA256_LEN]);

/* conduit_hash computes SHA-256 of a label and a text; false as above. */
extern bool conduit_hash(const char *label, const void *text, Size length,
						 uint8 hash[SHA256_LEN]);

/* conduit_drop_openssl_errors leaves this thread's error queue empty. */
extern void conduit_drop_openssl_errors(void);

#endif							/* CONDUIT_KEK_H */
