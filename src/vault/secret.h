/*-------------------------------------------------------------------------
 *
 * secret.h
 *	  The plaintext record of a credential and its encoding.
 *
 * A credential has an access part, which vend opens, and a refresh part, which
 * only the worker opens; both use this record and are sealed apart.  The
 * refresh part is a refresh token, or what tokens are minted with: a client of
 * the connection's own, a private key and what is signed with it.  The
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
	SecretText	client_id;		/* '': of credentials that mint by the connector's client */
	SecretText	private_key;	/* PEM */
	SecretText	issuer;			/* of assertions, as what follows */
	SecretText	subject;
	SecretText	key_id;
	SecretText	audience;
	SecretText	scope;			/* to be asked for, separated by spaces */
} ConduitSecret;

/* The fields of the refresh part of one record in another, and the others. */
extern void conduit_secret_take_refresh_part(ConduitSecret *to, const ConduitSecret *from);
extern void conduit_secret_take_access_part(ConduitSecret *to, const ConduitSecret *from);

/* True if there is something to be had with the refresh part; or if that is what mints tokens. */
extern bool conduit_secret_has_refresh_part(const ConduitSecret *secret);
extern bool conduit_secret_mints(const ConduitSecret *secret);

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
