/*-------------------------------------------------------------------------
 *
 * connector.c
 *	  Definitions of providers: what fields there are.
 *
 * A definition is refused as a whole or taken as a whole.  Fields are read by
 * a table; null is the same as leaving a field out, so that a definition that
 * extends another can take something away.  (One exception: revoke_param, where
 * null says that there is none.)
 *
 * Wording:
 *	   - A token field makes sense only where there is a token endpoint.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "mb/pg_wchar.h"

#include "provider/connector.h"
#include "provider/connector_check.h"
#include "provider/connector_field.h"
#include "provider/url_template.h"

#define DAY				86400
#define MAX_LIFETIME	(10 * 366 * DAY)
#define MAX_REQUESTS	1000000000
#define MAX_WINDOW		(31 * DAY)

/* Who may have a field. */
#define CODE			(1 << AUTH_OAUTH2_CODE)
#define CLIENT			(1 << AUTH_CLIENT_CREDENTIALS)
#define JWT				(1 << AUTH_JWT_BEARER)
#define RENEW			(1 << AUTH_BEARER_RENEW)
#define TOKEN			(CODE | CLIENT | JWT | RENEW)
#define GRANT			(CODE | CLIENT | JWT)	/* who asks by grant_type */
#define ALL				(TOKEN | 1 << AUTH_API_KEY | 1 << AUTH_BASIC)

#define MEMBER(name) offsetof(ConduitConnector, name)

static const FieldWord auth_type_words[] = {
	{"oauth2_code", AUTH_OAUTH2_CODE},
	{"oauth2_client_credentials", AUTH_CLIENT_CREDENTIALS},
	{"jwt_bearer", AUTH_JWT_BEARER},
	{"bearer_renew", AUTH_BEARER_RENEW},
	{"api_key", AUTH_API_KEY},
	{"basic", AUTH_BASIC},
	{NULL}
};

static const FieldWord client_auth_words[] = {
	{"post", CLIENT_AUTH_POST},
	{"basic", CLIENT_AUTH_BASIC},
	{"none", CLIENT_AUTH_NONE},
	{"private_key_jwt", CLIENT_AUTH_PRIVATE_KEY_JWT},
	{"secret_as_user", CLIENT_AUTH_SECRET_AS_USER},
	{NULL}
};

static const FieldWord body_format_words[] = {
	{"form", BODY_FORM}, {"json", BODY_JSON}, {"query", BODY_QUERY}, {NULL}
};

static const FieldWord method_words[] = {
	{"POST", 0, "POST"}, {"GET", 0, "GET"}, {NULL}
};

static const FieldWord revoke_method_words[] = {
	{"POST", 0, "POST"}, {"DELETE", 0, "DELETE"}, {"GET", 0, "GET"}, {NULL}
};

static const FieldWord revoke_auth_words[] = {
	{"client", REVOKE_AUTH_CLIENT}, {"basic", REVOKE_AUTH_BASIC},
	{"token", REVOKE_AUTH_TOKEN}, {"none", REVOKE_AUTH_NONE}, {NULL}
};

static const FieldWord revokes_words[] = {
	{"grant", false}, {"token", true}, {NULL}
};

/* refresh_credential and revoke_credential */
static const FieldWord credential_words[] = {
	{"refresh_token", false}, {"access_token", true}, {NULL}
};

static const FieldWord algorithm_words[] = {
	{"RS256", 0, "RS256"}, {"RS384", 0, "RS384"}, {"RS512", 0, "RS512"}, {"PS256", 0, "PS256"},
	{"ES256", 0, "ES256"}, {"ES384", 0, "ES384"}, {"EdDSA", 0, "EdDSA"}, {NULL}
};

static const FieldWord separator_words[] = {
	{"space", 0, " "}, {"comma", 0, ","}, {"plus", 0, "+"}, {" ", 0, " "}, {",", 0, ","}, {"+", 0, "+"}, {NULL}
};

static const FieldWord expires_kind_words[] = {
	{"in", false}, {"at", true}, {NULL}
};

static const FieldWord expires_unit_words[] = {
	{"s", false}, {"ms", true}, {NULL}
};

static const FieldWord jwt_in_words[] = {
	{"assertion", false}, {"authorization", true}, {NULL}
};

