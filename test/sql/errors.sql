-- The error contract: each condition that needs no provider, raised once.
SET search_path = broker;

SELECT conduit_register_connector('oauth', '{"auth_type": "oauth2_code",
	"authorize_url": "https://id.example.com/authorize", "token_url": "http://127.0.0.1:1/token"}');
SELECT conduit_register_connector('no-client', '{"extends": "oauth"}');
SELECT conduit_set_client('oauth', 'cid', 'a secret');
SELECT conduit_create_connection('alice', 'alpaca', 'a') AS active, conduit_create_connection('alice', 'alpaca', 'r') AS revoked,
	conduit_create_connection('alice', 'alpaca', 'n') AS reauth, conduit_create_connection('alice', 'alpaca', 'e') AS empty,
	conduit_create_connection('alice', 'alpaca', 'd') AS deleted, conduit_create_connection('alice', 'alpaca', 'x') AS expired,
	conduit_create_connection('alice', 'oauth') AS oauth, conduit_create_connection('alice', 'no-client') AS no_client,
	gen_random_uuid() AS unknown
\gset
SELECT count(conduit_store_credential(id, NULL, '{"api_key": "k"}')) FROM unnest(ARRAY[:'active', :'revoked', :'reauth', :'deleted']::uuid[]) id;
SELECT conduit_store_credential(:'expired', NULL, '{"api_key": "k", "expires_at": 1000000000}') = :'expired' AS stored;
SELECT conduit_revoke_connection('alice', :'revoked');
SELECT conduit_delete_connection('alice', :'deleted');
UPDATE conduit.connection SET status = 'NEEDS_REAUTH', status_reason = 'invalid_grant' WHERE id = :'reauth';
UPDATE conduit.credential SET status = 'NEEDS_REAUTH' WHERE connection_id = :'reauth';

-- What cannot be had looks alike, whatever it is: a foreign, an unknown and a
-- deleted connection, and one of another tenant, to the last byte.
CREATE TEMP TABLE call (number serial, call text);
INSERT INTO call (call) VALUES
	('conduit_vend(%1$L, %2$L, NULL, NULL, %3$L)'), ('conduit_vend(%1$L, %2$L, ''1 hour'', ''{scope}'', %3$L)'),
	('conduit_rate_take(%1$L, %2$L, 1, %3$L)'), ('conduit_rate_report(%1$L, %2$L, 1, %3$L)'),
	('conduit_refresh(%1$L, %2$L, NULL, %3$L)'), ('conduit_refresh(%1$L, %2$L, 1, %3$L)'),
	('conduit_get_connection(%1$L, %2$L, %3$L)'), ('conduit_update_connection(%1$L, %2$L, ''a'', ''{}'', ''{}'', %3$L)'),
	('conduit_revoke_connection(%1$L, %2$L, %3$L)'), ('conduit_delete_connection(%1$L, %2$L, %3$L)');
WITH kept_from (kind, owner, id, tenant) AS (VALUES
	('foreign', 'mallory', :'active'::uuid, ''), ('foreign, revoked', 'mallory', :'revoked', ''),
	('foreign, needs re-authorization', 'mallory', :'reauth', ''), ('foreign, no credential', 'mallory', :'empty', ''),
	('foreign, expired', 'mallory', :'expired', ''), ('another tenant', 'alice', :'active', 'acme'),
	('another tenant, revoked', 'alice', :'revoked', 'acme'), ('another tenant, needs re-authorization', 'alice', :'reauth', 'acme'),
	('deleted', 'alice', :'deleted', ''), ('deleted, foreign', 'mallory', :'deleted', ''), ('unknown', 'alice', :'unknown', ''),
	('owner in capitals', 'ALICE', :'active', ''), ('owner with a blank', 'alice ', :'active', ''))
SELECT c.call, count(*) AS asked, count(DISTINCT e.error) AS different, min(e.error) AS error
FROM call c, kept_from k, LATERAL (SELECT t.whole_error('SELECT ' || format(c.call, k.owner, k.id, k.tenant)) AS error) e
GROUP BY c.number, c.call ORDER BY c.number;
SELECT count(*) AS asked, count(DISTINCT e.error) AS different, min(e.error) AS error
FROM (VALUES (:'active', 'acme'), (:'revoked', 'acme'), (:'reauth', 'acme'), (:'deleted', ''), (:'unknown', '')) k (id, tenant),
	LATERAL (SELECT t.whole_error(format('SELECT conduit_store_credential(%L, NULL, ''{"api_key": "k"}'', %L)', id, tenant)) AS error) e;
