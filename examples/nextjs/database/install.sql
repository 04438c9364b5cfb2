-- Conduit, and a facade that PostgREST serves.

CREATE SCHEMA vault;
CREATE EXTENSION conduit SCHEMA vault CASCADE;
ALTER DATABASE app SET search_path = public, vault;
SET search_path = public, vault;

CREATE SCHEMA api;
CREATE ROLE authenticator LOGIN NOINHERIT;
CREATE ROLE anon;
GRANT anon TO authenticator;
GRANT USAGE ON SCHEMA api TO anon;
SELECT conduit_expose('api');
