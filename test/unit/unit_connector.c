/*-------------------------------------------------------------------------
 *
 * unit_connector.c
 *	  SQL functions over connector definitions and templates, for tests.
 *
 * Wording:
 *	   - A definition is a connector's, as text.
 *	   - A member is one of ConduitConnector by its name; its text is "-" where
 *		 it is NULL.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "base/json.h"
#include "provider/connector.h"
#include "provider/token_response.h"
#include "provider/url_template.h"
#include "utils/builtins.h"

typedef enum MemberType
{
	TEXT_MEMBER,
	INT_MEMBER,
	BOOL_MEMBER,
	JSON_MEMBER,
	TEXTS_MEMBER,
	INTS_MEMBER,
	CODES_MEMBER,
	PHRASES_MEMBER
} MemberType;

#define MEMBER(type, name) {#name, type##_MEMBER, offsetof(ConduitConnector, name)}

static const struct
{
	const char *name;
	MemberType	type;
	size_t		offset;
}			members[] =
{
	MEMBER(TEXT, slug), MEMBER(TEXT, name), MEMBER(INT, auth_type),
	MEMBER(TEXT, issuer), MEMBER(TEXT, authorize_url), MEMBER(TEXT, token_url), MEMBER(TEXT, refresh_url),
	MEMBER(TEXT, exchange_url), MEMBER(TEXT, revoke_url), MEMBER(TEXT, account_url), MEMBER(TEXT, api_base_url),
	MEMBER(TEXT, api_auth),
	MEMBER(INT, client_auth), MEMBER(TEXT, client_assertion_audience), MEMBER(TEXT, client_assertion_issuer),
	MEMBER(TEXT, signing_algorithm),
	MEMBER(TEXT, code_request.method), MEMBER(INT, code_request.body_format), MEMBER(TEXT, code_request.grant_type),
	MEMBER(JSON, code_request.param_names), MEMBER(JSON, code_request.extra_params),
	MEMBER(TEXT, refresh_request.method), MEMBER(INT, refresh_request.body_format),
	MEMBER(TEXT, refresh_request.grant_type), MEMBER(JSON, refresh_request.param_names),
	MEMBER(JSON, refresh_request.extra_params),
	MEMBER(TEXT, exchange_grant_type), MEMBER(BOOL, refresh_by_access_token), MEMBER(BOOL, refresh_sends_scope),
	MEMBER(JSON, token_headers),
	MEMBER(BOOL, pkce), MEMBER(TEXT, scope_separator), MEMBER(TEXTS, default_scopes),
	MEMBER(JSON, authorize_param_names), MEMBER(JSON, extra_authorize_params), MEMBER(TEXT, callback_code_param),
	MEMBER(JSON, callback_params), MEMBER(TEXTS, callback_metadata), MEMBER(BOOL, callback_iss_required),
	MEMBER(TEXT, access_token_path), MEMBER(TEXT, refresh_token_path), MEMBER(TEXT, token_type_path),
	MEMBER(TEXT, scope_path), MEMBER(TEXT, expires_path), MEMBER(BOOL, expires_is_time), MEMBER(BOOL, expires_in_ms),
	MEMBER(TEXT, refresh_expires_path), MEMBER(TEXT, error_path), MEMBER(TEXT, error_description_path),
	MEMBER(TEXT, success_path), MEMBER(JSON, success_value), MEMBER(BOOL, refresh_extends),
	MEMBER(JSON, response_params), MEMBER(JSON, response_metadata), MEMBER(TEXT, account_path),
	MEMBER(TEXT, account_label_path),
	MEMBER(BOOL, refresh_rotates), MEMBER(BOOL, refresh_kills_access_token), MEMBER(INT, reuse_window_s),
	MEMBER(INT, access_token_lifetime_s), MEMBER(INT, refresh_token_lifetime_s), MEMBER(INT, refresh_idle_limit_s),
	MEMBER(INT, refresh_lead_s),
	MEMBER(CODES, error_codes), MEMBER(PHRASES, error_phrases), MEMBER(INTS, dead_statuses),
	MEMBER(TEXT, revoke_method), MEMBER(INT, revoke_body_format), MEMBER(BOOL, revoke_by_access_token),
	MEMBER(TEXT, revoke_param), MEMBER(INT, revoke_auth), MEMBER(BOOL, revokes_token),
	MEMBER(TEXT, jwt_audience), MEMBER(INT, jwt_lifetime_s), MEMBER(BOOL, jwt_in_header), MEMBER(BOOL, jwt_scope_claim),
	MEMBER(JSON, jwt_claims),
	MEMBER(JSON, params),
	MEMBER(INT, api_limit.requests), MEMBER(INT, api_limit.window_s), MEMBER(INT, api_limit.burst),
	MEMBER(INT, token_limit.requests), MEMBER(INT, token_limit.window_s), MEMBER(INT, token_limit.burst)
};

static void
append_meanings(StringInfo out, const ErrorMeaning *meanings, int n)
{
	for (int i = 0; i < n; i++)
		appendStringInfo(out, "%s%s=%s", i > 0 ? ", " : "", meanings[i].text, conduit_outcome_name(meanings[i].outcome));
}

static void
append_member(StringInfo out, const ConduitConnector *connector, int n)
{
	const char *at = (const char *) connector + members[n].offset;
	const char *text;
	const ConduitJson *json;
	List	   *list;
	ListCell   *cell;

	switch (members[n].type)
	{
		case TEXT_MEMBER:
			text = *(char *const *) at;
			appendStringInfoString(out, text ? text : "-");
			break;
		case INT_MEMBER:
			appendStringInfo(out, "%d", *(const int *) at);
			break;
		case BOOL_MEMBER:
			appendStringInfoString(out, *(const bool *) at ? "true" : "false");
			break;
		case JSON_MEMBER:
			json = *(const ConduitJson *const *) at;
			if (json != NULL)
				conduit_json_write(out, json);
			else
				appendStringInfoChar(out, '-');
			break;
		case TEXTS_MEMBER:
		case INTS_MEMBER:
			list = *(List *const *) at;
			foreach(cell, list)
			{
				if (members[n].type == TEXTS_MEMBER)
					appendStringInfo(out, "[%s]", (char *) lfirst(cell));
				else
					appendStringInfo(out, "[%d]", lfirst_int(cell));
			}
			break;
		case CODES_MEMBER:
			append_meanings(out, connector->error_codes, connector->nerror_codes);
			break;
		case PHRASES_MEMBER:
			append_meanings(out, connector->error_phrases, connector->nerror_phrases);
			break;
	}
}

static ConduitConnector *
connector_argument(FunctionCallInfo fcinfo)
{
	return conduit_connector_parse("unit", text_to_cstring(PG_GETARG_TEXT_PP(0)));
}

static char *
string_argument(FunctionCallInfo fcinfo, int n)
{
	return text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* An object from text; bad input is NULL. */
