-- Rights: what each profile of conduit_grant may call, and nothing for
-- anybody else.

CREATE TABLE conduit.profile (
	function_name	name PRIMARY KEY,
	least_profile			text NOT NULL CHECK (least_profile OPERATOR(pg_catalog.=) ANY ('{monitor,app,service,admin}'::text[]))
);
COMMENT ON TABLE conduit.profile IS 'The least profile of conduit_grant() that may call a public function';

-- Called beside each CREATE: note the profile, and take what PUBLIC and
-- ALTER DEFAULT PRIVILEGES have given.
CREATE FUNCTION conduit.settle_rights(function_name name, least_profile text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	member record;
	grantee record;
BEGIN
	INSERT INTO conduit.profile VALUES (settle_rights.function_name, settle_rights.least_profile);
	FOR member IN
		SELECT p.oid, p.oid::pg_catalog.regprocedure AS signature, p.proacl, p.proowner
		FROM pg_catalog.pg_proc p
		JOIN pg_catalog.pg_extension e ON e.extname OPERATOR(pg_catalog.=) 'conduit'
			AND p.pronamespace OPERATOR(pg_catalog.=) e.extnamespace
		WHERE p.proname OPERATOR(pg_catalog.=) settle_rights.function_name
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', member.signature);
		FOR grantee IN
			SELECT DISTINCT a.grantee::pg_catalog.regrole AS name FROM pg_catalog.aclexplode(member.proacl) a
			WHERE a.grantee OPERATOR(pg_catalog.<>) 0 AND a.grantee OPERATOR(pg_catalog.<>) member.proowner
		LOOP
			EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %s CASCADE', member.signature, grantee.name);
		END LOOP;
	END LOOP;
END
$$;
COMMENT ON FUNCTION conduit.settle_rights(name, text) IS 'Notes the least profile of a public function and takes all rights to it';

-- The same for all that is private; at the end of the script.
CREATE FUNCTION conduit.settle_private_rights() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	member record;
BEGIN
	FOR member IN
		WITH object (kind, name, acl, owner) AS (
			SELECT 'SCHEMA', pg_catalog.quote_ident(n.nspname),
				COALESCE(n.nspacl, pg_catalog.acldefault('n', n.nspowner)), n.nspowner
			FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'conduit'
			UNION ALL
			SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::pg_catalog.regclass::pg_catalog.text,
				COALESCE(c.relacl, pg_catalog.acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, c.relowner)), c.relowner
			FROM pg_catalog.pg_class c
			WHERE c.relnamespace OPERATOR(pg_catalog.=) 'conduit'::pg_catalog.regnamespace
				AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,S,v}'::"char"[])
			UNION ALL
			SELECT 'FUNCTION', p.oid::pg_catalog.regprocedure::pg_catalog.text,
				COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner)), p.proowner
			FROM pg_catalog.pg_proc p
			WHERE p.pronamespace OPERATOR(pg_catalog.=) 'conduit'::pg_catalog.regnamespace
			UNION ALL
			SELECT 'TYPE', t.oid::pg_catalog.regtype::pg_catalog.text,
				COALESCE(t.typacl, pg_catalog.acldefault('T', t.typowner)), t.typowner
			FROM pg_catalog.pg_type t
			LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.typrelid
			WHERE t.typnamespace OPERATOR(pg_catalog.=) 'conduit'::pg_catalog.regnamespace
				AND t.typcategory OPERATOR(pg_catalog.<>) 'A'
				-- A table's row type has PUBLIC's usual right to a type, of no use
				-- without one to the schema; it is left alone unless default
				-- privileges have touched it, for pg_dump warns of what it
				-- cannot say of row types.
				AND (c.oid IS NULL OR c.relkind OPERATOR(pg_catalog.=) 'c' OR t.typacl IS NOT NULL))
		SELECT DISTINCT o.kind, o.name,
			CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END AS grantee
		FROM object o, pg_catalog.aclexplode(o.acl) a
		WHERE a.grantee OPERATOR(pg_catalog.<>) o.owner
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM %s CASCADE', member.kind, member.name, member.grantee);
	END LOOP;
