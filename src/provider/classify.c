/*-------------------------------------------------------------------------
 *
 * classify.c
 *	  What a refusal of a token endpoint means.
 *
 * The one mistake that cannot be mended is to call a living refresh token dead:
 * it costs a person a new authorization.  So DEAD needs proof, which is an error
 * code that says so, a sentence known to say so, or a status that the connector
 * declares to say so.  Everything else keeps the connection active.
 *
 * Order matters: what a status alone settles (429, 3xx) comes first, then the
 * connector's own codes, then sentences that contradict the code next to them,
 * then codes, then statuses.
 *
 * Wording:
 *	   - The code is the short machine-readable name of an error; the
 *		 description is prose, looked through for known phrases and never kept.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <ctype.h>

#include "provider/classify.h"

/* Compared without regard to case, '-' and '.' as '_'. */
static const struct
{
	const char *code;
	OutcomeClass outcome;
}			known_codes[] =
{
	{"invalid_grant", OUTCOME_DEAD},
	{"bad_refresh_token", OUTCOME_DEAD},	/* GitHub, HubSpot */
	{"invalid_refresh_token", OUTCOME_DEAD},	/* Slack, Google Identity */
	{"token_expired", OUTCOME_DEAD},	/* Google Identity, Slack */
	{"token_revoked", OUTCOME_DEAD},	/* Slack */
	{"account_inactive", OUTCOME_DEAD}, /* Slack */
	{"inactive_user", OUTCOME_DEAD},	/* Salesforce */
	{"refresh_token_invalidated", OUTCOME_DEAD},	/* OpenAI */
	{"refresh_token_expired", OUTCOME_DEAD},
	{"refresh_token_revoked", OUTCOME_DEAD},
	{"refresh_token_reused", OUTCOME_DEAD},
	{"expired_refresh_token", OUTCOME_DEAD},
	{"revoked_refresh_token", OUTCOME_DEAD},
	{"interaction_required", OUTCOME_DEAD}, /* Microsoft */
	{"invalid_client", OUTCOME_CONFIG},
	{"incorrect_client_credentials", OUTCOME_CONFIG},	/* GitHub */
	{"unauthorized_client", OUTCOME_CONFIG},
	{"unsupported_grant_type", OUTCOME_CONFIG},
	{"invalid_scope", OUTCOME_CONFIG},
	{"invalid_request", OUTCOME_CONFIG},
	{"invalid_target", OUTCOME_CONFIG},
	{"redirect_uri_mismatch", OUTCOME_CONFIG},
	{"access_denied", OUTCOME_CONFIG},
	{"invalid_client_id", OUTCOME_CONFIG},
	{"invalid_client_secret", OUTCOME_CONFIG},
	{"bad_client_id", OUTCOME_CONFIG},
	{"bad_client_secret", OUTCOME_CONFIG},	/* Slack */
	{"temporarily_unavailable", OUTCOME_THROTTLED},
	{"slow_down", OUTCOME_THROTTLED},
	{"ratelimited", OUTCOME_THROTTLED}, /* Slack */
	{"rate_limited", OUTCOME_THROTTLED},
	{"rate_limit_exceeded", OUTCOME_THROTTLED},
	{"too_many_requests", OUTCOME_THROTTLED},
	{"throttled", OUTCOME_THROTTLED},
	{"resource_exhausted", OUTCOME_THROTTLED},	/* Google */
	{"server_error", OUTCOME_TRANSIENT},
	{"internal_error", OUTCOME_TRANSIENT},
	{"internal_server_error", OUTCOME_TRANSIENT},
	{"backend_error", OUTCOME_TRANSIENT},
	{"service_unavailable", OUTCOME_TRANSIENT},
	{"fatal_error", OUTCOME_TRANSIENT}, /* Slack */
	{"request_timeout", OUTCOME_TRANSIENT}	/* Slack */
};

/* Sentences that mean "not now", whatever code they come with. */
static const char *const throttle_phrases[] =
{
	"too many requests",		/* Zoho, as "Access Denied" */
	"rate limit",
	"rate exceeded"
};

/* Sentences that mean a dead refresh token where the code says too little. */
static const char *const dead_phrases[] =
{
	"unknown or invalid refresh token", /* Atlassian */
	"refresh_token is invalid", /* Atlassian, with unauthorized_client */
	"refresh token is invalid",
	"expired access/refresh token", /* Salesforce */
	"refresh token has expired",
	"refresh token has been revoked"
};

/* Microsoft's number for a malformed request, which it calls invalid_grant. */
#define AADSTS_MALFORMED	9002313

