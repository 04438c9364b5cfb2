-- Connections: their life, who sees which, and how they are found.
SET search_path = broker;
SET timezone = 'UTC';

SELECT conduit_register_connector('desk', '{
	"auth_type": "oauth2_code", "name": "Desk",
	"authorize_url": "https://{subdomain}.desk.example.com/authorize",
	"token_url": "https://{subdomain}.desk.example.com/token", "revoke_url": "https://{subdomain}.desk.example.com/revoke", "revokes": "token",
	"api_base_url": "https://{subdomain}.desk.example.com/api/{version}",
	"params": {"subdomain": {"pattern": "^[a-z][a-z0-9-]*$"}, "version": {"pattern": "^v[0-9]+$", "default": "v2"}}}');

-- One life, from creation to deletion.
SELECT conduit_create_connection('alice', 'desk', '4711', '{"subdomain": "acme"}', '{"label": "Work", "n": 1.50}') AS id \gset
SELECT owner, connector, account, account_label, status, status_reason, scopes, requested_scopes, params, metadata,
	has_credential, refreshable, expires_at, refresh_at, last_refreshed_at, last_used_at, last_error, last_error_code,
	last_error_at, attempts, generation, created_at = updated_at AS unchanged, created_at > now() - interval '1 minute' AS just_created
FROM conduit_get_connection('alice', :'id')
\gx
SELECT conduit_store_credential(:'id', NULL, '{"access_token": "a", "scope": "tickets:read tickets:write", "expires_in": 3600}') = :'id' AS stored;
SELECT status, scopes, has_credential, refreshable, expires_at > now() + interval '59 minutes' AS expires, refresh_at, generation
FROM conduit_get_connection('alice', :'id');
SELECT conduit_store_credential(:'id', NULL, '{"access_token": "a", "refresh_token": "r", "expires_in": 3600}') = :'id' AS stored;
SELECT scopes, has_credential, refreshable, expires_at > refresh_at AS refreshed_before, attempts, generation
FROM conduit_get_connection('alice', :'id');
SELECT conduit_find_connection('alice', 'desk', '4711') = :'id' AS found;

SELECT conduit_update_connection('alice', :'id', metadata => '{"label": "Home"}');
SELECT account, params, metadata, has_credential FROM conduit_get_connection('alice', :'id');
SELECT conduit_update_connection('alice', :'id', '4712', '{"subdomain": "acme", "version": "v3"}');
SELECT account, params, metadata, has_credential, updated_at > created_at AS changed FROM conduit_get_connection('alice', :'id');
SELECT conduit_update_connection('alice', :'id', NULL, NULL, NULL, NULL);
SELECT account, params, metadata, has_credential FROM conduit_get_connection('alice', :'id');

-- params that lead to another host: the credential was not made for that one.
SELECT access_token, generation FROM conduit_vend('alice', :'id');
SELECT conduit_update_connection('alice', :'id', params => '{"subdomain": "umbrella"}');
SELECT params, status, has_credential, generation FROM conduit_get_connection('alice', :'id');
SELECT * FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'id'));
SELECT conduit_store_credential(:'id', NULL, '{"access_token": "b"}') = :'id' AS stored;
SELECT access_token, generation FROM conduit_vend('alice', :'id');

SELECT conduit_revoke_connection('alice', :'id');
SELECT status, status_reason, has_credential, refreshable, generation FROM conduit_get_connection('alice', :'id');
SELECT conduit_revoke_connection('alice', :'id');
SELECT state, message, detail FROM t.error(format('SELECT conduit_vend(''alice'', %L)', :'id'));
SELECT state, message, detail FROM t.error(format('SELECT conduit_store_credential(%L, NULL, ''{"access_token": "c"}'')', :'id'));
SELECT state, message, detail FROM t.error(format('SELECT conduit_update_connection(''alice'', %L, ''4713'')', :'id'));
SELECT state, message FROM t.error($$ SELECT conduit_find_connection('alice', 'desk', '4712') $$);
SELECT conduit_delete_connection('alice', :'id');
SELECT state, message FROM t.error(format('SELECT conduit_get_connection(''alice'', %L)', :'id'));
SELECT state, message FROM t.error(format('SELECT conduit_delete_connection(''alice'', %L)', :'id'));

-- What was destroyed is queued for revocation at the provider, sealed as it was.
SELECT generation, params, access IS NOT NULL AS access, refresh IS NOT NULL AS refresh
FROM conduit.revocation WHERE connection_id = :'id' ORDER BY generation;

-- Each change of state is an event; the worker gives numbers in the order of commits.
CALL t.wait_for($$ NOT EXISTS (SELECT FROM conduit.event WHERE seq IS NULL) $$);
SELECT kind, owner, connector, account, old_status, new_status, reason
FROM conduit_events_after(NULL) WHERE connection_id = :'id' ORDER BY seq;

