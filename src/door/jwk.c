/*-------------------------------------------------------------------------
 *
 * jwk.c
 *	  Keys that prove or sign a JWT.
 *
 * OpenSSL has no reader of JWKs, and its functions that build a key from
 * numbers differ between versions; all of them read DER.  So a key's numbers
 * are put into the DER of RFC 8017 and RFC 5915 here.
 *
 *-------------------------------------------------------------------------
 */
#include "door/jwk.h"

#include <openssl/err.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "utils/memutils.h"

#include "base/base64url.h"
#include "vault/seal.h"

#define MIN_SECRET		32		/* RFC 7518, 3.2: as long as the hash */
#define MAX_NUMBER		1024	/* bytes: RSA of 8192 bits */
#define MIN_RSA_BITS	2048
#define P256_LENGTH		32

/* DER under construction, from its end to its start, so that lengths are known. */
typedef struct Der
{
	uint8		data[8 * MAX_NUMBER];
	int			start;			/* of what is there */
} Der;

static void
der_begin(Der *der)
{
	der->start = sizeof(der->data);
}

static void
der_bytes(Der *der, const void *bytes, int length)
{
	Assert(der->start >= length);
	der->start -= length;
	memcpy(der->data + der->start, bytes, length);
}

static void
der_byte(Der *der, uint8 byte)
{
	der_bytes(der, &byte, 1);
}

/* Put tag and length before what came since end. */
static void
der_wrap(Der *der, uint8 tag, int end)
{
	int			length = end - der->start;

	if (length < 0x80)
		der_byte(der, (uint8) length);
	else
	{
		int			n = 0;

		for (; length > 0; length >>= 8, n++)
			der_byte(der, (uint8) length);
		der_byte(der, (uint8) (0x80 | n));
	}
	der_byte(der, tag);
}

/* A number that is not negative. */
static void
der_integer(Der *der, const uint8 *number, int length)
{
	int			end = der->start;

	while (length > 1 && number[0] == 0)
	{
		number++;
		length--;
	}
	der_bytes(der, number, length);
	if (number[0] & 0x80)
		der_byte(der, 0);
	der_wrap(der, 0x02, end);
}

/* A number of a JWK, decoded. */
typedef struct Number
{
	uint8		data[MAX_NUMBER + 3];
	int			length;			/* 0: absent */
} Number;

/* False if the member is there and no number. */
static bool
read_number(const ConduitJson *jwk, const char *name, Number *number)
{
	const ConduitJson *member = conduit_json_get(jwk, name);
	const char *text = conduit_json_string(member);

	number->length = 0;
	if (member == NULL)
		return true;
	if (text == NULL || member->length == 0 || member->length > conduit_base64url_encoded_length(MAX_NUMBER))
		return false;
	number->length = conduit_base64url_decode(text, member->length, number->data);
	return number->length > 0;
}

/* SubjectPublicKeyInfo or a private key of type; NULL if OpenSSL takes it for none. */
static EVP_PKEY *
key_from_der(const Der *der, int type, bool private)
{
	const uint8 *at = der->data + der->start;
	long		length = (long) sizeof(der->data) - der->start;
	EVP_PKEY   *pkey = private ? d2i_PrivateKey(type, NULL, &at, length) : d2i_PUBKEY(NULL, &at, length);

	ERR_clear_error();
	return pkey;
}

static const uint8 rsa_algorithm[] = {
	0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00
};
static const uint8 p256_algorithm[] = {
	0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
	0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07
};
static const uint8 p256_name[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};

