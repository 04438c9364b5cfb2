/*-------------------------------------------------------------------------
 *
 * api_request.c
 *	  A call of a provider's API.
 *
 *-------------------------------------------------------------------------
 */
#include "provider/api_request.h"

#include "base/json.h"
#include "provider/api_auth.h"
#include "provider/egress.h"
#include "provider/url.h"
#include "vault/seal.h"

#define MAX_PATH_LEN	1536
#define MAX_VALUE_LEN	8192

/* Shorter pieces of a credential are no evidence that an answer quotes it. */
#define LEAST_ECHO		8

static const char token_characters[] =
"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~";

/* Of a path (RFC 3986, 3.3), beside octets that are percent-encoded. */
static const char path_characters[] =
"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-._~!$&'()*+,;=:@";

/* Headers that a caller may not set: HTTP's own, and those that say who is asking. */
static const char *const refused_headers[] = {
	"accept-encoding", "authorization", "connection", "content-length", "cookie", "cookie2", "expect", "forwarded",
	"host", "http2-settings", "keep-alive", "max-forwards", "origin", "te", "trailer", "transfer-encoding", "upgrade",
	"user-agent", "via",
	/* what some servers take for another method or path than that of the request */
	"x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url"
};
static const char *const refused_prefixes[] = {"proxy-", "sec-", "x-forwarded-", "x-conduit-"};

/* Headers of an answer that are handed on. */
static const char *const passed_headers[] = {
	"cache-control", "content-disposition", "content-language", "content-range", "content-type", "date", "deprecation",
	"etag", "expires", "last-modified", "link", "location", "retry-after", "sunset", "x-request-id", "request-id"
};
static const char *const passed_prefixes[] = {"ratelimit", "x-ratelimit", "x-rate-limit"};

static bool
is_one_of(const char *text, const char *const *list, int count)
{
	for (int i = 0; i < count; i++)
		if (pg_strcasecmp(text, list[i]) == 0)
			return true;
	return false;
}

static bool
begins_with_one_of(const char *text, const char *const *list, int count)
{
	for (int i = 0; i < count; i++)
		if (pg_strncasecmp(text, list[i], strlen(list[i])) == 0)
			return true;
	return false;
}

/* ---- what a caller may ask for ---- */

static const char *
check_method(const char *method)
{
	static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"};

	for (int i = 0; i < lengthof(methods); i++)
		if (strcmp(method, methods[i]) == 0)
			return NULL;
	return "unknown";
}

/* A percent-encoded octet that two readers might take for different things. */
static bool
is_trap(int octet)
{
	return octet < 0x20 || octet == 0x7f || octet == '/' || octet == '\\' || octet == '.' || octet == '%';
}

static int
hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Whether "." or ".." begins here, as some servers see it: they cut off what follows a semicolon. */
static bool
is_dot_segment(const char *segment)
{
	size_t		dots = strspn(segment, ".");
	const char *rest = segment + dots;

	return (dots == 1 || dots == 2) &&
		(*rest == '\0' || *rest == '/' || *rest == ';' || pg_strncasecmp(rest, "%3b", 3) == 0);
}

/*
 * A path below the connector's own: nothing that leads out of it, to another
 * host, or to the query.
 */
static const char *
check_path(const char *path)
{
	if (path[0] != '/')
		return "not_absolute";
	if (strlen(path) > MAX_PATH_LEN)
		return "too_long";
	for (const char *c = path; *c != '\0'; c++)
	{
		if (*c == '/' && c[1] == '/')
			return "empty_segment";
		if (*c == '/' && is_dot_segment(c + 1))
			return "dot_segment";
		if (*c == '%')
		{
			int			high = hex_value(c[1]);
			int			low = high < 0 ? -1 : hex_value(c[2]);

			if (low < 0)
				return "bad_encoding";
			if (is_trap(high * 16 + low))
				return "bad_encoding";
			c += 2;
		}
		else if (strchr(path_characters, *c) == NULL)
			return "bad_character";
	}
	return NULL;
}

static bool
is_scalar(const ConduitJson *value)
{
	return value->type != CONDUIT_JSON_ARRAY && value->type != CONDUIT_JSON_OBJECT &&
		(value->type != CONDUIT_JSON_STRING || value->length <= MAX_VALUE_LEN);
}

