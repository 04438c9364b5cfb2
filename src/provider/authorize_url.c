/*-------------------------------------------------------------------------
 *
 * authorize_url.c
 *	  Where a browser is sent to authorize a connection.
 *
 * Values are percent-encoded throughout, a space as %20, which means the same
 * to a reader of forms and to one of URLs.  Where scopes are separated by '+'
 * that is written as it is: those providers split the raw text.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/authorize_url.h"
#include "provider/sized_text.h"
#include "provider/url_template.h"

/* A parameter of the URL; value NULL: it has none. */
typedef struct UrlParam
{
	const char *name;
	const char *value;
	bool		raw;			/* encoded already */
} UrlParam;

typedef struct UrlParts
{
	const char *endpoint;
	List	   *params;			/* UrlParam * */
} UrlParts;

static void
write_joined(SizedText *text, const List *scopes, const char *separator, bool encode)
{
	const ListCell *cell;

	foreach(cell, scopes)
	{
		const char *scope = lfirst(cell);

		if (text->length > 0)
			conduit_append_string(text, separator);
		if (encode)
			conduit_append_percent(text, scope, strlen(scope));
		else
			conduit_append_string(text, scope);
	}
}

static void
write_with_plus(SizedText *text, const void *source)
{
	write_joined(text, source, "+", true);
}

static void
write_with_comma(SizedText *text, const void *source)
{
	write_joined(text, source, ",", false);
}

static void
write_with_space(SizedText *text, const void *source)
{
	write_joined(text, source, " ", false);
}

char *
conduit_scope_join(const ConduitConnector *connector, const List *scopes)
{
	SizedText	text;

	if (scopes == NIL)
		return NULL;

	/* A plus is how a form has a space. */
	conduit_sized_write(&text, strcmp(connector->scope_separator, ",") == 0 ? write_with_comma : write_with_space, scopes);
	return text.data;
}

static void
add_param(UrlParts *parts, const char *name, const char *value, bool raw)
{
	UrlParam   *param = palloc(sizeof(UrlParam));

	param->name = name;
	param->value = value;
	param->raw = raw;
	parts->params = lappend(parts->params, param);
}

/* Under the name that the connector has for the canonical one, or not at all. */
static void
add_own(UrlParts *parts, const ConduitConnector *connector, const char *canonical, const char *value, bool raw)
{
	const ConduitJson *name = connector->authorize_param_names != NULL ?
		conduit_json_get(connector->authorize_param_names, canonical) : NULL;

	if (value == NULL)
		return;
	if (name == NULL)
		add_param(parts, canonical, value, raw);
	else if (name->type == CONDUIT_JSON_STRING)
		add_param(parts, name->text, value, raw);
}

static void
add_scopes(UrlParts *parts, const ConduitConnector *connector, const List *scopes)
{
	SizedText	text;

	if (strcmp(connector->scope_separator, "+") == 0 && scopes != NIL)
	{
		conduit_sized_write(&text, write_with_plus, scopes);
		add_own(parts, connector, "scope", text.data, true);
	}
	else
		add_own(parts, connector, "scope", conduit_scope_join(connector, scopes), false);
}

static void
write_url(SizedText *text, const void *source)
{
	const UrlParts *parts = source;
	Size		length = strlen(parts->endpoint);
	bool		has_query = strchr(parts->endpoint, '?') != NULL;
	bool		open = has_query && (parts->endpoint[length - 1] == '?' || parts->endpoint[length - 1] == '&');
	ListCell   *cell;

	conduit_append_string(text, parts->endpoint);
	foreach(cell, parts->params)
	{
		const UrlParam *param = lfirst(cell);

		if (!open)
			conduit_append_char(text, has_query ? '&' : '?');
		open = false;
		has_query = true;
		conduit_append_percent(text, param->name, strlen(param->name));
		conduit_append_char(text, '=');
		if (param->raw)
			conduit_append_string(text, param->value);
		else
			conduit_append_percent(text, param->value, strlen(param->value));
	}
}

char *
conduit_authorize_url(const ConduitConnector *connector, const AuthorizeRequest *request,
					  const char **problem, const char **variable)
{
	const ConduitJson *extra = connector->extra_authorize_params ? connector->extra_authorize_params->first : NULL;
	UrlParts	parts = {0};
	SizedText	url;

	parts.endpoint = conduit_connector_expand(connector, connector->authorize_url, request->params, problem, variable);
	if (parts.endpoint == NULL)
		return NULL;
	add_own(&parts, connector, "response_type", "code", false);
	add_own(&parts, connector, "client_id", request->client_id, false);
	add_own(&parts, connector, "redirect_uri", request->redirect_uri, false);
	add_scopes(&parts, connector, request->scopes);
	add_own(&parts, connector, "state", request->state, false);
	if (request->code_challenge != NULL)
	{
		add_own(&parts, connector, "code_challenge", request->code_challenge, false);
		add_own(&parts, connector, "code_challenge_method", "S256", false);
	}
	for (; extra != NULL; extra = extra->next)
	{
		const char *value = conduit_text_fill(connector, extra->text, request->params, NULL, problem, variable);

		if (value == NULL)
			return NULL;
		add_param(&parts, extra->key, value, false);
	}

	conduit_sized_write(&url, write_url, &parts);
	if (url.length <= CONDUIT_AUTHORIZE_URL_MAX)
		return url.data;
	*problem = "the URL is too long";
	*variable = NULL;
	return NULL;
}
