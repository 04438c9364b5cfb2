-- Facades: conduit_expose() and conduit_unexpose(), and what becomes of a
-- facade when its schema is dropped or the extension is updated.
-- facade_functions.sql has what is in one.

-- A Flux tenant's schema: t_<12 hex>_api.
CREATE FUNCTION conduit.is_flux_schema(schema_name text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT schema_name ~ '^t_[0-9a-f]{12}_api$'
$$;
COMMENT ON FUNCTION conduit.is_flux_schema(text) IS 'Whether a schema is one of a Flux tenant';

CREATE FUNCTION conduit.bad_option(name text, problem text, hint text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'invalid options' USING ERRCODE = '22023', DETAIL = name || ' ' || problem, HINT = hint;
END
$$;
COMMENT ON FUNCTION conduit.bad_option(text, text, text) IS 'Raises 22023 for an option of conduit_expose()';

-- Roles that options name: there, and not such that a facade adds nothing to what they may.
CREATE FUNCTION conduit.check_option_roles(options jsonb, name text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(options -> name) e
		WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles r
			WHERE r.rolname = e.value #>> '{}' AND NOT r.rolsuper AND r.rolname !~ '^pg_'))
	THEN
		PERFORM conduit.bad_option(name, 'role', 'Each is the name of an existing role that is no superuser and none of PostgreSQL''s own.');
	END IF;
END
$$;
COMMENT ON FUNCTION conduit.check_option_roles(jsonb, text) IS 'Checks an option that is an array of roles';

-- The application's function of further owners, as it is kept: with its schema.
CREATE FUNCTION conduit.check_option_owners(func_name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	func regprocedure;
	result text;
BEGIN
	BEGIN
		func := pg_catalog.to_regprocedure(func_name || '(text)');
	EXCEPTION
		WHEN OTHERS THEN
			func := NULL;	-- no name at all
	END;
	SELECT pg_catalog.format('%I.%I', n.nspname, p.proname) INTO result
	FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
	WHERE p.oid = func AND p.prokind = 'f' AND p.proretset AND p.prorettype = 'pg_catalog.text'::pg_catalog.regtype;
	IF result IS NULL THEN
		PERFORM conduit.bad_option('owners', 'function', 'Name a function (text) that returns setof text, with its schema: it takes a subject and returns the further owners that the subject may act as.');
	END IF;
	RETURN result;
END
$$;
COMMENT ON FUNCTION conduit.check_option_owners(text) IS 'Checks option owners and returns it with its schema';

-- Raises 22023 for options that are not right; returns them as they are kept.
CREATE FUNCTION conduit.check_facade_options(schema_name text, options jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	types CONSTANT jsonb := '{"tenant": "string", "roles": "array", "backend_roles": "array", "owner_claim": "string",
		"jwt_audience": "string", "trust_claims": "boolean", "owners": "string", "browser_request": "array",
		"token_role": "string", "token_ttl": "number"}';
	available CONSTANT text := 'Available options are tenant, roles, backend_roles, owner_claim, jwt_audience, trust_claims, owners, browser_request, token_role and token_ttl.';
	option record;
BEGIN
	IF pg_catalog.jsonb_typeof(options) <> 'object' THEN
		PERFORM conduit.bad_option('options', 'object', available);
	END IF;
	FOR option IN SELECT o.key, o.value FROM pg_catalog.jsonb_each(options) o LOOP
		IF NOT types ? option.key THEN
			PERFORM conduit.bad_option(CASE WHEN option.key ~ '^[a-z_]{1,63}$' THEN option.key ELSE 'options' END, 'unknown', available);
		END IF;
		IF pg_catalog.jsonb_typeof(option.value) <> types ->> option.key THEN
			PERFORM conduit.bad_option(option.key, types ->> option.key, 'The detail names the option and the type it has in JSON.');
		END IF;
		IF types ->> option.key = 'string' AND option.value #>> '{}' !~ '^[^[:cntrl:]]{1,255}$' AND option.key <> 'tenant' THEN
			PERFORM conduit.bad_option(option.key, 'text', 'It has 1 to 255 characters, none of them a control character.');
		END IF;
	END LOOP;

	IF conduit.is_flux_schema(schema_name) THEN
		IF options ? 'tenant' AND options ->> 'tenant' <> schema_name THEN
			PERFORM conduit.bad_option('tenant', 'fixed', 'A schema of a Flux tenant is a tenant of its own, named like the schema.');
		END IF;
		IF options ? 'roles' OR options ? 'backend_roles' THEN
			PERFORM conduit.bad_option('roles', 'fixed', 'In a schema of a Flux tenant they are the tenant''s own.');
		END IF;
		IF (options ->> 'trust_claims')::boolean THEN
			PERFORM conduit.bad_option('trust_claims', 'shared',
				'Functions of other tenants could set the claims there. Set the keys that prove tokens with conduit_set_jwt_key().');
		END IF;
	ELSIF COALESCE(options ->> 'tenant', '') !~ '^[^[:cntrl:]]{0,255}$' OR conduit.is_flux_schema(options ->> 'tenant') THEN
		PERFORM conduit.bad_option('tenant', 'text', 'It has at most 255 characters and is not that of a Flux tenant''s schema.');
	END IF;
	PERFORM conduit.check_option_roles(options, 'roles');
	PERFORM conduit.check_option_roles(options, 'backend_roles');
	IF options ? 'token_role' THEN
		PERFORM conduit.check_option_roles(pg_catalog.jsonb_build_object('token_role', pg_catalog.jsonb_build_array(options -> 'token_role')), 'token_role');
	END IF;
	IF (options ->> 'token_ttl')::numeric NOT BETWEEN 10 AND 3600 OR (options ->> 'token_ttl')::numeric % 1 <> 0 THEN
		PERFORM conduit.bad_option('token_ttl', 'range 10 3600', 'It is in whole seconds.');
	END IF;
	IF EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(options -> 'browser_request') e
		WHERE CASE WHEN pg_catalog.jsonb_typeof(e.value) <> 'object' THEN true
			ELSE e.value - '{method,path,connector}'::text[] <> '{}'
				OR COALESCE(e.value ->> 'method', '') !~ '^(GET|HEAD|POST|PUT|PATCH|DELETE)$'
				OR COALESCE(e.value ->> 'path', '') !~ '^(/(\*|[A-Za-z0-9._~!$&''()+,=:@-]+))*(/(\*\*)?)?$' OR e.value ->> 'path' = '' END)
	THEN
		PERFORM conduit.bad_option('browser_request', 'pattern',
			'Each is {"method": "GET", "path": "/users/*/repos"}, with "connector" if it is for that one only; * stands for a segment of the path, ** at its end for any number.');
	END IF;
	IF options ? 'owners' THEN
		options := options || pg_catalog.jsonb_build_object('owners', conduit.check_option_owners(options ->> 'owners'));
	END IF;
	RETURN options;
END
$$;
COMMENT ON FUNCTION conduit.check_facade_options(text, jsonb) IS 'Checks the options of conduit_expose()';

-- Functions of a schema that are named like ours.  ours: made here, which a
-- tenant cannot pretend, for nobody can give an object to Conduit's owner.
CREATE FUNCTION conduit.facade_members(schema_name text, OUT oid oid, OUT name text, OUT signature text, OUT ours boolean)
RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT p.oid, p.proname, p.oid::pg_catalog.regprocedure::pg_catalog.text,
		p.proowner = e.extowner AND pg_catalog.starts_with(p.prosrc, conduit.facade_mark())
	FROM pg_catalog.pg_proc p
	JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname = schema_name
	JOIN pg_catalog.pg_extension e ON e.extname = 'conduit'
	WHERE p.proname LIKE 'conduit\_%'
$$;
COMMENT ON FUNCTION conduit.facade_members(text) IS 'Functions of a schema that are named like ours';

-- The domain "*/*" of a schema, the type of a function that PostgREST answers
-- any Accept with.  ours: made here, and nothing but bytea.
CREATE FUNCTION conduit.facade_domain(schema_name text, OUT oid oid, OUT ours boolean)
RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.oid, t.typowner = e.extowner AND t.typtype = 'd' AND t.typbasetype = 'pg_catalog.bytea'::pg_catalog.regtype
		AND NOT t.typnotnull AND t.typdefault IS NULL
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.contypid = t.oid)
	FROM pg_catalog.pg_type t
	JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace AND n.nspname = schema_name
	JOIN pg_catalog.pg_extension e ON e.extname = 'conduit'
	WHERE t.typname = '*/*'
$$;
COMMENT ON FUNCTION conduit.facade_domain(text) IS 'The domain "*/*" of a facade';

CREATE FUNCTION conduit.drop_facade(schema_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	member record;
BEGIN
	FOR member IN SELECT m.signature FROM conduit.facade_members(schema_name) m WHERE m.ours LOOP
		EXECUTE pg_catalog.format('DROP FUNCTION %s', member.signature);
	END LOOP;
	IF EXISTS (SELECT FROM conduit.facade_domain(schema_name) d WHERE d.ours) THEN
		EXECUTE pg_catalog.format('DROP DOMAIN %I."*/*"', schema_name);
	END IF;
END
$$;
COMMENT ON FUNCTION conduit.drop_facade(text) IS 'Drops what was made in a facade''s schema';

-- Who may call what in a facade.  for_backends: the function asks for a backend.
-- Roles that are gone have no rights any more.
CREATE FUNCTION conduit.facade_grants(schema_name text, options jsonb, for_backends boolean, OUT role oid, OUT grantable boolean)
RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT r.oid, COALESCE(r.rolname = f.prefix || '_ddl', false)
	FROM pg_catalog.pg_roles r, pg_catalog.substring(schema_name, '^(t_[0-9a-f]{12})_api$') f (prefix)
	WHERE NOT r.rolsuper AND CASE
		-- A tenant's own GRANT ... ON ALL FUNCTIONS IN SCHEMA must not fail because of ours.
		WHEN f.prefix IS NOT NULL THEN r.rolname IN (f.prefix || '_role', f.prefix || '_ddl')
		WHEN COALESCE(options -> 'backend_roles' ? r.rolname, false) THEN true
		WHEN for_backends AND options ? 'backend_roles' THEN false
		WHEN options ? 'roles' THEN options -> 'roles' ? r.rolname
		ELSE r.rolname IN ('anon', 'authenticated') END
$$;
COMMENT ON FUNCTION conduit.facade_grants(text, jsonb, boolean) IS 'Who may call a function of a facade';

-- Takes all rights to an object from everybody but its owner.
CREATE FUNCTION conduit.revoke_all(kind text, signature text, acl aclitem[], owner oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	grantee record;
BEGIN
	EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM PUBLIC', kind, signature);
	FOR grantee IN
		SELECT DISTINCT a.grantee::pg_catalog.regrole AS name FROM pg_catalog.aclexplode(acl) a
		WHERE a.grantee <> 0 AND a.grantee <> owner
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM %s CASCADE', kind, signature, grantee.name);
	END LOOP;
END
$$;
COMMENT ON FUNCTION conduit.revoke_all(text, text, aclitem[], oid) IS 'Takes all rights to an object from everybody but its owner';

-- Rights to what is in a facade: those of facade_grants() and nobody else's,
-- whatever ALTER DEFAULT PRIVILEGES says.
CREATE FUNCTION conduit.settle_facade_rights(schema_name text, tenant text, options jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	member record;
	grantee record;
BEGIN
	FOR member IN
		SELECT m.signature, p.proacl, p.proowner, t.need ~ '^(backend|key)' AS for_backends
		FROM conduit.facade_members(schema_name) m
		JOIN pg_catalog.pg_proc p ON p.oid = m.oid
		JOIN conduit.facade_texts(schema_name, tenant) t ON t.name = m.name
		WHERE m.ours
	LOOP
		PERFORM conduit.revoke_all('FUNCTION', member.signature, member.proacl, member.proowner);
		FOR grantee IN SELECT g.role::pg_catalog.regrole AS name, g.grantable FROM conduit.facade_grants(schema_name, options, member.for_backends) g LOOP
			EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s%s', member.signature, grantee.name,
				CASE WHEN grantee.grantable THEN ' WITH GRANT OPTION' ELSE '' END);
		END LOOP;
	END LOOP;
	FOR member IN
		SELECT t.typacl, t.typowner FROM conduit.facade_domain(schema_name) d JOIN pg_catalog.pg_type t ON t.oid = d.oid WHERE d.ours
	LOOP
		PERFORM conduit.revoke_all('DOMAIN', pg_catalog.format('%I."*/*"', schema_name), member.typacl, member.typowner);
	END LOOP;
END
$$;
COMMENT ON FUNCTION conduit.settle_facade_rights(text, text, jsonb) IS 'Sets the rights to what is in a facade';

CREATE FUNCTION conduit.refuse_foreign() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'schema has an object of that name' USING ERRCODE = '42710', DETAIL = 'foreign_object',
		HINT = 'Drop or rename its type "*/*" and its functions whose names are those of a facade and that conduit_expose() has not made.';
END
$$;
COMMENT ON FUNCTION conduit.refuse_foreign() IS 'Raises the error for objects of others in a facade';

-- Makes what is in a facade, anew where it is there already: replaced, so that
-- an application's views and policies may use it, unless its form has changed.
CREATE FUNCTION conduit.make_facade(schema_name text, tenant text, options jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	entry record;
	definition text;
	made oid[] := '{}';
	member record;
BEGIN
	-- Nobody's objects under names of ours are touched, or used.
	IF EXISTS (SELECT FROM conduit.facade_members(schema_name) m JOIN conduit.facade_texts(schema_name, tenant) t ON t.name = m.name WHERE NOT m.ours)
		OR EXISTS (SELECT FROM conduit.facade_domain(schema_name) d WHERE NOT d.ours)
	THEN
		PERFORM conduit.refuse_foreign();
	END IF;
	IF NOT EXISTS (SELECT FROM conduit.facade_domain(schema_name)) THEN
		EXECUTE pg_catalog.format('CREATE DOMAIN %I."*/*" AS pg_catalog.bytea', schema_name);
	END IF;

	FOR entry IN SELECT t.* FROM conduit.facade_texts(schema_name, tenant) t LOOP
		definition := pg_catalog.format(E'CREATE OR REPLACE FUNCTION %I.%I(%s) %s\nLANGUAGE plpgsql %s SECURITY DEFINER SET search_path = pg_catalog, pg_temp\nAS %L',
			schema_name, entry.name, entry.arguments, entry.result, CASE WHEN entry.reads THEN 'STABLE' ELSE 'VOLATILE' END, entry.body);
		BEGIN
			EXECUTE definition;
		EXCEPTION
			WHEN invalid_function_definition THEN
				EXECUTE pg_catalog.format('DROP FUNCTION %I.%I(%s)', schema_name, entry.name, entry.inputs);
				EXECUTE definition;
		END;
		made := made || pg_catalog.format('%I.%I(%s)', schema_name, entry.name, entry.inputs)::pg_catalog.regprocedure::oid;
		EXECUTE pg_catalog.format('COMMENT ON FUNCTION %I.%I(%s) IS %L', schema_name, entry.name, entry.inputs, entry.comment);
	END LOOP;

	FOR member IN SELECT m.signature FROM conduit.facade_members(schema_name) m WHERE m.ours AND m.oid <> ALL (made) LOOP
		EXECUTE pg_catalog.format('DROP FUNCTION %s', member.signature);
	END LOOP;
	-- Somebody may have been quick.
	IF EXISTS (SELECT FROM conduit.facade_members(schema_name) m WHERE m.oid = ANY (made) AND NOT m.ours)
		OR EXISTS (SELECT FROM conduit.facade_domain(schema_name) d WHERE NOT d.ours)
	THEN
		PERFORM conduit.refuse_foreign();
	END IF;
	PERFORM conduit.settle_facade_rights(schema_name, tenant, options);
END
$$;
COMMENT ON FUNCTION conduit.make_facade(text, text, jsonb) IS 'Makes what is in a facade';

CREATE FUNCTION @extschema@.conduit_expose(schema_name text, options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tenant text;
	former conduit.facade;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = schema_name) THEN
		RAISE EXCEPTION 'unknown schema' USING ERRCODE = '22023', DETAIL = 'unknown_schema', HINT = 'Create it first.';
	END IF;
	IF schema_name ~ '^pg_' OR schema_name = ANY ('{information_schema,conduit}')
		OR schema_name = (SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'conduit')
	THEN
		RAISE EXCEPTION 'schema cannot be exposed' USING ERRCODE = '22023', DETAIL = 'reserved_schema',
			HINT = 'Expose a schema that PostgREST serves, other than the one of Conduit''s own functions.';
	END IF;
	options := conduit.check_facade_options(schema_name, COALESCE(options, '{}'));
	tenant := CASE WHEN conduit.is_flux_schema(schema_name) THEN schema_name ELSE COALESCE(options ->> 'tenant', '') END;

	LOCK TABLE conduit.facade IN SHARE ROW EXCLUSIVE MODE;
	SELECT f.* INTO former FROM conduit.facade f WHERE f.schema_name = conduit_expose.schema_name;
	IF former.dropped_at IS NOT NULL THEN
		RAISE EXCEPTION 'former tenant is not gone yet' USING ERRCODE = '55000', DETAIL = 'dropped',
			HINT = 'The schema was dropped and created again; the worker is still destroying what belonged to the former tenant. Try again in a minute.';
	END IF;
	IF former.tenant <> tenant THEN
		RAISE EXCEPTION 'facade serves another tenant' USING ERRCODE = '22023', DETAIL = 'tenant',
			HINT = 'Remove it with conduit_unexpose() first.';
	END IF;

	PERFORM conduit.make_facade(schema_name, tenant, options);
	INSERT INTO conduit.facade AS f (schema_name, tenant, options, created_at, updated_at)
	VALUES (schema_name, tenant, options, pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp())
	ON CONFLICT ON CONSTRAINT facade_pkey DO UPDATE SET options = EXCLUDED.options, updated_at = EXCLUDED.updated_at;
	PERFORM pg_catalog.pg_notify('pgrst', 'reload schema');
END
$$;
COMMENT ON FUNCTION @extschema@.conduit_expose(text, jsonb) IS
'Makes a facade in a schema that PostgREST serves: functions that take the owner from a proven identity, never from an argument.

schema_name: an existing schema. Run it again after a change of options, which it replaces as a whole; ALTER EXTENSION conduit UPDATE makes the functions anew by itself. A schema t_<12 hex>_api is a Flux tenant''s: its name is the tenant, t_<12 hex>_role gets EXECUTE, t_<12 hex>_ddl with grant option. Notifies PostgREST in the same transaction.
options: an object. tenant: '''' if absent. roles: who gets EXECUTE; if absent, those of anon and authenticated that are there, for the functions ask who is calling, whatever the role. backend_roles: with them, they alone get EXECUTE on what asks for a backend. owner_claim: the claim that names the owner, sub if absent. jwt_audience: what a token''s aud must have. trust_claims: true takes request.jwt.claims as they are where the login role is in conduit.claims_login_roles, for a PostgREST that serves one application. owners: a function (subject text) returning setof text, the further owners that a subject may name in X-Conduit-Owner. browser_request: an array of {"method", "path", "connector"}, what conduit_request() is for with browsers; in path, * stands for a segment, ** at the end for any number. token_role, token_ttl: role and seconds (300) of tokens of conduit_token().
Errors: 22023 unknown schema, schema cannot be exposed, facade serves another tenant, invalid options (DETAIL names the option); 42710 schema has an object of that name: nothing of others is overwritten; 55000 former tenant is not gone yet.';

CREATE FUNCTION @extschema@.conduit_unexpose(schema_name text, purge boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	former conduit.facade;
BEGIN
	LOCK TABLE conduit.facade IN SHARE ROW EXCLUSIVE MODE;
	SELECT f.* INTO former FROM conduit.facade f WHERE f.schema_name = conduit_unexpose.schema_name;
	IF former.schema_name IS NULL THEN
		RAISE EXCEPTION 'unknown facade' USING ERRCODE = '22023', DETAIL = 'unknown_facade', HINT = 'conduit.facade lists those there are.';
	END IF;
	IF purge AND EXISTS (SELECT FROM conduit.facade f
		WHERE f.tenant = former.tenant AND f.schema_name <> former.schema_name AND f.dropped_at IS NULL)
	THEN
		RAISE EXCEPTION 'tenant is in use' USING ERRCODE = '23503', DETAIL = 'in_use', HINT = 'Another facade serves the same tenant; remove it first.';
	END IF;
	PERFORM conduit.drop_facade(schema_name);
	DELETE FROM conduit.jwt_key k WHERE k.schema_name = former.schema_name;
	IF purge AND NOT (SELECT d.done FROM conduit.destroy_tenant(former.tenant, NULL) d) THEN
		UPDATE conduit.facade f SET dropped_at = pg_catalog.clock_timestamp() WHERE f.schema_name = former.schema_name;
	ELSE
		DELETE FROM conduit.facade f WHERE f.schema_name = former.schema_name;
	END IF;
	PERFORM pg_catalog.pg_notify('pgrst', 'reload schema');
END
$$;
COMMENT ON FUNCTION @extschema@.conduit_unexpose(text, boolean) IS
'Removes a facade, with the keys that proved its tokens.

purge: also destroys what belongs to its tenant: connections with their credentials, as conduit_delete_owner() does, API keys, sessions, trusted callers and, but for tenant '''', which lends them to all, clients. A client that revocations wait for is destroyed when they are done.
Errors: 22023 unknown facade; 23503 tenant is in use, by another facade.';

-- What belongs to a tenant: connections of so many owners (NULL: all), then the
-- rest.  A client stays while a revocation is to be sent under it, and those of
-- tenant '' serve other tenants, too.
CREATE FUNCTION conduit.destroy_tenant(tenant text, max_owners integer, OUT destroyed integer, OUT done boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	member record;
BEGIN
	destroyed := 0;
	FOR member IN SELECT DISTINCT n.owner FROM conduit.connection n WHERE n.tenant = destroy_tenant.tenant ORDER BY 1 LIMIT max_owners LOOP
		BEGIN
			PERFORM @extschema@.conduit_delete_owner(member.owner, tenant);
			destroyed := destroyed + 1;
		EXCEPTION
			WHEN lock_not_available THEN
				NULL;	-- somebody is at it; next time
		END;
	END LOOP;
	done := NOT EXISTS (SELECT FROM conduit.connection n WHERE n.tenant = destroy_tenant.tenant);
	IF NOT done THEN
		RETURN;
	END IF;
	DELETE FROM conduit.authorize_state s WHERE s.tenant = destroy_tenant.tenant;
	DELETE FROM conduit.session s WHERE s.tenant = destroy_tenant.tenant;
	DELETE FROM conduit.api_key k WHERE k.tenant = destroy_tenant.tenant;
	DELETE FROM conduit.trusted_caller c WHERE c.tenant = destroy_tenant.tenant;
	IF tenant <> '' THEN
		DELETE FROM conduit.client c WHERE c.tenant = destroy_tenant.tenant
			AND NOT EXISTS (SELECT FROM conduit.revocation r WHERE r.tenant = c.tenant AND r.connector = c.connector);
		done := NOT EXISTS (SELECT FROM conduit.client c WHERE c.tenant = destroy_tenant.tenant);
	END IF;
END
$$;
COMMENT ON FUNCTION conduit.destroy_tenant(text, integer) IS 'Destroys what belongs to a tenant';

-- For the worker: what belonged to tenants whose schemas were dropped.  Tenant
-- '' is everybody's who has named none, with a facade or without, and outlives
-- the schema.  Returns how much was done, 0 if there is nothing to do for now.
CREATE FUNCTION conduit.destroy_dropped_tenants() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	facade record;
	step record;
	destroyed integer := 0;
BEGIN
	-- Nobody's open transaction holds up the worker.
	PERFORM pg_catalog.set_config('lock_timeout', '50ms', true);
	FOR facade IN SELECT f.schema_name, f.tenant FROM conduit.facade f WHERE f.dropped_at IS NOT NULL FOR UPDATE SKIP LOCKED LOOP
		IF facade.tenant <> '' AND NOT EXISTS (SELECT FROM conduit.facade f WHERE f.tenant = facade.tenant AND f.dropped_at IS NULL) THEN
			SELECT d.* INTO step FROM conduit.destroy_tenant(facade.tenant, 100) d;
			destroyed := destroyed + step.destroyed;
			CONTINUE WHEN NOT step.done;
		END IF;
		DELETE FROM conduit.facade f WHERE f.schema_name = facade.schema_name;
		destroyed := destroyed + 1;
	END LOOP;
	RETURN destroyed;
END
$$;
COMMENT ON FUNCTION conduit.destroy_dropped_tenants() IS 'Destroys what belonged to tenants whose schemas were dropped';

-- What was made in a facade's schema.
CREATE FUNCTION conduit.facade_objects(schema_name text, OUT kind text, OUT signature text, OUT in_extension boolean)
RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT o.kind, o.signature, EXISTS (SELECT FROM pg_catalog.pg_depend d
		WHERE d.classid = o.class AND d.objid = o.oid AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e')
	FROM (SELECT 'FUNCTION', m.signature, m.oid, 'pg_catalog.pg_proc'::pg_catalog.regclass FROM conduit.facade_members(schema_name) m WHERE m.ours
		UNION ALL
		SELECT 'DOMAIN', d.oid::pg_catalog.regtype::pg_catalog.text, d.oid, 'pg_catalog.pg_type'::pg_catalog.regclass
		FROM conduit.facade_domain(schema_name) d WHERE d.ours) o (kind, signature, oid, class)
$$;
COMMENT ON FUNCTION conduit.facade_objects(text) IS 'What was made in a facade''s schema';

-- For upgrade scripts.  What a script makes becomes the extension's; it is taken
-- out of it again, or the schema could neither be dumped nor dropped.  A schema
-- where that cannot be done, because somebody has objects of these names there,
-- must not keep the extension from being updated.
CREATE FUNCTION conduit.refresh_facades() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	facade record;
	member record;
BEGIN
	FOR facade IN
		SELECT f.schema_name, f.tenant, f.options FROM conduit.facade f
		JOIN pg_catalog.pg_namespace n ON n.nspname = f.schema_name WHERE f.dropped_at IS NULL ORDER BY 1
	LOOP
		BEGIN
			-- A script may replace none but the extension's own.
			FOR member IN SELECT o.kind, o.signature FROM conduit.facade_objects(facade.schema_name) o WHERE NOT o.in_extension LOOP
				EXECUTE pg_catalog.format('ALTER EXTENSION conduit ADD %s %s', member.kind, member.signature);
			END LOOP;
			PERFORM conduit.make_facade(facade.schema_name, facade.tenant, facade.options);
			FOR member IN SELECT o.kind, o.signature FROM conduit.facade_objects(facade.schema_name) o WHERE o.in_extension LOOP
				EXECUTE pg_catalog.format('ALTER EXTENSION conduit DROP %s %s', member.kind, member.signature);
			END LOOP;
		EXCEPTION
			WHEN OTHERS THEN
				RAISE WARNING 'facade could not be made anew' USING ERRCODE = SQLSTATE, DETAIL = facade.schema_name || ': ' || SQLERRM,
					HINT = 'Mend it and run conduit_expose() for this schema.';
		END;
	END LOOP;
	PERFORM pg_catalog.pg_notify('pgrst', 'reload schema');
END
$$;
COMMENT ON FUNCTION conduit.refresh_facades() IS 'Makes all facades anew; the last step of each upgrade script';

-- A tenant whose schema is dropped goes with it.  Only noted here, where nothing
-- may keep the DROP from succeeding; the worker does the rest.
CREATE FUNCTION conduit.note_dropped_schemas() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE conduit.facade f SET dropped_at = pg_catalog.clock_timestamp()
	FROM pg_catalog.pg_event_trigger_dropped_objects() o
	WHERE o.object_type = 'schema' AND o.object_name = f.schema_name AND f.dropped_at IS NULL;
EXCEPTION
	WHEN OTHERS THEN
		RAISE LOG 'conduit: could not note that an exposed schema was dropped: %', SQLERRM;
END
$$;
COMMENT ON FUNCTION conduit.note_dropped_schemas() IS 'Notes that a schema with a facade was dropped';
CREATE EVENT TRIGGER conduit_note_dropped_schemas ON sql_drop WHEN TAG IN ('DROP SCHEMA', 'DROP OWNED')
	EXECUTE FUNCTION conduit.note_dropped_schemas();

-- For conduit_doctor().
CREATE FUNCTION conduit.facade_findings(OUT severity text, OUT finding text, OUT detail text, OUT hint text)
RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	facade conduit.facade;
	again CONSTANT text := 'Run conduit_expose() for the schema again, with its options.';
BEGIN
	FOR facade IN SELECT f.* FROM conduit.facade f WHERE f.dropped_at IS NULL ORDER BY f.schema_name LOOP
		IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = facade.schema_name) THEN
			RETURN QUERY SELECT 'warning', 'facade_without_schema', pg_catalog.format('exposed schema "%s" does not exist', facade.schema_name),
				'Restore it, or remove what belonged to it with conduit_unexpose().';
			CONTINUE;
		END IF;
		RETURN QUERY
			SELECT 'warning', 'facade_changed', pg_catalog.format('function %s of exposed schema "%s" is not as it was made', t.name, facade.schema_name), again
			FROM conduit.facade_texts(facade.schema_name, facade.tenant) t
			WHERE NOT EXISTS (SELECT FROM conduit.facade_members(facade.schema_name) m JOIN pg_catalog.pg_proc p ON p.oid = m.oid
				WHERE m.name = t.name AND m.ours AND p.prosrc = t.body AND p.prosecdef AND p.proconfig = '{"search_path=pg_catalog, pg_temp"}');
		RETURN QUERY
			SELECT DISTINCT 'error', 'facade_rights', pg_catalog.format('%s may call %s of exposed schema "%s"',
					CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END, m.name, facade.schema_name), again
			FROM conduit.facade_members(facade.schema_name) m
			JOIN pg_catalog.pg_proc p ON p.oid = m.oid
			JOIN conduit.facade_texts(facade.schema_name, facade.tenant) t ON t.name = m.name
			CROSS JOIN pg_catalog.aclexplode(COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
			WHERE m.ours AND a.grantee <> p.proowner
				AND a.grantee NOT IN (SELECT g.role FROM conduit.facade_grants(facade.schema_name, facade.options, t.need ~ '^(backend|key)') g);
		RETURN QUERY
			SELECT 'warning', 'facade_create', pg_catalog.format('role %s can create objects in exposed schema "%s"', g.role::pg_catalog.regrole, facade.schema_name),
				'Revoke CREATE on the schema: what such a role makes there is served, too.'
			FROM conduit.facade_grants(facade.schema_name, facade.options, false) g
			WHERE NOT g.grantable AND pg_catalog.has_schema_privilege(g.role, facade.schema_name, 'CREATE');
	END LOOP;
END
$$;
COMMENT ON FUNCTION conduit.facade_findings() IS 'What conduit_doctor() finds in facades';

SELECT conduit.settle_rights('conduit_expose', 'admin');
SELECT conduit.settle_rights('conduit_unexpose', 'admin');
