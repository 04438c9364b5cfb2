# One flight for everybody: many readers, one request, nothing lost.
#
# The provider hangs until the test lets it go, so that all of this is certain
# to happen at once, rather than likely.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $sessions = 64;
my $hang = { hang => JSON::PP::true };
my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main');
my $node = $cluster->node;
my $now = 0;

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

# A connection with a connector and an endpoint of its own; the id and "at-7".
sub connection
{
	my ($slug) = @_;
	my ($grant) = $provider->issue(1, expires_in => 3600);
	my ($name) = $grant->{access_token} =~ /^(at-\d+)-1-/;

	$cluster->connector($slug, token_url => $provider->url . "/token/$slug");
	return ($cluster->connection('alice', $slug, $grant), $name);
}

# Wait until so many sessions of clients wait for the worker.
sub wait_for_waiters
{
	my ($n) = @_;
	return $node->poll_query_until('postgres',
		"SELECT count(*) = $n FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event_type = 'Extension'");
}

# What was answered, each with its number: "64 at-1-2".
sub tally
{
	my %count;
	$count{$_}++ foreach @_;
	return join(', ', map { "$count{$_} $_" } sort keys %count);
}

sub counts
{
	my ($slug) = @_;
	my $counts = $provider->counts("/token/$slug");
	return "$counts->{total} requests, $counts->{max_requests_per_refresh_token} with one refresh token at most, $counts->{reuse} reused";
}

my @callers = map { $cluster->wire(application_name => "caller $_") } 1 .. $sessions;
$_->value(q{SELECT set_config('conduit.vend_timeout', '60s', false)}) foreach @callers;
my $batch = $cluster->wire;

# ---- 64 sessions and a batch ----

my ($id, $name) = connection('many');
my $generation = 1;

