/*-------------------------------------------------------------------------
 *
 * answer.c
 *	  conduit.answer_error(): errors of a facade as web answers with headers.
 *
 * PostgREST makes an answer of any error, but gives it headers only in a form
 * of its own, SQLSTATE PGRST, whose MESSAGE and DETAIL are JSON.  Without
 * Cache-Control a cache may keep that there is no such connection, or that it
 * is revoked (RFC 9111, 4.2.2), and hand it to the next who asks.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/json.h"
#include "lifecycle/argument.h"

PG_FUNCTION_INFO_V1(conduit_called_from_web);
PG_FUNCTION_INFO_V1(conduit_answer_error);

#define RPC_PATH		"/rpc/"
#define RETRY_AFTER		"retry_after="
#define LEAST_RETRY_S	"1"

static const char *
request_setting(const char *name)
{
	const char *value = GetConfigOption(name, true, false);

	/* Empty after a transaction that had set it. */
	return value != NULL && value[0] != '\0' ? value : NULL;
}

/*
 * Whether the web called this function itself.  An application's function that
 * calls it gets the plain error, to be caught by its SQLSTATE.
 */
static bool
called_from_web(const char *name)
{
	const char *path = request_setting("request.path");
	const char *last = path ? strrchr(path, '/') : NULL;

	return last != NULL && strcmp(last + 1, name) == 0 &&
		last - path >= (int) strlen(RPC_PATH) - 1 &&
		strncmp(last + 1 - strlen(RPC_PATH), RPC_PATH, strlen(RPC_PATH)) == 0;
}

/* PT and the HTTP status of an error. */
static bool
is_http_state(const char *state)
{
	return strlen(state) == 5 && strncmp(state, "PT", 2) == 0 && (state[2] == '4' || state[2] == '5') &&
		strspn(state + 3, "0123456789") == 2;
}

static void
add_member(StringInfo object, const char *name, const char *value)
{
	char	   *utf8;

	appendStringInfo(object, "%s\"%s\":", object->len > 0 ? "," : "{", name);
	if (value == NULL || value[0] == '\0')
	{
		appendStringInfoString(object, "null");
		return;
	}
	utf8 = pg_server_to_any(value, strlen(value), PG_UTF8);
	conduit_json_write_string(object, utf8, strlen(utf8));
}

/* The seconds that a detail says to wait. */
static char *
retry_after(const char *detail)
{
	const char *digits = detail ? strstr(detail, RETRY_AFTER) : NULL;
	size_t		length = digits ? strspn(digits + strlen(RETRY_AFTER), "0123456789") : 0;

	return length > 0 ? pnstrdup(digits + strlen(RETRY_AFTER), length) : pstrdup(LEAST_RETRY_S);
}

static char *
answer_headers(const char *state, const char *detail)
{
	StringInfoData headers;

	initStringInfo(&headers);
	add_member(&headers, "Cache-Control", "no-store");
	if (strcmp(state, "PT401") == 0)
		add_member(&headers, "WWW-Authenticate", "Bearer");
	if (strcmp(state, "PT429") == 0 || strcmp(state, "PT504") == 0)
		add_member(&headers, "Retry-After", retry_after(detail));
	appendStringInfoChar(&headers, '}');
	return headers.data;
}

/* conduit.called_from_web(name) */
Datum
conduit_called_from_web(PG_FUNCTION_ARGS)
{
	char	   *name = conduit_text_argument(fcinfo, 0);

	PG_RETURN_BOOL(name != NULL && called_from_web(name));
}

/* conduit.answer_error(name, state, message, detail, hint): returns where the error stays as it is */
Datum
conduit_answer_error(PG_FUNCTION_ARGS)
{
	char	   *name = conduit_text_argument(fcinfo, 0);
	char	   *state = conduit_text_argument(fcinfo, 1);
	char	   *detail = conduit_text_argument(fcinfo, 3);
	StringInfoData body;

	if (name == NULL || state == NULL || !is_http_state(state))
		PG_RETURN_VOID();

	/* When to try again has no other place than a header. */
	if (!called_from_web(name) && (request_setting("request.method") == NULL ||
								   (strcmp(state, "PT429") != 0 && strcmp(state, "PT504") != 0)))
		PG_RETURN_VOID();

	initStringInfo(&body);
	add_member(&body, "code", state);
	add_member(&body, "message", conduit_text_argument(fcinfo, 2));
	add_member(&body, "details", detail);
	add_member(&body, "hint", conduit_text_argument(fcinfo, 4));
	appendStringInfoChar(&body, '}');
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE('P', 'G', 'R', 'S', 'T')),
			 errmsg_internal("%s", pg_any_to_server(body.data, body.len, PG_UTF8)),
			 errdetail_internal("{\"status\":%s,\"headers\":%s}", state + 2, answer_headers(state, detail)),
			 errhidestmt(true),
			 errhidecontext(true)));
}