-- Unique by tenant, owner, connector and account, where that is known.
SELECT conduit_create_connection('bob', 'alpaca', 'one') AS one \gset
SELECT * FROM t.error($$ SELECT conduit_create_connection('bob', 'alpaca', 'one') $$);
SELECT count(DISTINCT id) FROM (SELECT conduit_create_connection(o, c, a, NULL, NULL, t) FROM
	(VALUES ('bob', 'alpaca', 'two', NULL), ('bob', 'binance', 'one', NULL), ('carol', 'alpaca', 'one', ''),
		('bob', 'alpaca', 'one', 'acme'), ('bob', 'alpaca', NULL, NULL), ('bob', 'alpaca', NULL, NULL),
		('bob', 'alpaca', '', NULL)) v (o, c, a, t)) n (id);
SELECT * FROM t.error(format('SELECT conduit_update_connection(''bob'', %L, ''two'')', :'one'));
SELECT conduit_update_connection('bob', :'one', 'one');
SELECT conduit_revoke_connection('bob', :'one');
SELECT conduit_create_connection('bob', 'alpaca', 'one') <> :'one' AS another;

-- Found by account; without one only where there is no choice.
SELECT * FROM t.error($$ SELECT conduit_find_connection('bob', 'alpaca') $$);
SELECT * FROM t.error($$ SELECT conduit_find_connection('bob', 'alpaca', 'three') $$);
SELECT * FROM t.error($$ SELECT conduit_find_connection('bob', 'nobody') $$);
SELECT account FROM conduit_get_connection('bob', conduit_find_connection('bob', 'binance'));
SELECT account FROM conduit_get_connection('carol', conduit_find_connection('carol', 'alpaca', NULL, NULL));
SELECT account FROM conduit_get_connection('bob', conduit_find_connection('bob', 'alpaca', NULL, 'acme'), 'acme');

-- Lists, whole and a page at a time.
SELECT connector, account, status FROM conduit_list_connections('bob');
SELECT connector, account, status FROM conduit_list_connections('bob', 'alpaca', 'ACTIVE') ORDER BY account;
SELECT connector, account, status FROM conduit_list_connections('bob', only_status => 'REVOKED');
SELECT count(*) FROM conduit_list_connections('bob', only_status => 'NEEDS_REAUTH');
SELECT count(*) FROM conduit_list_connections('bob', 'github');
SELECT connector, account, status FROM conduit_list_connections('bob', NULL, NULL, NULL, NULL, 'acme');
SELECT count(*) FROM conduit_list_connections('nobody');
WITH RECURSIVE page AS (
	SELECT 1 AS number, array_agg(id) AS ids FROM conduit_list_connections('bob', page_size => 3)
	UNION ALL
	SELECT number + 1, (SELECT array_agg(l.id) FROM conduit_list_connections('bob', after => ids[cardinality(ids)], page_size => 3) l)
	FROM page WHERE ids IS NOT NULL)
SELECT number, cardinality(ids) AS size, ids = (SELECT array_agg(id) FROM (
	SELECT id FROM conduit_list_connections('bob') LIMIT 3 OFFSET (number - 1) * 3) s) AS as_in_whole
FROM page;
SELECT s AS page_size, e.state, e.message, e.detail FROM (VALUES (0), (-1), (501), (500), (1)) v (s),
	t.error(format('SELECT count(*) FROM conduit_list_connections(''bob'', page_size => %s)', s)) e;
SELECT * FROM t.error($$ SELECT count(*) FROM conduit_list_connections('bob', only_status => 'active') $$);
SELECT state, message FROM t.error($$ SELECT count(*) FROM conduit_list_connections('bob', 'Alpaca') $$);

-- Every owner's: for roles that may vend.
CREATE ROLE regress_conduit_app;
CREATE ROLE regress_conduit_service;
SELECT conduit_grant('regress_conduit_app', 'app'), conduit_grant('regress_conduit_service', 'service');
SET ROLE regress_conduit_app;
SELECT count(*) FROM conduit_list_connections('carol');
SELECT count(*) FROM conduit_list_connections(NULL);
\echo :SQLSTATE
SET ROLE regress_conduit_service;
SELECT owner, connector, account, status FROM conduit_list_connections(NULL) ORDER BY owner, connector, status, account;
SELECT owner, connector, account FROM conduit_list_connections(NULL, tenant => 'acme');
SELECT owner, connector, account FROM conduit_list_connections(NULL, 'binance', 'ACTIVE');
RESET ROLE;
SELECT conduit_ungrant('regress_conduit_app'), conduit_ungrant('regress_conduit_service');
DROP ROLE regress_conduit_app, regress_conduit_service;

-- Tenants do not see each other.
SELECT conduit_create_connection('dave', 'alpaca', 'd', NULL, NULL, 'acme') AS dave \gset
SELECT s AS call, e.state, e.message, e.detail FROM (VALUES ('get_connection'), ('revoke_connection'), ('delete_connection')) v (s),
	t.error(format('SELECT conduit_%s(''dave'', %L, ''umbrella'')', s, :'dave')) e;
SELECT count(*) FROM conduit_list_connections('dave');
SELECT conduit_delete_owner('dave'), conduit_delete_owner('dave', 'umbrella'), conduit_delete_owner('dave', 'acme');

