/*-------------------------------------------------------------------------
 *
 * handover.c
 *	  Reading a secret that a caller hands over.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/handover.h"

#include "lifecycle/argument.h"
#include "provider/assertion.h"

#define MAX_SCOPE 8192

/* A key of the kinds other than OAUTH2, in either spelling. */
typedef struct PlainField
{
	const char *snake;
	const char *camel;
	size_t		offset;			/* in ConduitSecret */
	bool		lines;			/* its text has line ends */
	bool		number;			/* may be a number, too */
} PlainField;

#define FIELD(member) offsetof(ConduitSecret, member)

static const PlainField api_key_fields[] = {
	{"api_key", "apiKey", FIELD(api_key)},
	{"api_secret", "apiSecret", FIELD(api_secret)},
	{NULL}
};
static const PlainField basic_fields[] = {
	{"username", "username", FIELD(username)},
	{"password", "password", FIELD(password)},
	{NULL}
};
static const PlainField client_fields[] = {
	{"client_id", "clientId", FIELD(client_id)},
	{"client_secret", "clientSecret", FIELD(client_secret), .lines = true},
	{NULL}
};

/* With the names that Google and GitHub have for them. */
static const PlainField jwt_fields[] = {
	{"private_key", "privateKey", FIELD(private_key), .lines = true},
	{"issuer", "issuer", FIELD(issuer)},
	{"client_email", "clientEmail", FIELD(issuer)},
	{"app_id", "appId", FIELD(issuer), .number = true},
	{"subject", "subject", FIELD(subject)},
	{"key_id", "keyId", FIELD(key_id)},
	{"private_key_id", "privateKeyId", FIELD(key_id)},
	{"audience", "audience", FIELD(audience)},
	{NULL}
};

/* What else stands in the key file of one of Google's service accounts, which is taken as it is. */
static const char *const service_account_keys[] = {
	"type", "project_id", "client_id", "auth_uri", "token_uri", "auth_provider_x509_cert_url",
	"client_x509_cert_url", "universe_domain"
};

static const char *const kind_names[] = {
	[AUTH_OAUTH2_CODE] = "OAUTH2",
	[AUTH_CLIENT_CREDENTIALS] = "CLIENT",
	[AUTH_JWT_BEARER] = "JWT",
	[AUTH_BEARER_RENEW] = "OAUTH2",
	[AUTH_API_KEY] = "API_KEY",
	[AUTH_BASIC] = "BASIC"
};

const char *
conduit_handover_kind(const ConduitConnector *connector)
{
	return kind_names[connector->auth_type];
}

bool
conduit_handover_kind_known(const char *kind)
{
	bool		known = false;

	for (int i = 0; i < lengthof(kind_names); i++)
		known |= strcmp(kind, kind_names[i]) == 0;
	return known;
}

static const PlainField *
find_field(const PlainField *fields, const char *key)
{
	for (; fields->snake != NULL; fields++)
		if (strcmp(fields->snake, key) == 0 || strcmp(fields->camel, key) == 0)
			return fields;
	return NULL;
}

static SecretText *
target_of(const PlainField *field, TokenGrant *grant)
{
	return (SecretText *) ((char *) &grant->secret + field->offset);
}

static const char *
bad_value(const char **hint)
{
	*hint = "Each key is given once, as a string that is not empty and has no control characters.";
	return "bad_value";
}

/* Line ends are none of the control characters where lines may be. */
static bool
text_valid(const char *text, bool lines)
{
	if (!lines)
		return !conduit_has_control(text);
	for (; *text; text++)
		if (((unsigned char) *text < ' ' && *text != '\n' && *text != '\r') || *text == 0x7f)
			return false;
	return true;
}

/* The key is one that the kind has. */
static const char *
read_field(const ConduitJson *member, const PlainField *field, TokenGrant *grant, const char **hint)
{
	SecretText *target = target_of(field, grant);

	if (member->type == CONDUIT_JSON_NULL)
		return NULL;
	if ((member->type != CONDUIT_JSON_STRING && !(field->number && member->type == CONDUIT_JSON_NUMBER)) ||
		member->length == 0 || target->data != NULL || !text_valid(member->text, field->lines))
		return bad_value(hint);
	target->data = member->text;
	target->length = member->length;
	return NULL;
}

static const char *
unknown_key(const char **hint)
{
	*hint = "The documentation of conduit_store_credential() lists the keys of each kind.";
	return "unknown_key";
}

/* Kinds whose every key is known: an unknown one is refused. */
static const char *
read_plain_secret(const ConduitJson *object, const PlainField *fields, TimestampTz now, TokenGrant *grant,
				  const char **hint)
{
	for (const ConduitJson *member = object->first; member != NULL; member = member->next)
	{
		const PlainField *field = find_field(fields, member->key);
		const char *problem = NULL;

		if (strcmp(member->key, "expires_at") == 0 || strcmp(member->key, "expiresAt") == 0)
			continue;
		problem = field == NULL ? unknown_key(hint) : read_field(member, field, grant, hint);
		if (problem != NULL)
			return problem;
	}
	if (target_of(&fields[0], grant)->data == NULL)
	{
		*hint = "The key that this kind is named after is missing.";
		return "incomplete";
	}

	*hint = "expires_at is an ISO 8601 time or seconds since 1970.";
	return conduit_token_expiry_from_json(object, now, grant);
}

/* ---- what tokens are minted with ---- */

