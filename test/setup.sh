# What quickstart.sh, test/run.sh and bench/run.sh share; sourced by bash.
#
# Finds a PostgreSQL to build against, installs what is missing (root on
# Debian; everybody else is told what to install), copies the checkout to a
# place of its own, builds and installs it there.  The server is never run by
# root: root's commands switch to user postgres.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
	bold='' dim='' red='' green='' plain=''
fi

# Servers of somebody else's are none of ours.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGSERVICE PGOPTIONS PGDATA PGAPPNAME

die()
{
	printf '%s%s%s\n' "$red" "$1" "$plain" >&2
	[ $# -lt 2 ] || printf '%s\n' "${@:2}" >&2
	exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# Becomes root where that takes no password from anybody.
can_be_root() { is_root || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; }
as_root() { if is_root; then "$@"; else sudo -n "$@"; fi; }

# Sets $place to a new directory that the server's user can reach.
new_place()
{
	local tmp=/tmp
	is_root || tmp=${TMPDIR:-/tmp}
	place=$(mktemp -d "$tmp/$1.XXXXXX")
	chmod 755 "$place"
}

# Runs a command in $place as the user the server runs as; its home is there
# too, for postgres may have none that it can write to.
as_server()
(
	cd "$place"
	if is_root; then
		exec runuser -u postgres -- env HOME="$place" USER=postgres LOGNAME=postgres "$@"
	else
		exec "$@"
	fi
)

# Runs a command whose output matters only if it fails.
quietly()
{
	local log
	log=$(mktemp)
	if ! "$@" >"$log" 2>&1; then
		tail -n 40 "$log" >&2
		rm -f "$log"
		die "failed: $*"
	fi
	rm -f "$log"
}

# ---- PostgreSQL ----

# A server and what extensions are built with, both.
is_complete_postgres()
{
	[ -x "$1" ] && [ -f "$("$1" --pgxs)" ] && [ -f "$("$1" --includedir-server)/postgres.h" ] &&
		[ -x "$("$1" --bindir)/postgres" ]
}

# Prints the pg_config to use: PG_CONFIG, the first one in PATH, Debian's newest.
find_pg_config()
{
	local candidate
	if [ -n "${PG_CONFIG:-}" ]; then
		candidate=$(command -v "$PG_CONFIG") && is_complete_postgres "$candidate" && echo "$candidate"
		return
	fi
	for candidate in "$(command -v pg_config)" $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -rV); do
		if [ -n "$candidate" ] && is_complete_postgres "$candidate"; then
			echo "$candidate"
			return
		fi
	done
	return 1
}

# The major version to complete (a server without headers, say), or the distribution's own.
debian_postgres_version()
{
	local found
	found=$(ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null | sort -rV | head -n 1 | cut -d / -f 5)
	[ -n "$found" ] || found=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
	echo "${found:-15}"
}

# ---- Packages ----

has_command() { command -v "$1" >/dev/null; }
has_header() { has_command gcc && echo "#include <$1>" | gcc -E - >/dev/null 2>&1; }
has_perl() { has_command perl && perl "$@" -e 1 2>/dev/null; }
has_psycopg() { "$1" -c 'import psycopg' 2>/dev/null; }
has_node() { has_command node && [ "$(node -p 'parseInt(process.versions.node)' 2>/dev/null || echo 0)" -ge 18 ]; }

# Fills the array missing with the Debian packages for what is not there.
# $1 = test or bench also asks for what only tests or measurements need.
find_missing()
{
	local version
	missing=()
	has_command make || missing+=(make)
	has_command gcc || missing+=(gcc)
	has_header stdio.h || missing+=(libc6-dev)
	has_header curl/curl.h || missing+=(libcurl4-openssl-dev)
	has_header openssl/evp.h || missing+=(libssl-dev)
	if ! find_pg_config >/dev/null; then
		[ -z "${PG_CONFIG:-}" ] || die "PG_CONFIG=$PG_CONFIG names no PostgreSQL with a server and PGXS"
		version=$(debian_postgres_version)
		missing+=("postgresql-$version" "postgresql-server-dev-$version")
	fi
	has_node || missing+=(nodejs)
	has_command npm || missing+=(npm)
	if [ "${1:-}" = test ]; then
		has_command openssl || missing+=(openssl)
		has_command gpg && has_command gpg-agent || missing+=(gpg gpg-agent)
		has_command prove || missing+=(perl)
		has_perl -MIPC::Run || missing+=(libipc-run-perl)
		has_command clang || missing+=(clang)
		has_command cppcheck || missing+=(cppcheck)
		has_command clang-tidy || missing+=(clang-tidy)
		[ -x /usr/sbin/pgbouncer ] || has_command pgbouncer || missing+=(pgbouncer)
		has_command chromium || missing+=(chromium fonts-liberation)
		has_command curl || missing+=(curl)
		has_psycopg python3 || has_psycopg /usr/bin/python3 || missing+=(python3-psycopg)
	fi
	if [ "${1:-}" = bench ]; then
		has_header libpq-fe.h || has_header postgresql/libpq-fe.h || missing+=(libpq-dev)
		has_command redis-server || missing+=(redis-server)
		[ -x /usr/sbin/nginx ] || has_command nginx || missing+=(nginx-light libnginx-mod-http-echo)
		has_command curl || missing+=(curl)
		has_command openssl || missing+=(openssl)
	fi
}

apt_install()
{
	local keep=/etc/postgresql-common/createcluster.d/conduit-setup.conf
	local status=0

	# Ours is a server of its own: do not start the distribution's as well.
	if ! [ -e /usr/share/postgresql-common ]; then
		as_root mkdir -p "${keep%/*}"
		echo "create_main_cluster = false" | as_root tee "$keep" >/dev/null
	fi
	# Nor of any other server: at run level 1 a package starts none.
	as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends "$@" || status=$?
	as_root rm -f "$keep"
	return $status
}

install_missing()
{
	find_missing "$@"
	if [ ${#missing[@]} -gt 0 ] && has_command apt-get && can_be_root; then
		# The lists may be empty or old; what they say also decides which PostgreSQL.
		as_root apt-get update -qq </dev/null >/dev/null 2>&1 || true
		find_missing "$@"
		echo "Installing ${missing[*]}"
		quietly apt_install "${missing[@]}" </dev/null
		find_missing "$@"
	fi
	if [ ${#missing[@]} -gt 0 ]; then
		has_command apt-get || die "This system lacks what Debian calls: ${missing[*]}" \
			"Install the like of it (PostgreSQL 15 to 18 with its headers, libcurl, OpenSSL, Node.js 18 or newer), then run this again."
		die "Some packages are missing. Install them, then run this again:" \
			"" "    sudo apt-get install -y --no-install-recommends ${missing[*]}"
	fi
	pg_config=$(find_pg_config)
	bindir=$("$pg_config" --bindir)
	is_root && ! getent passwd postgres >/dev/null &&
		die "There is no user postgres for the server to run as." "Create one, or run this as an ordinary user."
	return 0
}

# ---- A copy, built and installed ----

# Sources without what was built or downloaded in the checkout.
copy_checkout()
{
	mkdir -p "$place/build"
	tar -C "$checkout" -cf - --exclude-vcs --exclude='*.o' --exclude='*.so' --exclude='*.bc' --exclude=./tmp_check \
		--exclude=./log --exclude=./build --exclude=./.quickstart --exclude=node_modules --exclude=.next --exclude='./conduit--[0-9].[0-9].[0-9].sql' . |
		tar -C "$place/build" -xf - --no-same-owner
	if is_root; then chown -R postgres: "$place"; fi
}

build() { as_server make -s -j2 -C "$place/build" PG_CONFIG="$pg_config" "$@"; }

# Somebody with the right has installed this version.  The library itself cannot
# be compared: two builds in two places differ in what they tell debuggers.
is_installed()
{
	local sharedir version
	sharedir=$("$pg_config" --sharedir)
	version=$(sed -n "s/^default_version *= *'\(.*\)'/\1/p" "$place/build/conduit.control")
	[ -f "$("$pg_config" --pkglibdir)/conduit.so" ] &&
		cmp -s "$place/build/conduit.control" "$sharedir/extension/conduit.control" &&
		cmp -s "$place/build/conduit--$version.sql" "$sharedir/extension/conduit--$version.sql"
}

install_extension()
{
	local install=(make -s -C "$place/build" "PG_CONFIG=$pg_config" "$@" install)
	if [ -w "$("$pg_config" --pkglibdir)" ]; then
		quietly "${install[@]}"
	elif can_be_root; then
		quietly as_root "${install[@]}"
	else
		is_installed || die "This version of Conduit is not installed, and only root can write to PostgreSQL's directories." \
			"Install it, then run this again:" "" \
			"    make PG_CONFIG=$pg_config && sudo make install PG_CONFIG=$pg_config"
	fi
}

# Packages of the OAuth servers (test/provider) or others under test/, as lock files have them.
install_node_modules()
{
	local directory
	for directory in "${@:-provider}"; do
		quietly npm --prefix "$place/build/test/$directory" ci --ignore-scripts --no-audit --no-fund </dev/null
		if is_root; then chown -R postgres: "$place/build/test/$directory"; fi
	done
}

# ---- OAuth servers ----

# Starts test/provider/$1.js with further arguments; its line of facts is then
# in $place/provider.json.
start_provider()
{
	local program=$1
	shift
	as_server sh -c 'program=$1; shift; : > provider.json
		setsid node "$program" "$@" < /dev/null > provider.json 2> provider.log &
		echo $! > provider.pid' sh "$place/build/test/provider/$program.js" "$@" >/dev/null 2>&1
	for _ in $(seq 150); do
		[ ! -s "$place/provider.json" ] || return 0
		sleep 0.2
	done
	die "The OAuth server did not start:" "$(cat "$place/provider.log")"
}

provider_fact()
{
	node -p 'JSON.parse(require("fs").readFileSync(0, "utf8"))[process.argv[1]]' "$1" <"$place/provider.json"
}

# Only if the process is still the one that was started here.
stop_provider()
{
	local pid
	pid=$(cat "$place/provider.pid" 2>/dev/null) || return 0
	if grep -qz -- "^$place/build/test/provider/" "/proc/$pid/cmdline" 2>/dev/null; then
		kill "$pid" 2>/dev/null || true
	fi
}
