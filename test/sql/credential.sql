-- Credentials: what is stored, and what is vended of it.
SET search_path = broker;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- Nothing answers at these endpoints, and nothing here asks them.
SELECT conduit_register_connector('oauth', '{"auth_type": "oauth2_code",
	"authorize_url": "https://id.example.com/authorize", "token_url": "http://127.0.0.1:1/token"}');
SELECT conduit_register_connector('key', '{"auth_type": "api_key"}');
SELECT conduit_register_connector('login', '{"auth_type": "basic"}');
SELECT conduit_create_connection('alice', 'oauth') AS oauth, conduit_create_connection('alice', 'key') AS key,
	conduit_create_connection('alice', 'login') AS login
\gset

-- Stores a secret and shows what comes of it, whether an error or a vend.
CREATE FUNCTION pg_temp.try(connection uuid, kind text, secret text, OUT error text, OUT vended jsonb)
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM conduit_store_credential(connection, kind, secret);
	SELECT jsonb_strip_nulls(to_jsonb(v) - 'generation') INTO vended FROM conduit_vend('alice', connection) v;
EXCEPTION WHEN OTHERS THEN
	DECLARE
		detail text;
	BEGIN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
		error := concat_ws('|', SQLSTATE, SQLERRM, detail);
	END;
END
$$;

-- API keys and logins, in both spellings; other keys are refused.
SELECT secret, t.* FROM (VALUES
	('{"api_key": "k"}'), ('{"apiKey": "k", "apiSecret": "s"}'), ('{"api_key": "k", "api_secret": "s"}'),
	('{"api_key": "k", "api_secret": null}'), ('{"api_secret": "s"}'), ('{"api_key": ""}'), ('{"api_key": null}'),
	('{"api_key": 1}'), ('{"api_key": ["k"]}'), ('{"api_key": "k", "apiKey": "l"}'), ('{"api_key": "k", "api_key": "l"}'),
	('{"api_key": "k", "note": "n"}'), ('{"API_KEY": "k"}'), ('{"access_token": "a"}'), ('{}'),
	('{"api_key": "k", "expires_at": "2034-01-01"}'), ('{"api_key": "k", "expiresAt": 1e9}'),
	('{"api_key": "k", "expires_at": "soon"}'), ('{"api_key": "k", "expires_at": null}')) v (secret),
	pg_temp.try(:'key', 'API_KEY', secret) t;
SELECT secret, t.* FROM (VALUES
	('{"username": "u", "password": "p"}'), ('{"username": "u"}'), ('{"password": "p"}'), ('{"username": "u", "password": ""}'),
	('{"userName": "u"}'), ('{"username": "u", "api_key": "k"}'), ('{"username": "ü \u00e4 \ud83d\ude00 \"\\\/"}')) v (secret),
	pg_temp.try(:'login', 'BASIC', secret) t;

-- A provider's token response as it is, and in camel case.
SELECT secret, t.* FROM (VALUES
	('{"access_token": "a"}'), ('{"access_token": "a", "token_type": "bearer", "scope": "read write", "expires_in": 0}'),
	('{"access_token": "a", "token_type": "mac", "refresh_token": "r"}'), ('{"accessToken": "a", "refreshToken": "r", "tokenType": "Bearer"}'),
	('{"access_token": "a", "scope": ["read", "write"]}'), ('{"access_token": "a", "token_type": "User Access Token"}'),
	('{"token_type": "bearer"}'), ('{}'), ('{"access_token": ""}'), ('{"access_token": 5}'), ('{"access_token": "a\nb"}'),
	('{"access_token": "a", "access_token": "b"}'), ('{"access_token": "a", "accessToken": "b"}'),
	('{"api_key": "k"}')) v (secret),
	pg_temp.try(:'oauth', 'OAUTH2', secret) t;

