/*-------------------------------------------------------------------------
 *
 * outgoing.c
 *	  A request about to be sent: its parameters, its headers, its secrets.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "base/settings.h"
#include "provider/assertion.h"
#include "provider/outgoing.h"

/* RFC 7523, 2.2; RFC 7521, 4.2. */
#define ASSERTION_TYPE "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#define CLIENT_ASSERTION_SECONDS 300

typedef struct OutgoingParam
{
	const char *name;
	const char *value;
	Size		length;
} OutgoingParam;

void
conduit_outgoing_start(OutgoingRequest *out, const ConduitConnector *connector,
					   const ConduitJson *values, int timeout_ms)
{
	memset(out, 0, sizeof(*out));
	out->connector = connector;
	out->values = values;
	out->http.timeout_ms = timeout_ms;
	out->http.max_response = (Size) conduit_max_response_size * 1024;
}

void
conduit_outgoing_fail(OutgoingRequest *out, const char *problem)
{
	if (out->problem == NULL)
		out->problem = problem;
}

SizedText *
conduit_outgoing_text(OutgoingRequest *out, SizedWriter writer, const void *source)
{
	SizedText  *text = palloc0(sizeof(SizedText));

	out->texts = lappend(out->texts, text);
	conduit_sized_write(text, writer, source);
	return text;
}

void
conduit_outgoing_secret(OutgoingRequest *out, const SecretText *secret)
{
	SecretText *copy;

	if (secret->data == NULL || secret->length == 0)
		return;
	copy = palloc(sizeof(SecretText));
	*copy = *secret;
	out->secrets = lappend(out->secrets, copy);
}

static void
write_plain(SizedText *text, const void *source)
{
	const SecretText *secret = source;

	conduit_append_bytes(text, secret->data, secret->length);
}

const char *
conduit_outgoing_copy(OutgoingRequest *out, const SecretText *secret)
{
	return conduit_outgoing_text(out, write_plain, secret)->data;
}

void
conduit_outgoing_adopt(OutgoingRequest *out, char *text)
{
	SizedText  *adopted = palloc(sizeof(SizedText));

	adopted->data = text;
	adopted->length = adopted->capacity = strlen(text);
	out->texts = lappend(out->texts, adopted);
}

const char *
conduit_outgoing_fill(OutgoingRequest *out, const char *text, const TemplateValue *values)
{
	const char *problem;
	const char *variable;
	char	   *filled;

	if (strchr(text, '{') == NULL)
		return text;
	filled = conduit_text_fill(out->connector, text, out->values, values, &problem, &variable);
	if (filled == NULL)
		conduit_outgoing_fail(out, "invalid_params");
	else
		conduit_outgoing_adopt(out, filled);
	return filled;
}

/* ---- parameters ---- */

static void
add_param(OutgoingRequest *out, const char *name, const char *value, Size length)
{
	OutgoingParam *param = palloc(sizeof(OutgoingParam));

	param->name = name;
	param->value = value;
	param->length = length;
	out->params = lappend(out->params, param);
}

void
conduit_outgoing_param(OutgoingRequest *out, const ConduitJson *names, const char *canonical,
					   const char *value, Size length)
{
	const ConduitJson *name = names != NULL ? conduit_json_get(names, canonical) : NULL;

	if (name == NULL)
		add_param(out, canonical, value, length);
	else if (name->type == CONDUIT_JSON_STRING)
		add_param(out, name->text, value, length);
}

void
conduit_outgoing_secret_param(OutgoingRequest *out, const ConduitJson *names, const char *canonical,
							  const SecretText *value)
{
	if (value->data == NULL)
		return;
	conduit_outgoing_secret(out, value);
	conduit_outgoing_param(out, names, canonical, value->data, value->length);
}

void
conduit_outgoing_extra_params(OutgoingRequest *out, const ConduitJson *extra)
{
	if (extra == NULL)
		return;
	for (const ConduitJson *p = extra->first; p != NULL; p = p->next)
	{
		const char *value = conduit_outgoing_fill(out, p->text, NULL);

		if (value != NULL)
			add_param(out, p->key, value, strlen(value));
	}
}

/* ---- headers ---- */