void
conduit_classify_clean_code(const char *text, char *code)
{
	int			length = 0;
	bool		gap = false;

	for (; *text != '\0' && length < OUTCOME_CODE_LEN; text++)
	{
		if ((*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') ||
			(*text >= '0' && *text <= '9') || *text == '_' || *text == '.' || *text == '-')
		{
			if (gap && length > 0 && length < OUTCOME_CODE_LEN - 1)
				code[length++] = '_';
			gap = false;
			code[length++] = *text;
		}
		else
			gap = true;
	}
	code[length] = '\0';
}

/* Equal but for case and for what separates words. */
static bool
same_code(const char *a, const char *b)
{
	for (; *a != '\0' && *b != '\0'; a++, b++)
	{
		char		x = *a == '-' || *a == '.' ? '_' : pg_ascii_tolower((unsigned char) *a);
		char		y = *b == '-' || *b == '.' ? '_' : pg_ascii_tolower((unsigned char) *b);

		if (x != y)
			return false;
	}
	return *a == *b;
}

static bool
find_code(const char *code, OutcomeClass *outcome)
{
	for (int i = 0; i < lengthof(known_codes); i++)
	{
		if (same_code(code, known_codes[i].code))
		{
			*outcome = known_codes[i].outcome;
			return true;
		}
	}
	return false;
}

bool
conduit_classify_code_known(const char *code)
{
	OutcomeClass outcome;

	return find_code(code, &outcome);
}

/* Does text, of any case, contain the (lower-case) phrase? */
static bool
contains(const char *text, const char *phrase)
{
	size_t		length = strlen(phrase);

	if (text == NULL)
		return false;
	for (; *text != '\0'; text++)
	{
		if (pg_strncasecmp(text, phrase, length) == 0)
			return true;
	}
	return false;
}

static bool
contains_any(const char *text, const char *const *phrases, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (contains(text, phrases[i]))
			return true;
	}
	return false;
}

/* The number in "AADSTS70008: ...", 0 if there is none. */
static long
aadsts_number(const char *description)
{
	const char *found = description ? strstr(description, "AADSTS") : NULL;

	return found != NULL && isdigit((unsigned char) found[6]) ? strtol(found + 6, NULL, 10) : 0;
}

/* A string, or a number, that can be an error code. */
static const char *
code_text(const ConduitJson *node)
{
	if (node == NULL || (node->type != CONDUIT_JSON_STRING && node->type != CONDUIT_JSON_NUMBER))
		return NULL;
	return node->text[0] != '\0' ? node->text : NULL;
}

/*
 * Find the error's code and description.  Returns false if the body names no
 * error; *explicit_error tells an "error" member, or "ok": false, from a mere
 * status or code, which a success may have as well.
 */
static bool
extract_error(const ConduitJson *body, char *code, const char **description, bool *explicit_error)
{
	static const char *const code_paths[] = {
		"error", "error.status", "error.code", "error.type", "errors.0.errorType",
		"errors.0.code", "errorCode", "error_code", "status", "code"
	};
	static const char *const description_paths[] = {
		"error_description", "error.message", "errors.0.message", "message", "errorDescription"
	};
	const ConduitJson *ok = conduit_json_get(body, "ok");
	const ConduitJson *error = conduit_json_get(body, "error");
	const ConduitJson *errors = conduit_json_get(body, "errors");
	const char *fallback = NULL;
	OutcomeClass ignored;

	code[0] = '\0';
	*description = NULL;
	*explicit_error = (ok != NULL && ok->type == CONDUIT_JSON_FALSE) ||
		code_text(error) != NULL ||
		(error != NULL && error->type == CONDUIT_JSON_OBJECT) ||
		(errors != NULL && errors->type == CONDUIT_JSON_ARRAY && errors->first != NULL);

	for (int i = 0; i < lengthof(description_paths) && *description == NULL; i++)
		*description = conduit_json_string(conduit_json_path(body, description_paths[i]));

	/*
	 * Prose is no code, but some put the code where the prose belongs (Google
	 * Identity: error.message).  It counts if it is a word of our own.
	 */
	if (*description != NULL && strlen(*description) <= OUTCOME_CODE_LEN &&
		find_code(*description, &ignored))
	{
		conduit_classify_clean_code(*description, code);
		return true;
	}

	/* The first code that means something to us, else the first that is no bare number. */
	for (int i = 0; i < lengthof(code_paths); i++)
	{
		const char *text = code_text(conduit_json_path(body, code_paths[i]));

		if (text == NULL)
			continue;
		conduit_classify_clean_code(text, code);
		if (find_code(code, &ignored))
			return true;
		if (fallback == NULL && strspn(text, "0123456789.-") < strlen(text))
			fallback = text;
	}
	code[0] = '\0';
	if (fallback != NULL)
		conduit_classify_clean_code(fallback, code);
	return code[0] != '\0' || *explicit_error;
}