static const char *
check_query(const ConduitJson *query)
{
	if (query == NULL)
		return NULL;
	for (const ConduitJson *member = query->first; member != NULL; member = member->next)
	{
		if (member->key[0] == '\0' || strlen(member->key) > MAX_VALUE_LEN)
			return "bad_name";
		if (member->type == CONDUIT_JSON_ARRAY)
		{
			for (const ConduitJson *element = member->first; element != NULL; element = element->next)
				if (!is_scalar(element))
					return "not_a_scalar";
		}
		else if (!is_scalar(member))
			return "not_a_scalar";
	}
	return NULL;
}

/* Does api_auth set this header? */
static bool
set_by_api_auth(const ConduitConnector *connector, const char *name)
{
	size_t		length = strlen(name);

	for (const char *part = connector->api_auth; part != NULL; part = strstr(part, "; "), part = part ? part + 2 : NULL)
		if (pg_strncasecmp(part, name, length) == 0 && part[length] == ':')
			return true;
	return false;
}

static const char *
check_headers(const ConduitConnector *connector, const ConduitJson *headers)
{
	int			n = 0;

	if (headers == NULL)
		return NULL;
	for (const ConduitJson *header = headers->first; header != NULL; header = header->next)
	{
		if (++n > CONDUIT_MAX_API_HEADERS / 2)
			return "too_many";
		if (header->key[0] == '\0' || strspn(header->key, token_characters) != strlen(header->key))
			return "bad_name";
		if (is_one_of(header->key, refused_headers, lengthof(refused_headers)) ||
			begins_with_one_of(header->key, refused_prefixes, lengthof(refused_prefixes)) ||
			set_by_api_auth(connector, header->key))
			return "refused";
		if (header->type != CONDUIT_JSON_STRING || header->length > MAX_VALUE_LEN)
			return "bad_value";
		for (int i = 0; i < header->length; i++)
			if ((unsigned char) header->text[i] < ' ' || header->text[i] == 0x7f)
				return "bad_value";
	}
	return NULL;
}

const char *
conduit_api_request_check(const ApiRequest *request, const char **problem)
{
	if ((*problem = check_method(request->method)) != NULL)
		return "method";
	if ((*problem = check_path(request->path)) != NULL)
		return "path";
	if ((*problem = check_query(request->query)) != NULL)
		return "query";
	if ((*problem = check_headers(request->connector, request->headers)) != NULL)
		return "headers";
	return NULL;
}

/* ---- the request ---- */

static void
add_query_value(OutgoingRequest *out, const ConduitJson *value, const char *name)
{
	switch (value->type)
	{
		case CONDUIT_JSON_NULL:
			break;
		case CONDUIT_JSON_TRUE:
			conduit_outgoing_param(out, NULL, name, "true", 4);
			break;
		case CONDUIT_JSON_FALSE:
			conduit_outgoing_param(out, NULL, name, "false", 5);
			break;
		default:
			conduit_outgoing_param(out, NULL, name, value->text, value->length);
			break;
	}
}

/*
 * api_base_url and the path.  The host is the connector's, whatever the path
 * may have been: that is looked at once more.
 */
static char *
find_url(const ApiRequest *request, OutgoingRequest *out)
{
	const char *problem;
	const char *variable;
	char	   *base;
	char	   *url;
	int			length;

	if (request->connector->api_base_url == NULL)
	{
		conduit_outgoing_fail(out, "no_api");
		return NULL;
	}
	base = conduit_connector_expand(request->connector, request->connector->api_base_url, request->params,
									&problem, &variable);
	if (base == NULL)
	{
		conduit_outgoing_fail(out, variable != NULL ? "invalid_params" : "denied");
		return NULL;
	}

	/* A query of its own stays behind the path. */
	length = strcspn(base, "?");
	while (length > 0 && base[length - 1] == '/')
		length--;
	url = psprintf("%.*s%s%s", length, base, request->path, base + strcspn(base, "?"));
	if (strlen(url) > CONDUIT_URL_MAX || conduit_egress_check_url(url) != NULL ||
		strcmp(conduit_egress_origin(url), conduit_egress_origin(base)) != 0)
	{
		conduit_outgoing_fail(out, "denied");
		return NULL;
	}
	return url;
}

