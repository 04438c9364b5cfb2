-- Credentials: storing and vending.

CREATE FUNCTION @extschema@.conduit_store_credential(connection_id uuid, kind text, secret text, tenant text DEFAULT '')
RETURNS uuid
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_store_credential(uuid, text, text, text) IS
'Seals a secret as the credential of a connection, replacing the one it has, and returns the connection''s id.

kind: OAUTH2, CLIENT, JWT, API_KEY, BASIC; NULL is what the connector asks for. secret: JSON text; bind it as a parameter.
OAUTH2: a provider''s token response as it is (RFC 6749, 5.1), or its camelCase form: access_token, refresh_token (at least one of the two), expires_in in seconds, counted from issued_at or created_at when present, or expires_at as ISO 8601 or epoch, token_type, scope. Other keys are kept, sealed, and vended as extra, but for those named like a secret.
CLIENT (RFC 6749, 4.4): client_id, client_secret, or neither for the client of conduit_set_client(); scope. The secret is a private key in PEM form where client_auth is private_key_jwt. JWT (RFC 7523, 2.1; app installations): private_key in PEM form, without a password, issuer, subject, key_id, audience, scope; issuer may be called client_email or app_id, key_id private_key_id, and the key file of a Google service account is taken as it is. Tokens are minted when somebody first wants one, and renewed ahead of their expiry from then on. scope: a text or an array; without it what the connection was authorized for, else the connector''s default_scopes. A refusal of the client, where it is the connection''s own, or of the assertion makes the connection NEEDS_REAUTH.
API_KEY: api_key, api_secret, expires_at. BASIC: username, password, expires_at. Keys have camelCase forms, too. In all kinds but OAUTH2 another key is refused.
A connection that NEEDS_REAUTH is ACTIVE again.
Errors: PT404 connection not found; PT410 connection revoked; 22023 invalid kind, invalid secret, whose DETAIL never repeats it; PT500 vault is locked.';

CREATE FUNCTION @extschema@.conduit_vend(owner text, connection_id uuid, min_ttl interval DEFAULT NULL,
	scopes text[] DEFAULT NULL, tenant text DEFAULT '',
	OUT access_token text, OUT token_type text, OUT scope text, OUT api_key text, OUT api_secret text,
	OUT username text, OUT password text, OUT expires_at timestamptz, OUT extra jsonb, OUT generation bigint)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_vend(text, uuid, interval, text[], text) IS
'Hands out the working secret of an owner''s connection, refreshed if it is due.

min_ttl: how long the token must live at least; what a refresh brings is vended even if it lives shorter. scopes: all must have been granted. A warm token costs one look-up and one decryption, writes nothing, and is to be had in a READ ONLY transaction and on a standby. One that is due, or lives less than min_ttl, is refreshed by the worker, once, however many ask, while the caller waits up to conduit.vend_timeout, or conduit.vend_patience while a valid token is at hand. Refresh tokens are never vended.
A failed refresh is a WARNING while the token at hand is valid, else an error.
Errors: PT404 connection not found, credential not found; PT409 connection needs re-authorization, connection lacks scope; PT410 connection revoked; PT502 bad provider response; PT504 provider unavailable; PT500 conduit worker is not running, refresh is paused, vault is locked, key not in keyring, credential cannot be opened, connector is not configured; 55000 credential is not committed; 22023.';

CREATE FUNCTION @extschema@.conduit_vend_many(owner text, connection_ids uuid[], min_ttl interval DEFAULT NULL,
	tenant text DEFAULT '',
	OUT access_token text, OUT token_type text, OUT scope text, OUT api_key text, OUT api_secret text,
	OUT username text, OUT password text, OUT expires_at timestamptz, OUT extra jsonb, OUT generation bigint,
	OUT connection_id uuid, OUT sqlstate text, OUT error text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_vend_many(text, uuid[], interval, text) IS
'Hands out the working secrets of up to 1000 of an owner''s connections, a row for each id in the order given.

min_ttl: as of conduit_vend(). Those that are due are refreshed in parallel, and the caller waits for all of them together up to conduit.vend_timeout, or conduit.vend_patience for those with a valid token at hand. What conduit_vend() would raise for one connection is that row''s sqlstate and error, and its other columns are null; sqlstate is null where a secret is vended. A refresh that failed while the token at hand is valid is a WARNING, one of a kind.
Errors: 22023 for the arguments as a whole.';

CREATE FUNCTION @extschema@.conduit_export_credential(owner text, connection_id uuid, pgp_public_key bytea, tenant text DEFAULT '')
RETURNS bytea
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_export_credential(text, uuid, bytea, text) IS
'Returns the whole secret of a connection, refresh token included, as an OpenPGP message for migration or escrow.

pgp_public_key: of whoever may read it, binary or armored, with an RSA or Elgamal subkey to encrypt to: pgcrypto knows no other. The message, which gpg --decrypt opens, holds a JSON object as conduit_store_credential() takes it; expires_at and issued_at are seconds since 1970. An event exported is written in the caller''s transaction. Refreshes go on here: before another system takes over, turn conduit.refresh_enabled off, for two that refresh make each other''s tokens void. A WARNING says that a refresh is under way.
Errors: PT404 connection not found, credential not found; PT410 connection revoked; PT500 vault is locked, key not in keyring, credential cannot be opened; 22023 invalid pgp_public_key.';

SELECT conduit.settle_rights('conduit_store_credential', 'service');
SELECT conduit.settle_rights('conduit_vend', 'service');
SELECT conduit.settle_rights('conduit_vend_many', 'service');
SELECT conduit.settle_rights('conduit_export_credential', 'admin');