/* RSAPrivateKey, numbers last to first; NULL unless all are there. */
static EVP_PKEY *
rsa_private_key(Der *der, const ConduitJson *jwk)
{
	static const char *const names[] = {"qi", "dq", "dp", "q", "p", "d", "e", "n"};
	static const uint8 version = 0;
	EVP_PKEY   *pkey = NULL;
	Number	   *number = palloc(sizeof(Number));
	bool		whole = true;
	int			end;

	der_begin(der);
	end = der->start;
	for (int i = 0; i < lengthof(names) && whole; i++)
	{
		whole = read_number(jwk, names[i], number) && number->length > 0;
		if (whole)
			der_integer(der, number->data, number->length);
	}
	if (whole)
	{
		der_integer(der, &version, 1);
		der_wrap(der, 0x30, end);
		pkey = key_from_der(der, EVP_PKEY_RSA, true);
	}
	conduit_wipe(number, sizeof(Number));
	pfree(number);
	return pkey;
}

static EVP_PKEY *
rsa_public_key(Der *der, const Number *n, const Number *e)
{
	int			end;

	der_begin(der);
	end = der->start;
	der_integer(der, e->data, e->length);
	der_integer(der, n->data, n->length);
	der_wrap(der, 0x30, end);
	der_byte(der, 0);			/* no bits unused */
	der_wrap(der, 0x03, end);
	der_bytes(der, rsa_algorithm, sizeof(rsa_algorithm));
	der_wrap(der, 0x30, end);
	return key_from_der(der, EVP_PKEY_RSA, false);
}

static const char *
read_rsa(Der *der, const ConduitJson *jwk, Jwk *key)
{
	Number	   *n = palloc(sizeof(Number));
	Number	   *e = palloc(sizeof(Number));

	key->algorithm = JWK_RS256;
	if (!read_number(jwk, "n", n) || n->length == 0 || !read_number(jwk, "e", e) || e->length == 0)
		return "incomplete_key";
	key->can_sign = conduit_json_get(jwk, "d") != NULL;
	key->pkey = key->can_sign ? rsa_private_key(der, jwk) : rsa_public_key(der, n, e);
	if (key->pkey == NULL)
		return "bad_key";
	return EVP_PKEY_bits(key->pkey) < MIN_RSA_BITS ? "weak_key" : NULL;
}

/* The point, uncompressed, as a BIT STRING. */
static void
der_point(Der *der, const Number *x, const Number *y)
{
	int			end = der->start;

	der_bytes(der, y->data, P256_LENGTH);
	der_bytes(der, x->data, P256_LENGTH);
	der_byte(der, 0x04);
	der_byte(der, 0);
	der_wrap(der, 0x03, end);
}

static const char *
read_ec(Der *der, const ConduitJson *jwk, Jwk *key)
{
	const char *curve = conduit_json_string(conduit_json_get(jwk, "crv"));
	Number	   *x = palloc(sizeof(Number));
	Number	   *y = palloc(sizeof(Number));
	Number	   *d = palloc(sizeof(Number));
	int			end;
	int			mark;

	key->algorithm = JWK_ES256;
	if (curve == NULL || strcmp(curve, "P-256") != 0)
		return "unknown_curve";
	if (!read_number(jwk, "x", x) || x->length != P256_LENGTH ||
		!read_number(jwk, "y", y) || y->length != P256_LENGTH ||
		!read_number(jwk, "d", d) || (d->length != 0 && d->length != P256_LENGTH))
		return "incomplete_key";

	der_begin(der);
	end = der->start;
	der_point(der, x, y);
	if (d->length == 0)
		der_bytes(der, p256_algorithm, sizeof(p256_algorithm));
	else
	{
		der_wrap(der, 0xa1, end);
		mark = der->start;
		der_bytes(der, p256_name, sizeof(p256_name));
		der_wrap(der, 0xa0, mark);
		mark = der->start;
		der_bytes(der, d->data, d->length);
		der_wrap(der, 0x04, mark);
		mark = der->start;
		der_byte(der, 1);
		der_wrap(der, 0x02, mark);
		key->can_sign = true;
	}
	der_wrap(der, 0x30, end);
	conduit_wipe(d, sizeof(Number));
	key->pkey = key_from_der(der, EVP_PKEY_EC, key->can_sign);
	return key->pkey == NULL ? "bad_key" : NULL;
}

