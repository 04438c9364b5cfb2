-- Connectors, and the clients they are used under.
SET search_path = broker;

-- The built-in ones; t/012_catalogue.pl looks into each.
SELECT count(*) >= 250 AS many, bool_and(builtin) AS builtin, bool_or(retired) AS retired, bool_and(name <> '') AS named
FROM conduit_connectors();
SELECT slug, name, auth_type, extends, builtin, retired FROM conduit_connectors()
WHERE slug IN ('alpaca', 'google', 'google-drive', 'okta-cc', 'stripe-api-key', 'zoho-desk');

-- Built-in ones are frozen.
SELECT * FROM t.error($$ SELECT conduit_register_connector('github', '{"auth_type": "api_key"}') $$);
SELECT * FROM t.error($$ SELECT conduit_drop_connector('github') $$);

-- extends: the rest is taken over, null takes away, and a chain is followed.
SELECT conduit_register_connector('house', '{
	"name": "House", "auth_type": "oauth2_code", "authorize_url": "https://id.example.com/authorize",
	"token_url": "https://id.example.com/token", "revoke_url": "https://id.example.com/revoke",
	"access_token_lifetime_s": 600, "dead_errors": ["gone"]}');
SELECT conduit_register_connector('house-eu', '{
	"extends": "house", "name": "House EU", "token_url": "https://id.example.eu/token", "revoke_url": null}');
SELECT conduit_register_connector('house-eu-test', '{"extends": "house-eu", "access_token_lifetime_s": 60}');
SELECT slug, extends, name, definition ->> 'token_url' AS token_url, definition ->> 'revoke_url' AS revoke_url,
	definition ->> 'access_token_lifetime_s' AS lifetime, definition -> 'dead_errors' AS dead, definition ? 'extends' AS has_extends
FROM conduit_connectors() WHERE slug LIKE 'house%';
SELECT conduit_register_connector('our-github', '{"extends": "github", "name": "Our GitHub"}');
SELECT o.definition = g.definition || '{"name": "Our GitHub"}' AS merged
FROM conduit_connectors() o, conduit_connectors() g WHERE o.slug = 'our-github' AND g.slug = 'github';

-- Registered again, a definition replaces the former one, for dependants too.
SELECT conduit_register_connector('house', '{
	"name": "Mansion", "auth_type": "oauth2_code", "authorize_url": "https://id.example.org/authorize",
	"token_url": "https://id.example.org/token", "dead_errors": ["dead"]}');
SELECT slug, extends, name, definition ->> 'authorize_url' AS authorize_url, definition ->> 'token_url' AS token_url,
	definition ->> 'access_token_lifetime_s' AS lifetime, definition -> 'dead_errors' AS dead
FROM conduit_connectors() WHERE slug LIKE 'house%';

-- ... unless it makes one of them invalid: then nothing has happened.
SELECT * FROM t.error($$ SELECT conduit_register_connector('house', '{"auth_type": "api_key"}') $$);
SELECT slug, auth_type FROM conduit_connectors() WHERE slug LIKE 'house%';

-- What extends must lead somewhere, and not back.
SELECT d AS definition, e.*
FROM (VALUES ('{"extends": "house"}'), ('{"extends": "house-eu-test"}'), ('{"extends": "nobody"}'),
	('{"extends": "No Slug"}'), ('{"extends": 1}')) v (d),
	t.error(format('SELECT conduit_register_connector(%L, %L)', 'house', d)) e;
DO $$
BEGIN
	FOR i IN 1..8 LOOP
		PERFORM conduit_register_connector('chain-' || i,
			CASE i WHEN 1 THEN '{"auth_type": "api_key"}' ELSE jsonb_build_object('extends', 'chain-' || i - 1) END);
	END LOOP;
END
$$;
SELECT * FROM t.error($$ SELECT conduit_register_connector('chain-9', '{"extends": "chain-8"}') $$);
SELECT * FROM t.error($$ SELECT conduit_register_connector('chain-10', '{"extends": "chain-9"}') $$);
SELECT conduit_register_connector('chain-1', '{"auth_type": "basic"}');
SELECT slug, auth_type FROM conduit_connectors() WHERE slug LIKE 'chain-%';
SELECT count(conduit_drop_connector('chain-' || i)) FROM generate_series(9, 1, -1) i;

-- A definition is refused with the name of the field that is wrong.
CREATE TEMP TABLE oauth AS SELECT '{"auth_type": "oauth2_code", "authorize_url": "https://a.example.com/authorize",
	"token_url": "https://a.example.com/token"}'::jsonb AS base;
