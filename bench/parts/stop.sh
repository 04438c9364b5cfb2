# How soon things end while a provider hangs: a vend that is cancelled, a server that is stopped.

. "$place/build/bench/provider.sh"
hanging=48
rounds=${BENCH_ROUNDS:-7}

start_nginx
start_server stop <<END
conduit.ca_file = '$provider_ca'
conduit.vend_timeout = 60s
END
register_provider slow /token10s
import_connections slow 1 $hanging

say "stop: $rounds vends are cancelled"
for ((round = 1; round <= rounds; round++)); do
	id=$(sql -c "SELECT connection_id FROM conduit.credential ORDER BY 1 OFFSET $round LIMIT 1")
	quietly sql -c "SELECT conduit_store_credential('$id', NULL, '{\"refresh_token\": \"rt\"}')"
	sql -c "SET application_name = 'waiting vend'" -c "SELECT conduit_vend('owner ' || account, id) FROM conduit.connection WHERE id = '$id'" >/dev/null 2>&1 &
	# From the cancellation until the session is idle or gone.
	sql <<'END'
DO $$
DECLARE
	victim int;
	begun timestamptz;
BEGIN
	LOOP
		PERFORM pg_stat_clear_snapshot();
		SELECT pid INTO victim FROM pg_stat_activity WHERE application_name = 'waiting vend' AND wait_event_type = 'Extension';
		EXIT WHEN FOUND;
		PERFORM pg_sleep(0.01);
	END LOOP;
	begun := clock_timestamp();
	PERFORM pg_cancel_backend(victim);
	LOOP
		PERFORM pg_stat_clear_snapshot();
		EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = victim AND state = 'active');
		PERFORM pg_sleep(0.0002);
	END LOOP;
	PERFORM set_config('bench.took', round(extract(epoch FROM clock_timestamp() - begun)::numeric * 1000, 2)::text, false);
END $$;
SELECT current_setting('bench.took');
END
	wait
done >"$place/cancel.turns"
measure "cancel of a waiting vend, ms" "≤ 50" "$(median <"$place/cancel.turns")" "at most $(sort -g "$place/cancel.turns" | tail -n 1) ms"

# All of them hang when the server is told to stop; it is timed until its process file is gone.
quietly sql -c "SELECT count(conduit_store_credential(connection_id, NULL, '{\"refresh_token\": \"rt\"}')) FROM conduit.credential"
# Three times and no more: a request that has been in doubt so often is not sent again for an hour.
say "stop: 3 fast shutdowns"
for ((round = 1; round <= 3; round++)); do
	until [ "$(sql -c "SELECT in_flight >= $hanging FROM conduit_health()")" = t ]; do sleep 0.1; done
	begin=$(now)
	as_server "$bindir/pg_ctl" stop -s -W -m fast -D "$server/data"
	while [ -f "$server/data/postmaster.pid" ]; do sleep 0.01; done
	since "$begin"
	quietly as_server "$bindir/pg_ctl" start -w -t 300 -D "$server/data" -l "$server/log"
done >"$place/shutdown.turns"
measure "fast shutdown with $hanging hanging requests and a grace of 1 s, s" "≤ 1.5" "$(median <"$place/shutdown.turns")" "at most $(sort -g "$place/shutdown.turns" | tail -n 1) s"
