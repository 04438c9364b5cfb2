/*-------------------------------------------------------------------------
 *
 * store.c
 *	  Rows in and out: SQL as the extension's owner, ids, the extension itself.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/store.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "common/string.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/report.h"
#include "vault/seal.h"

static ExtensionInfo extension;
static bool extension_known = false;

void
conduit_store_begin(StoreScope *scope)
{
	const ExtensionInfo *info = conduit_extension(false);

	scope->caller_context = CurrentMemoryContext;
	GetUserIdAndSecContext(&scope->user, &scope->security_context);
	SetUserIdAndSecContext(info->owner,
						   scope->security_context | SECURITY_LOCAL_USERID_CHANGE);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
}

void
conduit_store_end(StoreScope *scope)
{
	SPI_finish();
	AtEOXact_GUC(true, scope->guc_level);
	SetUserIdAndSecContext(scope->user, scope->security_context);
	MemoryContextSwitchTo(scope->caller_context);
}

uint64
conduit_store_run(StoreQuery *query, const StoreArgs *args)
{
	MemoryContext context = CurrentMemoryContext;
	int			result;

	if (query->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(query->sql, query->nargs, query->types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare a statement: %s",
				 SPI_result_code_string(SPI_result));
		query->plan = plan;
	}
	Assert((args ? args->n : 0) == query->nargs);

	result = SPI_execute_snapshot(query->plan,
								  args ? (Datum *) args->values : NULL,
								  args ? args->nulls : NULL,
								  GetLatestSnapshot(), InvalidSnapshot,
								  false, true, 0);
	if (result < 0)
		elog(ERROR, "could not execute a statement: %s",
			 SPI_result_code_string(result));

	/* SPI leaves its own current, which conduit_store_end frees. */
	MemoryContextSwitchTo(context);
	return SPI_processed;
}

void
conduit_arg(StoreArgs *args, Datum value)
{
	Assert(args->n < CONDUIT_MAX_QUERY_ARGS);
	args->values[args->n] = value;
	args->nulls[args->n] = ' ';
	args->n++;
}

void
conduit_arg_null(StoreArgs *args)
{
	conduit_arg(args, (Datum) 0);
	args->nulls[args->n - 1] = 'n';
}

void
conduit_arg_text(StoreArgs *args, const char *value)
{
	if (value == NULL)
		conduit_arg_null(args);
	else
		conduit_arg(args, CStringGetTextDatum(value));
}

bool
conduit_same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

char *
conduit_utf8_to_server(const char *text)
{
	Oid			conversion;
	int			length = strlen(text);
	char	   *converted;

	/* SQL_ASCII holds any bytes. */
	if (GetDatabaseEncoding() == PG_UTF8 || GetDatabaseEncoding() == PG_SQL_ASCII)
		return pstrdup(text);
	conversion = FindDefaultConversionProc(PG_UTF8, GetDatabaseEncoding());
	if (!OidIsValid(conversion))
		return pg_is_ascii(text) ? pstrdup(text) : NULL;
	converted = palloc((Size) length * MAX_CONVERSION_GROWTH + 1);
	if (pg_do_encoding_conversion_buf(conversion, PG_UTF8, GetDatabaseEncoding(),
									  (unsigned char *) text, length, (unsigned char *) converted,
									  length * MAX_CONVERSION_GROWTH + 1, true) == length)
		return converted;
	pfree(converted);
	return NULL;
}

void
conduit_arg_utf8(StoreArgs *args, const char *value)
{
	conduit_arg_text(args, value ? conduit_utf8_to_server(value) : NULL);
}

void
conduit_arg_time(StoreArgs *args, TimestampTz value)
{
	if (TIMESTAMP_IS_NOEND(value))
		conduit_arg_null(args);
	else
		conduit_arg(args, TimestampTzGetDatum(value));
}

void
conduit_arg_uuid(StoreArgs *args, const pg_uuid_t *value)
{
	if (value == NULL)
		conduit_arg_null(args);
	else
		conduit_arg(args, UUIDPGetDatum(value));
}