-- All of an owner's connections at once, no one else's.
SELECT conduit_delete_owner('bob');
SELECT count(*) FROM conduit_list_connections('bob');
SELECT count(*) FROM conduit_list_connections('carol');
SELECT count(*) FROM conduit_list_connections('bob', tenant => 'acme');
SELECT conduit_delete_owner('bob');

-- What is refused.
SELECT a AS arguments, e.*
FROM (VALUES ('NULL, ''alpaca'''), (''''', ''alpaca'''), ('''  '', ''alpaca'''), ('E''a\nb'', ''alpaca'''),
	('repeat(''o'', 1025), ''alpaca'''), ('repeat(''ö'', 513), ''alpaca'''),
	('''erin'', NULL'), ('''erin'', ''nobody'''), ('''erin'', ''GitHub'''),
	('''erin'', ''alpaca'', '' '''), ('''erin'', ''alpaca'', E''a\tb'''), ('''erin'', ''alpaca'', repeat(''a'', 1025)'),
	('''erin'', ''alpaca'', NULL, ''[]'''), ('''erin'', ''alpaca'', NULL, ''{"subdomain": "acme"}'''),
	('''erin'', ''alpaca'', NULL, NULL, ''"text"'''),
	('''erin'', ''alpaca'', NULL, NULL, jsonb_build_object(''a'', repeat(''x'', 65536))'),
	('''erin'', ''desk'''), ('''erin'', ''desk'', NULL, ''{}'''), ('''erin'', ''desk'', NULL, ''{"subdomain": 1}'''),
	('''erin'', ''desk'', NULL, ''{"subdomain": ""}'''), ('''erin'', ''desk'', NULL, ''{"subdomain": "Acme"}'''),
	('''erin'', ''desk'', NULL, ''{"subdomain": "a.evil.example/"}'''), ('''erin'', ''desk'', NULL, ''{"subdomain": "a\nb"}'''),
	('''erin'', ''desk'', NULL, ''{"subdomain": "acme", "version": "3"}'''),
	('''erin'', ''desk'', NULL, ''{"subdomain": "acme", "region": "eu"}'''),
	('''erin'', ''alpaca'', tenant => repeat(''t'', 256)'), ('''erin'', ''alpaca'', tenant => E''\x01''')) v (a),
	t.error(format('SELECT conduit_create_connection(%s)', a)) e;
SELECT conduit_create_connection('erin', 'desk', NULL, '{"subdomain": "acme"}') AS id \gset
SELECT p AS params, e.* FROM (VALUES ('{}'), ('[]'), ('{"subdomain": "A"}'), ('{"region": "eu"}')) v (p),
	t.error(format('SELECT conduit_update_connection(''erin'', %L, NULL, %L)', :'id', p)) e;
SELECT params FROM conduit_get_connection('erin', :'id');
SELECT state, message, detail FROM t.error($$ SELECT conduit_get_connection('erin', NULL) $$);
SELECT state, message, detail FROM t.error(format('SELECT conduit_get_connection(NULL, %L)', :'id'));
SELECT state, message, detail FROM t.error('SELECT conduit_delete_owner(NULL)');
SELECT conduit_delete_owner('erin');

-- A pattern that is anchored in parts only is anchored as a whole.
SELECT conduit_register_connector('either', '{"auth_type": "api_key", "api_base_url": "https://{region}.example.com/",
	"params": {"region": {"pattern": "^eu|us$"}}}');
SELECT state, message, detail FROM t.error($$ SELECT conduit_create_connection('erin', 'either', NULL, '{"region": "europe"}') $$);
SELECT state, message, detail FROM t.error($$ SELECT conduit_create_connection('erin', 'either', NULL, '{"region": "eu"}') $$);
SELECT conduit_delete_owner('erin');
SELECT conduit_drop_connector('either');

-- Ids are UUIDs of version 7, in the order of time.
SELECT bool_and(ordered) AS ordered, bool_and(version) AS version, bool_and(variant) AS variant, bool_and(now) AS now
FROM (SELECT id > lag(id, 1, '00000000-0000-0000-0000-000000000000') OVER (ORDER BY i) AS ordered,
		substr(id::text, 15, 1) = '7' AS version, substr(id::text, 20, 1) ~ '[89ab]' AS variant,
		abs(('x' || lpad(replace(left(id::text, 13), '-', ''), 16, '0'))::bit(64)::bigint / 1000 - extract('epoch' FROM now())) < 60 AS now
	FROM (SELECT i, conduit_create_connection('frank', 'alpaca') AS id FROM generate_series(1, 200) i OFFSET 0) s) o;
SELECT count(*) FROM conduit_list_connections('frank');
SELECT count(*) FROM conduit_list_connections('frank', page_size => 500);
SELECT conduit_delete_owner('frank');

SELECT conduit_delete_owner('carol'), conduit_delete_owner('bob', 'acme');
SELECT count(*) FROM conduit.connection;
DELETE FROM conduit.revocation;
SELECT conduit_drop_connector('desk');
