/*-------------------------------------------------------------------------
 *
 * token_grant.c
 *	  From a token object to a grant.
 *
 * The object is a provider's response or what an application stores.  Fields
 * are where the connector's paths lead, or have their usual names in any case
 * and with or without underscores.
 *
 * Wording:
 *	   - A grant is the tokens and what belongs to them; what is not mapped to
 *		 a field of it is extra.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "utils/timestamp.h"

#include "provider/token_object.h"
#include "vault/seal.h"

#define MAX_TOKEN		65536
#define MAX_SCOPE		8192
#define MAX_TOKEN_TYPE	64

/*
 * A token, copied.  Absent, null and empty are one: not set.  NULL, or what is
 * wrong with it.  A control character would break the header it is sent in.
 */
static const char *
copy_token(const ConduitJson *member, SecretText *token)
{
	char	   *copy;

	token->data = NULL;
	token->length = 0;
	if (member == NULL)
		return NULL;
	if (member->type != CONDUIT_JSON_STRING)
		return "token_not_a_string";
	if (member->length == 0)
		return NULL;
	if (member->length > MAX_TOKEN)
		return "token_too_long";
	for (int i = 0; i < member->length; i++)
	{
		unsigned char c = (unsigned char) member->text[i];

		if (c < ' ' || c == 0x7f)
			return "token_control_character";
	}
	copy = palloc(member->length + 1);
	memcpy(copy, member->text, member->length);
	copy[member->length] = '\0';
	token->data = copy;
	token->length = member->length;
	return NULL;
}

/* A scope as text, or as an array of texts that are joined; NULL if it is neither. */
static char *
read_scope(const ConduitJson *member, char separator)
{
	StringInfoData joined;

	if (member == NULL)
		return NULL;
	initStringInfo(&joined);
	if (member->type == CONDUIT_JSON_STRING)
		appendBinaryStringInfo(&joined, member->text, member->length);
	else if (member->type == CONDUIT_JSON_ARRAY)
	{
		for (const ConduitJson *s = member->first; s != NULL; s = s->next)
		{
			if (s->type != CONDUIT_JSON_STRING)
				return NULL;
			if (joined.len > 0)
				appendStringInfoChar(&joined, ' ');
			appendBinaryStringInfo(&joined, s->text, s->length);
		}
	}
	else
		return NULL;

	if (joined.len > MAX_SCOPE)
		return NULL;

	/* Whatever separates them at the provider, here it is a space (RFC 6749, 3.3). */
	for (int i = 0; i < joined.len; i++)
	{
		if ((unsigned char) joined.data[i] < ' ' || joined.data[i] == 0x7f)
			return NULL;
		if (joined.data[i] == ',' || joined.data[i] == separator)
			joined.data[i] = ' ';
	}
	return joined.data;
}

/* Odd types ("User Access Token") are no use in a header. */
static char *
read_token_type(const ConduitJson *member)
{
	const char *text = conduit_json_string(member);
	size_t		length = text ? strlen(text) : 0;

	if (length == 0 || length > MAX_TOKEN_TYPE ||
		strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") < length ||
		pg_strcasecmp(text, "bearer") == 0)
		return pstrdup("Bearer");
	return pstrdup(text);
}

static void
wipe_text(SecretText *text)
{
	if (text->data != NULL)
		conduit_wipe(unconstify(char *, text->data), text->length);
	text->data = NULL;
	text->length = 0;
}

void
conduit_token_grant_wipe(TokenGrant *grant)
{
	wipe_text(&grant->secret.access_token);
	wipe_text(&grant->secret.refresh_token);
	wipe_text(&grant->secret.extra);
}

void
conduit_token_grant_drop_refresh(TokenGrant *grant)
{
	wipe_text(&grant->secret.refresh_token);
	grant->refresh_expires_at = DT_NOEND;
}

/* NULL, or what is wrong with one of the tokens. */
static const char *
read_tokens(TokenObject *object, ConduitSecret *secret)
{
	const ConduitConnector *connector = object->connector;
	const char *problem = copy_token(conduit_token_take_secret(object, connector->access_token_path, "access_token"),
									 &secret->access_token);

	if (problem != NULL)
		return problem;
	if (!connector->refresh_by_access_token)
		return copy_token(conduit_token_take_secret(object, connector->refresh_token_path, "refresh_token"),
						  &secret->refresh_token);

	/* A copy of its own: the two are wiped one by one. */
	if (secret->access_token.data != NULL)
	{
		secret->refresh_token.data = pnstrdup(secret->access_token.data, secret->access_token.length);
		secret->refresh_token.length = secret->access_token.length;
	}
	return NULL;
}

static void
read_rest(TokenObject *object, TimestampTz received_at, TokenGrant *grant)
{
	const ConduitConnector *connector = object->connector;

	const ConduitJson *token_type = conduit_token_take(object, connector->token_type_path, "token_type");

	if (token_type != NULL || !grant->keeps_access_token)
		grant->token_type = read_token_type(token_type);
	grant->scope = read_scope(conduit_token_take(object, connector->scope_path, "scope"),
							  connector->scope_separator ? connector->scope_separator[0] : ' ');
	conduit_token_read_expiry(object, received_at, grant);
	conduit_token_read_extra(object, grant);
}

const char *
conduit_token_grant_from_json(const ConduitConnector *connector, const ConduitJson *root,
							  TimestampTz received_at, bool require_access, TokenGrant *grant)
{
	TokenObject object;
	const char *problem;

	memset(grant, 0, sizeof(*grant));
	grant->issued_at = received_at;
	grant->expires_at = DT_NOEND;
	grant->refresh_expires_at = DT_NOEND;

	if (root == NULL || root->type != CONDUIT_JSON_OBJECT)
		return "not_an_object";
	conduit_token_object_open(&object, connector, root, require_access);
	problem = read_tokens(&object, &grant->secret);
	if (problem == NULL && grant->secret.access_token.data == NULL)
	{
		if (require_access)
			problem = "no_access_token";
		else if (grant->secret.refresh_token.data == NULL)
			problem = "no_token";
	}
	if (problem != NULL)
	{
		conduit_token_grant_wipe(grant);
		return problem;
	}
	read_rest(&object, received_at, grant);
	return NULL;
}

void
conduit_token_grant_extended(const ConduitConnector *connector, const ConduitJson *root,
							 TimestampTz received_at, TokenGrant *grant)
{
	TokenObject object;

	memset(grant, 0, sizeof(*grant));
	grant->keeps_access_token = true;
	conduit_token_object_open(&object, connector, root, true);
	if (read_tokens(&object, &grant->secret) != NULL)
		conduit_token_grant_wipe(grant);
	read_rest(&object, received_at, grant);
}
