/*-------------------------------------------------------------------------
 *
 * token_grant.c
 *	  From a token object to a grant.
 *
 * The object is a provider's response or what an application stores.  Names are
 * found in any case and with or without underscores.
 *
 * Wording:
 *	   - A plain name is a key in lower case without '_' and '-': the form in
 *		 which access_token and accessToken are the same.
 *	   - A grant is the tokens and what belongs to them; what is not mapped to
 *		 a field of it is extra.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <math.h>

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/json.h"
#include "provider/token_response.h"
#include "provider/token_time.h"
#include "vault/seal.h"

#define MAX_TOKEN		65536
#define MAX_SCOPE		8192
#define MAX_TOKEN_TYPE	64
#define MAX_PLAIN_NAME	64

/* What a grant takes from a response; the rest is extra. */
static const char *const mapped_names[] =
{
	"accesstoken", "refreshtoken", "tokentype", "scope",
	"expiresin", "expiresat", "issuedat", "createdat",
	"refreshtokenexpiresin", "refreshexpiresin", "xrefreshtokenexpiresin", "refreshtokenexpiresat",
	"error", "errordescription"
};

/* Never kept, at whatever depth. */
static const char *const secret_names[] = {"refreshtoken", "idtoken", "clientsecret"};

static void
plain_name(const char *key, char *plain)
{
	int			length = 0;

	for (; *key != '\0' && length < MAX_PLAIN_NAME; key++)
	{
		if (*key != '_' && *key != '-' && *key != ' ' && *key != '.')
			plain[length++] = pg_ascii_tolower((unsigned char) *key);
	}
	plain[length] = '\0';
}

/* The member of that very name, else the first whose plain name is the same. */
static const ConduitJson *
find_member(const ConduitJson *object, const char *name)
{
	const ConduitJson *exact = conduit_json_get(object, name);
	char		wanted[MAX_PLAIN_NAME + 1];

	if (exact != NULL && exact->type != CONDUIT_JSON_NULL)
		return exact;
	plain_name(name, wanted);
	for (const ConduitJson *m = object->first; m != NULL; m = m->next)
	{
		char		plain[MAX_PLAIN_NAME + 1];

		plain_name(m->key, plain);
		if (strcmp(plain, wanted) == 0 && m->type != CONDUIT_JSON_NULL)
			return m;
	}
	return NULL;
}

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

static TimestampTz
clamp_expiry(TimestampTz expires_at, TimestampTz from)
{
	return Min(expires_at, conduit_time_add(from, CONDUIT_MAX_LIFETIME_S));
}

/*
 * When the access token dies, from the best source there is.  An expires_in of
 * zero or less is a statement too: it does not expire.
 */
static void
read_expiry(const ConduitConnector *connector, const ConduitJson *object, TimestampTz received_at,
			bool response, TokenGrant *grant)
{
	const ConduitJson *issued = find_member(object, "issued_at");
	TimestampTz stated;
	double		seconds;

	/*
	 * A stored secret may be old, and says when it was issued.  A response is
	 * fresh: to count from our own clock is safer than to believe in another.
	 */
	grant->issued_at = received_at;
	if (issued == NULL)
		issued = find_member(object, "created_at");
	if (!response && conduit_read_time(issued, &stated) && stated < received_at)
		grant->issued_at = stated;

	grant->expires_at = DT_NOEND;
	grant->lifetime = 0;
	if (conduit_json_double(find_member(object, "expires_in"), &seconds) && !isnan(seconds))
	{
		if (seconds > 0)
		{
			grant->lifetime = Min(seconds, CONDUIT_MAX_LIFETIME_S);
			grant->expires_at = conduit_time_add(grant->issued_at, grant->lifetime);
		}
		return;
	}
	if (conduit_read_time(find_member(object, "expires_at"), &stated))
	{
		grant->expires_at = clamp_expiry(stated, received_at);
		if (response || grant->issued_at != received_at)
			grant->lifetime = Max(conduit_seconds_between(grant->issued_at, grant->expires_at), 0);
		return;
	}
	if (grant->secret.access_token.data == NULL)
		return;
	if (conduit_read_jwt_expiry(&grant->secret.access_token, &stated, &seconds))
	{
		grant->expires_at = clamp_expiry(stated, received_at);
		grant->lifetime = seconds;
		if (response && seconds == 0)
			grant->lifetime = Max(conduit_seconds_between(received_at, grant->expires_at), 0);
		return;
	}
	if (connector->access_token_lifetime_s > 0)
	{
		grant->lifetime = connector->access_token_lifetime_s;
		grant->expires_at = conduit_time_add(grant->issued_at, grant->lifetime);
	}
}

