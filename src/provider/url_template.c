/*-------------------------------------------------------------------------
 *
 * url_template.c
 *	  Variables in a connector's URLs and the patterns of their values.
 *
 * A value that reaches the host decides who gets the client secret, so two
 * guards stand one behind the other: the connector's pattern, and a character
 * set of our own that cannot leave the host's place in the URL, whatever the
 * pattern lets through.  The finished URL is checked once more as a URL.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "catalog/pg_collation.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "regex/regex.h"

#include "base/report.h"
#include "provider/egress.h"
#include "provider/url.h"
#include "provider/url_template.h"
#include "vault/seal.h"

const TemplateValue conduit_revoke_samples[] = {{"token", "x"}, {"client_id", "x"}, {NULL, NULL}};

static const char variable_chars[] = "abcdefghijklmnopqrstuvwxyz0123456789_";

int
conduit_variable_length(const char *text)
{
	size_t		length;

	if (text[0] < 'a' || text[0] > 'z')
		return 0;
	length = strspn(text, variable_chars);
	return length <= CONDUIT_VARIABLE_MAX ? (int) length : 0;
}

bool
conduit_variable_valid(const char *text)
{
	int			length = conduit_variable_length(text);

	return length > 0 && text[length] == '\0';
}

bool
conduit_text_variables(const char *text, VariableVisitor visit, void *argument)
{
	for (const char *brace = strchr(text, '{'); brace != NULL; brace = strchr(brace + 1, '{'))
	{
		int			length = conduit_variable_length(brace + 1);

		if (length > 0 && brace[1 + length] == '}')
		{
			char		name[CONDUIT_VARIABLE_MAX + 1];

			memcpy(name, brace + 1, length);
			name[length] = '\0';
			if (!visit(name, argument))
				return false;
		}
	}
	return true;
}

typedef struct SoughtVariable
{
	const char *name;
	bool		found;
} SoughtVariable;

static bool
note_variable(const char *name, void *argument)
{
	SoughtVariable *sought = argument;

	if (strcmp(name, sought->name) == 0)
		sought->found = true;
	return !sought->found;
}

bool
conduit_text_has_variable(const char *text, const char *name)
{
	SoughtVariable sought = {name, false};

	conduit_text_variables(text, note_variable, &sought);
	return sought.found;
}

/* Compile in the C collation, so that [a-z] means the same everywhere. */
static bool
compile(const char *pattern, regex_t *regex)
{
	int			length = strlen(pattern);
	pg_wchar   *wide = palloc((length + 1) * sizeof(pg_wchar));
	int			result;

	length = pg_mb2wchar_with_len(pattern, wide, length);
	result = pg_regcomp(regex, wide, length, REG_ADVANCED | REG_NOSUB, C_COLLATION_OID);
	pfree(wide);

	/* A cancelled compilation reports an error code like any other. */
	if (result != REG_OKAY)
		CHECK_FOR_INTERRUPTS();
	return result == REG_OKAY;
}

const char *
conduit_pattern_check(const char *pattern)
{
	size_t		length = strlen(pattern);
	regex_t		regex;

	if (length > CONDUIT_PATTERN_MAX)
		return "the pattern is too long";
	if (length < 2 || pattern[0] != '^' || pattern[length - 1] != '$')
		return "the pattern is not anchored by ^ and $";

	/* Back references are what makes PostgreSQL's engine slow. */
	for (const char *c = pattern; *c != '\0'; c++)
	{
		if (*c == '\\' && *++c >= '1' && *c <= '9')
			return "the pattern has a back reference";
		if (*c == '\0')
			break;
	}

	/* Alone first: "^a)|(b$" would only compile within the parentheses of a match. */
	if (!compile(pattern, &regex))
		return "the pattern is not a valid regular expression";
	pg_regfree(&regex);
	return NULL;
}

bool
conduit_pattern_matches(const char *pattern, const char *value)
{
	/* "^a|b$" is anchored at one end each; the group anchors the whole. */
	char	   *whole = psprintf("^(?:%s)$", pattern);
	regex_t		regex;
	pg_wchar   *wide;
	int			length;
	int			result;

	if (!compile(whole, &regex))
		return false;
	length = strlen(value);
	wide = palloc((length + 1) * sizeof(pg_wchar));
	length = pg_mb2wchar_with_len(value, wide, length);
	result = pg_regexec(&regex, wide, length, 0, NULL, 0, NULL, 0);
	pg_regfree(&regex);
	pfree(wide);
	pfree(whole);
	if (result != REG_OKAY && result != REG_NOMATCH)
		CHECK_FOR_INTERRUPTS();
	return result == REG_OKAY;
}

