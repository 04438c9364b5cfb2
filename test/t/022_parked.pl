# Somebody's open transaction holds a row: nobody else waits for it, and what
# the provider has answered is kept until it can be moved to its place.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use PostgreSQL::Test::Utils;
use Test::More;

my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main', settings => "restart_after_crash = on\n");
my $node = $cluster->node;
my $now = 0;

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

sub generation
{
	my ($id) = @_;
	return $cluster->sql("SELECT generation FROM conduit.credential WHERE connection_id = '$id'");
}

sub parked { return $cluster->sql('SELECT parked FROM conduit_health()'); }

sub wait_for_parked
{
	my ($n) = @_;
	return $cluster->poll("SELECT parked = $n FROM conduit_health()");
}

sub wait_for_generation
{
	my ($generation, @ids) = @_;
	my $list = join(',', map { "'$_'" } @ids);
	return $cluster->poll("SELECT bool_and(generation = $generation) FROM conduit.credential WHERE connection_id IN ($list)");
}

# Connections that are due after advance(3500), with their grants' names.
sub connections
{
	my ($slug, $n) = @_;
	return map {
		my ($name) = $_->{access_token} =~ /^(at-\d+)-1-/;
		[ $cluster->connection('alice', $slug, $_), $name, $_ ]
	} $provider->issue($n, expires_in => 3600);
}

# ---- ways to hold a row ----

my %hold = (
	connection => "SELECT FROM conduit.connection WHERE id = '%s' FOR UPDATE",
	credential => "SELECT FROM conduit.credential WHERE connection_id = '%s' FOR UPDATE",
	superuser => "UPDATE conduit.credential SET token_type = token_type WHERE connection_id = '%s'",
	update => q{SELECT conduit_update_connection('alice', '%s', metadata => '{"of": "an open transaction"}')},
	delete => "SELECT conduit_delete_connection('alice', '%s')",
	prepared => "UPDATE conduit.connection SET updated_at = updated_at WHERE id = '%s'");

$cluster->connector('test', token_url => $provider->url . '/token');
my @others = connections('test', 63);
my (%held, %holder);
foreach my $how (sort keys %hold)
{
	($held{$how}) = connections('test', 1);
	$holder{$how} = $cluster->wire;
	$holder{$how}->simple('BEGIN');
	my $answer = $holder{$how}->simple(sprintf $hold{$how}, $held{$how}[0]);
	is($answer->{error}{M}, undef, "an open transaction holds a row, by $how");
}
$holder{prepared}->simple(q{PREPARE TRANSACTION 'held'});
my $n = keys %hold;

advance(3500);
ok(wait_for_generation(2, map { $_->[0] } @others), '63 others are refreshed');
ok(wait_for_parked($n), 'the replies for those held are parked');
is(generation($held{$_}[0]), 1, "credential not touched: $_") foreach sort keys %held;
is($cluster->vend('alice', $held{$_}[0]), "$held{$_}[1]-2", "the new token is vended meanwhile: $_") foreach sort keys %held;
is(Conduit::Cluster::vend_text($holder{connection}->query(Conduit::Cluster::vend_query('alice', $held{connection}[0]))),
	"$held{connection}[1]-2", 'also to the one who holds the row');
is($cluster->sql("SELECT refreshed, generation FROM conduit_refresh('alice', '$held{connection}[0]')"), 't|2', 'who forces a refresh is given it too');
$cluster->sql('SELECT conduit_refresh_due()');
is($provider->counts('/token')->{total}, 63 + $n, 'one request for each, whoever asked');

# Those that expire next are not kept either.
my ($later) = connections('test', 1);
advance(3500);
ok(wait_for_generation(3, map { $_->[0] } @others), 'the next round of the others');
ok(wait_for_generation(2, $later->[0]), 'and of one that came later');
is(parked(), $n, 'the replies stay parked');
is($cluster->vend('alice', $held{credential}[0]), "$held{credential}[1]-2", 'and are vended though they are due themselves');
is($provider->counts('/token')->{total}, 63 + $n + 64, 'without a request for those that cannot be settled');

# ---- the lock goes ----

foreach my $how (qw(connection superuser))
{
	$holder{$how}->simple($how eq 'superuser' ? 'ROLLBACK' : 'COMMIT');
	ok($cluster->poll("SELECT generation >= 2 FROM conduit.credential WHERE connection_id = '$held{$how}[0]'"), "when the lock goes, the reply is moved: $how");
	ok(wait_for_generation(3, $held{$how}[0]), 'and refreshed in its turn, for it is due');
	is($cluster->vend('alice', $held{$how}[0]), "$held{$how}[1]-3", 'and that is vended');
}
is(parked(), $n - 2, 'the others are still parked');

