/*-------------------------------------------------------------------------
 *
 * connector_part.c
 *	  Readers of the fields of a definition that are like no other.
 *
 * params, which declares variables; api_auth and token_headers, which make
 * headers; what a provider's errors mean.
 *
 * Names of headers that belong to HTTP itself are refused: they would let a
 * definition take a request apart.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <math.h>

#include "provider/classify.h"
#include "provider/connector_field.h"
#include "provider/known_error.h"
#include "provider/url_template.h"

#define MAX_API_AUTH		1024
#define MAX_HEADER_VALUE	1024
#define MAX_CODE			64
#define MAX_PHRASE			200

static const char header_chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

/* Names that templates give a meaning of their own; params cannot have them. */
static const char *const special_variables[] =
{"token", "api_key", "api_secret", "username", "password", "basic", "client_id", "client_secret", "uuid", NULL};

static const char *const api_auth_variables[] =
{"token", "api_key", "api_secret", "username", "password", "basic", "client_id", NULL};

static const char *const token_header_variables[] = {"client_id", "client_secret", "uuid", NULL};

static const char *const http_headers[] = {"host", "connection", "content-length", "content-type",
	"transfer-encoding", "expect", "te", "trailer", "upgrade", "keep-alive", "proxy-authorization",
"proxy-connection", NULL};

/* In requests that Conduit makes for itself, also what it says of itself. */
static const char *const own_headers[] = {"accept", "accept-encoding", "cookie", "user-agent", NULL};

/* ---- params ---- */

static void
read_param(const ConduitJson *param, const char *form)
{
	const char *pattern;
	const char *problem;
	const char *preset;

	if (!conduit_variable_valid(param->key))
		conduit_field_refuse("params", "a key is not the name of a variable",
							 "Names are lower-case letters, digits and underscores, and begin with a letter.");
	if (conduit_field_position(param->key, special_variables) >= 0)
		conduit_field_refuse("params", psprintf("%s is the name of a credential", param->key), "Choose another name.");
	if (param->type != CONDUIT_JSON_OBJECT)
		conduit_field_refuse("params", psprintf("%s is not an object", param->key), form);
	for (const ConduitJson *m = param->first; m != NULL; m = m->next)
	{
		if (strcmp(m->key, "pattern") != 0 && strcmp(m->key, "default") != 0 &&
			strcmp(m->key, "description") != 0)
			conduit_field_refuse("params", psprintf("%s has an unknown key", param->key),
								 "Available keys are pattern, default and description.");
		if (m->type != CONDUIT_JSON_STRING && m->type != CONDUIT_JSON_NULL)
			conduit_field_refuse("params", psprintf("%s.%s is not a string", param->key, m->key), form);
	}
	pattern = conduit_json_string(conduit_json_get(param, "pattern"));
	if (pattern == NULL)
		conduit_field_refuse("params", psprintf("%s has no pattern", param->key), form);
	problem = conduit_pattern_check(pattern);
	if (problem != NULL)
		conduit_field_refuse("params", psprintf("%s: %s", param->key, problem),
							 psprintf("Give an anchored regular expression of at most %d bytes.", CONDUIT_PATTERN_MAX));
	preset = conduit_json_string(conduit_json_get(param, "default"));
	if (preset != NULL && !conduit_pattern_matches(pattern, preset))
		conduit_field_refuse("params", psprintf("%s: the default does not match the pattern", param->key), NULL);
}

void
conduit_field_read_params(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	const char *form = "Declare variables as {\"subdomain\": {\"pattern\": \"^[a-z0-9-]+$\"}}.";

	if (value->type != CONDUIT_JSON_OBJECT)
		conduit_field_refuse("params", "not an object", form);
	for (const ConduitJson *p = value->first; p != NULL; p = p->next)
		read_param(p, form);
	reader->connector->params = value;
}

/* ---- headers ---- */

typedef struct KnownVariables
{
	const ConduitJson *params;
	const char *const *specials;
} KnownVariables;

static bool
variable_known(const char *name, void *argument)
{
	const KnownVariables *known = argument;

	return conduit_field_position(name, known->specials) >= 0 ||
		(known->params != NULL && conduit_json_get(known->params, name) != NULL);
}

