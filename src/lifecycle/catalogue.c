/*-------------------------------------------------------------------------
 *
 * catalogue.c
 *	  Connector definitions as rows.
 *
 * A definition that extends another is merged with it when it is registered;
 * registering the other again merges and validates its dependents too.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/catalogue.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "base/report.h"
#include "lifecycle/argument.h"
#include "lifecycle/client.h"
#include "lifecycle/direct.h"
#include "lifecycle/revocation.h"
#include "lifecycle/store.h"
#include "shared/stats.h"

#define MAX_EXTENDS_DEPTH 8

PG_FUNCTION_INFO_V1(conduit_register_connector);
PG_FUNCTION_INFO_V1(conduit_drop_connector);

typedef struct CacheEntry
{
	char		slug[CONDUIT_MAX_SLUG_LEN + 1];
	int64		revision;
	MemoryContext context;
	ConduitConnector *connector;
} CacheEntry;

static HTAB *cache = NULL;
static Oid	cached_from = InvalidOid;	/* the table whose revisions these are */
static List *replaced = NIL;	/* memory contexts of superseded connectors */

static void
make_cache(void)
{
	HASHCTL		control = {0};

	control.keysize = CONDUIT_MAX_SLUG_LEN + 1;
	control.entrysize = sizeof(CacheEntry);
	cache = hash_create("conduit connectors", 64, &control, HASH_ELEM | HASH_STRINGS);
}

static void
replace_entry(const char *slug, int64 revision, MemoryContext context, ConduitConnector *connector)
{
	bool		found;
	CacheEntry *entry = hash_search(cache, slug, HASH_ENTER, &found);

	if (found)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		replaced = lappend(replaced, entry->context);
		MemoryContextSwitchTo(old);
	}
	entry->revision = revision;
	entry->context = context;
	entry->connector = connector;
}

/* The extension was created again: its revisions are counted anew. */
static void
empty_cache(void)
{
	HASH_SEQ_STATUS scan;
	CacheEntry *entry;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	hash_seq_init(&scan, cache);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		replaced = lappend(replaced, entry->context);
		hash_search(cache, entry->slug, HASH_REMOVE, NULL);
	}
	MemoryContextSwitchTo(old);
	cached_from = conduit_table("connector");
}

static const ConduitConnector *
load(const char *slug)
{
	static StoreQuery select = {
		"SELECT revision, resolved::pg_catalog.text FROM conduit.connector WHERE slug = $1",
		1, {TEXTOID}
	};
	StoreArgs	args = {0};
	MemoryContext context;
	MemoryContext old;
	char	   *definition;
	int64		revision;
	ConduitConnector *connector;

	conduit_arg_text(&args, slug);
	if (conduit_store_run(&select, &args) == 0)
		return NULL;
	revision = conduit_row_int64(0, 1);
	definition = conduit_row_text(0, 2, CurrentMemoryContext);

	/* Under the caller's context until it is whole, so that an error frees it. */
	context = AllocSetContextCreate(CurrentMemoryContext, "conduit connector",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	connector = conduit_connector_load(slug, definition);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, TopMemoryContext);
	replace_entry(slug, revision, context, connector);
	return connector;
}

static int64
stored_revision(const char *slug)
{
	static DirectTable connectors = {"connector", NULL, 1, {"revision"}};
	DirectRow	row;
	int64		revision = -1;
	bool		isnull;

	if (conduit_direct_open_texts(&row, &connectors, slug, NULL))
		revision = DatumGetInt64(conduit_direct_column(&row, 0, &isnull));
	conduit_direct_close(&row);
	return revision;
}

const ConduitConnector *
conduit_catalogue_get(const char *slug, int64 revision)
{
	CacheEntry *entry;

	if (cache == NULL)
		make_cache();
	if (cached_from != conduit_table("connector"))
		empty_cache();
	if (strlen(slug) > CONDUIT_MAX_SLUG_LEN)
		return NULL;
	if (revision < 0 && (revision = stored_revision(slug)) < 0)
		return NULL;
	entry = hash_search(cache, slug, HASH_FIND, NULL);
	if (entry != NULL && entry->revision == revision)
		return entry->connector;
	return load(slug);
}

void
conduit_catalogue_release(void)
{
	ListCell   *cell;

	foreach(cell, replaced)
		MemoryContextDelete(lfirst(cell));
	list_free(replaced);
	replaced = NIL;
}

