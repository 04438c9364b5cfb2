#!/bin/bash
# Runs everything there is to run: static checks, pg_regress, isolation, TAP.
#
#   ./test/run.sh                              all of it
#   ./test/run.sh regress isolation            some of it
#   ./test/run.sh tap test/t/020_refresh.pl    some files of TAP
#
# PG_CONFIG chooses the PostgreSQL, PROVE_FLAGS goes to prove.  As root on Debian
# and its kin, installs the packages it needs and the extension, and runs servers
# as user postgres; an ordinary user is told what is missing.  Works in a copy of
# the checkout, which is kept if something fails.  CONDUIT_REGENERATE=1 writes
# test/catalogue/requests.golden instead of comparing with it.
#
# Exits 0 if all has passed.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec </dev/null
started=$SECONDS

parts=() files=()
for argument in "$@"; do
	case $argument in
		static | regress | isolation | tap) parts+=("$argument") ;;
		*.pl) [ -f "$checkout/$argument" ] || die "there is no $argument"; files+=("$argument") ;;
		*) die "usage: ./test/run.sh [static] [regress] [isolation] [tap] [test/t/NAME.pl...]" ;;
	esac
done
[ ${#parts[@]} -gt 0 ] || { if [ ${#files[@]} -gt 0 ]; then parts=(tap); else parts=(static regress isolation tap); fi; }

install_missing test
new_place conduit-test
copy=$place/build
log=$place/log

# Whatever a broken test has left running ends here; its files stay.
keep=''
clean_up()
{
	local file
	while IFS= read -r file; do
		as_server "$bindir/pg_ctl" stop -s -m immediate -D "${file%/postmaster.pid}" || true
	done < <(find "$place" -name postmaster.pid 2>/dev/null)
	[ -n "$keep" ] || rm -rf "$place"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

headline() { printf '\n%s== %s%s\n' "$bold" "$1" "$plain"; }

headline "building with $("$pg_config" --version), Node.js $(node --version)"
copy_checkout
mkdir -p "$log"
# Sockets and whatever tests forget, in one place.
as_server mkdir -p "$place/tmp"
export TMPDIR=$place/tmp
quietly build
quietly build -C "$copy/test/unit"
install_extension
install_node_modules provider postgrest browser clients

# Runs one part with its output shown and kept; notes how it ended and its own closing lines.
failed=() closing=()
run_part()
{
	local part=$1 pattern=$2 status=0 line
	shift 2
	headline "$part"
	"$@" 2>&1 | tee "$log/$part" || status=$?
	line=$({ grep -aE "$pattern" "$log/$part" || true; } | sed -E 's/^[# ]+|[ =]+$//g' | paste -sd ' ' -)
	if [ $status -eq 0 ] && [ -z "$line" ]; then
		line='no result at all'
		status=1
	fi
	closing+=("$(printf '%-10s %s' "$part" "${line:-exit status $status}")")
	[ $status -eq 0 ] || failed+=("$part")
}

# $1 is the variable of the Makefile that names this part's tests; the others are emptied.
installcheck()
{
	local others=() variable
	for variable in REGRESS ISOLATION TAP_TESTS; do
		[ "$variable" = "$1" ] || others+=("$variable=")
	done
	shift
	# PGXS ends a part with an error of make; the diffs tell why.
	as_server env CONDUIT_UNIT_MODULE="$copy/test/unit/conduit_unit.so" \
		make -s -C "$copy" PG_CONFIG="$pg_config" "${others[@]}" "$@" installcheck && return
	find "$copy/tmp_check" -name regression.diffs -exec cat {} + 2>/dev/null
	return 1
}

static_checks() { as_server env PG_CONFIG="$pg_config" bash "$copy/test/static.sh"; }

prove_flags="-j2 --timer ${PROVE_FLAGS:-}"
tests_passed='All [0-9]+ tests passed|[0-9]+ of [0-9]+ tests (failed|passed)'
for part in "${parts[@]}"; do
	case $part in
		static) run_part static '^static checks:' static_checks ;;
		regress) run_part regress "$tests_passed" installcheck REGRESS ;;
		isolation) run_part isolation "$tests_passed" installcheck ISOLATION ;;
		tap)
			run_part tap '^(All tests successful|Files=|Result:|Failed [0-9]+/)' \
				installcheck TAP_TESTS PROVE_FLAGS="$prove_flags" ${files[0]:+PROVE_TESTS="${files[*]}"}
			;;
	esac
done

# A test that was told to write what it expects has written it in the copy.
if [ -n "${CONDUIT_REGENERATE:-}" ]; then
	cp "$copy/test/catalogue/requests.golden" "$checkout/test/catalogue/"
fi

headline "summary"
printf '%s\n' "${closing[@]}"
if [ ${#failed[@]} -gt 0 ]; then
	keep=yes
	printf '%sFAILED: %s%s  (%d s; logs are in %s)\n' "$red" "${failed[*]}" "$plain" $((SECONDS - started)) "$place"
	exit 1
fi
printf '%sAll passed.%s  (%s, %d s)\n' "$green" "$plain" "$("$pg_config" --version)" $((SECONDS - started))