foreach my $begin ('BEGIN', 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'BEGIN READ ONLY',
	'BEGIN ISOLATION LEVEL SERIALIZABLE', 'BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY')
{
	(my $mode = $begin) =~ s/^BEGIN ?//;
	$mode ||= 'READ COMMITTED';
	my $new = $generation + 1;

	# Each has a snapshot from before the refresh.
	foreach my $caller (@callers)
	{
		$caller->simple($begin);
		$caller->value('SELECT generation FROM conduit.credential WHERE connection_id = $1', $id);
	}
	$provider->script('/token/many', [$hang]);
	advance(3700);
	$_->send('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $id) foreach @callers;
	$batch->send('SELECT conduit_refresh_due(1)');
	$provider->wait_for('/token/many', 'hanging', 1);
	ok(wait_for_waiters($sessions + 1), "$mode: all of them wait at once");
	is($provider->counts('/token/many')->{in_flight}, 1, 'for one request');
	is($cluster->sql('SELECT in_flight FROM conduit_health()'), 1, 'which is one flight');
	$provider->release('/token/many');

	is(tally(map { Conduit::Cluster::vend_text($_->receive) } @callers), "$sessions $name-$new", 'each is given the new token, and nothing is complained about');
	is($batch->receive->{rows}[0][0], 1, 'the batch has refreshed one');
	$callers[$_]->simple($_ % 2 ? 'ROLLBACK' : 'COMMIT') foreach 0 .. $#callers;
	is($cluster->sql("SELECT generation FROM conduit.credential WHERE connection_id = '$id'"), $new, 'their rollbacks took nothing back');
	is(counts('many'), ($new - 1) . ' requests, 1 with one refresh token at most, 0 reused', 'one request, with the refresh token that the last one brought');
	$generation = $new;
}
is($cluster->sql('SELECT count(*) FROM conduit.flight'), 0, 'no claim is left');

# The same when nobody but the readers asks.
$cluster->setting('conduit.refresh_idle', '1s');
($id, $name) = connection('readers');
advance(3700);
ok($cluster->poll("SELECT refresh_at IS NULL FROM conduit.credential WHERE connection_id = '$id'"), 'the worker leaves an idle connection to its readers');
$provider->script('/token/readers', [$hang]);
$_->send('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $id) foreach @callers;
$provider->wait_for('/token/readers', 'hanging', 1);
ok(wait_for_waiters($sessions), 'all readers wait');
$provider->release('/token/readers');
is(tally(map { Conduit::Cluster::vend_text($_->receive) } @callers), "$sessions $name-2", 'each is given the new token');
is(counts('readers'), '1 requests, 1 with one refresh token at most, 0 reused', 'of one request');
$cluster->setting('conduit.refresh_idle', '0');

# Callers who force it join the flight as well: what they saw is being replaced.
($id, $name) = connection('forced');
$provider->script('/token/forced', [$hang]);
$_->send('SELECT refreshed, generation FROM conduit_refresh($1, $2)', 'alice', $id) foreach @callers;
$provider->wait_for('/token/forced', 'hanging', 1);
ok(wait_for_waiters($sessions), 'all who force a refresh wait');
$provider->release('/token/forced');
is(tally(map { join(' ', map { $_ // 'NULL' } @{ $_->receive->{rows}[0] // ['error'] }) } @callers), "$sessions t 2", 'and each is told of the same new generation');
is(counts('forced'), '1 requests, 1 with one refresh token at most, 0 reused', 'of one request');
$_->close foreach @callers;

# ---- a caller who goes ----

foreach my $how (
	[ 'pg_cancel_backend', '57014', 'cancelled' ],
	[ 'pg_terminate_backend', '57P01', 'terminated' ])
{
	my ($function, $sqlstate, $what) = @$how;
	my ($id, $name) = connection($what);
	my $caller = $cluster->wire;
	my $control = $cluster->wire;

	$caller->value(q{SELECT set_config('conduit.vend_timeout', '60s', false)});
	$provider->script("/token/$what", [$hang]);
	advance(3700);
	$provider->wait_for("/token/$what", 'hanging', 1);
	$caller->simple('BEGIN');
	$caller->send('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $id);
	ok(wait_for_waiters(1), 'a caller waits');

	my $start = time;
	$control->value("SELECT $function(\$1)", $caller->pid);
	my $answer = $caller->receive;
	my $seconds = time - $start;
	is($answer->{error}{C}, $sqlstate, "it is $what");
	cmp_ok($seconds, '<', 0.1, 'and returns within 100 ms');
	is($provider->counts("/token/$what")->{in_flight}, 1, 'while the provider still thinks');
	$provider->release("/token/$what");
	ok($cluster->poll("SELECT generation = 2 FROM conduit.credential WHERE connection_id = '$id'"), 'the refresh is committed all the same');
	is($cluster->vend('alice', $id), "$name-2", 'and vended to the next one');
	is(counts($what), '1 requests, 1 with one refresh token at most, 0 reused', 'no second request was made');
}

# A backend that takes the place of one that gave up does not get its answer.
{
	my ($gone_id, $gone_name) = connection('gone');
	my ($next_id, $next_name) = connection('next');
	my $caller = $cluster->wire;

	$provider->script("/token/$_", [$hang]) foreach qw(gone next);
	advance(3700);
	$provider->wait_for("/token/$_", 'hanging', 1) foreach qw(gone next);
	$caller->value(q{SELECT set_config('conduit.vend_timeout', '60s', false)});
	$caller->send('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $gone_id);
	ok(wait_for_waiters(1), 'a caller waits for one connection');
	$caller->cancel;
	is($caller->receive->{error}{C}, '57014', 'gives up');
	$caller->send('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $next_id);
	ok(wait_for_waiters(1), 'and waits for another one');
	$provider->release('/token/gone');
	ok($cluster->poll("SELECT generation = 2 FROM conduit.credential WHERE connection_id = '$gone_id'"), 'the first one is refreshed');
	ok(wait_for_waiters(1), 'which does not wake it');
	$provider->release('/token/next');
	is(Conduit::Cluster::vend_text($caller->receive), "$next_name-2", 'the second one does');
}

# ---- timeouts ----

($id, $name) = connection('slow');
my $caller = $cluster->wire;
$provider->script('/token/slow', [$hang], repeat_last => JSON::PP::true);
advance(3400);
$provider->wait_for('/token/slow', 'hanging', 1);
{
	# Longer than Conduit::Wire waits for an answer.
	$caller->value(q{SELECT set_config('conduit.vend_timeout', '10min', false)});
	$caller->value(q{SELECT set_config('conduit.vend_patience', '100ms', false)});
	my $answer = $caller->query('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $id);
	is(Conduit::Cluster::vend_text($answer), "$name-1 WARNING PT504 timeout", 'a valid token is vended when conduit.vend_patience is over, with a warning');
	is($answer->{notices}[0]{M}, 'provider unavailable', 'that says what is the matter');
	is($answer->{notices}[0]{S}, 'WARNING', 'and is one');

	$caller->value(q{SELECT set_config('conduit.vend_patience', '60s', false)});
	$caller->value(q{SELECT set_config('statement_timeout', '400ms', false)});
	is(Conduit::Cluster::vend_text($caller->query('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $id)), "$name-1 WARNING PT504 timeout", 'also when statement_timeout leaves less than that');

	advance(300);
	is(Conduit::Cluster::vend_text($caller->query('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $id)), 'ERROR PT504 timeout', 'an expired one is not: the caller is told so before statement_timeout strikes');
	$caller->value(q{SELECT set_config('statement_timeout', '0', false)});
	$caller->value(q{SELECT set_config('conduit.vend_timeout', '100ms', false)});
	is(Conduit::Cluster::vend_text($caller->query('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $id)), 'ERROR PT504 timeout', 'or when conduit.vend_timeout is over');
	$caller->value(q{SELECT set_config('conduit.vend_timeout', '0', false)});
	is(Conduit::Cluster::vend_text($caller->query('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $id)), 'ERROR PT504 timeout', 'at once, if that is 0');

	is($provider->counts('/token/slow')->{total}, 1, 'all of these came upon the same flight');
	$caller->value(q{SELECT set_config('conduit.vend_timeout', '60s', false)});
	$caller->send('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $id);
	ok(wait_for_waiters(1), 'a patient one waits');
	$provider->script('/token/slow', []);
	$provider->release('/token/slow');
	is(Conduit::Cluster::vend_text($caller->receive), "$name-2", 'and is given the new token');
	is(counts('slow'), '1 requests, 1 with one refresh token at most, 0 reused', 'still of one request');
}

# ---- what the caller's own transaction has stored ----

{
	my ($old) = $provider->issue(1, expires_in => 3600);
	my ($new) = $provider->issue(1, expires_in => 3600);
	my ($dead) = $provider->issue(1, expires_in => 3600);
	my $store = 'SELECT conduit_store_credential($1, NULL, $2)';

	$cluster->connector('own', token_url => $provider->url . '/token/own');
	my $own = $cluster->connection('alice', 'own', $old);
	$caller->simple('BEGIN');
	$caller->value($store, $own, JSON::PP::encode_json($new));
	like(Conduit::Cluster::vend_text($caller->query('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $own)), qr/^\Q@{[ substr $new->{access_token}, 0, 6 ]}\E/, 'a transaction is vended what it has stored itself');
	$caller->value($store, $own, JSON::PP::encode_json({ %$dead, expires_in => undef, expires_at => 1_000_000_000 }));
	is(Conduit::Cluster::vend_text($caller->query('SELECT access_token FROM conduit_vend($1, $2)', 'alice', $own)), 'ERROR 55000 uncommitted', 'but the worker cannot refresh what is not committed');
	$caller->simple('ROLLBACK');
	is($provider->counts('/token/own')->{total}, 0, 'and was not asked to');
}

$caller->close;
$batch->close;
$cluster->stop;
done_testing();
