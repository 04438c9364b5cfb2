/*-------------------------------------------------------------------------
 *
 * connector_check.c
 *	  How the fields of a definition fit together.
 *
 * Wording:
 *	   - A sent name is what a parameter of Conduit's own is called in a request
 *		 once it is renamed.
 *	   - A secret path leads to a token.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/connector_check.h"
#include "provider/url_template.h"

/* What a request may carry, by canonical names. */
static const char *const code_params[] = {"grant_type", "code", "redirect_uri", "code_verifier", "client_id",
"client_secret", "client_assertion", "client_assertion_type", NULL};
static const char *const refresh_params[] = {"grant_type", "refresh_token", "client_id", "client_secret",
"client_assertion", "client_assertion_type", NULL};
static const char *const client_credentials_params[] = {"grant_type", "client_id", "client_secret",
"client_assertion", "client_assertion_type", NULL};
static const char *const jwt_bearer_params[] = {"grant_type", "assertion", "client_id", "client_secret",
"client_assertion", "client_assertion_type", NULL};
static const char *const authorize_params[] = {"response_type", "client_id", "redirect_uri", "scope", "state",
"code_challenge", "code_challenge_method", NULL};

#define MAX_SENT 16

/* Names of secrets in answers, without case and '_'. */
static const char *const secret_names[] = {"accesstoken", "refreshtoken", "idtoken", "clientsecret", NULL};

static bool
given(const DefinitionReader *reader, const char *field)
{
	return conduit_field_get(reader, field) != NULL;
}

static void
check_required(const DefinitionReader *reader)
{
	const ConduitConnector *connector = reader->connector;

	if (connector->auth_type == AUTH_OAUTH2_CODE)
	{
		const char *hint = "An oauth2_code connector needs authorize_url and token_url.";

		if (connector->authorize_url == NULL)
			conduit_field_refuse("authorize_url", "missing", hint);
		if (connector->token_url == NULL)
			conduit_field_refuse("token_url", "missing", hint);
	}
	else if (conduit_auth_has_endpoint(connector->auth_type) && connector->token_url == NULL)
		conduit_field_refuse("token_url", "missing", "Tokens of this auth_type come from token_url.");
}

/* Fields that mean nothing without another one. */
static void
check_companions(const DefinitionReader *reader)
{
	static const struct
	{
		const char *field;
		const char *needs;
	}			companions[] =
	{
		{"exchange_url", "exchange_grant_type"},
		{"success_value", "success_path"},
		{"success_path", "success_value"},
		{"account_url", "account_path"},
		{"refresh_extends", "access_token_lifetime_s"},
		{"rate_limit_requests", "rate_limit_window_s"},
		{"rate_limit_window_s", "rate_limit_requests"},
		{"rate_limit_burst", "rate_limit_requests"},
		{"token_rate_limit_requests", "token_rate_limit_window_s"},
		{"token_rate_limit_window_s", "token_rate_limit_requests"},
		{"token_rate_limit_burst", "token_rate_limit_requests"}
	};

	for (int i = 0; i < lengthof(companions); i++)
	{
		const ConduitJson *value = conduit_field_get(reader, companions[i].field);

		if (value != NULL && value->type != CONDUIT_JSON_FALSE && !given(reader, companions[i].needs))
			conduit_field_refuse(companions[i].needs, "missing",
								 psprintf("%s means nothing without it.", companions[i].field));
	}
	if (reader->connector->refresh_extends && reader->connector->access_token_lifetime_s == 0)
		conduit_field_refuse("access_token_lifetime_s", "out of range", "refresh_extends gives a token so many seconds more.");
}

static void
check_signing(const DefinitionReader *reader)
{
	static const char *const of_assertions[] =
	{"client_assertion_audience", "client_assertion_issuer", "signing_algorithm", NULL};
	const ConduitConnector *connector = reader->connector;

	if (connector->client_auth != CLIENT_AUTH_PRIVATE_KEY_JWT)
	{
		for (int i = 0; of_assertions[i] != NULL; i++)
		{
			if (given(reader, of_assertions[i]) &&
				!(connector->auth_type == AUTH_JWT_BEARER && strcmp(of_assertions[i], "signing_algorithm") == 0))
				conduit_field_refuse(of_assertions[i], "has no meaning without client_auth private_key_jwt", NULL);
		}
	}
	if (connector->jwt_scope_claim && connector->jwt_claims != NULL &&
		conduit_json_get(connector->jwt_claims, "scope") != NULL)
		conduit_field_refuse("jwt_claims", "scope is set by Conduit itself", "jwt_scope_claim puts it there.");
}