/*
 * Both flags are true where nothing is known: PKCE harms nobody who ignores
 * it, and to take a refresh token for reusable is the dearer mistake.
 */
static const FieldWord pkce_words[] = {
	{"supported", true}, {"required", true}, {"unknown", true}, {"no", false}, {NULL}
};

static const FieldWord rotates_words[] = {
	{"yes", true}, {"unknown", true}, {"no", false}, {NULL}
};

static const FieldWord class_words[] = {
	{"dead", OUTCOME_DEAD}, {"config", OUTCOME_CONFIG}, {"throttled", OUTCOME_THROTTLED},
	{"transient", OUTCOME_TRANSIENT}, {NULL}
};

/* Canonical names that may be renamed. */
static const char *const token_params[] = {"grant_type", "code", "redirect_uri", "code_verifier",
	"refresh_token", "client_id", "client_secret", "client_assertion", "client_assertion_type",
"scope", "assertion", NULL};
static const char *const refresh_params[] = {"grant_type", "refresh_token", "client_id", "client_secret",
"client_assertion", "client_assertion_type", "scope", NULL};
static const char *const authorize_params[] = {"response_type", "client_id", "redirect_uri", "scope",
"state", "code_challenge", "code_challenge_method", NULL};

/* Claims that Conduit makes itself. */
static const char *const own_claims[] = {"iss", "sub", "aud", "iat", "nbf", "exp", "jti", NULL};

static void
read_token_params(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	reader->token_params = conduit_field_pairs(reader, field->name, value);
}

static void
read_claims(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	if (value->type != CONDUIT_JSON_OBJECT)
		conduit_field_refuse(field->name, "not an object", "Give an object of strings.");
	for (const ConduitJson *c = value->first; c != NULL; c = c->next)
	{
		if (conduit_field_position(c->key, own_claims) >= 0)
			conduit_field_refuse(field->name, psprintf("%s is set by Conduit itself", c->key), NULL);
	}
	conduit_field_read_pairs(reader, field, value);
}