void
conduit_arg_jsonb(StoreArgs *args, const Jsonb *value)
{
	if (value == NULL)
		conduit_arg_null(args);
	else
		conduit_arg(args, PointerGetDatum(value));
}

void
conduit_arg_bytea(StoreArgs *args, const bytea *value)
{
	if (value == NULL)
		conduit_arg_null(args);
	else
		conduit_arg(args, PointerGetDatum(value));
}

static Datum
row_value(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

bool
conduit_row_isnull(uint64 row, int column)
{
	bool		isnull;

	(void) row_value(row, column, &isnull);
	return isnull;
}

char *
conduit_row_text(uint64 row, int column, MemoryContext context)
{
	bool		isnull;
	Datum		value = row_value(row, column, &isnull);
	char	   *result;
	MemoryContext old;

	if (isnull)
		return NULL;
	old = MemoryContextSwitchTo(context);
	result = TextDatumGetCString(value);
	MemoryContextSwitchTo(old);
	return result;
}

char *
conduit_row_utf8(uint64 row, int column, MemoryContext context)
{
	char	   *text = conduit_row_text(row, column, context);
	MemoryContext old = MemoryContextSwitchTo(context);

	if (text != NULL)
		text = pg_server_to_any(text, strlen(text), PG_UTF8);
	MemoryContextSwitchTo(old);
	return text;
}

bytea *
conduit_row_bytea(uint64 row, int column, MemoryContext context)
{
	bool		isnull;
	Datum		value = row_value(row, column, &isnull);
	bytea	   *result;
	MemoryContext old;

	if (isnull)
		return NULL;
	old = MemoryContextSwitchTo(context);
	result = DatumGetByteaPCopy(value);
	MemoryContextSwitchTo(old);
	return result;
}

TimestampTz
conduit_row_time(uint64 row, int column)
{
	bool		isnull;
	Datum		value = row_value(row, column, &isnull);

	return isnull ? DT_NOEND : DatumGetTimestampTz(value);
}

int64
conduit_row_int64(uint64 row, int column)
{
	bool		isnull;
	Datum		value = row_value(row, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

int
conduit_row_int32(uint64 row, int column)
{
	bool		isnull;
	Datum		value = row_value(row, column, &isnull);

	return isnull ? 0 : DatumGetInt32(value);
}

double
conduit_row_float(uint64 row, int column)
{
	bool		isnull;
	Datum		value = row_value(row, column, &isnull);

	return isnull ? 0 : DatumGetFloat8(value);
}

bool
conduit_row_bool(uint64 row, int column)
{
	bool		isnull;
	Datum		value = row_value(row, column, &isnull);

	return isnull ? false : DatumGetBool(value);
}

pg_uuid_t
conduit_row_uuid(uint64 row, int column)
{
	bool		isnull;
	Datum		value = row_value(row, column, &isnull);
	pg_uuid_t	result = {{0}};

	if (!isnull)
		result = *DatumGetUUIDP(value);
	return result;
}

ItemPointerData
conduit_row_tid(uint64 row, int column)
{
	bool		isnull;
	Datum		value = row_value(row, column, &isnull);
	ItemPointerData result;

	if (isnull)
		ItemPointerSetInvalid(&result);
	else
		result = *(ItemPointer) DatumGetPointer(value);
	return result;
}

void
conduit_store_return_rows(FunctionCallInfo fcinfo, StoreQuery *query, const StoreArgs *args)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	StoreScope	scope;

	InitMaterializedSRF(fcinfo, 0);
	conduit_store_begin(&scope);
	(void) conduit_store_run(query, args);
	for (uint64 i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[i]);
	conduit_store_end(&scope);
}

/*
 * conduit_new_id follows RFC 9562: 48 bits of milliseconds, then 12 bits of
 * the millisecond's fraction, so that ids of one session are ordered mostly
 * also within a millisecond, then 62 random bits.
 */
pg_uuid_t
conduit_new_id(void)
{
	pg_uuid_t	id;
	int64		microseconds = GetCurrentTimestamp() +
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	uint64		milliseconds = microseconds / 1000;
	uint32		fraction = (microseconds % 1000) * 4096 / 1000;

	conduit_random(&id, sizeof(id));
	for (int i = 0; i < 6; i++)
		id.data[i] = (uint8) (milliseconds >> (8 * (5 - i)));
	id.data[6] = 0x70 | (fraction >> 8);
	id.data[7] = fraction & 0xff;
	id.data[8] = 0x80 | (id.data[8] & 0x3f);
	return id;
}

static void
forget_extension(void)
{
	extension_known = false;
}

static void
on_relation_change(Datum arg, Oid relation)
{
	forget_extension();
}

static void
on_syscache_change(Datum arg, int cacheid, uint32 hash)
{
	forget_extension();
}

/*
 * pg_extension itself sends no invalidation.  But whatever creates, drops or
 * updates the extension also changes functions or relations, which do.
 */
static void
watch_extension(void)
{
	static bool watching = false;

	if (watching)
		return;
	CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, on_syscache_change, (Datum) 0);
	watching = true;
}

static void
read_extension(void)
{
	Relation	relation = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	ExtensionInfo found = {0};

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("conduit"));
	scan = systable_beginscan(relation, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_extension form = (Form_pg_extension) GETSTRUCT(tuple);
		bool		isnull;
		Datum		version = heap_getattr(tuple, Anum_pg_extension_extversion,
										   RelationGetDescr(relation), &isnull);

		found.oid = form->oid;
		found.owner = form->extowner;
		found.schema = form->extnamespace;
		found.private_schema = get_namespace_oid("conduit", true);
		if (!isnull)
			strlcpy(found.version, TextDatumGetCString(version), sizeof(found.version));
		found.served = conduit_version_served(found.version);
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	extension = found;
}

/* Length of "major.minor" of a version. */
static int
series_length(const char *version)
{
	const char *dot = strchr(version, '.');
	const char *second = dot ? strchr(dot + 1, '.') : NULL;

	return second ? second - version : strlen(version);
}

bool
conduit_version_served(const char *version)
{
	int			length = series_length(CONDUIT_VERSION);

	return series_length(version) == length &&
		strncmp(version, CONDUIT_VERSION, length) == 0;
}

/* Raise the one of the two errors that says which side is behind. */
pg_noreturn static void
raise_version_mismatch(void)
{
	int			sql_major = 0,
				sql_minor = 0,
				major = 0,
				minor = 0;

	(void) sscanf(extension.version, "%d.%d", &sql_major, &sql_minor);
	(void) sscanf(CONDUIT_VERSION, "%d.%d", &major, &minor);
	conduit_raise(sql_major > major || (sql_major == major && sql_minor > minor) ?
				  CONDUIT_ERR_OLD_LIBRARY : CONDUIT_ERR_OLD_SQL, NULL);
}

const ExtensionInfo *
conduit_extension(bool missing_ok)
{
	watch_extension();

	/* A look-up that an error ended has found nothing, which is no answer. */
	if (!extension_known || !OidIsValid(extension.oid))
	{
		/* Before the look-up: an invalidation during it must count. */
		extension_known = true;
		extension.oid = InvalidOid;
		read_extension();
	}
	if (!OidIsValid(extension.oid))
	{
		extension_known = false;
		if (!missing_ok)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("extension \"conduit\" does not exist"),
					 errhint("Run CREATE EXTENSION conduit.")));
	}
	else if (!missing_ok && !extension.served)
		raise_version_mismatch();
	return &extension;
}

Oid
conduit_table(const char *name)
{
	Oid			oid = get_relname_relid(name, conduit_extension(false)->private_schema);

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"conduit.%s\" does not exist", name),
				 errhint("Something has removed a part of the extension; restore it from a dump.")));
	return oid;
}