-- What is not mapped is kept as extra, but nothing that is named like a secret.
SELECT secret, t.vended -> 'extra' AS extra FROM (VALUES
	('{"access_token": "a", "instance_url": "https://x.example.com", "n": 1.50, "flag": true, "none": null}'),
	('{"access_token": "a", "id_token": "secret", "client_secret": "secret", "refresh_token": "secret", "idToken": "secret"}'),
	('{"access_token": "a", "user": {"id": 1, "refresh_token": "secret", "list": [{"ID-Token": "secret", "name": "n"}]}}'),
	('{"access_token": "a", "old_refresh_token": "secret", "client_secret_basic": "secret"}'),
	('{"access_token": "a", "error": "none", "created_at": 1, "expires_at": 4000000000, "refresh_token_expires_in": 10}'),
	('{"access_token": "a", "big": 1e400000}')) v (secret),
	pg_temp.try(:'oauth', 'OAUTH2', secret) t;

-- Kinds: the connector's, under its name or none.
SELECT connection, kind, t.error FROM (VALUES ('key', 'API_KEY'), ('key', NULL), ('key', 'OAUTH2'), ('key', 'BASIC'), ('key', 'api_key'),
	('key', ''), ('key', 'PASSWORD'), ('oauth', 'API_KEY'), ('login', 'OAUTH2'), ('login', NULL)) v (connection, kind),
	pg_temp.try(conduit_find_connection('alice', connection), kind,
		CASE connection WHEN 'login' THEN '{"username": "u"}' ELSE '{"api_key": "k"}' END) t;

-- What is no JSON object is refused without a word of it.
SELECT left(secret, 40) AS secret, t.* FROM (VALUES
	('{"api_key": "canary"'), ('canary'), ('"canary"'), ('["canary"]'), ('{"api_key": canary}'), ('{api_key: "canary"}'),
	('{''api_key'': "canary"}'), ('{"api_key": "canary"} {}'), ('{"api_key": "canary",}'), ('{"api_key": "canary\x"}'),
	('{"api_key": "canary\u0000"}'), ('{"api_key": "canary\ud83d"}'), (E'{"api_key": "canary\x01"}'), ('{"canary": "k"}'),
	('{"api_key": "k", "canary": "k", "canary": "l"}'), (''), (' '), ('null'), (NULL),
	('{"api_key": "' || repeat('canary', 50000) || '"}'), (repeat('[', 100000))) v (secret),
	pg_temp.try(:'key', NULL, secret) t;
\set SHOW_CONTEXT always
SELECT conduit_store_credential(:'key', NULL, '{"api_key": "canary"');
\echo :SQLSTATE
\set SHOW_CONTEXT errors

-- When it expires: in the forms that providers use.
SELECT form, t.error, t.vended ->> 'expires_at' AS expires_at FROM (VALUES
	('"2034-05-06T07:08:09Z"'), ('"2034-05-06T07:08:09.25Z"'), ('"2034-05-06T07:08:09+02:00"'), ('"2034-05-06T07:08:09-0330"'),
	('"2034-05-06 07:08:09"'), ('"2034-05-06T07:08Z"'), ('"2034-05-06"'), ('2030512089'), ('"2030512089"'), ('2030512089.5'),
	('2030512089000'), ('2030512089000000'), ('"May 6, 2034"'), ('"2034-13-06"'), ('"2034-02-30"'), ('"tomorrow"'), ('""'),
	('0'), ('-1'), ('true'), ('{}'), ('"infinity"')) v (form),
	pg_temp.try(:'key', NULL, format('{"api_key": "k", "expires_at": %s}', form)) t;
SELECT form, t.error, round(extract('epoch' FROM (t.vended ->> 'expires_at')::timestamptz - now()) / 60) AS minutes
FROM (VALUES ('"expires_in": 3600', now()), ('"expiresIn": "3600"', NULL), ('"expires_in": 0', NULL), ('"expires_in": -5', NULL),
	('"expires_in": null', NULL), ('"expires_in": 1e30', NULL),
	('"expires_in": 7200, "issued_at": %s', now() - interval '1 hour'),
	('"expires_in": 7200, "created_at": "%s"', now() - interval '1 hour'),
	('"expires_in": 7200, "created_at": %s', now() + interval '1 hour'),
	('"expires_in": 7200, "issued_at": %s', now() - interval '3 hours'),
	('"expires_in": 60, "expires_at": %s', now() + interval '1 hour'),
	('"expiresAt": %s000', now() + interval '1 hour'), ('"expires_at": %s', now() - interval '1 second')) v (form, at),
	pg_temp.try(:'oauth', NULL, format('{"access_token": "a", ' || form || '}', round(extract('epoch' FROM at)))) t;