void
conduit_api_request_build(const ApiRequest *request, OutgoingRequest *out)
{
	char	   *url;
	const char *body_type = request->content_type;

	conduit_outgoing_start(out, request->connector, request->params, request->timeout_ms);
	url = find_url(request, out);
	conduit_api_auth_add(out, request->secret, request->client_id);
	if (request->query != NULL)
		for (const ConduitJson *member = request->query->first; member != NULL; member = member->next)
		{
			if (member->type == CONDUIT_JSON_ARRAY)
				for (const ConduitJson *element = member->first; element != NULL; element = element->next)
					add_query_value(out, element, member->key);
			else
				add_query_value(out, member, member->key);
		}
	if (request->headers != NULL)
		for (const ConduitJson *header = request->headers->first; header != NULL; header = header->next)
		{
			if (pg_strcasecmp(header->key, "content-type") == 0)
				body_type = request->body != NULL ? header->text : NULL;
			else
				conduit_outgoing_header(out, header->key, header->text);
		}
	if (out->problem != NULL || url == NULL)
		return;
	conduit_outgoing_finish(out, request->method, url, BODY_QUERY);
	out->http.content_type = request->body != NULL ? body_type : NULL;
	out->http.body = request->body;
	out->http.body_length = request->body_length;
	out->http.max_response = request->max_response;
	out->http.once = strcmp(request->method, "GET") != 0 && strcmp(request->method, "HEAD") != 0;
}

/* ---- the answer ---- */

static bool
holds(const HttpResponse *response, const char *needle, Size length)
{
	return length >= LEAST_ECHO &&
		(memmem(response->body, response->length, needle, length) != NULL ||
		 memmem(response->headers, strlen(response->headers), needle, length) != NULL);
}

static void
write_percent(SizedText *out, const void *source)
{
	const SecretText *secret = source;

	conduit_append_percent(out, secret->data, secret->length);
}

static void
write_form(SizedText *out, const void *source)
{
	const SecretText *secret = source;

	conduit_append_form(out, secret->data, secret->length);
}

static void
write_json(SizedText *out, const void *source)
{
	const SecretText *secret = source;

	conduit_append_json(out, secret->data, secret->length);
}

static void
write_base64(SizedText *out, const void *source)
{
	const SecretText *secret = source;

	conduit_append_base64(out, secret->data, secret->length);
}

static void
write_base64url(SizedText *out, const void *source)
{
	const SecretText *secret = source;

	conduit_append_base64url(out, secret->data, secret->length);
}

/* Is the secret there, written this way?  skip: characters at both ends that depend on what stands beside it. */
static bool
holds_as(const HttpResponse *response, SizedWriter writer, const SecretText *secret, int skip)
{
	SizedText	text;
	bool		found;

	conduit_sized_write(&text, writer, secret);
	found = text.length > 2 * (Size) skip && holds(response, text.data + skip, text.length - 2 * (Size) skip);
	conduit_sized_wipe(&text);
	return found;
}

/* In base64 a text looks different by where in three bytes it begins. */
static bool
holds_in_base64(const HttpResponse *response, const SecretText *secret)
{
	for (int shift = 0; shift < 3; shift++)
	{
		SecretText	tail = {secret->data + shift, secret->length - shift};

		if (tail.length >= LEAST_ECHO &&
			(holds_as(response, write_base64, &tail, 4) || holds_as(response, write_base64url, &tail, 4)))
			return true;
	}
	return false;
}

static bool
leaks(const HttpResponse *response, const SecretText *secret)
{
	if (secret->data == NULL || secret->length < LEAST_ECHO)
		return false;
	return holds(response, secret->data, secret->length) ||
		holds_as(response, write_percent, secret, 0) || holds_as(response, write_form, secret, 0) ||
		holds_as(response, write_json, secret, 1) || holds_in_base64(response, secret);
}

static bool
any_leaks(const ConduitSecret *secret, const HttpResponse *response)
{
	return leaks(response, &secret->access_token) || leaks(response, &secret->api_key) ||
		leaks(response, &secret->api_secret) || leaks(response, &secret->password);
}

/* The number that count hexadecimal digits make, -1 if they are none. */
static int
hex_number(const char *digits, Size left, int count)
{
	int			number = 0;

	if (left < count)
		return -1;
	for (int i = 0; i < count; i++)
	{
		int			value = hex_value(digits[i]);

		if (value < 0)
			return -1;
		number = number * 16 + value;
	}
	return number;
}

/*
 * Resolve what is escaped by a backslash as JSON has it, in place, and return
 * the new length.  Credentials are ASCII nearly always: of other characters a
 * byte that fits none is left.
 */
