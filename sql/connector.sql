-- Connectors: definitions of providers.

CREATE FUNCTION @extschema@.conduit_connectors(
	OUT slug text, OUT name text, OUT auth_type text, OUT extends text, OUT builtin boolean, OUT retired boolean,
	OUT definition jsonb)
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT slug, resolved ->> 'name', resolved ->> 'auth_type', extends, builtin, retired, resolved
	FROM conduit.connector ORDER BY slug
$$;
COMMENT ON FUNCTION @extschema@.conduit_connectors() IS
'Lists the connectors there are, by slug; no secrets.

definition is the connector''s definition, merged with the one it extends. A retired connector serves the connections it has and takes no new ones.';

CREATE FUNCTION @extschema@.conduit_register_connector(slug text, definition jsonb) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_register_connector(text, jsonb) IS
'Registers a connector of your own, or replaces one.

slug: up to 63 lower-case letters and digits, a letter first, with single hyphens or underscores between. definition: an object with the fields of docs/connectors.md; "extends" names another connector whose fields it takes over and overrides. Connections see the new definition at once. A token_url of another origin cannot be reached with secrets stored before: their seals are bound to the old one.
Errors: 22023 invalid connector definition, its DETAIL beginning with the field; 42501 connector is built in.';

CREATE FUNCTION @extschema@.conduit_drop_connector(slug text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_drop_connector(text) IS
'Removes a connector of your own.

Errors: 22023 unknown connector; 42501 connector is built in; 23503 connector is in use, by connections, clients or connectors that extend it.';

SELECT conduit.settle_rights('conduit_connectors', 'monitor');
SELECT conduit.settle_rights('conduit_register_connector', 'admin');
SELECT conduit.settle_rights('conduit_drop_connector', 'admin');