const ConduitConnector *
conduit_catalogue_require(const char *slug, bool new_use)
{
	/* The lock keeps the connector from being dropped before this commits. */
	static StoreQuery retired = {
		"SELECT retired FROM conduit.connector WHERE slug = $1 FOR KEY SHARE", 1, {TEXTOID}
	};
	const ConduitConnector *connector = conduit_catalogue_get(slug, -1);
	StoreArgs	args = {0};

	if (connector == NULL)
		conduit_bad_argument("unknown connector", "unknown_connector",
							 "conduit_connectors() lists those there are; conduit_register_connector() adds one.");
	conduit_arg_text(&args, slug);
	if (new_use && (conduit_store_run(&retired, &args) == 0 || conduit_row_bool(0, 1)))
		conduit_bad_argument("connector is retired", "retired",
							 "Its provider has gone or changed; conduit_connectors() lists what there is.");
	return connector;
}

/* What is merged with what must not change or go meanwhile; readers go on. */
static void
one_at_a_time(void)
{
	static StoreQuery lock = {"LOCK TABLE conduit.connector IN SHARE ROW EXCLUSIVE MODE", 0, {0}};

	conduit_store_run(&lock, NULL);
}

/*
 * Raise 42501 for a built-in slug; returns whether the slug is registered.
 * Locks the row, against open transactions that refer to it only if it is to
 * be dropped.
 */
static bool
check_not_builtin(const char *slug, bool drop)
{
	static StoreQuery lock_to_change = {
		"SELECT builtin FROM conduit.connector WHERE slug = $1 FOR NO KEY UPDATE", 1, {TEXTOID}
	};
	static StoreQuery lock_to_drop = {
		"SELECT builtin FROM conduit.connector WHERE slug = $1 FOR UPDATE", 1, {TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, slug);
	if (conduit_store_run(drop ? &lock_to_drop : &lock_to_change, &args) == 0)
		return false;
	if (conduit_row_bool(0, 1))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("connector is built in"),
				 errdetail("builtin"),
				 errhint("Register one under another slug, with \"extends\" naming this one."),
				 errhidestmt(true), errhidecontext(true)));
	return true;
}

/* A base that leads back to slug, or too deep a chain, is refused. */
static void
check_chain(const char *slug, const char *base)
{
	static StoreQuery up = {
		"SELECT extends FROM conduit.connector WHERE slug = $1", 1, {TEXTOID}
	};

	for (int depth = 0; base != NULL; depth++)
	{
		StoreArgs	args = {0};

		if (strcmp(base, slug) == 0 || depth >= MAX_EXTENDS_DEPTH)
			conduit_bad_argument("invalid connector definition", "extends leads back to itself or too far",
								 "Name a connector that does not itself depend on this one.");
		conduit_arg_text(&args, base);
		if (conduit_store_run(&up, &args) == 0)
			conduit_bad_argument("invalid connector definition", "extends names no connector",
								 "conduit_connectors() lists those there are.");
		base = conduit_row_text(0, 1, CurrentMemoryContext);
	}
}

/*
 * Merge a definition with what it extends and validate the result, in a
 * context that goes at the end.
 */