-- All are still there.
SELECT account, status, has_credential FROM conduit_list_connections('alice', 'alpaca');

-- The connection's own errors.
SELECT v.id AS connection, e.* FROM (VALUES ('active', :'active'), ('empty', :'empty'), ('reauth', :'reauth'), ('revoked', :'revoked'), ('expired', :'expired')) v (id, connection),
	t.error(format('SELECT conduit_vend(''alice'', %L)', connection)) e;
SELECT v.id AS connection, e.* FROM (VALUES ('active', :'active'), ('empty', :'empty'), ('reauth', :'reauth'), ('revoked', :'revoked')) v (id, connection),
	t.error(format('SELECT conduit_refresh(''alice'', %L)', connection)) e;
SELECT * FROM t.error(format('SELECT conduit_vend(''alice'', %L, scopes => ''{read}'')', :'active'));

-- As psql shows them.
SELECT conduit_vend('alice', :'reauth');
\echo :SQLSTATE
SELECT conduit_vend('mallory', :'reauth');
\echo :SQLSTATE
SELECT conduit_vend('alice', :'revoked');
\echo :SQLSTATE

-- Bad arguments; exists already, in use, built in.
SELECT statement, e.* FROM (VALUES
	('conduit_create_connection('' '', ''alpaca'')'), ('conduit_create_connection(''alice'', ''nobody'')'),
	('conduit_create_connection(''alice'', ''No Slug'')'), ('conduit_create_connection(''alice'', ''alpaca'', ''a'')'),
	('conduit_find_connection(''alice'', ''alpaca'')'), ('conduit_list_connections(''alice'', only_status => ''LOST'')'),
	('conduit_register_connector(''x'', ''{}'')'), ('conduit_register_connector(''slack'', ''{}'')'),
	('conduit_drop_connector(''oauth'')'), ('conduit_retire_client(''oauth'', ''nobody'')'),
	('conduit_set_client(''oauth'', ''cid'')'), ('conduit_events_after(0, 0)'), ('conduit_rewrap(0)'),
	('conduit_grant(''nobody'', ''app'')'), ('conduit_grant(''pg_monitor'', ''root'')'), ('conduit_ungrant(''nobody'')')) v (statement),
	t.error('SELECT ' || statement) e;
SELECT e.* FROM (VALUES ('OAUTH2', '{"api_key": "k"}'), ('PASSWORD', '{"api_key": "k"}'), (NULL, '{"api_key": "k", "x": 1}'), (NULL, '{')) v (kind, secret),
	t.error(format('SELECT conduit_store_credential(%L, %L, %L)', :'active', kind, secret)) e;

-- The provider cannot be reached, or there is no client to ask it under.
SELECT conduit_store_credential(:'oauth', NULL, '{"refresh_token": "r"}') = :'oauth' AS stored;
SELECT state, message, substring(detail FROM '^\w+') AS code, detail ~ '^\w+ retry_after=\d+$' AS retry, hint
FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'oauth'));
SELECT status, has_credential, last_error, last_error_code, attempts FROM conduit_get_connection('alice', :'oauth');
-- In backoff nobody asks it again.
SELECT state, message, substring(detail FROM '^\w+') AS code FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'oauth'));
SELECT attempts FROM conduit_get_connection('alice', :'oauth');
SELECT conduit_store_credential(:'no_client', NULL, '{"refresh_token": "r"}') = :'no_client' AS stored;
SELECT state, message, substring(detail FROM '^\w+') AS code, hint FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'no_client'));
SELECT status, last_error, last_error_code FROM conduit_get_connection('alice', :'no_client');

-- While a valid token is at hand, that is a warning.
SELECT conduit_store_credential(:'oauth', NULL, '{"access_token": "a", "refresh_token": "r", "expires_in": 600}') = :'oauth' AS stored;
\set VERBOSITY terse
SELECT access_token FROM conduit_vend('alice', :'oauth', '1 hour');
\echo :SQLSTATE
\set VERBOSITY default
SELECT status, last_error, attempts FROM conduit_get_connection('alice', :'oauth');

