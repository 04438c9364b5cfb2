-- What is in a facade: functions made from those outside of it, which take the
-- owner from a proven identity and never from an argument.
--
-- A facade's function has the name and the arguments of its equal, less owner
-- and tenant.  It lets the caller in (conduit.enter()), calls its equal, and
-- hands on.  It is plpgsql with built-in types alone, so that a dump of its
-- schema can be restored where Conduit is not, and uses nothing of its schema
-- but the domain "*/*", which is made here.

-- What a facade offers of functions that there are outside.  need: what the
-- caller must be (conduit.enter()).  reads: it writes nothing, so that GET and
-- replicas can call it.  checks: what else is asked; %1$L is the schema, %2$L
-- the tenant.
CREATE FUNCTION conduit.facade_functions(OUT name text, OUT need text, OUT reads boolean, OUT checks text)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	VALUES
		('conduit_connectors', 'nobody', true, NULL),
		('conduit_get_connection', 'owner', true, NULL),
		('conduit_list_connections', 'owner or backend', true, NULL),
		('conduit_find_connection', 'owner', true, NULL),
		('conduit_revoke_connection', 'owner', false, NULL),
		('conduit_delete_connection', 'owner', false, NULL),
		('conduit_authorize', 'owner', false, NULL),
		('conduit_authorize_callback', 'owner', false, NULL),
		('conduit_request', 'owner', false,
			'conduit.check_browser_request(%1$L, who.backend, who.owner, connection_id, method, path)'),
		('conduit_create_connection', 'backend for owner', false, NULL),
		('conduit_update_connection', 'backend for owner', false, NULL),
		('conduit_delete_owner', 'backend for owner', false, NULL),
		('conduit_store_credential', 'backend', false,
			'conduit.check_connection_owner(%2$L, who.owner, connection_id)'),
		('conduit_import', 'backend', false, 'conduit.check_nobodys(who.owner)'),
		('conduit_vend', 'backend for owner', true, NULL),
		('conduit_vend_many', 'backend for owner', true,
			'conduit.check_connectors(%2$L, who.key_id, ''vend_many'', who.owner, connection_ids)'),
		('conduit_refresh', 'backend for owner', false, NULL),
		('conduit_rate_take', 'backend for owner', false, NULL),
		('conduit_rate_report', 'backend for owner', false, NULL),
		('conduit_events_after', 'backend', true, 'conduit.check_nobodys(who.owner)'),
		('conduit_open_session', 'backend for owner', false, NULL),
		('conduit_session', 'backend', true, 'conduit.check_session_owner(%2$L, who.owner, session_key)'),
		('conduit_close_session', 'backend', false, NULL)
$$;
COMMENT ON FUNCTION conduit.facade_functions() IS 'What a facade offers, of functions that have an equal outside of it';

-- ---- what facades' functions call ----

-- The headers of an answer, after those that are set already.
CREATE FUNCTION conduit.answer_headers(more jsonb DEFAULT '[]') RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	headers jsonb := COALESCE(NULLIF(pg_catalog.current_setting('response.headers', true), ''), '[]');
BEGIN
	IF NOT headers @> '[{"Cache-Control": "no-store"}]' THEN
		headers := headers || '[{"Cache-Control": "no-store"}]';
	END IF;
	PERFORM pg_catalog.set_config('response.headers', (headers || more)::pg_catalog.text, true);
END
$$;
COMMENT ON FUNCTION conduit.answer_headers(jsonb) IS 'Adds headers to a web answer, no-store among them';

CREATE FUNCTION conduit.called_from_web(name text) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'conduit_called_from_web';
COMMENT ON FUNCTION conduit.called_from_web(text) IS 'Whether PostgREST called this function of a facade itself, and no function of the application''s';