/* In the order of docs/connectors.md; params comes first, for others refer to it. */
static const ConnectorField fields[] = {
	{"params", ALL, conduit_field_read_params},
	{"name", ALL, conduit_field_read_string, MEMBER(name), .max = 100},
	{"auth_type", ALL, conduit_field_read_word, MEMBER(auth_type), .words = auth_type_words},

	/* endpoints */
	{"issuer", TOKEN, conduit_field_read_url, MEMBER(issuer)},
	{"authorize_url", CODE, conduit_field_read_url, MEMBER(authorize_url)},
	{"token_url", TOKEN, conduit_field_read_url, MEMBER(token_url)},
	{"refresh_url", CODE, conduit_field_read_url, MEMBER(refresh_url)},
	{"exchange_url", CODE, conduit_field_read_url, MEMBER(exchange_url)},
	{"revoke_url", GRANT, conduit_field_read_url, MEMBER(revoke_url)},
	{"account_url", CODE, conduit_field_read_url, MEMBER(account_url)},
	{"api_base_url", ALL, conduit_field_read_url, MEMBER(api_base_url)},
	{"api_auth", ALL, conduit_field_read_api_auth},
	{"preview_hosts", ALL, conduit_field_read_hosts, MEMBER(preview_hosts)},

	/* the client */
	{"client_auth", GRANT, conduit_field_read_word, MEMBER(client_auth), .words = client_auth_words},
	{"client_assertion_audience", GRANT, conduit_field_read_template, MEMBER(client_assertion_audience), .max = 2048},
	{"client_assertion_issuer", GRANT, conduit_field_read_template, MEMBER(client_assertion_issuer), .max = 255},
	{"signing_algorithm", GRANT, conduit_field_read_choice, MEMBER(signing_algorithm), .words = algorithm_words},

	/* requests */
	{"body_format", TOKEN, conduit_field_read_word, MEMBER(code_request.body_format), .words = body_format_words},
	{"refresh_body_format", CODE, conduit_field_read_word, MEMBER(refresh_request.body_format), .words = body_format_words},
	{"token_method", GRANT, conduit_field_read_choice, MEMBER(code_request.method), .words = method_words},
	{"refresh_method", CODE, conduit_field_read_choice, MEMBER(refresh_request.method), .words = method_words},
	{"token_param_names", GRANT, conduit_field_read_renames, MEMBER(code_request.param_names), .names = token_params},
	{"refresh_param_names", CODE, conduit_field_read_renames, MEMBER(refresh_request.param_names), .names = refresh_params},
	{"extra_token_params", TOKEN, read_token_params},
	{"extra_code_params", CODE, conduit_field_read_pairs, MEMBER(code_request.extra_params)},
	{"extra_refresh_params", CODE, conduit_field_read_pairs, MEMBER(refresh_request.extra_params)},
	{"code_grant_type", CODE, conduit_field_read_string, MEMBER(code_request.grant_type), .max = 255},
	{"refresh_grant_type", GRANT, conduit_field_read_string, MEMBER(refresh_request.grant_type), .max = 255},
	{"exchange_grant_type", CODE, conduit_field_read_string, MEMBER(exchange_grant_type), .max = 255},
	{"refresh_credential", CODE, conduit_field_read_flag_word, MEMBER(refresh_by_access_token), .words = credential_words},
	{"refresh_sends_scope", CODE, conduit_field_read_flag, MEMBER(refresh_sends_scope)},
	{"token_headers", TOKEN, conduit_field_read_token_headers},

	/* authorize */
	{"pkce", CODE, conduit_field_read_flag, MEMBER(pkce), .words = pkce_words},
	{"scope_separator", GRANT, conduit_field_read_choice, MEMBER(scope_separator), .words = separator_words},
	{"default_scopes", GRANT, conduit_field_read_scopes, MEMBER(default_scopes)},
	{"authorize_param_names", CODE, conduit_field_read_renames, MEMBER(authorize_param_names), .names = authorize_params},
	{"extra_authorize_params", CODE, conduit_field_read_pairs, MEMBER(extra_authorize_params)},
	{"callback_code_param", CODE, conduit_field_read_string, MEMBER(callback_code_param), .max = 128},
	{"callback_params", CODE, conduit_field_read_variables, MEMBER(callback_params)},
	{"callback_metadata", CODE, conduit_field_read_names, MEMBER(callback_metadata)},
	{"callback_iss_required", CODE, conduit_field_read_flag, MEMBER(callback_iss_required)},

	/* answers */
	{"access_token_path", TOKEN, conduit_field_read_path, MEMBER(access_token_path)},
	{"refresh_token_path", CODE | RENEW, conduit_field_read_path, MEMBER(refresh_token_path)},
	{"token_type_path", TOKEN, conduit_field_read_path, MEMBER(token_type_path)},
	{"scope_path", TOKEN, conduit_field_read_path, MEMBER(scope_path)},
	{"expires_path", TOKEN, conduit_field_read_path, MEMBER(expires_path)},
	{"expires_kind", TOKEN, conduit_field_read_flag_word, MEMBER(expires_is_time), .words = expires_kind_words},
	{"expires_unit", TOKEN, conduit_field_read_flag_word, MEMBER(expires_in_ms), .words = expires_unit_words},
	{"refresh_expires_path", CODE | RENEW, conduit_field_read_path, MEMBER(refresh_expires_path)},
	{"error_path", TOKEN, conduit_field_read_path, MEMBER(error_path)},
	{"error_description_path", TOKEN, conduit_field_read_path, MEMBER(error_description_path)},
	{"success_path", TOKEN, conduit_field_read_path, MEMBER(success_path)},
	{"success_value", TOKEN, conduit_field_read_scalar, MEMBER(success_value)},
	{"refresh_extends", CODE | RENEW, conduit_field_read_flag, MEMBER(refresh_extends)},
	{"response_params", TOKEN, conduit_field_read_paths, MEMBER(response_params)},
	{"response_metadata", TOKEN, conduit_field_read_paths, MEMBER(response_metadata)},
	{"account_path", CODE, conduit_field_read_path, MEMBER(account_path)},
	{"account_label_path", CODE, conduit_field_read_path, MEMBER(account_label_path)},

	/* how tokens live */
	{"refresh_rotates", CODE | RENEW, conduit_field_read_flag, MEMBER(refresh_rotates), .words = rotates_words},
	{"refresh_kills_access_token", TOKEN, conduit_field_read_flag, MEMBER(refresh_kills_access_token)},
	{"reuse_window_s", CODE | RENEW, conduit_field_read_integer, MEMBER(reuse_window_s), .max = 366 * DAY},
	{"access_token_lifetime_s", TOKEN, conduit_field_read_integer, MEMBER(access_token_lifetime_s), .max = MAX_LIFETIME},
	{"refresh_token_lifetime_s", CODE | RENEW, conduit_field_read_integer, MEMBER(refresh_token_lifetime_s), .max = MAX_LIFETIME},
	{"refresh_idle_limit_s", CODE | RENEW, conduit_field_read_integer, MEMBER(refresh_idle_limit_s), .max = MAX_LIFETIME},
	{"refresh_lead_s", TOKEN, conduit_field_read_integer, MEMBER(refresh_lead_s), .max = 30 * DAY},

	/* errors */
	{"error_codes", TOKEN, conduit_field_read_meanings, MEMBER(error_codes), .words = class_words},
	{"error_phrases", TOKEN, conduit_field_read_meanings, MEMBER(error_phrases), .words = class_words},
	{"dead_errors", TOKEN, conduit_field_read_dead_errors},
	{"dead_statuses", TOKEN, conduit_field_read_dead_statuses},

	/* revocation */
	{"revoke_method", GRANT, conduit_field_read_choice, MEMBER(revoke_method), .words = revoke_method_words},
	{"revoke_body_format", GRANT, conduit_field_read_word, MEMBER(revoke_body_format), .words = body_format_words},
	{"revoke_credential", CODE, conduit_field_read_flag_word, MEMBER(revoke_by_access_token), .words = credential_words},
	{"revoke_param", GRANT, conduit_field_read_string, MEMBER(revoke_param), .max = 128},
	{"revoke_auth", GRANT, conduit_field_read_word, MEMBER(revoke_auth), .words = revoke_auth_words},
	{"revokes", GRANT, conduit_field_read_flag_word, MEMBER(revokes_token), .words = revokes_words},

	/* assertions */
	{"jwt_audience", JWT, conduit_field_read_template, MEMBER(jwt_audience), .max = 2048},
	{"jwt_lifetime_s", JWT, conduit_field_read_integer, MEMBER(jwt_lifetime_s), .min = 30, .max = 3600},
	{"jwt_in", JWT, conduit_field_read_flag_word, MEMBER(jwt_in_header), .words = jwt_in_words},
	{"jwt_scope_claim", JWT, conduit_field_read_flag, MEMBER(jwt_scope_claim)},
	{"jwt_claims", JWT, read_claims, MEMBER(jwt_claims)},

	/* limits */
	{"rate_limit_requests", ALL, conduit_field_read_integer, MEMBER(api_limit.requests), .min = 1, .max = MAX_REQUESTS},
	{"rate_limit_window_s", ALL, conduit_field_read_integer, MEMBER(api_limit.window_s), .min = 1, .max = MAX_WINDOW},
	{"rate_limit_burst", ALL, conduit_field_read_integer, MEMBER(api_limit.burst), .min = 1, .max = MAX_REQUESTS},
	{"token_rate_limit_requests", TOKEN, conduit_field_read_integer, MEMBER(token_limit.requests), .min = 1, .max = MAX_REQUESTS},
	{"token_rate_limit_window_s", TOKEN, conduit_field_read_integer, MEMBER(token_limit.window_s), .min = 1, .max = MAX_WINDOW},
	{"token_rate_limit_burst", TOKEN, conduit_field_read_integer, MEMBER(token_limit.burst), .min = 1, .max = MAX_REQUESTS}
};

