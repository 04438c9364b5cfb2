/*-------------------------------------------------------------------------
 *
 * report.c
 *	  The error contract: one table of SQLSTATE, message and hint.
 *
 * The SQLSTATEs PTnnn are those that PostgREST answers with HTTP status nnn.
 * Texts are not translated: PostgREST makes the message its reason phrase, and
 * equal conditions have to be equal to the byte.
 *
 *-------------------------------------------------------------------------
 */
#include "base/report.h"

#define HTTP_STATE(a, b, c)	MAKE_SQLSTATE('P', 'T', a, b, c)

typedef struct ErrorText
{
	int			sqlstate;
	const char *message;
	const char *hint;
} ErrorText;

static const ErrorText error_texts[] = {
	[CONDUIT_ERR_UNAUTHORIZED] = {
		HTTP_STATE('4', '0', '1'),
		"unauthorized",
		"Present a valid API key, session or token."
	},
	[CONDUIT_ERR_FORBIDDEN] = {
		HTTP_STATE('4', '0', '3'),
		"forbidden",
		"Present a key or a token that may do this."
	},
	[CONDUIT_ERR_RATE_LIMITED] = {
		HTTP_STATE('4', '2', '9'),
		"rate limited",
		"Wait as long as the detail says."
	},
	[CONDUIT_ERR_NOT_FOUND] = {
		HTTP_STATE('4', '0', '4'),
		"not found",
		"The provider has no such file for this account."
	},
	[CONDUIT_ERR_CONNECTION_NOT_FOUND] = {
		HTTP_STATE('4', '0', '4'),
		"connection not found",
		"Check that id, owner and tenant belong together."
	},
	[CONDUIT_ERR_CREDENTIAL_NOT_FOUND] = {
		HTTP_STATE('4', '0', '4'),
		"credential not found",
		"Authorize the connection, or store a credential with conduit_store_credential()."
	},
	[CONDUIT_ERR_NEEDS_REAUTH] = {
		HTTP_STATE('4', '0', '9'),
		"connection needs re-authorization",
		"Let the owner authorize again with conduit_authorize(), or store a new credential with conduit_store_credential()."
	},
	[CONDUIT_ERR_LACKS_SCOPE] = {
		HTTP_STATE('4', '0', '9'),
		"connection lacks scope",
		"Let the owner authorize again with the missing scopes: conduit_authorize() takes the connection's id."
	},
	[CONDUIT_ERR_REVOKED] = {
		HTTP_STATE('4', '1', '0'),
		"connection revoked",
		"Create a new connection; a revoked one cannot be used again."
	},
	[CONDUIT_ERR_BAD_RESPONSE] = {
		HTTP_STATE('5', '0', '2'),
		"bad provider response",
		"See last_error_code of the connection and the server log; Conduit tries again by itself."
	},
	[CONDUIT_ERR_UNAVAILABLE] = {
		HTTP_STATE('5', '0', '4'),
		"provider unavailable",
		"Try again later."
	},
	[CONDUIT_ERR_NO_WORKER] = {
		HTTP_STATE('5', '0', '0'),
		"conduit worker is not running",
		"Add conduit to shared_preload_libraries, restart the server, and see conduit_doctor()."
	},
	[CONDUIT_ERR_PAUSED] = {
		HTTP_STATE('5', '0', '0'),
		"refresh is paused",
		"See conduit_health(); turn conduit.refresh_enabled on, or call conduit_adopt() if this is no clone."
	},
	[CONDUIT_ERR_VAULT_LOCKED] = {
		HTTP_STATE('5', '0', '0'),
		"vault is locked",
		"Check conduit.keyring_file and reload the configuration; conduit_doctor() says what is wrong."
	},
	[CONDUIT_ERR_UNKNOWN_KEY] = {
		HTTP_STATE('5', '0', '0'),
		"key not in keyring",
		"Add the key that sealed the credential to conduit.keyring_file and reload the configuration."
	},
	[CONDUIT_ERR_CANNOT_OPEN] = {
		HTTP_STATE('5', '0', '0'),
		"credential cannot be opened",
		"Check that the keyring belongs to this database, or store the credential again."
	},
	[CONDUIT_ERR_NOT_CONFIGURED] = {
		HTTP_STATE('5', '0', '0'),
		"connector is not configured",
		"Set its client with conduit_set_client()."
	},
	[CONDUIT_ERR_NOT_COMMITTED] = {
		MAKE_SQLSTATE('5', '5', '0', '0', '0'),
		"credential is not committed",
		"Commit the transaction that stored the credential and try again."
	},
	[CONDUIT_ERR_AUTHORIZATION_FAILED] = {
		HTTP_STATE('4', '0', '0'),
		"authorization failed",
		"Begin again with conduit_authorize()."
	},
	[CONDUIT_ERR_OLD_LIBRARY] = {
		MAKE_SQLSTATE('5', '5', '0', '0', '0'),
		"restart PostgreSQL to load the new conduit library",
		"The extension in this database is newer than the library the server has loaded."
	},
	[CONDUIT_ERR_OLD_SQL] = {
		MAKE_SQLSTATE('5', '5', '0', '0', '0'),
		"run ALTER EXTENSION conduit UPDATE",
		"The extension in this database is older than the library the server has loaded."
	},
};

StaticAssertDecl(lengthof(error_texts) == CONDUIT_ERR_OLD_SQL + 1,
				 "every error needs its texts");

/*
 * shown_detail returns the detail a caller may see: none where it could tell a
 * foreign connection from one that does not exist.
 */
static const char *
shown_detail(const ErrorText *text, const char *detail)
{
	if (text->sqlstate == HTTP_STATE('4', '0', '1') ||
		text->sqlstate == HTTP_STATE('4', '0', '4'))
		return NULL;
	return detail;
}

void
conduit_raise(ConduitError error, const char *detail)
{
	const ErrorText *text = &error_texts[error];

	detail = shown_detail(text, detail);
	ereport(ERROR,
			(errcode(text->sqlstate),
			 errmsg_internal("%s", text->message),
			 detail ? errdetail_internal("%s", detail) : 0,
			 errhint("%s", text->hint),
			 errhidestmt(true),
			 errhidecontext(true)));
}

void
conduit_warn(ConduitError error, const char *detail)
{
	const ErrorText *text = &error_texts[error];

	detail = shown_detail(text, detail);

	/* Not to the log as well: the worker logs it, once per flight. */
	ereport(WARNING_CLIENT_ONLY,
			(errcode(text->sqlstate),
			 errmsg_internal("%s", text->message),
			 detail ? errdetail_internal("%s", detail) : 0,
			 errhint("%s", text->hint),
			 errhidestmt(true),
			 errhidecontext(true)));
}

const char *
conduit_error_state(ConduitError error)
{
	return unpack_sql_state(error_texts[error].sqlstate);
}

const char *
conduit_error_message(ConduitError error)
{
	return error_texts[error].message;
}

void
conduit_report_problem(const ConduitProblem *problem)
{
	if (problem->level == PROBLEM_ERROR)
		conduit_raise(problem->error, problem->detail);
	if (problem->level == PROBLEM_WARNING)
		conduit_warn(problem->error, problem->detail);
}

void
conduit_bad_argument(const char *message, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg_internal("%s", message),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 errhidestmt(true),
			 errhidecontext(true)));
}
