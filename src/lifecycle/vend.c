/*-------------------------------------------------------------------------
 *
 * vend.c
 *	  conduit_vend: the hot path.
 *
 * A warm vend reads one row by its primary key, opens one blob and forms one
 * tuple.  It writes nothing, takes no row lock and no transaction id.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/vend.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/report.h"
#include "lifecycle/argument.h"
#include "lifecycle/key.h"
#include "lifecycle/renewal.h"
#include "lifecycle/store.h"
#include "shared/last_use.h"
#include "shared/stats.h"

PG_FUNCTION_INFO_V1(conduit_vend);

static bool
scope_granted(const char *granted, const char *wanted, int length)
{
	for (const char *c = granted; *c;)
	{
		int			n = strcspn(c, " ");

		if (n == length && memcmp(c, wanted, n) == 0)
			return true;
		c += n;
		c += strspn(c, " ");
	}
	return false;
}

/* Granted scopes are those the provider named; where it named none, none is known to be there. */
static void
check_scopes(const CredentialView *view, ArrayType *scopes)
{
	Datum	   *wanted;
	bool	   *nulls;
	int			n;

	deconstruct_array(scopes, TEXTOID, -1, false, TYPALIGN_INT, &wanted, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		text	   *scope;

		if (nulls[i])
			continue;
		scope = DatumGetTextPP(wanted[i]);
		if (!scope_granted(view->scope ? view->scope : "", VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope)))
			conduit_raise(CONDUIT_ERR_LACKS_SCOPE, psprintf("scope %d", i + 1));
	}
}

static void
set_text(Datum *values, bool *nulls, int column, const char *data, int length)
{
	char	   *converted;

	nulls[column] = data == NULL;
	if (data == NULL)
		return;
	converted = pg_any_to_server(data, length, PG_UTF8);
	values[column] = PointerGetDatum(converted == data ?
									 cstring_to_text_with_len(data, length) :
									 cstring_to_text(converted));
}

static void
set_secret(Datum *values, bool *nulls, int column, const SecretText *text)
{
	set_text(values, nulls, column, text->data, text->length);
}

/*
 * What the provider said beyond tokens.  It was read by a stricter parser than
 * jsonb's, but for limits such as numeric's: a value beyond them is no reason
 * to keep the token back.
 */
static void
set_extra(Datum *values, bool *nulls, const SecretText *extra)
{
	char	   *json;
	char	   *volatile text = NULL;
	Jsonb	   *volatile value = NULL;

	nulls[VEND_EXTRA] = true;
	if (extra->data == NULL)
		return;
	json = pnstrdup(extra->data, extra->length);
	PG_TRY();
	{
		text = conduit_utf8_to_server(json);
		if (text != NULL)
			value = conduit_try_jsonb(text);
	}
	PG_FINALLY();
	{
		conduit_wipe(json, extra->length);
		if (text != NULL)
			conduit_wipe(text, strlen(text));
	}
	PG_END_TRY();
	if (value != NULL)
	{
		values[VEND_EXTRA] = JsonbPGetDatum(value);
		nulls[VEND_EXTRA] = false;
	}
}

