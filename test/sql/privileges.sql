-- Rights: nobody's but the owner's after CREATE EXTENSION, then what
-- conduit_grant gives.  In a database of its own, with default privileges that
-- give everything away.
CREATE ROLE regress_conduit_greedy;
CREATE ROLE regress_conduit_role;
SELECT current_database() AS db \gset
CREATE DATABASE conduit_privileges;
\c conduit_privileges
CREATE SCHEMA broker;
CREATE SCHEMA crypto;
CREATE EXTENSION pgcrypto SCHEMA crypto;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_conduit_greedy WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, regress_conduit_greedy;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC, regress_conduit_greedy;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO PUBLIC, regress_conduit_greedy;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC, regress_conduit_greedy;
ALTER DEFAULT PRIVILEGES IN SCHEMA broker GRANT ALL ON FUNCTIONS TO regress_conduit_role;
CREATE EXTENSION conduit SCHEMA broker;
SET search_path = broker, pg_catalog;

-- Every object of the extension and every object in its private schema, with
-- the rights there are on it, written down or by default.
CREATE VIEW public.member AS
WITH member (classid, objid) AS (
	SELECT classid, objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'conduit'
	UNION SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relnamespace = 'conduit'::regnamespace
	UNION SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = 'conduit'::regnamespace
	UNION SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = 'conduit'::regnamespace)
SELECT 'function' AS kind, p.oid, p.oid::regprocedure::text AS name, p.proowner AS owner, coalesce(p.proacl, acldefault('f', p.proowner)) AS acl
FROM member m JOIN pg_proc p ON p.oid = m.objid AND m.classid = 'pg_proc'::regclass
UNION ALL SELECT CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'r' THEN 'table' WHEN 'i' THEN 'index' WHEN 'c' THEN 'composite type' ELSE c.relkind::text END,
	c.oid, c.oid::regclass::text, c.relowner,
	coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))
FROM member m JOIN pg_class c ON c.oid = m.objid AND m.classid = 'pg_class'::regclass
UNION ALL SELECT CASE WHEN y.typcategory = 'A' THEN 'array type' WHEN c.relkind = 'r' THEN 'row type' ELSE 'type' END,
	y.oid, format_type(y.oid, NULL), y.typowner,
	-- PUBLIC's usual right to a row type is left as it is, being none without one to the schema.
	CASE WHEN c.relkind = 'r' THEN y.typacl ELSE coalesce(y.typacl, acldefault('T', y.typowner)) END
FROM member m JOIN pg_type y ON y.oid = m.objid AND m.classid = 'pg_type'::regclass LEFT JOIN pg_class c ON c.oid = y.typrelid
UNION ALL SELECT 'schema', n.oid, n.nspname, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner))
FROM member m JOIN pg_namespace n ON n.oid = m.objid AND m.classid = 'pg_namespace'::regclass;
SELECT kind, count(*) > 0 AS some, count(*) FILTER (WHERE owner <> current_user::regrole) AS not_ours FROM public.member GROUP BY 1 ORDER BY 1;
SELECT classid::regclass, count(*) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'conduit'
	AND classid NOT IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_type'::regclass, 'pg_namespace'::regclass) GROUP BY 1;

-- Nobody but the owner has any.  (Rights on array types are those of their elements.)
SELECT kind, name, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee, a.privilege_type
FROM public.member, aclexplode(acl) a WHERE a.grantee <> owner AND kind <> 'array type' ORDER BY 1, 2, 3, 4;
SELECT count(*) FROM pg_attribute a JOIN public.member m ON m.oid = a.attrelid WHERE a.attacl IS NOT NULL;
SELECT name FROM public.member WHERE kind = 'function' AND has_function_privilege('regress_conduit_greedy', oid, 'EXECUTE');
-- Those of the other extension's are none of ours.
SELECT count(*) > 0 AS usual FROM pg_proc WHERE pronamespace = 'crypto'::regnamespace AND has_function_privilege('regress_conduit_greedy', oid, 'EXECUTE');
SELECT severity, finding FROM conduit_doctor() WHERE finding = 'rights';

-- doctor tells of rights that somebody gives later.
BEGIN;
GRANT SELECT ON conduit.connection TO regress_conduit_role;
GRANT EXECUTE ON FUNCTION conduit_vend TO PUBLIC;
GRANT USAGE ON SCHEMA conduit TO PUBLIC;
SELECT severity, finding, detail FROM conduit_doctor() WHERE finding = 'rights';
ROLLBACK;

