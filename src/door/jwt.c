/*-------------------------------------------------------------------------
 *
 * jwt.c
 *	  JSON Web Tokens: proving one, and making one.
 *
 * The signature is verified over the bytes as they came, before any of the
 * claims is read.
 *
 *-------------------------------------------------------------------------
 */
#include "door/jwt.h"

#include <math.h>
#include <openssl/crypto.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/hmac.h>

#include "base/base64url.h"

#define MAX_TOKEN		16384
#define MAX_SIGNATURE	1024
#define P256_LENGTH		32
#define LEEWAY			30		/* seconds */

/* Seconds since 1970 of a point in time. */
static double
epoch_of(TimestampTz at)
{
	return at / (double) USECS_PER_SEC + ((double) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * SECS_PER_DAY;
}

/* A part of the token as an object; NULL if it is none. */
static ConduitJson *
decode_part(const char *text, int length)
{
	char	   *buffer = palloc0(conduit_base64url_decoded_length(length) + 1);
	int			decoded = conduit_base64url_decode(text, length, buffer);
	const char *problem;
	ConduitJson *json = decoded > 0 ? conduit_json_parse(buffer, decoded, &problem) : NULL;

	return json != NULL && json->type == CONDUIT_JSON_OBJECT ? json : NULL;
}

static bool
hmac_matches(const Jwk *key, const char *signed_part, int length, const uint8 *signature, int signature_length)
{
	uint8		mac[EVP_MAX_MD_SIZE];
	unsigned int mac_length;
	bool		matches;

	matches = HMAC(EVP_sha256(), key->secret, key->secret_length, (const uint8 *) signed_part, length,
				   mac, &mac_length) != NULL &&
		mac_length == (unsigned int) signature_length && CRYPTO_memcmp(mac, signature, mac_length) == 0;
	OPENSSL_cleanse(mac, sizeof(mac));
	return matches;
}

/* r and s side by side (RFC 7518, 3.4) as OpenSSL wants them; its length, 0: they are none. */
static int
ecdsa_to_der(const uint8 *raw, int length, uint8 **der)
{
	ECDSA_SIG  *pair = ECDSA_SIG_new();
	BIGNUM	   *r = BN_bin2bn(raw, P256_LENGTH, NULL);
	BIGNUM	   *s = BN_bin2bn(raw + P256_LENGTH, P256_LENGTH, NULL);
	int			result = 0;

	*der = NULL;
	if (pair != NULL && r != NULL && s != NULL && ECDSA_SIG_set0(pair, r, s) == 1)
	{
		r = s = NULL;			/* the pair's now */
		result = i2d_ECDSA_SIG(pair, der);
	}
	BN_free(r);
	BN_free(s);
	ECDSA_SIG_free(pair);
	return Max(result, 0);
}

static bool
signature_matches(const Jwk *key, const char *signed_part, int length, const uint8 *signature, int signature_length)
{
	EVP_MD_CTX *context;
	uint8	   *der = NULL;
	bool		matches;

	if (key->algorithm == JWK_HS256)
		return hmac_matches(key, signed_part, length, signature, signature_length);
	if (key->algorithm == JWK_ES256)
	{
		if (signature_length != 2 * P256_LENGTH ||
			(signature_length = ecdsa_to_der(signature, signature_length, &der)) == 0)
			return false;
		signature = der;
	}
	context = EVP_MD_CTX_new();
	matches = context != NULL &&
		EVP_DigestVerifyInit(context, NULL, EVP_sha256(), NULL, key->pkey) == 1 &&
		EVP_DigestVerify(context, signature, signature_length, (const uint8 *) signed_part, length) == 1;
	EVP_MD_CTX_free(context);
	OPENSSL_free(der);
	ERR_clear_error();
	return matches;
}

/* Whether one of the keys that the header may mean has made the signature. */
static bool
proven(const ConduitJson *header, const JwkSet *keys, const char *signed_part, int length,
	   const uint8 *signature, int signature_length)
{
	const char *algorithm = conduit_json_string(conduit_json_get(header, "alg"));
	const char *kid = conduit_json_string(conduit_json_get(header, "kid"));

	if (algorithm == NULL || conduit_json_get(header, "crit") != NULL || conduit_json_get(header, "b64") != NULL)
		return false;
	for (int i = 0; i < keys->nkeys; i++)
	{
		const Jwk  *key = &keys->keys[i];

		if (strcmp(algorithm, conduit_jwk_algorithm_name(key->algorithm)) != 0 ||
			(kid != NULL && key->kid != NULL && strcmp(kid, key->kid) != 0))
			continue;
		if (signature_matches(key, signed_part, length, signature, signature_length))
			return true;
	}
	return false;
}

bool
conduit_jwt_claim_has(const ConduitJson *claims, const char *name, const char *value)
{
	const ConduitJson *claim = conduit_json_get(claims, name);

	if (conduit_json_string(claim) != NULL)
		return strcmp(claim->text, value) == 0;
	if (claim == NULL || claim->type != CONDUIT_JSON_ARRAY)
		return false;
	for (const ConduitJson *member = claim->first; member != NULL; member = member->next)
		if (conduit_json_string(member) != NULL && strcmp(member->text, value) == 0)
			return true;
	return false;
}

/* A NumericDate: false if it is there and no number. */
static bool
read_date(const ConduitJson *claims, const char *name, double *date)
{
	const ConduitJson *claim = conduit_json_get(claims, name);

	if (claim == NULL)
		return true;
	return claim->type == CONDUIT_JSON_NUMBER && conduit_json_double(claim, date) && isfinite(*date);
}

static bool
claims_valid(const ConduitJson *claims, const char *audience, TimestampTz at)
{
	double		now = epoch_of(at);
	double		exp = -INFINITY;
	double		nbf = -INFINITY;
	double		iat = -INFINITY;

	return read_date(claims, "exp", &exp) && read_date(claims, "nbf", &nbf) && read_date(claims, "iat", &iat) &&
		now < exp + LEEWAY && nbf <= now + LEEWAY && iat <= now + LEEWAY &&
		(audience == NULL || conduit_jwt_claim_has(claims, "aud", audience));
}

const ConduitJson *
conduit_jwt_verify(const char *token, const JwkSet *keys, const char *audience, TimestampTz now)
{
	const char *first_dot = strchr(token, '.');
	const char *second_dot = first_dot ? strchr(first_dot + 1, '.') : NULL;
	uint8		signature[MAX_SIGNATURE + 3];
	int			signature_length;
	const ConduitJson *header;
	const ConduitJson *claims;

	if (second_dot == NULL || strlen(token) > MAX_TOKEN ||
		strlen(second_dot + 1) > conduit_base64url_encoded_length(MAX_SIGNATURE))
		return NULL;
	signature_length = conduit_base64url_decode(second_dot + 1, strlen(second_dot + 1), signature);
	header = decode_part(token, first_dot - token);
	if (signature_length <= 0 || header == NULL ||
		!proven(header, keys, token, second_dot - token, signature, signature_length))
		return NULL;
	claims = decode_part(first_dot + 1, second_dot - first_dot - 1);
	return claims != NULL && claims_valid(claims, audience, now) ? claims : NULL;
}

/* The signature as it stands in a token; its length, 0: OpenSSL fails. */
static int
make_signature(const Jwk *key, const char *text, int length, uint8 *signature)
{
	EVP_MD_CTX *context;
	size_t		size = MAX_SIGNATURE;
	int			result = 0;

	if (key->algorithm == JWK_HS256)
	{
		unsigned int mac_length = 0;

		(void) HMAC(EVP_sha256(), key->secret, key->secret_length, (const uint8 *) text, length, signature, &mac_length);
		return (int) mac_length;
	}
	context = EVP_MD_CTX_new();
	if (context != NULL && EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, key->pkey) == 1 &&
		EVP_DigestSign(context, signature, &size, (const uint8 *) text, length) == 1)
		result = (int) size;
	EVP_MD_CTX_free(context);

	if (result > 0 && key->algorithm == JWK_ES256)
	{
		const uint8 *at = signature;
		ECDSA_SIG  *pair = d2i_ECDSA_SIG(NULL, &at, result);

		result = 0;
		if (pair != NULL &&
			BN_bn2binpad(ECDSA_SIG_get0_r(pair), signature, P256_LENGTH) == P256_LENGTH &&
			BN_bn2binpad(ECDSA_SIG_get0_s(pair), signature + P256_LENGTH, P256_LENGTH) == P256_LENGTH)
			result = 2 * P256_LENGTH;
		ECDSA_SIG_free(pair);
	}
	ERR_clear_error();
	return result;
}

