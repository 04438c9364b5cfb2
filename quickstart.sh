#!/bin/bash
# Shows Conduit at work, from nothing, and leaves it running to look around:
# a throw-away PostgreSQL, a real OAuth server (npm's oidc-provider), and an
# account that is connected, refreshed, revoked and connected again.
#
#   ./quickstart.sh          start over
#   ./quickstart.sh stop     stop both servers and remove all they wrote
#
# As root it installs the packages it needs (Debian and its kin) and runs the
# server as user postgres.  Nothing listens on anything but loopback.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/test/setup.sh"

# Where the servers live is noted in the checkout, for stop.
note=$checkout/.quickstart/place
place=''

# A token dies after so many seconds: the first one soon, so that nobody has to
# wait for the worker to renew it at half its life, the next ones later.
first_ttl=10
next_ttl=120

# ---- Stopping ----

stop_servers()
{
	[ -f "$note" ] || return 0
	place=$(cat "$note")
	if [ -d "$place" ]; then
		if [ -f "$place/data/postmaster.pid" ]; then
			as_server "$(cat "$place/bindir")/pg_ctl" stop -s -m fast -D "$place/data" || true
		fi
		stop_provider
		rm -rf "$place"
	fi
	rm -rf "$checkout/.quickstart"
}

case "${1:-}" in
	'') ;;
	stop)
		stop_servers
		echo "Stopped; nothing is left of it but the installed packages and the extension's files."
		exit 0
		;;
	*) die "usage: ./quickstart.sh [stop]" ;;
esac

# ---- Showing ----

number=0
step()
{
	number=$((number + 1))
	printf '%s%2d  %s%s\n' "$bold" "$number" "$1" "$plain"
	[ $# -lt 2 ] || printf '    %s\n' "${@:2}"
	echo
}

indent() { sed -e 's/^/    /' -e 's/ *$//'; }
show_command() { printf '    %s%s%s\n' "$dim" "$1" "$plain"; }

psql_as()
{
	local role=$1
	shift
	as_server stdbuf -oL "$bindir/psql" -X -q -v ON_ERROR_STOP=1 -P footer=off -P null=- -h "$place/socket" -p "$port" -U "$role" -d app "$@"
}

# Runs SQL from stdin as a role; each statement is shown with its answer.  $id
# is a psql variable, and \set reads secrets from files: an application binds
# both as parameters.
sql()
{
	local role=$1 line
	{
		[ -z "${id:-}" ] || printf '\\set id %s\n' "$id"
		local statement=''
		while IFS= read -r line; do
			statement+=$line$'\n'
			case $line in
				*\; | *\\gset | \\*) ;;
				*) continue ;;
			esac
			# Shown as it stands, before psql puts in what the variables hold.
			printf '%s' "$statement" | sed -e 's/\\/\\\\/g' -e "s/'/''/g" -e "s/.*/\\\\echo '$dim&$plain'/"
			printf '%s' "$statement"
			statement=''
		done
	} | psql_as "$role" -f - 2>&1 | sed -e 's/^psql:<stdin>:[0-9]*: //' | tidy
}

# Without the empty tables of functions that return nothing, and with one empty
# line at the end.
tidy()
{
	awk '
		/^ *conduit_[a-z_]* *$/ { header = $0; next }
		header != "" && /^-*$/ { rule = $0; next }
		header != "" && rule != "" && /^ *$/ { header = rule = ""; next }
		header != "" { print header; if (rule != "") print rule; header = rule = "" }
		/^$/ { empty = 1; next }
		{ if (empty && NR > 1) print ""; empty = 0; print }' | indent
	echo
}

# The same where an error is what there is to see.
sql_error()
{
	if sql "$@"; then die "an error was expected"; fi
}

# One value, unseen.
ask() { psql_as "$1" -A -t -c "$2"; }

# Waits until a query answers t.
wait_until()
{
	local deadline=$((SECONDS + $1))
	until [ "$(ask postgres "$2")" = t ]; do
		[ $SECONDS -lt $deadline ] || die "waited $1 s in vain for: $2" "See $place/postgresql.log and $place/provider.log"
		sleep 0.2
	done
}

# Talks to the provider with what Node.js brings; $1 = method, $2 = URL, $3 = JSON
# body, a bearer token comes from stdin so that no list of processes shows it.
http()
{
	node -e '
		const [method, url, body] = process.argv.slice(1);
		const token = require("fs").readFileSync(0, "utf8").trim();
		const headers = { ...(body && { "content-type": "application/json" }), ...(token && { authorization: `Bearer ${token}` }) };
		fetch(url, { method, headers, body }).then(async (reply) => console.log(`HTTP ${reply.status}  ${await reply.text()}`));
	' "$@"
}

# Opens an authorize URL as Alice's browser would, through login and consent;
# prints what comes back to the application's redirect URI, as JSON.
browse()
{
	as_server node "$place/build/test/provider/connect.js" --authorize-only --account alice --url "$1"
}

