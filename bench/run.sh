#!/bin/bash
# Measures Conduit against servers of its own and prints one table of ratios.
#
#   ./bench/run.sh [--full] [--write] [PART...]
#
# PARTs are vend, bulk, refresh, request and stop, some minutes in all; those
# that take longer run when named or with --full: scale (ten million
# connections) and memory (a million refreshes).  --write puts the lines of these
# parts into bench/results.tsv, in place of their former ones, and makes the table
# and its plot of all, bench/results.md and bench/results.svg.
#
# The figures of one run compare with each other, not with another machine's.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../test/setup.sh"
. "$checkout/bench/server.sh"
exec </dev/null

write=no
parts=()
for argument; do
	case $argument in
		--full) parts=(scale memory vend bulk refresh request stop) ;;
		--write) write=yes ;;
		-*) die "usage: ./bench/run.sh [--full] [--write] [PART...]" ;;
		*) [ -f "$checkout/bench/parts/$argument.sh" ] || die "there is no part $argument"
			parts+=("$argument") ;;
	esac
done
[ ${#parts[@]} -gt 0 ] || parts=(vend bulk refresh request stop)

install_missing bench
new_place conduit-bench
results=$place/results.tsv
: >"$results"
finish()
{
	local pid
	stop_provider
	for pid in "$place"/*/data/postmaster.pid; do
		[ ! -f "$pid" ] || as_server "$bindir/pg_ctl" stop -s -t 300 -m immediate -D "${pid%/*}" || true
	done
	for pid in "$place"/*.pid; do
		[ "$pid" = "$place/provider.pid" ] || [ ! -f "$pid" ] || kill "$(cat "$pid")" 2>/dev/null || true
	done
	rm -rf "$place"
}
trap finish EXIT
trap 'exit 130' INT TERM

say "Building Conduit with $("$pg_config" --version)"
copy_checkout
quietly build
install_extension

for part in "${parts[@]}"; do
	begin=$(now)
	( . "$place/build/bench/parts/$part.sh"; stop_server )
	say "$part: $(since "$begin") s"
done

machine="$("$pg_config" --version | sed 's/ (.*//'), $(nproc) processors, $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), load $(cut -d ' ' -f 1 /proc/loadavg) at the end, $(date -u +%F)"
report() { as_server node "$place/build/bench/report.js" "$1" "$machine"; }
echo
report text <"$results"
if [ $write = yes ]; then
	kept=$checkout/bench/results.tsv
	touch "$kept"
	{ awk -F '\t' -v parts=" ${parts[*]} " '!index(parts, " " $1 " ")' "$kept"; cat "$results"; } >"$place/kept"
	cp "$place/kept" "$kept"
	report markdown <"$kept" >"$checkout/bench/results.md"
	report svg <"$kept" >"$checkout/bench/results.svg"
	say "written: bench/results.tsv, results.md, results.svg"
fi