-- An access token that is a JWT says itself when it dies.
SELECT t.vended ->> 'expires_at' AS expires_at FROM pg_temp.try(:'oauth', NULL, format('{"access_token": "e30.%s.c2ln"}',
	rtrim(translate(encode('{"exp": 2030512089, "iat": 2030508489}', 'base64'), '+/', '-_'), '='))) t;

-- Expired, with nothing to renew it: its owner has to authorize again.
SELECT conduit_store_credential(:'oauth', NULL, '{"access_token": "a", "expires_at": 1000000000}') = :'oauth' AS stored;
SELECT * FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'oauth'));
SELECT status, has_credential, refreshable FROM conduit_get_connection('alice', :'oauth');

-- Scopes: all that are asked for must have been granted.
SELECT conduit_store_credential(:'oauth', NULL, '{"access_token": "a", "scope": "read write:all"}') = :'oauth' AS stored;
SELECT scopes, e.* FROM (VALUES (NULL), ('{}'), ('{read}'), ('{write:all,read}'), ('{read,NULL}'), ('{write}'), ('{read,delete}'), ('{""}'),
	('{"read write:all"}'), ('{Read}')) v (scopes),
	t.error(format('SELECT conduit_vend(''alice'', %L, NULL, %L)', :'oauth', scopes)) e;
SELECT conduit_store_credential(:'oauth', NULL, '{"access_token": "a"}') = :'oauth' AS stored;
SELECT state, message, detail FROM t.error(format('SELECT conduit_vend(''alice'', %L, scopes => ''{read}'')', :'oauth'));

-- min_ttl: no more than a wish where there is nothing to refresh with.
SELECT conduit_store_credential(:'oauth', NULL, '{"access_token": "a", "expires_in": 600}') = :'oauth' AS stored;
SELECT min_ttl, e.state, e.message, e.detail FROM (VALUES (NULL), ('1 second'), ('1 year'), ('0'), ('-1 second'), ('-1 month 40 days')) v (min_ttl),
	t.error(format('SELECT conduit_vend(''alice'', %L, %L)', :'oauth', min_ttl)) e;

-- A vend in the transaction that stored; its generations are one row's.
BEGIN;
SELECT conduit_create_connection('alice', 'key', 'new') AS new \gset
SELECT conduit_store_credential(:'new', NULL, '{"api_key": "k1"}') = :'new' AS stored;
SELECT api_key, generation FROM conduit_vend('alice', :'new');
SELECT conduit_store_credential(:'new', NULL, '{"api_key": "k2"}') = :'new' AS stored;
SELECT api_key, generation FROM conduit_vend('alice', :'new');
SAVEPOINT s;
SELECT conduit_store_credential(:'new', NULL, '{"api_key": "k3"}') = :'new' AS stored;
SELECT api_key, generation FROM conduit_vend('alice', :'new');
ROLLBACK TO s;
SELECT api_key, generation FROM conduit_vend('alice', :'new');
COMMIT;
SELECT api_key, generation FROM conduit_vend('alice', :'new');

-- ... but what has to be refreshed first, the worker cannot see there.
BEGIN;
SELECT conduit_store_credential(:'oauth', NULL, '{"refresh_token": "r"}') = :'oauth' AS stored;
SELECT * FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'oauth'));
SELECT * FROM t.error(format('SELECT conduit_refresh(''alice'', %L)', :'oauth'));
SELECT conduit_store_credential(:'oauth', NULL, '{"access_token": "a", "refresh_token": "r", "expires_in": 30}') = :'oauth' AS stored;
SELECT access_token FROM conduit_vend('alice', :'oauth', '1 hour');
ROLLBACK;

-- A warm vend neither writes nor takes a transaction id.
BEGIN READ ONLY;
SELECT access_token FROM conduit_vend('alice', :'oauth');
SELECT api_key FROM conduit_vend('alice', :'key');
SELECT count(*) FROM conduit_list_connections('alice');
SELECT conduit_find_connection('alice', 'oauth') = :'oauth' AS found;
SELECT state, message FROM t.error(format('SELECT conduit_store_credential(%L, NULL, ''{"api_key": "canary"}'')', :'key'));
COMMIT;
BEGIN;
SELECT access_token FROM conduit_vend('alice', :'oauth');
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT access_token FROM conduit_vend('alice', :'oauth');
COMMIT;