-- Stored by a transaction that has not committed.
BEGIN;
SELECT conduit_store_credential(:'oauth', NULL, '{"refresh_token": "r"}') = :'oauth' AS stored;
SELECT * FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'oauth'));
ROLLBACK;

-- Library and SQL of different series.
BEGIN;
UPDATE pg_extension SET extversion = '999.0.0' WHERE extname = 'conduit';
ALTER FUNCTION conduit_vend COST 2;
SELECT * FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'active'));
UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'conduit';
ALTER FUNCTION conduit_vend COST 3;
SELECT * FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'active'));
ROLLBACK;
SELECT api_key FROM conduit_vend('alice', :'active');

-- What was sealed under a key that is gone, or has been tampered with.
BEGIN;
UPDATE conduit.credential SET access = overlay(access PLACING '\x6b39' FROM 7) WHERE connection_id = :'active';
SELECT * FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'active'));
ROLLBACK;
BEGIN;
UPDATE conduit.credential SET access = set_byte(access, octet_length(access) - 1, get_byte(access, octet_length(access) - 1) # 1)
WHERE connection_id = :'active';
SELECT * FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'active'));
ROLLBACK;
-- Every ciphertext is bound to its place.
SELECT column_name, e.state, e.message, e.detail
FROM (VALUES ('owner', 'mallory'), ('tenant', 'acme'), ('generation', '7'), ('origin', 'https://evil.example.com'), ('connector', 'binance')) v (column_name, value),
	t.error(format($$ DO $do$
		BEGIN
			UPDATE conduit.connection SET owner = CASE %1$L WHEN 'owner' THEN %2$L ELSE owner END,
				tenant = CASE %1$L WHEN 'tenant' THEN %2$L ELSE tenant END WHERE id = %3$L;
			UPDATE conduit.credential SET %1$I = %2$L WHERE connection_id = %3$L;
			PERFORM conduit_vend(owner, connection_id, tenant => tenant) FROM conduit.credential WHERE connection_id = %3$L;
		END $do$ $$, column_name, value, :'active')) e;
SELECT state, message, detail FROM t.error(format($$ DO $do$
	BEGIN
		UPDATE conduit.credential SET access = (SELECT access FROM conduit.credential WHERE connection_id = %L) WHERE connection_id = %L;
		PERFORM conduit_vend('alice', %2$L);
	END $do$ $$, :'expired', :'active'));
SELECT state, message, detail FROM t.error(format($$ DO $do$
	BEGIN
		UPDATE conduit.credential SET access = ''::bytea WHERE connection_id = %1$L;
		PERFORM conduit_vend('alice', %1$L);
	END $do$ $$, :'active'));

-- Refreshing is switched off.
ALTER SYSTEM SET conduit.refresh_enabled = off;
SELECT pg_reload_conf();
CALL t.wait_for($$ (SELECT paused = 'disabled' FROM conduit_health()) $$);
SELECT conduit_store_credential(:'oauth', NULL, '{"refresh_token": "r"}') = :'oauth' AS stored;
SELECT * FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'oauth'));
SELECT * FROM t.error('SELECT conduit_refresh_due()');
SELECT conduit_store_credential(:'oauth', NULL, '{"access_token": "a", "refresh_token": "r", "expires_in": 1}') = :'oauth' AS stored;
SELECT ok, paused FROM conduit_health();
SELECT severity, finding FROM conduit_doctor() WHERE finding <> 'egress_allow';
ALTER SYSTEM RESET conduit.refresh_enabled;
SELECT pg_reload_conf();
CALL t.wait_for($$ (SELECT paused IS NULL FROM conduit_health()) $$);
SELECT conduit_delete_connection('alice', :'oauth'), conduit_delete_connection('alice', :'no_client');

