-- Refreshes that a caller asks for.

CREATE FUNCTION @extschema@.conduit_refresh(owner text, connection_id uuid, seen_generation bigint DEFAULT NULL,
	tenant text DEFAULT '', OUT refreshed boolean, OUT expires_at timestamptz, OUT generation bigint)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_refresh(text, uuid, bigint, text) IS
'Refreshes a credential now, though it may not be due: for a caller whom the provider answered 401.

seen_generation: the generation that was refused; if another one is stored by now, nothing is refreshed. refreshed: whether a newer token is there than when the call began. false for a credential that cannot be refreshed, and, with a WARNING, where a refresh failed and the token at hand is valid.
Errors: as conduit_vend().';

CREATE FUNCTION @extschema@.conduit_refresh_due(max_count integer DEFAULT NULL, tenant text DEFAULT '') RETURNS integer
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_refresh_due(integer, text) IS
'Refreshes up to max_count credentials of a tenant that are due, oldest expiry first, and returns how many were refreshed.

max_count: at most 10000 a call; 0 or less does nothing. The worker does so unasked: this is for tests and for those who will not wait. Only ACTIVE connections; one failure does not stop the others. Returns when all are done or the statement is cancelled, and what is under way goes on all the same.
Errors: PT500 conduit worker is not running, refresh is paused, vault is locked.';

SELECT conduit.settle_rights('conduit_refresh', 'service');
SELECT conduit.settle_rights('conduit_refresh_due', 'admin');