-- conduit_refresh has nothing to do for what cannot be refreshed.
SELECT refreshed, expires_at IS NULL AS forever, generation FROM conduit_refresh('alice', :'key');
SELECT refreshed FROM conduit_refresh('alice', :'oauth', 1);
SELECT conduit_refresh_due(0), conduit_refresh_due(-1), conduit_refresh_due(5), conduit_refresh_due(NULL, NULL);

-- Called as applications do.
PREPARE store (uuid, text, text) AS SELECT conduit_store_credential($1, $2, $3) = $1 AS stored;
PREPARE vend (text, uuid) AS SELECT api_key FROM conduit_vend($1, $2);
SET plan_cache_mode = force_generic_plan;
EXECUTE store (:'key', 'API_KEY', '{"api_key": "prepared"}');
EXECUTE vend ('alice', :'key');
SET plan_cache_mode = force_custom_plan;
EXECUTE store (:'key', NULL, '{"api_key": "prepared again"}');
EXECUTE vend ('alice', :'key');
RESET plan_cache_mode;
SELECT (conduit_vend('alice', :'key')).api_key;
SELECT c.account, v.api_key FROM conduit_list_connections('alice', 'key') c, conduit_vend('alice', c.id) v ORDER BY 2;
CREATE FUNCTION pg_temp.headers(connection uuid) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	vended record;
	key text;
BEGIN
	SELECT * INTO vended FROM conduit_vend('alice', connection);
	key := (conduit_vend('alice', connection)).api_key;
	RETURN 'X-Key: ' || vended.api_key || CASE WHEN key = vended.api_key THEN '' ELSE ' ?' END;
EXCEPTION WHEN SQLSTATE 'PT404' THEN
	RETURN SQLERRM;
END
$$;
SELECT pg_temp.headers(:'key'), pg_temp.headers(gen_random_uuid());
DO $$
DECLARE
	id uuid := conduit_create_connection('alice', 'key', 'loop');
BEGIN
	FOR i IN 1..50 LOOP
		PERFORM conduit_store_credential(id, 'API_KEY', format('{"api_key": "%s"}', i));
		IF (conduit_vend('alice', id)).api_key <> i::text THEN
			RAISE 'not the one that was stored';
		END IF;
	END LOOP;
	RAISE NOTICE 'generation %', (conduit_vend('alice', id)).generation;
END
$$;

-- NULL is the default.
SELECT api_key FROM conduit_vend('alice', :'key', NULL, NULL, NULL);
SELECT conduit_store_credential(:'key', NULL, '{"api_key": "default"}', NULL) = :'key' AS stored;
SELECT refreshed FROM conduit_refresh('alice', :'key', NULL, NULL);
SELECT state, message, detail FROM t.error(format('SELECT conduit_vend(NULL, %L)', :'key'));
SELECT state, message, detail FROM t.error('SELECT conduit_vend(''alice'', NULL)');
SELECT state, message, detail FROM t.error('SELECT conduit_store_credential(NULL, NULL, ''{"api_key": "canary"}'')');

-- Large secrets, and those beyond the limit.
SELECT length(t.vended ->> 'access_token'), t.error
FROM (VALUES (65536), (65537)) v (n), pg_temp.try(:'oauth', NULL, format('{"access_token": "%s"}', repeat('a', n))) t;
SELECT length(t.vended ->> 'api_key'), t.error
FROM (VALUES (200000), (262144)) v (n), pg_temp.try(:'key', NULL, format('{"api_key": "%s"}', repeat('k', n))) t;

-- Nothing is stored in clear.
SELECT count(*) AS rows, count(*) FILTER (WHERE position('default'::bytea IN access) > 0) AS in_clear FROM conduit.credential;

-- Rows are written without a statement; but what somebody has done to a table
-- works as with one: triggers of all kinds, and indexes of all kinds.
CREATE FUNCTION pg_temp.kept(OUT writers bigint) LANGUAGE sql
	AS $$SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'conduit direct writer'$$;