# Takes the JSON of a callback apart.
callback_fact()
{
	node -p 'JSON.parse(process.argv[1])[process.argv[2]] ?? ""' "$1" "$2"
}

# Sends Alice to the provider and takes her back: $1 is more of conduit_authorize()'s
# arguments.  The connection is then in $id.
connect_account()
{
	local answer url callback code state
	show_command "SELECT authorize_url, state FROM conduit_authorize('alice', 'demo'$1);"
	answer=$(ask backend "SELECT authorize_url || ' ' || state FROM conduit_authorize('alice', 'demo'$1)")
	url=${answer% *} state=${answer##* }
	fold -w 100 <<<"$url" | indent
	echo
	show_command "-- her browser goes there, she logs in and consents, and it comes back:"
	callback=$(browse "$url")
	[ "$(callback_fact "$callback" state)" = "$state" ] || die "the provider has sent another state back"
	code=$(callback_fact "$callback" code)
	printf 'GET /callback?code=%s...&state=%s...&iss=%s\n' "${code:0:8}" "${state:0:8}" "$(callback_fact "$callback" iss)" | indent
	echo
	show_command "SELECT conduit_authorize_callback('alice', \$state, \$code, \$params);"
	# An application binds these; here psql puts them in, from its standard input.
	id=$(psql_as backend -A -t -f - <<END
\\set state '$state'
\\set code '$code'
\\set params '$callback'
SELECT conduit_authorize_callback('alice', :'state', :'code', :'params');
END
	)
	indent <<<"$id"
	echo
}

# ---- The machine ----

printf '%sConduit quick start%s\n\n' "$bold" "$plain"
install_missing
stop_servers

mkdir -p "$checkout/.quickstart"
new_place conduit-quickstart
echo "$place" >"$note"
echo "$bindir" >"$place/bindir"

# Whatever goes wrong on the way, nothing is left running.
finished=''
clean_up()
{
	[ -z "$finished" ] || return 0
	if [ -f "$place/postgresql.log" ]; then
		echo "The server's log ended with:" >&2
		tail -n 15 "$place/postgresql.log" | indent >&2
	fi
	stop_servers
	printf '%sThe quick start failed; nothing is left running.%s\n' "$red" "$plain" >&2
}
trap clean_up EXIT
trap 'exit 130' INT TERM

echo "Building Conduit with $("$pg_config" --version)"
copy_checkout
# Without LLVM bitcode, which only inlining into expensive queries would use.
quietly build with_llvm=no
install_extension with_llvm=no
echo "Getting the OAuth server oidc-provider from npm"
install_node_modules

echo "Starting a server of its own"
as_server mkdir -m 700 "$place/socket"
port=5432    # of a socket in a directory of its own: it meets no other server
# The keyring: one random key, readable by the server's user alone, outside of the data directory.
as_server sh -c 'umask 077; echo "k1:$(head -c 32 /dev/urandom | base64)" > "$0"' "$place/keyring"
quietly as_server "$bindir/initdb" --no-sync -U postgres -A trust -E UTF8 --locale=C.UTF-8 -D "$place/data"
as_server sh -c 'cat >> "$0"' "$place/data/postgresql.conf" <<END

listen_addresses = ''
unix_socket_directories = '$place/socket'
unix_socket_permissions = 0700
port = $port
shared_preload_libraries = 'conduit'
conduit.keyring_file = '$place/keyring'

# The OAuth server of this demonstration is on this machine and speaks plain http.
conduit.egress_allow = '127.0.0.0/8'

# Secrets are bound as parameters: keep those out of the log.
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
END
quietly as_server "$bindir/pg_ctl" start -w -D "$place/data" -l "$place/postgresql.log"
quietly as_server "$bindir/createdb" -h "$place/socket" -p "$port" -U postgres app

echo "Starting the OAuth server"
start_provider oidc --access-ttl "$first_ttl"
issuer=$(provider_fact issuer)
redirect_uri=$(provider_fact redirect_uri)
provider_fact client_secret | as_server sh -c 'umask 077; cat > "$0"' "$place/client_secret"

# ---- The journey ----

echo

step "Create the extension: that is the whole deployment" \
	"A background worker is there with it; a backend's role gets the rights it needs and no more."
sql postgres <<'END'
CREATE EXTENSION conduit CASCADE;
CREATE ROLE backend LOGIN;
SELECT conduit_grant('backend', 'service');
END
wait_until 60 "SELECT worker = 'running' FROM conduit_health()"
show_command "SELECT ok, version, worker, vault FROM conduit_health();"
psql_as postgres -c "SELECT ok, version, worker, vault FROM conduit_health()" | tidy

step "Describe the provider, and the OAuth client we are there" \
	"Hundreds are built in (google, github, slack, ...); this one is ours. The client's secret is sealed."
sql postgres <<END
SELECT conduit_register_connector('demo', '{
    "name": "Demo", "auth_type": "oauth2_code", "client_auth": "basic",
    "authorize_url": "$issuer/auth",
    "token_url": "$issuer/token",
    "revoke_url": "$issuer/token/revocation",
    "issuer": "$issuer", "account_path": "id_token.sub",
    "default_scopes": ["openid", "offline_access"],
    "extra_authorize_params": {"prompt": "consent"},
    "api_base_url": "$issuer", "api_auth": "Authorization: Bearer {token}"}');
\\set client_secret \`cat $place/client_secret\`
SELECT conduit_set_client('demo', 'conduit-demo', :'client_secret', '{$redirect_uri}');
END

step "Connect Alice's account" \
	"The authorization-code flow with PKCE, by two calls; a script is her browser." \
	"The worker exchanges the code: no rollback of ours can lose the grant. The first token lives $first_ttl seconds."
connect_account ''
http POST "$issuer/control/access-ttl" "{\"seconds\": $next_ttl}" >/dev/null </dev/null

step "Vend: a working token for whoever is entitled to it"
sql backend <<'END'
SELECT left(access_token, 10) || '...' AS access_token, token_type, date_trunc('second', expires_at) AS expires_at, generation
FROM conduit_vend('alice', :'id');
END
echo "    Anybody else's, and one that never was, look the same:"
echo
sql_error backend <<'END'
SELECT * FROM conduit_vend('mallory', :'id');
END

step "The worker refreshes it before it dies, unasked"
show_command "-- at half its life, in $((first_ttl / 2)) seconds"
wait_until 60 "SELECT generation > 1 FROM conduit_get_connection('alice', '$id')"
sql backend <<'END'
SELECT status, generation, date_trunc('second', last_refreshed_at) AS last_refreshed_at, date_trunc('second', refresh_at) AS refresh_at
FROM conduit_get_connection('alice', :'id');
SELECT left(access_token, 10) || '...' AS access_token, date_trunc('second', expires_at) AS expires_at, generation
FROM conduit_vend('alice', :'id');
END

step "Use it"
show_command "curl -H \"Authorization: Bearer \$(psql -Atc \"SELECT (conduit_vend('alice', '$id')).access_token\")\" $issuer/me"
ask backend "SELECT access_token FROM conduit_vend('alice', '$id')" | http GET "$issuer/me" | indent
echo

step "Alice takes the permission back at the provider" \
	"A second session listens. Our application meets a 401 there and asks Conduit for another token."
printf '    %sin the second session:%s\n' "$dim" "$plain"
show_command "LISTEN conduit_needs_reauth;"
echo
coproc second { psql_as backend -f - 2>&1; }
second_in=${second[1]}
exec {second_out}<&"${second[0]}"
echo "LISTEN conduit_needs_reauth; \\echo listening" >&"$second_in"
read -r -t 30 _ <&"$second_out" || die "the second session did not start"
show_command "POST $issuer/control/revoke-grants {\"account\": \"alice\"}"
http POST "$issuer/control/revoke-grants" '{"account": "alice"}' </dev/null | indent
show_command "GET $issuer/me"
ask backend "SELECT access_token FROM conduit_vend('alice', '$id')" | http GET "$issuer/me" | indent
echo
show_command "-- 401: another token, then"
sql_error backend <<'END'
SELECT * FROM conduit_refresh('alice', :'id');
END
sql backend <<'END'
SELECT status, status_reason, last_error, last_error_code FROM conduit_get_connection('alice', :'id');
END
printf '    %sin the second session:%s\n' "$dim" "$plain"
notification=''
for _ in $(seq 50); do
	echo "SELECT \\g /dev/null" >&"$second_in"
	if read -r -t 0.2 notification <&"$second_out"; then break; fi
done
[ -n "$notification" ] || die "no notification came"
fold -s -w 100 <<<"$notification" | indent
echo
eval "exec $second_in>&-"
wait "$second_PID" 2>/dev/null || true

step "Alice connects again" "The same connection goes on; every change is in the event log."
connect_account ", connection_id => '$id'"
sql backend <<'END'
SELECT id, account, status, generation FROM conduit_get_connection('alice', :'id');
END
wait_until 60 "SELECT count(*) = 4 FROM conduit_events_after(0)"
sql backend <<'END'
SELECT seq, kind, old_status, new_status, reason FROM conduit_events_after(0);
END
as_server rm -f "$place/client_secret"

step "What an administrator sees"
sql postgres <<'END'
SELECT ok, worker, vault, needs_reauth, overdue, in_flight FROM conduit_health();
SELECT connector, vends, waits, refreshed, dead, round(provider_seconds, 3) AS provider_seconds FROM conduit_stats();
SELECT severity, finding, detail FROM conduit_doctor();
END

finished=yes
look="$bindir/psql -h $place/socket -p $port -U postgres app"
if is_root; then look="runuser -u postgres -- $look"; fi
cat <<END
${green}All of it worked.${plain} Both servers go on running, on this machine alone.

    look around    $look
    the log        $place/postgresql.log
    stop           ./quickstart.sh stop
END
