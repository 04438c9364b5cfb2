# The worker's memory over a million refreshes, 64 in flight.

. "$place/build/bench/provider.sh"
due=10000
refreshes=${BENCH_REFRESHES:-1000000}

start_nginx
start_server memory <<END
conduit.ca_file = '$provider_ca'
END
register_provider fast /token
say "memory: sealing $due credentials"
import_connections fast 1 $due
quietly sql -c 'VACUUM ANALYZE'

# Memory of the worker's own, in kB.
rss() { awk '/^RssAnon/ { print $2 }' "/proc/$(worker_pid)/status"; }

say "memory: $refreshes refreshes"
for ((done = 0; done < refreshes; done += due)); do
	refresh_all fast >/dev/null
	echo "$((done + due)) $(rss)"
	[ $((done / due % 10)) -ne 9 ] || say "memory: $((done + due)), $(rss) kB"
done >"$place/memory.turns"
at() { awk -v n="$1" '$1 >= n { print $2; exit }' "$place/memory.turns"; }
last=$(at "$refreshes")
measure "worker's memory after $refreshes refreshes, MB" "≤ 40" "$(awk '{ if ($2 > most) most = $2 } END { print most / 1024 }' "$place/memory.turns")" "the most it was"
measure "the same / after half of them" "≤ 1.01" "$(divide "$last" "$(at $((refreshes / 2)))")" \
	"$last and $(at $((refreshes / 2))) kB; $(at $((refreshes / 10))) after a tenth"