static bool
scope_valid(const ConduitJson *value)
{
	return value->type == CONDUIT_JSON_STRING && value->length > 0 && !conduit_has_control(value->text);
}

/* A text with spaces, or an array of texts without. */
static const char *
read_scope(const ConduitJson *member, TokenGrant *grant, const char **hint)
{
	StringInfoData scope;

	if (member->type == CONDUIT_JSON_NULL)
		return NULL;
	if (grant->secret.scope.data != NULL)
		return bad_value(hint);
	initStringInfo(&scope);
	if (scope_valid(member))
		appendStringInfoString(&scope, member->text);
	else if (member->type == CONDUIT_JSON_ARRAY)
	{
		for (const ConduitJson *s = member->first; s != NULL; s = s->next)
		{
			if (!scope_valid(s) || strchr(s->text, ' ') != NULL)
				return bad_value(hint);
			appendStringInfo(&scope, "%s%s", scope.len > 0 ? " " : "", s->text);
		}
	}
	if (scope.len == 0 || scope.len > MAX_SCOPE)
	{
		*hint = "scope is a text, in which spaces separate, or an array of texts.";
		return "bad_value";
	}
	grant->secret.scope.data = scope.data;
	grant->secret.scope.length = scope.len;
	return NULL;
}

static const char *
read_minting_secret(const ConduitJson *object, const PlainField *fields, TokenGrant *grant, const char **hint)
{
	const char *type = conduit_json_string(conduit_json_get(object, "type"));
	bool		service_account = fields == jwt_fields && type != NULL && strcmp(type, "service_account") == 0;

	for (const ConduitJson *member = object->first; member != NULL; member = member->next)
	{
		const PlainField *field = find_field(fields, member->key);
		const char *problem = NULL;
		bool		ignored = false;

		for (int i = 0; i < lengthof(service_account_keys) && service_account; i++)
			ignored |= strcmp(service_account_keys[i], member->key) == 0;
		if (strcmp(member->key, "scope") == 0)
			problem = read_scope(member, grant, hint);
		else if (field != NULL)
			problem = read_field(member, field, grant, hint);
		else if (!ignored)
			problem = unknown_key(hint);
		if (problem != NULL)
			return problem;
	}
	return NULL;
}

static const char *
check_key(const ConduitConnector *connector, const SecretText *key, const char **hint)
{
	*hint = conduit_assertion_check_key(key->data, key->length, connector->signing_algorithm);
	return *hint == NULL ? NULL : "bad_private_key";
}

/* VSCHAR, RFC 6749, A.1 */
static bool
client_id_valid(const SecretText *id)
{
	for (int i = 0; i < id->length; i++)
		if (id->data[i] < 0x20 || id->data[i] > 0x7e)
			return false;
	return id->length <= CONDUIT_MAX_CLIENT_ID_LEN;
}

/* A client of the connection's own, or, without one, the connector's. */
static const char *
read_client(const ConduitConnector *connector, const ConduitJson *object, TokenGrant *grant, const char **hint)
{
	const char *problem = read_minting_secret(object, client_fields, grant, hint);
	ConduitSecret *secret = &grant->secret;

	if (problem != NULL)
		return problem;
	if (secret->client_id.data == NULL && secret->client_secret.data == NULL)
	{
		secret->client_id.data = "";
		return NULL;
	}
	if (secret->client_id.data == NULL ||
		(secret->client_secret.data == NULL && conduit_connector_needs_secret(connector)))
	{
		*hint = "Give client_id and client_secret, or neither, for the client of conduit_set_client().";
		return "incomplete";
	}
	if (!client_id_valid(&secret->client_id))
		return bad_value(hint);
	if (connector->client_auth == CLIENT_AUTH_PRIVATE_KEY_JWT)
		return check_key(connector, &secret->client_secret, hint);
	if (secret->client_secret.data != NULL && !text_valid(secret->client_secret.data, false))
		return bad_value(hint);
	return NULL;
}

static const char *
read_signer(const ConduitConnector *connector, const ConduitJson *object, TokenGrant *grant, const char **hint)
{
	const char *problem = read_minting_secret(object, jwt_fields, grant, hint);

	if (problem != NULL)
		return problem;
	if (grant->secret.private_key.data == NULL || grant->secret.issuer.data == NULL)
	{
		*hint = "private_key and issuer are needed: who signs, and with what.";
		return "incomplete";
	}
	return check_key(connector, &grant->secret.private_key, hint);
}

const char *
conduit_handover_read(const ConduitConnector *connector, const ConduitJson *object, TimestampTz now,
					  TokenGrant *grant, const char **hint)
{
	memset(grant, 0, sizeof(*grant));
	grant->issued_at = now;
	grant->expires_at = grant->refresh_expires_at = DT_NOEND;
	*hint = "Pass one JSON object.";
	if (object->type != CONDUIT_JSON_OBJECT)
		return "not_an_object";

	switch (connector->auth_type)
	{
		case AUTH_OAUTH2_CODE:
		case AUTH_BEARER_RENEW:
			break;
		case AUTH_CLIENT_CREDENTIALS:
			return read_client(connector, object, grant, hint);
		case AUTH_JWT_BEARER:
			return read_signer(connector, object, grant, hint);
		case AUTH_API_KEY:
			return read_plain_secret(object, api_key_fields, now, grant, hint);
		case AUTH_BASIC:
			return read_plain_secret(object, basic_fields, now, grant, hint);
	}
	*hint = "Pass the provider's token response as it is.";
	return conduit_token_grant_from_json(connector, object, now, false, grant);
}