static void
check_revocation(const ConduitConnector *connector)
{
	if (connector->client_auth == CLIENT_AUTH_PRIVATE_KEY_JWT && connector->revoke_auth == REVOKE_AUTH_BASIC)
		conduit_field_refuse("revoke_auth", "would send the private key", "With private_key_jwt it is client, token or none.");
}

static void
check_bodies(const ConduitConnector *connector)
{
	const char *hint = "A GET request has no body; its parameters stand in the URL.";

	if (strcmp(connector->code_request.method, "GET") == 0 && connector->code_request.body_format != BODY_QUERY)
		conduit_field_refuse("token_method", "GET needs body_format query", hint);
	if (strcmp(connector->refresh_request.method, "GET") == 0 && connector->refresh_request.body_format != BODY_QUERY)
		conduit_field_refuse("refresh_method", "GET needs refresh_body_format query", hint);
	if (strcmp(connector->revoke_method, "GET") == 0 && connector->revoke_body_format != BODY_QUERY)
		conduit_field_refuse("revoke_method", "GET needs revoke_body_format query", hint);
}

/* What a canonical parameter is called; NULL where it is left out. */
static const char *
sent_name(const ConduitJson *names, const char *canonical)
{
	const ConduitJson *name = names ? conduit_json_get(names, canonical) : NULL;

	return name != NULL ? conduit_json_string(name) : canonical;
}

/* Two parameters of one request must not end up under one name. */
static void
check_renames(const char *field, const ConduitJson *names, const char *const *params)
{
	for (int i = 0; params[i] != NULL; i++)
	{
		const char *name = sent_name(names, params[i]);

		for (int j = 0; name != NULL && j < i; j++)
		{
			const char *other = sent_name(names, params[j]);

			if (other != NULL && strcmp(name, other) == 0)
				conduit_field_refuse(field, psprintf("%s and %s would have one name", params[j], params[i]), NULL);
		}
	}
}

static void
check_not_left_out(const char *field, const ConduitJson *names, const char *canonical, const char *hint)
{
	if (sent_name(names, canonical) == NULL)
		conduit_field_refuse(field, psprintf("%s cannot be left out", canonical), hint);
}

/* What is added must not be what is sent anyway. */
static void
check_extras(const char *field, const ConduitJson *extra, const ConduitJson *names,
			 const char *const *params, const char *hint)
{
	for (const ConduitJson *p = extra ? extra->first : NULL; p != NULL; p = p->next)
	{
		for (int i = 0; params[i] != NULL; i++)
		{
			const char *name = sent_name(names, params[i]);

			if (name != NULL && strcmp(p->key, name) == 0)
				conduit_field_refuse(field, psprintf("%s is set by Conduit itself",
													 conduit_field_quotable(name, params[i])), hint);
		}
	}
}

/* One kind of token request: its names, and all that is added to it. */
static void
check_token_request(const DefinitionReader *reader, const RequestForm *form, bool sends_scope,
					const char *names_field, const char *extra_field, const char *const *params)
{
	const char *hint = "Conduit's own parameters are renamed or left out by token_param_names and refresh_param_names.";
	const char *sent[MAX_SENT + 1];
	int			nsent = 0;

	for (; params[nsent] != NULL; nsent++)
		sent[nsent] = params[nsent];
	if (sends_scope)
		sent[nsent++] = "scope";
	sent[nsent] = NULL;

	check_renames(names_field, form->param_names, sent);
	check_extras("extra_token_params", reader->token_params, form->param_names, sent, hint);
	check_extras(extra_field, form->extra_params, form->param_names, sent, hint);
}