static const char *
read_oct(const ConduitJson *jwk, Jwk *key)
{
	const ConduitJson *member = conduit_json_get(jwk, "k");
	uint8	   *secret;

	key->algorithm = JWK_HS256;
	if (conduit_json_string(member) == NULL)
		return "incomplete_key";
	secret = palloc(conduit_base64url_decoded_length(member->length));
	key->secret = secret;
	key->secret_length = conduit_base64url_decode(member->text, member->length, secret);
	if (key->secret_length < 0)
		return "bad_key";
	key->can_sign = true;
	return key->secret_length < MIN_SECRET ? "weak_key" : NULL;
}

/* Whether the key is meant for something else than our signatures. */
static bool
for_other_use(const ConduitJson *jwk, JwkAlgorithm algorithm)
{
	const char *use = conduit_json_string(conduit_json_get(jwk, "use"));
	const char *alg = conduit_json_string(conduit_json_get(jwk, "alg"));

	return (use != NULL && strcmp(use, "sig") != 0) ||
		(alg != NULL && strcmp(alg, conduit_jwk_algorithm_name(algorithm)) != 0);
}

/* Read one key into the set; passed over if it is for another use. */
static const char *
read_key(Der *der, const ConduitJson *jwk, JwkSet *set)
{
	const char *type = conduit_json_string(conduit_json_get(jwk, "kty"));
	const char *kid = conduit_json_string(conduit_json_get(jwk, "kid"));
	Jwk		   *key = &set->keys[set->nkeys];
	const char *problem;

	if (jwk->type != CONDUIT_JSON_OBJECT || type == NULL)
		return "not_a_key";
	if (strcmp(type, "RSA") == 0 ? for_other_use(jwk, JWK_RS256) :
		strcmp(type, "EC") == 0 ? for_other_use(jwk, JWK_ES256) :
		strcmp(type, "oct") == 0 ? for_other_use(jwk, JWK_HS256) : true)
		return NULL;
	if (set->nkeys == JWK_MAX_KEYS)
		return "too_many_keys";

	/* In the set before it is whole, so that the set's end frees it. */
	set->nkeys++;
	key->kid = kid != NULL ? pstrdup(kid) : NULL;
	problem = type[0] == 'R' ? read_rsa(der, jwk, key) : type[0] == 'E' ? read_ec(der, jwk, key) : read_oct(jwk, key);
	return problem;
}

static void
free_set(void *argument)
{
	JwkSet	   *set = argument;

	for (int i = 0; i < set->nkeys; i++)
	{
		EVP_PKEY_free(set->keys[i].pkey);
		if (set->keys[i].secret != NULL && set->keys[i].secret_length > 0)
			conduit_wipe(unconstify(uint8 *, set->keys[i].secret), set->keys[i].secret_length);
	}
	set->nkeys = 0;
}

const char *
conduit_jwk_algorithm_name(JwkAlgorithm algorithm)
{
	static const char *const names[] = {[JWK_HS256] = "HS256",[JWK_RS256] = "RS256",[JWK_ES256] = "ES256"};

	return names[algorithm];
}

const char *
conduit_jwk_parse(const ConduitJson *json, JwkSet **set)
{
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	const ConduitJson *keys = conduit_json_get(json, "keys");
	Der		   *der = palloc(sizeof(Der));
	const char *problem = NULL;

	*set = palloc0(sizeof(JwkSet));
	callback->func = free_set;
	callback->arg = *set;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);

	if (json->type != CONDUIT_JSON_OBJECT || (keys != NULL && keys->type != CONDUIT_JSON_ARRAY))
		return "not_a_key";
	if (keys == NULL)
		problem = read_key(der, json, *set);
	else
		for (const ConduitJson *key = keys->first; key != NULL && problem == NULL; key = key->next)
			problem = read_key(der, key, *set);
	conduit_wipe(der, sizeof(Der));
	pfree(der);
	if (problem == NULL && (*set)->nkeys == 0)
		problem = "no_usable_key";
	return problem;
}