/* Refuse a header that is not a definition's to set. */
static void
check_header_name(const char *field, const char *name, const char *const *refused)
{
	char	   *lower = pstrdup(name);

	for (char *c = lower; *c != '\0'; c++)
		*c = pg_ascii_tolower((unsigned char) *c);
	if (conduit_field_position(lower, refused) >= 0)
		conduit_field_refuse(field, psprintf("%s cannot be set", lower), NULL);
	pfree(lower);
}

/* Each brace encloses a name; anything else is a slip of the pen. */
static void
check_braces(const char *field, const char *text, const char *form)
{
	for (const char *c = text; *c != '\0'; c++)
	{
		int			length;

		if (*c == '}')
			conduit_field_refuse(field, "a brace does not enclose a variable's name", form);
		if (*c != '{')
			continue;
		length = conduit_variable_length(c + 1);
		if (length == 0 || c[1 + length] != '}')
			conduit_field_refuse(field, "a brace does not enclose a variable's name", form);
		c += length + 1;
	}
}

/* api_auth: "Header: value" or "?parameter=value", several separated by "; ". */
void
conduit_field_read_api_auth(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	char	   *api_auth = conduit_field_text(field->name, value, MAX_API_AUTH);
	const char *form = "Write it as in \"Authorization: Bearer {token}\"; separate several by \"; \".";
	KnownVariables known = {reader->connector->params, api_auth_variables};
	const char *part = api_auth;

	check_braces(field->name, api_auth, form);
	if (!conduit_text_variables(api_auth, variable_known, &known))
		conduit_field_refuse(field->name, "a variable is unknown",
							 "Available are token, api_key, api_secret, username, password, basic, client_id and what params declares.");

	while (part != NULL)
	{
		const char *next = strstr(part, "; ");
		size_t		length = next ? (size_t) (next - part) : strlen(part);
		size_t		name_length = part[0] == '?' ? strcspn(part + 1, "=") + 1 : strspn(part, header_chars);

		if (name_length < 1 || name_length + (part[0] == '?' ? 1 : 2) >= length ||
			(part[0] == '?' ? name_length < 2 || part[name_length] != '=' : strncmp(part + name_length, ": ", 2) != 0))
			conduit_field_refuse(field->name, "not of the form \"Header: value\"", form);
		check_header_name(field->name, pnstrdup(part, name_length), http_headers);
		part = next ? next + 2 : NULL;
	}
	reader->connector->api_auth = api_auth;
}

void
conduit_field_read_token_headers(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	const char *form = "Give an object of headers, such as {\"X-Client\": \"{client_id}\"}.";
	KnownVariables known = {reader->connector->params, token_header_variables};

	if (value->type != CONDUIT_JSON_OBJECT)
		conduit_field_refuse(field->name, "not an object", form);
	for (const ConduitJson *h = value->first; h != NULL; h = h->next)
	{
		size_t		length = strlen(h->key);

		if (length == 0 || length > MAX_CODE || strspn(h->key, header_chars) < length)
			conduit_field_refuse(field->name, "a name is not that of a header", form);
		check_header_name(field->name, h->key, http_headers);
		check_header_name(field->name, h->key, own_headers);
		for (const ConduitJson *other = value->first; other != h; other = other->next)
		{
			if (pg_strcasecmp(other->key, h->key) == 0)
				conduit_field_refuse(field->name, "a header is given twice", form);
		}
		if (h->type != CONDUIT_JSON_STRING || h->length == 0 || h->length > MAX_HEADER_VALUE)
			conduit_field_refuse(field->name, "a value is not a string of 1 to 1024 bytes", form);
		for (int i = 0; i < h->length; i++)
		{
			if (h->text[i] < ' ' || h->text[i] > '~')
				conduit_field_refuse(field->name, "a value has a control or non-ASCII character", form);
		}
		check_braces(field->name, h->text, form);
		if (!conduit_text_variables(h->text, variable_known, &known))
			conduit_field_refuse(field->name, "a variable is unknown",
								 "Available are client_id, client_secret, uuid and what params declares.");
	}
	reader->connector->token_headers = value;
}

/* ---- errors ---- */

static void
add_meaning(ErrorMeaning **meanings, int *n, const char *text, OutcomeClass outcome)
{
	ErrorMeaning *meaning;

	*meanings = *meanings == NULL ? palloc(sizeof(ErrorMeaning)) :
		repalloc(*meanings, sizeof(ErrorMeaning) * (*n + 1));
	meaning = &(*meanings)[(*n)++];
	meaning->text = pstrdup(text);
	meaning->outcome = outcome;
}

