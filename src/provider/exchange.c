/*-------------------------------------------------------------------------
 *
 * exchange.c
 *	  One conversation with a provider: a request and what came back.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <ctype.h>

#include "base/clock.h"
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
	TokenRequestKind kind;		/* of a token request */
	bool		own_client;
	const char *problem;		/* a constant; NULL: it was sent */
	ExchangeOwner *owner;
	TimestampTz started_at;
	char		secrets[FLEXIBLE_ARRAY_MEMBER]; /* what was sent, in the alphabet of
												 * error codes */
};

/* What add_secrets writes, at most, with a NUL behind it. */
static Size
secrets_size(const OutgoingRequest *out)
{
	Size		size = 1;
	ListCell   *cell;

	foreach(cell, out->secrets)
		size += ((SecretText *) lfirst(cell))->length + 1;
	return size;
}

static bool
is_code_character(char c)
{
	return isalnum((unsigned char) c) || c == '.' || c == '-' || c == '_';
}

/* The secrets in the alphabet of error codes, character for character, a line each. */
static void
add_secrets(char *end, const OutgoingRequest *out)
{
	ListCell   *cell;

	foreach(cell, out->secrets)
	{
		const SecretText *secret = lfirst(cell);
		char	   *begin = end;

		for (int i = 0; i < secret->length; i++)
		{
			char		c = secret->data[i];

			if (is_code_character(c))
				*end++ = c;
			else if (end == begin || end[-1] != '_')
				*end++ = '_';
		}
		*end++ = '\n';
	}
}

/* An exchange of the request, which is wiped on every way out. */
static Exchange *
start(OutgoingRequest *out, ExchangeOwner *owner)
{
	Exchange   *volatile exchange = NULL;

	PG_TRY();
	{
		exchange = conduit_http_allocate(offsetof(Exchange, secrets) + secrets_size(out));
		add_secrets(exchange->secrets, out);
		exchange->connector = out->connector;
		exchange->problem = out->problem;
		exchange->owner = owner;
		exchange->started_at = conduit_now();
		exchange->transfer = out->problem == NULL ?
			conduit_http_start(&out->http, exchange) : conduit_http_refuse(exchange);
	}
	PG_CATCH();
	{
		/* Out of memory. */
		conduit_http_release(exchange);
		conduit_outgoing_wipe(out);
		PG_RE_THROW();
	}
	PG_END_TRY();

	conduit_outgoing_wipe(out);
	return exchange;
}

Exchange *
conduit_exchange_token(const TokenRequest *request, ExchangeOwner *owner)
{
	Exchange   *exchange;
	OutgoingRequest out;

	conduit_token_request_build(request, &out);
	exchange = start(&out, owner);
	exchange->kind = request->kind;
	exchange->own_client = request->own_client;
	return exchange;
}

Exchange *
conduit_exchange_revoke(const RevokeRequest *request, ExchangeOwner *owner)
{
	OutgoingRequest out;

	conduit_revoke_request_build(request, &out);
	return start(&out, owner);
}

Exchange *
conduit_exchange_get(const GetRequest *request, ExchangeOwner *owner)
{
	OutgoingRequest out;

	conduit_get_request_build(request, &out);
	return start(&out, owner);
}

