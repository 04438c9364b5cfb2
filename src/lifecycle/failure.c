/*-------------------------------------------------------------------------
 *
 * failure.c
 *	  What a failure that stands in a row means for a caller.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/failure.h"

/* Answers that a provider gave, as opposed to none. */
static bool
is_bad_response(const char *class, const char *code)
{
	static const char *const no_answer[] = {
		"denied", "dns", "refused", "tls", "timeout", "broken", "quarantined", "internal"
	};

	if (strcmp(class, "throttled") == 0)
		return false;
	for (int i = 0; i < lengthof(no_answer); i++)
		if (strcmp(code, no_answer[i]) == 0)
			return false;
	return code[0] != '\0';
}

ConduitError
conduit_failure_error(const char *class, const char *code)
{
	if (strcmp(code, "client_missing") == 0)
		return CONDUIT_ERR_NOT_CONFIGURED;
	if (strcmp(code, "vault_locked") == 0)
		return CONDUIT_ERR_VAULT_LOCKED;
	if (strcmp(code, "unknown_key") == 0)
		return CONDUIT_ERR_UNKNOWN_KEY;
	if (strcmp(code, "cannot_open") == 0)
		return CONDUIT_ERR_CANNOT_OPEN;
	return is_bad_response(class, code) ? CONDUIT_ERR_BAD_RESPONSE : CONDUIT_ERR_UNAVAILABLE;
}
