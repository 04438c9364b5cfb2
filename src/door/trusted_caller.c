/*-------------------------------------------------------------------------
 *
 * trusted_caller.c
 *	  Which proven JWTs are a backend's.
 *
 *-------------------------------------------------------------------------
 */
#include "door/trusted_caller.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/clock.h"
#include "base/report.h"
#include "door/jwt.h"
#include "lifecycle/argument.h"
#include "lifecycle/store.h"

PG_FUNCTION_INFO_V1(conduit_trust_caller);
PG_FUNCTION_INFO_V1(conduit_untrust_caller);

#define MAX_NAME_LEN	100
#define MAX_CLAIM_LEN	1024
#define MAX_SUBJECTS	100

/* Whether a claim has an expected value: a text as text or among texts, else the same value. */
static bool
claim_matches(const ConduitJson *claims, const ConduitJson *expected)
{
	const ConduitJson *claim = conduit_json_get(claims, expected->key);

	if (claim == NULL)
		return false;
	if (expected->type == CONDUIT_JSON_STRING)
		return conduit_jwt_claim_has(claims, expected->key, expected->text);
	return claim->type == expected->type &&
		(expected->type != CONDUIT_JSON_NUMBER || strcmp(claim->text, expected->text) == 0);
}

static bool
subject_listed(Datum subjects, const char *subject)
{
	Datum	   *texts;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(subjects), TEXTOID, -1, false, TYPALIGN_INT, &texts, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (strcmp(TextDatumGetCString(texts[i]), subject) == 0)
			return true;
	return false;
}

/* Whether the claims have all that the row names. */
static bool
row_matches(uint64 row, const ConduitJson *claims)
{
	char	   *issuer = conduit_row_text(row, 1, CurrentMemoryContext);
	char	   *audience = conduit_row_text(row, 2, CurrentMemoryContext);
	ConduitJson *expected = conduit_parse_object(conduit_row_text(row, 4, CurrentMemoryContext), "invalid claims");
	const char *subject = conduit_json_string(conduit_json_get(claims, "sub"));
	bool		any_subject;
	Datum		subjects = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 3, &any_subject);

	if (issuer != NULL && !conduit_jwt_claim_has(claims, "iss", issuer))
		return false;
	if (audience != NULL && !conduit_jwt_claim_has(claims, "aud", audience))
		return false;
	if (!any_subject && (subject == NULL || !subject_listed(subjects, subject)))
		return false;
	for (const ConduitJson *member = expected->first; member != NULL; member = member->next)
		if (!claim_matches(claims, member))
			return false;
	return true;
}

bool
conduit_trusted_caller_matches(const char *tenant, const ConduitJson *claims)
{
	static StoreQuery select = {
		"SELECT issuer, audience, subjects, claims::pg_catalog.text FROM conduit.trusted_caller WHERE tenant = $1",
		1, {TEXTOID}
	};
	StoreArgs	args = {0};
	uint64		n;

	conduit_arg_text(&args, tenant);
	n = conduit_store_run(&select, &args);
	for (uint64 i = 0; i < n; i++)
		if (row_matches(i, claims))
			return true;
	return false;
}

static ArrayType *
subjects_argument(FunctionCallInfo fcinfo, int n)
{
	ArrayType  *array;
	Datum	   *texts;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(n))
		return NULL;
	array = PG_GETARG_ARRAYTYPE_P(n);
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &texts, &nulls, &count);
	if (count < 1 || count > MAX_SUBJECTS)
		conduit_bad_argument("invalid subjects", psprintf("range 1 %d", MAX_SUBJECTS),
							 "The numbers are the fewest and the most there may be; NULL: any subject.");
	for (int i = 0; i < count; i++)
		if (nulls[i] || VARSIZE_ANY_EXHDR(DatumGetTextPP(texts[i])) == 0)
			conduit_bad_argument("invalid subjects", psprintf("element %d", i + 1), "A subject is a text that is not empty.");
	return array;
}

static char *
claims_argument(FunctionCallInfo fcinfo, int n)
{
	char	   *text = conduit_object_argument(fcinfo, n, "invalid claims");
	ConduitJson *object;

	if (text == NULL)
		return pstrdup("{}");
	object = conduit_parse_object(text, "invalid claims");
	for (const ConduitJson *member = object->first; member != NULL; member = member->next)
		if (member->type == CONDUIT_JSON_ARRAY || member->type == CONDUIT_JSON_OBJECT)
			conduit_bad_argument("invalid claims", "not_a_scalar",
								 "Give each claim as a text, a number or a boolean; a claim that is an array matches by one of its members.");
	return text;
}

/* conduit_trust_caller(name, issuer, audience, subjects, claims, tenant) */
Datum
conduit_trust_caller(PG_FUNCTION_ARGS)
{
	static StoreQuery upsert = {
		"INSERT INTO conduit.trusted_caller (tenant, name, issuer, audience, subjects, claims, created_at)"
		" VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.jsonb, $7)"
		" ON CONFLICT (tenant, name) DO UPDATE SET issuer = EXCLUDED.issuer, audience = EXCLUDED.audience,"
		" subjects = EXCLUDED.subjects, claims = EXCLUDED.claims",
		7, {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTOID, TIMESTAMPTZOID}
	};
	char	   *name = conduit_name_argument(fcinfo, 0, "invalid name", MAX_NAME_LEN);
	char	   *issuer = conduit_optional_name_argument(fcinfo, 1, "invalid issuer", MAX_CLAIM_LEN);
	char	   *audience = conduit_optional_name_argument(fcinfo, 2, "invalid audience", MAX_CLAIM_LEN);
	ArrayType  *subjects = subjects_argument(fcinfo, 3);
	char	   *claims = claims_argument(fcinfo, 4);
	char	   *tenant = conduit_tenant_argument(fcinfo, 5);
	StoreArgs	args = {0};
	StoreScope	scope;

	/* An issuer issues tokens to browsers as well. */
	if (audience == NULL && subjects == NULL)
		conduit_bad_argument("invalid trusted caller", "too_wide",
							 "Name an audience or subjects that only your backends have; an issuer's other tokens would be trusted, too.");
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, name);
	conduit_arg_text(&args, issuer);
	conduit_arg_text(&args, audience);
	if (subjects != NULL)
		conduit_arg(&args, PointerGetDatum(subjects));
	else
		conduit_arg_null(&args);
	conduit_arg_text(&args, claims);
	conduit_arg_time(&args, conduit_now());
	conduit_store_begin(&scope);
	conduit_store_run(&upsert, &args);
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}

/* conduit_untrust_caller(name, tenant) */
Datum
conduit_untrust_caller(PG_FUNCTION_ARGS)
{
	static StoreQuery delete = {
		"DELETE FROM conduit.trusted_caller WHERE tenant = $1 AND name = $2", 2, {TEXTOID, TEXTOID}
	};
	char	   *name = conduit_name_argument(fcinfo, 0, "invalid name", MAX_NAME_LEN);
	char	   *tenant = conduit_tenant_argument(fcinfo, 1);
	StoreArgs	args = {0};
	StoreScope	scope;

	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, name);
	conduit_store_begin(&scope);
	if (conduit_store_run(&delete, &args) == 0)
		conduit_bad_argument("unknown trusted caller", "unknown_name", "conduit.trusted_caller lists those there are.");
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}