/* A code is added once; a second meaning for it is refused. */
static void
add_code(ConduitConnector *connector, const char *field, const char *text, OutcomeClass outcome)
{
	char		code[OUTCOME_CODE_LEN + 1];

	conduit_classify_clean_code(text, code);
	for (int i = 0; i < connector->nerror_codes; i++)
	{
		char		other[OUTCOME_CODE_LEN + 1];

		conduit_classify_clean_code(connector->error_codes[i].text, other);
		if (!conduit_same_error_code(code, other))
			continue;
		if (connector->error_codes[i].outcome != outcome)
			conduit_field_refuse(field, "a code has two meanings", "Give each code once, in error_codes or dead_errors.");
		return;
	}
	add_meaning(&connector->error_codes, &connector->nerror_codes, text, outcome);
}

/* Whether a text is of min to max bytes, without control characters. */
static bool
text_fits(const char *text, size_t min, size_t max)
{
	size_t		length = strlen(text);

	for (const unsigned char *c = (const unsigned char *) text; *c != '\0'; c++)
	{
		if (*c < ' ' || *c == 0x7f)
			return false;
	}
	return length >= min && length <= max;
}

void
conduit_field_read_meanings(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	const char *form = "Give an object such as {\"ratelimited\": \"throttled\"}; available classes are dead, config, throttled and transient.";
	ConduitConnector *connector = reader->connector;
	bool		phrases = field->offset == offsetof(ConduitConnector, error_phrases);

	if (value->type != CONDUIT_JSON_OBJECT)
		conduit_field_refuse(field->name, "not an object", form);
	for (const ConduitJson *m = value->first; m != NULL; m = m->next)
	{
		const FieldWord *w = field->words;

		/* A phrase is looked for within a sentence: two letters would be anywhere. */
		if (!text_fits(m->key, phrases ? 4 : 1, phrases ? MAX_PHRASE : MAX_CODE))
			conduit_field_refuse(field->name, phrases ? "a key is not a phrase" : "a key is not an error code",
								 phrases ? "Give part of a sentence as the provider sends it, of 4 to 200 bytes." :
								 "Give codes as the provider sends them, of at most 64 bytes.");
		while (w->word != NULL && (m->type != CONDUIT_JSON_STRING || strcmp(w->word, m->text) != 0))
			w++;
		if (w->word == NULL)
			conduit_field_refuse(field->name, "a value is not a known class", form);
		if (phrases)
		{
			char	   *lower = pstrdup(m->key);

			for (char *c = lower; *c != '\0'; c++)
				*c = pg_ascii_tolower((unsigned char) *c);
			add_meaning(&connector->error_phrases, &connector->nerror_phrases, lower, w->value);
		}
		else
			add_code(connector, field->name, m->key, w->value);
	}
}

void
conduit_field_read_dead_errors(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	if (value->type != CONDUIT_JSON_ARRAY)
		conduit_field_refuse(field->name, "not an array", "Give an array of error codes.");
	for (const ConduitJson *e = value->first; e != NULL; e = e->next)
	{
		if (e->type != CONDUIT_JSON_STRING || !text_fits(e->text, 1, MAX_CODE))
			conduit_field_refuse(field->name, "an entry is not an error code",
								 "Give codes as the provider sends them, of at most 64 bytes.");
		add_code(reader->connector, field->name, e->text, OUTCOME_DEAD);
	}
}

void
conduit_field_read_dead_statuses(DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value)
{
	List	   *result = NIL;

	if (value->type != CONDUIT_JSON_ARRAY)
		conduit_field_refuse(field->name, "not an array", "Give an array of HTTP statuses.");
	for (const ConduitJson *s = value->first; s != NULL; s = s->next)
	{
		double		number;

		if (s->type != CONDUIT_JSON_NUMBER || !conduit_json_double(s, &number) ||
			number < 400 || number > 499 || number != rint(number))
			conduit_field_refuse(field->name, "an entry is not a status from 400 to 499", NULL);
		if (number == 429)
			conduit_field_refuse(field->name, "429 asks to wait and says nothing of the token", NULL);
		result = lappend_int(result, (int) number);
	}
	reader->connector->dead_statuses = result;
}