-- What every function promises.
CREATE VIEW public.func AS SELECT p.*, l.lanname FROM public.member m JOIN pg_proc p ON p.oid = m.oid JOIN pg_language l ON l.oid = p.prolang WHERE m.kind = 'function';
-- a comment that begins with a line of summary, followed by a blank line if it goes on
SELECT oid::regprocedure, d.description FROM public.func LEFT JOIN pg_description d ON d.objoid = func.oid AND d.classoid = 'pg_proc'::regclass
WHERE (d.description IS NULL OR d.description !~ '^[A-Z][^\n]{10,130}[.]?(\n\n.+)?$');
SELECT name FROM public.member LEFT JOIN pg_description d ON d.objoid = member.oid WHERE kind = 'table' AND d.description IS NULL;
-- names of the public ones, none twice; of parameters
SELECT oid::regprocedure FROM public.func WHERE pronamespace = 'broker'::regnamespace AND proname !~ '^conduit_[a-z_]+$';
SELECT proname FROM public.func GROUP BY pronamespace, proname HAVING count(*) > 1;
SELECT oid::regprocedure, a.name FROM public.func, unnest(proargnames) a (name)
WHERE a.name !~ '^[a-z][a-z0-9_]*$' OR a.name IN ('limit', 'offset', 'order', 'select', 'columns');
SELECT oid::regprocedure FROM public.func WHERE pronargs > coalesce(cardinality(proargnames), 0);
SELECT oid::regprocedure, n.name FROM public.func, LATERAL (SELECT name FROM unnest(proargnames) a (name) GROUP BY 1 HAVING count(*) > 1) n;
-- OUT parameters come last, tenant is the last input and '' by default
SELECT oid::regprocedure FROM public.func WHERE array_to_string(proargmodes, '') !~ '^i*[ot]*$';
SELECT oid::regprocedure FROM public.func
WHERE pronamespace = 'broker'::regnamespace AND 'tenant' = ANY (proargnames[1:pronargs]) AND (proargnames[pronargs] <> 'tenant'
	OR pg_get_function_arg_default(oid, pronargs) IS DISTINCT FROM '''''::text');
SELECT proname FROM public.func WHERE pronamespace = 'broker'::regnamespace AND 'tenant' <> ALL (coalesce(proargnames[1:pronargs], '{}')) ORDER BY proname COLLATE "C";
-- search_path of what is not C; none is a SECURITY DEFINER without
SELECT oid::regprocedure, lanname, proconfig FROM public.func
WHERE (lanname <> 'c' OR prosecdef) AND proconfig IS DISTINCT FROM '{"search_path=pg_catalog, pg_temp"}';
-- and those on secret paths
SELECT oid::regprocedure FROM public.func WHERE lanname = 'c' AND (prosecdef OR provolatile <> 'v' OR proparallel <> 'u' OR proconfig IS NOT NULL OR proisstrict);
SELECT proname, lanname FROM public.func
WHERE proname ~ '_(store_credential|vend|refresh|refresh_due|set_client|create_connection|update_connection|rewrap|keyring)$' AND lanname <> 'c';
SELECT count(*) AS takes_secrets_as_json FROM public.func
WHERE proname IN ('conduit_store_credential', 'conduit_set_client') AND proargtypes::oid[] && ARRAY['json', 'jsonb']::regtype[]::oid[];

-- The profiles: what each may call beyond the one before.
CREATE TEMP TABLE callable (profile text, proname name, rank int);
DO $$
DECLARE
	profile text;
	rank int := 0;
BEGIN
	FOREACH profile IN ARRAY '{monitor,app,service,admin}'::text[] LOOP
		PERFORM broker.conduit_grant('regress_conduit_role', profile);
		rank := rank + 1;
		INSERT INTO callable SELECT profile, f.proname, rank FROM public.func f WHERE has_function_privilege('regress_conduit_role', f.oid, 'EXECUTE');
	END LOOP;
END
$$;
SELECT profile, proname FROM callable c
WHERE NOT EXISTS (SELECT FROM callable l WHERE l.proname = c.proname AND l.rank < c.rank) ORDER BY rank, proname COLLATE "C";
SELECT profile, count(*) = (SELECT count(*) FROM callable l WHERE l.rank = c.rank AND l.proname IN (SELECT proname FROM callable h WHERE h.rank = c.rank + 1)) AS included_in_next
FROM callable c WHERE rank < 4 GROUP BY profile, rank ORDER BY rank;
SELECT proname FROM public.func WHERE pronamespace = 'broker'::regnamespace EXCEPT SELECT proname FROM callable;
-- never with the right to hand it on, never more than functions
SELECT kind, name, a.privilege_type, a.is_grantable FROM public.member, aclexplode(acl) a
WHERE a.grantee = 'regress_conduit_role'::regrole AND (kind <> 'function' OR a.is_grantable);
SELECT a.privilege_type, a.is_grantable FROM pg_namespace, aclexplode(nspacl) a WHERE nspname = 'broker' AND a.grantee = 'regress_conduit_role'::regrole;

-- A later call replaces what the former one gave.
SELECT conduit_grant('regress_conduit_role', 'monitor');
SELECT proname FROM public.func f WHERE has_function_privilege('regress_conduit_role', f.oid, 'EXECUTE') ORDER BY proname COLLATE "C";
SET ROLE regress_conduit_role;
SELECT count(*) > 0 AS may FROM conduit_connectors();
SELECT worker IS NOT NULL AS may FROM conduit_health();
SELECT conduit_vend('alice', gen_random_uuid());
\echo :SQLSTATE
SELECT conduit_grant('regress_conduit_role', 'admin');
RESET ROLE;
SELECT conduit_grant('regress_conduit_role', 'app');
SET ROLE regress_conduit_role;
SELECT conduit_create_connection('alice', 'alpaca') AS id \gset
SELECT count(*) FROM conduit_list_connections('alice');
SELECT conduit_store_credential(:'id', NULL, '{"api_key": "k"}');
SELECT conduit_vend('alice', :'id');
RESET ROLE;
SELECT conduit_grant('regress_conduit_role', 'service');
DO $$
BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT worker = 'running' FROM broker.conduit_health());
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
SET ROLE regress_conduit_role;
SELECT conduit_store_credential(:'id', NULL, '{"api_key": "k"}') = :'id' AS stored;
SELECT api_key FROM conduit_vend('alice', :'id');
SELECT conduit_register_connector('x', '{"auth_type": "api_key"}');
SELECT conduit_keyring();
-- even so, the tables are not for it, nor what works on them
SELECT count(*) FROM conduit.credential;
SELECT count(*) FROM conduit.connection;
SELECT count(*) FROM conduit.connector;
DELETE FROM conduit.event;
SELECT nextval('conduit.event_seq');
SELECT conduit.announce();
COPY conduit.credential TO STDOUT;
CREATE TEMP TABLE mine (c conduit.connection_info);
RESET ROLE;

-- A role that may read all tables sees no sealed row.
SELECT c.oid::regclass AS table, c.relrowsecurity AS row_security, count(*) FILTER (WHERE a.atttypid = 'bytea'::regtype) AS bytea_columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'conduit'::regnamespace AND c.relkind = 'r' AND (c.relrowsecurity OR a.atttypid = 'bytea'::regtype) GROUP BY 1, 2 ORDER BY 1;
SELECT count(*) FROM pg_policy;
CREATE ROLE regress_conduit_reader;
GRANT pg_read_all_data, pg_write_all_data TO regress_conduit_reader;
SET ROLE regress_conduit_reader;
SELECT (SELECT count(*) FROM conduit.connection) AS connections, (SELECT count(*) FROM conduit.credential) AS credentials;
COPY conduit.credential TO STDOUT;
UPDATE conduit.credential SET generation = 5;
DELETE FROM conduit.credential;
SET row_security = off;
SELECT count(*) FROM conduit.credential;
RESET row_security;
SELECT conduit_vend('alice', :'id');
RESET ROLE;
SELECT api_key, generation FROM conduit_vend('alice', :'id');
DROP ROLE regress_conduit_reader;

-- Ungrant takes all: the role can be dropped.
SELECT conduit_ungrant('regress_conduit_role');
SELECT count(*) FROM public.func f WHERE has_function_privilege('regress_conduit_role', f.oid, 'EXECUTE');
SELECT has_schema_privilege('regress_conduit_role', 'broker', 'USAGE') AS usage;
ALTER DEFAULT PRIVILEGES IN SCHEMA broker REVOKE ALL ON FUNCTIONS FROM regress_conduit_role;
DROP ROLE regress_conduit_role;

-- Roles that web clients may become must not name the owner themselves.
CREATE ROLE authenticator NOINHERIT LOGIN;
CREATE ROLE regress_conduit_anon;
CREATE ROLE regress_conduit_group;
CREATE ROLE regress_conduit_backend;
GRANT regress_conduit_anon TO authenticator;
GRANT regress_conduit_group TO regress_conduit_anon;
CREATE FUNCTION public.grant_error(role text, profile text, OUT state text, OUT message text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM broker.conduit_grant(role, profile);
	PERFORM broker.conduit_ungrant(role);
	state := '00000';
EXCEPTION WHEN OTHERS THEN
	state := SQLSTATE;
	message := SQLERRM;
END
$$;
SELECT r.role, p.profile, e.* FROM
	(VALUES ('regress_conduit_anon'), ('regress_conduit_group'), ('authenticator'), ('regress_conduit_backend')) r (role),
	(VALUES ('monitor'), ('app'), ('service'), ('admin')) p (profile), LATERAL public.grant_error(r.role, p.profile) e;
\set SHOW_CONTEXT never
SELECT conduit_grant('regress_conduit_anon', 'service');
\echo :SQLSTATE
DROP ROLE authenticator, regress_conduit_anon, regress_conduit_group, regress_conduit_backend;

-- A role with a name that needs quotes.
CREATE ROLE "regress conduit ""odd""";
SELECT conduit_grant('regress conduit "odd"', 'service');
SELECT has_function_privilege('regress conduit "odd"', 'conduit_vend(text,uuid,interval,text[],text)', 'EXECUTE') AS may;
SELECT conduit_ungrant('regress conduit "odd"');
DROP ROLE "regress conduit ""odd""";

\c :"db"
DROP DATABASE conduit_privileges;
DROP ROLE regress_conduit_greedy;
