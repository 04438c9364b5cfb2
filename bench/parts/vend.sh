# A warm vend beside the bare row, pgcrypto's function and Redis.

clients=4
connections=10000
rounds=${BENCH_ROUNDS:-9}

start_server vend <<<''
register_idle_connector bench
say "vend: sealing $connections credentials"
import_connections bench 1 $connections
quietly sql <<'END'
-- A passphrase's secret of equal size, in a table as narrow as can be.
CREATE TABLE pgp (id uuid PRIMARY KEY, secret bytea);
INSERT INTO pgp SELECT c.connection_id, pgp_sym_encrypt(v.access_token, 'a passphrase', 'cipher-algo=aes256')
FROM conduit.credential c, conduit_vend(c.owner, c.connection_id) v;
VACUUM ANALYZE;
END
sql -F $'\t' -c 'SELECT owner, connection_id FROM conduit.credential' | as_server sh -c 'cat > parameters'

say "vend: $rounds rounds, $clients clients"
load $clients "$rounds" 1 >"$place/vend.turns" <<'END'
row	SELECT access, refresh FROM conduit.credential WHERE connection_id = $2
half	SELECT access FROM conduit.credential WHERE connection_id = $2
vend	SELECT (conduit_vend($1, $2)).access_token
from	SELECT * FROM conduit_vend($1, $2)
pgp	SELECT pgp_sym_decrypt(secret, 'a passphrase') FROM pgp WHERE id = $2
END
row=$(per_second "$place/vend.turns" row) vend=$(per_second "$place/vend.turns" vend)
from=$(per_second "$place/vend.turns" from) pgp=$(per_second "$place/vend.turns" pgp)
measure "warm vend, one column / the sealed row by key" "≥ 0.95" "$(ratios "$place/vend.turns" vend row | median)" \
	"$vend and $row a second; of the row's access part alone $(ratios "$place/vend.turns" vend half | median | xargs printf '%.2f')"
measure "warm vend in FROM / the sealed row by key" "≥ 0.75" "$(ratios "$place/vend.turns" from row | median)" "$from a second"
measure "warm vend / pgp_sym_decrypt" "≥ 10" "$(ratios "$place/vend.turns" vend pgp | median)" "$pgp a second"

say "vend: beside Redis"
port=$(free_port)
as_server sh -c 'redis-server --bind 127.0.0.1 --port "$0" --save "" --daemonize yes --pidfile "$1" --dir "$2" >/dev/null' "$port" "$place/redis.pid" "$place"
until redis-cli -p "$port" ping >/dev/null 2>&1; do sleep 0.1; done
awk 'BEGIN { for (i = 0; i < '$connections'; i++) { v = sprintf("at%0198d", i); printf "SET token:%012d %s\n", i, v } }' | redis-cli -p "$port" >/dev/null
for ((round = 0; round < rounds; round++)); do
	get=$(redis-benchmark -p "$port" -c $clients -n 100000 -r $connections --csv GET token:__rand_int__ 2>/dev/null | awk -F '"' 'END { print $4 }')
	load $clients 1 1 <<<$'vend\tSELECT (conduit_vend($1, $2)).access_token' >"$place/redis.turn"
	echo "$(per_second "$place/redis.turn" vend) $get"
done >"$place/redis.turns"
redis-cli -p "$port" shutdown nosave 2>/dev/null || true
measure "warm vend / Redis GET of an unencrypted token" "≥ 1.0" "$(awk '{ print $1 / $2 }' "$place/redis.turns" | median)" \
	"$(awk '{ print $2 }' "$place/redis.turns" | median | cut -d . -f 1) a second of Redis"