# ---- kill -9 of the worker ----

my $worker = $cluster->worker_pid;
my $requests = $provider->counts('/token')->{total};
kill('KILL', $worker);
# The server restarts as soon as the postmaster has noticed.
until ($holder{update}->simple('SELECT 1')->{closed}) { }
ok($cluster->poll(q{SELECT worker = 'running' FROM conduit_health()}), 'kill -9 of the worker: the server restarts, and there is a worker again');
isnt($cluster->worker_pid, $worker, 'another one');
is($cluster->vend('alice', $held{prepared}[0]), "$held{prepared}[1]-2", 'what is held by a prepared transaction is vended from where it is parked');
foreach my $how (qw(credential update delete))
{
	ok($cluster->poll("SELECT generation >= 2 FROM conduit.credential WHERE connection_id = '$held{$how}[0]'"), "the crash freed the row, and the parked reply has survived it: $how");
}
ok(wait_for_parked(1), 'the prepared transaction holds its row still');
is(generation($held{prepared}[0]), 1, 'over the restart');
$cluster->sql(q{COMMIT PREPARED 'held'});
ok($cluster->poll("SELECT generation >= 2 FROM conduit.credential WHERE connection_id = '$held{prepared}[0]'"), 'it is moved when that one is committed');
ok(wait_for_generation(3, map { $held{$_}[0] } keys %held), 'all are refreshed in their turn');
is(parked(), 0, 'nothing is parked any more');
is($provider->counts('/token')->{total}, $requests + $n - 2, 'one request each');
is($provider->counts('/token')->{reuse}, 0, 'no refresh token was ever sent twice');
is($provider->counts('/token')->{max_requests_per_refresh_token}, 1, 'not even at different times');
is($cluster->sql('SELECT count(*) FROM conduit.flight'), 0, 'no claim is left');

# ---- a parked refusal ----

{
	my ($dead) = connections('test', 1);
	my ($failed) = connections('test', 1);
	my $listener = $cluster->wire;
	my $holder = $cluster->wire;
	my $events = sub { return $cluster->sql("SELECT count(*) FROM conduit.event WHERE kind = 'needs_reauth' AND connection_id = '$_[0]'"); };

	$cluster->connector('failing', token_url => $provider->url . '/token/failing');
	my ($outage) = connections('failing', 1);
	$provider->script('/token/failing', [ { status => 500 } ], repeat_last => JSON::PP::true);
	$provider->revoke(refresh_token => $dead->[2]{refresh_token});
	$listener->simple('LISTEN conduit_needs_reauth');
	$holder->simple('BEGIN');
	$holder->simple("SELECT FROM conduit.connection WHERE id IN ('$dead->[0]', '$outage->[0]') FOR UPDATE");
	advance(3500);
	ok(wait_for_parked(2), 'a refusal and an outage are parked like a token');
	is($cluster->sql("SELECT status, attempts FROM conduit_get_connection('alice', '$dead->[0]')"), 'ACTIVE|0', 'nothing has changed so far');
	is($events->($dead->[0]), 0, 'and no event is written');
	like($cluster->vend('alice', $dead->[0]), qr/^$dead->[1]-1 WARNING PT504 /, 'the token at hand is vended, with a warning');
	$holder->simple('COMMIT');
	ok($cluster->poll("SELECT status = 'NEEDS_REAUTH' FROM conduit_get_connection('alice', '$dead->[0]')"), 'when the lock goes, the connection needs a new authorization');
	is($cluster->vend('alice', $dead->[0]), 'ERROR PT409 needs_reauth', 'and says so');
	ok($cluster->poll("SELECT count(*) = 1 FROM conduit_events_after(0, 10000) WHERE kind = 'needs_reauth' AND connection_id = '$dead->[0]'"), 'there is its event, numbered');
	is($events->($dead->[0]), 1, 'and no other');
	my @notifications = grep { $_->[1] =~ /\Q$dead->[0]\E/ } map { @{ $listener->simple('SELECT 1')->{notifications} } } 1 .. 2;
	is(scalar @notifications, 1, 'one notification came');
	ok($cluster->poll("SELECT attempts = 1 AND last_error = 'transient' AND last_error_code = 'http_500' AND refresh_at > last_error_at FROM conduit_get_connection('alice', '$outage->[0]')"), 'the outage counts as an attempt, to be made again');
	is($provider->counts('/token/failing')->{total}, 1, 'of one request');
	is($provider->counts('/token')->{max_requests_per_refresh_token}, 1, 'as the refusal was');
	ok(wait_for_parked(0), 'nothing is parked any more');
}

# ---- the row does not come back ----

