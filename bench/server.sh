# What the parts of the measurements share; sourced by run.sh, after test/setup.sh.
#
# A part is bench/parts/NAME.sh, sourced in a subshell of its own: it starts the
# server it wants, measures, and calls measure for each line of the table.

# Progress, for whoever waits.
say() { printf '%s%s%s\n' "$dim" "$*" "$plain" >&2; }

# start_server NAME < further settings: a new cluster with Conduit and a database app.
start_server()
{
	stop_server
	server=$place/$1
	as_server mkdir -m 700 "$server"
	as_server sh -c 'umask 077; echo "k1:$(head -c 32 /dev/urandom | base64)" > "$0"' "$server/keyring"
	quietly as_server "$bindir/initdb" --no-sync -U postgres -A trust -E UTF8 --locale=C.UTF-8 -D "$server/data"
	{
		cat <<-END
			listen_addresses = ''
			unix_socket_directories = '$server'
			shared_preload_libraries = 'conduit'
			shared_buffers = 256MB
			max_wal_size = 4GB
			conduit.keyring_file = '$server/keyring'
			conduit.egress_allow = '127.0.0.0/8'
		END
		cat
	} | as_server sh -c 'cat >> "$0"' "$server/data/postgresql.conf"
	quietly as_server "$bindir/pg_ctl" start -w -t 300 -D "$server/data" -l "$server/log"
	quietly as_server "$bindir/createdb" -h "$server" -U postgres app
	quietly sql -c 'CREATE EXTENSION conduit CASCADE'
}

# stop_server [MODE]
stop_server()
{
	if [ -n "${server:-}" ] && [ -f "$server/data/postmaster.pid" ]; then
		as_server "$bindir/pg_ctl" stop -s -t 300 -m "${1:-immediate}" -D "$server/data" || true
	fi
}

sql() { as_server "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$server" -U postgres -d app "$@"; }

set_config() { quietly sql -c "ALTER SYSTEM SET $1 = '$2'" -c 'SELECT pg_reload_conf()'; }

# wait_until QUERY [SECONDS]: until it gives t.
wait_until()
{
	local begin
	begin=$(now)
	until [ "$(sql -c "$1")" = t ]; do
		[ $(($(now) - begin)) -lt "${2:-60}000000000" ] || die "in ${2:-60} s it has not come true: $1"
		sleep 0.1
	done
}

# The worker's process, once it is there.
worker_pid()
{
	wait_until "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'conduit worker'"
	sql -c "SELECT pid FROM pg_stat_activity WHERE backend_type = 'conduit worker'"
}

# The middle one of the numbers on standard input.
median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# divide A B
divide() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.4g\n", a / b }'; }

# A port of 127.0.0.1 that nobody listens on.
free_port()
{
	node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close(); })'
}

now() { date +%s%N; }
# Seconds since a time of now.
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.3f\n", (b - a) / 1e9 }'; }

# A program of bench/*.c.
compile()
{
	[ -x "$place/build/bench/$1" ] ||
		quietly as_server gcc -O2 -Wall -I"$("$pg_config" --includedir)" -I/usr/include/postgresql \
			-o "$place/build/bench/$1" "$place/build/bench/$1.c" "${@:2}"
}

# load CLIENTS ROUNDS SECONDS < statements: bench/load.c with the file parameters in $place.
load()
{
	compile load -lpq -lpthread
	as_server sh -c 'cat > statements'
	as_server "$place/build/bench/load" "host=$server user=postgres dbname=app" "$1" "$2" "$3" parameters statements
}

# ratios FILE A B: of each round of load's output, what A does a second divided by what B does.
ratios()
{
	awk -F '\t' -v a="$2" -v b="$3" '{ t[$1, $2] = $3; r[$1] } END { for (i in r) print t[i, a] / t[i, b] }' "$1"
}

# What one statement does a second, the median of load's rounds.
per_second() { awk -F '\t' -v a="$2" '$2 == a { print int($3) }' "$1" | median; }

# measure NAME TARGET VALUE DETAIL: a line of the table.  TARGET is "≥ 0.95",
# "≤ 1.2", or empty where a figure is only told.
measure()
{
	printf '%s\t%s\t%s\t%s\t%s\n' "$part" "$1" "$2" "$3" "$4" >>"$results"
	printf '  %s%s%s: %s %s %s(%s)%s\n' "$bold" "$1" "$plain" "$3" "${2:+[$2]}" "$dim" "$4" "$plain" >&2
}

# ---- Secrets to measure with ----

# A provider that need not exist, for connections that are not refreshed.
register_idle_connector()
{
	quietly sql -c "SELECT conduit_register_connector('$1', '{\"auth_type\": \"oauth2_code\", \"authorize_url\": \"https://127.0.0.1:1/authorize\", \"token_url\": \"https://127.0.0.1:1/token\"}'), conduit_set_client('$1', 'client', 'secret')"
}

# import_connections CONNECTOR FIRST LAST: one for each number, its account; tokens of 200 bytes.
import_connections()
{
	local first last
	for ((first = $2; first <= $3; first += 10000)); do
		last=$((first + 9999 < $3 ? first + 9999 : $3))
		quietly sql -c "SELECT count(i.connection_id) FROM (
			SELECT json_agg(json_build_object('owner', 'owner ' || n, 'account', n::text, 'secret', json_build_object(
				'access_token', 'at' || substr(repeat(md5(n::text), 7), 1, 198), 'refresh_token', 'rt' || md5(n::text),
				'token_type', 'Bearer', 'expires_in', 2592000)))::text AS records
			FROM generate_series($first, $last) n) b, conduit_import('$1', b.records) i"
	done
}