static void
read_refresh_expiry(const ConduitConnector *connector, const ConduitJson *object, TokenGrant *grant)
{
	static const char *const names[] = {
		"refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in"
	};
	TimestampTz stated;

	grant->refresh_expires_at = DT_NOEND;
	for (int i = 0; i < lengthof(names); i++)
	{
		double		seconds;

		if (conduit_json_double(find_member(object, names[i]), &seconds) && !isnan(seconds))
		{
			if (seconds > 0)
				grant->refresh_expires_at = conduit_time_add(grant->issued_at, Min(seconds, CONDUIT_MAX_LIFETIME_S));
			return;
		}
	}
	if (conduit_read_time(find_member(object, "refresh_token_expires_at"), &stated))
		grant->refresh_expires_at = clamp_expiry(stated, grant->issued_at);
	else if (connector->refresh_token_lifetime_s > 0 && grant->secret.refresh_token.data != NULL)
		grant->refresh_expires_at =
			conduit_time_add(grant->issued_at, connector->refresh_token_lifetime_s);
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

static bool
named_like_secret(const char *key)
{
	char		plain[MAX_PLAIN_NAME + 1];

	plain_name(key, plain);
	for (int i = 0; i < lengthof(secret_names); i++)
	{
		if (strstr(plain, secret_names[i]) != NULL)
			return true;
	}
	return false;
}

static bool
named_like_mapped(const char *key)
{
	char		plain[MAX_PLAIN_NAME + 1];

	plain_name(key, plain);
	for (int i = 0; i < lengthof(mapped_names); i++)
	{
		if (strcmp(plain, mapped_names[i]) == 0)
			return true;
	}
	return false;
}

/* A copy of node without members that are named like a secret. */
static ConduitJson *
without_secrets(const ConduitJson *node)
{
	ConduitJson *copy = palloc(sizeof(ConduitJson));
	ConduitJson **end = &copy->first;

	check_stack_depth();
	*copy = *node;
	copy->first = copy->next = NULL;
	for (const ConduitJson *child = node->first; child != NULL; child = child->next)
	{
		if (node->type == CONDUIT_JSON_OBJECT && named_like_secret(child->key))
			continue;
		*end = without_secrets(child);
		end = &(*end)->next;
	}
	return copy;
}

/* No more bytes than this does node need as text. */
static Size
text_bound(const ConduitJson *node)
{
	Size		bound = 16;

	if (node->key != NULL)
		bound += 6 * strlen(node->key);
	if (node->type == CONDUIT_JSON_STRING || node->type == CONDUIT_JSON_NUMBER)
		bound += 6 * (Size) node->length;
	for (const ConduitJson *child = node->first; child != NULL; child = child->next)
		bound += text_bound(child);
	return bound;
}

static void
read_extra(const ConduitJson *object, SecretText *extra)
{
	ConduitJson *kept = without_secrets(object);
	ConduitJson **link = &kept->first;
	StringInfoData text;

	while (*link != NULL)
	{
		if (named_like_mapped((*link)->key))
			*link = (*link)->next;
		else
			link = &(*link)->next;
	}
	extra->data = NULL;
	extra->length = 0;
	if (kept->first == NULL)
		return;

	/* At full size from the start: growing would leave copies behind. */
	kept->key = NULL;
	initStringInfo(&text);
	enlargeStringInfo(&text, (int) Min(text_bound(kept), (Size) (MaxAllocSize / 2)));
	conduit_json_write(&text, kept);
	extra->data = text.data;
	extra->length = text.len;
}

const char *
conduit_token_grant_from_json(const ConduitConnector *connector, const ConduitJson *object,
							  TimestampTz received_at, bool require_access, TokenGrant *grant)
{
	const char *problem;

	memset(grant, 0, sizeof(*grant));
	grant->issued_at = received_at;
	grant->expires_at = DT_NOEND;
	grant->refresh_expires_at = DT_NOEND;

	if (object == NULL || object->type != CONDUIT_JSON_OBJECT)
		return "not_an_object";
	problem = copy_token(find_member(object, "access_token"), &grant->secret.access_token);
	if (problem == NULL)
		problem = copy_token(find_member(object, "refresh_token"), &grant->secret.refresh_token);
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

	grant->token_type = read_token_type(find_member(object, "token_type"));
	grant->scope = read_scope(find_member(object, "scope"),
							  connector->scope_separator ? connector->scope_separator[0] : ' ');
	read_expiry(connector, object, received_at, require_access, grant);
	read_refresh_expiry(connector, object, grant);
	read_extra(object, &grant->secret.extra);
	return NULL;
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

const char *
conduit_token_expiry_from_json(const ConduitJson *object, TimestampTz received_at, TokenGrant *grant)
{
	const ConduitJson *member = find_member(object, "expires_at");
	TimestampTz stated;

	grant->issued_at = received_at;
	grant->expires_at = DT_NOEND;
	grant->lifetime = 0;
	if (member == NULL || member->type == CONDUIT_JSON_NULL)
		return NULL;
	if (!conduit_read_time(member, &stated))
		return "bad_expires_at";
	grant->expires_at = clamp_expiry(stated, received_at);
	return NULL;
}
