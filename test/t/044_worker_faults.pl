# Faults of the worker that reviews have found, each as it was shown to them.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main', settings => "conduit.max_in_flight = 1\n");
my $node = $cluster->node;
my $true = JSON::PP::true;
my $now = 0;

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

# A connector with an endpoint of its own, and a connection due after advance($lifetime - 100).
sub connect_one
{
	my ($slug, $lifetime, %fields) = @_;
	$cluster->connector($slug, token_url => $provider->url . "/token/$slug", %fields);
	return $cluster->connection('alice', $slug, $provider->issue(1, expires_in => $lifetime));
}

sub column
{
	my ($name, $id) = @_;
	return $cluster->sql("SELECT $name FROM conduit.credential WHERE connection_id = '$id'");
}

sub wait_for_generation
{
	my ($generation, $id) = @_;
	return $cluster->poll("SELECT generation = $generation FROM conduit.credential WHERE connection_id = '$id'");
}

sub wait_for_parked { return $cluster->poll("SELECT parked = $_[0] FROM conduit_health()"); }

# Who has asked for a refresh that the provider will answer when it is released.
sub refresh_that_hangs
{
	my ($slug, $id) = @_;
	my $caller = $cluster->wire('conduit.vend_timeout' => '5min');

	$provider->script("/token/$slug", [ { rotate => $true, hang => $true } ]);
	$caller->send("SELECT conduit_refresh('alice', '$id')");
	$provider->wait_for("/token/$slug", 'hanging', 1);
	return $caller;
}

# The worker has come to the end of a round that began after now: it takes two
# requests one after the other, which may be refused.
sub one_round_later
{
	$cluster->error(q{SELECT conduit_refresh_due(1, tenant => 'nobody')}) foreach 1 .. 2;
	return;
}

# Milliseconds between the log's lines that match.
sub gaps
{
	my ($pattern) = @_;
	my @at = map { /^\S+ (\d+):(\d+):(\d+)\.(\d+) / ? (($1 * 60 + $2) * 60 + $3) * 1000 + $4 : () }
		grep { $_ =~ $pattern } split /\n/, slurp_file($node->logfile);
	return map { ($at[$_] - $at[ $_ - 1 ]) % 86400000 } 1 .. $#at;
}

# ---- due, and asked for by a caller who does not wait until it is its turn ----
{
	my $first = connect_one('first', 1000);
	my $second = connect_one('second', 3600);

	$provider->script('/token/first', [ { rotate => $true, hang => $true } ]);
	advance(900);
	$provider->wait_for('/token/first', 'hanging', 1);
	advance(2600);
	ok($cluster->poll('SELECT queued = 1 FROM conduit_health()'), 'one is due while the only place is taken');
	my $caller = $cluster->wire('conduit.vend_patience' => '10ms');
	like(Conduit::Cluster::vend_text($caller->query(Conduit::Cluster::vend_query('alice', $second))), qr/ WARNING PT504 timeout$/, 'a caller asks for it and leaves');
	$provider->release;
	ok(wait_for_generation(2, $second), 'it is refreshed all the same');
}

# ---- who is next cannot be claimed, and what was answered is settled all the same ----
{
	my $flying = connect_one('flying', 1000);
	my $next = connect_one('next', 1100);
	my $holder = $cluster->wire;

	$provider->script('/token/flying', [ { rotate => $true, hang => $true } ]);
	advance(900);
	$provider->wait_for('/token/flying', 'hanging', 1);
	advance(200);
	ok($cluster->poll('SELECT queued = 1 FROM conduit_health()'), 'one waits for the place of another');
	$holder->simple('BEGIN');
	$holder->simple('LOCK TABLE conduit.client IN ACCESS EXCLUSIVE MODE');
	$provider->release;
	ok(wait_for_generation(2, $flying), 'a lock that a claim needs does not keep the answer from being settled');
	is(column('generation', $next), 1, 'the other one cannot be claimed meanwhile');
	$holder->simple('ROLLBACK');
	$cluster->reload;
	ok(wait_for_generation(2, $next), 'it is as soon as the lock is gone');
}
$cluster->setting('conduit.max_in_flight', 8);

# ---- the look for what is due fails again and again ----
{
	my $pattern = qr/column "refresh_at" does not exist/;

	$cluster->sql('ALTER TABLE conduit.credential RENAME COLUMN refresh_at TO elsewhere');
	$cluster->reload;
	my $from = 0;
	$from = $node->wait_for_log($pattern, $from) foreach 1 .. 3;
	$cluster->sql('ALTER TABLE conduit.credential RENAME COLUMN elsewhere TO refresh_at');
	my @early = grep { $_ < 900 } gaps(qr/ERROR:  $pattern/);
	is("@early", '', 'it is tried once a second');
}

