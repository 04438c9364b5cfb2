-- API keys: servers that ask.

CREATE FUNCTION @extschema@.conduit_create_api_key(owner text, name text, scopes text[], expires_at timestamptz DEFAULT NULL,
	tenant text DEFAULT '', OUT id uuid, OUT api_key text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_create_api_key(text, text, text[], timestamptz, text) IS
'Makes a server-to-server key and shows it, this once.

owner: whom the key acts for; NULL: a backend that may act for any owner of the tenant. name: for people. scopes: actions it may do, each the name of a facade''s function without conduit_ ("vend"), or that on one connector ("vend:github"); "*" stands for any of either. expires_at: NULL for never. The key is "cdt_" and 71 characters; the table has a MAC of it. It is presented in the header X-Conduit-Key.
Errors: 22023 invalid owner, name, scopes, expires_at; PT500 vault is locked, conduit worker is not running.';

CREATE FUNCTION @extschema@.conduit_rotate_api_key(owner text, id uuid, grace interval DEFAULT NULL, tenant text DEFAULT '',
	OUT new_id uuid, OUT api_key text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_rotate_api_key(text, uuid, interval, text) IS
'Makes a new key of the same name, owner, scopes and end, and ends the old one after a grace.

owner: as the key was made. grace: at most 30 days; NULL: the old key ends with the commit.
Errors: PT404 API key not found, also for one that is over; 22023 invalid grace; PT500 vault is locked.';

CREATE FUNCTION @extschema@.conduit_revoke_api_key(owner text, id uuid, tenant text DEFAULT '') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_revoke_api_key(text, uuid, text) IS
'Ends a key: in every session as soon as this commits.

owner: as the key was made. Revoking again does nothing.
Errors: PT404 API key not found.';

CREATE FUNCTION @extschema@.conduit_list_api_keys(owner text DEFAULT NULL, tenant text DEFAULT '',
	OUT id uuid, OUT key_owner text, OUT name text, OUT scopes text[], OUT created_at timestamptz, OUT expires_at timestamptz,
	OUT revoked_at timestamptz, OUT rotated_from uuid, OUT last_used_at timestamptz)
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT k.id, k.owner, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.rotated_from, k.last_used_at
	FROM conduit.api_key k
	WHERE k.tenant = COALESCE(conduit_list_api_keys.tenant, '')
		AND (conduit_list_api_keys.owner IS NULL OR k.owner = conduit_list_api_keys.owner)
	ORDER BY k.id
$$;
COMMENT ON FUNCTION @extschema@.conduit_list_api_keys(text, text) IS
'Lists a tenant''s API keys without their secrets.

owner: NULL for all of the tenant''s. last_used_at: to the minute, written by the worker.';

SELECT conduit.settle_rights('conduit_create_api_key', 'admin');
SELECT conduit.settle_rights('conduit_rotate_api_key', 'admin');
SELECT conduit.settle_rights('conduit_revoke_api_key', 'admin');
SELECT conduit.settle_rights('conduit_list_api_keys', 'admin');
