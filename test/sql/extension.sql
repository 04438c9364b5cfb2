-- Creating and dropping the extension.
CREATE SCHEMA broker;
SET search_path = broker;

-- It takes pgcrypto wherever that is, but not from elsewhere.
BEGIN;
DROP EXTENSION pgcrypto;
CREATE EXTENSION conduit SCHEMA broker;
ROLLBACK;

-- The private schema is the extension's own: not the one of its functions,
-- and not one that somebody has prepared.
SELECT * FROM t.error('CREATE EXTENSION conduit SCHEMA conduit');
CREATE SCHEMA conduit;
SELECT * FROM t.error('CREATE EXTENSION conduit SCHEMA conduit');
SELECT * FROM t.error('CREATE EXTENSION conduit SCHEMA broker');
DROP SCHEMA conduit;

-- Rolled back, it leaves nothing.
BEGIN;
CREATE EXTENSION conduit SCHEMA broker;
SELECT count(*) > 0 AS is_there FROM conduit_connectors();
ROLLBACK;
SELECT count(*) FROM pg_extension WHERE extname = 'conduit';
SELECT to_regnamespace('conduit') IS NULL AS no_schema, to_regproc('broker.conduit_vend') IS NULL AS no_function;

-- A session that has used one extension uses the next one.
CREATE EXTENSION conduit SCHEMA broker;
CALL t.wait_for_worker();
SELECT conduit_create_connection('alice', 'binance') AS former \gset
SELECT conduit_store_credential(:'former', NULL, '{"api_key": "first"}') = :'former' AS stored;
SELECT api_key, generation FROM conduit_vend('alice', :'former');
PREPARE vend(uuid) AS SELECT api_key, generation FROM conduit_vend('alice', $1);
EXECUTE vend(:'former');
DROP EXTENSION conduit;
EXECUTE vend(:'former');
SELECT to_regnamespace('conduit') IS NULL AS no_schema;

-- In a schema with a name that needs quotes.
CREATE SCHEMA "Token Broker";
CREATE EXTENSION conduit SCHEMA "Token Broker";
SET search_path = "Token Broker";
CALL t.wait_for_worker();
SELECT message FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'former'));
SELECT conduit_create_connection('alice', 'binance') AS id \gset
SELECT conduit_store_credential(:'id', NULL, '{"api_key": "second"}') = :'id' AS stored;
SELECT api_key, generation FROM conduit_vend('alice', :'id');
CREATE ROLE regress_conduit_role;
SELECT conduit_grant('regress_conduit_role', 'service');
SET ROLE regress_conduit_role;
SELECT api_key FROM conduit_vend('alice', :'id');
RESET ROLE;
SELECT conduit_ungrant('regress_conduit_role');
DROP ROLE regress_conduit_role;
SELECT severity, finding FROM conduit_doctor() WHERE finding <> 'egress_allow';
DROP EXTENSION conduit;
DROP SCHEMA "Token Broker";

-- It stays where it was created.
SET search_path = broker;
CREATE EXTENSION conduit SCHEMA broker;
ALTER EXTENSION conduit SET SCHEMA public;
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'conduit';

-- The role of pgcrypto: it cannot go first.
DROP EXTENSION pgcrypto;
CALL t.wait_for_worker();
SELECT ok, version = library_version AS same_version, worker, paused, vault, needs_reauth, overdue, in_flight, queued,
	parked, queued_revocations
FROM conduit_health();
