# Many credentials at once: stored, imported, and rewrapped to a new key.

rows=10000
rounds=${BENCH_ROUNDS:-5}

start_server bulk <<<'autovacuum = off'
register_idle_connector bench
quietly sql <<'END'
CREATE TABLE handed_over (id uuid, owner text, secret text);
CREATE TABLE stored (id uuid);

-- The rows that Conduit writes, with their constraints and indexes: a credential
-- with the same bytes unsealed, and its event.
CREATE TABLE unsealed (LIKE conduit.credential INCLUDING ALL);
CREATE TABLE unsealed_event (LIKE conduit.event INCLUDING ALL);

-- What an application without Conduit may keep.
CREATE TABLE narrow (id uuid PRIMARY KEY, owner text NOT NULL, secret text NOT NULL);
END
unsealed="WITH c AS (
	INSERT INTO unsealed (connection_id, generation, expires_at, due_at, refresh_at, issued_at, lifetime, status, kind, tenant, owner,
		connector, origin, token_type, access, refresh)
	SELECT id, 1, now() + '30 days', now() + '29 days', now() + '29 days', now(), 2592000, 'ACTIVE', 'OAUTH2', '', owner, 'bench',
		'https://127.0.0.1:1', 'Bearer', secret::bytea, substr(secret, 1, 170)::bytea
	FROM handed_over RETURNING connection_id, owner)
INSERT INTO unsealed_event (at, kind, tenant, connection_id, owner, connector, old_status, new_status)
SELECT now(), 'authorized', '', connection_id, owner, 'bench', 'ACTIVE', 'ACTIVE' FROM c"

# seconds SQL: what one transaction takes, its commit included.
seconds()
{
	local begin
	begin=$(now)
	quietly sql -c "$1"
	since "$begin"
}

for ((round = 0; round < rounds; round++)); do
	quietly sql <<END
TRUNCATE handed_over;
INSERT INTO handed_over SELECT conduit_create_connection('owner ' || n, 'bench', '$round ' || n), 'owner ' || n,
	json_build_object('access_token', 'at' || substr(repeat(md5(n::text), 7), 1, 198), 'refresh_token', 'rt' || md5(n::text),
		'token_type', 'Bearer', 'expires_in', 2592000)
FROM generate_series(1, $rows) n;
CHECKPOINT;
END
	bare=$(seconds "$unsealed")
	sealed=$(seconds "INSERT INTO stored SELECT conduit_store_credential(id, NULL, secret) FROM handed_over")
	again=$(seconds "INSERT INTO stored SELECT conduit_store_credential(id, NULL, secret) FROM handed_over")
	narrow=$(seconds "INSERT INTO narrow SELECT id, owner, secret FROM handed_over")
	import=$(seconds "SELECT count(i.connection_id) FROM (SELECT json_agg(json_build_object('owner', owner, 'account', 'imported $round ' || owner, 'secret', secret::json))::text AS records FROM handed_over) b, conduit_import('bench', b.records) i")
	echo "$bare $sealed $again $import $narrow"
	say "bulk: unsealed $bare s, sealed $sealed s, again $again s, imported $import s; a narrow table $narrow s"
done >"$place/bulk.rounds"
field() { awk -v rows=$rows "{ print $1 }" "$place/bulk.rounds" | median; }
measure "store_credential in INSERT … SELECT / INSERT of the same rows unsealed" "≥ 0.5" "$(field '$1 / $2')" \
	"$(field 'int(rows / $2)') and $(field 'int(rows / $1)') rows a second; replacing one: $(field 'int(rows / $3)'); a table of id, owner, text: $(field 'int(rows / $5)')"
measure "connections imported a second" "" "$(field 'int(rows / $4)')" "$rows a call"

credentials=$(sql -c 'SELECT count(*) FROM conduit.credential')
for ((round = 0; round < 3; round++)); do
	# The new key is the primary, marked so; the others stay, to open what is under them.
	as_server sh -c 'umask 077; { echo "*n$1:$(head -c 32 /dev/urandom | base64)"; sed "s/^\*//" "$0"; } > "$0.new"; mv "$0.new" "$0"' "$server/keyring" "$round"
	quietly sql -c 'SELECT pg_reload_conf()' -c 'CHECKPOINT'
	wait_until "SELECT bool_or(is_primary AND key_id = 'n$round') FROM conduit_keyring()"
	begin=$(now)
	[ "$(sql -c "SELECT conduit_rewrap($credentials + 10)")" -ge "$credentials" ] || die "not all were rewrapped"
	divide "$credentials" "$(since "$begin")"
done >"$place/rewrap.rounds"
measure "credentials rewrapped a second" "≥ 20000" "$(median <"$place/rewrap.rounds")" "$credentials in one call, both blobs of each"
