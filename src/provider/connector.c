/*-------------------------------------------------------------------------
 *
 * connector.c
 *	  Definitions of providers: parsing and validation.
 *
 * A definition is refused as a whole or taken as a whole.  Fields are read by
 * a table; null is the same as leaving a field out, so that a definition that
 * extends another can take something away.
 *
 * Wording:
 *	   - A token field makes sense only where there is a token endpoint.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <math.h>

#include "base/report.h"
#include "provider/connector.h"
#include "provider/egress.h"
#include "provider/url.h"
#include "provider/url_template.h"

#define MAX_YEARS_10	(10 * 366 * 86400)

/* What is being read; whom a bad field is blamed on. */
typedef struct Reader
{
	ConduitConnector *connector;
	const ConduitJson *root;
	bool		check_egress;
} Reader;

static const struct
{
	const char *name;
	bool		token_field;
}			known_fields[] =
{
	{"name", false},
	{"auth_type", false},
	{"authorize_url", true},
	{"token_url", true},
	{"refresh_url", true},
	{"revoke_url", true},
	{"client_auth", true},
	{"pkce", true},
	{"scope_separator", true},
	{"extra_authorize_params", true},
	{"extra_token_params", true},
	{"refresh_rotates", true},
	{"access_token_lifetime_s", true},
	{"refresh_token_lifetime_s", true},
	{"refresh_lead_s", true},
	{"api_base_url", false},
	{"api_auth", false},
	{"dead_errors", true},
	{"dead_statuses", true},
	{"params", false},
	{"rate_limit_requests", false},
	{"rate_limit_window_s", false}
};

/* Names that api_auth gives a meaning of its own. */
static const char *const credential_variables[] =
{"token", "api_key", "api_secret", "username", "password", "basic"};

/* Parameters that Conduit itself sends; a definition must not send them twice. */
static const char *const token_request_params[] =
{"grant_type", "refresh_token", "client_id", "client_secret", "code", "code_verifier", "redirect_uri"};

static const char *const authorize_request_params[] =
{"client_id", "redirect_uri", "response_type", "state", "code_challenge", "code_challenge_method"};

pg_noreturn static void
bad_field(const char *field, const char *problem, const char *hint)
{
	conduit_bad_argument("invalid connector definition", psprintf("%s: %s", field, problem), hint);
}

static bool
is_one_of(const char *text, const char *const *list, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (strcmp(text, list[i]) == 0)
			return true;
	}
	return false;
}

