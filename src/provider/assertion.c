/*-------------------------------------------------------------------------
 *
 * assertion.c
 *	  JWTs that Conduit signs (RFC 7515, 7518, 7519, 7523).
 *
 * All memory of PostgreSQL's is had before the first object of OpenSSL's is
 * made, and none of the code between throws: so each key and context has one
 * way out.  What OpenSSL has to say about a key stays in its error queue, which
 * is emptied.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include "provider/assertion.h"
#include "utils/timestamp.h"
#include "vault/seal.h"

/* Their clock may be behind ours, and some take no JWT from the future. */
#define BACKDATED_SECONDS	30

#define LEAST_RSA_BITS		2048

/* RSA of 8192 bits has the longest signature that is taken. */
#define MAX_SIGNATURE		1024

#define JTI_BYTES			16

typedef struct SigningAlgorithm
{
	const char *name;
	int			key_type;		/* EVP_PKEY_* */
	const char *group;			/* of EC keys */
	const EVP_MD *(*digest) (void);
	bool		pss;
	int			half;			/* bytes of r and of s, each; 0: the signature as it is */
	const char *expected;
} SigningAlgorithm;

#define RSA_EXPECTED "Give an RSA private key of 2048 to 8192 bits in PEM form, without a password."

static const SigningAlgorithm algorithms[] = {
	{"RS256", EVP_PKEY_RSA, NULL, EVP_sha256, false, 0, RSA_EXPECTED},
	{"RS384", EVP_PKEY_RSA, NULL, EVP_sha384, false, 0, RSA_EXPECTED},
	{"RS512", EVP_PKEY_RSA, NULL, EVP_sha512, false, 0, RSA_EXPECTED},
	{"PS256", EVP_PKEY_RSA, NULL, EVP_sha256, true, 0, RSA_EXPECTED},
	{"ES256", EVP_PKEY_EC, "prime256v1", EVP_sha256, false, 32,
	"Give an EC private key of curve P-256 in PEM form, without a password."},
	{"ES384", EVP_PKEY_EC, "secp384r1", EVP_sha384, false, 48,
	"Give an EC private key of curve P-384 in PEM form, without a password."},
	{"EdDSA", EVP_PKEY_ED25519, NULL, NULL, false, 0,
	"Give an Ed25519 private key in PEM form, without a password."}
};

static const SigningAlgorithm *
find_algorithm(const char *name)
{
	for (int i = 0; i < lengthof(algorithms); i++)
	{
		if (strcmp(name != NULL ? name : "RS256", algorithms[i].name) == 0)
			return &algorithms[i];
	}
	return NULL;
}

/* ---- OpenSSL: nothing here throws ---- */

/* Nobody is there to be asked for a password. */
static int
no_password(char *buffer, int size, int writing, void *argument)
{
	return -1;
}

static EVP_PKEY *
read_key(const char *pem, int length)
{
	BIO		   *bio = BIO_new_mem_buf(pem, length);
	EVP_PKEY   *key = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;

	BIO_free(bio);
	return key;
}

static bool
key_fits(EVP_PKEY *key, const SigningAlgorithm *algorithm)
{
	char		group[64];
	size_t		length;

	/* A key that was made for PSS alone is good for that. */
	if (EVP_PKEY_get_base_id(key) != algorithm->key_type &&
		!(algorithm->pss && EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA_PSS))
		return false;
	if (EVP_PKEY_get_size(key) > MAX_SIGNATURE)
		return false;
	if (algorithm->key_type == EVP_PKEY_RSA)
		return EVP_PKEY_get_bits(key) >= LEAST_RSA_BITS;
	return algorithm->group == NULL ||
		(EVP_PKEY_get_group_name(key, group, sizeof(group), &length) == 1 &&
		 strcmp(group, algorithm->group) == 0);
}

/* r and s as numbers of fixed width one after the other (RFC 7518, 3.4); 0 on failure. */
static size_t
flatten_ecdsa(unsigned char *signature, size_t length, int half)
{
	const unsigned char *der = signature;
	ECDSA_SIG  *parsed = d2i_ECDSA_SIG(NULL, &der, (long) length);
	const BIGNUM *r;
	const BIGNUM *s;
	bool		ok = false;

	if (parsed != NULL)
	{
		ECDSA_SIG_get0(parsed, &r, &s);
		ok = BN_bn2binpad(r, signature, half) == half && BN_bn2binpad(s, signature + half, half) == half;
	}
	ECDSA_SIG_free(parsed);
	return ok ? 2 * half : 0;
}

/* Into a buffer of MAX_SIGNATURE bytes; 0 on failure. */
static size_t
sign(EVP_PKEY *key, const SigningAlgorithm *algorithm, const char *text, size_t text_length,
	 unsigned char *signature)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	EVP_PKEY_CTX *options = NULL;
	size_t		length = MAX_SIGNATURE;
	bool		ok;

	ok = context != NULL &&
		EVP_DigestSignInit(context, &options, algorithm->digest ? algorithm->digest() : NULL, NULL, key) == 1;
	if (ok && algorithm->pss)
		ok = EVP_PKEY_CTX_set_rsa_padding(options, RSA_PKCS1_PSS_PADDING) == 1 &&
			EVP_PKEY_CTX_set_rsa_pss_saltlen(options, RSA_PSS_SALTLEN_DIGEST) == 1;
	ok = ok && EVP_DigestSign(context, signature, &length, (const unsigned char *) text, text_length) == 1;
	EVP_MD_CTX_free(context);
	if (ok && algorithm->half > 0)
		length = flatten_ecdsa(signature, length, algorithm->half);
	return ok ? length : 0;
}

