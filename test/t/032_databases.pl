# Databases: several, copied, renamed, moved, dropped, hostile; and the
# extension in them, created, dropped and of another version.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $true = JSON::PP::true;
my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main');
my $node = $cluster->node;
my $now = 0;

sub in_database
{
	my ($database, %options) = @_;
	return bless { %$cluster, database => $database, %options }, ref $cluster;
}

sub connect_one
{
	my ($cluster) = @_;
	my ($grant) = $provider->issue(1, expires_in => 3600);
	return ($cluster->connection('alice', 'test', $grant), $grant);
}

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

sub wait_for_generation
{
	my ($cluster, $id, $generation) = @_;
	return $cluster->poll("SELECT generation = $generation FROM conduit.credential WHERE connection_id = '$id'");
}

# The worker of a database by its name, as poll_query_until wants it.
sub workers
{
	my ($database) = @_;
	return "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'conduit worker' AND datname = '$database'";
}

sub is_refreshed
{
	my ($cluster, $id, $what) = @_;
	my $generation = $cluster->sql("SELECT generation FROM conduit.credential WHERE connection_id = '$id'");

	advance(3500);
	ok(wait_for_generation($cluster, $id, $generation + 1), "$what: the worker refreshes");
	return;
}

$cluster->connector('test', token_url => $provider->url . '/token');
my ($alice) = connect_one($cluster);

# ---- a second database; other schemas ----

{
	$node->safe_psql('postgres', 'CREATE DATABASE second');
	my $second = in_database('second', schema => 'broker');

	$second->sql('CREATE SCHEMA broker; CREATE SCHEMA crypto; CREATE EXTENSION pgcrypto SCHEMA crypto; CREATE EXTENSION conduit SCHEMA broker');
	$second->wait_for_worker;
	is($second->sql(q{SELECT count(*) FROM pg_proc WHERE proname ~ '^conduit_' AND pronamespace <> 'broker'::regnamespace}), '0', 'schemas: all public functions are where the extension was put');
	$second->connector('test', token_url => $provider->url . '/token');
	my ($id, $grant) = connect_one($second);
	is($second->sql("SELECT access_token FROM broker.conduit_vend('alice', '$id')"), $grant->{access_token}, 'schemas: a token is vended');
	is_refreshed($second, $id, 'schemas');
	ok(wait_for_generation($cluster, $alice, 2), 'schemas: and the worker of the other database as well');
	is($cluster->error("SELECT conduit_vend('alice', '$id')"), $cluster->error(q{SELECT conduit_vend('alice', '00000000-0000-0000-0000-000000000000')}), 'a connection of one database is unknown in the other');

	like($cluster->error('CREATE SCHEMA conduit', database => 'postgres'), qr/^$/, 'a schema named conduit is nothing special without the extension');
	like($cluster->error('CREATE EXTENSION conduit CASCADE', database => 'postgres'), qr/^42P06\|schema "conduit" already exists/, 'but keeps the extension out, lest somebody prepare it');
	$node->safe_psql('postgres', 'DROP SCHEMA conduit');
	like($cluster->error('CREATE SCHEMA other; CREATE EXTENSION conduit SCHEMA conduit CASCADE', database => 'template1'), qr/^(?:3F000|22023)\|/, 'schema conduit is refused for the functions');
	$node->safe_psql('template1', 'DROP SCHEMA other');
}

# ---- commands that need the database empty ----

my $admin = $cluster->session(database => 'postgres');
my $elsewhere = PostgreSQL::Test::Utils::tempdir();

sub succeeds
{
	my ($sql) = @_;
	$admin->query($sql);
	is($admin->error, '', "$sql works");
	return;
}

succeeds('CREATE DATABASE copy TEMPLATE app');
$cluster->wait_for_worker;
is_refreshed($cluster, $alice, 'TEMPLATE');
succeeds('DROP DATABASE copy');

succeeds('ALTER DATABASE app RENAME TO renamed');
{
	my $renamed = in_database('renamed');
	$renamed->wait_for_worker;
	is_refreshed($renamed, $alice, 'RENAME');
}
succeeds('ALTER DATABASE renamed RENAME TO app');
succeeds("CREATE TABLESPACE elsewhere LOCATION '$elsewhere'");
succeeds('ALTER DATABASE app SET TABLESPACE elsewhere');
$cluster->wait_for_worker;
is_refreshed($cluster, $alice, 'SET TABLESPACE');
succeeds('ALTER DATABASE app SET TABLESPACE pg_default');
$cluster->wait_for_worker;

