/*-------------------------------------------------------------------------
 *
 * digest.c
 *	  Hashes and MACs, and comparing them.
 *
 *-------------------------------------------------------------------------
 */
#include "vault/digest.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

pg_noreturn static void
no_digest(void)
{
	ERR_clear_error();
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("could not compute a SHA-256"),
			 errhint("Check the configuration of OpenSSL."),
			 errhidestmt(true), errhidecontext(true)));
}

void
conduit_sha256(const void *data, Size length, uint8 *digest)
{
	unsigned int size = 0;

	if (EVP_Digest(data, length, digest, &size, EVP_sha256(), NULL) != 1 || size != CONDUIT_DIGEST_LEN)
		no_digest();
}

void
conduit_hmac(const void *key, Size key_length, const void *data, Size length, uint8 *mac)
{
	unsigned int size = 0;

	if (HMAC(EVP_sha256(), key, (int) key_length, data, length, mac, &size) == NULL || size != CONDUIT_DIGEST_LEN)
		no_digest();
}

bool
conduit_digests_equal(const void *a, const void *b, Size length)
{
	return CRYPTO_memcmp(a, b, length) == 0;
}
