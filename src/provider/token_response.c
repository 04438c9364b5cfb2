/*-------------------------------------------------------------------------
 *
 * token_response.c
 *	  What a provider answered: from a finished transfer to an outcome.
 *
 * A response is taken for what it is rather than for what it says it is: the
 * first byte outweighs the content type, an access token outweighs everything
 * (a rotated pair that is thrown away cannot be had again), an error outweighs
 * the status.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "mb/pg_wchar.h"

#include <ctype.h>
#include <math.h>

#include "base/clock.h"
#include "base/json.h"
#include "provider/classify.h"
#include "provider/token_response.h"

const char *
conduit_outcome_name(OutcomeClass outcome)
{
	switch (outcome)
	{
		case OUTCOME_REFRESHED:
			return "refreshed";
		case OUTCOME_DEAD:
			return "dead";
		case OUTCOME_CONFIG:
			return "config";
		case OUTCOME_THROTTLED:
			return "throttled";
		case OUTCOME_TRANSIENT:
			return "transient";
		case OUTCOME_UNKNOWN:
			return "unknown";
	}
	return "unknown";
}

static bool
is_utf8(const char *text, int length)
{
	return pg_encoding_verifymbstr(PG_UTF8, text, length) == length;
}

/*
 * A form-encoded body as a JSON object of strings, decoded in place; NULL if it
 * is not of that form.
 */
static ConduitJson *
parse_form(char *body)
{
	ConduitJson *object = palloc0(sizeof(ConduitJson));
	ConduitJson **end = &object->first;

	object->type = CONDUIT_JSON_OBJECT;
	while (*body != '\0')
	{
		char	   *next = body + strcspn(body, "&");
		ConduitJson *member = palloc0(sizeof(ConduitJson));
		char	   *out = body;
		bool		more = *next == '&';
		bool		in_key = true;

		*next = '\0';
		member->type = CONDUIT_JSON_STRING;
		member->key = body;
		for (char *c = body; *c != '\0'; c++)
		{
			if (*c == '=' && in_key)
			{
				*out++ = '\0';
				member->text = out;
				in_key = false;
			}
			else if (*c == '+')
				*out++ = ' ';
			else if (*c == '%')
			{
				char		hex[3] = {c[1], c[1] ? c[2] : '\0', '\0'};

				if (strspn(hex, "0123456789abcdefABCDEF") != 2 || strcmp(hex, "00") == 0)
					return NULL;
				*out++ = (char) strtol(hex, NULL, 16);
				c += 2;
			}
			else if ((unsigned char) *c < ' ')
				return NULL;
			else
				*out++ = *c;
		}
		if (in_key || member->key[0] == '\0' || conduit_json_get(object, member->key) != NULL)
			return NULL;
		*out = '\0';
		member->length = out - member->text;
		if (!is_utf8(member->key, strlen(member->key)) || !is_utf8(member->text, member->length))
			return NULL;
		*end = member;
		end = &member->next;
		body = next + (more ? 1 : 0);
	}
	return object->first != NULL ? object : NULL;
}

/*
 * Words for people: {"message": ...}, where phrases are looked for.  A form has
 * no blank before its first '='.
 */
static ConduitJson *
parse_prose(const char *body, Size length)
{
	ConduitJson *object;
	ConduitJson *message;

	if (body[strcspn(body, "= \t\r\n")] == '=' || memchr(body, '\0', length) != NULL || !is_utf8(body, length))
		return NULL;
	object = palloc0(sizeof(ConduitJson));
	message = palloc0(sizeof(ConduitJson));
	object->type = CONDUIT_JSON_OBJECT;
	object->first = message;
	message->type = CONDUIT_JSON_STRING;
	message->key = "message";
	message->text = body;
	message->length = length;
	return object;
}

