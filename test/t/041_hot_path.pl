# The warm path writes nothing; and looking for what is due costs the same with
# many connections, while somebody holds an old snapshot.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Conduit::Cluster;
use Conduit::Wire;

my $cluster = Conduit::Cluster->new('hot', settings => "autovacuum = off\n");
my $node = $cluster->node;

# Nothing in this test asks the provider; a token far from its expiry is warm.
$cluster->connector('web', token_url => 'https://provider.example.com/token');
my %token = map { $_ => "token of $_" } qw(alice bob);
my %id = map {
	$_ => $cluster->connection($_, 'web',
		{ access_token => $token{$_}, refresh_token => "refresh $_", expires_in => 86400, scope => 'read write' })
} sort keys %token;

$cluster->sql('CREATE ROLE backend LOGIN');
$cluster->sql(q{SELECT conduit_grant('backend', 'service')});

my $superuser = getpwuid($>);

sub wire { return Conduit::Wire->connect($node, $cluster->database, user => $_[0] // 'backend'); }

my $vend = 'SELECT access_token FROM conduit_vend($1, $2)';

sub vend { my ($wire) = @_; return $wire->value($vend, 'alice', $id{alice}); }

subtest 'a warm vend leaves no trace' => sub {
	my $wire = wire();
	my $locks = q{SELECT locktype, relation::regclass::text, mode, granted FROM pg_locks WHERE pid = pg_backend_pid() ORDER BY 1, 2, 3};

	is(vend($wire), $token{alice}, 'vended');
	$wire->query('BEGIN');
	my $before = $wire->query($locks)->{rows};
	is(vend($wire), $token{alice}, 'vended in a transaction');
	is($wire->value('SELECT pg_current_xact_id_if_assigned()'), undef, 'no transaction id was assigned');
	is_deeply($wire->query($locks)->{rows}, $before, 'no lock is held that was not held before');
	is($wire->value('SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_xact_all_tables'), 0, 'no tuple was written');
	my $activity = $cluster->sql('SELECT backend_xid IS NULL, backend_xmin IS NULL, state FROM pg_stat_activity WHERE pid = ' . $wire->pid);
	is($activity, 't|t|idle in transaction', 'and no snapshot is kept');
	$wire->query('COMMIT');

	# the same measures see what is not so innocent
	$wire->query('BEGIN');
	$before = $wire->query($locks)->{rows};
	is($wire->query("SELECT conduit_create_connection('alice', 'web')")->{error}, undef, 'a call that writes');
	isnt($wire->value('SELECT pg_current_xact_id_if_assigned()'), undef, 'has a transaction id');
	isnt(scalar @{ $wire->query($locks)->{rows} }, scalar @$before, 'and locks');
	cmp_ok($wire->value('SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_xact_all_tables'), '>', 0, 'and tuples');
	$wire->query('ROLLBACK');
};

subtest 'a warm vend waits for nobody' => sub {
	my ($holder, $wire) = (wire($superuser), wire());
	$wire->query('SET statement_timeout = 10000');
	$holder->query('BEGIN');
	is($holder->query("LOCK TABLE $_ IN EXCLUSIVE MODE")->{error}, undef, "$_ is locked")
	  for $cluster->sql(q{SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'conduit'::regnamespace AND relkind = 'r'}) =~ /(\S+)/g;
	is($holder->query('SELECT 1 FROM conduit.credential WHERE connection_id = $1 FOR UPDATE', $id{alice})->{error}, undef, 'and the row');
	is(vend($wire), $token{alice}, 'vended all the same: reading was all it wanted');
	$holder->query('ROLLBACK');
};

subtest 'READ ONLY' => sub {
	my $wire = wire();
	for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
	{
		$wire->query("BEGIN ISOLATION LEVEL $level READ ONLY");
		is(vend($wire), $token{alice}, "vended, $level");
		is($wire->query('CREATE TABLE t ()')->{error}{C}, '25006', 'where nothing can be written');
		$wire->query('ROLLBACK');
	}
};

subtest 'no WAL' => sub {
	my $wire = wire();
	my $watcher = wire($superuser);
	my $vends = $cluster->sql(q{SELECT vends FROM conduit_stats() WHERE connector = 'web'});
	my $wrote;
	my $rounds = 0;

	vend($wire);
	$cluster->sql('CHECKPOINT');

	# Something else may write, once; a vend that wrote would do it every time.
	for (1 .. 5)
	{
		my $position = q{SELECT pg_current_wal_insert_lsn()};
		my $before = $watcher->value($position);
		vend($wire) for 1 .. 500;
		$rounds++;
		$wrote = $watcher->value('SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)', $before);
		last if $wrote == 0;
	}
	is($wrote, 0, '500 vends write no WAL');
	is($cluster->sql(q{SELECT vends FROM conduit_stats() WHERE connector = 'web'}), $vends + 1 + 500 * $rounds, 'and all are counted');
	is($cluster->sql(q{SELECT waits FROM conduit_stats() WHERE connector = 'web'}), 0, 'none of which waited');
};

subtest 'buffers' => sub {
	my $wire = wire();
	my $explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT conduit_vend('alice', '$id{alice}')";
	vend($wire);
	$wire->value($explain);
	my $plan = JSON::PP::decode_json($wire->value($explain))->[0]{Plan};
	cmp_ok($plan->{'Shared Hit Blocks'} + $plan->{'Shared Read Blocks'}, '<', 10, 'a warm vend looks at a few buffers');
	is($plan->{'Shared Dirtied Blocks'}, 0, 'and dirties none');
};

subtest 'last use' => sub {
	my $query = "SELECT last_used_at::date = (now() AT TIME ZONE 'UTC')::date FROM conduit_get_connection('alice', '$id{alice}')";
	vend(wire());
	$cluster->reload;    # the worker keeps house, too, then
	ok($cluster->poll($query), 'is written by the worker');
	is($cluster->sql("SELECT last_used_at IS NULL FROM conduit_get_connection('bob', '$id{bob}')"), 't', 'where there was one');

	my $version = "SELECT xmin FROM conduit.last_use WHERE connection_id = '$id{alice}'";
	my $before = $cluster->sql($version);
	vend(wire()) for 1 .. 3;
	vend_bob();
	$cluster->reload;
	ok($cluster->poll("SELECT count(*) = 1 FROM conduit.last_use WHERE connection_id = '$id{bob}'"), 'another connection');
	is($cluster->sql($version), $before, 'and once a day');
};

sub vend_bob { return wire()->value($vend, 'bob', $id{bob}); }

subtest 'who is entitled' => sub {
	my $wire = wire();
	my $error = sub {
		my $error = $wire->query(@_)->{error};
		return $error ? "$error->{C} $error->{M}" : '';
	};
	my $tenant = 'SELECT conduit_vend($1, $2, tenant => $3)';

	is($error->($vend, 'bob', $id{alice}), 'PT404 connection not found', 'not another owner');
	is($error->($vend, 'ALICE', $id{alice}), 'PT404 connection not found', 'nor one who differs in case');
	is($error->($vend, 'alice ', $id{alice}), 'PT404 connection not found', 'or by a space');
	is($error->($tenant, 'alice', $id{alice}, 'other'), 'PT404 connection not found', 'nor another tenant');
	is($error->($tenant, 'alice', $id{alice}, ''), '', 'but the owner');
	is($error->($tenant, 'alice', $id{alice}, undef), '', 'NULL is the default tenant');
	is($error->($vend, undef, $id{alice}), '22023 invalid owner', 'NULL is no owner');
	is($error->($vend, '', $id{alice}), '22023 invalid owner', 'nor is nothing');
	like($error->($vend, 'alice', undef), qr/^22023 /, 'NULL is no connection');

	my $bare = $cluster->connection('alice', 'web', undef, account => 'bare');
	is($error->($vend, 'alice', $bare), 'PT404 credential not found', 'no credential');
	$cluster->sql("SELECT conduit_revoke_connection('alice', '$bare')");
	is($error->($vend, 'alice', $bare), 'PT410 connection revoked', 'revoked');
	is($error->($vend, 'bob', $bare), 'PT404 connection not found', 'which is nobody else\'s concern');
	is($error->('SELECT conduit_vend($1, $2, scopes => $3)', 'alice', $id{alice}, '{read,write}'), '', 'granted scopes');
	is($error->('SELECT conduit_vend($1, $2, scopes => $3)', 'alice', $id{alice}, '{read,admin}'), 'PT409 connection lacks scope', 'one that is not');

	# One row says who may have it and what it is: a change is seen at once.
	$cluster->sql("UPDATE conduit.credential SET status = 'NEEDS_REAUTH' WHERE connection_id = '$id{bob}'");
	is($error->($vend, 'bob', $id{bob}), 'PT409 connection needs re-authorization', 'needs re-authorization');
	is($error->($vend, 'alice', $id{bob}), 'PT404 connection not found', 'which is nobody else\'s concern either');
};

# ---- the due scan ----

# The statements and settings of the worker, as they stand in the source.
sub source
{
	my ($file) = @_;
	my $path = "$FindBin::RealBin/../../src/$file";
	return slurp_file($path);
}

sub statement
{
	my ($function) = @_;
	my ($body) = source('lifecycle/due.c') =~ /^\Q$function\E\(.*?^\{(.*?)^\}/ms or die "no $function";
	my ($text) = $body =~ /StoreQuery select = \{\s*((?:"[^"]*"\s*)+),/ or die "no statement in $function";
	return join('', $text =~ /"([^"]*)"/g);
}

sub pins
{
	my ($body) = source('worker/worker.c') =~ /pins\[\]\[2\] = \{(.*?)\};/s or die 'no pins';
	my %pins = $body =~ /\{"(\w+)", "([^"]*)"\}/g;
	return \%pins;
}

sub buffers
{
	my ($wire, $execute) = @_;
	my $plan = JSON::PP::decode_json($wire->value("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) $execute"))->[0]{Plan};
	return ($plan->{'Shared Hit Blocks'} + $plan->{'Shared Read Blocks'}, $plan->{'Actual Rows'}, JSON::PP->new->canonical->encode($plan));
}

subtest 'looking for what is due' => sub {
	my $rows = 100_000;
	my $pins = pins();
	my $worker = wire($superuser);
	my $old = wire($superuser);

	$cluster->setting('conduit.refresh_enabled', 'off');
	$cluster->poll(q{SELECT paused = 'disabled' FROM conduit_health()}) or die 'not paused';
	$cluster->sql(qq{
		INSERT INTO conduit.connection (id, tenant, owner, connector, created_at, updated_at)
		SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '', 'owner ' || n % 1000, 'web', now(), now()
		FROM generate_series(1, $rows) n});
	$cluster->sql(qq{
		INSERT INTO conduit.credential (connection_id, generation, expires_at, due_at, refresh_at, issued_at, lifetime, status,
			kind, tenant, owner, connector, origin, access, refresh)
		SELECT n.id, 1, at + interval '5 min', at, at, now(), 3600, 'ACTIVE', 'OAUTH2', '', n.owner, 'web',
			'https://provider.example.com:443', '\\x00', '\\x00'
		FROM conduit.connection n, LATERAL (SELECT now() + (('x' || right(n.id::text, 8))::bit(32)::int) * interval '36 ms' + interval '20 s' AS at) a
		WHERE n.id::text LIKE '00000000-%'});

	for my $name (sort keys %$pins)
	{
		is($worker->query("SELECT set_config('$name', '$pins->{$name}', false)")->{error}, undef, "pinned $name");
	}
	is($worker->query('PREPARE scan (timestamptz, uuid, timestamptz, text[], int4) AS ' . statement('conduit_due_scan'))->{error}, undef, 'the scan');
	is($worker->query('PREPARE next (timestamptz, timestamptz) AS ' . statement('conduit_due_next'))->{error}, undef, 'what comes next');

	my $next = q{EXECUTE next (now(), now() + interval '1 min')};
	my $look = sub {
		my ($when) = @_;
		my ($touched, $found, $plan) = buffers($worker, q{EXECUTE scan (now() - interval '1 s', '00000000-0000-0000-0000-000000000000', now(), '{}', 1000)});
		cmp_ok($touched, '<', 20, "the scan, $when: $touched buffers") or diag $plan;
		is($found, 0, 'finds what is due');
		($touched, $found, $plan) = buffers($worker, $next);
		cmp_ok($touched, '<', 20, "what comes next, $when: $touched buffers") or diag $plan;
		is($found, 1, 'is found');
	};

	$look->('without statistics');
	$cluster->sql('VACUUM ANALYZE conduit.credential, conduit.connection');
	$look->('with statistics');

	# An old snapshot keeps the dead rows of all that is refreshed from now on.
	$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$old->query('SELECT count(*) FROM conduit.credential');
	# rows that have come due ...
	$cluster->sql(q{UPDATE conduit.credential SET refresh_at = now() - interval '1 hour' WHERE connection_id IN
		(SELECT connection_id FROM conduit.credential WHERE refresh_at > now() + interval '20 min' ORDER BY refresh_at LIMIT 5000)});
	# ... and were refreshed, several times over
	for my $generation (2 .. 4)
	{
		$cluster->sql(qq{UPDATE conduit.credential SET generation = $generation, refresh_at = now() - interval '1 h' * (1.0 / $generation)
			WHERE refresh_at < now() - interval '10 min'});
	}
	$cluster->sql(q{UPDATE conduit.credential SET generation = 5, refresh_at = now() + interval '2 hours' WHERE refresh_at < now() - interval '10 min'});
	$look->('with 20,000 dead rows that an old snapshot keeps');
	is($cluster->sql('SELECT count(*) FROM conduit.credential WHERE refresh_at < now()'), 0, 'all are refreshed');
	is($old->value('SELECT count(*) FROM conduit.credential WHERE generation = 1'), $rows + 2, 'the old snapshot does not see it');

	# the measure sees what is not so cheap: a scan of all that was ever due
	my ($touched, $found, $plan) = buffers($worker, q{EXECUTE scan ('-infinity', '00000000-0000-0000-0000-000000000000', now(), '{}', 1000)});
	cmp_ok($touched, '>', 200, "a full scan, which is for every ten minutes: $touched buffers");

	# All of the next hour is refreshed early: what lies dead ahead is not gone through either.
	$cluster->sql(q{UPDATE conduit.credential SET generation = 6, refresh_at = now() + interval '3 hours'
		WHERE refresh_at BETWEEN now() + interval '70 s' AND now() + interval '90 min'});
	$cluster->sql(q{DELETE FROM conduit.credential WHERE refresh_at < now() + interval '70 s'});
	($touched, $found, $plan) = buffers($worker, $next);
	cmp_ok($touched, '<', 100, "what comes next, after early refreshes: $touched buffers") or diag $plan;
	is($found, 0, 'is not within a minute');
	$old->query('ROLLBACK');
};

done_testing();
