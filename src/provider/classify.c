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
 * connector's own sentences and codes, then sentences that contradict the code
 * next to them, then codes, then statuses.  known_error.c has the words.
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
#include "provider/known_error.h"
#include "provider/token_path.h"

/* What a body says of an error. */
typedef struct Complaint
{
	char		code[OUTCOME_CODE_LEN + 1]; /* '': none */
	const char *description;	/* NULL: none */
	char		aadsts[16];		/* Microsoft's number, '': none */
	bool		explicit_error; /* it speaks of an error, rather than of a mere status */
} Complaint;

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

bool
conduit_classify_code_known(const char *code)
{
	return conduit_known_error(SIGNAL_CODE, code) != NULL;
}

bool
conduit_classify_refuses_client(const char *code)
{
	const KnownError *known = conduit_known_error(SIGNAL_CODE, code);

	return known != NULL && known->refuses_client;
}

/* A string, or a number, that can be an error code. */
static const char *
code_text(const ConduitJson *node)
{
	if (node == NULL || (node->type != CONDUIT_JSON_STRING && node->type != CONDUIT_JSON_NUMBER))
		return NULL;
	return node->text[0] != '\0' ? node->text : NULL;
}

/* The same, or both numbers of the same value, or a number and its text. */
static bool
same_scalar(const ConduitJson *a, const ConduitJson *b)
{
	double		x;
	double		y;

	if (a == NULL)
		return false;
	if (code_text(a) == NULL || code_text(b) == NULL)
		return a->type == b->type && a->type != CONDUIT_JSON_ARRAY && a->type != CONDUIT_JSON_OBJECT;
	if (strcmp(a->text, b->text) == 0)
		return true;
	return (a->type == CONDUIT_JSON_NUMBER || b->type == CONDUIT_JSON_NUMBER) &&
		conduit_json_double(a, &x) && conduit_json_double(b, &y) && x == y;
}

bool
conduit_classify_success(const ConduitConnector *connector, const ConduitJson *body)
{
	const ConduitJson *ok = conduit_json_get(body, "ok");

	if (connector->success_path == NULL)
		return ok == NULL || ok->type != CONDUIT_JSON_FALSE;
	return same_scalar(conduit_find_path(body, connector->success_path), connector->success_value);
}

/* The number in "AADSTS70008: ...", or else the first of error_codes. */
static void
find_aadsts(const ConduitJson *body, const char *description, char *number, size_t size)
{
	const char *found = description ? strstr(description, "AADSTS") : NULL;
	size_t		length;

	number[0] = '\0';
	if (found != NULL)
		found += strlen("AADSTS");
	else
		found = code_text(conduit_json_path(body, "error_codes.0"));
	length = found ? strspn(found, "0123456789") : 0;
	if (length > 0 && length < size)
		strlcpy(number, found, length + 1);
}

static const char *
find_description(const ConduitConnector *connector, const ConduitJson *body)
{
	static const char *const paths[] = {
		"error_description", "error.message", "errors.0.message", "errors.0.detail", "message",
		"errorDescription", "error_message", "detail", "error"
	};
	const char *text = NULL;

	if (connector->error_description_path != NULL)
		text = conduit_json_string(conduit_find_path(body, connector->error_description_path));
	for (int i = 0; i < lengthof(paths) && text == NULL; i++)
		text = conduit_json_string(conduit_json_path(body, paths[i]));
	return text;
}

/* The connector's path, else the first code that is known, else the first that is no bare number. */
static void
find_code(const ConduitConnector *connector, const ConduitJson *body, const char *description, char *code)
{
	static const char *const paths[] = {
		"error", "error.status", "error.code", "error.type", "error.error", "errors.0.errorType",
		"errors.0.code", "errors.0", "errorCode", "error_code", "error_type", "status", "code"
	};
	const char *fallback = NULL;

	code[0] = '\0';
	if (connector->error_path != NULL)
	{
		const char *text = code_text(conduit_find_path(body, connector->error_path));

		if (text != NULL)
			conduit_classify_clean_code(text, code);
		if (code[0] != '\0')
			return;
	}

	/*
	 * Prose is no code, but some put the code where the prose belongs (Google
	 * Identity: error.message).  It counts if it is a word of our own.
	 */
	if (description != NULL && strlen(description) <= OUTCOME_CODE_LEN)
	{
		conduit_classify_clean_code(description, code);
		if (conduit_known_error(SIGNAL_CODE, description) != NULL)
			return;
	}
	for (int i = 0; i < lengthof(paths); i++)
	{
		const char *text = code_text(conduit_json_path(body, paths[i]));

		if (text == NULL)
			continue;
		conduit_classify_clean_code(text, code);
		if (conduit_known_error(SIGNAL_CODE, code) != NULL)
			return;
		if (fallback == NULL && strspn(text, "0123456789.-") < strlen(text))
			fallback = text;
	}
	code[0] = '\0';
	if (fallback != NULL)
		conduit_classify_clean_code(fallback, code);
}