static void
check_requests(const DefinitionReader *reader)
{
	const ConduitConnector *connector = reader->connector;
	const RequestForm *code = &connector->code_request;
	const RequestForm *refresh = &connector->refresh_request;
	const char *refresh_field = given(reader, "refresh_param_names") ? "refresh_param_names" : "token_param_names";
	const char *pkce_hint = "Set pkce to false where the provider wants none.";

	switch (connector->auth_type)
	{
		case AUTH_OAUTH2_CODE:
			check_not_left_out("token_param_names", code->param_names, "code", NULL);
			if (connector->pkce)
				check_not_left_out("token_param_names", code->param_names, "code_verifier", pkce_hint);
			check_not_left_out(refresh_field, refresh->param_names, "refresh_token", NULL);
			check_token_request(reader, code, false, "token_param_names", "extra_code_params", code_params);
			check_token_request(reader, refresh, connector->refresh_sends_scope, refresh_field,
								"extra_refresh_params", refresh_params);

			check_not_left_out("authorize_param_names", connector->authorize_param_names, "state", NULL);
			if (connector->pkce)
			{
				check_not_left_out("authorize_param_names", connector->authorize_param_names, "code_challenge", pkce_hint);
				check_not_left_out("authorize_param_names", connector->authorize_param_names, "code_challenge_method", pkce_hint);
			}
			check_renames("authorize_param_names", connector->authorize_param_names, authorize_params);
			check_extras("extra_authorize_params", connector->extra_authorize_params,
						 connector->authorize_param_names, authorize_params,
						 "Scopes go into default_scopes; Conduit's own parameters are renamed or left out by authorize_param_names.");
			break;
		case AUTH_CLIENT_CREDENTIALS:
			check_token_request(reader, refresh, true, "token_param_names",
								"extra_token_params", client_credentials_params);
			break;
		case AUTH_JWT_BEARER:
			if (!connector->jwt_in_header)
				check_not_left_out("token_param_names", refresh->param_names, "assertion", NULL);
			check_token_request(reader, refresh, !connector->jwt_scope_claim, "token_param_names",
								"extra_token_params", jwt_bearer_params);
			break;
		case AUTH_BEARER_RENEW:
		case AUTH_API_KEY:
		case AUTH_BASIC:
			break;
	}
}

/* Who authenticates in the Authorization header has it to itself; a private key is never sent. */
static void
check_token_headers(const ConduitConnector *connector)
{
	const ConduitJson *header = connector->token_headers ? connector->token_headers->first : NULL;

	for (; header != NULL; header = header->next)
	{
		if (connector->client_auth == CLIENT_AUTH_PRIVATE_KEY_JWT &&
			conduit_text_has_variable(header->text, "client_secret"))
			conduit_field_refuse("token_headers", "would send the private key", NULL);
		if (pg_strcasecmp(header->key, "authorization") == 0 &&
			(connector->client_auth != CLIENT_AUTH_NONE || connector->jwt_in_header ||
			 connector->auth_type == AUTH_BEARER_RENEW))
			conduit_field_refuse("token_headers", "authorization is set by Conduit itself",
								 "It can be given with client_auth none alone.");
	}
}

static void
check_scopes(const ConduitConnector *connector)
{
	ListCell   *cell;

	foreach(cell, connector->default_scopes)
	{
		if (strstr(lfirst(cell), connector->scope_separator) != NULL)
			conduit_field_refuse("default_scopes", "an entry has the scope_separator in it", "Give one scope an entry.");
	}
}

static void
check_redirect(const ConduitConnector *connector)
{
	const char *code = connector->callback_code_param;
	ListCell   *cell;

	if (connector->callback_params != NULL && conduit_json_get(connector->callback_params, code) != NULL)
		conduit_field_refuse("callback_params", "the code is not for keeping", NULL);
	foreach(cell, connector->callback_metadata)
	{
		if (strcmp(lfirst(cell), code) == 0)
			conduit_field_refuse("callback_metadata", "the code is not for keeping", NULL);
	}
	if (strcmp(code, "state") == 0 || strcmp(code, "error") == 0 || strcmp(code, "iss") == 0)
		conduit_field_refuse("callback_code_param", "has a meaning of its own", NULL);
}