# ---- a reply waits to be sealed, and then the extension cannot be looked up ----
{
	my $id = connect_one('sealing', 3600);
	my $pid = $cluster->worker_pid;
	my $holder = $cluster->wire;

	my $caller = refresh_that_hangs('sealing', $id);
	$cluster->setting('conduit.keyring_file', '');
	ok($cluster->poll("SELECT vault <> 'open' FROM conduit_health()"), 'the vault is locked');
	$provider->release;
	$node->wait_for_log(qr/a refreshed token waits in memory to be sealed/);
	# A new function is what makes processes look again.
	$cluster->sql('CREATE FUNCTION anything() RETURNS int LANGUAGE sql AS $$SELECT 1$$');
	$holder->simple('BEGIN');
	$holder->simple('LOCK TABLE pg_extension IN ACCESS EXCLUSIVE MODE');
	kill('HUP', $pid);
	$node->wait_for_log(qr/\[$pid\].*\n.*conduit worker, checking/);
	$holder->simple('ROLLBACK');
	one_round_later();
	$cluster->setting('conduit.keyring_file', $cluster->keyring_file);
	ok(wait_for_generation(2, $id), 'and the reply is not lost');
	is($cluster->worker_pid, $pid, 'it is the same worker');
	is($provider->counts('/token/sealing')->{reuse}, 0, 'no token was sent twice');
}

# ---- a credential that is due at once is stored while the old one is refreshed ----
{
	my $id = connect_one('again', 3600);
	my ($new) = $provider->issue(1);

	my $caller = refresh_that_hangs('again', $id);
	$cluster->store($id, { refresh_token => $new->{refresh_token} });
	one_round_later();
	$provider->release;
	ok(wait_for_generation(3, $id), 'it is refreshed as soon as that has landed');
}

# ---- more due than are kept in memory, of a provider that does not answer and of one that does again ----
{
	my @stuck = map { connect_one('stuck', 3600) } 1 .. 6;
	my @many = map { connect_one('many', 4000) } 1 .. 2;

	$provider->script("/token/$_", [ { hang => $true } ], repeat_last => $true) foreach qw(stuck many);
	# Copies of a sealed token open nowhere: each is one attempt without a request.
	$cluster->sql(qq{
		CREATE TABLE copy AS SELECT gen_random_uuid() AS id, connector FROM (VALUES ('stuck', 5000), ('many', 5000)) AS c (connector, n), generate_series(1, n);
		INSERT INTO conduit.connection (id, tenant, owner, connector, client_id, created_at, updated_at)
			SELECT id, '', 'crowd', connector, 'cid', now(), now() FROM copy;
		INSERT INTO conduit.credential (connection_id, generation, expires_at, due_at, refresh_at, issued_at, status, kind, tenant, owner, connector, origin, access, refresh)
			SELECT id, 1, c.expires_at, c.due_at, c.refresh_at + CASE copy.connector WHEN 'many' THEN interval '60 s' ELSE interval '70 s' END, c.issued_at, c.status, c.kind, '', 'crowd', copy.connector, c.origin, c.access, c.refresh
			FROM copy, conduit.credential c WHERE c.connection_id = '$many[0]'});
	$cluster->setting('conduit.http_timeout', '10min');
	advance(3400);
	$provider->wait_for('/token/stuck', 'hanging', 6);
	advance(500);
	$provider->wait_for('/token/many', 'hanging', 2);
	ok($cluster->poll('SELECT queued BETWEEN 4000 AND 7000 FROM conduit_health()'), 'not all of them wait in memory');
	$provider->release('/token/many');
	ok($cluster->poll(q{SELECT bool_and(attempts = 1) FROM conduit.credential WHERE owner = 'crowd' AND connector = 'many'}),
		'when one goes on, also what has not been in memory is refreshed');
	cmp_ok($cluster->sql('SELECT queued FROM conduit_health()'), '>=', 2000, 'while the other stands still');
	$cluster->sql(q{DELETE FROM conduit.credential WHERE owner = 'crowd'});
	$provider->reset;
	$cluster->setting('conduit.http_timeout', '30s');
}

