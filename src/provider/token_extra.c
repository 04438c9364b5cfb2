/*-------------------------------------------------------------------------
 *
 * token_extra.c
 *	  What a token object says beyond tokens.
 *
 * Some of it is sealed with the tokens (extra), some goes in clear into the
 * connection: its params, its metadata, the account.  No token is in any of it,
 * wherever it stood.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/account.h"
#include "provider/token_object.h"
#include "provider/token_path.h"
#include "provider/url_template.h"

/* A provider that says more than this must not fill the connection's row. */
#define MAX_METADATA	16384

/* Longer numbers, or larger ones than a double, are beyond what jsonb takes. */
#define MAX_NUMBER		400

/* Shorter tokens are looked for as a whole only. */
#define LEAST_PART		8

/* What a grant takes from the object that the access token is in. */
static const char *const mapped_names[] =
{
	"accesstoken", "refreshtoken", "tokentype", "scope",
	"expiresin", "expiresat", "expires", "issuedat", "createdat",
	"refreshtokenexpiresin", "refreshexpiresin", "xrefreshtokenexpiresin", "refreshtokenexpiresat",
	"error", "errordescription"
};

/* Parts of names of what is never kept, at whatever depth. */
static const char *const secret_names[] = {"refreshtoken", "idtoken", "clientsecret"};

/* And of what is not kept in clear. */
static const char *const private_names[] = {"accesstoken", "secret", "password", "apikey"};

/* Who copies, and where to. */
typedef struct Copier
{
	const TokenObject *object;
	const ConduitSecret *secret;
	bool		in_clear;
} Copier;

static bool
name_contains(const char *key, const char *const *parts, int count)
{
	char		plain[CONDUIT_PLAIN_NAME_MAX + 1];

	conduit_plain_name(key, plain);
	for (int i = 0; i < count; i++)
	{
		if (strstr(plain, parts[i]) != NULL)
			return true;
	}
	return false;
}

static bool
named_like_secret(const Copier *copier, const char *key)
{
	return name_contains(key, secret_names, lengthof(secret_names)) ||
		(copier->in_clear && name_contains(key, private_names, lengthof(private_names)));
}

static bool
named_like_mapped(const char *key)
{
	char		plain[CONDUIT_PLAIN_NAME_MAX + 1];

	conduit_plain_name(key, plain);
	for (int i = 0; i < lengthof(mapped_names); i++)
	{
		if (strcmp(plain, mapped_names[i]) == 0)
			return true;
	}
	return false;
}

static bool
holds_token(const char *text, int length, const SecretText *token)
{
	if (token->data == NULL || length < token->length)
		return false;
	if (token->length < LEAST_PART)
		return length == token->length && memcmp(text, token->data, length) == 0;
	return strstr(text, token->data) != NULL;
}

static bool
holds_any_token(const Copier *copier, const char *text, int length)
{
	return holds_token(text, length, &copier->secret->access_token) ||
		holds_token(text, length, &copier->secret->refresh_token);
}

static bool
is_taken(const TokenObject *object, const ConduitJson *node)
{
	for (int i = 0; i < object->ntaken; i++)
	{
		if (object->taken[i] == node)
			return true;
	}
	return false;
}

/* A copy of the node without what must not be kept; NULL if nothing is left of it. */
static ConduitJson *
copy_kept(const Copier *copier, const ConduitJson *node)
{
	ConduitJson *copy;
	ConduitJson **end;
	double		number;

	check_stack_depth();
	if (is_taken(copier->object, node) ||
		(node->type == CONDUIT_JSON_STRING && holds_any_token(copier, node->text, node->length)))
		return NULL;

	copy = palloc(sizeof(ConduitJson));
	*copy = *node;
	copy->first = copy->next = NULL;
	end = &copy->first;
	if (node->type == CONDUIT_JSON_NUMBER &&
		(node->length > MAX_NUMBER || !conduit_json_double(node, &number)))
		copy->type = CONDUIT_JSON_STRING;
	for (const ConduitJson *child = node->first; child != NULL; child = child->next)
	{
		if (node->type == CONDUIT_JSON_OBJECT &&
			(named_like_secret(copier, child->key) ||
			 holds_any_token(copier, child->key, strlen(child->key)) ||
			 (node == copier->object->home && named_like_mapped(child->key))))
			continue;
		*end = copy_kept(copier, child);
		if (*end != NULL)
			end = &(*end)->next;
	}

	/* What has but lost its content tells nothing by its name. */
	if (node->type == CONDUIT_JSON_OBJECT && node->first != NULL && copy->first == NULL && node->key != NULL)
		return NULL;
	return copy;
}