/* Read the key and sign with it; 0 if either cannot be done. */
static size_t
sign_with(const SecretText *pem, const SigningAlgorithm *algorithm, const char *text, size_t text_length,
		  unsigned char *signature)
{
	EVP_PKEY   *key = read_key(pem->data, pem->length);
	size_t		length = 0;

	if (key != NULL && key_fits(key, algorithm))
		length = sign(key, algorithm, text, text_length, signature);
	EVP_PKEY_free(key);
	ERR_clear_error();
	return length;
}

const char *
conduit_assertion_check_key(const char *pem, int length, const char *algorithm)
{
	const SigningAlgorithm *found = find_algorithm(algorithm);
	SecretText	key = {pem, length};
	unsigned char signature[MAX_SIGNATURE];

	if (found == NULL)
		return "Available algorithms are RS256, RS384, RS512, PS256, ES256, ES384 and EdDSA.";
	return sign_with(&key, found, "conduit", strlen("conduit"), signature) > 0 ? NULL : found->expected;
}

/* ---- the JWT ---- */

/* What a JWT is made of, so that it is written the same way twice. */
typedef struct JwtParts
{
	const Assertion *assertion;
	const SigningAlgorithm *algorithm;
	int64		issued_at;
	char		jti[2 * JTI_BYTES + 1];
	SizedText	header;
	SizedText	claims;
	SizedText	input;			/* what is signed */
	unsigned char signature[MAX_SIGNATURE];
	size_t		signature_length;
} JwtParts;

static void
append_member(SizedText *text, const char *name, const char *value)
{
	if (value == NULL)
		return;
	if (text->length > 1)
		conduit_append_char(text, ',');
	conduit_append_json(text, name, strlen(name));
	conduit_append_char(text, ':');
	conduit_append_json(text, value, strlen(value));
}

static void
append_number(SizedText *text, const char *name, int64 value)
{
	char		number[32];

	snprintf(number, sizeof(number), ",\"%s\":" INT64_FORMAT, name, value);
	conduit_append_string(text, number);
}

static void
write_header(SizedText *text, const void *source)
{
	const JwtParts *parts = source;

	conduit_append_char(text, '{');
	append_member(text, "alg", parts->algorithm->name);
	append_member(text, "typ", "JWT");
	append_member(text, "kid", parts->assertion->key_id);
	conduit_append_char(text, '}');
}

static void
write_claims(SizedText *text, const void *source)
{
	const JwtParts *parts = source;
	const Assertion *assertion = parts->assertion;
	ListCell   *cell;

	conduit_append_char(text, '{');
	append_member(text, "jti", parts->jti);
	append_member(text, "iss", assertion->issuer);
	append_member(text, "sub", assertion->subject);
	append_member(text, "aud", assertion->audience);
	append_member(text, "scope", assertion->scope);
	append_number(text, "iat", parts->issued_at);
	append_number(text, "exp", parts->issued_at + assertion->lifetime_s);
	foreach(cell, assertion->claims)
	{
		const AssertionClaim *claim = lfirst(cell);

		append_member(text, claim->name, claim->value);
	}
	conduit_append_char(text, '}');
}

static void
write_input(SizedText *text, const void *source)
{
	const JwtParts *parts = source;

	conduit_append_base64url(text, parts->header.data, parts->header.length);
	conduit_append_char(text, '.');
	conduit_append_base64url(text, parts->claims.data, parts->claims.length);
}

static void
write_jwt(SizedText *text, const void *source)
{
	const JwtParts *parts = source;

	conduit_append_bytes(text, parts->input.data, parts->input.length);
	conduit_append_char(text, '.');
	conduit_append_base64url(text, (const char *) parts->signature, parts->signature_length);
}

bool
conduit_assertion_sign(const Assertion *assertion, SizedText *jwt)
{
	JwtParts	parts = {assertion, find_algorithm(assertion->algorithm)};
	uint8		jti[JTI_BYTES];

	memset(jwt, 0, sizeof(*jwt));
	if (parts.algorithm == NULL)
		return false;

	/* The time that is compared is theirs, which conduit.clock_offset does not move. */
	parts.issued_at = timestamptz_to_time_t(GetCurrentTimestamp()) - BACKDATED_SECONDS;
	conduit_random(jti, sizeof(jti));
	for (int i = 0; i < JTI_BYTES; i++)
		snprintf(parts.jti + 2 * i, 3, "%02x", jti[i]);

	conduit_sized_write(&parts.header, write_header, &parts);
	conduit_sized_write(&parts.claims, write_claims, &parts);
	conduit_sized_write(&parts.input, write_input, &parts);
	parts.signature_length = sign_with(&assertion->key, parts.algorithm, parts.input.data, parts.input.length,
									   parts.signature);
	if (parts.signature_length > 0)
		conduit_sized_write(jwt, write_jwt, &parts);

	conduit_sized_wipe(&parts.header);
	conduit_sized_wipe(&parts.claims);
	conduit_sized_wipe(&parts.input);
	conduit_wipe(parts.signature, sizeof(parts.signature));
	return jwt->data != NULL;
}