static ConduitJson *
json_argument(FunctionCallInfo fcinfo, int n)
{
	char	   *text = string_argument(fcinfo, n);
	const char *problem;

	return conduit_json_parse(text, strlen(text), &problem);
}

/* What came of a template: the text, or "! variable: problem". */
static Datum
filled(char *text, const char *problem, const char *variable)
{
	if (text == NULL)
		text = psprintf("! %s: %s", variable ? variable : "-", problem);
	PG_RETURN_TEXT_P(cstring_to_text(text));
}

PG_FUNCTION_INFO_V1(unit_connector);
Datum
unit_connector(PG_FUNCTION_ARGS)
{
	char	   *definition = string_argument(fcinfo, 0);

	if (PG_GETARG_BOOL(1))
		(void) conduit_connector_load("unit", definition);
	else
		(void) conduit_connector_parse("unit", definition);
	PG_RETURN_TEXT_P(cstring_to_text("ok"));
}

/* Some members, by names separated by blanks, as "name=text" in that order; '' is all of them. */
PG_FUNCTION_INFO_V1(unit_connector_members);
Datum
unit_connector_members(PG_FUNCTION_ARGS)
{
	ConduitConnector *connector = connector_argument(fcinfo);
	char	   *wanted = string_argument(fcinfo, 1);
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; wanted[0] == '\0' && i < lengthof(members); i++)
	{
		appendStringInfo(&out, "%s%s=", i > 0 ? " " : "", members[i].name);
		append_member(&out, connector, i);
	}
	for (char *name = strtok(wanted, " "); name != NULL; name = strtok(NULL, " "))
	{
		int			i = 0;

		while (i < lengthof(members) && strcmp(members[i].name, name) != 0)
			i++;
		if (i == lengthof(members))
			elog(ERROR, "there is no member %s", name);
		appendStringInfo(&out, "%s%s=", out.len > 0 ? " " : "", name);
		append_member(&out, connector, i);
	}
	PG_RETURN_TEXT_P(cstring_to_text(out.data));
}