void
conduit_outgoing_header(OutgoingRequest *out, const char *name, const char *value)
{
	HttpHeader *header = NULL;
	ListCell   *cell;

	foreach(cell, out->headers)
	{
		if (pg_strcasecmp(((HttpHeader *) lfirst(cell))->name, name) == 0)
			header = lfirst(cell);
	}
	if (header == NULL)
	{
		header = palloc(sizeof(HttpHeader));
		out->headers = lappend(out->headers, header);
	}
	header->name = name;
	header->value = value;
}

/* A version 4 UUID (RFC 9562): of one request, so it need not be a good secret. */
static char *
new_uuid(void)
{
	uint8		bytes[16];
	char	   *text = palloc(37);
	char	   *out = text;

	conduit_random(bytes, sizeof(bytes));
	bytes[6] = (bytes[6] & 0x0f) | 0x40;
	bytes[8] = (bytes[8] & 0x3f) | 0x80;
	for (int i = 0; i < 16; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		out += snprintf(out, 3, "%02x", bytes[i]);
	}
	return text;
}

/* A header whose {client_id} or {client_secret} there is not is left out. */
void
conduit_outgoing_headers(OutgoingRequest *out, const char *client_id, const SecretText *client_secret)
{
	const ConduitJson *header = out->connector->token_headers ? out->connector->token_headers->first : NULL;
	TemplateValue values[] = {{"client_id", client_id}, {"client_secret", NULL}, {"uuid", NULL}, {NULL, NULL}};

	conduit_outgoing_header(out, "Accept", "application/json");
	for (; header != NULL; header = header->next)
	{
		bool		has_secret = conduit_text_has_variable(header->text, "client_secret");
		const char *value;

		if ((has_secret && client_secret->data == NULL) ||
			(conduit_text_has_variable(header->text, "client_id") && client_id == NULL))
			continue;
		if (has_secret && values[1].value == NULL)
		{
			values[1].value = conduit_outgoing_copy(out, client_secret);
			conduit_outgoing_secret(out, client_secret);
		}
		if (conduit_text_has_variable(header->text, "uuid") && values[2].value == NULL)
			values[2].value = new_uuid();
		value = conduit_outgoing_fill(out, header->text, values);
		if (value != NULL)
			conduit_outgoing_header(out, header->key, value);
	}
}

static void
write_bearer(SizedText *text, const void *source)
{
	const SecretText *token = source;

	conduit_append_string(text, "Bearer ");
	conduit_append_bytes(text, token->data, token->length);
}

void
conduit_outgoing_bearer(OutgoingRequest *out, const SecretText *token)
{
	conduit_outgoing_secret(out, token);
	conduit_outgoing_header(out, "Authorization", conduit_outgoing_text(out, write_bearer, token)->data);
}

/* Both form-encoded before they are joined (RFC 6749, 2.3.1). */
static void
write_pair(SizedText *text, const void *source)
{
	const OutgoingClient *client = source;

	conduit_append_form(text, client->client_id, strlen(client->client_id));
	conduit_append_char(text, ':');
	conduit_append_form(text, client->secret.data, client->secret.length);
}

/* As curl -u has it: what is no OAuth client is not encoded. */
static void
write_secret_as_user(SizedText *text, const void *source)
{
	const OutgoingClient *client = source;

	conduit_append_bytes(text, client->secret.data, client->secret.length);
	conduit_append_char(text, ':');
}

static void
write_basic(SizedText *text, const void *source)
{
	const SizedText *pair = source;

	conduit_append_string(text, "Basic ");
	conduit_append_base64(text, pair->data, pair->length);
}

static void
add_basic(OutgoingRequest *out, SizedWriter writer, const OutgoingClient *client)
{
	const SizedText *pair = conduit_outgoing_text(out, writer, client);
	const SizedText *value = conduit_outgoing_text(out, write_basic, pair);
	SecretText	encoded = {value->data + 6, (int) value->length - 6};

	conduit_outgoing_secret(out, &client->secret);
	conduit_outgoing_secret(out, &encoded);
	conduit_outgoing_header(out, "Authorization", value->data);
}

/* ---- the client ---- */

