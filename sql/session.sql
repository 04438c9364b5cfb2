-- Sessions: opaque handles for a cookie.

CREATE FUNCTION @extschema@.conduit_open_session(owner text, connection_id uuid DEFAULT NULL, ttl interval DEFAULT NULL,
	tenant text DEFAULT '') RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_open_session(text, uuid, interval, text) IS
'Opens a session for an owner and returns its key: 43 characters that mean nothing, for a cookie.

connection_id: the session is for this connection alone; NULL: for all of the owner''s. ttl: how long it lives from its last use, 5 minutes at least; NULL: conduit.session_ttl. It ends conduit.session_max_ttl after it was opened, however much it is used. Open a new one at each log-in, and close the former: the table has hashes alone, so that nobody can be handed a session that somebody else knows.
Errors: PT404 connection not found; 22023 invalid owner, ttl.';

CREATE FUNCTION @extschema@.conduit_session(session_key text, tenant text DEFAULT '',
	OUT owner text, OUT connection_id uuid, OUT expires_at timestamptz)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_session(text, text) IS
'Tells whose session a key opens; looking counts as use.

expires_at: when it ends unless it is used again. Writes nothing; works in a READ ONLY transaction.
Errors: PT401 unauthorized, alike for an unknown, closed, expired or foreign one.';

CREATE FUNCTION @extschema@.conduit_close_session(session_key text, tenant text DEFAULT '') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_close_session(text, text) IS
'Ends a session: the log-out.

Says nothing of whether there was one: the key of none, of an ended one or of another tenant''s changes nothing.';

SELECT conduit.settle_rights('conduit_open_session', 'service');
SELECT conduit.settle_rights('conduit_session', 'service');
SELECT conduit.settle_rights('conduit_close_session', 'service');