/* "oauth2_code, jwt_bearer or basic", of those that may have a field. */
static char *
list_auth_types(int auth_types)
{
	StringInfoData list;
	int			left = 0;

	for (const FieldWord *w = auth_type_words; w->word != NULL; w++)
		left += (auth_types >> w->value) & 1;
	initStringInfo(&list);
	for (const FieldWord *w = auth_type_words; w->word != NULL; w++)
	{
		if (!(auth_types & (1 << w->value)))
			continue;
		left--;
		appendStringInfo(&list, "%s%s", w->word, left > 1 ? ", " : left == 1 ? " or " : "");
	}
	return list.data;
}

static const ConnectorField *
find_field(const char *name)
{
	for (int i = 0; i < lengthof(fields); i++)
	{
		if (strcmp(fields[i].name, name) == 0)
			return &fields[i];
	}
	return NULL;
}

/* Every field is known, and the connector's auth_type may have it. */
static void
check_field_names(const ConduitJson *root, AuthType auth_type)
{
	for (const ConduitJson *f = root->first; f != NULL; f = f->next)
	{
		const ConnectorField *field = find_field(f->key);

		if (field == NULL)
			conduit_field_refuse(conduit_field_quotable(f->key, "definition"), "unknown field",
								 "See the documentation of connector definitions for the fields there are.");
		if (f->type != CONDUIT_JSON_NULL && !(field->auth_types & (1 << auth_type)))
			conduit_field_refuse(f->key, conduit_auth_has_endpoint(auth_type) ?
								 "has no meaning with this auth_type" : "has no meaning without a token endpoint",
								 psprintf("Leave it out, or set auth_type to %s.", list_auth_types(field->auth_types)));
	}
}

