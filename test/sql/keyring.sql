-- The keyring: a new primary key, rewrapping, and a former key's end.  The
-- last of the tests, for it leaves another keyring behind.
SET search_path = broker;

SELECT conduit_register_connector('oauth', '{"auth_type": "oauth2_code",
	"authorize_url": "https://id.example.com/authorize", "token_url": "http://127.0.0.1:1/token", "revoke_url": "http://127.0.0.1:1/revoke", "revokes": "token"}');
SELECT conduit_set_client('oauth', 'cid', 'a secret');
SELECT conduit_create_connection('alice', 'oauth') AS oauth, conduit_create_connection('alice', 'alpaca') AS key,
	conduit_create_connection('alice', 'oauth', 'gone') AS gone
\gset
SELECT conduit_store_credential(:'oauth', NULL, '{"access_token": "a", "refresh_token": "r"}') = :'oauth' AS stored;
SELECT conduit_store_credential(:'key', NULL, '{"api_key": "k"}') = :'key' AS stored;
ALTER SYSTEM SET conduit.refresh_enabled = off;
SELECT pg_reload_conf();
CALL t.wait_for($$ (SELECT paused = 'disabled' FROM conduit_health()) $$);
SELECT conduit_store_credential(:'gone', NULL, '{"access_token": "a", "refresh_token": "r"}') = :'gone' AS stored;
SELECT conduit_delete_connection('alice', :'gone');
SELECT key_id, is_primary, in_keyring, state, blobs FROM conduit_keyring();

-- A second key, the primary from now on: sessions begun later seal under it,
-- once the worker has written down its check value.
SELECT current_setting('conduit.keyring_file') AS ring \gset
CREATE TABLE t.ring (line text);
COPY t.ring FROM :'ring';
INSERT INTO t.ring VALUES ('*k2:' || encode(crypto.gen_random_bytes(32), 'base64')), ('# two keys'), ('');
COPY t.ring TO :'ring';
ALTER SYSTEM RESET conduit.refresh_enabled;
SELECT pg_reload_conf();
CALL t.wait_for($$ (SELECT paused IS NULL FROM conduit_health()) $$);
ALTER SYSTEM SET conduit.refresh_enabled = off;
SELECT pg_reload_conf();
CALL t.wait_for($$ (SELECT paused = 'disabled' FROM conduit_health()) $$);
\c
SET search_path = broker;
SELECT key_id, is_primary, in_keyring, state IN ('good', 'unused') AS usable, blobs FROM conduit_keyring();
SELECT access_token, generation FROM conduit_vend('alice', :'oauth');
SELECT conduit_store_credential(:'key', NULL, '{"api_key": "k2"}') = :'key' AS stored;
SELECT key_id, is_primary, in_keyring, state, blobs FROM conduit_keyring();

-- Rewrapped a few at a time, to the last: credentials, clients, revocations.
SELECT conduit_rewrap(1);
SELECT key_id, state, blobs FROM conduit_keyring();
SELECT conduit_rewrap(NULL);
SELECT conduit_rewrap();
SELECT key_id, state, blobs FROM conduit_keyring();
SELECT access_token, generation FROM conduit_vend('alice', :'oauth');

-- The former key goes; what is left of it is its check value.
DELETE FROM t.ring WHERE line LIKE 'k1:%';
COPY t.ring TO :'ring';
\c
SET search_path = broker;
SELECT key_id, is_primary, in_keyring, state, blobs FROM conduit_keyring();
SELECT access_token, generation FROM conduit_vend('alice', :'oauth');
SELECT api_key FROM conduit_vend('alice', :'key');
SELECT severity, finding FROM conduit_doctor() WHERE finding LIKE 'key%';

-- What the file may not be: the former ring is kept by sessions that have it,
-- new ones have none.
CREATE PROCEDURE t.ring(line text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('COPY (SELECT unnest(%L::text[])) TO %L', string_to_array(line, '/'), current_setting('conduit.keyring_file'));
END
$$;
CALL t.ring('k2 no colon');
\c
SET search_path = broker;
SELECT vault FROM conduit_health();
SELECT * FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'key'));
CALL t.ring('k2:c2hvcnQ=');
\c
SET search_path = broker;
SELECT vault FROM conduit_health();
SELECT severity, finding FROM conduit_doctor() WHERE finding LIKE 'key%';
CALL t.ring('');
\c
SET search_path = broker;
SELECT vault FROM conduit_health();
COPY t.ring TO :'ring';
\c
SET search_path = broker;
SELECT vault FROM conduit_health();
SELECT api_key FROM conduit_vend('alice', :'key');

SELECT conduit_delete_owner('alice');
SELECT conduit_retire_client('oauth', 'cid');
DELETE FROM conduit.revocation;
SELECT conduit_drop_connector('oauth');
ALTER SYSTEM RESET conduit.refresh_enabled;
SELECT pg_reload_conf();
