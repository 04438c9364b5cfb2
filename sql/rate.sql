-- A provider's rate limit, shared by all who call its API.

CREATE FUNCTION @extschema@.conduit_rate_take(owner text, connection_id uuid, cost integer DEFAULT 1,
	tenant text DEFAULT '', OUT allowed boolean, OUT remaining integer, OUT retry_after double precision,
	OUT reset_after double precision)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_rate_take(text, uuid, integer, text) IS
'Asks whether a request to a provider''s API may be sent now, and counts it if so.

cost: how many requests it counts for. allowed: whether it may be sent; if not, nothing is counted. remaining: how many more may be sent right now; NULL where the connector declares no limit. retry_after: in how many seconds as many will be allowed, 0 where they are. reset_after: seconds until the whole limit can be had.

The limit is the connector''s (rate_limit_requests in rate_limit_window_s, at most rate_limit_burst at once): a bucket that starts full and is refilled steadily. All of a tenant''s connections to one account draw on one bucket, whoever owns them, in all sessions; a connection whose account is not known has its own. What was taken stays taken after a ROLLBACK. Without a declared limit all is allowed but during a pause that conduit_rate_report() has told of. Nothing is written: it works in READ ONLY transactions and on a standby, which counts for itself. Buckets are in memory and start full with the server.
Errors: PT404 connection not found; PT500 conduit worker is not running, where Conduit is not preloaded; 22023 invalid cost, also for more than is ever allowed at once.';

CREATE FUNCTION @extschema@.conduit_rate_report(owner text, connection_id uuid, retry_after double precision,
	tenant text DEFAULT '') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_rate_report(text, uuid, double precision, text) IS
'Tells that a provider''s API has refused a request as one too many (429): nobody is allowed any until the pause is over.

retry_after: seconds, as the provider''s Retry-After says; NULL where it says nothing, taken as 30. A pause that stands is never shortened. It holds for whoever draws on the same bucket, is not undone by a ROLLBACK, and works where conduit_rate_take() does.
Errors: PT404 connection not found; PT500 conduit worker is not running, where Conduit is not preloaded; 22023 invalid retry_after.';

SELECT conduit.settle_rights('conduit_rate_take', 'service');
SELECT conduit.settle_rights('conduit_rate_report', 'service');