# ---- commands that fail leave the worker, or bring it back ----

{
	my $pid = $cluster->worker_pid;

	$admin->query('CREATE ROLE stranger CREATEDB; SET ROLE stranger');
	for my $command ('DROP DATABASE app', 'ALTER DATABASE app RENAME TO theirs', 'ALTER DATABASE app SET TABLESPACE elsewhere', 'CREATE DATABASE theirs TEMPLATE app')
	{
		$admin->query($command);
		like($admin->error, qr/ERROR:  42501: (?:must be owner of database app|permission denied to copy database "app")/, "a stranger's $command is refused");
		is($cluster->worker_pid, $pid, 'and the worker stays where it was');
	}
	$admin->query('RESET ROLE');
	$admin->query('BEGIN');
	$admin->query('DROP DATABASE app');
	like($admin->error, qr/DROP DATABASE cannot run inside a transaction block/, 'in a transaction block it fails for everybody');
	$admin->query('ROLLBACK');
	is($cluster->worker_pid, $pid, 'and the worker stays');

	my $guest = $cluster->session;
	$admin->query('DROP DATABASE app');
	like($admin->error, qr/ERROR:  55006: database "app" is being accessed by other users/, 'while somebody is connected, it fails');
	is($cluster->worker_pid, $pid, 'and the worker stays: its requests are not left in doubt for nothing');
	$guest->query(q{BEGIN; CREATE TABLE prepared (); PREPARE TRANSACTION 'in the way'});
	$guest->quit;
	$admin->query('DROP DATABASE app');
	like($admin->error, qr/ERROR:  55006: database "app" is being accessed by other users/, 'while a transaction is prepared, it fails');
	$cluster->wait_for_worker;
	isnt($cluster->worker_pid, $pid, 'the worker had left, and comes back');
	$cluster->sql(q{ROLLBACK PREPARED 'in the way'});
	is_refreshed($cluster, $alice, 'after a failed DROP DATABASE');
}

# DROP DATABASE waits for sessions that are about to end, and so the worker must, too.
{
	my $guest;

	$cluster->create_database('leaving');
	$guest = $cluster->session(database => 'leaving');
	$admin->send('DROP DATABASE leaving');
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE state = 'active' AND query ~ '^DROP DATABASE leaving'}) or die 'no DROP DATABASE';
	$guest->quit;
	$admin->result;
	is($admin->error, '', 'DROP DATABASE works when the last session ends while it waits');
}

# A database that is copied again and again has its worker back each time.
for my $n (1 .. 10)
{
	$admin->query('CREATE DATABASE copy TEMPLATE app');
	$admin->query('DROP DATABASE copy');
	$cluster->wait_for_worker;
}
is_refreshed($cluster, $alice, 'TEMPLATE, often');

# ---- the extension comes and goes ----

{
	my $session = $cluster->session;
	my ($pid, $id);

	# rolled back
	$session->query('BEGIN; DROP EXTENSION conduit');
	$session->query('ROLLBACK');
	$session->quit;
	is_refreshed($cluster, $alice, 'DROP EXTENSION rolled back');

	$node->safe_psql('postgres', 'CREATE DATABASE changing');
	my $changing = in_database('changing');
	$changing->sql('BEGIN; CREATE EXTENSION conduit CASCADE; ROLLBACK');
	$changing->sql('CREATE EXTENSION conduit CASCADE; DROP EXTENSION conduit');
	succeeds('ALTER DATABASE changing RENAME TO changed');
	succeeds('ALTER DATABASE changed RENAME TO changing');
	is($node->safe_psql('postgres', workers('changing')), '0', 'without the extension there is no worker');

	# dropped while a request hangs
	$changing->sql('CREATE EXTENSION conduit CASCADE');
	$changing->wait_for_worker;
	$changing->connector('test', token_url => $provider->url . '/token/changing');
	($id) = connect_one($changing);
	$provider->script('/token/changing', [ { hang => $true } ], repeat_last => $true);
	advance(3500);
	$provider->wait_for('/token/changing', 'hanging', 1);
	$pid = $changing->worker_pid;
	$changing->sql('DROP EXTENSION conduit');
	ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)"), 'DROP EXTENSION while a request hangs: the worker leaves');
	is($provider->counts('/token/changing')->{total}, 1, 'and sends nothing more');
	succeeds('ALTER DATABASE changing RENAME TO changed');
	succeeds('ALTER DATABASE changed RENAME TO changing');

	# and created again
	$changing->sql('CREATE EXTENSION conduit');
	$changing->wait_for_worker;
	$changing->connector('test', token_url => $provider->url . '/token');
	($id) = connect_one($changing);
	is_refreshed($changing, $id, 'created again');
	$changing->sql('DROP EXTENSION conduit');

	# dropped with its owner's other things
	$changing->sql('CREATE EXTENSION conduit');
	$changing->wait_for_worker;
	like($changing->error('DROP SCHEMA conduit CASCADE'), qr/^2BP01\|cannot drop schema conduit because extension conduit requires it/, 'the private schema cannot be dropped by itself');
	$changing->sql('DROP EXTENSION pgcrypto CASCADE');
	ok($node->poll_query_until('postgres', workers('changing') . ' ', '0'), 'a drop that cascades to the extension makes the worker leave');

	# prepared
	$changing->sql(q{BEGIN; CREATE EXTENSION conduit CASCADE; PREPARE TRANSACTION 'extension'});
	$changing->sql(q{COMMIT PREPARED 'extension'});
	is($changing->sql('SELECT conduit_refresh_due()'), '0', 'COMMIT PREPARED: the first call that needs the worker finds one');
	$changing->wait_for_worker;
	succeeds('DROP DATABASE changing');
}
ok(slurp_file($node->logfile) !~ /terminated by signal|PANIC|TRAP:/, 'nothing crashed');

