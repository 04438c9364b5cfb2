# What ten million connections change, beside ten thousand: two servers in one run.

hot=10000
all=${BENCH_CONNECTIONS:-10000000}
rounds=${BENCH_ROUNDS:-9}
clients=4

# fill CONNECTOR FIRST LAST, in two sessions, telling how far it is.
fill()
{
	local begin step=200000 first last middle
	begin=$(now)
	for ((first = $2; first <= $3; first += step)); do
		last=$((first + step - 1 < $3 ? first + step - 1 : $3))
		middle=$(((first + last) / 2))
		import_connections "$1" "$first" "$middle" &
		import_connections "$1" $((middle + 1)) "$last"
		wait $!
		say "scale: $last connections after $(since "$begin") s"
	done
}

# The hot set's ids, and where to ask.
open_size()
{
	server=$place/$1
	sql -F $'\t' -c "SELECT owner, id FROM conduit.connection WHERE connector = 'hot'" | as_server sh -c 'cat > parameters'
}

# turn NAME STATEMENT: what it does in one turn on the server of the day.
turn() { load "$clients" 1 1 <<<"$1"$'\t'"$2" >"$place/turn"; per_second "$place/turn" "$1"; }

# tick: seconds of processor time of the worker for a look at what is due, with nothing due.
tick()
{
	local pid before after
	pid=$(worker_pid)
	before=$(cut -d ' ' -f 1 "/proc/$pid/schedstat")
	quietly sql -c "DO \$\$ BEGIN FOR i IN 1..500 LOOP PERFORM conduit_refresh_due(1000); END LOOP; END \$\$"
	after=$(cut -d ' ' -f 1 "/proc/$pid/schedstat")
	awk -v a="$before" -v b="$after" 'BEGIN { print (b - a) / 500 / 1e3 }'
}

# Two servers at a time, each started as the only one start_server knows.
for size in few many; do
	server=''
	start_server $size <<<'autovacuum = off
shared_buffers = 1GB
synchronous_commit = off'
	register_idle_connector hot
	register_idle_connector cold
	fill hot 1 $hot
done
fill cold $((hot + 1)) "$all"
for size in few many; do
	server=$place/$size
	say "scale: vacuuming"
	# The worker would be numbering two events of each connection for long, and not idle.
	quietly sql -c 'TRUNCATE conduit.event' -c 'VACUUM (FREEZE, ANALYZE)' -c 'CHECKPOINT'
	set_config synchronous_commit on
done
bytes=$(sql -c "SELECT pg_size_pretty(sum(pg_total_relation_size(oid))) FROM pg_class WHERE relnamespace = 'conduit'::regnamespace AND relkind = 'r' AND relname IN ('connection', 'credential')")
count=$(sql -c 'SELECT count(*) FROM conduit.credential')

for ((round = 0; round < rounds; round++)); do
	for size in few many; do
		open_size $size
		echo "$size $(turn vend 'SELECT (conduit_vend($1, $2)).access_token') $(tick)"
	done
	say "scale: round $((round + 1)) of $rounds"
done >"$place/scale.rounds"
# of SIZE FIELD
of() { awk -v size="$1" -v field="$2" '$1 == size { print $field }' "$place/scale.rounds"; }
measure "warm vend, $count connections / $hot" "≥ 0.9" "$(divide "$(of many 2 | median)" "$(of few 2 | median)")" \
	"$(of many 2 | median) a second; $bytes of connections and credentials"
measure "idle worker tick, $count connections / $hot" "≤ 1.2" "$(divide "$(of many 3 | median)" "$(of few 3 | median)")" \
	"$(of many 3 | median) and $(of few 3 | median) µs of processor"

# An old snapshot keeps vacuum from removing what refreshes leave behind.
server=$place/many
say "scale: an old snapshot, and 100000 refreshes' dead versions behind it"
as_server sh -c "'$bindir/psql' -X -q -h '$server' -U postgres -d app >/dev/null 2>&1 <<-'END'
	BEGIN ISOLATION LEVEL REPEATABLE READ;
	SELECT count(*) FROM conduit.setting;
	SELECT pg_sleep(3600);
END" &
wait_until "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND query LIKE '%pg_sleep(3600)%' AND pid <> pg_backend_pid()"
quietly sql -c "UPDATE conduit.credential SET refresh_at = refresh_at + '20 days' WHERE connection_id IN (SELECT connection_id FROM conduit.credential ORDER BY refresh_at, connection_id LIMIT 100000)"
quietly sql -c 'VACUUM conduit.credential'
for ((round = 0; round < rounds; round++)); do
	for size in few many; do
		server=$place/$size
		echo "$size 0 $(tick)"
	done
done >"$place/scale.rounds"
measure "the same, an old snapshot held open" "≤ 1.2" "$(divide "$(of many 3 | median)" "$(of few 3 | median)")" \
	"$(of many 3 | median) and $(of few 3 | median) µs, 100000 dead versions at the head of the index"
quietly sql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%' AND pid <> pg_backend_pid()"
measure "worker memory, $count connections, idle" "≤ 40" "$(awk '/RssAnon/ { print $2 / 1024 }' "/proc/$(worker_pid)/status")" "MiB of RssAnon"