CREATE FUNCTION pg_temp.store(connection uuid, scope text, OUT error text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM conduit_store_credential(connection, 'OAUTH2', format('{"access_token": "a", "scope": "%s"}', scope));
EXCEPTION WHEN OTHERS THEN
	error := concat_ws('|', SQLSTATE, SQLERRM);
END
$$;
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_LEVEL = 'ROW' THEN
		RAISE NOTICE 'row: %', NEW.scope;
	ELSE
		RAISE NOTICE 'statement: %', (SELECT string_agg(scope, ',') FROM written);
	END IF;
	RETURN NULL;
END
$$;
CREATE FUNCTION resist() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not now'; END$$;
SELECT pg_temp.store(:'oauth', 'one'), pg_temp.store(:'oauth', 'two');
SELECT writers AS before FROM pg_temp.kept() \gset

CREATE TRIGGER of_row AFTER UPDATE OF scope ON conduit.credential FOR EACH ROW EXECUTE FUNCTION told();
CREATE TRIGGER of_statement AFTER UPDATE ON conduit.credential REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION told();
SELECT pg_temp.store(:'oauth', 'three');
DROP TRIGGER of_statement ON conduit.credential;
CREATE TRIGGER resist BEFORE UPDATE ON conduit.credential FOR EACH ROW EXECUTE FUNCTION resist();
SELECT pg_temp.store(:'oauth', 'four'), pg_temp.store(:'oauth', 'five');
DROP TRIGGER resist ON conduit.credential;
DROP TRIGGER of_row ON conduit.credential;
SELECT writers - :before AS left_over FROM pg_temp.kept();
SELECT pg_temp.store(:'oauth', 'six');

-- An error amidst a write leaves nothing half done for the next one.
ALTER TABLE conduit.credential ADD CONSTRAINT not_this CHECK (scope <> 'this');
SELECT pg_temp.store(:'oauth', 'seven');
SELECT pg_temp.store(:'oauth', 'this');
SELECT writers - :before AS more FROM pg_temp.kept();
SELECT pg_temp.store(:'oauth', 'that');
SELECT writers - :before AS more FROM pg_temp.kept();
ALTER TABLE conduit.credential DROP CONSTRAINT not_this;

-- Some kinds of indexes keep things of the open relation where a writer would keep them, too.
CREATE INDEX by_scope ON conduit.credential USING gin (string_to_array(scope, ' '));
SELECT pg_temp.store(:'oauth', 'eight nine'), pg_temp.store(:'oauth', 'ten nine');
SELECT writers - :before AS more FROM pg_temp.kept();
SET enable_seqscan = off;
SELECT scope FROM conduit.credential WHERE string_to_array(scope, ' ') @> '{nine}';
RESET enable_seqscan;
DROP INDEX conduit.by_scope;
SELECT pg_temp.store(:'oauth', 'eleven');
SELECT writers - :before AS more FROM pg_temp.kept();
DROP FUNCTION told, resist;

-- A connection begins under the client of today.  Where there is none any more
-- when its first credential comes, it stands under none.
SELECT conduit_set_client('oauth', 'former', 'secret', '{https://app.example.com/callback}');
SELECT conduit_create_connection('alice', 'oauth', 'a1') AS early, conduit_create_connection('alice', 'oauth', 'a2') AS late
\gset
SELECT conduit_store_credential(:'late', NULL, '{"access_token": "a"}') = :'late' AS stored;
SELECT detail FROM t.error('SELECT conduit_retire_client(''oauth'', ''former'')');
SELECT conduit_delete_connection('alice', :'late'), conduit_retire_client('oauth', 'former');
SELECT client_id FROM conduit.connection WHERE id = :'early';
SELECT error FROM conduit_import('oauth', '[{"owner": "alice", "account": "a1", "secret": {"access_token": "a", "refresh_token": "r"}}]');
SELECT client_id FROM conduit.connection WHERE id = :'early';

SELECT conduit_delete_owner('alice');
SELECT count(*) FROM conduit.credential;
DELETE FROM conduit.revocation;
SELECT conduit_drop_connector('oauth'), conduit_drop_connector('key'), conduit_drop_connector('login');
