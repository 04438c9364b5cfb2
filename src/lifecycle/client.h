/*-------------------------------------------------------------------------
 *
 * client.h
 *	  OAuth apps: which client a connection is used under, and its secrets.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_CLIENT_H
#define CONDUIT_CLIENT_H

#include "base/compat.h"
#include "provider/connector.h"
#include "utils/uuid.h"
#include "vault/secret.h"

/* Newest first; more than these are not kept. */
#define CONDUIT_MAX_CLIENT_SECRETS 2

typedef struct ClientSecretBlob
{
	pg_uuid_t	id;
	bytea	   *blob;
	TimestampTz last_success_at;	/* DT_NOEND: never */
} ClientSecretBlob;

typedef struct ConduitClient
{
	char	   *client_id;
	char	   *tenant;			/* the connection's, or '' */
	int			nsecrets;
	ClientSecretBlob secrets[CONDUIT_MAX_CLIENT_SECRETS];
	char	   *environment_secret; /* of a client that stands in the server's
									 * environment; NULL otherwise */
} ConduitClient;

/*
 * conduit_client_find returns the client that a connection of tenant and
 * connector is used under: the one named client_id, or, where that is NULL,
 * the current one; the tenant's goes before ''.  NULL if there is none.
 * Within conduit_store_begin and _end; memory of context.
 */
extern ConduitClient *conduit_client_find(const char *tenant, const char *connector,
										  const char *client_id, MemoryContext context);

extern ConduitClient *conduit_client_copy(const ConduitClient *client, MemoryContext context);

/*
 * conduit_client_from_environment looks for CONDUIT_<SLUG>_CLIENT_ID, which
 * serves built-in connectors and tenant '' where there is no row.  For the
 * worker, whose environment is the server's.
 */
extern ConduitClient *conduit_client_from_environment(const char *tenant, const ConduitConnector *connector,
													  bool builtin, const char *client_id);

/*
 * conduit_client_origin says where everything goes that a connector's client
 * sends: its endpoints' origins as they are written, and what the variables in
 * them may be.  Secrets are bound to it.
 */
extern char *conduit_client_origin(const ConduitConnector *connector);

/* conduit_client_open_secret opens one of the client's secrets. */
extern SealStatus conduit_client_open_secret(const ConduitClient *client, int n,
											 const ConduitConnector *connector,
											 OpenedSecret *opened, ConduitSecret *secret);

/* An app as a new authorization needs it. */
typedef struct ClientApp
{
	char	   *client_id;
	List	   *redirect_uris;	/* char * */
} ClientApp;

/*
 * conduit_client_app finds the app that an authorization is asked under: the
 * tenant's current client, else that of '', else the environment's
 * (CONDUIT_<SLUG>_CLIENT_ID, _REDIRECT_URIS, separated by commas or blanks).
 * False if there is none.
 */
extern bool conduit_client_app(const char *tenant, const ConduitConnector *connector, ClientApp *app);

/*
 * conduit_client_try_again ends the wait of a tenant's connections ('': of
 * everybody's) that failed for our own misconfiguration: it may have been mended.
 */
extern void conduit_client_try_again(const char *connector, const char *tenant);

/* The client_id a new credential is recorded under, or NULL if none is set. */
extern char *conduit_client_current_id(const char *tenant, const char *connector);

#endif							/* CONDUIT_CLIENT_H */
