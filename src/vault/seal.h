/*-------------------------------------------------------------------------
 *
 * seal.h
 *	  Authenticated envelope encryption of small secrets (blobs).
 *
 * Wording:
 *	   - Each blob has a data key (DEK) of its own, drawn when it is sealed and
 *		 wrapped by a key derived from a KEK of the keyring and the connection.
 *	   - The place of a blob is everything that says where it belongs; it is
 *		 authenticated with the blob and not stored in it.  A blob opens in its
 *		 own place only.
 *
 * Bytes in, bytes out: no table, no network.  The functions report by code and
 * raise nothing but out of memory, so that OpenSSL objects have one way out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_SEAL_H
#define CONDUIT_SEAL_H

#include "base/compat.h"
#include "utils/uuid.h"
#include "vault/keyring.h"

typedef struct SealPlace
{
	const char *purpose;		/* "credential", "client" */
	const pg_uuid_t *row;		/* id of the row that holds the blob */
	const pg_uuid_t *connection;	/* for wrap key derivation; the row's id where
									 * there is no connection */
	const char *tenant;
	const char *owner;
	const char *connector;
	const char *field;			/* "access", "refresh", "secret" */
	int64		generation;
	const char *origin;			/* of the token endpoint, '' where none */
} SealPlace;

typedef enum SealStatus
{
	SEAL_OK,
	SEAL_LOCKED,				/* no usable keyring, or OpenSSL fails */
	SEAL_UNVERIFIED,			/* primary's check value not confirmed yet */
	SEAL_UNKNOWN_KEY,			/* sealed under a key that is not in the ring */
	SEAL_CANNOT_OPEN			/* wrong place, wrong key, damaged: not told apart */
} SealStatus;

/*
 * An opened secret.  data points to zero-padded plaintext of length bytes in
 * memory of the current context, with a NUL behind it; conduit_wipe_opened clears
 * and frees it.  The context's reset clears it too, should an error come first;
 * after that it must not be wiped again.
 */
typedef struct OpenedSecret
{
	uint8	   *data;
	Size		length;
	void	   *private_data;
} OpenedSecret;

/* conduit_seal seals plaintext for place under the primary key. */
extern SealStatus conduit_seal(const SealPlace *place, const uint8 *plaintext, Size length, bytea **blob);

/*
 * conduit_open opens a (detoasted) blob in place.  key_id, of
 * CONDUIT_KEY_ID_LEN + 1 bytes, may be NULL; else it is set to the id of the
 * key that the blob names, '' if it is no blob.
 */
extern SealStatus conduit_open(const SealPlace *place, const bytea *blob, OpenedSecret *opened, char *key_id);
extern void conduit_wipe_opened(OpenedSecret *opened);

/*
 * conduit_rewrap_blob wraps the blob's data key anew under the primary key; the
 * ciphertext stays as it is.  SEAL_OK with *rewrapped NULL when the blob is
 * under the primary already.
 */
extern SealStatus conduit_rewrap_blob(const SealPlace *place, const bytea *blob, bytea **rewrapped);

/* conduit_blob_key_id copies the id of the key a blob names; false if it is no blob. */
extern bool conduit_blob_key_id(const bytea *blob, char *key_id);

/* conduit_random fills with strong random bytes or raises an error. */
extern void conduit_random(void *buffer, Size length);

/* conduit_wipe clears memory in a way that no compiler removes. */
extern void conduit_wipe(void *buffer, Size length);

/*
 * conduit_seal_take_count returns how often this process wrapped under a key
 * since it was last asked for that key, and sets key_id (of
 * CONDUIT_KEY_ID_LEN + 1 bytes) to its id; 0 when there is nothing left to tell.
 */
extern uint32 conduit_seal_take_count(char *key_id);

#endif							/* CONDUIT_SEAL_H */
