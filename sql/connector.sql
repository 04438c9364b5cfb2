-- Connectors: definitions of providers.

-- The install script gives all built-in connectors, an upgrade those that it
-- adds, changes or retires; none is ever removed.  What extends another is
-- merged with it anew, connectors of users' own too.
CREATE FUNCTION conduit.settle_catalogue(definitions jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	LOCK TABLE conduit.connector IN SHARE ROW EXCLUSIVE MODE;

	INSERT INTO conduit.connector AS c (slug, extends, definition, resolved, builtin, retired)
	SELECT d.key, d.value ->> 'extends', d.value - 'retired', d.value - '{extends,retired}'::text[],
		true, COALESCE((d.value ->> 'retired')::boolean, false)
	FROM jsonb_each(definitions) d
	ON CONFLICT (slug) DO UPDATE SET extends = EXCLUDED.extends, definition = EXCLUDED.definition,
		resolved = EXCLUDED.resolved, retired = EXCLUDED.retired, revision = EXCLUDED.revision,
		updated_at = EXCLUDED.updated_at
	-- a user's own connector keeps a slug that has become one of ours
	WHERE c.builtin AND (c.definition <> EXCLUDED.definition OR c.retired <> EXCLUDED.retired);

	WITH RECURSIVE chain AS (
		SELECT c.slug, c.definition - 'extends' AS resolved FROM conduit.connector c WHERE c.extends IS NULL
		UNION ALL
		SELECT c.slug, b.resolved || (c.definition - 'extends')
		FROM chain b JOIN conduit.connector c ON c.extends = b.slug)
	UPDATE conduit.connector c SET resolved = r.resolved, revision = nextval('conduit.connector_revision'),
		updated_at = clock_timestamp()
	FROM chain r WHERE r.slug = c.slug AND r.resolved <> c.resolved;
END
$$;
COMMENT ON FUNCTION conduit.settle_catalogue(jsonb) IS
'Adds, changes and retires built-in connectors: an object of definitions by slug';

-- A dump has connectors of users' own.  Restored where a newer version has one
-- of that slug built in, the user's takes its place, as it does in an upgrade.
CREATE FUNCTION conduit.yield_slug() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM conduit.connector WHERE slug = NEW.slug AND builtin;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION conduit.yield_slug() IS 'Lets a user''s own connector take the place of a built-in one of the same slug';
CREATE TRIGGER yield_slug BEFORE INSERT ON conduit.connector
	FOR EACH ROW WHEN (NOT NEW.builtin) EXECUTE FUNCTION conduit.yield_slug();

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

slug: up to 63 lower-case letters and digits, a letter first, with single hyphens or underscores between. definition: an object with the fields of docs/connectors.md; "extends" names another connector whose fields it takes over and overrides. Connections see the new definition at once, and those whose refresh failed for our own configuration are tried again. A token_url of another origin cannot be reached with secrets stored before: their seals are bound to the old one.
Errors: 22023 invalid connector definition, its DETAIL beginning with the field; 42501 connector is built in.';

CREATE FUNCTION @extschema@.conduit_drop_connector(slug text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_drop_connector(text) IS
'Removes a connector of your own.

A WARNING says how many revocations at its provider are still queued: they are given up.
Errors: 22023 unknown connector; 42501 connector is built in; 23503 connector is in use, by connections, clients or connectors that extend it.';

CREATE FUNCTION @extschema@.conduit_discover(issuer text) RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_discover(text) IS
'Makes a connector''s definition of what an authorization server says of itself (RFC 8414, OpenID Connect Discovery).

issuer: its URL. The worker fetches <issuer>/.well-known/openid-configuration, or else the document of RFC 8414, within conduit.request_timeout; it must name this very issuer. The result is for conduit_register_connector(), as it is or with fields added: what the metadata does not say, such as api_base_url or whether refresh tokens rotate, is left to its default.
Errors: 22023 invalid issuer, invalid connector definition; PT502 bad provider response (DETAIL issuer_mismatch, bad_json, no_token_endpoint, no_grant, no_client_auth, http_ and the status); PT504 provider unavailable; PT500 conduit worker is not running, vault is locked.';

SELECT conduit.settle_rights('conduit_discover', 'admin');
SELECT conduit.settle_rights('conduit_connectors', 'monitor');
SELECT conduit.settle_rights('conduit_register_connector', 'admin');
SELECT conduit.settle_rights('conduit_drop_connector', 'admin');
