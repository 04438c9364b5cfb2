-- The functions of unit_provider.c.  :module is the module's absolute path.
CREATE FUNCTION unit_check_url(text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_origin(text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_address_allowed(address text, host_listed boolean) RETURNS boolean AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_classify(definition text, status integer, content_type text, body bytea, sent boolean DEFAULT true,
	result integer DEFAULT 0, retry_after float8 DEFAULT -1, now timestamptz DEFAULT '2030-01-01 00:00:00+00',
	kind integer DEFAULT 1, own_client boolean DEFAULT false) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_grant(definition text, secret text, now timestamptz DEFAULT '2030-01-01 00:00:00+00')
	RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_http(url text, method text DEFAULT 'POST', body text DEFAULT 'a=b', timeout_ms integer DEFAULT 5000,
	max_response integer DEFAULT 65536, headers text[] DEFAULT '{}') RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_http_many(url text, count integer, timeout_ms integer) RETURNS integer AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_http_flooded(count integer, timeout_ms integer, pumps integer) RETURNS integer AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_http_late(url text, timeout_ms integer) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_http_abandon(url text, by_free boolean) RETURNS float8 AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_http_shut_down() RETURNS void AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_refresh(definition text, endpoint text, client_id text, client_secret text, refresh_token text,
	timeout_ms integer DEFAULT 5000) RETURNS text AS :'module' LANGUAGE C STRICT;
