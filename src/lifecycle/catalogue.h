/*-------------------------------------------------------------------------
 *
 * catalogue.h
 *	  Connector definitions as rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_CATALOGUE_H
#define CONDUIT_CATALOGUE_H

#include "base/compat.h"
#include "provider/connector.h"

/*
 * conduit_catalogue_get returns the parsed connector, from this process's cache
 * if the stored revision is still the same; NULL if there is none.  A revision
 * that the caller has just read saves the look-up (-1: not known).  Within
 * conduit_store_begin and _end.  The result lives until
 * conduit_catalogue_release() after a newer revision has been read.
 */
extern const ConduitConnector *conduit_catalogue_get(const char *slug, int64 revision);

/* As conduit_catalogue_get, but raises 22023 "unknown connector"; new_use also refuses retired ones. */
extern const ConduitConnector *conduit_catalogue_require(const char *slug, bool new_use);

/* Free connectors that newer revisions have replaced. */
extern void conduit_catalogue_release(void);

#endif							/* CONDUIT_CATALOGUE_H */
