/*-------------------------------------------------------------------------
 *
 * handover.c
 *	  Reading a secret that a caller hands over.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/handover.h"

#include "lifecycle/argument.h"

/* A field of the kinds other than OAUTH2, in either spelling. */
typedef struct PlainField
{
	const char *snake;
	const char *camel;
	bool		required;
	size_t		offset;			/* in ConduitSecret */
} PlainField;

static const PlainField api_key_fields[] = {
	{"api_key", "apiKey", true, offsetof(ConduitSecret, api_key)},
	{"api_secret", "apiSecret", false, offsetof(ConduitSecret, api_secret)},
	{NULL, NULL, false, 0}
};
static const PlainField basic_fields[] = {
	{"username", "username", true, offsetof(ConduitSecret, username)},
	{"password", "password", false, offsetof(ConduitSecret, password)},
	{NULL, NULL, false, 0}
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

/* Kinds whose every key is known: an unknown one is refused. */
static const char *
read_plain_secret(const ConduitJson *object, const PlainField *fields, TimestampTz now, TokenGrant *grant,
				  const char **hint)
{
	for (const ConduitJson *member = object->first; member != NULL; member = member->next)
	{
		const PlainField *field = find_field(fields, member->key);
		SecretText *target;

		if (strcmp(member->key, "expires_at") == 0 || strcmp(member->key, "expiresAt") == 0)
			continue;
		if (field == NULL)
		{
			*hint = "The documentation of conduit_store_credential() lists the keys of each kind.";
			return "unknown_key";
		}
		if (member->type == CONDUIT_JSON_NULL)
			continue;
		target = target_of(field, grant);
		if (member->type != CONDUIT_JSON_STRING || member->length == 0 || target->data != NULL ||
			conduit_has_control(member->text))
		{
			*hint = "Each key is given once, as a string that is not empty and has no control characters.";
			return "bad_value";
		}
		target->data = member->text;
		target->length = member->length;
	}
	for (; fields->snake != NULL; fields++)
		if (fields->required && target_of(fields, grant)->data == NULL)
		{
			*hint = "The key that this kind is named after is missing.";
			return "incomplete";
		}

	*hint = "expires_at is an ISO 8601 time or seconds since 1970.";
	return conduit_token_expiry_from_json(object, now, grant);
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
		case AUTH_CLIENT_CREDENTIALS:
		case AUTH_JWT_BEARER:
		case AUTH_BEARER_RENEW:
			break;
		case AUTH_API_KEY:
			return read_plain_secret(object, api_key_fields, now, grant, hint);
		case AUTH_BASIC:
			return read_plain_secret(object, basic_fields, now, grant, hint);
	}
	*hint = "Pass the provider's token response as it is.";
	return conduit_token_grant_from_json(connector, object, now, false, grant);
}
