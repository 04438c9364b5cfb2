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

/* The body as an object, or NULL with *html or *problem (a code) telling what it is instead. */
static ConduitJson *
parse_body(HttpResponse *response, bool *html, const char **problem)
{
	char	   *body = response->body;
	Size		length = response->length;
	ConduitJson *result;

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
	if (body[0] != '{' && body[0] != '[' &&
		pg_strncasecmp(response->content_type, "application/json", 16) != 0)
	{
		/* Trailing line ends come with text/plain. */
		while (length > 0 && isspace((unsigned char) body[length - 1]))
			body[--length] = '\0';
		if (memchr(body, '\0', length) != NULL || memchr(body, '=', length) == NULL)
			return NULL;
		result = parse_form(body);
	}
	else
	{
		const char *ignored;

		result = conduit_json_parse(body, (int) length, &ignored);
	}
	return result != NULL && result->type == CONDUIT_JSON_OBJECT ? result : NULL;
}

void
conduit_token_response_read(const ConduitConnector *connector, HttpResponse *response,
							TimestampTz started_at, TokenOutcome *outcome)
{
	ConduitJson *body;
	bool		html;
	const char *problem;
	const ConduitJson *ok;

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
	if (response->status >= 200 && response->status <= 299)
	{
		ok = body ? conduit_json_get(body, "ok") : NULL;
		if (body != NULL && !(ok != NULL && ok->type == CONDUIT_JSON_FALSE))
		{
			problem = conduit_token_grant_from_json(connector, body,
													conduit_time_add(started_at, response->seconds),
													true, &outcome->grant);
			if (problem == NULL)
			{
				outcome->outcome = OUTCOME_REFRESHED;
				return;
			}
			problem = strcmp(problem, "no_access_token") == 0 ? problem : "bad_token";
		}
		else if (body != NULL)
			problem = "no_access_token";
	}

	if (html && response->status >= 200 && response->status <= 299)
	{
		/* Not the token endpoint's words, so it has not come to a rotation. */
		outcome->outcome = OUTCOME_TRANSIENT;
		strlcpy(outcome->code, problem, sizeof(outcome->code));
		return;
	}
	if (!conduit_classify_refusal(connector, response, body, html, outcome))
	{
		/* A success that we cannot read may have consumed the token. */
		outcome->outcome = OUTCOME_UNKNOWN;
		strlcpy(outcome->code, problem, sizeof(outcome->code));
	}
}
