# The worker and the launcher: seen, told, starved, stopped.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $hang = { hang => JSON::PP::true };
my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main');
my $node = $cluster->node;
my $now = 0;

$cluster->connector('test', token_url => $provider->url . '/token');
$cluster->connector('slow', token_url => $provider->url . '/token/slow');

# Connections whose tokens are due after advance(3500) and dead after advance(3700).
sub connections
{
	my ($cluster, $connector, $count, %options) = @_;
	return map { $cluster->connection("owner of $connector", $connector, $_, %options) }
	  $provider->issue($count, expires_in => 3600);
}

# The same cluster, but for its database.
sub in_database
{
	my ($database) = @_;
	return bless { %$cluster, database => $database }, ref $cluster;
}

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

sub generations
{
	my ($cluster, @ids) = @_;
	my $list = join(',', map { "'$_'" } @ids);
	return $cluster->sql("SELECT string_agg(DISTINCT generation::text, ',') FROM conduit.credential WHERE connection_id IN ($list)");
}

sub wait_for_generation
{
	my ($cluster, $generation, @ids) = @_;
	my $list = join(',', map { "'$_'" } @ids);
	return $cluster->poll("SELECT bool_and(generation = $generation) FROM conduit.credential WHERE connection_id IN ($list)");
}

# How long something takes; for the bounds that are promised.
sub seconds(&)
{
	my ($code) = @_;
	my $start = time;
	$code->();
	return time - $start;
}

# ---- seen ----

is($cluster->sql("SELECT string_agg(backend_type || ':' || coalesce(datname, '') || ':' || coalesce(state, 'no state'), ' ' ORDER BY backend_type) FROM pg_stat_activity WHERE backend_type ~ '^conduit'"),
	'conduit launcher::idle conduit worker:app:idle', 'launcher and worker are named in pg_stat_activity, with their state');
is($cluster->sql('SELECT ok, worker, paused FROM conduit_health()'), 't|running|', 'and conduit_health() is content');

my ($alice) = connections($cluster, 'test', 1);
my @slow = connections($cluster, 'slow', 3);
$provider->script('/token/slow', [$hang], repeat_last => JSON::PP::true);
advance(3500);
$provider->wait_for('/token/slow', 'hanging', 3);
ok(wait_for_generation($cluster, 2, $alice), 'a provider that hangs does not keep another one');

my $worker = $cluster->worker_pid;
ok($cluster->poll("SELECT state = 'active' AND query = 'refreshing 3 connections, 0 waiting' FROM pg_stat_activity WHERE pid = $worker"),
	'pg_stat_activity says what the worker does');