static bool
connector_says_dead(const ConduitConnector *connector, const char *code)
{
	if (code[0] == '\0')
		return false;
	for (int i = 0; i < connector->nerror_codes; i++)
	{
		char		cleaned[OUTCOME_CODE_LEN + 1];

		conduit_classify_clean_code(connector->error_codes[i].text, cleaned);
		if (connector->error_codes[i].outcome == OUTCOME_DEAD && same_code(cleaned, code))
			return true;
	}
	return false;
}

/* An outcome without a code of its own is named after the status. */
static bool
settle(TokenOutcome *outcome, OutcomeClass class, const char *code, int status)
{
	outcome->outcome = class;
	if (code != NULL && code[0] != '\0')
		strlcpy(outcome->code, code, sizeof(outcome->code));
	else
		snprintf(outcome->code, sizeof(outcome->code), "http_%d", status);
	return true;
}

bool
conduit_classify_refusal(const ConduitConnector *connector, const HttpResponse *response,
						 const ConduitJson *body, bool html, TokenOutcome *outcome)
{
	int			status = response->status;
	bool		success = status >= 200 && status <= 299;
	char		code[OUTCOME_CODE_LEN + 1] = "";
	const char *description = NULL;
	bool		explicit_error = false;
	bool		known;
	OutcomeClass class = OUTCOME_CONFIG;

	if (body != NULL)
		extract_error(body, code, &description, &explicit_error);
	known = find_code(code, &class);
	if (success && !explicit_error && !known && !connector_says_dead(connector, code))
		return false;

	if (status == 429)
		return settle(outcome, OUTCOME_THROTTLED, known && class == OUTCOME_THROTTLED ? code : NULL, status);
	if (status >= 300 && status <= 399)
		return settle(outcome, OUTCOME_CONFIG, "redirect_refused", status);
	if (connector_says_dead(connector, code))
		return settle(outcome, OUTCOME_DEAD, code, status);

	/*
	 * A server in trouble proves nothing about a token.  503 is an outage
	 * unless it says when to come back.
	 */
	if (status >= 500)
	{
		if ((known && class == OUTCOME_THROTTLED) || (status == 503 && response->retry_after >= 0))
			return settle(outcome, OUTCOME_THROTTLED, known ? code : NULL, status);
		return settle(outcome, OUTCOME_TRANSIENT,
					  known && class == OUTCOME_TRANSIENT ? code : NULL, status);
	}
	if (contains_any(description, throttle_phrases, lengthof(throttle_phrases)))
		return settle(outcome, OUTCOME_THROTTLED, code, status);

	if (known && class == OUTCOME_DEAD && aadsts_number(description) == AADSTS_MALFORMED)
		return settle(outcome, OUTCOME_CONFIG, "AADSTS9002313", status);
	if (contains_any(description, dead_phrases, lengthof(dead_phrases)) &&
		(!known || same_code(code, "unauthorized_client") || same_code(code, "access_denied") ||
		 same_code(code, "invalid_request")))
		return settle(outcome, OUTCOME_DEAD, known ? code : "invalid_refresh_token", status);
	if (known)
		return settle(outcome, class, code, status);

	/* No code that we know: the status, where the connector gives it a meaning. */
	if (list_member_int(connector->dead_statuses, status))
		return settle(outcome, OUTCOME_DEAD, NULL, status);
	if (status == 408 || status == 421 || status == 425)
		return settle(outcome, OUTCOME_TRANSIENT, NULL, status);

	/* A page is from whoever stands in front: a firewall, a portal, maintenance. */
	if (html && status != 404 && status != 405 && status != 410)
		return settle(outcome, OUTCOME_TRANSIENT, success ? "html" : NULL, status);
	return settle(outcome, OUTCOME_CONFIG, code, status);
}

void
conduit_classify_failure(const HttpResponse *response, TokenOutcome *outcome)
{
	static const struct
	{
		HttpResult	result;
		const char *code;
	}			codes[] =
	{
		{HTTP_DENIED, "denied"},
		{HTTP_UNRESOLVED, "dns"},
		{HTTP_UNREACHABLE, "refused"},
		{HTTP_TLS, "tls"},
		{HTTP_TIMEOUT, "timeout"},
		{HTTP_TOO_LARGE, "too_large"},
		{HTTP_BROKEN, "broken"}
	};
	const char *code = "broken";

	for (int i = 0; i < lengthof(codes); i++)
	{
		if (codes[i].result == response->result)
			code = codes[i].code;
	}

	/*
	 * A status that is no success was the provider's answer already: nothing
	 * was consumed, only the words for it got lost.
	 */
	if (response->status == 429 || (response->status == 503 && response->retry_after >= 0))
		settle(outcome, OUTCOME_THROTTLED, NULL, response->status);
	else if (response->status >= 400)
		settle(outcome, OUTCOME_TRANSIENT, NULL, response->status);
	else
		settle(outcome, response->sent ? OUTCOME_UNKNOWN : OUTCOME_TRANSIENT, code, 0);
}