static void
read_extra(const Copier *copier, SecretText *extra)
{
	ConduitJson *kept = copy_kept(copier, copier->object->root);
	StringInfoData text;

	extra->data = NULL;
	extra->length = 0;
	if (kept == NULL || kept->first == NULL)
		return;
	kept->key = NULL;
	initStringInfo(&text);
	conduit_json_write(&text, kept);
	extra->data = text.data;
	extra->length = text.len;
}

/* The value that a path leads to, if it may be shown; a copy, named key. */
static ConduitJson *
visible_value(const Copier *copier, const char *key, const char *path)
{
	const ConduitJson *node = conduit_find_path(copier->object->root, path);
	const char *last = strrchr(path, '.');
	ConduitJson *copy;

	if (node == NULL || named_like_secret(copier, last ? last + 1 : path))
		return NULL;
	copy = copy_kept(copier, node);
	if (copy != NULL)
		copy->key = key;
	return copy;
}

/* Nodes and texts of its own, as the answer's are gone soon. */
static const ConduitJson *
detached(const ConduitJson *object, int max)
{
	const char *problem;
	StringInfoData text;

	if (object->first == NULL)
		return NULL;
	initStringInfo(&text);
	conduit_json_write(&text, object);
	return text.len <= max ? conduit_json_parse(text.data, text.len, &problem) : NULL;
}

/* Variables that the answer gives a value: none that does not match its pattern. */
static const ConduitJson *
read_params(const Copier *copier)
{
	const ConduitConnector *connector = copier->object->connector;
	ConduitJson params = {.type = CONDUIT_JSON_OBJECT};
	ConduitJson **end = &params.first;

	if (connector->response_params == NULL)
		return NULL;
	for (const ConduitJson *p = connector->response_params->first; p != NULL; p = p->next)
	{
		ConduitJson *value = visible_value(copier, p->key, p->text);
		char	   *fitting;

		if (value == NULL ||
			(value->type != CONDUIT_JSON_STRING && value->type != CONDUIT_JSON_NUMBER))
			continue;
		fitting = conduit_variable_fit(connector, p->key, value->text);
		if (fitting == NULL)
			continue;
		value->type = CONDUIT_JSON_STRING;
		value->text = fitting;
		value->length = strlen(fitting);
		*end = value;
		end = &value->next;
	}
	return detached(&params, INT_MAX);
}

static const ConduitJson *
read_metadata(const Copier *copier)
{
	const ConduitJson *paths = copier->object->connector->response_metadata;
	ConduitJson metadata = {.type = CONDUIT_JSON_OBJECT};
	ConduitJson **end = &metadata.first;

	if (paths == NULL)
		return NULL;
	for (const ConduitJson *p = paths->first; p != NULL; p = p->next)
	{
		ConduitJson *value = visible_value(copier, p->key, p->text);

		if (value == NULL)
			continue;
		*end = value;
		end = &value->next;
	}
	return detached(&metadata, MAX_METADATA);
}

static const char *
visible_name(const Copier *copier, const char *name)
{
	return name != NULL && holds_any_token(copier, name, strlen(name)) ? NULL : name;
}

void
conduit_token_read_extra(TokenObject *object, TokenGrant *grant)
{
	const ConduitConnector *connector = object->connector;
	Copier		copier = {object, &grant->secret, false};

	read_extra(&copier, &grant->secret.extra);
	copier.in_clear = true;
	grant->new_params = read_params(&copier);
	grant->new_metadata = read_metadata(&copier);
	if (connector->account_url == NULL)
	{
		conduit_account_read(connector, object->root, &grant->account, &grant->account_label);
		grant->account = visible_name(&copier, grant->account);
		grant->account_label = visible_name(&copier, grant->account_label);
	}
}