ok($cluster->poll("SELECT xact_start IS NULL AND backend_xid IS NULL AND backend_xmin IS NULL
	AND NOT EXISTS (SELECT FROM pg_locks WHERE pid = $worker) FROM pg_stat_activity WHERE pid = $worker"),
	'while it waits for the provider it holds no transaction, no snapshot and no lock');
is($provider->counts('/token/slow')->{hanging}, 3, 'and it does wait');
is($cluster->sql('SELECT in_flight, queued FROM conduit_health()'), '3|0', 'conduit_health() counts the flights');

# ---- nobody waits for a provider ----

cmp_ok(seconds { $node->safe_psql('postgres', 'CHECKPOINT') }, '<', 1, 'a CHECKPOINT does not wait for the provider');
{
	my $session = $cluster->session(database => 'postgres');

	$session->query('CREATE DATABASE idle');
	cmp_ok(seconds { $session->query('DROP DATABASE idle') }, '<', 1, 'nor does DROP DATABASE of another database');
	is($session->error, '', 'which succeeds');

	$cluster->create_database('doomed');
	my $doomed = in_database('doomed');
	$doomed->connector('slow', token_url => $provider->url . '/token/slow');
	connections($doomed, 'slow', 2);
	advance(3500);
	$provider->wait_for('/token/slow', 'hanging', 5);
	cmp_ok(seconds { $session->query('DROP DATABASE doomed') }, '<', 1, 'nor of the one whose worker waits');
	is($session->error, '', 'which succeeds, too');
	$session->quit;
}
is($cluster->worker_pid, $worker, 'the worker of the other database stayed');
$provider->script('/token/slow', []);
$provider->release;
ok(wait_for_generation($cluster, 2, @slow), 'what hung is refreshed when the provider answers');

# ---- shutdown ----

$provider->script('/token/slow', [$hang], repeat_last => JSON::PP::true);
advance(3500);
$provider->wait_for('/token/slow', 'hanging', 3);
cmp_ok(seconds { $cluster->stop('fast') }, '<=', 1.5, 'a fast shutdown takes at most conduit.shutdown_grace and half a second');
$provider->script('/token/slow', []);
$provider->kill_connections(all => JSON::PP::true);
$node->start;
$cluster->wait_for_worker;
ok(wait_for_generation($cluster, 3, @slow), 'what was in doubt is refreshed after the start');
like(slurp_file($node->logfile), qr/conduit: 3 refreshes of a former worker are in doubt and are tried again/, 'and the log says so');

# The provider has rotated and answers late: what it says within the grace must not be lost.
$cluster->setting('conduit.shutdown_grace', '1min');
$provider->script('/token/slow', [ { %$hang, rotate => JSON::PP::true } ], repeat_last => JSON::PP::true);
advance(3500);
$provider->wait_for('/token/slow', 'hanging', 3);
{
	my $offset = -s $node->logfile;
	my ($out, $err) = ('', '');
	my $stop = IPC::Run::start([ $node->installed_command('pg_ctl'), '-D', $node->data_dir, '-m', 'fast', '-w', 'stop' ], '>', \$out, '2>', \$err);

	$node->wait_for_log('received fast shutdown request', $offset);
	$provider->script('/token/slow', []);
	$provider->release;
	$stop->finish;
	is($stop->result(0), 0, 'the server stops');
	$node->_update_pid(0);
}
$node->start;
$cluster->wait_for_worker;
is(generations($cluster, @slow), '4', 'requests that were answered within the grace were settled');
is($provider->counts('/token/slow')->{reuse}, 0, 'no refresh token was sent twice');
$cluster->setting('conduit.shutdown_grace', '1s');
advance(3500);
ok(wait_for_generation($cluster, 5, @slow), 'and what was settled is good for the next refresh');

# ---- terminated ----

for my $kind ('conduit worker', 'conduit launcher')
{
	my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = '$kind'");

	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)"), 't', "the $kind is terminated");
	ok($cluster->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = '$kind' AND pid <> $pid"), 'and comes back');
	is($cluster->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'conduit worker' AND datname = 'app'"), '1', 'there is one worker');
}
advance(3500);
ok(wait_for_generation($cluster, 6, @slow), 'and they do their work');

# ---- told by SIGHUP ----

my @eight = connections($cluster, 'slow', 5);
push @eight, @slow;
$cluster->setting('conduit.max_in_flight', 2);
$provider->script('/token/slow', [$hang], repeat_last => JSON::PP::true);
my $before = $provider->counts('/token/slow')->{total};
advance(3500);
$provider->wait_for('/token/slow', 'hanging', 2);
ok($cluster->poll("SELECT in_flight = 2 AND queued = 6 FROM conduit_health()"), 'conduit.max_in_flight bounds the flights');
is($provider->counts('/token/slow')->{total} - $before, 2, 'as the provider sees them');
$cluster->setting('conduit.max_in_flight', 5);
$provider->wait_for('/token/slow', 'hanging', 5);
ok($cluster->poll("SELECT in_flight = 5 AND queued = 3 FROM conduit_health()"), 'and a reload that raises it is obeyed');
$provider->script('/token/slow', []);
$provider->release;
ok($cluster->poll('SELECT in_flight = 0 AND queued = 0 FROM conduit_health()'), 'all are answered');

# ---- fair ----

$cluster->setting('conduit.max_in_flight', 4);
my @others = connections($cluster, 'test', 6);
$provider->script('/token/slow', [$hang], repeat_last => JSON::PP::true);
advance(3500);
ok(wait_for_generation($cluster, 2, @others), 'a connector that hangs, with more due than there are places, keeps no other');
$provider->wait_for('/token/slow', 'hanging', 1);
$provider->script('/token/slow', []);
$provider->release;
ok($cluster->poll('SELECT in_flight = 0 AND queued = 0 FROM conduit_health()'), 'and is served, too');

# Also where it was there first, if it has answered nothing of late.
$cluster->setting('conduit.max_in_flight', 8);
$cluster->connector('stuck', token_url => $provider->url . '/token/stuck');
$cluster->sql("SELECT conduit_delete_owner('owner of slow'), conduit_delete_owner('owner of test')");
@others = connections($cluster, 'stuck', 12);
$provider->script('/token/stuck', [$hang], repeat_last => JSON::PP::true);
advance(3500);
$provider->wait_for('/token/stuck', 'hanging', 6);
ok($cluster->poll('SELECT in_flight = 6 AND queued = 6 FROM conduit_health()'), 'a connector that hangs does not get all places');
my @later = connections($cluster, 'test', 6);
$cluster->sql(qq{SELECT conduit_refresh('owner of test', '$_')}) for @later;
is(generations($cluster, @later), '2', 'so that another one is served');
is($provider->counts('/token/stuck')->{hanging}, 6, 'while it hangs');
$provider->script('/token/stuck', []);
$provider->release;
ok($cluster->poll('SELECT in_flight = 0 AND queued = 0 FROM conduit_health()') && wait_for_generation($cluster, 2, @others), 'and so is the first, in the end');
$cluster->sql("SELECT conduit_delete_owner('owner of stuck')");
@others = @later;
$cluster->setting('conduit.max_in_flight', 64);

# ---- paused for one database ----

$node->safe_psql('postgres', 'ALTER DATABASE app SET conduit.refresh_enabled = off');
ok($cluster->poll("SELECT worker = 'running' AND paused = 'disabled' FROM conduit_health()"), 'ALTER DATABASE pauses the refreshes of one database');
$before = $provider->counts->{total};
advance(3500);
is($cluster->error("SELECT conduit_vend('owner of test', '$others[0]')"), '', 'a valid token is vended while refreshing is paused');
like($cluster->sql("SELECT (conduit_vend('owner of test', '$others[0]')).access_token"), qr/./, 'as it is');
advance(200);
like($cluster->error("SELECT conduit_vend('owner of test', '$others[0]')"), qr/^PT500\|refresh is paused\|paused\|.*conduit_health/, 'a dead one is not, and the error says why');
like($cluster->error('SELECT conduit_refresh_due()'), qr/^PT500\|refresh is paused/, 'conduit_refresh_due() says so');
is($cluster->sql("SELECT severity FROM conduit_doctor() WHERE finding = 'disabled'"), 'warning', 'and so does the doctor');
is($provider->counts->{total}, $before, 'nothing was sent to the provider');
$node->safe_psql('postgres', 'ALTER DATABASE app RESET conduit.refresh_enabled');
ok(wait_for_generation($cluster, 3, @others), 'refreshing goes on when it is enabled again');
ok($cluster->poll('SELECT in_flight = 0 AND queued = 0 FROM conduit_health()'), 'until nothing is due');

# ---- the log ----

{
	my ($grant) = $provider->issue(1, expires_in => 3600, prefix => 'canary-');
	my $id = $cluster->connection('owner of the canary', 'test', $grant);
	my $offset = -s $node->logfile;
	my $log;

	$provider->script('/token', [ { status => 503 }, { status => 400, json => { error => 'invalid_grant', error_description => $grant->{refresh_token} } } ]);
	$cluster->sql("SELECT conduit_refresh('owner of the canary', '$id')");
	$node->wait_for_log("connection $id", $offset);
	$cluster->error("SELECT conduit_refresh('owner of the canary', '$id')");
	$node->wait_for_log('needs re-authorization', $offset);
	$log = slurp_file($node->logfile, $offset);
	like($log, qr/LOG:  conduit: refresh of connection $id failed: transient, http_503, next attempt in \d+ s/, 'a failure is logged with connection and class');
	like($log, qr/LOG:  conduit: connection $id needs re-authorization: invalid_grant/, 'and so is a dead refresh token');
	is(() = $log =~ /LOG:  conduit: refresh of connection $id failed/g, 1, 'once each');
	unlike($log, qr/canary-|the-client-secret/, 'and no line holds a secret');
}

# ---- not preloaded ----

{
	my ($grant) = $provider->issue(1, expires_in => 3600);
	my $id = $cluster->connection('bob', 'test', $grant);
	my $spare = $cluster->connection('bob', 'test');

	$cluster->stop;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
	$node->start;
	is($cluster->sql("SELECT access_token FROM conduit_vend('bob', '$id')"), $grant->{access_token}, 'a warm token is vended by a server that does not preload the library');
	is($cluster->sql('SELECT ok, worker FROM conduit_health()'), 'f|not preloaded', 'conduit_health() says that it does not');
	is($cluster->sql("SELECT severity || ': ' || hint FROM conduit_doctor() WHERE finding = 'not_preloaded'"),
		'error: Add conduit to shared_preload_libraries and restart PostgreSQL.', 'the doctor says what to do');
	like($cluster->error("SELECT $_"), qr/^PT500\|conduit worker is not running\|not_preloaded\|.*shared_preload_libraries/, "$_: there are no buckets")
	  for "conduit_rate_take('bob', '$id')", "conduit_rate_report('bob', '$id', 1)";
	like($cluster->error("SELECT conduit_rate_take('mallory', '$id')"), qr/^PT404\|connection not found\|\|/, 'which somebody else is not told');
	like($cluster->error("SELECT conduit_vend('owner of test', '$others[0]', '1 hour')"), qr/^$/, 'a WARNING, no error, where a token is at hand');
	$node->safe_psql('postgres', "LOAD 'conduit'; ALTER SYSTEM SET conduit.clock_offset = " . ($now + 3700));
	$cluster->reload;
	like($cluster->error("SELECT conduit_vend('bob', '$id')"), qr/^PT500\|conduit worker is not running\|.*shared_preload_libraries/, 'a dead token is not vended, and the error says what to do');
	$cluster->sql('CREATE DATABASE fresh');
	my $fresh = in_database('fresh');
	$fresh->sql('CREATE EXTENSION conduit CASCADE');
	$fresh->sql(q{SELECT conduit_register_connector('keys', '{"name": "Keys", "auth_type": "api_key"}')});
	my $key = $fresh->sql(q{SELECT conduit_create_connection('bob', 'keys')});
	like($fresh->error(qq{SELECT conduit_store_credential('$key', NULL, '{"api_key": "abc"}')}), qr/^PT500\|conduit worker is not running\|.*shared_preload_libraries/,
		'what has never been sealed is not sealed without a worker, and the error says what to do');
	is($fresh->sql('SELECT count(*) FROM conduit.credential'), '0', 'nothing is half-written');
}

# ---- no slot ----

{
	# PostgreSQL's own launcher of subscriptions takes one, ours the second.
	my $small = Conduit::Cluster->new('small', settings => "max_worker_processes = 3\n");
	my $offset = -s $small->node->logfile;
	my ($grant) = $provider->issue(1, expires_in => 3600);
	my $starved;

	$small->connector('test', token_url => $provider->url . '/token');
	$small->connection('alice', 'test', $grant);
	$small->node->safe_psql('postgres', 'CREATE DATABASE starved');
	$small->node->safe_psql('starved', 'CREATE EXTENSION conduit CASCADE');
	$small->node->wait_for_log('LOG:  conduit: no slot is left for the worker of database', $offset);
	pass('a database for whose worker no slot is left is logged');
	$starved = bless { %$small, database => 'starved' }, ref $small;
	ok($starved->poll("SELECT count(*) = 1 FROM conduit_doctor() WHERE finding = 'no_slot' AND hint ~ 'max_worker_processes'"), 'the doctor finds it');
	is($starved->sql('SELECT ok, worker FROM conduit_health()'), 'f|no slot', 'and so does conduit_health()');
	for my $call ('conduit_refresh_due()', q{conduit_set_client('github', 'cid', 'secret')})
	{
		like($starved->error("SELECT $call"), qr/^PT500\|conduit worker is not running/, "$call says that no worker is running");
	}
	is($small->sql('SELECT ok FROM conduit_health()'), 't', 'the other database has its worker');
	is($starved->sql(q{SELECT worker FROM conduit_health()}), 'no slot', 'it stays so');
	is(() = slurp_file($small->node->logfile, $offset) =~ /no slot is left/g, 1, 'it is logged once');

	$small->sql('DROP EXTENSION conduit');
	ok($starved->poll(q{SELECT worker = 'running' FROM conduit_health()}), 'when a slot is free the worker comes');
	is($starved->error(q{SELECT conduit_set_client('github', 'cid', 'secret')}), '', 'and works');
}

done_testing();