/* A name fit for an error text; others are left out of it. */
static const char *
quotable(const char *name, const char *otherwise)
{
	size_t		length = strlen(name);

	if (length == 0 || length > NAMEDATALEN ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") < length)
		return otherwise;
	return name;
}

/* The field's value, NULL where it is absent or null. */
static const ConduitJson *
get_field(const Reader *reader, const char *field)
{
	const ConduitJson *value = conduit_json_get(reader->root, field);

	return value != NULL && value->type != CONDUIT_JSON_NULL ? value : NULL;
}

static bool
has_control_character(const char *text)
{
	for (const unsigned char *c = (const unsigned char *) text; *c != '\0'; c++)
	{
		if (*c < ' ' || *c == 0x7f)
			return true;
	}
	return false;
}

/* A string without control characters, 1 to max bytes; NULL where absent. */
static char *
read_string(const Reader *reader, const char *field, int max)
{
	const ConduitJson *value = get_field(reader, field);
	const char *text;

	if (value == NULL)
		return NULL;
	text = conduit_json_string(value);
	if (text == NULL)
		bad_field(field, "not a string", "Give a string.");
	if (text[0] == '\0')
		bad_field(field, "empty", "Give a value or leave the field out.");
	if (value->length > max)
		bad_field(field, "too long", NULL);
	if (has_control_character(text))
		bad_field(field, "has a control character", NULL);
	return pstrdup(text);
}

static int
read_integer(const Reader *reader, const char *field, int otherwise, int min, int max)
{
	const ConduitJson *value = get_field(reader, field);
	double		number;

	if (value == NULL)
		return otherwise;
	if (value->type != CONDUIT_JSON_NUMBER || !conduit_json_double(value, &number) ||
		number != rint(number))
		bad_field(field, "not an integer", "Give a whole number.");
	if (number < min || number > max)
		bad_field(field, "out of range", psprintf("Give a number from %d to %d.", min, max));
	return (int) number;
}

static char *
read_url(const Reader *reader, const char *field)
{
	char	   *template_url = read_string(reader, field, CONDUIT_URL_MAX);
	const char *problem;
	const char *variable;
	char	   *sample;

	if (template_url == NULL)
		return NULL;
	sample = conduit_template_fill(reader->connector, template_url, NULL, TEMPLATE_SAMPLE,
								   &problem, &variable);
	if (sample == NULL)
		bad_field(field,
				  variable ? psprintf("{%s}: %s", variable, problem) : problem,
				  "Variables are written {name}, stand in host, path or query, and are declared in params.");

	if (reader->check_egress)
		problem = conduit_egress_check_url(sample);
	else
	{
		ConduitUrl	parts;

		problem = conduit_url_split(sample, &parts);
	}
	if (problem != NULL)
		bad_field(field, problem, "Give an absolute https URL of a public host.");
	pfree(sample);
	return template_url;
}

static AuthType
read_auth_type(const Reader *reader)
{
	const char *text = read_string(reader, "auth_type", 64);

	if (text != NULL && strcmp(text, "oauth2_code") == 0)
		return AUTH_OAUTH2_CODE;
	if (text != NULL && strcmp(text, "api_key") == 0)
		return AUTH_API_KEY;
	if (text != NULL && strcmp(text, "basic") == 0)
		return AUTH_BASIC;
	bad_field("auth_type", text ? "not a known type" : "missing",
			  "Available types are oauth2_code, api_key and basic.");
}

static ClientAuth
read_client_auth(const Reader *reader)
{
	const char *text = read_string(reader, "client_auth", 64);

	if (text == NULL || strcmp(text, "post") == 0)
		return CLIENT_AUTH_POST;
	if (strcmp(text, "basic") == 0)
		return CLIENT_AUTH_BASIC;
	if (strcmp(text, "none") == 0)
		return CLIENT_AUTH_NONE;
	bad_field("client_auth", "not a known method", "Available methods are post, basic and none.");
}

/*
 * A flag that may also be one of some words.  Both flags of a definition are
 * true where nothing is known: PKCE harms nobody who ignores it, and to take a
 * refresh token for reusable is the dearer mistake.
 */
static bool
read_flag(const Reader *reader, const char *field, const char *const *words_for_true, int nwords,
		  const char *hint)
{
	const ConduitJson *value = get_field(reader, field);
	const char *text;

	if (value == NULL || value->type == CONDUIT_JSON_TRUE)
		return true;
	if (value->type == CONDUIT_JSON_FALSE)
		return false;
	text = conduit_json_string(value);
	if (text != NULL && strcmp(text, "no") == 0)
		return false;
	if (text != NULL && is_one_of(text, words_for_true, nwords))
		return true;
	bad_field(field, "not a known value", hint);
}

static char *
read_scope_separator(const Reader *reader)
{
	const char *text = read_string(reader, "scope_separator", 64);

	if (text == NULL || strcmp(text, "space") == 0 || strcmp(text, " ") == 0)
		return pstrdup(" ");
	if (strcmp(text, "comma") == 0 || strcmp(text, ",") == 0)
		return pstrdup(",");
	if (strcmp(text, "plus") == 0 || strcmp(text, "+") == 0)
		return pstrdup("+");
	bad_field("scope_separator", "not a known separator", "Available separators are space, comma and plus.");
}

/* "a=b&c=d", percent-encoding resolved, as an object; NULL if it is not of that form. */
static ConduitJson *
object_from_query(const char *query)
{
	ConduitJson *object = palloc0(sizeof(ConduitJson));
	ConduitJson **end = &object->first;

	object->type = CONDUIT_JSON_OBJECT;
	while (*query != '\0')
	{
		size_t		length = strcspn(query, "&");
		const char *equals = memchr(query, '=', length);
		ConduitJson *member;
		char	   *out;
		char	   *text;

		if (equals == NULL || equals == query)
			return NULL;

		text = out = palloc(length + 1);
		for (const char *c = equals + 1; c < query + length; c++)
		{
			if (*c == '+')
				*out++ = ' ';
			else if (*c == '%')
			{
				char		hex[3] = {c[1], c[1] ? c[2] : '\0', '\0'};

				if (strspn(hex, "0123456789abcdefABCDEF") != 2 || strcmp(hex, "00") == 0)
					return NULL;
				*out++ = (char) strtol(hex, NULL, 16);
				c += 2;
			}
			else
				*out++ = *c;
		}
		*out = '\0';

		member = palloc0(sizeof(ConduitJson));
		member->type = CONDUIT_JSON_STRING;
		member->key = pnstrdup(query, equals - query);
		member->text = text;
		member->length = out - text;
		if (conduit_json_get(object, member->key) != NULL)
			return NULL;
		*end = member;
		end = &member->next;

		query += length;
		if (*query == '&' && *++query == '\0')
			return NULL;
	}
	return object;
}

static bool
variable_declared(const char *name, void *argument)
{
	const ConduitConnector *connector = argument;

	return connector->params != NULL && conduit_json_get(connector->params, name) != NULL;
}

static const ConduitJson *
read_request_params(const Reader *reader, const char *field, const char *const *reserved, int nreserved,
					bool variables)
{
	const ConduitJson *value = get_field(reader, field);
	const char *form = "Give an object of strings, or text such as \"a=b&c=d\".";

	if (value == NULL)
		return NULL;
	if (value->type == CONDUIT_JSON_STRING)
		value = object_from_query(value->text);
	if (value == NULL || value->type != CONDUIT_JSON_OBJECT)
		bad_field(field, "neither an object nor of the form a=b&c=d", form);

	for (const ConduitJson *p = value->first; p != NULL; p = p->next)
	{
		if (p->key[0] == '\0' || strlen(p->key) > 128 || has_control_character(p->key))
			bad_field(field, "a name is not valid", form);
		if (is_one_of(p->key, reserved, nreserved))
			bad_field(field, psprintf("%s is set by Conduit itself", p->key), NULL);
		if (p->type != CONDUIT_JSON_STRING)
			bad_field(field, "a value is not a string", form);
		if (p->length > 2048 || has_control_character(p->text))
			bad_field(field, "a value is too long or has a control character", form);
		if (variables && !conduit_text_variables(p->text, variable_declared, reader->connector))
			bad_field(field, "a variable is not declared in params", NULL);
	}
	return value;
}

static const ConduitJson *
read_params(const Reader *reader)
{
	const ConduitJson *params = get_field(reader, "params");
	const char *form = "Declare variables as {\"subdomain\": {\"pattern\": \"^[a-z0-9-]+$\"}}.";

	if (params == NULL)
		return NULL;
	if (params->type != CONDUIT_JSON_OBJECT)
		bad_field("params", "not an object", form);

	for (const ConduitJson *p = params->first; p != NULL; p = p->next)
	{
		const char *pattern;
		const char *problem;
		const ConduitJson *preset;

		if (!conduit_variable_valid(p->key))
			bad_field("params", "a key is not the name of a variable",
					  "Names are lower-case letters, digits and underscores, and begin with a letter.");
		if (is_one_of(p->key, credential_variables, lengthof(credential_variables)))
			bad_field("params", psprintf("%s is the name of a credential", p->key), "Choose another name.");
		if (p->type != CONDUIT_JSON_OBJECT)
			bad_field("params", psprintf("%s is not an object", p->key), form);
		for (const ConduitJson *q = p->first; q != NULL; q = q->next)
		{
			if (strcmp(q->key, "pattern") != 0 && strcmp(q->key, "default") != 0 &&
				strcmp(q->key, "description") != 0)
				bad_field("params", psprintf("%s has an unknown key", p->key),
						  "Available keys are pattern, default and description.");
			if (q->type != CONDUIT_JSON_STRING && q->type != CONDUIT_JSON_NULL)
				bad_field("params", psprintf("%s.%s is not a string", p->key, q->key), form);
		}
		pattern = conduit_json_string(conduit_json_get(p, "pattern"));
		if (pattern == NULL)
			bad_field("params", psprintf("%s has no pattern", p->key), form);
		problem = conduit_pattern_check(pattern);
		if (problem != NULL)
			bad_field("params", psprintf("%s: %s", p->key, problem),
					  psprintf("Give an anchored regular expression of at most %d bytes.", CONDUIT_PATTERN_MAX));
		preset = conduit_json_get(p, "default");
		if (conduit_json_string(preset) != NULL &&
			!conduit_pattern_matches(pattern, conduit_json_string(preset)))
			bad_field("params", psprintf("%s: the default does not match the pattern", p->key), NULL);
	}
	return params;
}

static bool
api_auth_variable_known(const char *name, void *argument)
{
	return is_one_of(name, credential_variables, lengthof(credential_variables)) ||
		variable_declared(name, argument);
}

/*
 * api_auth: "Header: value" or "?parameter=value", several separated by "; ".
 * Names of headers that belong to HTTP itself are refused: they would let a
 * definition take a request apart.
 */
static char *
read_api_auth(const Reader *reader)
{
	static const char *const refused[] = {"host", "connection", "content-length", "content-type",
	"transfer-encoding", "expect", "te", "trailer", "upgrade", "proxy-authorization"};
	char	   *api_auth = read_string(reader, "api_auth", 1024);
	const char *form = "Write it as in \"Authorization: Bearer {token}\"; separate several by \"; \".";
	const char *part = api_auth;

	if (api_auth == NULL)
		return NULL;

	for (const char *c = api_auth; *c != '\0'; c++)
	{
		int			length;

		if (*c == '}')
			bad_field("api_auth", "a brace does not enclose a variable's name", form);
		if (*c != '{')
			continue;
		length = conduit_variable_length(c + 1);
		if (length == 0 || c[1 + length] != '}')
			bad_field("api_auth", "a brace does not enclose a variable's name", form);
		c += length + 1;
	}
	if (!conduit_text_variables(api_auth, api_auth_variable_known, reader->connector))
		bad_field("api_auth", "a variable is unknown",
				  "Available are token, api_key, api_secret, username, password, basic and what params declares.");

	while (part != NULL)
	{
		const char *next = strstr(part, "; ");
		size_t		length = next ? (size_t) (next - part) : strlen(part);
		char	   *name;
		size_t		name_length;

		if (part[0] == '?')
			name_length = strcspn(part + 1, "=") + 1;
		else
			name_length = strspn(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");
		if (name_length < 1 || name_length + 1 >= length ||
			(part[0] == '?' ? name_length < 2 || part[name_length] != '=' : strncmp(part + name_length, ": ", 2) != 0))
			bad_field("api_auth", "not of the form \"Header: value\"", form);

		name = pnstrdup(part, name_length);
		for (char *c = name; *c != '\0'; c++)
			*c = pg_ascii_tolower((unsigned char) *c);
		if (is_one_of(name, refused, lengthof(refused)))
			bad_field("api_auth", psprintf("%s cannot be set", name), NULL);
		pfree(name);
		part = next ? next + 2 : NULL;
	}
	return api_auth;
}

static void
read_dead_errors(const Reader *reader)
{
	const ConduitJson *value = get_field(reader, "dead_errors");
	ConduitConnector *connector = reader->connector;
	int			n = 0;

	if (value == NULL)
		return;
	if (value->type != CONDUIT_JSON_ARRAY)
		bad_field("dead_errors", "not an array", "Give an array of error codes.");
	for (const ConduitJson *e = value->first; e != NULL; e = e->next)
		n++;
	connector->error_codes = palloc0(sizeof(ErrorMeaning) * (n + 1));
	for (const ConduitJson *e = value->first; e != NULL; e = e->next)
	{
		if (e->type != CONDUIT_JSON_STRING || e->length < 1 || e->length > 64 ||
			has_control_character(e->text))
			bad_field("dead_errors", "an entry is not an error code",
					  "Give codes as the provider sends them, of at most 64 characters.");
		connector->error_codes[connector->nerror_codes].text = pstrdup(e->text);
		connector->error_codes[connector->nerror_codes++].outcome = OUTCOME_DEAD;
	}
}

static List *
read_dead_statuses(const Reader *reader)
{
	const ConduitJson *value = get_field(reader, "dead_statuses");
	List	   *result = NIL;

	if (value == NULL)
		return NIL;
	if (value->type != CONDUIT_JSON_ARRAY)
		bad_field("dead_statuses", "not an array", "Give an array of HTTP statuses.");
	for (const ConduitJson *s = value->first; s != NULL; s = s->next)
	{
		double		number;

		if (s->type != CONDUIT_JSON_NUMBER || !conduit_json_double(s, &number) ||
			number < 400 || number > 499 || number != rint(number))
			bad_field("dead_statuses", "an entry is not a status from 400 to 499", NULL);
		result = lappend_int(result, (int) number);
	}
	return result;
}

static void
check_field_names(const ConduitJson *root, AuthType auth_type)
{
	for (const ConduitJson *f = root->first; f != NULL; f = f->next)
	{
		int			i;

		for (i = 0; i < lengthof(known_fields); i++)
		{
			if (strcmp(f->key, known_fields[i].name) == 0)
				break;
		}
		if (i == lengthof(known_fields))
			bad_field(quotable(f->key, "definition"), "unknown field",
					  "See the documentation of connector definitions for the fields there are.");
		if (known_fields[i].token_field && auth_type != AUTH_OAUTH2_CODE &&
			f->type != CONDUIT_JSON_NULL)
			bad_field(f->key, "has no meaning without a token endpoint",
					  "Leave it out, or set auth_type to oauth2_code.");
	}
}

static ConduitConnector *
parse_definition(const char *slug, const char *definition, bool check_egress)
{
	static const char *const pkce_words[] = {"supported", "required", "unknown"};
	static const char *const rotates_words[] = {"yes", "unknown"};
	ConduitConnector *connector = palloc0(sizeof(ConduitConnector));
	Reader		reader = {connector, NULL, check_egress};
	const char *problem;

	reader.root = conduit_json_parse(pstrdup(definition), strlen(definition), &problem);
	if (reader.root == NULL)
		bad_field("definition", problem, "Give a JSON object.");
	if (reader.root->type != CONDUIT_JSON_OBJECT)
		bad_field("definition", "not an object", "Give a JSON object.");

	connector->slug = pstrdup(slug);
	connector->auth_type = read_auth_type(&reader);
	check_field_names(reader.root, connector->auth_type);

	connector->name = read_string(&reader, "name", 100);
	if (connector->name == NULL)
		connector->name = pstrdup(slug);

	/* First, for what follows refers to the variables that they declare. */
	connector->params = read_params(&reader);

	connector->authorize_url = read_url(&reader, "authorize_url");
	connector->token_url = read_url(&reader, "token_url");
	connector->refresh_url = read_url(&reader, "refresh_url");
	connector->revoke_url = read_url(&reader, "revoke_url");
	connector->api_base_url = read_url(&reader, "api_base_url");
	if (connector->auth_type == AUTH_OAUTH2_CODE)
	{
		if (connector->authorize_url == NULL)
			bad_field("authorize_url", "missing", "An oauth2_code connector needs authorize_url and token_url.");
		if (connector->token_url == NULL)
			bad_field("token_url", "missing", "An oauth2_code connector needs authorize_url and token_url.");
	}

	connector->api_auth = read_api_auth(&reader);
	connector->client_auth = read_client_auth(&reader);
	connector->pkce = read_flag(&reader, "pkce", pkce_words, lengthof(pkce_words),
								"Give true or false, or supported, required, no or unknown.");
	connector->refresh_rotates = read_flag(&reader, "refresh_rotates", rotates_words, lengthof(rotates_words),
										   "Give true or false, or yes, no or unknown.");
	connector->scope_separator = read_scope_separator(&reader);
	connector->extra_authorize_params =
		read_request_params(&reader, "extra_authorize_params", authorize_request_params,
							lengthof(authorize_request_params), true);
	connector->code_request.method = connector->refresh_request.method = "POST";
	connector->code_request.grant_type = "authorization_code";
	connector->refresh_request.grant_type = "refresh_token";
	connector->code_request.extra_params = connector->refresh_request.extra_params =
		read_request_params(&reader, "extra_token_params", token_request_params,
							lengthof(token_request_params), false);
	connector->access_token_lifetime_s = read_integer(&reader, "access_token_lifetime_s", 0, 0, MAX_YEARS_10);
	connector->refresh_token_lifetime_s = read_integer(&reader, "refresh_token_lifetime_s", 0, 0, MAX_YEARS_10);
	connector->refresh_lead_s = read_integer(&reader, "refresh_lead_s", -1, 0, 30 * 86400);
	read_dead_errors(&reader);
	connector->dead_statuses = read_dead_statuses(&reader);
	connector->api_limit.requests = read_integer(&reader, "rate_limit_requests", 0, 1, 1000000000);
	connector->api_limit.window_s = read_integer(&reader, "rate_limit_window_s", 0, 1, 31 * 86400);
	if ((connector->api_limit.requests == 0) != (connector->api_limit.window_s == 0))
		bad_field(connector->api_limit.requests == 0 ? "rate_limit_requests" : "rate_limit_window_s",
				  "missing", "Give both rate_limit_requests and rate_limit_window_s, or neither.");
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
