/*-------------------------------------------------------------------------
 *
 * exchange.c
 *	  One conversation with a token endpoint.
 *
 * Builds the request of RFC 6749 section 6 and reads what comes back.  Texts
 * that hold secrets are built at their final size, for growing would leave
 * copies behind, and wiped when libcurl has its own.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <ctype.h>
#include <openssl/evp.h>

#include "base/clock.h"
#include "base/settings.h"
#include "provider/classify.h"
#include "provider/exchange.h"
#include "provider/http_memory.h"
#include "vault/seal.h"

/* Shorter pieces of a code are no evidence that it quotes a secret. */
#define ECHO_LENGTH		8

struct Exchange
{
	HttpTransfer *transfer;
	const ConduitConnector *connector;
	TokenRequestKind kind;
	bool		own_client;
	ExchangeOwner *owner;
	TimestampTz started_at;
	char		secrets[FLEXIBLE_ARRAY_MEMBER]; /* what was sent, in the alphabet of
												 * error codes */
};

/* A text under construction in memory of a known size. */
typedef struct Builder
{
	char	   *data;
	Size		length;
	Size		capacity;
} Builder;

static void
builder_init(Builder *builder, Size capacity)
{
	builder->data = palloc(capacity + 1);
	builder->data[0] = '\0';
	builder->length = 0;
	builder->capacity = capacity;
}

static void
builder_wipe(Builder *builder)
{
	conduit_wipe(builder->data, builder->capacity + 1);
	pfree(builder->data);
}

static void
append_char(Builder *builder, char c)
{
	Assert(builder->length < builder->capacity);
	builder->data[builder->length++] = c;
	builder->data[builder->length] = '\0';
}

/* application/x-www-form-urlencoded: at most three bytes for one. */
static void
append_form(Builder *builder, const char *text, Size length)
{
	static const char hex[] = "0123456789ABCDEF";

	for (Size i = 0; i < length; i++)
	{
		unsigned char c = (unsigned char) text[i];

		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
			c == '-' || c == '.' || c == '_' || c == '~')
			append_char(builder, (char) c);
		else if (c == ' ')
			append_char(builder, '+');
		else
		{
			append_char(builder, '%');
			append_char(builder, hex[c >> 4]);
			append_char(builder, hex[c & 15]);
		}
	}
}

/* name=value, with & before all but the first; name is one of ours or a definition's. */
static void
append_pair(Builder *builder, const char *name, const char *value, Size length)
{
	if (builder->length > 0)
		append_char(builder, '&');
	append_form(builder, name, strlen(name));
	append_char(builder, '=');
	append_form(builder, value, length);
}

static Size
pair_bound(const char *name, Size length)
{
	return 3 * (strlen(name) + length) + 2;
}

static void
build_body(const TokenRequest *request, Builder *body)
{
	const ConduitConnector *connector = request->connector;
	const ConduitJson *extra = connector->refresh_request.extra_params ? connector->refresh_request.extra_params->first : NULL;
	Size		bound = pair_bound("grant_type", 16) + pair_bound("refresh_token", request->refresh_token.length);

	if (request->client_id != NULL)
		bound += pair_bound("client_id", strlen(request->client_id));
	bound += pair_bound("client_secret", request->client_secret.length);
	for (const ConduitJson *p = extra; p != NULL; p = p->next)
		bound += pair_bound(p->key, p->length);

	builder_init(body, bound);
	append_pair(body, "grant_type", "refresh_token", strlen("refresh_token"));
	append_pair(body, "refresh_token", request->refresh_token.data, request->refresh_token.length);

	/* Who authenticates in a header must not do it in the body too (RFC 6749 2.3). */
	if (connector->client_auth != CLIENT_AUTH_BASIC && request->client_id != NULL)
		append_pair(body, "client_id", request->client_id, strlen(request->client_id));
	if (connector->client_auth == CLIENT_AUTH_POST && request->client_secret.data != NULL)
		append_pair(body, "client_secret", request->client_secret.data, request->client_secret.length);
	for (const ConduitJson *p = extra; p != NULL; p = p->next)
		append_pair(body, p->key, p->text, p->length);
}

/* "Basic ...": id and secret form-encoded before they are joined (RFC 6749 2.3.1). */
static void
build_basic(const TokenRequest *request, Builder *header)
{
	Builder		pair;
	Size		id_length = strlen(request->client_id);

	builder_init(&pair, 3 * (id_length + request->client_secret.length) + 1);
	append_form(&pair, request->client_id, id_length);
	append_char(&pair, ':');
	append_form(&pair, request->client_secret.data, request->client_secret.length);

	builder_init(header, 6 + (pair.length + 2) / 3 * 4);
	memcpy(header->data, "Basic ", 6);
	header->length = 6 + EVP_EncodeBlock((unsigned char *) header->data + 6,
										 (unsigned char *) pair.data, (int) pair.length);
	builder_wipe(&pair);
}