SealStatus
conduit_vend_fill(const CredentialView *view, Datum *values, bool *nulls, char *key_id)
{
	SealPlace	place = conduit_credential_seal_place(&view->place, "access", view->generation);
	OpenedSecret opened;
	ConduitSecret secret;
	SealStatus	status = conduit_secret_open(&place, view->access, &opened, &secret, key_id);

	if (status != SEAL_OK)
		return status;
	memset(values, 0, sizeof(Datum) * VEND_NUM_COLUMNS);
	set_secret(values, nulls, VEND_ACCESS_TOKEN, &secret.access_token);
	nulls[VEND_TOKEN_TYPE] = view->token_type == NULL;
	if (view->token_type)
		values[VEND_TOKEN_TYPE] = CStringGetTextDatum(view->token_type);
	nulls[VEND_SCOPE] = view->scope == NULL;
	if (view->scope)
		values[VEND_SCOPE] = CStringGetTextDatum(view->scope);
	set_secret(values, nulls, VEND_API_KEY, &secret.api_key);
	set_secret(values, nulls, VEND_API_SECRET, &secret.api_secret);
	set_secret(values, nulls, VEND_USERNAME, &secret.username);
	set_secret(values, nulls, VEND_PASSWORD, &secret.password);
	nulls[VEND_EXPIRES_AT] = TIMESTAMP_IS_NOEND(view->expires_at);
	values[VEND_EXPIRES_AT] = TimestampTzGetDatum(view->expires_at);
	set_extra(values, nulls, &secret.extra);
	nulls[VEND_GENERATION] = false;
	values[VEND_GENERATION] = Int64GetDatum(view->generation);
	conduit_wipe_opened(&opened);
	return SEAL_OK;
}

void
conduit_vend_note(const CredentialView *view, TimestampTz now)
{
	conduit_stats_add(view->place.connector, STATS_VENDS, 1);
	conduit_last_use_note(USE_CONNECTION, &view->place.connection, conduit_last_use_day(now));
}

/*
 * The shape of the result.  A prepared statement makes its function's state
 * anew with each execution, and to find the shape in the catalogs costs as much
 * as to find and open the row; so it is kept for the process, until a function
 * of the catalogs changes.
 */
static struct
{
	Oid			function;		/* InvalidOid: not known, or not any more */
	TupleDesc	shape;
} result_cache = {InvalidOid, NULL};

static void
on_function_change(Datum arg, int cacheid, uint32 hash)
{
	result_cache.function = InvalidOid;
}

static TupleDesc
result_shape(FunctionCallInfo fcinfo)
{
	static bool watching = false;
	TupleDesc	shape;
	MemoryContext old;

	if (result_cache.function == fcinfo->flinfo->fn_oid)
		return result_cache.shape;
	if (!watching)
		CacheRegisterSyscacheCallback(PROCOID, on_function_change, (Datum) 0);
	watching = true;

	old = MemoryContextSwitchTo(TopMemoryContext);
	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	shape = BlessTupleDesc(shape);
	MemoryContextSwitchTo(old);

	/* It is the same, as a rule: then nothing is left behind. */
	if (result_cache.shape != NULL && equalTupleDescs(result_cache.shape, shape))
		FreeTupleDesc(shape);
	else
		result_cache.shape = shape;
	result_cache.function = fcinfo->flinfo->fn_oid;
	return result_cache.shape;
}

/* conduit_vend(owner, connection_id, min_ttl, scopes, tenant) */
Datum
conduit_vend(PG_FUNCTION_ARGS)
{
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *id = conduit_connection_argument(fcinfo, 1);
	int64		min_ttl = conduit_interval_argument(fcinfo, 2, "invalid min_ttl",
												"It is how long the token must live at least.");
	char	   *tenant = conduit_tenant_argument(fcinfo, 4);
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	Datum		values[VEND_NUM_COLUMNS];
	bool		nulls[VEND_NUM_COLUMNS];
	CredentialView view;
	TimestampTz now;
	SealStatus	status;

	conduit_credential_entitled(id, owner, tenant, &view);
	if (!PG_ARGISNULL(3))
		check_scopes(&view, PG_GETARG_ARRAYTYPE_P(3));
	now = conduit_now();
	if (conduit_credential_due(&view, now, min_ttl))
	{
		(void) conduit_renew(&view, owner, tenant, false, DT_NOEND);
		now = conduit_now();
	}

	/* It has expired and cannot be renewed, or never was there. */
	if (!conduit_credential_usable(&view, now))
		conduit_raise(CONDUIT_ERR_NEEDS_REAUTH, "expired");

	status = conduit_vend_fill(&view, values, nulls, key_id);
	if (status != SEAL_OK)
		conduit_key_raise(status, key_id);
	conduit_vend_note(&view, now);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(result_shape(fcinfo), values, nulls)));
}