static void
read_complaint(const ConduitConnector *connector, const ConduitJson *body, Complaint *complaint)
{
	const ConduitJson *error = conduit_json_get(body, "error");
	const ConduitJson *errors = conduit_json_get(body, "errors");

	memset(complaint, 0, sizeof(*complaint));
	if (body == NULL)
		return;
	complaint->description = find_description(connector, body);
	find_code(connector, body, complaint->description, complaint->code);
	find_aadsts(body, complaint->description, complaint->aadsts, sizeof(complaint->aadsts));
	complaint->explicit_error = !conduit_classify_success(connector, body) ||
		code_text(error) != NULL ||
		(error != NULL && error->type == CONDUIT_JSON_OBJECT) ||
		(errors != NULL && errors->type == CONDUIT_JSON_ARRAY && errors->first != NULL);
}

/* What the connector says of such an error: its sentences, then its codes. */
static bool
connector_says(const ConduitConnector *connector, const Complaint *complaint, OutcomeClass *outcome)
{
	for (int i = 0; i < connector->nerror_phrases; i++)
	{
		if (conduit_contains_phrase(complaint->description, connector->error_phrases[i].text))
		{
			*outcome = connector->error_phrases[i].outcome;
			return true;
		}
	}
	for (int i = 0; i < connector->nerror_codes && complaint->code[0] != '\0'; i++)
	{
		char		cleaned[OUTCOME_CODE_LEN + 1];

		conduit_classify_clean_code(connector->error_codes[i].text, cleaned);
		if (conduit_same_error_code(cleaned, complaint->code))
		{
			*outcome = connector->error_codes[i].outcome;
			return true;
		}
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

/* A code that says too little to contradict a sentence next to it. */
static bool
vague(const char *code)
{
	return conduit_same_error_code(code, "unauthorized_client") ||
		conduit_same_error_code(code, "access_denied") ||
		conduit_same_error_code(code, "invalid_request");
}

/* What is known of a complaint that came with a status from 400 to 499, or 2xx; false: nothing. */
static bool
known_meaning(const Complaint *complaint, const KnownError *known, int status, TokenOutcome *outcome)
{
	bool		dead = known != NULL && known->outcome == OUTCOME_DEAD;
	const KnownError *number = complaint->aadsts[0] != '\0' ?
		conduit_known_error(SIGNAL_AADSTS, complaint->aadsts) : NULL;

	if (conduit_known_phrase(complaint->description, OUTCOME_THROTTLED) != NULL)
		return settle(outcome, OUTCOME_THROTTLED, complaint->code, status);
	if (number != NULL && (known == NULL || known->outcome != number->outcome))
		return settle(outcome, number->outcome, psprintf("AADSTS%s", complaint->aadsts), status);
	if (dead && conduit_known_phrase(complaint->description, OUTCOME_CONFIG) != NULL)
		return settle(outcome, OUTCOME_CONFIG, complaint->code, status);
	if ((known == NULL || vague(complaint->code)) &&
		conduit_known_phrase(complaint->description, OUTCOME_DEAD) != NULL)
		return settle(outcome, OUTCOME_DEAD, known ? complaint->code : "invalid_refresh_token", status);
	return known != NULL && settle(outcome, known->outcome, complaint->code, status);
}

bool
conduit_classify_refusal(const ConduitConnector *connector, const HttpResponse *response,
						 const ConduitJson *body, bool html, TokenOutcome *outcome)
{
	int			status = response->status;
	bool		success = status >= 200 && status <= 299;
	Complaint	complaint;
	const KnownError *known;
	const KnownError *known_status;
	bool		said;
	OutcomeClass class = OUTCOME_CONFIG;

	read_complaint(connector, body, &complaint);
	known = complaint.code[0] != '\0' ? conduit_known_error(SIGNAL_CODE, complaint.code) : NULL;
	said = connector_says(connector, &complaint, &class);
	if (success && !complaint.explicit_error && known == NULL && !said)
		return false;

	if (status == 429)
		return settle(outcome, OUTCOME_THROTTLED,
					  known != NULL && known->outcome == OUTCOME_THROTTLED ? complaint.code : NULL, status);
	if (status >= 300 && status <= 399)
		return settle(outcome, OUTCOME_CONFIG, "redirect_refused", status);
	if (said)
		return settle(outcome, class, complaint.code, status);

	/*
	 * A server in trouble proves nothing about a token.  503 is an outage
	 * unless it says when to come back.
	 */
	if (status >= 500)
	{
		class = (known != NULL && known->outcome == OUTCOME_THROTTLED) ||
			(status == 503 && response->retry_after >= 0) ? OUTCOME_THROTTLED : OUTCOME_TRANSIENT;
		return settle(outcome, class,
					  known != NULL && known->outcome == class ? complaint.code : NULL, status);
	}
	if (known_meaning(&complaint, known, status, outcome))
		return true;

	/* No code that we know: the status, where it has a meaning. */
	if (list_member_int(connector->dead_statuses, status))
		return settle(outcome, OUTCOME_DEAD, NULL, status);
	known_status = conduit_known_error(SIGNAL_STATUS, psprintf("%d", status));
	if (known_status != NULL)
		return settle(outcome, known_status->outcome, NULL, status);

	/* A page is from whoever stands in front: a firewall, a portal, maintenance. */
	if (html && status != 404 && status != 405 && status != 410)
		return settle(outcome, OUTCOME_TRANSIENT, success ? "html" : NULL, status);
	return settle(outcome, OUTCOME_CONFIG, complaint.code, status);
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
