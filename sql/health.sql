-- What an administrator looks at.

CREATE FUNCTION @extschema@.conduit_health(OUT ok boolean, OUT version text, OUT library_version text, OUT worker text,
	OUT paused text, OUT vault text, OUT needs_reauth bigint, OUT overdue bigint, OUT in_flight integer, OUT queued integer,
	OUT parked bigint, OUT unnumbered_events bigint, OUT queued_revocations bigint, OUT last_round timestamptz)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_health() IS
'Says whether Conduit is well in this database.

worker: running, starting, none, no slot, no launcher, not preloaded, standby. paused: NULL, disabled, not adopted, vault locked. vault: open, or what is wrong with the keyring. overdue: credentials due for more than two minutes. parked: refreshed tokens that wait for somebody''s open transaction; they are vended meanwhile. conduit_doctor() says what to do.';

CREATE FUNCTION @extschema@.conduit_stats(OUT connector text, OUT vends bigint, OUT waits bigint, OUT refreshed bigint,
	OUT dead bigint, OUT config bigint, OUT throttled bigint, OUT transient bigint, OUT unknown bigint, OUT in_flight bigint,
	OUT provider_seconds numeric)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_stats() IS
'Counts, per connector, what was done in this database since the server started.

waits: calls that waited for the worker. refreshed, dead, config, throttled, transient, unknown: refreshes by outcome. provider_seconds: what providers took for them.';

CREATE FUNCTION @extschema@.conduit_doctor(OUT severity text, OUT finding text, OUT detail text, OUT hint text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_doctor() IS
'Lists what is wrong or unsafe, and how to mend it; nothing when all is well.

severity: error, warning or notice.';

CREATE FUNCTION @extschema@.conduit_adopt() RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_adopt() IS
'Says that this database is no clone, or is meant to take over: refreshing goes on.

After a restore, CREATE DATABASE ... TEMPLATE and pg_upgrade nothing is refreshed until then, because a copy that refreshes makes the original''s refresh tokens void.
Errors: PT500 vault is locked.';

SELECT conduit.settle_rights('conduit_health', 'monitor');
SELECT conduit.settle_rights('conduit_stats', 'monitor');
SELECT conduit.settle_rights('conduit_doctor', 'monitor');
SELECT conduit.settle_rights('conduit_adopt', 'admin');
