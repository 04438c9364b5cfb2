/*-------------------------------------------------------------------------
 *
 * import.h
 *	  Many connections with their credentials at once.
 *
 * import_record.c reads and checks the records, import_match.c finds the
 * connections that there are, import.c writes.  A record that cannot be
 * imported bears an error, a stable code, and is passed over from then on.
 *
 * Lock order: connector, client, connections by their ids, credentials.  New
 * connections are inserted in the order of owner and account, so that two
 * imports of the same records wait for each other in one direction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_IMPORT_H
#define CONDUIT_IMPORT_H

#include "base/compat.h"
#include "base/json_array.h"
#include "lifecycle/argument.h"
#include "provider/connector.h"
#include "utils/uuid.h"

#define CONDUIT_MAX_IMPORT 10000

typedef struct ImportRecord
{
	int			ordinal;		/* from 1 */
	int			length;			/* of its JSON */
	const char *error;			/* NULL: none */

	/* what it says; texts in the server's encoding, NULL where not given */
	char	   *owner;
	char	   *account;
	char	   *client_id;
	const ConduitJson *param_values;
	Jsonb	   *params;
	Jsonb	   *metadata;
	const ConduitJson *secret;
	bytea	   *digest;			/* of a refresh token and whose it is; NULL: it has none */

	/* the connection it is for */
	bool		has_connection;
	bool		is_locked;		/* and was there before this call */
	bool		is_new;			/* inserted by this call */
	pg_uuid_t	connection;
	char	   *known_account;	/* of the connection */
	char	   *status;
	char	   *known_params;	/* JSON text */
	int64		last_generation;
	int64		generation;		/* of its credential; 0: it has none */
	bytea	   *imported;		/* digest of what was imported last; NULL: nothing */
} ImportRecord;

typedef struct Import
{
	const char *slug;
	const char *tenant;
	const ConduitConnector *connector;
	char	   *current_client; /* NULL: none */
	double		spread;			/* seconds */
	TimestampTz now;
	int			n;
	ImportRecord *records;
	int			nsorted;
	ImportRecord **sorted;		/* those without an error at first, by owner and account */
} Import;

/*
 * conduit_import_read reads a record and checks all that can be said of it
 * without looking for its connection.  It changes the text, into which the
 * record points.
 */
extern void conduit_import_read(const Import *import, ConduitJsonPart *part, ImportRecord *record);

/* Whether what a record says was imported into its connection before. */
extern bool conduit_import_same(const bytea *a, const bytea *b);

/*
 * conduit_import_check_clients passes over records whose client is not there,
 * and keeps the others' from being retired.  Within conduit_store_begin and _end.
 */
extern void conduit_import_check_clients(const Import *import);

/* conduit_import_sort fills sorted; of records for the same connection the first one stays. */
extern void conduit_import_sort(Import *import);

/*
 * conduit_import_match finds and locks the connections of records that have
 * none yet, with their credentials.  Records for which there is none are left
 * without.  Within conduit_store_begin and _end.
 */
extern void conduit_import_match(const Import *import);

#endif							/* CONDUIT_IMPORT_H */
