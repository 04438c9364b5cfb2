# Refreshes beside a bare libcurl loop, with a provider that takes its time, and with one that hangs.

. "$place/build/bench/provider.sh"
due=10000
rounds=${BENCH_ROUNDS:-7}

start_nginx
start_server refresh <<END
conduit.ca_file = '$provider_ca'
autovacuum = off
END
register_provider fast /token
register_provider late /token50
register_provider slow /token10s
say "refresh: sealing $((due + due / 2 + 1000)) credentials"
import_connections fast 1 $due
import_connections late 1 $((due / 2))
register_provider few /token
import_connections few 1 1000
import_connections slow 1 2
quietly sql -c 'VACUUM ANALYZE'

# Nanoseconds of processor time that the worker has had.
worker=$(worker_pid)
processor() { cut -d ' ' -f 1 "/proc/$worker/schedstat"; }

say "refresh: $rounds rounds of $due due at once"
for ((round = 0; round <= rounds; round++)); do
	bare=$(multi /token $due 64 "$refresh_body")
	before=$(processor)
	refreshed=$(refresh_all fast)
	# The first round is for warming up.
	[ $round -eq 0 ] || echo "$bare $refreshed $(($(processor) - before))"
done >"$place/refresh.turns"
per_second=$(awk '{ print $4 / $5 }' "$place/refresh.turns" | median)
measure "refreshes, complete and durable / a bare libcurl loop" "≥ 0.35" "$(awk '{ print $4 / $5 / $1 }' "$place/refresh.turns" | median)" \
	"$(printf '%.0f' "$per_second") and $(awk '{ print $1 }' "$place/refresh.turns" | median) a second"
measure "processor time of a refresh, µs" "" "$(awk '{ print $8 / $4 / 1000 }' "$place/refresh.turns" | median)" \
	"the worker's; a bare loop's $(awk '{ print $3 }' "$place/refresh.turns" | median) µs a request"

# What the WAL of the last round is made of; images of whole pages, which the first change after a checkpoint writes, apart.
read -r _ _ _ n _ begin end _ < <(tail -n 1 "$place/refresh.turns")
as_server "$bindir/pg_waldump" --stats=record --path "$server/data/pg_wal" --start "$begin" --end "$end" |
	sed 's/( */(/g' |
	awk -v n="$n" '
		/^Total/ { next }
		/^[A-Z][A-Za-z0-9]*\// {
			kind = "the rest"
			if ($1 ~ /^Heap\/INSERT/) kind = "claims"
			if ($1 ~ /^Heap\/(DELETE|HEAP_CONFIRM)/) kind = "ends of claims"
			if ($1 ~ /^Heap\/LOCK/) kind = "row locks"
			if ($1 ~ /^Heap\/UPDATE/) kind = "new tokens"
			if ($1 ~ /^Btree/) kind = "indexes"
			bytes[kind] += $4
			all += $4
			images += $6
		}
		END {
			printf "%.0f\t", all / n
			kinds = split("new tokens,claims,ends of claims,row locks,indexes,the rest", order, ",")
			for (i = 1; i <= kinds; i++)
				printf "%s%s %.0f", (i > 1 ? ", " : ""), order[i], bytes[order[i]] / n
			printf "; images of pages after a checkpoint %.0f\n", images / n
		}' >"$place/refresh.wal"
IFS=$'\t' read -r bytes detail <"$place/refresh.wal"
measure "WAL of a refresh, bytes" "" "$bytes" "$detail"

# 64 in flight, 50 ms each: nobody can do more than 1280 a second.
say "refresh: a provider that takes 50 ms"
alone=$(multi /token50 40 1 "$refresh_body" | awk '{ print $2 / 1000 }')
for ((round = 0; round < (rounds + 1) / 2; round++)); do
	bare=$(multi /token50 $((due / 4)) 64 "$refresh_body")
	echo "$bare $(refresh_all late)"
done >"$place/late.turns"
measure "refreshes with 50 ms of latency, 64 in flight / 1280 a second" "≥ 0.95" "$(awk '{ print $4 / $5 / 1280 }' "$place/late.turns" | median)" \
	"$(awk '{ print $4 / $5 }' "$place/late.turns" | median | xargs printf '%.0f') a second; the bare loop $(awk '{ print $1 }' "$place/late.turns" | median); one at a time it is $alone ms"

say "refresh: one slow provider among 1000 due"
for ((round = 0; round < (rounds + 1) / 2; round++)); do
	alone=$(refresh_all few)
	with=$(refresh_all few slow)
	echo "$alone $with"
	until [ "$(sql -c "SELECT count(*) FROM conduit.flight")" = 0 ]; do sleep 0.2; done
done >"$place/slow.turns"
measure "1000 due beside a provider that takes 10 s / without it" "≤ 1.1" "$(awk '{ print $6 / $2 }' "$place/slow.turns" | median)" \
	"$(awk '{ print $6 * 1000 }' "$place/slow.turns" | median | xargs printf '%.0f') and $(awk '{ print $2 * 1000 }' "$place/slow.turns" | median | xargs printf '%.0f') ms"