char *
conduit_variable_fit(const ConduitConnector *connector, const char *name, const char *text)
{
	static const char scheme[] = "https://";
	const ConduitJson *declaration = connector->params ? conduit_json_get(connector->params, name) : NULL;
	const char *pattern = conduit_json_string(conduit_json_get(declaration, "pattern"));
	size_t		length = strlen(text);
	char	   *host;

	if (pattern == NULL || length == 0 || length > CONDUIT_VALUE_MAX)
		return NULL;
	if (conduit_pattern_matches(pattern, text))
		return pstrdup(text);
	if (pg_strncasecmp(text, scheme, strlen(scheme)) != 0)
		return NULL;
	host = pstrdup(text + strlen(scheme));
	length = strlen(host);
	if (length > 0 && host[length - 1] == '/')
		host[length - 1] = '\0';
	return conduit_pattern_matches(pattern, host) ? host : NULL;
}

/* A value from params, else the declaration's default, else NULL. */
static const char *
variable_value(const ConduitJson *declaration, const ConduitJson *params, const char *name,
			   const char **problem)
{
	const ConduitJson *given = params ? conduit_json_get(params, name) : NULL;

	if (given != NULL && given->type != CONDUIT_JSON_NULL)
	{
		const char *text = conduit_json_string(given);

		if (text == NULL)
			*problem = "the value is not a string";
		return text;
	}
	*problem = "the value is missing";
	return conduit_json_string(conduit_json_get(declaration, "default"));
}

/* NULL, or what is wrong with a value wherever it is used. */
static const char *
check_value(const char *value)
{
	size_t		length = strlen(value);

	if (length == 0)
		return "the value is empty";
	if (length > CONDUIT_VALUE_MAX)
		return "the value is too long";
	for (const unsigned char *c = (const unsigned char *) value; *c != '\0'; c++)
	{
		if (*c < ' ' || *c == 0x7f)
			return "the value has a control character";
	}
	return NULL;
}

/* The same for a place in the host. */
static const char *
check_host_value(const char *value)
{
	size_t		length = strlen(value);

	if (strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") < length)
		return "the value has a character that a host cannot have";
	if (value[0] == '.' || value[0] == '-' || value[length - 1] == '.' ||
		value[length - 1] == '-' || strstr(value, "..") != NULL)
		return "the value is not part of a host name";
	return NULL;
}

static void
append_encoded(StringInfo out, const char *value)
{
	static const char hex[] = "0123456789ABCDEF";

	for (const unsigned char *c = (const unsigned char *) value; *c != '\0'; c++)
	{
		if ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
			*c == '-' || *c == '.' || *c == '_' || *c == '~')
			appendStringInfoChar(out, *c);
		else
		{
			appendStringInfoChar(out, '%');
			appendStringInfoChar(out, hex[*c >> 4]);
			appendStringInfoChar(out, hex[*c & 15]);
		}
	}
}

/* The value of a variable that is none of params, or NULL. */
static const char *
special_value(const TemplateValue *values, const char *name)
{
	for (; values != NULL && values->name != NULL; values++)
	{
		if (strcmp(values->name, name) == 0)
			return values->value;
	}
	return NULL;
}

/* A value of params for its place: NULL, with *problem set, if there is none that fits. */
static const char *
fitting_value(const ConduitConnector *connector, const ConduitJson *params, const char *name,
			  TemplateFill how, bool in_host, const char **problem)
{
	const ConduitJson *declaration = connector->params ? conduit_json_get(connector->params, name) : NULL;
	const char *pattern;
	const char *value;

	if (declaration == NULL)
	{
		*problem = "the variable is not declared in params";
		return NULL;
	}
	if (how == TEMPLATE_SAMPLE)
		return in_host ? "x.example" : "x";

	value = variable_value(declaration, params, name, problem);
	if (value == NULL)
		return NULL;
	*problem = check_value(value);
	if (*problem == NULL && in_host)
		*problem = check_host_value(value);
	pattern = conduit_json_string(conduit_json_get(declaration, "pattern"));
	if (*problem == NULL && how == TEMPLATE_CHECKED &&
		(pattern == NULL || !conduit_pattern_matches(pattern, value)))
		*problem = "the value does not match its pattern";
	return *problem == NULL ? value : NULL;
}

/* Room for any URL, so that a secret in it is not left behind by growing. */
static void
init_url(StringInfo out, const TemplateValue *values)
{
	int			longest = CONDUIT_VALUE_MAX;

	for (; values != NULL && values->name != NULL; values++)
		longest = Max(longest, (int) strlen(values->value));
	initStringInfo(out);
	enlargeStringInfo(out, CONDUIT_URL_MAX + 3 * longest);
}

