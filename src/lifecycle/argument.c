/*-------------------------------------------------------------------------
 *
 * argument.c
 *	  Reading and checking what callers pass.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/argument.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "base/report.h"
#include "provider/connector.h"
#include "shared/flight.h"

char *
conduit_text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

bool
conduit_has_control(const char *text)
{
	for (const unsigned char *c = (const unsigned char *) text; *c; c++)
		if (*c < 0x20 || *c == 0x7f)
			return true;
	return false;
}

static bool
is_blank(const char *text)
{
	return text[strspn(text, " ")] == '\0';
}

const char *
conduit_name_problem(const char *text, int max, const char **hint)
{
	*hint = "Pass a text that is not blank.";
	if (text == NULL || is_blank(text))
		return "blank";
	*hint = "The number is the most bytes it may have.";
	if (strlen(text) > max)
		return psprintf("too_long %d", max);
	*hint = "Control characters are not allowed in it.";
	return conduit_has_control(text) ? "control_character" : NULL;
}

char *
conduit_name_argument(FunctionCallInfo fcinfo, int n, const char *message, int max)
{
	char	   *text = conduit_text_argument(fcinfo, n);
	const char *hint;
	const char *problem = conduit_name_problem(text, max, &hint);

	if (problem != NULL)
		conduit_bad_argument(message, problem, hint);
	return text;
}

char *
conduit_optional_name_argument(FunctionCallInfo fcinfo, int n, const char *message, int max)
{
	char	   *text = conduit_text_argument(fcinfo, n);

	if (text == NULL || text[0] == '\0')
		return NULL;
	return conduit_name_argument(fcinfo, n, message, max);
}

char *
conduit_owner_argument(FunctionCallInfo fcinfo, int n)
{
	return conduit_name_argument(fcinfo, n, "invalid owner", CONDUIT_MAX_OWNER_LEN);
}

char *
conduit_tenant_argument(FunctionCallInfo fcinfo, int n)
{
	char	   *tenant = conduit_text_argument(fcinfo, n);

	if (tenant == NULL)
		return pstrdup("");
	if (strlen(tenant) > CONDUIT_MAX_TENANT_LEN)
		conduit_bad_argument("invalid tenant", psprintf("too_long %d", CONDUIT_MAX_TENANT_LEN),
							 "The number is the most bytes it may have.");
	if (conduit_has_control(tenant))
		conduit_bad_argument("invalid tenant", "control_character",
							 "Control characters are not allowed in it.");
	return tenant;
}

const pg_uuid_t *
conduit_connection_argument(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		conduit_bad_argument("invalid connection_id", "null",
							 "Pass the id that conduit_create_connection() returned.");
	return PG_GETARG_UUID_P(n);
}

char *
conduit_slug_argument(FunctionCallInfo fcinfo, int n)
{
	char	   *slug = conduit_text_argument(fcinfo, n);

	if (slug == NULL || !conduit_connector_slug_valid(slug))
		conduit_bad_argument("invalid connector", "slug",
							 "A slug is of lower-case letters and digits, begins with a letter, may have single hyphens or underscores between, and up to 63 characters.");
	return slug;
}

int
conduit_count_argument(FunctionCallInfo fcinfo, int n, int standard, int min, int max, const char *message)
{
	int			count = PG_ARGISNULL(n) ? standard : PG_GETARG_INT32(n);

	if (count < min || count > max)
		conduit_bad_argument(message, psprintf("range %d %d", min, max),
							 "The numbers are the least and the most it may be.");
	return count;
}

int64
conduit_interval_argument(FunctionCallInfo fcinfo, int n, const char *message, const char *hint)
{
	const Interval *span;
	double		total;

	if (PG_ARGISNULL(n))
		return 0;
	span = PG_GETARG_INTERVAL_P(n);
	total = (double) span->time + span->day * (double) USECS_PER_DAY +
		span->month * (double) DAYS_PER_MONTH * USECS_PER_DAY;
	if (total < 0)
		conduit_bad_argument(message, "negative", hint);
	return (int64) Min(total, 100.0 * 365 * USECS_PER_DAY);
}

char *
conduit_object_argument(FunctionCallInfo fcinfo, int n, const char *message)
{
	Jsonb	   *json;
	char	   *text;

	if (PG_ARGISNULL(n))
		return NULL;
	json = PG_GETARG_JSONB_P(n);
	if (!JB_ROOT_IS_OBJECT(json))
		conduit_bad_argument(message, "not_an_object", "Pass a JSON object.");
	text = JsonbToCString(NULL, &json->root, VARSIZE(json));
	if (strlen(text) > CONDUIT_MAX_JSON_LEN)
		conduit_bad_argument(message, psprintf("too_long %d", CONDUIT_MAX_JSON_LEN),
							 "The number is the most bytes it may have.");
	return text;
}

Jsonb *
conduit_try_jsonb(char *json)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *volatile result = NULL;

	PG_TRY();
	{
		result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
	}
	PG_CATCH();
	{
		int			category = ERRCODE_TO_CATEGORY(geterrcode());

		MemoryContextSwitchTo(context);
		if (category != ERRCODE_DATA_EXCEPTION && category != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
}

ConduitJson *
conduit_parse_object(const char *text, const char *message)
{
	char	   *utf8;
	char	   *buffer;
	const char *problem;
	ConduitJson *json;

	if (text == NULL)
		return NULL;
	utf8 = pg_server_to_any(text, strlen(text), PG_UTF8);
	buffer = pstrdup(utf8);
	json = conduit_json_parse(buffer, strlen(buffer), &problem);
	if (json == NULL)
		conduit_bad_argument(message, problem, "Pass a JSON object.");
	if (json->type != CONDUIT_JSON_OBJECT)
		conduit_bad_argument(message, "not_an_object", "Pass a JSON object.");
	return json;
}
