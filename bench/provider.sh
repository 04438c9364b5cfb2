# A provider that is never the bottleneck: nginx, with one process, TLS and tokens
# that are new in each reply.  Sourced by the parts that refresh.

# start_nginx: $provider is its URL, $provider_ca its authority.
#
#   /token    answers at once
#   /token50  takes 50 ms as a client sees it (nginx's clock and TLS are good for one), and /token10s 10 s
#   /api5     takes 5 ms, with another body
start_nginx()
{
	local directory=$place/nginx module
	module=$({ find /usr/lib*/nginx /usr/share/nginx -name ngx_http_echo_module.so 2>/dev/null || true; } | head -n 1)
	[ -n "$module" ] || die "nginx lacks its module echo, which makes it slow when asked to."
	as_server mkdir -p "$directory"
	quietly as_server sh -c 'cd "$0"
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
		openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=provider -keyout key.pem -out request.pem
		printf "subjectAltName=IP:127.0.0.1" > extension
		openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extension -out cert.pem' "$directory"
	provider_ca=$directory/ca.pem
	provider_port=$(free_port)
	provider=https://127.0.0.1:$provider_port
	as_server sh -c 'cat > "$0/nginx.conf"' "$directory" <<END
load_module $module;
worker_processes 1;
pid $place/nginx-$part.pid;
error_log $directory/error.log;
events { worker_connections 1024; }
http {
	access_log off;
	default_type application/json;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	client_body_temp_path $directory/body;
	proxy_temp_path $directory/proxy;
	fastcgi_temp_path $directory/fastcgi;
	uwsgi_temp_path $directory/uwsgi;
	scgi_temp_path $directory/scgi;
	server {
		listen 127.0.0.1:$provider_port ssl;
		ssl_certificate $directory/cert.pem;
		ssl_certificate_key $directory/key.pem;
		set \$reply '{"access_token":"at-\$request_id\$request_id","refresh_token":"rt-\$request_id","token_type":"Bearer","expires_in":3600,"scope":"read write"}';
		location /token { return 200 \$reply; }
		location /token50 { echo_sleep 0.049; echo \$reply; }
		location /token10s { echo_sleep 10; echo \$reply; }
		location /api { return 200 '{"login":"octocat","id":1,"name":"monalisa octocat"}'; }
		location /api5 { echo_sleep 0.005; echo '{"login":"octocat","id":1,"name":"monalisa octocat"}'; }
	}
}
END
	quietly as_server "$(command -v nginx || echo /usr/sbin/nginx)" -e "$directory/error.log" -c "$directory/nginx.conf"
}

# What a refresh of Conduit's sends to it.
refresh_body='grant_type=refresh_token&refresh_token=rt-0123456789abcdef0123456789abcdef&client_id=bench&client_secret=0123456789abcdef0123456789abcdef'

# multi PATH REQUESTS IN_FLIGHT [BODY]: requests a second, median latency and processor time in microseconds of a bare libcurl loop.
multi()
{
	compile multi -lcurl
	as_server "$place/build/bench/multi" "$provider$1" "$provider_ca" "${@:2}"
}

# register_provider CONNECTOR PATH
register_provider()
{
	quietly sql -c "SELECT conduit_register_connector('$1', '{\"auth_type\": \"oauth2_code\", \"authorize_url\": \"$provider/authorize\", \"token_url\": \"$provider$2\", \"client_auth\": \"post\", \"api_base_url\": \"$provider\"}'), conduit_set_client('$1', 'bench', '0123456789abcdef0123456789abcdef')"
}

# refresh_all CONNECTOR...: all credentials of these fall due at the same moment.
# Prints their number, the seconds from then until all of the first connector's
# are refreshed, and where in the WAL that began and ended.
#
# The moment is half a second ahead, so that neither the statement that sets it
# nor its commit is measured; a new credential that is due at once makes the
# worker look for when the next one is.
refresh_all()
{
	local first=$1 list
	list=$(printf "'%s'," "$@")
	sql -c 'VACUUM conduit.credential' -c 'VACUUM conduit.flight' -c CHECKPOINT
	sql -F ' ' <<END | tail -n 1
\set QUIET
SET client_min_messages = error;
SELECT coalesce(sum(refreshed), 0) AS before FROM conduit_stats() WHERE connector = '$first' \gset
SELECT connection_id AS nudge FROM conduit.credential WHERE connector = '$first' LIMIT 1 \gset
BEGIN;
SELECT clock_timestamp() + '500 ms' AS moment \gset
UPDATE conduit.credential SET refresh_at = :'moment' WHERE connector IN (${list%,}) AND connection_id <> :'nudge';
SELECT conduit_store_credential(:'nudge', NULL, '{"refresh_token": "rt"}');
COMMIT;
SELECT count(*) AS due, :before + 1 + count(*) AS goal FROM conduit.credential WHERE connector = '$first' AND refresh_at = :'moment' \gset
SELECT pg_sleep_until(:'moment'::timestamptz - interval '20 ms');
SELECT pg_current_wal_insert_lsn() AS lsn \gset
SET conduit_bench.goal = :goal;
SET conduit_bench.first = '$first';
DO \$\$
BEGIN
	WHILE (SELECT sum(refreshed) FROM conduit_stats() WHERE connector = current_setting('conduit_bench.first')) < current_setting('conduit_bench.goal')::bigint LOOP
		PERFORM pg_sleep(0.005);
	END LOOP;
END \$\$;
SELECT :due, round(extract(epoch FROM clock_timestamp() - :'moment')::numeric, 4), :'lsn', pg_current_wal_flush_lsn();
END
}