/* RFC 7523, 2.2 and 3. */
static void
add_client_assertion(OutgoingRequest *out, const OutgoingClient *client, const ConduitJson *names)
{
	const ConduitConnector *connector = out->connector;
	Assertion	assertion = {0};
	SizedText  *jwt = palloc0(sizeof(SizedText));
	SecretText	signed_text;

	assertion.algorithm = connector->signing_algorithm;
	assertion.key = client->secret;
	assertion.issuer = connector->client_assertion_issuer != NULL ?
		conduit_outgoing_fill(out, connector->client_assertion_issuer, NULL) : client->client_id;
	assertion.subject = client->client_id;
	assertion.audience = connector->client_assertion_audience != NULL ?
		conduit_outgoing_fill(out, connector->client_assertion_audience, NULL) : client->endpoint;
	assertion.lifetime_s = CLIENT_ASSERTION_SECONDS;
	if (out->problem != NULL)
		return;

	out->texts = lappend(out->texts, jwt);
	if (!conduit_assertion_sign(&assertion, jwt))
	{
		conduit_outgoing_fail(out, "bad_private_key");
		return;
	}
	signed_text.data = jwt->data;
	signed_text.length = (int) jwt->length;
	conduit_outgoing_param(out, names, "client_assertion_type", ASSERTION_TYPE, strlen(ASSERTION_TYPE));
	conduit_outgoing_secret_param(out, names, "client_assertion", &signed_text);
}

void
conduit_outgoing_client(OutgoingRequest *out, const OutgoingClient *client, const ConduitJson *names)
{
	bool		in_header = client->secret.data != NULL &&
		(client->method == CLIENT_AUTH_SECRET_AS_USER ||
		 (client->method == CLIENT_AUTH_BASIC && client->client_id != NULL));

	if (in_header)
	{
		add_basic(out, client->method == CLIENT_AUTH_BASIC ? write_pair : write_secret_as_user, client);
		return;
	}
	if (client->client_id != NULL)
		conduit_outgoing_param(out, names, "client_id", client->client_id, strlen(client->client_id));
	if (client->method == CLIENT_AUTH_POST)
		conduit_outgoing_secret_param(out, names, "client_secret", &client->secret);
	else if (client->method == CLIENT_AUTH_PRIVATE_KEY_JWT && client->client_id != NULL &&
			 client->secret.data != NULL)
		add_client_assertion(out, client, names);
}

/* ---- the whole ---- */

static void
write_form(SizedText *text, const void *source)
{
	const OutgoingRequest *out = source;
	ListCell   *cell;

	foreach(cell, out->params)
	{
		const OutgoingParam *param = lfirst(cell);

		if (text->length > 0)
			conduit_append_char(text, '&');
		conduit_append_form(text, param->name, strlen(param->name));
		conduit_append_char(text, '=');
		conduit_append_form(text, param->value, param->length);
	}
}

static void
write_object(SizedText *text, const void *source)
{
	const OutgoingRequest *out = source;
	ListCell   *cell;

	conduit_append_char(text, '{');
	foreach(cell, out->params)
	{
		const OutgoingParam *param = lfirst(cell);

		if (text->length > 1)
			conduit_append_char(text, ',');
		conduit_append_json(text, param->name, strlen(param->name));
		conduit_append_char(text, ':');
		conduit_append_json(text, param->value, param->length);
	}
	conduit_append_char(text, '}');
}

void
conduit_outgoing_finish(OutgoingRequest *out, const char *method, const char *url, BodyFormat format)
{
	HttpHeader *headers = palloc(sizeof(HttpHeader) * Max(list_length(out->headers), 1));
	const SizedText *body = NULL;
	ListCell   *cell;

	Assert(strcmp(method, "GET") != 0 || format == BODY_QUERY);
	if (format == BODY_QUERY)
		out->http.query = out->params != NIL ? conduit_outgoing_text(out, write_form, out)->data : NULL;
	else if (format == BODY_JSON && (out->params != NIL || strcmp(method, "POST") == 0))
	{
		body = conduit_outgoing_text(out, write_object, out);
		out->http.content_type = "application/json";
	}
	else if (out->params != NIL)
	{
		body = conduit_outgoing_text(out, write_form, out);
		out->http.content_type = "application/x-www-form-urlencoded";
	}
	if (body != NULL)
	{
		out->http.body = body->data;
		out->http.body_length = body->length;
	}

	out->http.method = method;
	out->http.url = url;
	out->http.headers = headers;
	foreach(cell, out->headers)
		headers[out->http.nheaders++] = *(HttpHeader *) lfirst(cell);
}

void
conduit_outgoing_wipe(OutgoingRequest *out)
{
	ListCell   *cell;

	foreach(cell, out->texts)
		conduit_sized_wipe(lfirst(cell));
	out->texts = NIL;
}