/*
 * A provider's answer must not decide where the client's secret or a refresh
 * token goes next; what comes by the redirect may, within its pattern, for
 * there are providers that say there at which of their hosts the code is good.
 */
static void
check_filled_variables(const ConduitConnector *connector)
{
	const struct
	{
		const char *field;
		const char *url;
	}			urls[] =
	{
		{"token_url", connector->token_url},
		{"refresh_url", connector->refresh_url},
		{"exchange_url", connector->exchange_url},
		{"revoke_url", connector->revoke_url}
	};
	const ConduitJson *param = connector->response_params ? connector->response_params->first : NULL;

	for (; param != NULL; param = param->next)
	{
		for (int i = 0; i < lengthof(urls); i++)
		{
			if (urls[i].url != NULL && conduit_text_has_variable(urls[i].url, param->key))
				conduit_field_refuse("response_params",
									 psprintf("%s stands in %s, to which secrets are sent", param->key, urls[i].field),
									 "An answer may fill the variables of account_url and api_base_url.");
		}
	}
}

/* Whether path leads to something named like a secret, or to where a token is or to what is around it. */
static bool
path_is_secret(const ConduitConnector *connector, const char *path)
{
	const char *const tokens[] = {connector->access_token_path, connector->refresh_token_path};
	const char *last = strrchr(path, '.');
	char		plain[NAMEDATALEN];
	int			length = 0;

	for (const char *c = last ? last + 1 : path; *c != '\0' && length < NAMEDATALEN - 1; c++)
	{
		if (*c != '_' && *c != '-')
			plain[length++] = pg_ascii_tolower((unsigned char) *c);
	}
	plain[length] = '\0';
	if (conduit_field_position(plain, secret_names) >= 0)
		return true;

	for (int i = 0; i < lengthof(tokens); i++)
	{
		size_t		path_length = strlen(path);

		if (tokens[i] != NULL && strncmp(tokens[i], path, path_length) == 0 &&
			(tokens[i][path_length] == '\0' || tokens[i][path_length] == '.'))
			return true;
	}
	return false;
}

/* What is kept in clear must not be a token. */
static void
check_kept_paths(const ConduitConnector *connector)
{
	const struct
	{
		const char *field;
		const char *path;
		const ConduitJson *paths;
	}			kept[] =
	{
		{"account_path", connector->account_path, NULL},
		{"account_label_path", connector->account_label_path, NULL},
		{"response_params", NULL, connector->response_params},
		{"response_metadata", NULL, connector->response_metadata}
	};
	const char *problem = "a path leads to a secret";
	const char *hint = "It would be kept in clear; a claim of a JWT is reached by one more step, such as id_token.sub.";

	for (int i = 0; i < lengthof(kept); i++)
	{
		const ConduitJson *member = kept[i].paths ? kept[i].paths->first : NULL;

		if (kept[i].path != NULL && path_is_secret(connector, kept[i].path))
			conduit_field_refuse(kept[i].field, problem, hint);
		for (; member != NULL; member = member->next)
		{
			if (path_is_secret(connector, member->text))
				conduit_field_refuse(kept[i].field, problem, hint);
		}
	}
}

void
conduit_connector_check(const DefinitionReader *reader)
{
	const ConduitConnector *connector = reader->connector;

	check_required(reader);
	check_companions(reader);
	if (!conduit_auth_has_endpoint(connector->auth_type))
		return;
	if (connector->issuer != NULL && strchr(connector->issuer, '?') != NULL)
		conduit_field_refuse("issuer", "has a query", "An issuer is a URL of scheme, host and path (RFC 8414, 2).");
	check_signing(reader);
	check_bodies(connector);
	check_requests(reader);
	check_token_headers(connector);
	check_revocation(connector);
	check_scopes(connector);
	check_redirect(connector);
	check_filled_variables(connector);
	check_kept_paths(connector);
	if (connector->reuse_window_s > 0 && !connector->refresh_rotates)
		conduit_field_refuse("reuse_window_s", "has no meaning where refresh tokens do not rotate", NULL);
}
