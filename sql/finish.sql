-- The last part: nothing below this creates anything.

CREATE FUNCTION conduit.announce() RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'conduit_announce';
COMMENT ON FUNCTION conduit.announce() IS 'Makes the launcher look at this database when the transaction has committed';

SELECT conduit.settle_private_rights();
SELECT conduit.announce();
