-- Who is asking.

CREATE FUNCTION conduit.enter(schema_name text, action text, need text, connection_id uuid, connector text,
	OUT owner text, OUT backend boolean, OUT key_id uuid, OUT bound_to uuid)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'conduit_enter';
COMMENT ON FUNCTION conduit.enter(text, text, text, uuid, text) IS
'Lets the caller of a facade''s function in and says for which owner; raises PT401, PT403 or PT404 otherwise';

CREATE FUNCTION @extschema@.conduit_require_key(scope text DEFAULT NULL, tenant text DEFAULT '',
	OUT key_id uuid, OUT owner text, OUT scopes text[])
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_require_key(text, text) IS
'Passes if this request has a valid API key in X-Conduit-Key, with a scope where one is named.

For an application''s own functions, row security policies and PostgREST''s db-pre-request: reads the header from request.headers, takes no secret as an argument, writes nothing. owner: whom it acts for, NULL: nobody in particular.
Errors: PT401 unauthorized, PT403 forbidden (DETAIL scope).';

CREATE FUNCTION @extschema@.conduit_require_backend(scope text DEFAULT NULL, tenant text DEFAULT '') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_require_backend(text, text) IS
'Passes if this request comes from a backend: with a valid API key, or a proven JWT of a trusted caller.

scope: what a key must be good for. Tokens are proven by the keys of the tenant''s facades (conduit_set_jwt_key()), each for its facade''s audience; claims that merely stand in a setting count for nothing. The function of this name in a facade goes by the options of that facade, trust_claims among them.
Errors: PT401 unauthorized, PT403 forbidden (DETAIL backend, scope).';

-- The same by the rules of a facade, for those of its functions that have these names.
CREATE FUNCTION conduit.require_key(schema_name text, scope text, OUT key_id uuid, OUT owner text, OUT scopes text[])
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'conduit_facade_require_key';
COMMENT ON FUNCTION conduit.require_key(text, text) IS 'Passes as conduit_require_key() does, by the rules of a facade';

CREATE FUNCTION conduit.require_backend(schema_name text, scope text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'conduit_facade_require_backend';
COMMENT ON FUNCTION conduit.require_backend(text, text) IS 'Passes as conduit_require_backend() does, by the rules of a facade';

CREATE FUNCTION @extschema@.conduit_trust_caller(name text, issuer text DEFAULT NULL, audience text DEFAULT NULL,
	subjects text[] DEFAULT NULL, claims jsonb DEFAULT NULL, tenant text DEFAULT '') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_trust_caller(text, text, text, text[], jsonb, text) IS
'Declares which proven JWTs are a backend''s: those that match everything that is named here.

issuer, audience: values of iss and aud. subjects: values of sub. claims: further claims and their values; a claim that is an array matches by one of its members. Choose what browsers'' tokens cannot have. The same name again replaces the row.
Errors: 22023; a row with neither audience nor subjects is refused, for it would trust all that the issuer issues.';

CREATE FUNCTION @extschema@.conduit_untrust_caller(name text, tenant text DEFAULT '') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_untrust_caller(text, text) IS
'Takes a trusted caller back.

Errors: 22023 unknown trusted caller.';

CREATE FUNCTION @extschema@.conduit_set_jwt_key(schema_name text, jwk text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_set_jwt_key(text, text) IS
'Sets the keys that prove the tokens of a facade''s callers; sealed. Bind them as a parameter.

schema_name: an exposed schema. jwk: a JWK or JWK Set (RFC 7517), up to 16 keys: HS256 (oct, 32 bytes or more), RS256 (RSA, 2048 bits or more), ES256 (EC, P-256). NULL: no key any more. In a schema of a Flux tenant, whose PostgREST has one key for all, a token must have the tenant''s role, t_<12 hex>_role.
Errors: 22023 invalid jwk, unknown facade; PT500 vault is locked.';

SELECT conduit.settle_rights('conduit_require_key', 'monitor');
SELECT conduit.settle_rights('conduit_require_backend', 'monitor');
SELECT conduit.settle_rights('conduit_trust_caller', 'admin');
SELECT conduit.settle_rights('conduit_untrust_caller', 'admin');
SELECT conduit.settle_rights('conduit_set_jwt_key', 'admin');