/* The body as an object, or NULL with *html or *problem (a code) telling what it is instead. */
static ConduitJson *
parse_body(HttpResponse *response, bool *html, const char **problem)
{
	char	   *body = response->body;
	Size		length = response->length;
	ConduitJson *result = NULL;
	const char *ignored;

	*html = false;
	*problem = NULL;
	if (length >= 3 && memcmp(body, "\xef\xbb\xbf", 3) == 0)
	{
		body += 3;
		length -= 3;
	}
	while (length > 0 && isspace((unsigned char) body[0]))
	{
		body++;
		length--;
	}
	if (length == 0)
	{
		*problem = "empty";
		return NULL;
	}
	if (body[0] == '<')
	{
		*html = true;
		*problem = "html";
		return NULL;
	}

	*problem = "bad_json";
	if (body[0] == '{' || body[0] == '[')
		result = conduit_json_parse(body, (int) length, &ignored);
	else if (pg_strncasecmp(response->content_type, "application/json", 16) != 0)
	{
		/* Trailing line ends come with text/plain. */
		while (length > 0 && isspace((unsigned char) body[length - 1]))
			body[--length] = '\0';
		if (response->status >= 400)
			result = parse_prose(body, length);
		if (result == NULL && memchr(body, '\0', length) == NULL && memchr(body, '=', length) != NULL)
			result = parse_form(body);
	}
	return result != NULL && result->type == CONDUIT_JSON_OBJECT ? result : NULL;
}

/* NULL and the grant, or what is missing in a 2xx with this body. */
static const char *
read_grant(const ConduitConnector *connector, TokenRequestKind kind, const ConduitJson *body,
		   TimestampTz received_at, TokenGrant *grant)
{
	const char *problem;

	if (!conduit_classify_success(connector, body))
		return "no_access_token";
	problem = conduit_token_grant_from_json(connector, body, received_at, true, grant);
	if (problem == NULL)
	{
		/* What mints a token can mint the next; a refresh token beside it is no use. */
		if (kind == TOKEN_REQUEST_CLIENT_CREDENTIALS || kind == TOKEN_REQUEST_JWT_BEARER)
			conduit_token_grant_drop_refresh(grant);
		return NULL;
	}
	return strcmp(problem, "no_access_token") == 0 ? problem : "bad_token";
}

/*
 * The stored secret of a connection is not always a refresh token.  Where it is
 * a client of its own, or its key, a refused client is proof; where it is
 * nothing, nothing can be.
 */
static void
judge_secret(TokenRequestKind kind, bool own_client, TokenOutcome *outcome)
{
	if (own_client)
	{
		if (outcome->outcome == OUTCOME_CONFIG && conduit_classify_refuses_client(outcome->code))
			outcome->outcome = OUTCOME_DEAD;
	}
	else if (kind == TOKEN_REQUEST_CLIENT_CREDENTIALS && outcome->outcome == OUTCOME_DEAD)
		outcome->outcome = OUTCOME_CONFIG;
}

void
conduit_token_response_read(const ConduitConnector *connector, TokenRequestKind kind, bool own_client,
							HttpResponse *response, TimestampTz started_at, TokenOutcome *outcome)
{
	bool		success = response->status >= 200 && response->status <= 299;
	TimestampTz received_at = conduit_time_add(started_at, response->seconds);
	ConduitJson *body;
	bool		html;
	const char *problem;

	memset(outcome, 0, sizeof(*outcome));
	outcome->status = response->status;
	outcome->seconds = response->seconds;
	outcome->retry_after = response->retry_after < 0 || isnan(response->retry_after) ? -1 :
		Max(Min(response->retry_after, 3600), 1);

	if (response->result != HTTP_OK)
	{
		conduit_classify_failure(response, outcome);
		return;
	}

	body = parse_body(response, &html, &problem);
	if (success && body != NULL)
	{
		problem = read_grant(connector, kind, body, received_at, &outcome->grant);
		if (problem == NULL)
		{
			outcome->outcome = OUTCOME_REFRESHED;
			return;
		}
	}

	if (success && html)
	{
		/* Not the token endpoint's words, so it has not come to a rotation. */
		outcome->outcome = OUTCOME_TRANSIENT;
		strlcpy(outcome->code, problem, sizeof(outcome->code));
	}
	else if (conduit_classify_refusal(connector, response, body, html, outcome))
		judge_secret(kind, own_client, outcome);
	else if (body != NULL && connector->refresh_extends && strcmp(problem, "no_access_token") == 0 &&
			 (kind == TOKEN_REQUEST_REFRESH || kind == TOKEN_REQUEST_BEARER_RENEW))
	{
		conduit_token_grant_extended(connector, body, received_at, &outcome->grant);
		outcome->outcome = OUTCOME_REFRESHED;
	}
	else
	{
		/* A success that we cannot read may have consumed the token. */
		outcome->outcome = OUTCOME_UNKNOWN;
		strlcpy(outcome->code, problem, sizeof(outcome->code));
	}
}