SELECT d AS overriding, e.state, e.detail
FROM oauth, (VALUES
	('{"auth_type": null}'), ('{"auth_type": "oauth1"}'), ('{"auth_type": 2}'),
	('{"tokenurl": "https://a.example.com/"}'), ('{"odd \" name": 1}'), ('{"name": ""}'),
	('{"authorize_url": null}'), ('{"token_url": null}'),
	('{"token_url": "a.example.com/token"}'), ('{"token_url": "ftp://a.example.com/token"}'),
	('{"token_url": "http://a.example.com/token"}'), ('{"token_url": "https://10.0.0.1/token"}'),
	('{"token_url": "https://[::1]/token"}'), ('{"token_url": "https://user:pw@a.example.com/token"}'),
	('{"token_url": "https://a.example.com:8443/token"}'), ('{"token_url": "https://{where}.example.com/token"}'),
	('{"client_auth": "mtls"}'), ('{"pkce": "maybe"}'), ('{"scope_separator": "|"}'), ('{"refresh_rotates": 1}'),
	('{"access_token_lifetime_s": -1}'), ('{"access_token_lifetime_s": 1.5}'), ('{"access_token_lifetime_s": "60"}'),
	('{"refresh_lead_s": 1e9}'), ('{"dead_errors": "gone"}'), ('{"dead_errors": [1]}'), ('{"dead_statuses": [500]}'),
	('{"extra_token_params": {"grant_type": "x"}}'), ('{"extra_token_params": ["x"]}'),
	('{"extra_authorize_params": {"a": 1}}'), ('{"extra_authorize_params": {"a": "{b}"}}'),
	('{"api_auth": "Authorization"}'), ('{"api_auth": "Host: {token}"}'), ('{"api_auth": "Authorization: Bearer {secret}"}'),
	('{"params": ["a"]}'), ('{"params": {"A": {"pattern": "^a$"}}}'), ('{"params": {"a": {}}}'),
	('{"params": {"a": {"pattern": "a"}}}'), ('{"params": {"a": {"pattern": "^(a$"}}}'),
	('{"params": {"a": {"pattern": "^(a)\\1$"}}}'), ('{"params": {"a": {"pattern": "^a$", "default": "b"}}}'),
	('{"params": {"a": {"pattern": "^a$", "format": "b"}}}'), ('{"params": {"token": {"pattern": "^a$"}}}'),
	('{"rate_limit_requests": 5}'), ('{"rate_limit_requests": 0, "rate_limit_window_s": 1}'),
	('{"auth_type": "api_key"}')) v (d),
	t.error(format('SELECT conduit_register_connector(%L, %L)', 'refused', jsonb_strip_nulls(base || d::jsonb))) e;
SELECT count(*) FROM conduit_connectors() WHERE slug = 'refused';
SELECT conduit_register_connector('bare', '{"extends": null, "auth_type": "api_key", "name": null, "api_base_url": null}');
SELECT slug, name, auth_type, extends FROM conduit_connectors() WHERE slug = 'bare';
SELECT conduit_drop_connector('bare');

SELECT d AS definition, e.* FROM (VALUES (NULL), ('[]'), ('"github"'), ('null')) v (d),
	t.error(format('SELECT conduit_register_connector(%L, %L)', 'refused', d)) e;
SELECT s AS slug, e.* FROM (VALUES (NULL), (''), ('Upper'), ('1st'), ('-a'), ('a b'), ('a-'), ('a--b'), (repeat('a', 64))) v (s),
	t.error(format('SELECT conduit_register_connector(%L, %L)', s, '{"auth_type": "api_key"}')) e;
SELECT conduit_register_connector(repeat('a', 63), '{"auth_type": "api_key"}');
SELECT conduit_drop_connector(repeat('a', 63));

-- In use: by a connection, a client, a connector that extends it.
SELECT * FROM t.error($$ SELECT conduit_drop_connector('nobody') $$);
SELECT * FROM t.error($$ SELECT conduit_drop_connector('house-eu') $$);
SELECT conduit_drop_connector('house-eu-test');
SELECT conduit_create_connection('alice', 'house-eu') AS id \gset
SELECT * FROM t.error($$ SELECT conduit_drop_connector('house-eu') $$);
SELECT conduit_set_client('house-eu', 'cid', 'a secret');
SELECT detail FROM t.error($$ SELECT conduit_drop_connector('house-eu') $$);
SELECT conduit_delete_connection('alice', :'id');
SELECT conduit_retire_client('house-eu', 'cid');
SELECT conduit_drop_connector('house-eu');

-- A retired connector serves the connections it has and takes no new ones.
SELECT conduit_register_connector('old', '{"auth_type": "api_key"}');
SELECT conduit_create_connection('alice', 'old') AS id \gset
UPDATE conduit.connector SET retired = true WHERE slug = 'old';
SELECT slug, retired FROM conduit_connectors() WHERE slug = 'old';
SELECT * FROM t.error($$ SELECT conduit_create_connection('alice', 'old') $$);
SELECT conduit_store_credential(:'id', NULL, '{"api_key": "k"}') = :'id' AS stored;
SELECT api_key FROM conduit_vend('alice', :'id');
SELECT conduit_delete_owner('alice');
SELECT conduit_drop_connector('old');

