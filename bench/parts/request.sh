# conduit_request beside the same request by curl on a connection that is kept alive, one at a time.

. "$place/build/bench/provider.sh"
requests=300
rounds=${BENCH_ROUNDS:-7}

start_nginx
start_server request <<END
conduit.ca_file = '$provider_ca'
END
register_provider api /token
id=$(sql -c "SELECT conduit_create_connection('owner', 'api', 'account')")
quietly sql -c "SELECT conduit_store_credential('$id', NULL, '{\"access_token\": \"$(printf 'at%0198d' 0)\", \"expires_in\": 86400}')"

# The median latency of a statement, in microseconds.
latency()
{
	as_server sh -c 'cat > request.sql; rm -f latency.*' <<<"SELECT status FROM conduit_request('owner', '$id', 'GET', '$1')"
	quietly as_server "$bindir/pgbench" -n -M prepared -c 1 -t $requests -f request.sql -l --log-prefix latency -h "$server" -U postgres app
	as_server sh -c 'cat latency.*' | awk '{ print $3 }' | median
}

say "request: $rounds rounds of $requests requests"
for ((round = 0; round < rounds; round++)); do
	echo "$(latency /api5) $(multi /api5 $requests 1 | cut -d ' ' -f 2) $(latency /api) $(multi /api $requests 1 | cut -d ' ' -f 2)"
done >"$place/request.turns"
measure "conduit_request of an API that takes 5 ms / by curl, p50" "≤ 1.3" "$(awk '{ print $1 / $2 }' "$place/request.turns" | median)" \
	"$(awk '{ print $1 / 1000 }' "$place/request.turns" | median) and $(awk '{ print $2 / 1000 }' "$place/request.turns" | median) ms"
measure "what conduit_request adds where the API takes no time, µs" "" "$(awk '{ print $3 - $4 }' "$place/request.turns" | median)" \
	"$(awk '{ print $3 }' "$place/request.turns" | median) and $(awk '{ print $4 }' "$place/request.turns" | median) µs"