char *
conduit_jwt_sign(const char *claims, const JwkSet *keys)
{
	const Jwk  *key = NULL;
	StringInfoData header;
	uint8		signature[MAX_SIGNATURE];
	int			signature_length;
	char	   *token;
	int			length;

	for (int i = 0; i < keys->nkeys && key == NULL; i++)
		if (keys->keys[i].can_sign)
			key = &keys->keys[i];
	if (key == NULL)
		return NULL;

	initStringInfo(&header);
	appendStringInfo(&header, "{\"alg\":\"%s\",\"typ\":\"JWT\"", conduit_jwk_algorithm_name(key->algorithm));
	if (key->kid != NULL)
	{
		appendStringInfoString(&header, ",\"kid\":");
		conduit_json_write_string(&header, key->kid, strlen(key->kid));
	}
	appendStringInfoChar(&header, '}');

	token = palloc(conduit_base64url_encoded_length(header.len) + conduit_base64url_encoded_length(strlen(claims)) +
				   conduit_base64url_encoded_length(MAX_SIGNATURE) + 3);
	length = conduit_base64url_encode(header.data, header.len, token);
	token[length++] = '.';
	length += conduit_base64url_encode(claims, strlen(claims), token + length);
	signature_length = make_signature(key, token, length, signature);
	if (signature_length == 0)
		return NULL;
	token[length++] = '.';
	(void) conduit_base64url_encode(signature, signature_length, token + length);
	return token;
}
