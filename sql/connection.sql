-- Connections: one owner's authorized account at a connector.

CREATE TYPE conduit.connection_info AS (
	id uuid, owner text, connector text, account text, account_label text, status text, status_reason text,
	scopes text[], requested_scopes text[], params jsonb, metadata jsonb, has_credential boolean, refreshable boolean,
	expires_at timestamptz, refresh_at timestamptz, last_refreshed_at timestamptz, last_used_at timestamptz,
	last_error text, last_error_code text, last_error_at timestamptz, attempts integer, generation bigint,
	created_at timestamptz, updated_at timestamptz);
COMMENT ON TYPE conduit.connection_info IS 'The one shape of a connection in results';

CREATE FUNCTION @extschema@.conduit_create_connection(owner text, connector text, account text DEFAULT NULL,
	params jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL, tenant text DEFAULT '') RETURNS uuid
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_create_connection(text, text, text, jsonb, jsonb, text) IS
'Creates a connection, ACTIVE and without a credential, and returns its id.

owner: whom it belongs to, a text of your choosing (a user id, a JWT''s sub). account: the provider-side account where it is known. params: an object of strings that fills the connector''s URL templates, each by its pattern. metadata: an object of yours, kept as it is. Ids are time-ordered (RFC 9562, version 7).
Errors: 22023; 23505 connection exists already, for this tenant, owner, connector and account.';

CREATE FUNCTION @extschema@.conduit_get_connection(owner text, connection_id uuid, tenant text DEFAULT '')
RETURNS conduit.connection_info
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_get_connection(text, uuid, text) IS
'Shows one connection of an owner.

Errors: PT404 connection not found, alike for unknown, foreign and deleted ones.';

CREATE FUNCTION @extschema@.conduit_list_connections(owner text, only_connector text DEFAULT NULL,
	only_status text DEFAULT NULL, after uuid DEFAULT NULL, page_size integer DEFAULT 100, tenant text DEFAULT '')
RETURNS SETOF conduit.connection_info
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_list_connections(text, text, text, uuid, integer, text) IS
'Lists an owner''s connections, ordered by id, a page at a time.

owner: NULL for every owner of the tenant, for roles that may vend. only_connector, only_status: restrict the list. after: the last id of the page before. page_size: 1 to 500. last_used_at is exact to the day (UTC).
Errors: 22023; 42501 where owner is NULL and the caller may not vend.';

CREATE FUNCTION @extschema@.conduit_find_connection(owner text, connector text, account text DEFAULT NULL,
	tenant text DEFAULT '') RETURNS uuid
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_find_connection(text, text, text, text) IS
'Finds an owner''s connection that is not revoked by connector and account.

Errors: PT404 connection not found; 22023 where no account is named and there are several.';

CREATE FUNCTION @extschema@.conduit_update_connection(owner text, connection_id uuid, account text DEFAULT NULL,
	params jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL, tenant text DEFAULT '') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_update_connection(text, uuid, text, jsonb, jsonb, text) IS
'Changes what is known of a connection; NULL leaves a field as it is.

params that lead to another host drop the credential, which was made for the former one.
Errors: PT404; PT410 connection revoked; 22023; 23505 connection exists already, with this account.';

CREATE FUNCTION @extschema@.conduit_revoke_connection(owner text, connection_id uuid, tenant text DEFAULT '') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_revoke_connection(text, uuid, text) IS
'Revokes a connection for good: its credential is destroyed, its row stays.

The revocation at the provider (RFC 7009) is queued with the commit, where the connector has a revoke_url. It is not sent while another connection may live on the same grant; a failure is tried again for a week, then an event revocation_failed says so. Revoking again does nothing.
Errors: PT404.';

CREATE FUNCTION @extschema@.conduit_delete_connection(owner text, connection_id uuid, tenant text DEFAULT '') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_delete_connection(text, uuid, text) IS
'Deletes a connection with its credential and queues the revocation at the provider.

The revocation goes as with conduit_revoke_connection().
Errors: PT404.';

CREATE FUNCTION @extschema@.conduit_delete_owner(owner text, tenant text DEFAULT '') RETURNS integer
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_delete_owner(text, text) IS
'Deletes all connections of an owner and returns how many there were.

Each goes as with conduit_delete_connection(): its credential with it, and the revocation at the provider is queued with the commit. The owner''s sessions and API keys end.
Errors: 22023.';

SELECT conduit.settle_rights('conduit_create_connection', 'app');
SELECT conduit.settle_rights('conduit_get_connection', 'app');
SELECT conduit.settle_rights('conduit_list_connections', 'app');
SELECT conduit.settle_rights('conduit_find_connection', 'app');
SELECT conduit.settle_rights('conduit_update_connection', 'app');
SELECT conduit.settle_rights('conduit_revoke_connection', 'app');
SELECT conduit.settle_rights('conduit_delete_connection', 'app');
SELECT conduit.settle_rights('conduit_delete_owner', 'app');