CREATE FUNCTION conduit.answer_error(name text, state text, message text, detail text, hint text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'conduit_answer_error';
COMMENT ON FUNCTION conduit.answer_error(text, text, text, text, text) IS
'Raises an error again in the form that has headers, where the answer is the web''s; else returns';

CREATE FUNCTION conduit.forbid(detail text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE SQLSTATE 'PT403' USING MESSAGE = 'forbidden', DETAIL = detail, HINT = 'Present a key or a token that may do this.';
END
$$;
COMMENT ON FUNCTION conduit.forbid(text) IS 'Raises PT403 as conduit.enter() does';

-- For what concerns all owners of a tenant.
CREATE FUNCTION conduit.check_nobodys(owner text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF owner IS NOT NULL THEN
		PERFORM conduit.forbid('owner');
	END IF;
END
$$;
COMMENT ON FUNCTION conduit.check_nobodys(text) IS 'Raises PT403 to a backend that acts for an owner';

-- For functions that are called without an owner: PT404 for another's connection.
CREATE FUNCTION conduit.check_connection_owner(tenant text, owner text, connection_id uuid) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF owner IS NOT NULL THEN
		PERFORM FROM @extschema@.conduit_get_connection(owner, connection_id, tenant);
	END IF;
END
$$;
COMMENT ON FUNCTION conduit.check_connection_owner(text, text, uuid) IS 'Raises PT404 for a connection that is not the owner''s';

-- The same for sessions.  A foreign session is like none.
CREATE FUNCTION conduit.check_session_owner(tenant text, owner text, session_key text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF owner <> (SELECT s.owner FROM @extschema@.conduit_session(session_key, tenant) s) THEN
		RAISE SQLSTATE 'PT401' USING MESSAGE = 'unauthorized', HINT = 'Present a valid API key, session or token.';
	END IF;
END
$$;
COMMENT ON FUNCTION conduit.check_session_owner(text, text, text) IS 'Raises PT401 for a session that is not the owner''s';

-- The scopes of a key, where a call names several connections.
CREATE FUNCTION conduit.check_connectors(tenant text, key_id uuid, action text, owner text, connection_ids uuid[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	connector text;
BEGIN
	FOR connector IN
		SELECT DISTINCT n.connector FROM conduit.connection n
		WHERE n.id = ANY (connection_ids) AND n.tenant = check_connectors.tenant AND n.owner = check_connectors.owner
	LOOP
		IF EXISTS (SELECT FROM conduit.api_key k WHERE k.id = key_id AND NOT k.scopes && ARRAY['*', '*:*', '*:' || connector,
			action, action || ':*', action || ':' || connector])
		THEN
			PERFORM conduit.forbid('scope');
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION conduit.check_connectors(text, uuid, text, text, uuid[]) IS
'Raises PT403 if a key is not good for the connectors of these connections';

-- A pattern of options.browser_request: * is a segment, ** at the end any number
-- of them.  What providers may read as something else than it looks like
-- (encoded separators, dots, parameters of segments) matches no pattern.
CREATE FUNCTION conduit.path_matches(path text, pattern text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT path !~* '%(2e|2f|5c|00|3b|25)|[;\\?#[:cntrl:]]|//|(^|/)\.{1,2}(/|$)'
		AND path ~ ('^' || pg_catalog.regexp_replace(pg_catalog.regexp_replace(pg_catalog.regexp_replace(pattern,
			'([^A-Za-z0-9_/*])', '\\\1', 'g'), '\*\*$', '.+'), '\*(?=/|$)', '[^/]+', 'g') || '$')
$$;
COMMENT ON FUNCTION conduit.path_matches(text, text) IS 'Whether a path matches a pattern of options.browser_request';

CREATE FUNCTION conduit.check_browser_request(schema_name text, backend boolean, owner text, connection_id uuid, method text, path text)
RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	facade conduit.facade;
	connector text;
BEGIN
	IF backend THEN
		RETURN;
	END IF;
	SELECT f.* INTO facade FROM conduit.facade f WHERE f.schema_name = check_browser_request.schema_name;
	SELECT n.connector INTO connector FROM conduit.connection n
	WHERE n.id = connection_id AND n.tenant = facade.tenant AND n.owner = check_browser_request.owner;
	IF connector IS NULL THEN
		RETURN;		-- to be answered as not found
	END IF;
	IF NOT EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(COALESCE(facade.options -> 'browser_request', '[]')) r
		WHERE r.value ->> 'method' = method AND COALESCE(r.value ->> 'connector', connector) = connector
			AND conduit.path_matches(path, r.value ->> 'path'))
	THEN
		PERFORM conduit.forbid('browser_request');
	END IF;
END
$$;
COMMENT ON FUNCTION conduit.check_browser_request(text, boolean, text, uuid, text, text) IS
'Raises PT403 for what browsers may not ask a provider';

-- What a tenant may know of the state of things.
CREATE FUNCTION conduit.tenant_health(tenant text, OUT ok boolean, OUT version text, OUT worker text, OUT needs_reauth bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	SELECT h.ok, h.version, h.worker INTO ok, version, worker FROM @extschema@.conduit_health() h;
	SELECT pg_catalog.count(*) INTO needs_reauth FROM conduit.connection n
	WHERE n.status = 'NEEDS_REAUTH' AND n.tenant = tenant_health.tenant;
END
$$;
COMMENT ON FUNCTION conduit.tenant_health(text) IS 'The health of Conduit, as a tenant may know it';

CREATE FUNCTION conduit.make_token(schema_name text, key_id uuid, OUT access_token text, OUT token_type text, OUT expires_in integer)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'conduit_make_token';
COMMENT ON FUNCTION conduit.make_token(text, uuid) IS 'Signs a token for the owner of an API key with the facade''s JWT key';

-- ---- their texts ----

-- By its first line, and by its owner, a function is known as made here.
CREATE FUNCTION conduit.facade_mark() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT E'\n-- Made by conduit_expose(), and made anew by ALTER EXTENSION conduit UPDATE: do not change it.\n'
$$;
COMMENT ON FUNCTION conduit.facade_mark() IS 'How the body of each function of a facade begins';

-- The frame that a function's body has.
CREATE FUNCTION conduit.facade_body(schema_name text, action text, need text, connection text, connector text, body text)
RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT conduit.facade_mark() || pg_catalog.format($body$#variable_conflict use_variable
DECLARE
	who record;
	error_detail text;
	error_hint text;
BEGIN
	SELECT e.* INTO who FROM conduit.enter(%L, %L, %L, %s, %s) e;
	PERFORM conduit.answer_headers();
	%s
EXCEPTION
	WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS error_detail = PG_EXCEPTION_DETAIL, error_hint = PG_EXCEPTION_HINT;
		PERFORM conduit.answer_error(%L, SQLSTATE, SQLERRM, error_detail, error_hint);
		RAISE;
END
$body$, schema_name, action, need, COALESCE(connection, 'NULL'), COALESCE(connector, 'NULL'), body, 'conduit_' || action)
$$;
COMMENT ON FUNCTION conduit.facade_body(text, text, text, text, text, text) IS 'The body of a facade''s function, around what it does';

-- One function, made from its equal outside.  inputs: the types of its arguments.
CREATE FUNCTION conduit.facade_function(schema_name text, tenant text, entry record,
	OUT inputs text, OUT arguments text, OUT result text, OUT body text, OUT comment text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	core pg_catalog.pg_proc;
	columns text;
	column_names text;
	column_list text[];
	input_names text[];
	call text;
BEGIN
	SELECT p.* INTO STRICT core FROM pg_catalog.pg_proc p
	WHERE p.proname = entry.name AND p.pronamespace = '@extschema@'::pg_catalog.regnamespace;

	-- What goes out: columns, a value, or nothing.
	SELECT pg_catalog.string_agg(pg_catalog.format('%I %s', a.name, pg_catalog.format_type(a.type, NULL)), ', ' ORDER BY a.place),
		pg_catalog.string_agg(pg_catalog.quote_ident(a.name), ', ' ORDER BY a.place), pg_catalog.array_agg(a.name::text)
	INTO columns, column_names, column_list
	FROM (SELECT a.name, a.type, a.place
			FROM unnest(core.proargnames, core.proallargtypes, core.proargmodes) WITH ORDINALITY a (name, type, mode, place)
			WHERE a.mode = 'o'
		UNION ALL
		SELECT a.attname, a.atttypid, a.attnum FROM pg_catalog.pg_type t
			JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
			WHERE t.oid = core.prorettype AND t.typtype = 'c') a;

	-- What comes in: all but owner and tenant, with the defaults they have.  A
	-- name that goes out, too, cannot come in (conduit_events_after(seq)).
	SELECT pg_catalog.string_agg(pg_catalog.format('%I %s%s', a.given_name, pg_catalog.format_type(a.type, NULL),
				COALESCE(' DEFAULT ' || pg_catalog.pg_get_function_arg_default(core.oid, a.place::pg_catalog.int4), '')), ', ' ORDER BY a.place)
			FILTER (WHERE a.name NOT IN ('owner', 'tenant')),
		COALESCE(pg_catalog.string_agg(pg_catalog.format_type(a.type, NULL), ', ' ORDER BY a.place) FILTER (WHERE a.name NOT IN ('owner', 'tenant')), ''),
		pg_catalog.string_agg(CASE a.name WHEN 'owner' THEN 'owner => who.owner'
				WHEN 'tenant' THEN pg_catalog.format('tenant => %L', tenant)
				ELSE pg_catalog.format('%I => %I', a.name, a.given_name) END, ', ' ORDER BY a.place),
		pg_catalog.array_agg(a.name)
	INTO arguments, inputs, call, input_names
	FROM (SELECT a.name, a.type, a.place,
			CASE WHEN a.name = ANY (column_list) THEN 'after_' || a.name ELSE a.name END AS given_name
		FROM unnest(core.proargnames[1:core.pronargs], core.proargtypes::oid[]) WITH ORDINALITY a (name, type, place)
		WHERE core.pronargs > 0) a;

	call := pg_catalog.format('@extschema@.%I(%s)', entry.name, call);
	IF columns IS NULL THEN
		result := pg_catalog.format('RETURNS %s', pg_catalog.format_type(core.prorettype, NULL));
		body := CASE core.prorettype WHEN 'pg_catalog.void'::pg_catalog.regtype THEN pg_catalog.format('PERFORM %s;', call)
			ELSE pg_catalog.format('RETURN %s;', call) END;
	ELSIF core.proretset THEN
		result := pg_catalog.format('RETURNS TABLE (%s)', columns);
		body := pg_catalog.format('RETURN QUERY SELECT f.* FROM %s f;', call);
	ELSE
		arguments := pg_catalog.concat_ws(', ', arguments, 'OUT ' || pg_catalog.replace(columns, ', ', ', OUT '));
		result := '';
		body := pg_catalog.format('SELECT f.* INTO STRICT %s FROM %s f;', column_names, call);
	END IF;
	IF entry.checks IS NOT NULL THEN
		body := pg_catalog.format('PERFORM ' || entry.checks || E';\n\t', schema_name, tenant) || body;
	END IF;
	body := conduit.facade_body(schema_name, pg_catalog.substr(entry.name, 9), entry.need,
		CASE WHEN 'connection_id' = ANY (input_names) THEN 'connection_id' END,
		CASE WHEN 'connector' = ANY (input_names) THEN 'connector' WHEN 'only_connector' = ANY (input_names) THEN 'only_connector'
			-- Each is looked at by conduit.check_connectors().
			WHEN 'connection_ids' = ANY (input_names) THEN '''*''' END,
		body);
	arguments := COALESCE(arguments, '');
	comment := pg_catalog.obj_description(core.oid, 'pg_proc');
END
$$;
COMMENT ON FUNCTION conduit.facade_function(text, text, record) IS 'A function of a facade, made from its equal outside';

-- All functions that a facade has.
CREATE FUNCTION conduit.facade_texts(schema_name text, tenant text, OUT name text, OUT need text, OUT reads boolean,
	OUT inputs text, OUT arguments text, OUT result text, OUT body text, OUT comment text)
RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	entry record;
BEGIN
	FOR entry IN SELECT f.* FROM conduit.facade_functions() f LOOP
		name := entry.name;
		need := entry.need;
		reads := entry.reads;
		SELECT f.* INTO STRICT inputs, arguments, result, body, comment FROM conduit.facade_function(schema_name, tenant, entry) f;
		RETURN NEXT;
	END LOOP;

	name := 'conduit_preview';
	need := 'owner';
	reads := true;
	inputs := 'uuid, text, text, jsonb';
	arguments := 'connection_id uuid, path text, url_path text, query jsonb DEFAULT NULL';
	result := pg_catalog.format('RETURNS %I."*/*"', schema_name);
	-- A JSON argument of a GET may come as a string.  What comes from elsewhere
	-- must not act on the facade's own origin.
	body := conduit.facade_body(schema_name, 'preview', need, 'connection_id', NULL, pg_catalog.format(
'SELECT p.content_type, p.body INTO STRICT who FROM @extschema@.conduit_preview(who.owner, connection_id, path, url_path,
		CASE pg_catalog.jsonb_typeof(query) WHEN ''string'' THEN (query OPERATOR(pg_catalog.#>>) ''{}'')::pg_catalog.jsonb ELSE query END, %L) p;
	PERFORM conduit.answer_headers(pg_catalog.jsonb_build_array(
		pg_catalog.jsonb_build_object(''Content-Type'', who.content_type),
		pg_catalog.jsonb_build_object(''X-Content-Type-Options'', ''nosniff''),
		pg_catalog.jsonb_build_object(''Content-Security-Policy'', ''default-src ''''none''''; sandbox''),
		pg_catalog.jsonb_build_object(''Cross-Origin-Resource-Policy'', ''same-site'')));
	RETURN who.body;', tenant));
	comment := 'Hands out a file that the provider hands out by a presigned URL, without the URL.

By GET, the cookie __Host-conduit-session counts, too. The body is the file, with its media type.';
	RETURN NEXT;

	inputs := '';
	need := 'nobody';
	name := 'conduit_health';
	arguments := 'OUT ok boolean, OUT version text, OUT worker text, OUT needs_reauth bigint';
	result := '';
	body := conduit.facade_body(schema_name, 'health', need, NULL, NULL,
		pg_catalog.format('SELECT h.* INTO STRICT ok, version, worker, needs_reauth FROM conduit.tenant_health(%L) h;', tenant));
	comment := 'Says whether Conduit is well.

needs_reauth: how many connections of this tenant wait for their owners.';
	RETURN NEXT;

	name := 'conduit_token';
	need := 'key';
	reads := false;
	arguments := 'OUT access_token text, OUT token_type text, OUT expires_in integer';
	body := conduit.facade_body(schema_name, 'token', need, NULL, NULL,
		pg_catalog.format('SELECT t.* INTO STRICT access_token, token_type, expires_in FROM conduit.make_token(%L, who.key_id) t;', schema_name));
	comment := 'Changes an API key in X-Conduit-Key for a short-lived token.

The token is for the key''s owner, with the role of option token_role.';
	RETURN NEXT;

	reads := true;
	need := 'nobody';
	inputs := 'text';
	name := 'conduit_require_key';
	arguments := 'scope text DEFAULT NULL, OUT key_id uuid, OUT owner text, OUT scopes text[]';
	body := conduit.facade_mark() || pg_catalog.format(
'#variable_conflict use_variable
BEGIN
	SELECT k.* INTO STRICT key_id, owner, scopes FROM conduit.require_key(%L, scope) k;
	IF conduit.called_from_web(''conduit_require_key'') THEN
		PERFORM conduit.answer_headers();
	END IF;
END
', schema_name);
	comment := 'Passes if this request has a valid API key in X-Conduit-Key, with a scope where one is named.';
	RETURN NEXT;

	name := 'conduit_require_backend';
	arguments := 'scope text DEFAULT NULL';
	result := 'RETURNS void';
	body := conduit.facade_mark() || pg_catalog.format(
'BEGIN
	PERFORM conduit.require_backend(%L, scope);
	IF conduit.called_from_web(''conduit_require_backend'') THEN
		PERFORM conduit.answer_headers();
	END IF;
END
', schema_name);
	comment := 'Passes if this request comes from a backend: with a valid API key, or a proven JWT of a trusted caller.';
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION conduit.facade_texts(text, text) IS 'All functions that a facade has';