static void
read_auth_type(DefinitionReader *reader)
{
	const ConduitJson *value = conduit_field_get(reader, "auth_type");

	if (value == NULL)
		conduit_field_refuse("auth_type", "missing", psprintf("Give %s.", list_auth_types(ALL)));
	conduit_field_read_word(reader, find_field("auth_type"), value);
}

/* What members have where the definition says nothing; all others are zero. */
static void
set_defaults(ConduitConnector *connector)
{
	bool		has_refresh_token = connector->auth_type == AUTH_OAUTH2_CODE || connector->auth_type == AUTH_BEARER_RENEW;

	connector->name = connector->slug;
	connector->client_auth = connector->auth_type == AUTH_OAUTH2_CODE ||
		connector->auth_type == AUTH_CLIENT_CREDENTIALS ? CLIENT_AUTH_POST : CLIENT_AUTH_NONE;
	connector->signing_algorithm = "RS256";
	connector->code_request.method = "POST";
	connector->code_request.body_format = connector->auth_type == AUTH_BEARER_RENEW ? BODY_JSON : BODY_FORM;
	connector->code_request.grant_type = "authorization_code";
	connector->pkce = connector->auth_type == AUTH_OAUTH2_CODE;
	connector->scope_separator = " ";
	connector->callback_code_param = "code";
	connector->refresh_rotates = has_refresh_token;
	connector->refresh_lead_s = -1;
	connector->revoke_method = "POST";
	connector->revoke_by_access_token = !has_refresh_token;
	connector->jwt_lifetime_s = 300;
}

/* base with what is in over; a member of over takes the place of one of base. */
static const ConduitJson *
overlay(const ConduitJson *base, const ConduitJson *over)
{
	ConduitJson *result;
	ConduitJson **end;

	if (base == NULL || over == NULL)
		return base ? base : over;
	result = palloc0(sizeof(ConduitJson));
	result->type = CONDUIT_JSON_OBJECT;
	end = &result->first;
	for (int i = 0; i < 2; i++)
	{
		for (const ConduitJson *m = i == 0 ? base->first : over->first; m != NULL; m = m->next)
		{
			if (i == 0 && conduit_json_get(over, m->key) != NULL)
				continue;
			*end = palloc(sizeof(ConduitJson));
			**end = *m;
			(*end)->next = NULL;
			end = &(*end)->next;
		}
	}
	return result;
}

/* Refreshes are put like the code's request, but for what is said of them. */
static void
derive_refresh_request(const DefinitionReader *reader)
{
	RequestForm *code = &reader->connector->code_request;
	RequestForm *refresh = &reader->connector->refresh_request;

	if (conduit_field_get(reader, "refresh_body_format") == NULL)
		refresh->body_format = code->body_format;
	if (refresh->method == NULL)
		refresh->method = refresh->body_format == BODY_QUERY ? code->method : "POST";
	refresh->param_names = overlay(code->param_names, refresh->param_names);
	if (refresh->grant_type != NULL)
		return;
	switch (reader->connector->auth_type)
	{
		case AUTH_OAUTH2_CODE:
			refresh->grant_type = "refresh_token";
			break;
		case AUTH_CLIENT_CREDENTIALS:
			refresh->grant_type = "client_credentials";
			break;
		case AUTH_JWT_BEARER:
			if (!reader->connector->jwt_in_header)
				refresh->grant_type = "urn:ietf:params:oauth:grant-type:jwt-bearer";
			break;
		case AUTH_BEARER_RENEW:
		case AUTH_API_KEY:
		case AUTH_BASIC:
			break;
	}
}

