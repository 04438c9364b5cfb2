/*-------------------------------------------------------------------------
 *
 * connector_field.c
 *	  Readers of single fields of a connector's definition.
 *
 * What one reader cannot see, how fields fit together, is the concern of
 * connector_check.c.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <math.h>

#include "lib/stringinfo.h"

#include "base/report.h"
#include "provider/connector_field.h"
#include "provider/egress.h"
#include "provider/url.h"
#include "provider/url_template.h"

#define MAX_NAME		128		/* bytes of a parameter's name */
#define MAX_VALUE		2048	/* bytes of a parameter's value */
#define MAX_PATH_BYTES	255
#define MAX_PATH_STEPS	8
#define MAX_STEP		64		/* bytes of a step */
#define MAX_SCOPE		255

/* The member a field fills. */
#define MEMBER(type) (*(type *) ((char *) reader->connector + field->offset))

/* Parameters of a redirect that carry a secret or steer the flow: nobody's data. */
static const char *const redirect_params[] =
{"state", "code", "iss", "error", "access_token", "refresh_token", "id_token", NULL};

void
conduit_field_refuse(const char *field, const char *problem, const char *hint)
{
	conduit_bad_argument("invalid connector definition", psprintf("%s: %s", field, problem), hint);
}

const char *
conduit_field_quotable(const char *name, const char *otherwise)
{
	size_t		length = strlen(name);

	if (length == 0 || length > NAMEDATALEN ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") < length)
		return otherwise;
	return name;
}

const ConduitJson *
conduit_field_get(const DefinitionReader *reader, const char *field)
{
	const ConduitJson *value = conduit_json_get(reader->root, field);

	return value != NULL && value->type != CONDUIT_JSON_NULL ? value : NULL;
}

int
conduit_field_position(const char *text, const char *const *list)
{
	for (int i = 0; list[i] != NULL; i++)
	{
		if (strcmp(text, list[i]) == 0)
			return i;
	}
	return -1;
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

char *
conduit_field_text(const char *field, const ConduitJson *value, int max)
{
	const char *text = conduit_json_string(value);

	if (text == NULL)
		conduit_field_refuse(field, "not a string", "Give a string.");
	if (text[0] == '\0')
		conduit_field_refuse(field, "empty", "Give a value or leave the field out.");
	if (value->length > max)
		conduit_field_refuse(field, "too long", psprintf("Give at most %d bytes.", max));
	if (has_control_character(text))
		conduit_field_refuse(field, "has a control character", NULL);
	return pstrdup(text);
}

/* ---- texts ---- */

void
conduit_field_read_string(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	MEMBER(char *) = conduit_field_text(field->name, value, field->max);
}

static bool
variable_declared(const char *name, void *argument)
{
	const ConduitConnector *connector = argument;

	return connector->params != NULL && conduit_json_get(connector->params, name) != NULL;
}

static void
check_variables(const DefinitionReader *reader, const char *field, const char *text)
{
	if (!conduit_text_variables(text, variable_declared, reader->connector))
		conduit_field_refuse(field, "a variable is not declared in params",
							 "Declare each {variable} in params, with the pattern of its values.");
}

void
conduit_field_read_template(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	char	   *text = conduit_field_text(field->name, value, field->max);

	check_variables(reader, field->name, text);
	MEMBER(char *) = text;
}

void
conduit_field_read_url(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	char	   *template_url = conduit_field_text(field->name, value, CONDUIT_URL_MAX);
	const TemplateValue *values = NULL;
	const char *problem;
	const char *variable;
	char	   *sample;

	if (field->offset == offsetof(ConduitConnector, revoke_url))
		values = conduit_revoke_samples;
	sample = conduit_template_fill(reader->connector, template_url, NULL, TEMPLATE_SAMPLE, values,
								   &problem, &variable);
	if (sample == NULL)
		conduit_field_refuse(field->name,
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
		conduit_field_refuse(field->name, problem, "Give an absolute https URL of a public host.");
	pfree(sample);
	MEMBER(char *) = template_url;
}

/* A path of conduit_json_path: NULL, or what is wrong with it. */
static const char *
check_path(const char *path)
{
	int			nsteps = 0;

	if (strlen(path) > MAX_PATH_BYTES)
		return "the path is too long";
	for (;;)
	{
		size_t		length = strcspn(path, ".");

		if (length == 0)
			return "the path has an empty step";
		if (length > MAX_STEP)
			return "a step of the path is too long";
		if (strspn(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-:/@$") < length)
			return "the path has a character that is not allowed";
		if (++nsteps > MAX_PATH_STEPS)
			return "the path has too many steps";
		if (path[length] == '\0')
			return NULL;
		path += length + 1;
	}
}

static const char path_hint[] = "A path is names and positions joined by dots, such as data.tokens.0.value; at most 8 of them.";

void
conduit_field_read_path(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	char	   *path = conduit_field_text(field->name, value, MAX_PATH_BYTES);
	const char *problem = check_path(path);

	if (problem != NULL)
		conduit_field_refuse(field->name, problem, path_hint);
	MEMBER(char *) = path;
}

/* ---- numbers and words ---- */

void
conduit_field_read_integer(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	double		number;

	if (value->type != CONDUIT_JSON_NUMBER || !conduit_json_double(value, &number) ||
		number != rint(number))
		conduit_field_refuse(field->name, "not an integer", "Give a whole number.");
	if (number < field->min || number > field->max)
		conduit_field_refuse(field->name, "out of range",
							 psprintf("Give a number from %d to %d.", field->min, field->max));
	MEMBER(int) = (int) number;
}

/* "Give a, b or c.": the field's words after those of first. */
static char *
list_words(const ConnectorField *field, const char *first)
{
	StringInfoData hint;
	const char *last = NULL;

	initStringInfo(&hint);
	appendStringInfo(&hint, "Give %s", first);
	for (const FieldWord *w = field->words; w != NULL && w->word != NULL; w++)
	{
		if (w->word[1] == '\0')
			continue;			/* a separator as itself */
		if (last != NULL)
			appendStringInfo(&hint, "%s%s", hint.len > 5 ? ", " : "", last);
		last = w->word;
	}
	if (last != NULL)
		appendStringInfo(&hint, " or %s", last);
	appendStringInfoChar(&hint, '.');
	return hint.data;
}

static const FieldWord *
find_word(const ConnectorField *field, const ConduitJson *value)
{
	char	   *text = conduit_field_text(field->name, value, 64);

	for (const FieldWord *w = field->words; w->word != NULL; w++)
	{
		if (strcmp(w->word, text) == 0)
			return w;
	}
	conduit_field_refuse(field->name, "not a known value", list_words(field, ""));
}

void
conduit_field_read_flag(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	if (value->type == CONDUIT_JSON_TRUE || value->type == CONDUIT_JSON_FALSE)
		MEMBER(bool) = value->type == CONDUIT_JSON_TRUE;
	else if (value->type == CONDUIT_JSON_STRING && field->words != NULL)
		MEMBER(bool) = find_word(field, value)->value != 0;
	else
		conduit_field_refuse(field->name, "not a known value", list_words(field, field->words ? "true, false" : "true or false"));
}

void
conduit_field_read_flag_word(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	MEMBER(bool) = find_word(field, value)->value != 0;
}

void
conduit_field_read_word(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	MEMBER(int) = find_word(field, value)->value;
}

StaticAssertDecl(sizeof(ClientAuth) == sizeof(int) && sizeof(BodyFormat) == sizeof(int),
				 "a word fills an enum as an int");

void
conduit_field_read_choice(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	MEMBER(const char *) = find_word(field, value)->text;
}

void
conduit_field_read_scalar(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	if (value->type == CONDUIT_JSON_ARRAY || value->type == CONDUIT_JSON_OBJECT)
		conduit_field_refuse(field->name, "not a string, number or boolean", "Give the value as the provider sends it.");
	MEMBER(const ConduitJson *) = value;
}

/* ---- lists and objects ---- */

static bool
name_valid(const char *name)
{
	return name[0] != '\0' && strlen(name) <= MAX_NAME && !has_control_character(name);
}

static bool
is_redirect_param(const char *name)
{
	return conduit_field_position(name, redirect_params) >= 0;
}

void
conduit_field_read_names(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	const char *form = "Give an array of names, such as [\"realmId\"].";
	List	   *result = NIL;

	if (value->type != CONDUIT_JSON_ARRAY)
		conduit_field_refuse(field->name, "not an array", form);
	for (const ConduitJson *n = value->first; n != NULL; n = n->next)
	{
		if (n->type != CONDUIT_JSON_STRING || !name_valid(n->text))
			conduit_field_refuse(field->name, "an entry is not a name", form);
		if (is_redirect_param(n->text))
			conduit_field_refuse(field->name, psprintf("%s is not for keeping", n->text), NULL);
		result = lappend(result, pstrdup(n->text));
	}
	MEMBER(List *) = result;
}

void
conduit_field_read_hosts(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	const char *form = "Give an array of hosts, such as [\"files.acme.example\", \"*.storage.acme.example\"].";
	List	   *result = NIL;

	if (value->type != CONDUIT_JSON_ARRAY)
		conduit_field_refuse(field->name, "not an array", form);
	for (const ConduitJson *h = value->first; h != NULL; h = h->next)
	{
		const char *host = conduit_json_string(h);
		bool		below = host != NULL && strncmp(host, "*.", 2) == 0;
		ConduitUrl	parts;

		/* "*.example.com", but not "*.com": everybody has a host there. */
		if (host == NULL || strpbrk(host, ":/?#@") != NULL || (below && strchr(host + 2, '.') == NULL) ||
			conduit_url_split(psprintf("https://%s/", below ? host + 2 : host), &parts) != NULL ||
			(below && parts.family != 0))
			conduit_field_refuse(field->name, "an entry is not a host", form);
		result = lappend(result, pstrdup(host));
	}
	MEMBER(List *) = result;
}

void
conduit_field_read_scopes(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	const char *form = "Give an array of scopes, each of printable ASCII without blanks.";
	List	   *result = NIL;

	if (value->type != CONDUIT_JSON_ARRAY)
		conduit_field_refuse(field->name, "not an array", form);
	for (const ConduitJson *s = value->first; s != NULL; s = s->next)
	{
		bool		valid = s->type == CONDUIT_JSON_STRING && s->length > 0 && s->length <= MAX_SCOPE;

		for (int i = 0; valid && i < s->length; i++)
			valid = s->text[i] > ' ' && s->text[i] < 0x7f;
		if (!valid)
			conduit_field_refuse(field->name, "an entry is not a scope", form);
		result = lappend(result, pstrdup(s->text));
	}
	MEMBER(List *) = result;
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

const ConduitJson *
conduit_field_pairs(const DefinitionReader *reader, const char *field, const ConduitJson *value)
{
	const char *form = "Give an object of strings, or text such as \"a=b&c=d\".";

	if (value->type == CONDUIT_JSON_STRING)
		value = object_from_query(value->text);
	if (value == NULL || value->type != CONDUIT_JSON_OBJECT)
		conduit_field_refuse(field, "neither an object nor of the form a=b&c=d", form);

	for (const ConduitJson *p = value->first; p != NULL; p = p->next)
	{
		if (!name_valid(p->key))
			conduit_field_refuse(field, "a name is not valid", form);
		if (p->type != CONDUIT_JSON_STRING)
			conduit_field_refuse(field, "a value is not a string", form);
		if (p->length > MAX_VALUE || has_control_character(p->text))
			conduit_field_refuse(field, "a value is too long or has a control character", form);
		check_variables(reader, field, p->text);
	}
	return value;
}

void
conduit_field_read_pairs(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	MEMBER(const ConduitJson *) = conduit_field_pairs(reader, field->name, value);
}

void
conduit_field_read_renames(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	const char *form = "Give an object such as {\"client_id\": \"client_key\", \"client_secret\": null}; null leaves one out.";

	if (value->type != CONDUIT_JSON_OBJECT)
		conduit_field_refuse(field->name, "not an object", form);
	for (const ConduitJson *n = value->first; n != NULL; n = n->next)
	{
		if (conduit_field_position(n->key, field->names) < 0)
			conduit_field_refuse(field->name,
								 psprintf("%s is none of the parameters that Conduit sends",
										  conduit_field_quotable(n->key, "a key")),
								 form);
		if (n->type != CONDUIT_JSON_NULL && (n->type != CONDUIT_JSON_STRING || !name_valid(n->text)))
			conduit_field_refuse(field->name, psprintf("%s is not renamed to a name", n->key), form);
	}
	MEMBER(const ConduitJson *) = value;
}

void
conduit_field_read_paths(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	bool		variables = field->offset == offsetof(ConduitConnector, response_params);

	if (value->type != CONDUIT_JSON_OBJECT)
		conduit_field_refuse(field->name, "not an object", "Give an object of paths, such as {\"instance_url\": \"instance_url\"}.");
	for (const ConduitJson *p = value->first; p != NULL; p = p->next)
	{
		const char *problem;

		if (variables && !variable_declared(p->key, reader->connector))
			conduit_field_refuse(field->name, "a key is not declared in params",
								 "Declare the variable that is filled in params, with the pattern of its values.");
		if (!name_valid(p->key))
			conduit_field_refuse(field->name, "a key is not valid", NULL);
		if (p->type != CONDUIT_JSON_STRING)
			conduit_field_refuse(field->name, "a path is not a string", path_hint);
		problem = check_path(p->text);
		if (problem != NULL)
			conduit_field_refuse(field->name, problem, path_hint);
	}
	MEMBER(const ConduitJson *) = value;
}

void
conduit_field_read_variables(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	const char *form = "Give an object such as {\"accounts-server\": \"server\"}: a parameter of the redirect and the variable it fills.";

	if (value->type != CONDUIT_JSON_OBJECT)
		conduit_field_refuse(field->name, "not an object", form);
	for (const ConduitJson *p = value->first; p != NULL; p = p->next)
	{
		if (!name_valid(p->key))
			conduit_field_refuse(field->name, "a name is not valid", form);
		if (is_redirect_param(p->key))
			conduit_field_refuse(field->name, psprintf("%s is not for keeping", p->key), NULL);
		if (p->type != CONDUIT_JSON_STRING)
			conduit_field_refuse(field->name, "a value is not a string", form);
		if (!variable_declared(p->text, reader->connector))
			conduit_field_refuse(field->name, "a variable is not declared in params",
								 "Declare the variable that is filled in params, with the pattern of its values.");
		for (const ConduitJson *q = value->first; q != p; q = q->next)
		{
			if (strcmp(q->text, p->text) == 0)
				conduit_field_refuse(field->name, "two parameters fill one variable", NULL);
		}
	}
	MEMBER(const ConduitJson *) = value;
}