# ---- hostile settings ----

{
	my @settings = (
		q{search_path = evil, pg_catalog, public},
		q{default_transaction_read_only = on},
		q{default_transaction_isolation = serializable},
		q{default_transaction_deferrable = on},
		q{session_replication_role = replica},
		q{statement_timeout = '1ms'},
		q{lock_timeout = '1ms'},
		q{idle_in_transaction_session_timeout = '1ms'},
		q{synchronous_commit = off},
		q{datestyle = 'SQL, DMY'},
		q{timezone = 'Pacific/Kiritimati'},
		q{intervalstyle = sql_standard},
		q{extra_float_digits = -15},
		q{bytea_output = escape},
		q{standard_conforming_strings = off},
		q{backslash_quote = off},
		q{transform_null_equals = on},
		q{array_nulls = off},
		q{quote_all_identifiers = on},
		q{row_security = off},
		q{default_tablespace = elsewhere},
		q{work_mem = '64kB'},
		q{enable_indexscan = off},
		q{plan_cache_mode = force_custom_plan},
		q{client_encoding = latin1},
		q{check_function_bodies = off},
		q{exit_on_error = on},
		q{role = stranger},
		q{conduit.vend_timeout = 0},
	);
	my ($id) = connect_one($cluster);

	# What anybody who may create a schema could plant.
	$cluster->sql(q{
		CREATE SCHEMA evil;
		GRANT USAGE ON SCHEMA evil TO PUBLIC;
		CREATE FUNCTION evil.refuse(uuid, uuid) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'planted operator'; END$$;
		CREATE OPERATOR evil.= (FUNCTION = evil.refuse, LEFTARG = uuid, RIGHTARG = uuid);
		CREATE FUNCTION evil.refuse(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'planted operator'; END$$;
		CREATE OPERATOR evil.= (FUNCTION = evil.refuse, LEFTARG = text, RIGHTARG = text);
		CREATE FUNCTION evil.refuse(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'planted operator'; END$$;
		CREATE OPERATOR evil.= (FUNCTION = evil.refuse, LEFTARG = bigint, RIGHTARG = bigint);
		CREATE FUNCTION evil.refuse(timestamptz, timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'planted operator'; END$$;
		CREATE OPERATOR evil.< (FUNCTION = evil.refuse, LEFTARG = timestamptz, RIGHTARG = timestamptz);
		CREATE OPERATOR evil.<= (FUNCTION = evil.refuse, LEFTARG = timestamptz, RIGHTARG = timestamptz);
		CREATE FUNCTION evil.count("any") RETURNS bigint LANGUAGE internal AS 'pg_typeof';
		CREATE FUNCTION evil.nextval(regclass) RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'planted function'; END$$;
		CREATE FUNCTION evil.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'planted function'; END$$;
		CREATE FUNCTION evil.digest(bytea, text) RETURNS bytea LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'planted function'; END$$;
		CREATE DOMAIN evil.text AS pg_catalog.text CHECK (false);
		CREATE DOMAIN evil.uuid AS pg_catalog.uuid CHECK (false);
		CREATE TABLE evil.pg_extension (extname name, extversion pg_catalog.text, oid oid);
		CREATE TABLE evil.connection (); CREATE TABLE evil.credential (); CREATE TABLE evil.flight ();
	});
	for my $setting (@settings)
	{
		$node->safe_psql('postgres', "ALTER DATABASE app SET $setting");
		$node->safe_psql('postgres', "ALTER ROLE CURRENT_USER IN DATABASE app SET $setting");
	}

	my $pid = $cluster->worker_pid;
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") if $pid ne '';
	# Our own questions must not suffer from what they are to find out.
	local $ENV{PGOPTIONS} = '-c statement_timeout=0 -c search_path=pg_catalog,public -c default_transaction_read_only=off -c default_transaction_isolation=read\ committed'
	  . ' -c role=none -c standard_conforming_strings=on -c lock_timeout=0 -c exit_on_error=off -c client_encoding=utf8 -c datestyle=iso -c idle_in_transaction_session_timeout=0';
	$node->poll_query_until('postgres', workers('app') . " AND pid <> $pid", '1') or die 'no worker';
	is($cluster->sql('SHOW synchronous_commit'), 'off', 'hostile: the settings are in force');
	is_refreshed($cluster, $id, 'hostile');

	# A caller under all of it.
	local $ENV{PGOPTIONS} = '-c statement_timeout=0 -c role=none -c client_encoding=utf8 -c exit_on_error=off -c conduit.vend_timeout=5s';
	is($cluster->sql("SELECT generation FROM public.conduit_vend('alice', '$id')"), '2', 'hostile: a caller is vended');
	advance(3700);
	is($cluster->sql("SELECT generation FROM public.conduit_vend('alice', '$id')"), '3', 'hostile: also what has to be refreshed first, read-only, serializable, under a planted search_path');
	$ENV{PGOPTIONS} .= ' -c default_transaction_read_only=off';
	my ($grant) = $provider->issue(1, expires_in => 3600);
	my $other = $cluster->sql("SELECT public.conduit_create_connection('bob', 'test')");
	$cluster->store($other, $grant);
	is($cluster->sql("SELECT access_token FROM public.conduit_vend('bob', '$other')"), $grant->{access_token}, 'hostile: a caller stores');
	is($cluster->sql("SELECT public.conduit_delete_owner('bob')"), '1', 'hostile: and deletes');
	is($cluster->sql('SELECT worker FROM public.conduit_health()'), 'running', 'hostile: health is told');
	ok(slurp_file($node->logfile) !~ /ERROR:  planted/, 'hostile: nothing planted was run');
	$node->safe_psql('postgres', 'ALTER DATABASE app RESET ALL; ALTER ROLE CURRENT_USER IN DATABASE app RESET ALL');
}

# ---- library and SQL of different versions ----

# What any update does: it says another version, and changes a function.
sub set_version
{
	my ($version) = @_;
	$cluster->sql("BEGIN; UPDATE pg_extension SET extversion = '$version' WHERE extname = 'conduit';
		ALTER FUNCTION conduit_health() COST 2; ALTER FUNCTION conduit_health() COST 1; COMMIT");
	return;
}

{
	my $version = $cluster->sql(q{SELECT extversion FROM pg_extension WHERE extname = 'conduit'});
	my ($id) = connect_one($cluster);
	my $offset = -s $node->logfile;

	for my $case (
		[ '99.0.0', qr/^55000\|restart PostgreSQL to load the new conduit library\|/ ],
		[ '0.0.9', qr/^55000\|run ALTER EXTENSION conduit UPDATE\|/ ])
	{
		my ($other, $error) = @$case;
		my $open = $cluster->session;

		is($open->query("SELECT generation > 0 FROM conduit_vend('alice', '$id')"), 't', "version $other: a session vends");
		set_version($other);
		for my $call ("conduit_vend('alice', '$id')", "conduit_get_connection('alice', '$id')", "conduit_store_credential('$id', NULL, '{}')", 'conduit_refresh_due()', 'conduit_health()', "conduit_create_connection('alice', 'test')")
		{
			like($cluster->error("SELECT $call"), $error, "version $other: $call is refused");
		}
		$cluster->reload;
		$offset = $node->wait_for_log("conduit: library version \\S+ does not serve extension version $other", $offset);
		ok($node->poll_query_until('postgres', workers('app'), '0'), "version $other: the worker leaves");
		set_version($version);
		$cluster->sql('SELECT conduit_refresh_due()');
		$cluster->wait_for_worker;
		is_refreshed($cluster, $id, "version $other, mended");
		$open->quit;
	}
}

$admin->quit;
done_testing();