static void
derive_revocation(const DefinitionReader *reader)
{
	ConduitConnector *connector = reader->connector;

	if (conduit_field_get(reader, "revoke_body_format") == NULL && strcmp(connector->revoke_method, "GET") == 0)
		connector->revoke_body_format = BODY_QUERY;

	/* null says none; left out, it is where the token is not in the URL already */
	if (conduit_json_get(reader->root, "revoke_param") == NULL &&
		!(connector->revoke_url != NULL && conduit_text_has_variable(connector->revoke_url, "token")))
		connector->revoke_param = "token";
}

static ConduitConnector *
parse_definition(const char *slug, const char *definition, bool check_egress)
{
	ConduitConnector *connector = palloc0(sizeof(ConduitConnector));
	DefinitionReader reader = {connector, NULL, check_egress};
	char	   *text = pstrdup(pg_server_to_any(definition, strlen(definition), PG_UTF8));
	const char *problem;

	reader.root = conduit_json_parse(text, strlen(text), &problem);
	if (reader.root == NULL)
		conduit_field_refuse("definition", problem, "Give a JSON object.");
	if (reader.root->type != CONDUIT_JSON_OBJECT)
		conduit_field_refuse("definition", "not an object", "Give a JSON object.");

	connector->slug = pstrdup(slug);
	read_auth_type(&reader);
	check_field_names(reader.root, connector->auth_type);
	set_defaults(connector);
	for (int i = 0; i < lengthof(fields); i++)
	{
		const ConduitJson *value = conduit_field_get(&reader, fields[i].name);

		if (value != NULL)
			fields[i].read(&reader, &fields[i], value);
	}
	derive_refresh_request(&reader);
	derive_revocation(&reader);
	conduit_connector_check(&reader);

	connector->code_request.extra_params = overlay(reader.token_params, connector->code_request.extra_params);
	connector->refresh_request.extra_params = overlay(reader.token_params, connector->refresh_request.extra_params);
	return connector;
}

ConduitConnector *
conduit_connector_parse(const char *slug, const char *definition)
{
	return parse_definition(slug, definition, true);
}

ConduitConnector *
conduit_connector_load(const char *slug, const char *definition)
{
	return parse_definition(slug, definition, false);
}

static bool
header_uses(const ConduitConnector *connector, const char *variable)
{
	for (const ConduitJson *h = connector->token_headers ? connector->token_headers->first : NULL;
		 h != NULL; h = h->next)
	{
		if (conduit_text_has_variable(h->text, variable))
			return true;
	}
	return false;
}

bool
conduit_connector_takes_client(const ConduitConnector *connector)
{
	if (connector->auth_type == AUTH_OAUTH2_CODE || connector->auth_type == AUTH_CLIENT_CREDENTIALS)
		return true;
	return conduit_auth_has_endpoint(connector->auth_type) &&
		(connector->client_auth != CLIENT_AUTH_NONE || header_uses(connector, "client_id") ||
		 header_uses(connector, "client_secret"));
}

bool
conduit_connector_binds_client(const ConduitConnector *connector)
{
	return conduit_connector_takes_client(connector) && !conduit_auth_mints(connector->auth_type);
}

bool
conduit_connector_needs_secret(const ConduitConnector *connector)
{
	return conduit_connector_takes_client(connector) &&
		(connector->client_auth != CLIENT_AUTH_NONE || header_uses(connector, "client_secret"));
}

bool
conduit_connector_slug_valid(const char *slug)
{
	size_t		length = strlen(slug);
	bool		joined = false;

	if (length == 0 || length > 63 || slug[0] < 'a' || slug[0] > 'z')
		return false;
	for (size_t i = 0; i < length; i++)
	{
		if (slug[i] == '-' || slug[i] == '_')
		{
			if (joined)
				return false;
			joined = true;
		}
		else if ((slug[i] >= 'a' && slug[i] <= 'z') || (slug[i] >= '0' && slug[i] <= '9'))
			joined = false;
		else
			return false;
	}
	return !joined;
}