# ---- a parked reply that resists ----
{
	my $id = connect_one('resisting', 3600);
	my $holder = $cluster->wire;
	my $pattern = qr/ERROR:  not now/;

	$cluster->sql(q{CREATE FUNCTION resist() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not now'; END$$});
	$holder->simple('BEGIN');
	$holder->simple("SELECT FROM conduit.connection WHERE id = '$id' FOR UPDATE");
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'a reply is parked');
	# at the very end of the transaction that moves it
	$cluster->sql(q{CREATE CONSTRAINT TRIGGER resist AFTER UPDATE ON conduit.credential DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION resist()});
	$holder->simple('COMMIT');
	my $from = 0;
	$from = $node->wait_for_log($pattern, $from) foreach 1 .. 4;
	is($cluster->sql('SELECT parked FROM conduit_health()'), 1, 'it counts as parked as long as it is');
	my @gaps = gaps($pattern);
	cmp_ok($gaps[2], '>=', 900, 'and is tried more and more seldom');
	$cluster->sql('DROP TRIGGER resist ON conduit.credential');
	ok(wait_for_generation(2, $id), 'until it can be moved');
	ok(wait_for_parked(0), 'then none is parked');
}

# ---- a parked reply without a refresh token ----
{
	$cluster->connector('kept', token_url => $provider->url . '/token/kept');
	my ($grant) = $provider->issue(1, expires_in => 3600);
	my $id = $cluster->connection('alice', 'kept', { %$grant, refresh_token_expires_in => 86400 });
	my $expires = column('refresh_expires_at', $id);
	my $holder = $cluster->wire;

	$provider->script('/token/kept', [ { rotate => $true, omit => ['refresh_token'] } ]);
	$holder->simple('BEGIN');
	$holder->simple("SELECT FROM conduit.connection WHERE id = '$id' FOR UPDATE");
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'a reply is parked');
	$holder->simple('COMMIT');
	ok(wait_for_generation(2, $id), 'and moved');
	is(column('refresh_expires_at', $id), $expires, 'the refresh token that was kept expires when it did');
}

# ---- a parked token that has expired, in backoff ----
{
	my $id = connect_one('expired', 200);
	my $holder = $cluster->wire;

	$provider->script('/token/expired', [ { status => 500, headers => { 'retry-after' => '3000' } }, { rotate => $true, field_overrides => { expires_in => 60 } } ]);
	$cluster->sql("SELECT conduit_refresh('alice', '$id')");
	is(column('last_error_code', $id), 'http_500', 'a refresh has failed, the next attempt is later');
	$holder->simple('BEGIN');
	$holder->simple("SELECT FROM conduit.connection WHERE id = '$id' FOR UPDATE");
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'one that was forced is parked');
	advance(300);
	is($cluster->vend('alice', $id), 'ERROR PT504 expired_again', 'when its token has expired nobody need authorize anew');
	$holder->simple('COMMIT');
	ok(wait_for_generation(3, $id), 'it is refreshed in its turn');
}

# ---- the first use of a connection that is being deleted ----
{
	my $gone = connect_one('used', 3600);
	my $stays = $cluster->connection('alice', 'used', $provider->issue(1));
	my $holder = $cluster->wire;

	like($cluster->vend('alice', $_), qr/^at-/, 'two are used') foreach $gone, $stays;
	$holder->simple('BEGIN');
	$holder->simple("SELECT conduit_delete_connection('alice', '$gone')");
	$cluster->reload;
	ok($cluster->poll("SELECT count(*) = 1 FROM conduit.last_use WHERE connection_id = '$stays'"), 'the use of one is written');
	$holder->simple('COMMIT');
	is($cluster->sql('SELECT count(*) FROM conduit.last_use WHERE connection_id NOT IN (SELECT id FROM conduit.connection)'), 0, 'but none of one that is deleted meanwhile');

	my $held = $cluster->connection('alice', 'used', $provider->issue(1));
	$holder->simple('BEGIN');
	$holder->simple("SELECT FROM conduit.connection WHERE id = '$held' FOR UPDATE");
	$cluster->vend('alice', $held);
	$cluster->reload;
	one_round_later();
	$holder->simple('COMMIT');
	$cluster->reload;
	ok($cluster->poll("SELECT count(*) = 1 FROM conduit.last_use WHERE connection_id = '$held'"), 'that of one that is only held is written later');
}

# ---- a client is set while somebody holds a connection of it ----
{
	my $id = connect_one('locking', 3600);
	my $setter = $cluster->wire;
	my $holder = $cluster->wire(lock_timeout => '5s');

	$cluster->sql("UPDATE conduit.credential SET last_error = 'config' WHERE connection_id = '$id'");
	$holder->simple('BEGIN');
	$holder->simple("SELECT conduit_update_connection('alice', '$id', metadata => '{}')");
	$setter->simple('BEGIN');
	is($setter->simple(q{SELECT conduit_set_client('locking', 'cid', 'another-secret')})->{error}, undef, 'nobody waits');
	is($holder->query('SELECT conduit_store_credential($1, NULL, $2)', $id, '{"access_token": "x"}')->{error}, undef, 'whoever has the connection gets its credential');
	$holder->simple('COMMIT');
	is($setter->simple("SELECT conduit_update_connection('alice', '$id', metadata => '{}')")->{error}, undef, 'also the other way round');
	$setter->simple('COMMIT');
}

$cluster->stop;
done_testing();