Exchange *
conduit_exchange_call(const HttpRequest *request, ExchangeOwner *owner)
{
	Exchange   *volatile exchange = NULL;

	PG_TRY();
	{
		exchange = conduit_http_allocate(offsetof(Exchange, secrets) + 1);
		exchange->owner = owner;
		exchange->started_at = conduit_now();
		exchange->transfer = conduit_http_start(request, exchange);
	}
	PG_CATCH();
	{
		/* Out of memory. */
		conduit_http_release(exchange);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return exchange;
}

const HttpResponse *
conduit_exchange_response(Exchange *exchange)
{
	return conduit_http_response(exchange->transfer);
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

/* A request that could not be made is our own misconfiguration; true if it was one. */
static bool
read_problem(const Exchange *exchange, TokenOutcome *outcome)
{
	memset(outcome, 0, sizeof(*outcome));
	outcome->retry_after = -1;
	if (exchange->problem == NULL)
		return false;
	outcome->outcome = OUTCOME_CONFIG;
	strlcpy(outcome->code, exchange->problem, sizeof(outcome->code));
	return true;
}

/* A code that quotes what was sent gives way to one that says nothing. */
static void
hide_secrets(const Exchange *exchange, TokenOutcome *outcome)
{
	if (!conduit_classify_code_known(outcome->code) &&
		code_quotes_secret(outcome->code, exchange->secrets))
		snprintf(outcome->code, sizeof(outcome->code), "http_%d", outcome->status);
}

/* Does text quote all of a secret that was sent?  text is in UTF-8. */
static bool
text_quotes_secret(const char *text, int length, const char *secrets)
{
	char	   *cleaned = palloc(length + 1);
	char	   *end = cleaned;
	bool		found = false;

	for (int i = 0; i < length; i++)
	{
		if (is_code_character(text[i]))
			*end++ = text[i];
		else if (end == cleaned || end[-1] != '_')
			*end++ = '_';
	}
	*end = '\0';
	for (const char *line = secrets; *line != '\0' && !found; line += strcspn(line, "\n") + 1)
	{
		size_t		line_length = strcspn(line, "\n");
		char	   *secret = pnstrdup(line, line_length);

		found = line_length >= ECHO_LENGTH && strstr(cleaned, secret) != NULL;
		conduit_wipe(secret, line_length);
		pfree(secret);
	}
	conduit_wipe(cleaned, length + 1);
	pfree(cleaned);
	return found;
}

static bool
object_quotes_secret(const ConduitJson *object, const char *secrets)
{
	StringInfoData text;
	bool		found;

	if (object == NULL)
		return false;
	initStringInfo(&text);
	conduit_json_write(&text, object);
	found = text_quotes_secret(text.data, text.len, secrets);
	conduit_wipe(text.data, text.len);
	pfree(text.data);
	return found;
}

/*
 * What a provider says beyond tokens is kept in clear or vended.  Where that
 * repeats a secret that was sent, the refresh token before this one for one, it
 * is not kept.
 */
static void
forget_echoes(const Exchange *exchange, TokenGrant *grant)
{
	const char *secrets = exchange->secrets;
	SecretText *extra = &grant->secret.extra;

	if (extra->data != NULL && text_quotes_secret(extra->data, extra->length, secrets))
	{
		conduit_wipe(unconstify(char *, extra->data), extra->length);
		extra->data = NULL;
		extra->length = 0;
	}
	if (object_quotes_secret(grant->new_params, secrets))
		grant->new_params = NULL;
	if (object_quotes_secret(grant->new_metadata, secrets))
		grant->new_metadata = NULL;
	if (grant->account != NULL && text_quotes_secret(grant->account, strlen(grant->account), secrets))
		grant->account = NULL;
	if (grant->account_label != NULL &&
		text_quotes_secret(grant->account_label, strlen(grant->account_label), secrets))
		grant->account_label = NULL;
}

void
conduit_exchange_read(Exchange *exchange, TokenOutcome *outcome)
{
	if (read_problem(exchange, outcome))
		return;
	conduit_token_response_read(exchange->connector, exchange->kind, exchange->own_client,
								conduit_http_response(exchange->transfer),
								exchange->started_at, outcome);
	if (outcome->outcome == OUTCOME_REFRESHED)
		forget_echoes(exchange, &outcome->grant);
	hide_secrets(exchange, outcome);
}

/* The body as a JSON object or array, or NULL; changes the response. */
static const ConduitJson *
parse_document(HttpResponse *response)
{
	const char *problem;
	ConduitJson *document;

	if (response->length == 0 || response->length > INT_MAX)
		return NULL;
	document = conduit_json_parse(response->body, (int) response->length, &problem);
	return document != NULL &&
		(document->type == CONDUIT_JSON_OBJECT || document->type == CONDUIT_JSON_ARRAY) ? document : NULL;
}

/* What is known of a response before it is judged; false if none came, which is then the outcome. */
static bool
begin_outcome(const HttpResponse *response, TokenOutcome *outcome)
{
	outcome->status = response->status;
	outcome->seconds = response->seconds;
	if (response->retry_after >= 0)
		outcome->retry_after = Max(Min(response->retry_after, 3600), 1);
	if (response->result == HTTP_OK)
		return true;
	conduit_classify_failure(response, outcome);

	/* Here nothing is consumed that could be lost. */
	if (outcome->outcome == OUTCOME_UNKNOWN)
		outcome->outcome = OUTCOME_TRANSIENT;
	return false;
}

/* Has a refusal of a revocation the meaning that there is nothing left to revoke? */
static bool
nothing_left(const ConduitConnector *connector, const TokenOutcome *outcome)
{
	static const char *const codes[] = {"invalid_token", "unknown_token", "token_not_found", "token_expired"};

	if (outcome->outcome == OUTCOME_DEAD)
		return true;

	/* A resource that is not there any more, where the token or the grant is one. */
	if (outcome->status == 404 || outcome->status == 410)
		return strcmp(connector->revoke_method, "DELETE") == 0 || strstr(connector->revoke_url, "{token}") != NULL;

	/* It may be the token that should prove who asks. */
	if (connector->revoke_auth == REVOKE_AUTH_TOKEN && !connector->revoke_by_access_token)
		return false;
	for (int i = 0; i < lengthof(codes); i++)
	{
		if (pg_strcasecmp(outcome->code, codes[i]) == 0)
			return true;
	}
	return false;
}

void
conduit_exchange_read_revocation(Exchange *exchange, TokenOutcome *outcome)
{
	HttpResponse *response = conduit_http_response(exchange->transfer);

	if (read_problem(exchange, outcome) || !begin_outcome(response, outcome))
		return;
	if (conduit_classify_refusal(exchange->connector, response, parse_document(response),
								 response->body[0] == '<', outcome) &&
		!nothing_left(exchange->connector, outcome))
	{
		hide_secrets(exchange, outcome);
		return;
	}
	outcome->outcome = OUTCOME_REFRESHED;
	outcome->code[0] = '\0';
}

const ConduitJson *
conduit_exchange_read_json(Exchange *exchange, TokenOutcome *outcome)
{
	HttpResponse *response = conduit_http_response(exchange->transfer);
	int			status = response->status;
	const ConduitJson *document;

	if (read_problem(exchange, outcome) || !begin_outcome(response, outcome))
		return NULL;
	if (status >= 200 && status <= 299)
	{
		document = parse_document(response);
		outcome->outcome = document != NULL ? OUTCOME_REFRESHED : OUTCOME_CONFIG;
		strlcpy(outcome->code, document != NULL ? "" : "bad_json", sizeof(outcome->code));
		return document;
	}

	if (status == 429 || (status == 503 && response->retry_after >= 0))
		outcome->outcome = OUTCOME_THROTTLED;
	else if (status >= 500 || status == 408 || status == 425)
		outcome->outcome = OUTCOME_TRANSIENT;
	else
		outcome->outcome = OUTCOME_CONFIG;
	if (status >= 300 && status <= 399)
		strlcpy(outcome->code, "redirect_refused", sizeof(outcome->code));
	else
		snprintf(outcome->code, sizeof(outcome->code), "http_%d", status);
	return NULL;
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