-- A definition is seen at once by a session that has used the former one.
SELECT conduit_register_connector('changing', '{"auth_type": "api_key"}');
SELECT conduit_create_connection('alice', 'changing') AS id \gset
SELECT conduit_store_credential(:'id', 'API_KEY', '{"api_key": "k"}') = :'id' AS stored;
SELECT conduit_register_connector('changing', '{"auth_type": "basic"}');
SELECT * FROM t.error(format('SELECT conduit_store_credential(%L, ''API_KEY'', ''{"api_key": "k"}'')', :'id'));
BEGIN;
SELECT conduit_register_connector('changing', '{"auth_type": "api_key"}');
SELECT conduit_store_credential(:'id', 'API_KEY', '{"api_key": "k"}') = :'id' AS stored;
ROLLBACK;
SELECT conduit_store_credential(:'id', 'BASIC', '{"username": "u"}') = :'id' AS stored;
SELECT conduit_delete_owner('alice');
SELECT conduit_drop_connector('changing');

-- Clients: one of them is current, the two newest secrets are kept.
SELECT conduit_set_client('house', 'first', 'secret 1', '{https://app.example.com/callback}');
SELECT conduit_set_client('house', 'first', 'secret 2');
SELECT conduit_set_client('house', 'first', 'secret 3', NULL, NULL);
SELECT connector, client_id, is_current, redirect_uris, secrets, last_success_at, connections FROM conduit_clients();
SELECT conduit_set_client('house', 'second', 'secret 4', '{https://app.example.com/a,com.example.app:/b}');
SELECT conduit_set_client('house', 'tenants', 'secret 5', NULL, 'acme');
SELECT conduit_create_connection('alice', 'house') AS id \gset
SELECT conduit_store_credential(:'id', NULL, '{"access_token": "a"}') = :'id' AS stored;
SELECT conduit_create_connection('alice', 'house', NULL, NULL, NULL, 'acme') AS acme \gset
SELECT conduit_store_credential(:'acme', NULL, '{"access_token": "a"}', 'acme') = :'acme' AS stored;
-- Nothing has been issued for this one, under any client.
SELECT conduit_create_connection('alice', 'house') IS NOT NULL AS created;
SELECT connector, client_id, is_current, redirect_uris, secrets, connections FROM conduit_clients();
SELECT connector, client_id, is_current, redirect_uris, secrets, connections FROM conduit_clients('acme');
SELECT count(*) FROM conduit_clients('nobody');
SELECT conduit_set_client('house', 'first', 'secret 6', '{}');
SELECT client_id, is_current, redirect_uris, secrets, connections FROM conduit_clients();

SELECT * FROM t.error($$ SELECT conduit_retire_client('house', 'second') $$);
SELECT * FROM t.error($$ SELECT conduit_retire_client('house', 'tenants', 'acme') $$);
SELECT * FROM t.error($$ SELECT conduit_retire_client('house', 'tenants') $$);
SELECT conduit_retire_client('house', 'first');
SELECT conduit_delete_owner('alice'), conduit_delete_owner('alice', 'acme');
SELECT conduit_retire_client('house', 'second'), conduit_retire_client('house', 'tenants', 'acme');
SELECT count(*) AS clients, (SELECT count(*) FROM conduit.client_secret) AS secrets FROM conduit.client;

SELECT conduit_register_connector('open', '{"auth_type": "oauth2_code", "client_auth": "none",
	"authorize_url": "https://id.example.com/authorize", "token_url": "https://id.example.com/token"}');
SELECT conduit_set_client('open', 'public');
SELECT client_id, secrets FROM conduit_clients();
SELECT conduit_retire_client('open', 'public');
SELECT conduit_drop_connector('open');

SELECT statement, e.*
FROM (VALUES ('''nobody'', ''c'', ''s'''), ('''binance'', ''c'', ''s'''), ('''house'', '' '', ''s'''), ('''house'', NULL, ''s'''),
	('''house'', ''c'''), ('''house'', ''c'', '''''), ('''house'', ''c'', repeat(''s'', 65537)'),
	('''house'', ''c'', ''s'', ''{/callback}'''), ('''house'', ''c'', ''s'', ''{https://a.example.com/,https://a.example.com/#b}'''),
	('''house'', ''c'', ''s'', ''{NULL}'''), ('''house'', ''c'', ''s'', array_fill(''https://a.example.com/''::text, ''{33}'')')) v (statement),
	t.error(format('SELECT conduit_set_client(%s)', statement)) e;

SELECT conduit_drop_connector('our-github'), conduit_drop_connector('house');
SELECT count(*) FROM conduit_connectors() WHERE NOT builtin;