char *
conduit_template_fill(const ConduitConnector *connector, const char *template_url,
					  const ConduitJson *params, TemplateFill how, const TemplateValue *values,
					  const char **problem, const char **variable)
{
	StringInfoData out;
	const char *c = strstr(template_url, "://");
	bool		in_host = true;

	*problem = NULL;
	*variable = NULL;
	if (c == NULL || strcspn(template_url, "{") < (size_t) (c - template_url))
	{
		*problem = "the URL does not begin with https://";
		return NULL;
	}
	c += 3;

	init_url(&out, values);
	appendBinaryStringInfo(&out, template_url, c - template_url);
	while (*c != '\0' && *problem == NULL)
	{
		int			length;
		const char *value;
		char	   *name;

		if (*c != '{')
		{
			/* Behind the host there is a port, in which nothing may vary. */
			if (*c == '/' || *c == '?')
				in_host = false;
			else if (*c == ':' && in_host && strcspn(c, "{") < strcspn(c, "/?"))
				*problem = "the port has a variable";
			appendStringInfoChar(&out, *c++);
		}
		else
		{
			length = conduit_variable_length(c + 1);
			if (length == 0 || c[1 + length] != '}')
			{
				*problem = "a brace does not enclose a variable's name";
				break;
			}
			name = pnstrdup(c + 1, length);
			c += length + 2;

			*variable = name;
			value = special_value(values, name);
			if (value != NULL && in_host)
				*problem = "the variable can only stand behind the host";
			else if (value == NULL)
				value = fitting_value(connector, params, name, how, in_host, problem);
			if (value == NULL || *problem != NULL)
				break;
			if (in_host)
				appendStringInfoString(&out, value);
			else
				append_encoded(&out, value);
			*variable = NULL;
		}
		if (out.len > CONDUIT_URL_MAX)
			*problem = "the URL is too long";
	}
	if (*problem == NULL)
		return out.data;
	conduit_wipe(out.data, out.len);
	pfree(out.data);
	return NULL;
}

/* What stands at a brace: its value, and where the text goes on; NULL for an ordinary brace. */
static const char *
value_at(const ConduitConnector *connector, const char *brace, const ConduitJson *params,
		 const TemplateValue *values, const char **rest, const char **problem, const char **variable)
{
	int			length = conduit_variable_length(brace + 1);
	const char *value;
	char	   *name;

	if (length == 0 || brace[1 + length] != '}')
		return NULL;
	name = pnstrdup(brace + 1, length);
	*rest = brace + length + 2;
	value = special_value(values, name);
	if (value == NULL)
		value = fitting_value(connector, params, name, TEMPLATE_CHECKED, false, problem);
	if (value == NULL)
		*variable = name;
	else
		pfree(name);
	return value;
}

/* Writes the filled text to out, unless that is NULL, and returns its length. */
static Size
fill_text(const ConduitConnector *connector, const char *text, const ConduitJson *params,
		  const TemplateValue *values, char *out, const char **problem, const char **variable)
{
	Size		length = 0;

	while (*text != '\0')
	{
		const char *rest = text + 1;
		const char *value = NULL;
		Size		value_length = 1;

		if (*text == '{')
			value = value_at(connector, text, params, values, &rest, problem, variable);
		if (*problem != NULL)
			break;
		if (value == NULL)
			value = text;
		else
			value_length = strlen(value);
		if (out != NULL)
			memcpy(out + length, value, value_length);
		length += value_length;
		text = rest;
	}
	return length;
}

char *
conduit_text_fill(const ConduitConnector *connector, const char *text, const ConduitJson *params,
				  const TemplateValue *values, const char **problem, const char **variable)
{
	Size		length;
	char	   *out;

	*problem = NULL;
	*variable = NULL;
	length = fill_text(connector, text, params, values, NULL, problem, variable);
	if (*problem != NULL)
		return NULL;
	out = palloc(length + 1);
	fill_text(connector, text, params, values, out, problem, variable);
	out[length] = '\0';
	return out;
}

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

	return variable_value(conduit_json_get(connector->params, name), params, name, &problem) != NULL;
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
		const char *value = variable_value(declared, params, declared->key, &problem);

		if (value == NULL)
		{
			const ConduitJson *given = params ? conduit_json_get(params, declared->key) : NULL;

			if ((given != NULL && given->type != CONDUIT_JSON_NULL) ||
				(variable_needed(connector, declared->key) && !variable_filled(connector, declared->key)))
				bad_param(declared->key, problem);
			continue;
		}
		problem = check_value(value);
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