-- A clone: what refreshes there would make the original's tokens void.
CREATE TEMP TABLE identity AS SELECT * FROM conduit.setting WHERE name = 'identity';
UPDATE conduit.setting SET value = 'another' WHERE name = 'identity';
SELECT pg_reload_conf();
CALL t.wait_for($$ (SELECT paused = 'not adopted' FROM conduit_health()) $$);
SELECT severity, finding, detail, hint FROM conduit_doctor() WHERE severity = 'error';
SELECT * FROM t.error('SELECT conduit_refresh_due()');
SELECT api_key FROM conduit_vend('alice', :'active');
SELECT conduit_adopt();
CALL t.wait_for($$ (SELECT paused IS NULL FROM conduit_health()) $$);
SELECT s.value = i.value AS own FROM conduit.setting s JOIN identity i USING (name);

-- A key of the keyring that is not the one rows were sealed under.
UPDATE conduit.key SET check_value = set_byte(check_value, 0, get_byte(check_value, 0) # 1);
\c
SET search_path = broker;
SELECT * FROM t.error(format('SELECT conduit_store_credential(%L, NULL, ''{"api_key": "k"}'')', :'active'));
SELECT severity, finding, detail FROM conduit_doctor() WHERE finding <> 'egress_allow';
SELECT key_id, is_primary, in_keyring, state FROM conduit_keyring();
UPDATE conduit.key SET check_value = set_byte(check_value, 0, get_byte(check_value, 0) # 1);
SELECT conduit_store_credential(:'active', NULL, '{"api_key": "k"}') = :'active' AS stored;
SELECT key_id, is_primary, in_keyring, state, blobs > 0 AS in_use FROM conduit_keyring();

-- No keyring at all: sessions begun after the file was gone find the vault
-- locked.  That the worker has seen the new settings tells that all have.
ALTER SYSTEM SET conduit.keyring_file = '/nonexistent/keyring';
ALTER SYSTEM SET conduit.refresh_enabled = off;
SELECT pg_reload_conf();
CALL t.wait_for($$ (SELECT paused = 'disabled' FROM conduit_health()) $$);
\c
SET search_path = broker;
SELECT statement, e.* FROM (VALUES ('conduit_vend(''alice'', %L)'), ('conduit_store_credential(%L, NULL, ''{"api_key": "k"}'')'),
	('conduit_set_client(''oauth'', ''cid'', ''s'')'), ('conduit_rewrap()'), ('conduit_adopt()'),
	('conduit_get_connection(''alice'', %L)'), ('conduit_vend(''mallory'', %L)')) v (statement),
	t.error('SELECT ' || format(statement, :'active')) e;
SELECT ok, paused, vault FROM conduit_health();
SELECT severity, finding FROM conduit_doctor() WHERE finding <> 'egress_allow';
ALTER SYSTEM RESET conduit.keyring_file;
ALTER SYSTEM RESET conduit.refresh_enabled;
SELECT pg_reload_conf();
CALL t.wait_for($$ (SELECT paused IS NULL FROM conduit_health()) $$);
\c
SET search_path = broker;
SELECT api_key FROM conduit_vend('alice', :'active');

-- No slot is left for a worker: two databases have taken them.
SELECT current_database() AS db \gset
CREATE DATABASE conduit_second;
CREATE DATABASE conduit_third;
\c conduit_second
CREATE EXTENSION conduit CASCADE;
SELECT conduit_create_connection('alice', 'alpaca') IS NOT NULL AS created;
DO $$
BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT worker = 'running' FROM conduit_health());
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
\c conduit_third
CREATE EXTENSION conduit CASCADE;
DO $$
BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT worker = 'no slot' FROM conduit_health());
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
SELECT ok, worker FROM conduit_health();
SELECT severity, finding FROM conduit_doctor() WHERE severity = 'error';
SELECT conduit_create_connection('alice', 'alpaca') AS id \gset
SELECT conduit_store_credential(:'id', NULL, '{"api_key": "k"}');
\echo :SQLSTATE
SELECT conduit_refresh_due();
\echo :SQLSTATE
\c :"db"
DROP DATABASE conduit_second;
DROP DATABASE conduit_third;

SET search_path = broker;
SELECT conduit_delete_owner('alice');
SELECT conduit_retire_client('oauth', 'cid');
DELETE FROM conduit.revocation;
SELECT conduit_drop_connector('no-client'), conduit_drop_connector('oauth');
