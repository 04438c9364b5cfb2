-- The keyring.

CREATE FUNCTION @extschema@.conduit_keyring(OUT key_id text, OUT is_primary boolean, OUT in_keyring boolean, OUT state text,
	OUT blobs bigint, OUT wraps bigint, OUT created_at timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_keyring() IS
'Lists the keys of the keyring and those that rows are sealed under, without the keys.

state: good; unused, no row was ever sealed under it; mismatch, it is not the key that rows were sealed under; missing from the keyring. blobs: how many are sealed under it now: a key with none may leave the keyring, once no backup needs it. wraps: data keys wrapped under it so far. Reads all sealed rows.';

CREATE FUNCTION @extschema@.conduit_rewrap(max_count integer DEFAULT NULL) RETURNS integer
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_rewrap(integer) IS
'Wraps the data keys of up to max_count rows anew under the primary key, and returns how many; 0 when none is left.

max_count: 10000 by default. Of all tenants: a key can be retired only when nobody is left under it. The secrets themselves are not touched, vends and refreshes go on beside it; rows that somebody holds are left for the next call. Call it in transactions of their own until it returns 0, then see conduit_keyring().
Errors: PT500 vault is locked, key not in keyring, credential cannot be opened.';

SELECT conduit.settle_rights('conduit_keyring', 'admin');
SELECT conduit.settle_rights('conduit_rewrap', 'admin');
