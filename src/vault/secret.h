/*-------------------------------------------------------------------------
 *
 * secret.h
 *	  The plaintext record of a credential and its encoding.
 *
 * A credential has an access part, which vend opens, and a refresh part, which
 * only the worker opens; both use this record and are sealed apart.  The
 * encoding is a version byte, then (tag byte, length uint32 big-endian, bytes)
 * for every field that is set, then zero bytes up to a multiple of 64, so that
 * the ciphertext's length tells little.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_SECRET_H
#define CONDUIT_SECRET_H

#include "base/compat.h"
#include "vault/seal.h"

typedef struct SecretText
{
	const char *data;			/* not NUL-terminated; NULL = not set */
	int			length;
} SecretText;

typedef struct ConduitSecret
{
	SecretText	access_token;
	SecretText	refresh_token;
	SecretText	api_key;
	SecretText	api_secret;
	SecretText	username;
	SecretText	password;
	SecretText	client_secret;
	SecretText	extra;			/* JSON object text: what the connector does not map */
} ConduitSecret;

/* Encode into palloc'd memory of *length bytes; the caller wipes it. */
extern uint8 *conduit_secret_encode(const ConduitSecret *secret, Size *length);

/* Decode; fields point into data.  False if it is not such a record. */
extern bool conduit_secret_decode(const uint8 *data, Size length, ConduitSecret *secret);

/* conduit_secret_seal encodes, seals and wipes. */
extern SealStatus conduit_secret_seal(const SealPlace *place, const ConduitSecret *secret, bytea **blob);

/* conduit_secret_open opens and decodes; secret points into *opened. */
extern SealStatus conduit_secret_open(const SealPlace *place, const bytea *blob,
									  OpenedSecret *opened, ConduitSecret *secret, char *key_id);

#endif							/* CONDUIT_SECRET_H */