END
$$;
COMMENT ON FUNCTION conduit.settle_private_rights() IS 'Takes all rights to what is in schema conduit';

-- conduit_grant, conduit_ungrant

CREATE FUNCTION @extschema@.conduit_grant(role_name text, profile text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	ranks CONSTANT text[] := '{monitor,app,service,admin}';
	rank int := pg_catalog.array_position(ranks, profile);
	home CONSTANT name := (SELECT n.nspname FROM pg_catalog.pg_extension e
		JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'conduit');
	role oid;
	login text;
	granted record;
BEGIN
	SELECT r.oid INTO role FROM pg_catalog.pg_roles r WHERE r.rolname = role_name;
	IF role IS NULL THEN
		RAISE EXCEPTION 'unknown role' USING ERRCODE = '22023',
			DETAIL = 'unknown_role', HINT = 'Create the role first; conduit_grant() creates none.';
	END IF;
	IF rank IS NULL THEN
		RAISE EXCEPTION 'invalid profile' USING ERRCODE = '22023',
			DETAIL = 'profile', HINT = 'It is monitor, app, service or admin.';
	END IF;
	IF rank > 1 THEN
		FOREACH login IN ARRAY pg_catalog.string_to_array(pg_catalog.current_setting('conduit.claims_login_roles'), ',')
		LOOP
			login := pg_catalog.btrim(login, E' \t\n"');
			IF EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = login)
				AND pg_catalog.pg_has_role(login, role, 'MEMBER')
			THEN
				RAISE EXCEPTION 'role is open to web clients' USING ERRCODE = '42501',
					DETAIL = 'claims_login_role',
					HINT = 'A role that members of conduit.claims_login_roles may become must not choose the owner itself; grant to a role of your backend''s own that web clients cannot become.';
			END IF;
		END LOOP;
	END IF;

	PERFORM @extschema@.conduit_ungrant(role_name);
	FOR granted IN
		SELECT p.oid::pg_catalog.regprocedure AS signature
		FROM pg_catalog.pg_proc p
		JOIN conduit.profile f ON f.function_name = p.proname
		JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
		JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'conduit'
		WHERE pg_catalog.array_position(ranks, f.least_profile) <= rank
	LOOP
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %I', granted.signature, role_name);
	END LOOP;
	IF NOT pg_catalog.has_schema_privilege(role, home, 'USAGE') THEN
		EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I', home, role_name);
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.conduit_grant(text, text) IS
'Lets a role call Conduit''s functions.

role_name: an existing role. profile: monitor (catalogue, health, stats), app (connections; nothing that returns a secret), service (also storing and vending: backends) or admin (all). Each includes the ones before. What the role had from an earlier call is replaced.
Errors: 22023 unknown role or profile; 42501 for app, service and admin where a member of conduit.claims_login_roles may become the role.';

CREATE FUNCTION @extschema@.conduit_ungrant(role_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	home CONSTANT name := (SELECT n.nspname FROM pg_catalog.pg_extension e
		JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'conduit');
	granted record;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role_name) THEN
		RAISE EXCEPTION 'unknown role' USING ERRCODE = '22023',
			DETAIL = 'unknown_role', HINT = 'pg_roles lists those there are.';
	END IF;
	FOR granted IN
		SELECT p.oid::pg_catalog.regprocedure AS signature
		FROM pg_catalog.pg_proc p
		JOIN conduit.profile f ON f.function_name = p.proname
		JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
		JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'conduit'
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %I CASCADE', granted.signature, role_name);
	END LOOP;
	IF NOT pg_catalog.has_schema_privilege('public', home, 'USAGE') THEN
		EXECUTE pg_catalog.format('REVOKE USAGE ON SCHEMA %I FROM %I CASCADE', home, role_name);
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.conduit_ungrant(text) IS
'Takes from a role what conduit_grant() gave it.

role_name: an existing role. Its right to use the extension''s schema goes too, unless PUBLIC has it.
Errors: 22023 unknown role.';

SELECT conduit.settle_rights('conduit_grant', 'admin');
SELECT conduit.settle_rights('conduit_ungrant', 'admin');