static char *
resolve(const char *slug, const char *definition, const char *base)
{
	static StoreQuery merge = {
		"SELECT (COALESCE((SELECT resolved FROM conduit.connector WHERE slug = $2), '{}')"
		" || ($1::pg_catalog.jsonb - 'extends'))::pg_catalog.text",
		2, {TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};
	char	   *resolved;

	conduit_arg_text(&args, definition);
	conduit_arg_text(&args, base);
	conduit_store_run(&merge, &args);
	resolved = conduit_row_text(0, 1, CurrentMemoryContext);
	(void) conduit_connector_parse(slug, resolved);
	return resolved;
}

static void
resolve_dependents(const char *base, int depth)
{
	static StoreQuery dependents = {
		"SELECT slug, definition::pg_catalog.text FROM conduit.connector WHERE extends = $1",
		1, {TEXTOID}
	};
	static StoreQuery update = {
		"UPDATE conduit.connector SET resolved = $2::pg_catalog.jsonb,"
		" revision = pg_catalog.nextval('conduit.connector_revision') WHERE slug = $1",
		2, {TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};
	MemoryContext context = CurrentMemoryContext;
	uint64		n;
	char	  **slugs;
	char	  **definitions;

	conduit_arg_text(&args, base);
	n = conduit_store_run(&dependents, &args);
	slugs = palloc(sizeof(char *) * (n + 1));
	definitions = palloc(sizeof(char *) * (n + 1));
	for (uint64 i = 0; i < n; i++)
	{
		slugs[i] = conduit_row_text(i, 1, context);
		definitions[i] = conduit_row_text(i, 2, context);
	}
	for (uint64 i = 0; i < n && depth < MAX_EXTENDS_DEPTH; i++)
	{
		StoreArgs	change = {0};

		conduit_arg_text(&change, slugs[i]);
		conduit_arg_text(&change, resolve(slugs[i], definitions[i], base));
		conduit_store_run(&update, &change);
		conduit_client_try_again(slugs[i], "");
		resolve_dependents(slugs[i], depth + 1);
	}
}

/* conduit_register_connector(slug, definition) */
Datum
conduit_register_connector(PG_FUNCTION_ARGS)
{
	static StoreQuery upsert = {
		"INSERT INTO conduit.connector (slug, extends, definition, resolved)"
		" VALUES ($1, $2, $3::pg_catalog.jsonb, $4::pg_catalog.jsonb)"
		" ON CONFLICT (slug) DO UPDATE SET extends = EXCLUDED.extends,"
		" definition = EXCLUDED.definition, resolved = EXCLUDED.resolved,"
		" revision = EXCLUDED.revision, updated_at = EXCLUDED.updated_at"
		" WHERE NOT connector.builtin",
		4, {TEXTOID, TEXTOID, TEXTOID, TEXTOID}
	};
	char	   *slug = conduit_slug_argument(fcinfo, 0);
	char	   *definition = conduit_object_argument(fcinfo, 1, "invalid connector definition");
	ConduitJson *object;
	const ConduitJson *extends;
	const char *base = NULL;
	StoreArgs	args = {0};
	StoreScope	scope;

	if (definition == NULL)
		conduit_bad_argument("invalid connector definition", "null", "Pass a JSON object.");
	object = conduit_parse_object(definition, "invalid connector definition");
	extends = conduit_json_get(object, "extends");
	if (extends != NULL && extends->type != CONDUIT_JSON_NULL)
	{
		base = conduit_json_string(extends);
		if (base == NULL || !conduit_connector_slug_valid(base))
			conduit_bad_argument("invalid connector definition", "extends is not a slug",
								 "Name another connector by its slug.");
	}

	conduit_store_begin(&scope);
	one_at_a_time();
	(void) check_not_builtin(slug, false);
	check_chain(slug, base);
	conduit_arg_text(&args, slug);
	conduit_arg_text(&args, base);
	conduit_arg_text(&args, definition);
	conduit_arg_text(&args, resolve(slug, definition, base));
	conduit_store_run(&upsert, &args);
	conduit_client_try_again(slug, "");
	resolve_dependents(slug, 0);
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}

/* conduit_drop_connector(slug) */
Datum
conduit_drop_connector(PG_FUNCTION_ARGS)
{
	static StoreQuery uses = {
		"SELECT (SELECT pg_catalog.count(*) FROM conduit.connection WHERE connector = $1)"
		" + (SELECT pg_catalog.count(*) FROM conduit.client WHERE connector = $1)"
		" + (SELECT pg_catalog.count(*) FROM conduit.connector WHERE extends = $1)",
		1, {TEXTOID}
	};
	static StoreQuery delete = {
		"DELETE FROM conduit.connector WHERE slug = $1", 1, {TEXTOID}
	};
	char	   *slug = conduit_slug_argument(fcinfo, 0);
	StoreArgs	args = {0};
	StoreScope	scope;

	conduit_store_begin(&scope);
	one_at_a_time();
	if (!check_not_builtin(slug, true))
		conduit_bad_argument("unknown connector", "unknown_connector",
							 "conduit_connectors() lists those there are.");
	conduit_arg_text(&args, slug);
	conduit_store_run(&uses, &args);
	if (conduit_row_int64(0, 1) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
				 errmsg("connector is in use"),
				 errdetail("in_use " INT64_FORMAT, conduit_row_int64(0, 1)),
				 errhint("Delete its connections, retire its clients and drop what extends it first."),
				 errhidestmt(true), errhidecontext(true)));
	conduit_revocation_warn_queued(slug, NULL, "");
	conduit_store_run(&delete, &args);
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}
