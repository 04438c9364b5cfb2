/*-------------------------------------------------------------------------
 *
 * known_error.c
 *	  Refusals that providers are known for, and what they mean.
 *
 * A row belongs here if it means the same wherever it is met.  What is one
 * provider's own way goes into its connector's definition.  DEAD takes proof:
 * it must mean that the refresh token that was sent will never work again.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/known_error.h"

static const KnownError known_errors[] =
{
	{SIGNAL_CODE, "invalid_grant", OUTCOME_DEAD},	/* RFC 6749, 5.2 */
	{SIGNAL_CODE, "bad_refresh_token", OUTCOME_DEAD},	/* GitHub, HubSpot */
	{SIGNAL_CODE, "invalid_refresh_token", OUTCOME_DEAD},	/* Slack, Google Identity */
	{SIGNAL_CODE, "token_expired", OUTCOME_DEAD},	/* Google Identity, Slack */
	{SIGNAL_CODE, "token_revoked", OUTCOME_DEAD},	/* Slack */
	{SIGNAL_CODE, "account_inactive", OUTCOME_DEAD},	/* Slack */
	{SIGNAL_CODE, "inactive_user", OUTCOME_DEAD},	/* Salesforce */
	{SIGNAL_CODE, "refresh_token_invalidated", OUTCOME_DEAD},	/* OpenAI */
	{SIGNAL_CODE, "refresh_token_expired", OUTCOME_DEAD},
	{SIGNAL_CODE, "refresh_token_revoked", OUTCOME_DEAD},
	{SIGNAL_CODE, "refresh_token_reused", OUTCOME_DEAD},
	{SIGNAL_CODE, "expired_refresh_token", OUTCOME_DEAD},
	{SIGNAL_CODE, "revoked_refresh_token", OUTCOME_DEAD},

	/* OpenID Connect Core, 3.1.2.6: only the user can help */
	{SIGNAL_CODE, "interaction_required", OUTCOME_DEAD},
	{SIGNAL_CODE, "login_required", OUTCOME_DEAD},
	{SIGNAL_CODE, "consent_required", OUTCOME_DEAD},

	{SIGNAL_CODE, "invalid_client", OUTCOME_CONFIG, true},	/* RFC 6749, 5.2 */
	{SIGNAL_CODE, "incorrect_client_credentials", OUTCOME_CONFIG, true},	/* GitHub */
	{SIGNAL_CODE, "invalid_client_id", OUTCOME_CONFIG, true},	/* Slack */
	{SIGNAL_CODE, "invalid_client_secret", OUTCOME_CONFIG, true},
	{SIGNAL_CODE, "bad_client_id", OUTCOME_CONFIG, true},	/* HubSpot */
	{SIGNAL_CODE, "bad_client_secret", OUTCOME_CONFIG, true},	/* Slack, HubSpot */
	{SIGNAL_CODE, "unauthorized_client", OUTCOME_CONFIG},	/* RFC 6749, 5.2 */
	{SIGNAL_CODE, "unsupported_grant_type", OUTCOME_CONFIG},
	{SIGNAL_CODE, "invalid_scope", OUTCOME_CONFIG},
	{SIGNAL_CODE, "invalid_request", OUTCOME_CONFIG},
	{SIGNAL_CODE, "invalid_target", OUTCOME_CONFIG},	/* RFC 8707 */
	{SIGNAL_CODE, "redirect_uri_mismatch", OUTCOME_CONFIG},
	{SIGNAL_CODE, "access_denied", OUTCOME_CONFIG},

	{SIGNAL_CODE, "temporarily_unavailable", OUTCOME_THROTTLED},	/* RFC 6749, 4.1.2.1 */
	{SIGNAL_CODE, "slow_down", OUTCOME_THROTTLED},	/* RFC 8628 */
	{SIGNAL_CODE, "ratelimited", OUTCOME_THROTTLED},	/* Slack */
	{SIGNAL_CODE, "rate_limited", OUTCOME_THROTTLED},
	{SIGNAL_CODE, "rate_limit_exceeded", OUTCOME_THROTTLED},
	{SIGNAL_CODE, "too_many_requests", OUTCOME_THROTTLED},
	{SIGNAL_CODE, "throttled", OUTCOME_THROTTLED},
	{SIGNAL_CODE, "resource_exhausted", OUTCOME_THROTTLED}, /* Google */

	{SIGNAL_CODE, "server_error", OUTCOME_TRANSIENT},
	{SIGNAL_CODE, "internal_error", OUTCOME_TRANSIENT},
	{SIGNAL_CODE, "internal_failure", OUTCOME_TRANSIENT},	/* Google */
	{SIGNAL_CODE, "internal_server_error", OUTCOME_TRANSIENT},
	{SIGNAL_CODE, "backend_error", OUTCOME_TRANSIENT},
	{SIGNAL_CODE, "service_unavailable", OUTCOME_TRANSIENT},
	{SIGNAL_CODE, "fatal_error", OUTCOME_TRANSIENT},	/* Slack */
	{SIGNAL_CODE, "request_timeout", OUTCOME_TRANSIENT},	/* Slack */

	/* not now, whatever code comes with it */
	{SIGNAL_PHRASE, "too many requests", OUTCOME_THROTTLED},	/* Zoho, as "Access Denied" */
	{SIGNAL_PHRASE, "rate limit", OUTCOME_THROTTLED},
	{SIGNAL_PHRASE, "rate exceeded", OUTCOME_THROTTLED},	/* Salesforce */

	/* called invalid_grant, and no word about the grant */
	{SIGNAL_PHRASE, "ip restricted", OUTCOME_CONFIG},	/* Salesforce */
	{SIGNAL_PHRASE, "must be a short-lived token", OUTCOME_CONFIG}, /* Google: iat, exp */
	{SIGNAL_PHRASE, "check your iat and exp", OUTCOME_CONFIG},	/* Google */
	{SIGNAL_PHRASE, "audience validation failed", OUTCOME_CONFIG},	/* Salesforce */

	/* a dead refresh token, where the code says too little */
	{SIGNAL_PHRASE, "invalid refresh token", OUTCOME_DEAD}, /* Atlassian, Twitch */
	{SIGNAL_PHRASE, "refresh_token is invalid", OUTCOME_DEAD},	/* Atlassian, with unauthorized_client */
	{SIGNAL_PHRASE, "refresh token is invalid", OUTCOME_DEAD},
	{SIGNAL_PHRASE, "expired access/refresh token", OUTCOME_DEAD},	/* Salesforce */
	{SIGNAL_PHRASE, "refresh token has expired", OUTCOME_DEAD},
	{SIGNAL_PHRASE, "refresh token has been revoked", OUTCOME_DEAD},

	{SIGNAL_AADSTS, "70008", OUTCOME_DEAD}, /* expired, or not used for too long */
	{SIGNAL_AADSTS, "700082", OUTCOME_DEAD},	/* not used for too long */
	{SIGNAL_AADSTS, "700084", OUTCOME_DEAD},	/* a single-page app's, older than a day */
	{SIGNAL_AADSTS, "50173", OUTCOME_DEAD}, /* revoked by a new password */
	{SIGNAL_AADSTS, "50076", OUTCOME_DEAD}, /* a second factor is asked for */
	{SIGNAL_AADSTS, "9002313", OUTCOME_CONFIG}, /* malformed request, called invalid_grant */
	{SIGNAL_AADSTS, "50196", OUTCOME_THROTTLED},	/* takes it for a loop, called invalid_grant */

	{SIGNAL_STATUS, "408", OUTCOME_TRANSIENT},
	{SIGNAL_STATUS, "421", OUTCOME_TRANSIENT},
	{SIGNAL_STATUS, "425", OUTCOME_TRANSIENT}
};

bool
conduit_same_error_code(const char *a, const char *b)
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

bool
conduit_contains_phrase(const char *text, const char *phrase)
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

const KnownError *
conduit_known_error(ErrorSignal signal, const char *text)
{
	for (int i = 0; i < lengthof(known_errors); i++)
	{
		if (known_errors[i].signal == signal && conduit_same_error_code(known_errors[i].text, text))
			return &known_errors[i];
	}
	return NULL;
}

const KnownError *
conduit_known_phrase(const char *description, OutcomeClass outcome)
{
	for (int i = 0; i < lengthof(known_errors); i++)
	{
		if (known_errors[i].signal == SIGNAL_PHRASE && known_errors[i].outcome == outcome &&
			conduit_contains_phrase(description, known_errors[i].text))
			return &known_errors[i];
	}
	return NULL;
}
