-- The durable event log.

CREATE TYPE conduit.event_info AS (
	seq bigint, at timestamptz, kind text, tenant text, connection_id uuid, owner text, connector text, account text,
	old_status text, new_status text, reason text);
COMMENT ON TYPE conduit.event_info IS 'The shape of an event in results';

CREATE FUNCTION @extschema@.conduit_events_after(seq bigint, max_count integer DEFAULT 100, tenant text DEFAULT '')
RETURNS SETOF conduit.event_info
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_events_after(bigint, integer, text) IS
'Lists a tenant''s events after a number, in the order of their commits.

seq: the last number the subscriber has seen, 0 or NULL at first; keep it on your side. max_count: 1 to 10000. Kinds: created, authorized, needs_reauth, recovered, revoked, deleted, exported, revocation_failed; without a connection: connector_alert, connector_recovered. A notification on channel conduit_events (and conduit_needs_reauth for that kind) says when to look; its payload has seq, event and connection_id. Numbers may have gaps; events are kept for conduit.event_retention.';

SELECT conduit.settle_rights('conduit_events_after', 'service');
