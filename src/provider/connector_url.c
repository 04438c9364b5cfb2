/*-------------------------------------------------------------------------
 *
 * connector_url.c
 *	  A connector's URLs for one connection, and what its params must be.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "base/report.h"
#include "provider/connector.h"
#include "provider/egress.h"
#include "provider/url_template.h"
#include "vault/seal.h"

/* Fill and judge the whole as a URL; a host must be good however it was put together. */
static char *
expand(const ConduitConnector *connector, const char *template_url, const ConduitJson *params,
	   const TemplateValue *values, const char **problem, const char **variable)
{
	char	   *url = conduit_template_fill(connector, template_url, params, TEMPLATE_CHECKED, values,
											problem, variable);

	if (url == NULL)
		return NULL;
	*problem = conduit_egress_check_url(url);
	if (*problem == NULL)
		return url;
	conduit_wipe(url, strlen(url));
	pfree(url);
	return NULL;
}

char *
conduit_connector_expand(const ConduitConnector *connector, const char *template_url,
						 const ConduitJson *params, const char **problem, const char **variable)
{
	return expand(connector, template_url, params, NULL, problem, variable);
}

char *
conduit_connector_expand_revoke(const ConduitConnector *connector, const ConduitJson *params,
								const char *token, const char *client_id,
								const char **problem, const char **variable)
{
	const TemplateValue values[] = {{"token", token}, {"client_id", client_id ? client_id : ""}, {NULL, NULL}};

	return expand(connector, connector->revoke_url, params, values, problem, variable);
}

char *
conduit_connector_origin(const ConduitConnector *connector, const char *template_url, const ConduitJson *params)
{
	const char *authority = strstr(template_url, "://");
	const char *problem;
	const char *variable;
	char	   *url;

	if (authority == NULL)
		return NULL;
	url = pnstrdup(template_url, authority + 3 + strcspn(authority + 3, "/?") - template_url);
	url = conduit_template_fill(connector, url, params, TEMPLATE_PLAIN, NULL, &problem, &variable);
	return url ? conduit_egress_origin(url) : NULL;
}

char *
conduit_connector_refresh_endpoint(const ConduitConnector *connector, const ConduitJson *params,
								   const char **problem, const char **variable)
{
	const char *template_url = connector->refresh_url ? connector->refresh_url : connector->token_url;

	if (template_url == NULL)
	{
		*problem = "the connector has no token endpoint";
		*variable = NULL;
		return NULL;
	}
	return conduit_connector_expand(connector, template_url, params, problem, variable);
}

char *
conduit_connector_token_origin(const ConduitConnector *connector, const ConduitJson *params)
{
	const char *template_url = connector->refresh_url ? connector->refresh_url : connector->token_url;
	const char *problem;
	const char *variable;
	char	   *url;
	char	   *origin;

	if (template_url == NULL)
		return pstrdup("");

	/*
	 * Neither the patterns nor the egress rules matter here: a secret opens
	 * for the origin it was sealed for or not at all, and whether a request may
	 * go there is asked when one is made.
	 */
	url = conduit_template_fill(connector, template_url, params, TEMPLATE_PLAIN, NULL,
								&problem, &variable);
	origin = url ? conduit_egress_origin(url) : NULL;
	if (origin == NULL)
		conduit_bad_argument("invalid params",
							 variable ? psprintf("%s: %s", variable, problem) : NULL,
							 "Give every variable of the connector's URLs a value.");
	return origin;
}

/* URLs with variables; a connector has some of them. */
#define NTEMPLATES 8

static void
list_templates(const ConduitConnector *connector, const char **templates)
{
	const char *all[NTEMPLATES] = {connector->issuer, connector->authorize_url, connector->token_url,
		connector->refresh_url, connector->exchange_url, connector->revoke_url, connector->account_url,
	connector->api_base_url};

	memcpy(templates, all, sizeof(all));
}

