#!/bin/bash
# Measures what the README quotes, against a server of its own, in under two minutes:
# what a warm vend costs beside the same row without Conduit and beside
# pgcrypto's, how many refreshes a second one worker does, and how long an import
# of 100000 connections takes.
#
#   ./bench/run.sh [SECONDS] [CLIENTS]
#
# SECONDS a measurement (default 8), CLIENTS of pgbench (default: processors).
# The figures of one run compare with each other, not with another machine's.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../test/setup.sh"
exec </dev/null

seconds=${1:-8}
clients=${2:-$(nproc)}
connections=1000
refreshes=3000
imports=100000

install_missing
new_place conduit-bench
finish()
{
	stop_provider
	if [ -f "$place/data/postmaster.pid" ]; then
		as_server "$bindir/pg_ctl" stop -s -m immediate -D "$place/data" || true
	fi
	rm -rf "$place"
}
trap finish EXIT
trap 'exit 130' INT TERM

echo "Building Conduit with $("$pg_config" --version)"
copy_checkout
quietly build
install_extension

as_server sh -c 'umask 077; echo "k1:$(head -c 32 /dev/urandom | base64)" > "$0"' "$place/keyring"
quietly as_server "$bindir/initdb" --no-sync -U postgres -A trust -E UTF8 --locale=C.UTF-8 -D "$place/data"
as_server sh -c 'cat >> "$0"' "$place/data/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$place'
shared_preload_libraries = 'conduit'
shared_buffers = 256MB
max_wal_size = 4GB
conduit.keyring_file = '$place/keyring'
conduit.egress_allow = '127.0.0.0/8'
END
quietly as_server "$bindir/pg_ctl" start -w -D "$place/data" -l "$place/postgresql.log"
quietly as_server "$bindir/createdb" -h "$place" -U postgres app

sql() { as_server "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$place" -U postgres -d app "$@"; }

start_provider scripted --log-limit 0
url=$(provider_fact url)

issue()    # number of grants, seconds they live
{
	node -e '
		const [url, count, expires] = process.argv.slice(1);
		fetch(`${url}/control/issue`, { method: "POST", body: JSON.stringify({ count: +count, expires_in: +expires }) })
			.then(async (reply) => { for (const grant of await reply.json()) console.log(JSON.stringify(grant)); });' \
		"$url" "$1" "$2"
}

# ---- Vends ----

