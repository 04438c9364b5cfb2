/*-------------------------------------------------------------------------
 *
 * redirect.c
 *	  What a provider's redirect says beside the code.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/redirect.h"

#include "provider/egress.h"
#include "provider/url_template.h"

const char *
conduit_redirect_text(const ConduitJson *redirect, const char *name)
{
	return conduit_json_string(conduit_json_get(redirect, name));
}

bool
conduit_redirect_issuer_matches(const ConduitConnector *connector, const ConduitJson *params,
								const ConduitJson *redirect)
{
	const char *iss = conduit_redirect_text(redirect, "iss");
	const char *const urls[] = {connector->authorize_url, connector->token_url};
	const char *problem;
	const char *variable;
	char	   *origin;

	if (iss == NULL)
		return !connector->callback_iss_required;
	if (connector->issuer != NULL)
	{
		char	   *issuer = conduit_connector_expand(connector, connector->issuer, params, &problem, &variable);

		return issuer != NULL && strcmp(iss, issuer) == 0;
	}
	origin = conduit_egress_origin(iss);
	for (int i = 0; origin != NULL && i < lengthof(urls); i++)
	{
		char	   *own = urls[i] == NULL ? NULL : conduit_connector_origin(connector, urls[i], params);

		if (own != NULL && strcmp(own, origin) == 0)
			return true;
	}
	return false;
}

static ConduitJson *
add_member(ConduitJson *object, const char *key, const char *text)
{
	ConduitJson *member = palloc0(sizeof(ConduitJson));

	if (object == NULL)
	{
		object = palloc0(sizeof(ConduitJson));
		object->type = CONDUIT_JSON_OBJECT;
	}
	member->type = CONDUIT_JSON_STRING;
	member->key = pstrdup(key);
	member->text = pstrdup(text);
	member->length = strlen(text);
	member->next = object->first;
	object->first = member;
	return object;
}

/* The pairs of redirect parameter and variable. */
static const ConduitJson *
first_pair(const ConduitConnector *connector)
{
	return connector->callback_params ? connector->callback_params->first : NULL;
}

static const ConduitJson *
variable_of(const ConduitConnector *connector, const ConduitJson *pair)
{
	return conduit_json_get(connector->params, pair->text);
}

bool
conduit_redirect_params(const ConduitConnector *connector, const ConduitJson *redirect, ConduitJson **params)
{
	*params = NULL;
	for (const ConduitJson *pair = first_pair(connector); pair != NULL; pair = pair->next)
	{
		const char *value = conduit_redirect_text(redirect, pair->key);
		const char *fitting;

		if (value == NULL || value[0] == '\0')
			continue;
		fitting = conduit_variable_fit(connector, pair->text, value);
		if (fitting == NULL)
			return false;
		*params = add_member(*params, pair->text, fitting);
	}
	return true;
}

const char *
conduit_redirect_missing(const ConduitConnector *connector, const ConduitJson *params)
{
	for (const ConduitJson *pair = first_pair(connector); pair != NULL; pair = pair->next)
		if (conduit_json_get(params, pair->text) == NULL &&
			conduit_json_get(variable_of(connector, pair), "default") == NULL)
			return pair->key;
	return NULL;
}

ConduitJson *
conduit_redirect_metadata(const ConduitConnector *connector, const ConduitJson *redirect)
{
	ConduitJson *metadata = NULL;
	ListCell   *cell;

	foreach(cell, connector->callback_metadata)
	{
		const char *value = conduit_redirect_text(redirect, lfirst(cell));

		if (value != NULL)
			metadata = add_member(metadata, lfirst(cell), value);
	}
	return metadata;
}

ConduitJson *
conduit_redirect_merge(ConduitJson *under, const ConduitJson *over)
{
	for (const ConduitJson *member = over ? over->first : NULL; member != NULL; member = member->next)
	{
		ConduitJson *place = (ConduitJson *) conduit_json_get(under, member->key);

		if (place == NULL)
			under = add_member(under, member->key, member->text);
		else
		{
			place->type = CONDUIT_JSON_STRING;
			place->text = member->text;
			place->length = member->length;
		}
	}
	return under;
}