/* True if some template, header, parameter or claim of the connector uses the variable. */
static bool
variable_needed(const ConduitConnector *connector, const char *name)
{
	const char *templates[NTEMPLATES];
	const char *texts[] = {connector->api_auth, connector->client_assertion_audience,
	connector->client_assertion_issuer, connector->jwt_audience};
	const ConduitJson *objects[] = {connector->extra_authorize_params, connector->code_request.extra_params,
	connector->refresh_request.extra_params, connector->token_headers, connector->jwt_claims};

	list_templates(connector, templates);
	for (int i = 0; i < NTEMPLATES; i++)
	{
		if (templates[i] != NULL && conduit_text_has_variable(templates[i], name))
			return true;
	}
	for (int i = 0; i < lengthof(texts); i++)
	{
		if (texts[i] != NULL && conduit_text_has_variable(texts[i], name))
			return true;
	}
	for (int i = 0; i < lengthof(objects); i++)
	{
		for (const ConduitJson *m = objects[i] ? objects[i]->first : NULL; m != NULL; m = m->next)
		{
			if (conduit_text_has_variable(m->text, name))
				return true;
		}
	}
	return false;
}

/* True if the redirect or an answer of the provider gives the variable its value. */
static bool
variable_filled(const ConduitConnector *connector, const char *name)
{
	if (connector->response_params != NULL && conduit_json_get(connector->response_params, name) != NULL)
		return true;
	for (const ConduitJson *p = connector->callback_params ? connector->callback_params->first : NULL;
		 p != NULL; p = p->next)
	{
		if (strcmp(p->text, name) == 0)
			return true;
	}
	return false;
}

static bool
has_value(const ConduitConnector *connector, const ConduitJson *params, const char *name)
{
	const char *problem;

	return conduit_variable_value(conduit_json_get(connector->params, name), params, name, &problem) != NULL;
}

pg_noreturn static void
bad_param(const char *name, const char *problem)
{
	conduit_bad_argument("invalid params", psprintf("%s: %s", name, problem),
						 "Pass an object that gives the connector's variables values matching their patterns.");
}

void
conduit_connector_check_params(const ConduitConnector *connector, const ConduitJson *params)
{
	const char *templates[NTEMPLATES];
	const ConduitJson *declared = connector->params ? connector->params->first : NULL;

	if (params != NULL && params->type != CONDUIT_JSON_OBJECT && params->type != CONDUIT_JSON_NULL)
		conduit_bad_argument("invalid params", "not_an_object",
							 "Pass an object such as {\"subdomain\": \"acme\"}.");

	if (params != NULL)
	{
		for (const ConduitJson *p = params->first; p != NULL; p = p->next)
		{
			/* What is no name cannot be declared, and is not repeated either. */
			if (!conduit_variable_valid(p->key))
				bad_param("params", "a key is not the name of a variable");
			if (connector->params == NULL || conduit_json_get(connector->params, p->key) == NULL)
				bad_param(p->key, "the connector declares no such variable");
		}
	}

	for (; declared != NULL; declared = declared->next)
	{
		const char *problem;
		const char *value = conduit_variable_value(declared, params, declared->key, &problem);

		if (value == NULL)
		{
			const ConduitJson *given = params ? conduit_json_get(params, declared->key) : NULL;

			if ((given != NULL && given->type != CONDUIT_JSON_NULL) ||
				(variable_needed(connector, declared->key) && !variable_filled(connector, declared->key)))
				bad_param(declared->key, problem);
			continue;
		}
		problem = conduit_variable_check(value);
		if (problem == NULL &&
			!conduit_pattern_matches(conduit_json_string(conduit_json_get(declared, "pattern")), value))
			problem = "the value does not match its pattern";
		if (problem != NULL)
			bad_param(declared->key, problem);
	}

	/* Values that fit one by one may still not make a host together. */
	list_templates(connector, templates);
	for (int i = 0; i < NTEMPLATES; i++)
	{
		const char *problem;
		const char *variable;

		if (templates[i] == NULL || strchr(templates[i], '{') == NULL)
			continue;
		if (expand(connector, templates[i], params, templates[i] == connector->revoke_url ? conduit_revoke_samples : NULL,
				   &problem, &variable) == NULL &&
			!(variable != NULL && variable_filled(connector, variable) && !has_value(connector, params, variable)))
			bad_param(variable ? variable : "params", problem);
	}
}
