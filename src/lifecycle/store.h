/*-------------------------------------------------------------------------
 *
 * store.h
 *	  Rows in and out: SQL as the extension's owner, ids, the extension itself.
 *
 * Conduit's functions run with their caller's rights, EXECUTE being the guard.
 * The SQL inside runs between conduit_store_begin and conduit_store_end as the
 * extension's owner, with search_path pg_catalog, pg_temp; an error in between
 * restores the caller with the (sub)transaction.
 *
 * Statements see the latest committed state, not the caller's snapshot: what
 * the worker commits meanwhile must be visible to a REPEATABLE READ caller, and
 * a Conduit function must not fail because a row is newer than that snapshot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_STORE_H
#define CONDUIT_STORE_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#define CONDUIT_MAX_QUERY_ARGS 28

/* A statement that is planned once per process. */
typedef struct StoreQuery
{
	const char *sql;
	int			nargs;
	Oid			types[CONDUIT_MAX_QUERY_ARGS];
	SPIPlanPtr	plan;
} StoreQuery;

/* Arguments of one execution; at the end of the list nothing is left over. */
typedef struct StoreArgs
{
	int			n;
	Datum		values[CONDUIT_MAX_QUERY_ARGS];
	char		nulls[CONDUIT_MAX_QUERY_ARGS];
} StoreArgs;

typedef struct StoreScope
{
	Oid			user;
	int			security_context;
	int			guc_level;
	MemoryContext caller_context;
} StoreScope;

extern void conduit_store_begin(StoreScope *scope);
extern void conduit_store_end(StoreScope *scope);

/*
 * conduit_store_run executes a query and returns the number of rows; the rows
 * are in SPI_tuptable.  The current memory context stays what it is.
 */
extern uint64 conduit_store_run(StoreQuery *query, const StoreArgs *args);

extern void conduit_arg(StoreArgs *args, Datum value);
extern void conduit_arg_null(StoreArgs *args);
extern void conduit_arg_text(StoreArgs *args, const char *value);	/* NULL: null */
extern void conduit_arg_utf8(StoreArgs *args, const char *value);	/* null also if it has no
																	 * form in the server's encoding */
extern void conduit_arg_time(StoreArgs *args, TimestampTz value);	/* DT_NOEND: null */
extern void conduit_arg_uuid(StoreArgs *args, const pg_uuid_t *value);	/* NULL: null */
extern void conduit_arg_jsonb(StoreArgs *args, const Jsonb *value); /* NULL: null */
extern void conduit_arg_bytea(StoreArgs *args, const bytea *value); /* NULL: null */

/* Whether two texts, either of which may be null, are not distinct. */
extern bool conduit_same_text(const char *a, const char *b);

/* A text in the server's encoding, or NULL if it has no form there. */
extern char *conduit_utf8_to_server(const char *text);

/*
 * Columns of a row of SPI_tuptable, copied into context; column counts from 1.
 * Nulls come back as NULL, DT_NOEND and 0.
 */
extern char *conduit_row_text(uint64 row, int column, MemoryContext context);
extern char *conduit_row_utf8(uint64 row, int column, MemoryContext context);
extern bytea *conduit_row_bytea(uint64 row, int column, MemoryContext context);
extern TimestampTz conduit_row_time(uint64 row, int column);
extern int64 conduit_row_int64(uint64 row, int column);
extern int	conduit_row_int32(uint64 row, int column);
extern double conduit_row_float(uint64 row, int column);
extern bool conduit_row_bool(uint64 row, int column);
extern bool conduit_row_isnull(uint64 row, int column);
extern pg_uuid_t conduit_row_uuid(uint64 row, int column);
extern ItemPointerData conduit_row_tid(uint64 row, int column);

/* conduit_store_return_rows runs a query and hands its rows to a set-returning caller. */
extern void conduit_store_return_rows(FunctionCallInfo fcinfo, StoreQuery *query, const StoreArgs *args);

/* conduit_new_id draws a time-ordered uuid (version 7). */
extern pg_uuid_t conduit_new_id(void);

typedef struct ExtensionInfo
{
	Oid			oid;			/* InvalidOid: the extension is not there */
	Oid			owner;
	Oid			schema;			/* of the public functions */
	Oid			private_schema;
	char		version[32];
	bool		served;			/* by this library */
} ExtensionInfo;

/*
 * conduit_extension looks the extension up, once per invalidation.  Unless
 * missing_ok, raises an error if it is not there or if library and SQL do not
 * fit each other.
 */
extern const ExtensionInfo *conduit_extension(bool missing_ok);

/* True if the library serves this version of the SQL: the same minor series. */
extern bool conduit_version_served(const char *version);

/* The oid of a table in schema conduit. */
extern Oid	conduit_table(const char *name);

#endif							/* CONDUIT_STORE_H */