/* text in the alphabet of error codes, character for character. */
static char *
add_secret(char *out, const SecretText *secret)
{
	for (int i = 0; i < secret->length; i++)
	{
		char		c = secret->data[i];

		if (isalnum((unsigned char) c) || c == '.' || c == '-' || c == '_')
			*out++ = c;
		else if (i > 0 && out[-1] != '_')
			*out++ = '_';
	}
	*out++ = '\n';
	return out;
}

Exchange *
conduit_exchange_token(const TokenRequest *request, ExchangeOwner *owner)
{
	Exchange   *exchange;
	HttpHeader	headers[2] = {{"Accept", "application/json"}};
	HttpRequest http = {0};
	Builder		body;
	Builder		basic = {0};
	char	   *end;

	exchange = conduit_http_allocate(offsetof(Exchange, secrets) + request->refresh_token.length +
									 request->client_secret.length + 3);
	end = add_secret(exchange->secrets, &request->refresh_token);
	add_secret(end, &request->client_secret);
	exchange->connector = request->connector;
	exchange->kind = request->kind;
	exchange->own_client = request->own_client;
	exchange->owner = owner;
	exchange->started_at = conduit_now();

	PG_TRY();
	{
		build_body(request, &body);
		http.nheaders = 1;
		if (request->connector->client_auth == CLIENT_AUTH_BASIC && request->client_id != NULL)
		{
			build_basic(request, &basic);
			headers[1].name = "Authorization";
			headers[1].value = basic.data;
			http.nheaders = 2;
		}

		http.method = "POST";
		http.url = request->endpoint;
		http.content_type = "application/x-www-form-urlencoded";
		http.body = body.data;
		http.body_length = body.length;
		http.headers = headers;
		http.timeout_ms = request->timeout_ms;
		http.max_response = (Size) conduit_max_response_size * 1024;
		exchange->transfer = conduit_http_start(&http, exchange);
	}
	PG_CATCH();
	{
		/* Out of memory; the texts go with their context. */
		conduit_http_release(exchange);
		PG_RE_THROW();
	}
	PG_END_TRY();

	builder_wipe(&body);
	if (basic.data != NULL)
		builder_wipe(&basic);
	return exchange;
}

Exchange *
conduit_exchange_next_finished(void)
{
	HttpTransfer *transfer = conduit_http_next_finished();

	return transfer != NULL ? conduit_http_owner(transfer) : NULL;
}

ExchangeOwner *
conduit_exchange_owner(Exchange *exchange)
{
	return exchange->owner;
}

/*
 * Does a code quote what we sent?  Some providers put the offending value into
 * their error texts, and a code is written to tables and logs.
 */
static bool
code_quotes_secret(const char *code, const char *secrets)
{
	Size		length = strlen(code);

	for (Size i = 0; i + ECHO_LENGTH <= length; i++)
	{
		char		piece[ECHO_LENGTH + 1];

		memcpy(piece, code + i, ECHO_LENGTH);
		piece[ECHO_LENGTH] = '\0';
		if (strstr(secrets, piece) != NULL)
			return true;
	}

	/* A secret shorter than that: the code is all of it. */
	for (const char *line = secrets; *line != '\0'; line += strcspn(line, "\n") + 1)
	{
		if (length > 0 && strcspn(line, "\n") == length && memcmp(line, code, length) == 0)
			return true;
	}
	return false;
}

void
conduit_exchange_read(Exchange *exchange, TokenOutcome *outcome)
{
	conduit_token_response_read(exchange->connector, exchange->kind, exchange->own_client,
								conduit_http_response(exchange->transfer),
								exchange->started_at, outcome);
	if (!conduit_classify_code_known(outcome->code) &&
		code_quotes_secret(outcome->code, exchange->secrets))
		snprintf(outcome->code, sizeof(outcome->code), "http_%d", outcome->status);
}

bool
conduit_exchange_sent(Exchange *exchange)
{
	return conduit_http_sent(exchange->transfer);
}

void
conduit_exchange_free(Exchange *exchange)
{
	if (exchange == NULL)
		return;
	conduit_http_free(exchange->transfer);
	conduit_http_release(exchange);
}
