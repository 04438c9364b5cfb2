/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Everything that differs between the PostgreSQL versions Conduit serves.
 *
 * No other file tests PG_VERSION_NUM.  Each block says what changed and when,
 * so that it can go with the version that needed it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_COMPAT_H
#define CONDUIT_COMPAT_H

#include "postgres.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/proc.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "Conduit needs PostgreSQL 15 or later"
#endif

/* 16 moved VARDATA and friends out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 17 renamed the index of a PGPROC and keeps our own in a variable. */
#if PG_VERSION_NUM >= 170000
#define conduit_my_proc_number()	((int) MyProcNumber)
#else
#define conduit_my_proc_number()	(MyProc->pgprocno)
#endif

/* 17 made the kind of this process an enumeration. */
#if PG_VERSION_NUM >= 170000
#define conduit_in_background_worker() AmBackgroundWorkerProcess()
#else
#define conduit_in_background_worker() IsBackgroundWorker
#endif

/* 17 has one more time limit that ALTER DATABASE could set for a worker. */
#if PG_VERSION_NUM >= 170000
#define CONDUIT_VERSION_PINS {"transaction_timeout", "0"},
#else
#define CONDUIT_VERSION_PINS
#endif

/* 17 gave extensions wait events of their own; allocated at first use. */
#if PG_VERSION_NUM >= 170000
#define conduit_wait_event(cache, name) \
	(*(cache) != 0 ? *(cache) : (*(cache) = WaitEventExtensionNew(name)))
#else
#define conduit_wait_event(cache, name) ((void) (cache), (uint32) PG_WAIT_EXTENSION)
#endif

/* 16 folded the per-class ownership checks into one. */
#if PG_VERSION_NUM >= 160000
#define conduit_database_ownercheck(dboid, roleid) \
	object_ownercheck(DatabaseRelationId, dboid, roleid)
#else
#define conduit_database_ownercheck(dboid, roleid) \
	pg_database_ownercheck(dboid, roleid)
#endif

/* 18 asks whether a deferrable primary key will do, and wants instrumentation. */
#if PG_VERSION_NUM >= 180000
#define conduit_primary_key_index(rel) RelationGetPrimaryKeyIndex(rel, false)
#define conduit_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, NULL, nkeys, 0)
#else
#define conduit_primary_key_index(rel) RelationGetPrimaryKeyIndex(rel)
#define conduit_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, nkeys, 0)
#endif

/* 18 lets a module say its name and version to pg_get_loaded_modules(). */
#ifdef PG_MODULE_MAGIC_EXT
#define CONDUIT_MODULE_MAGIC \
	PG_MODULE_MAGIC_EXT(.name = "conduit", .version = CONDUIT_VERSION)
#else
#define CONDUIT_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/* 18 wants pg_noreturn before the type; earlier versions have an attribute. */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

#endif							/* CONDUIT_COMPAT_H */
