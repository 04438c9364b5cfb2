-- Clients: the OAuth apps under which connectors are used.

CREATE FUNCTION @extschema@.conduit_set_client(connector text, client_id text, client_secret text DEFAULT NULL,
	redirect_uris text[] DEFAULT NULL, tenant text DEFAULT '') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_set_client(text, text, text, text[], text) IS
'Sets the OAuth client under which new grants of a connector are made.

client_secret: sealed, bound to the origins of the connector''s endpoints that it is sent to; a private key in PEM form, without a password, where client_auth is private_key_jwt, which is checked and never sent; NULL for connectors whose client_auth is none. Set again for the same client_id, the two newest secrets are kept: where the provider says invalid_client to one, the other is tried, so that a secret can be rotated without a gap. redirect_uris: absolute URIs without fragment (RFC 6749, 3.1.2); NULL keeps those there are. A former client_id stays for the connections issued under it. A tenant''s client goes before that of tenant ''''. Connections of the connector whose refresh failed for our own configuration are tried again at once. Bind the secret as a parameter.
Errors: 22023 connector takes no client, invalid client_secret (DETAIL blank, private_key, too_long), and others; PT500 vault is locked, conduit worker is not running.';

CREATE FUNCTION @extschema@.conduit_retire_client(connector text, client_id text, tenant text DEFAULT '') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_retire_client(text, text, text) IS
'Removes a client and its secrets.

A WARNING says how many revocations at the provider are still queued under it, which can only be sent if it is set again.
Errors: 22023 unknown client; 23503 client is in use: connections issued under it can be refreshed with no other.';

CREATE FUNCTION @extschema@.conduit_clients(tenant text DEFAULT '',
	OUT connector text, OUT client_id text, OUT is_current boolean, OUT redirect_uris text[], OUT secrets integer,
	OUT last_success_at timestamptz, OUT connections bigint, OUT created_at timestamptz, OUT updated_at timestamptz)
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.connector, c.client_id, c.current, c.redirect_uris,
		(SELECT pg_catalog.count(*)::pg_catalog.int4 FROM conduit.client_secret s WHERE s.client = c.id),
		(SELECT pg_catalog.max(s.last_success_at) FROM conduit.client_secret s WHERE s.client = c.id),
		(SELECT pg_catalog.count(*) FROM conduit.connection n
		 WHERE n.connector = c.connector AND n.client_id = c.client_id AND n.status <> 'REVOKED'
			AND EXISTS (SELECT FROM conduit.credential d WHERE d.connection_id = n.id)
			AND (n.tenant = c.tenant OR c.tenant = '')),
		c.created_at, c.updated_at
	FROM conduit.client c WHERE c.tenant = COALESCE(conduit_clients.tenant, '') ORDER BY c.connector, c.created_at
$$;
COMMENT ON FUNCTION @extschema@.conduit_clients(text) IS
'Lists a tenant''s OAuth clients without their secrets.

secrets: how many are held. last_success_at: of the newest success with one of them, exact to the hour. connections: those issued under the client that are not revoked.';

SELECT conduit.settle_rights('conduit_set_client', 'admin');
SELECT conduit.settle_rights('conduit_retire_client', 'admin');
SELECT conduit.settle_rights('conduit_clients', 'admin');