PG_FUNCTION_INFO_V1(unit_slug_valid);
Datum
unit_slug_valid(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(conduit_connector_slug_valid(string_argument(fcinfo, 0)));
}

/* "takes a client / needs its secret" */
PG_FUNCTION_INFO_V1(unit_client_use);
Datum
unit_client_use(PG_FUNCTION_ARGS)
{
	ConduitConnector *connector = connector_argument(fcinfo);

	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%d/%d", conduit_connector_takes_client(connector),
											  conduit_connector_needs_secret(connector))));
}

PG_FUNCTION_INFO_V1(unit_expand);
Datum
unit_expand(PG_FUNCTION_ARGS)
{
	const char *problem;
	const char *variable;
	char	   *url = conduit_connector_expand(connector_argument(fcinfo), string_argument(fcinfo, 1),
											   json_argument(fcinfo, 2), &problem, &variable);

	return filled(url, problem, variable);
}

PG_FUNCTION_INFO_V1(unit_expand_revoke);
Datum
unit_expand_revoke(PG_FUNCTION_ARGS)
{
	const char *problem;
	const char *variable;
	char	   *url = conduit_connector_expand_revoke(connector_argument(fcinfo), json_argument(fcinfo, 1),
													  string_argument(fcinfo, 2), string_argument(fcinfo, 3),
													  &problem, &variable);

	return filled(url, problem, variable);
}

PG_FUNCTION_INFO_V1(unit_text_fill);
Datum
unit_text_fill(PG_FUNCTION_ARGS)
{
	const TemplateValue values[] = {{"client_id", "{sub} \xc3\xa9"}, {"client_secret", "s"}, {NULL, NULL}};
	const char *problem;
	const char *variable;
	char	   *text = conduit_text_fill(connector_argument(fcinfo), string_argument(fcinfo, 1),
										 json_argument(fcinfo, 2), values, &problem, &variable);

	return filled(text, problem, variable);
}

PG_FUNCTION_INFO_V1(unit_check_params);
Datum
unit_check_params(PG_FUNCTION_ARGS)
{
	conduit_connector_check_params(connector_argument(fcinfo), json_argument(fcinfo, 1));
	PG_RETURN_TEXT_P(cstring_to_text("ok"));
}

PG_FUNCTION_INFO_V1(unit_token_origin);
Datum
unit_token_origin(PG_FUNCTION_ARGS)
{
	ConduitConnector *connector = conduit_connector_load("unit", string_argument(fcinfo, 0));

	PG_RETURN_TEXT_P(cstring_to_text(conduit_connector_token_origin(connector, json_argument(fcinfo, 1))));
}

PG_FUNCTION_INFO_V1(unit_template_origin);
Datum
unit_template_origin(PG_FUNCTION_ARGS)
{
	char	   *origin = conduit_connector_origin(connector_argument(fcinfo), string_argument(fcinfo, 1),
												  json_argument(fcinfo, 2));

	PG_RETURN_TEXT_P(cstring_to_text(origin ? origin : "-"));
}