$cluster->connector('revocable', token_url => $provider->url . '/token/revocable', revoke_url => $provider->url . '/revoke', revokes => 'token');
# So that what is queued stays there to be looked at.
$provider->script('/revoke', [ { status => 503 } ], repeat_last => JSON::PP::true);
foreach my $case (
	[ 'deleted', "SELECT conduit_delete_connection('alice', '%s')" ],
	[ 'revoked', "SELECT conduit_revoke_connection('alice', '%s')" ])
{
	my ($what, $sql) = @$case;
	my ($gone) = connections('revocable', 1);
	my $holder = $cluster->wire;

	$holder->simple('BEGIN');
	$holder->simple(sprintf $sql, $gone->[0]);
	advance(3500);
	ok(wait_for_parked(1), "$what by an open transaction, while its refresh is under way");
	is($cluster->sql("SELECT count(*) FROM conduit.revocation WHERE connection_id = '$gone->[0]'"), 0, 'no revocation counts before the commit');
	$holder->simple('COMMIT');
	ok(wait_for_parked(0), 'what was parked goes with it');
	is($cluster->sql("SELECT string_agg(generation || ' ' || (refresh IS NOT NULL), ', ' ORDER BY generation) FROM conduit.revocation WHERE connection_id = '$gone->[0]'"),
		'1 true, 2 true', 'the revocation of both is queued: of the stored token and of the one that was parked');
	is($cluster->sql("SELECT count(*) FROM conduit.credential WHERE connection_id = '$gone->[0]'"), 0, 'no credential is left');
	is($cluster->vend('alice', $gone->[0]), $what eq 'revoked' ? 'ERROR PT410 revoked' : 'ERROR PT404', 'nothing is vended');
}

# ---- authorized again meanwhile ----

{
	my ($old) = connections('test', 1);
	my ($new) = $provider->issue(1, expires_in => 36000);
	my ($name) = $new->{access_token} =~ /^(at-\d+)-1-/;
	my $holder = $cluster->wire;

	$holder->simple('BEGIN');
	$holder->value('SELECT conduit_store_credential($1, NULL, $2)', $old->[0], JSON::PP::encode_json($new));
	advance(3500);
	ok(wait_for_parked(1), 'a credential is replaced by an open transaction, while its refresh is under way');
	is($cluster->vend('alice', $old->[0]), "$old->[1]-2", 'others are vended what the refresh brought');
	is(Conduit::Cluster::vend_text($holder->query(Conduit::Cluster::vend_query('alice', $old->[0]))), "$name-1", 'the transaction itself what it has stored');
	$holder->simple('COMMIT');
	ok(wait_for_parked(0), 'with the commit the parked reply is dropped');
	is(generation($old->[0]), 2, 'for it is of a credential that is no longer there');
	is($cluster->vend('alice', $old->[0]), "$name-1", 'the new one is vended');
	is($cluster->sql("SELECT count(*) FROM conduit.revocation WHERE connection_id = '$old->[0]'"), 0, 'and nothing is revoked: the account is the same');
}

# ---- a request that comes too late ----

# Its caller saw the old generation; by the time the worker takes it, there is a
# newer one.  The worker is halted so that both happen in one of its rounds.
{
	$cluster->connector('late', token_url => $provider->url . '/token/late');
	my ($late) = connections('late', 1);
	my $holder = $cluster->wire;
	my $caller = $cluster->wire;

	$holder->simple('BEGIN');
	$holder->simple(sprintf $hold{connection}, $late->[0]);
	advance(3700);
	ok(wait_for_parked(1), 'a reply is parked');
	my $worker = $cluster->worker_pid;
	$caller->value(q{SELECT set_config('conduit.vend_timeout', '60s', false)});
	kill('STOP', $worker);
	$caller->send(Conduit::Cluster::vend_query('alice', $late->[0]));
	ok($cluster->poll("SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = " . $caller->pid), 'a reader asks for the next generation');
	$holder->simple('COMMIT');
	# It looks after what is parked four times a second: when it wakes, it is
	# to find that time over as well as the request.
	my $committed = $cluster->sql('SELECT clock_timestamp()');
	ok($cluster->poll("SELECT clock_timestamp() > '$committed'::timestamptz + interval '300 ms'"), 'which comes just after the reply could be moved');
	kill('CONT', $worker);
	is(Conduit::Cluster::vend_text($caller->receive), "$late->[1]-2", 'and is given it');
	ok(wait_for_generation(2, $late->[0]), 'it is in its place');
	is($provider->counts('/token/late')->{total}, 1, 'the provider is not asked again for one who has seen less than is there');
}

unlike(slurp_file($node->logfile), qr/lock timeout|deadlock/, 'the worker has never waited for a lock');

$cluster->stop;
done_testing();