static Size
resolve_backslashes(char *text, Size length)
{
	static const char names[] = "bfnrt";
	static const char values[] = "\b\f\n\r\t";
	char	   *to = text;

	for (Size i = 0; i < length; i++)
	{
		const char *name;
		int			number;

		if (text[i] != '\\' || i + 1 == length)
		{
			*to++ = text[i];
			continue;
		}
		i++;
		if (text[i] == 'u' && (number = hex_number(text + i + 1, length - i - 1, 4)) >= 0)
		{
			*to++ = number < 0x80 ? (char) number : (char) 0xff;
			i += 4;
		}
		else if (text[i] != '\0' && (name = strchr(names, text[i])) != NULL)
			*to++ = values[name - names];
		else
			*to++ = text[i];
	}
	return to - text;
}

/* The same for octets that are percent-encoded. */
static Size
resolve_percents(char *text, Size length)
{
	char	   *to = text;

	for (Size i = 0; i < length; i++)
	{
		int			octet = text[i] == '%' ? hex_number(text + i + 1, length - i - 1, 2) : -1;

		*to++ = octet >= 0 ? (char) octet : text[i];
		if (octet >= 0)
			i += 2;
	}
	return to - text;
}

/* How often one encoding stands within another. */
#define ENCODING_LEVELS 3

/*
 * There are many ways to write the same text: a slash may or may not be escaped
 * in JSON, digits be of either case, and a text in JSON be JSON itself.  So it
 * is the answer that is decoded, not the credential encoded.
 */
static bool
leaks_decoded(const ConduitSecret *secret, const char *text, Size length)
{
	char	   *copy = palloc_extended(length + 1, MCXT_ALLOC_HUGE);
	HttpResponse decoded = {.body = copy,.headers = ""};
	bool		found = false;

	memcpy(copy, text, length);
	decoded.length = length;
	for (int level = 0; level < ENCODING_LEVELS && !found; level++)
	{
		bool		escaped = memchr(copy, '\\', decoded.length) != NULL;

		if (escaped)
		{
			decoded.length = resolve_backslashes(copy, decoded.length);
			found = any_leaks(secret, &decoded);
		}
		if (!found && memchr(copy, '%', decoded.length) != NULL)
		{
			decoded.length = resolve_percents(copy, decoded.length);
			found = any_leaks(secret, &decoded);
		}
		else if (!escaped)
			break;
	}
	conduit_wipe(copy, length);
	pfree(copy);
	return found;
}

bool
conduit_api_answer_leaks(const ConduitSecret *secret, const HttpResponse *response)
{
	return any_leaks(secret, response) || leaks_decoded(secret, response->body, response->length) ||
		leaks_decoded(secret, response->headers, strlen(response->headers));
}

char *
conduit_api_answer_headers(const HttpResponse *response)
{
	StringInfoData out;
	List	   *names = NIL;
	const char *line = response->headers;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	while (*line != '\0')
	{
		size_t		length = strcspn(line, "\n");
		size_t		name_length = strcspn(line, ":");
		char	   *name = pnstrdup(line, Min(name_length, length));
		const char *value = line + name_length + 1;
		bool		seen = false;
		ListCell   *cell;

		foreach(cell, names)
			seen |= strcmp(lfirst(cell), name) == 0;
		if (name_length < length && !seen &&
			(is_one_of(name, passed_headers, lengthof(passed_headers)) ||
			 begins_with_one_of(name, passed_prefixes, lengthof(passed_prefixes))))
		{
			value += strspn(value, " \t");
			if (names != NIL)
				appendStringInfoChar(&out, ',');
			conduit_json_write_string(&out, name, strlen(name));
			appendStringInfoChar(&out, ':');
			conduit_json_write_string(&out, value, line + length - value);
			names = lappend(names, name);
		}
		line += length + (line[length] == '\n' ? 1 : 0);
	}
	appendStringInfoChar(&out, '}');
	return out.data;
}

char *
conduit_media_type(const char *content_type)
{
	size_t		length = strcspn(content_type, "; \t");
	char	   *type = pnstrdup(content_type, length);
	const char *slash = strchr(type, '/');

	for (char *c = type; *c != '\0'; c++)
		*c = pg_ascii_tolower((unsigned char) *c);
	if (slash == NULL || slash == type || slash[1] == '\0' || length > 127 ||
		strspn(type, token_characters) != (size_t) (slash - type) ||
		strspn(slash + 1, token_characters) != strlen(slash + 1))
		return NULL;
	return type;
}
