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

const char *
conduit_variable_value(const ConduitJson *declaration, const ConduitJson *params, const char *name,
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

const char *
conduit_variable_check(const char *value)
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

	value = conduit_variable_value(declaration, params, name, problem);
	if (value == NULL)
		return NULL;
	*problem = conduit_variable_check(value);
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

/* Appends what stands for the variable at a brace, and returns where the template goes on. */
static const char *
append_variable(StringInfo out, const ConduitConnector *connector, const char *brace,
				const ConduitJson *params, TemplateFill how, const TemplateValue *values, bool in_host,
				const char **problem, const char **variable)
{
	int			length = conduit_variable_length(brace + 1);
	const char *value;
	char	   *name;

	if (length == 0 || brace[1 + length] != '}')
	{
		*problem = "a brace does not enclose a variable's name";
		return brace;
	}
	name = pnstrdup(brace + 1, length);
	value = special_value(values, name);
	if (value != NULL && in_host)
		*problem = "the variable can only stand behind the host";
	else if (value == NULL)
		value = fitting_value(connector, params, name, how, in_host, problem);
	if (*problem != NULL)
		*variable = name;
	else if (in_host)
		appendStringInfoString(out, value);
	else
		append_encoded(out, value);
	return brace + length + 2;
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
		if (*c == '{')
			c = append_variable(&out, connector, c, params, how, values, in_host, problem, variable);
		else
		{
			/* Behind the host there is a port, in which nothing may vary. */
			if (*c == '/' || *c == '?')
				in_host = false;
			else if (*c == ':' && in_host && strcspn(c, "{") < strcspn(c, "/?"))
				*problem = "the port has a variable";
			appendStringInfoChar(&out, *c++);
		}
		if (out.len > CONDUIT_URL_MAX && *problem == NULL)
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
