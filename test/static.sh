#!/bin/bash
# What can be said of the sources without running them: no warning of two
# compilers and two analyzers, the direction of includes, names of symbols.
#
#   ./test/static.sh            all checks; PG_CONFIG chooses the PostgreSQL
#
# Writes nothing to the checkout.  Exits 0 if all checks have passed.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LC_ALL=C

pg_config=${PG_CONFIG:-pg_config}
version=$(sed -n "s/^default_version *= *'\(.*\)'/\1/p" conduit.control)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# check NAME COMMAND...: passes if the command succeeds and prints nothing.
check()
{
	local name=$1 status=0
	shift
	"$@" >"$work/out" 2>&1 || status=$?
	if [ $status -eq 0 ] && [ ! -s "$work/out" ]; then
		echo "ok     - $name"
		passed=$((passed + 1))
	else
		echo "not ok - $name"
		head -n 100 "$work/out" | sed 's/^/         /'
		[ -s "$work/out" ] || echo "         exit status $status"
		failed=$((failed + 1))
	fi
}

each_source() { printf '%s\0' src/*.c src/*/*.c | xargs -0 -P "$(nproc)" -n "$1" "${@:2}"; }

# ---- compilers ----

includes=(-Isrc "-I$("$pg_config" --includedir-server)")
defines=(-D_GNU_SOURCE "-DCONDUIT_VERSION=\"$version\"")
warnings=(-Wall -Wextra -Werror
	-Wvla -Wmissing-prototypes -Wpointer-arith -Wendif-labels -Wdeclaration-after-statement
	# the server's own style: hooks and callbacks leave parameters unused, sizes
	# meet ints, what an initializer leaves out is zero
	-Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers)
gcc_warnings=(-Wshadow=compatible-local -Wformat=2 -Wmissing-format-attribute -Wimplicit-fallthrough=3 -Wcast-function-type)
# gcc's attributes in the server's headers
clang_warnings=(-Wno-ignored-attributes)
# with which PostgreSQL is built: without them overflow and aliasing mean something else
dialect=(-O2 -fno-strict-aliasing -fwrapv)

compile() { each_source 1 "$@" "${dialect[@]}" "${includes[@]}" "${defines[@]}" "${warnings[@]}" -c -o /dev/null; }

compile_headers()
{
	local header
	for header in src/*/*.h; do
		printf '#include "%s"\n#include "%s"\nextern int unused;\n' "${header#src/}" "${header#src/}" |
			gcc "${includes[@]}" "${defines[@]}" "${warnings[@]}" -fsyntax-only -x c - || echo "in $header"
	done
}

# ---- analyzers ----

analyze_with_clang_tidy()
{
	# the file comes last from xargs, and has to come before the flags
	each_source 1 bash -c 'clang-tidy --quiet "${@: -1}" -- "${@:1:$#-1}" 2>"$0.$$" || { cat "$0.$$"; exit 1; }' \
		"$work/tidy" "${includes[@]}" "${defines[@]}" "${clang_warnings[@]}"
}

# Suppressions and definitions have their reasons beside them.
analyze_with_cppcheck()
{
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
		-Isrc -DPG_VERSION_NUM=150000 "-DCONDUIT_VERSION=\"$version\"" \
		--library=test/cppcheck.cfg --suppressions-list=test/cppcheck.suppress -j "$(nproc)" src
}

# ---- the house ----

# A file includes only from its own wing or a lower one; conduit.c from all.
check_includes()
{
	awk '
	BEGIN {
		n = split("base vault shared provider lifecycle door worker", wings, " ")
		for (i = 1; i <= n; i++)
			height[wings[i]] = i
	}
	/^#include "(base|vault|shared|provider|lifecycle|door|worker)\// {
		split(FILENAME, path, "/")
		split($2, included, /["\/]/)
		if (path[3] == "")
			next
		if (!(path[2] in height))
			print FILENAME ": is in no wing"
		else if (height[included[2]] > height[path[2]])
			print FILENAME ":" FNR ": " path[2] " includes from " included[2] ", which is above it"
	}' src/*.c src/*/*.[ch]
	# each wing is one that design names
	ls -d src/*/ | grep -vE '^src/(base|vault|shared|provider|lifecycle|door|worker)/$'
	true
}

# Every object of the Makefile has its source and the other way round.
check_objects()
{
	diff <(sed -n '/^OBJS = /,/[^\\]$/p' Makefile | grep -oE 'src/[a-z0-9_/]+\.o' | sort) \
		<(ls src/*.c src/*/*.c | sed 's/c$/o/' | sort)
	diff <(sed -n 's/^SQL_PARTS = //p' Makefile | tr ' ' '\n' | sort) <(cd sql && ls [a-z]*.sql | grep -v -- -- | sed 's/\.sql$//' | sort)
}