quietly sql -c 'CREATE EXTENSION conduit CASCADE'
quietly sql -c "SELECT conduit_register_connector('bench', '{\"auth_type\": \"oauth2_code\", \"authorize_url\": \"$url/authorize\", \"token_url\": \"$url/token\", \"client_auth\": \"post\"}'), conduit_set_client('bench', 'cid', 'secret')"
issue $connections 86400 | as_server sh -c 'cat > grants'
quietly sql <<'END'
CREATE TABLE grants (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, secret text, id uuid);
\copy grants (secret) FROM 'grants' (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')
UPDATE grants SET id = conduit_create_connection('owner', 'bench', n::text);
SELECT count(conduit_store_credential(id, NULL, secret)) FROM grants;

-- The access token as pgcrypto would keep it, in a table as narrow as can be.
CREATE TABLE pgp (id uuid PRIMARY KEY, access bytea);
INSERT INTO pgp SELECT id, pgp_sym_encrypt(secret::jsonb ->> 'access_token', 'a passphrase', 'cipher-algo=aes256') FROM grants;

-- Ids by number, in a table of each script's own, so that all pay the same for it.
CREATE TABLE ids (n int PRIMARY KEY, id uuid);
INSERT INTO ids SELECT n, id FROM grants;
VACUUM ANALYZE;
END

# pgbench draws numbers, so each script finds its id in a primary-key look-up first.
script() { as_server sh -c 'printf "%s\n" "\set n random(1, '$connections')" "$1" > "$0"' "$1.sql" "$2"; }
script base 'SELECT id FROM ids WHERE n = :n;'
script row "SELECT c.access, c.owner, c.status, c.expires_at FROM ids i, conduit.credential c WHERE i.n = :n AND c.connection_id = i.id;"
script vend "SELECT v.access_token FROM ids i, conduit_vend('owner', i.id) v WHERE i.n = :n;"
script pgp "SELECT pgp_sym_decrypt(p.access, 'a passphrase') FROM ids i, pgp p WHERE i.n = :n AND p.id = i.id;"

# Transactions a second, without the time it takes to connect.
pgbench()
{
	as_server "$bindir/pgbench" -n -M prepared -c "$clients" -j "$clients" -T "$seconds" -f "$1.sql" -h "$place" -U postgres app 2>/dev/null |
		sed -n 's/^tps = \([0-9]*\).*/\1/p'
}
as_server "$bindir/pgbench" -n -M prepared -c "$clients" -T 2 -f vend.sql -h "$place" -U postgres app >/dev/null 2>&1
base=$(pgbench base) row=$(pgbench row) vend=$(pgbench vend) pgp=$(pgbench pgp)

# ---- Refreshes ----

issue $refreshes 86400 | as_server sh -c 'cat > grants'
quietly sql <<'END'
TRUNCATE grants RESTART IDENTITY;
\copy grants (secret) FROM 'grants' (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')
UPDATE grants SET id = conduit_create_connection('due', 'bench', n::text);
SELECT count(conduit_store_credential(id, NULL, secret)) FROM grants;
END
# The clock leaps to where all of them are due; the provider's stands still.
begin=$(date +%s%N)
refreshed_before=$(sql -c "SELECT coalesce(sum(refreshed), 0) FROM conduit_stats()")
quietly sql -c "ALTER SYSTEM SET conduit.clock_offset = '86300s'" -c 'SELECT pg_reload_conf()'
total=$((refreshes + connections + refreshed_before))
until [ "$(sql -c "SELECT sum(refreshed) >= $total FROM conduit_stats()")" = t ]; do
	[ $(($(date +%s%N) - begin)) -lt 90000000000 ] || die "the worker has not refreshed them all in 90 s"
	sleep 0.1
done
end=$(date +%s%N)

# ---- Imports ----

quietly sql <<END
SELECT conduit_register_connector('import', '{"auth_type": "oauth2_code", "authorize_url": "$url/authorize", "token_url": "$url/token", "client_auth": "post"}'), conduit_set_client('import', 'cid', 'secret');
CREATE TABLE batches AS SELECT (n - 1) / 10000 AS b, json_agg(json_build_object('owner', 'owner ' || n % 50000, 'account', n::text, 'secret',
	json_build_object('access_token', 'at' || repeat(md5(n::text), 8), 'refresh_token', 'rt' || md5(n::text), 'token_type', 'Bearer', 'expires_in', 2592000)))::text AS records
FROM generate_series(1, $imports) n GROUP BY 1;
END
import_begin=$(date +%s%N)
for ((batch = 0; batch < imports / 10000; batch++)); do
	[ "$(sql -c "SELECT count(i.connection_id) FROM batches, conduit_import('import', records) i WHERE b = $batch")" = 10000 ] || die "not all of a batch was imported"
done
import_end=$(date +%s%N)

awk -v base="$base" -v row="$row" -v vend="$vend" -v pgp="$pgp" -v clients="$clients" -v seconds="$seconds" \
	-v count=$((refreshes + connections)) -v ns=$((end - begin)) \
	-v imports=$imports -v import_ns=$((import_end - import_begin)) 'BEGIN {
	printf "\n%d clients, %d s each, prepared statements\n\n", clients, seconds
	printf "%-52s %10s %10s %8s\n", "", "per second", "us beyond", "ratio"
	line("id by number (what all of them begin with)", base, base, row)
	line("sealed row by primary key, as it lies", row, base, row)
	line("conduit_vend, warm", vend, base, row)
	line("pgp_sym_decrypt of the same token", pgp, base, row)
	printf "\n%-52s %10.0f\n", "refreshes by one worker, provider on this machine", count / (ns / 1e9)
	printf "%-52s %10.0f   (%d in %.1f s)\n", "connections imported, 10000 a call", imports / (import_ns / 1e9), imports, import_ns / 1e9
}
# us beyond: what one call costs a client more than the look-up of the id.
function line(what, tps, base, row) {
	printf "%-52s %10d %10.1f %8.2f\n", what, tps, clients * 1e6 / tps - clients * 1e6 / base, tps / row
}'