# What other libraries in the server could collide with begins with conduit_.
check_symbols()
{
	local source
	for source in src/*.c src/*/*.c; do
		gcc -O0 "${includes[@]}" "${defines[@]}" -c -o "$work/symbols.o" "$source" || return
		nm --defined-only --extern-only "$work/symbols.o" |
			awk -v source="$source" '$3 !~ /^(conduit_|pg_finfo_conduit_|Pg_magic_func$|_PG_init$)/ { print source ": " $3 }'
	done
}

# Lines that match, outside of the files given.  Nothing is what is wanted.
no_match()
{
	local pattern=$1
	shift
	grep -nE -- "$pattern" "$@"
	[ $? -eq 1 ]
}

list_sources()
{
	find . -name .git -prune -o -name node_modules -prune -o -name .next -prune -o -name tmp_check -prune -o -type f \
		\( -name '*.[ch]' -o -name '*.sql' -o -name '*.p[lm]' -o -name '*.sh' -o -name '*.spec' -o -name '*.js' -o -name Makefile \) \
		! -name 'conduit--*.sql' -print
}

mapfile -t texts < <(list_sources | sort)
mapfile -t c_files < <(ls src/*.c src/*/*.[ch])
mapfile -t other_c_files < <(printf '%s\n' "${c_files[@]}" | grep -vx src/base/compat.h)

# A library's calls belong to one wing each.
check_libraries()
{
	no_match '#include <curl/' $(printf '%s\n' "${c_files[@]}" | grep -vE '^src/provider/(http|event_set)')
	no_match '#include <openssl/' $(printf '%s\n' "${c_files[@]}" | grep -vE '^src/(vault|provider)/|^src/door/jw[kt]\.')
	no_match '#include "(executor/spi|access/|catalog/)' src/vault/*.[ch]
}

check_scripts()
{
	local script
	while IFS= read -r script; do
		bash -n "$script" || echo "in $script"
	done < <(list_sources | grep '\.sh$'; ls .ci/run)
}

check 'gcc has nothing to say' compile gcc "${gcc_warnings[@]}"
check 'clang has nothing to say' compile clang "${clang_warnings[@]}"
check 'each header stands by itself' compile_headers
check 'cppcheck finds nothing' analyze_with_cppcheck
check 'clang-tidy finds nothing' analyze_with_clang_tidy
check 'includes point downwards' check_includes
check 'Makefile and directories agree' check_objects
check 'exported names begin with conduit_' check_symbols
check 'libraries are used where they belong' check_libraries
check 'versions of PostgreSQL are the concern of compat.h alone' no_match 'PG_VERSION_NUM|PG_MAJORVERSION' "${other_c_files[@]}"
check 'nothing is left for later' no_match '\b(TODO|FIXME|HACK)\b|\bXXX\b' $(printf '%s\n' "${texts[@]}" | grep -v '/test/static\.sh$')
check 'no blanks at the ends of lines' no_match '[ 	]+$' "${texts[@]}"
check 'C is indented by tabs' no_match '^ {4}' "${c_files[@]}"
# a pause between two looks is shorter
check 'tests let no time pass' no_match '\b(pg_)?sleep ?\(?(0\.[1-9]|[1-9])' $(ls test/t/*.pl test/sql/*.sql test/specs/*.spec 2>/dev/null)
check 'scripts are whole' check_scripts

echo
echo "static checks: $passed passed, $failed failed"
[ $failed -eq 0 ]
