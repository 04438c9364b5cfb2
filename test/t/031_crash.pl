# kill -9 of the worker at each step of a flight.  The provider is the oracle:
# it counts how often each refresh token was sent, and knows which one is alive.
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

my $true = JSON::PP::true;
my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main', settings => "restart_after_crash = on\n");
my $node = $cluster->node;
my $now = 0;

$cluster->connector('test', token_url => $provider->url . '/token');

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

# An end of one story: nothing of it meets the next one's provider.
sub forget
{
	$provider->script('/token', []);
	$provider->release;
	$cluster->sql("SELECT conduit_delete_owner('alice')");
	$cluster->poll('SELECT count(*) = 0 FROM conduit.flight') or die 'flights are left';
	return;
}

# A connection with its token, due after advance(3500).
sub connect_one
{
	my ($grant) = $provider->issue(1, expires_in => 3600);
	return ($cluster->connection('alice', 'test', $grant), $grant);
}

sub wait_until_recovered
{
	my ($former) = @_;
	my $recovered;
	# While the server begins again, psql may end before it has read what it is to ask.
	do
	{
		$recovered = eval {
			$node->poll_query_until('postgres', qq{
				SELECT count(*) = 1 FROM pg_stat_activity
				WHERE backend_type = 'conduit worker' AND datname = 'app' AND state IS NOT NULL AND pid <> $former}) || 0;
		};
	} until defined $recovered || $@ !~ /Broken pipe/;
	die 'no worker after the crash' unless $recovered;
	return;
}

# kill -9: the server restarts all of its processes.
sub crash
{
	my $pid = $cluster->worker_pid;
	my $offset = -s $node->logfile;

	kill('KILL', $pid) == 1 or die "could not kill $pid";
	$node->wait_for_log('terminated by signal 9', $offset);
	wait_until_recovered($pid);
	return;
}

sub credential
{
	my ($id, $columns) = @_;
	return $cluster->sql("SELECT $columns FROM conduit.credential WHERE connection_id = '$id'");
}

sub settled
{
	my ($id, $condition) = @_;
	return $cluster->poll("SELECT $condition AND NOT EXISTS (SELECT FROM conduit.flight f WHERE f.connection_id = c.connection_id)
		FROM conduit.credential c WHERE connection_id = '$id'");
}

# The family of a grant, as the provider knows it.
sub family
{
	my ($grant) = @_;
	my ($family) = $provider->tokens(refresh_token => $grant->{refresh_token});
	return $family;
}

sub times_sent
{
	my ($token) = @_;
	return scalar grep { ($_->{params}{refresh_token} // '') eq $token } $provider->log;
}

# That the stored refresh token is the live one is proved by its use.
sub is_good
{
	my ($id, $grant, $what) = @_;
	my $before = family($grant);
	my $generation = credential($id, 'generation');

	is($cluster->sql("SELECT refreshed, generation FROM conduit_refresh('alice', '$id')"), 't|' . ($generation + 1), "$what: the stored refresh token is good");
	is(times_sent($before->{refresh_token}), 1, "$what: it is the provider's live one");
	is($cluster->sql("SELECT access_token FROM conduit_vend('alice', '$id')"), family($grant)->{access_tokens}[-1], "$what: what is vended is what the provider gave last");
	is(family($grant)->{reuse}, 0, "$what: no consumed refresh token was sent");
	return;
}

# Fill the queue of connections that the stopped provider does not accept:
# whoever comes now waits for the handshake.  By several processes, since the
# queue may be longer than the descriptors that one may have open.
my $connect_many = q{
	my ($port, $most) = @ARGV;
	my @sockets;
	$| = 1;
	while (@sockets < $most)
	{
		my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Blocking => 0) or die "could not connect: $!";
		push @sockets, $socket;
		print("full\n"), last unless IO::Select->new($socket)->can_write(0.2);
	}
	print "done\n";
	<STDIN>;
};

sub plug
{
	my @processes;

	while (@processes < 10)
	{
		my ($in, $out) = ('', '');
		my $process = IPC::Run::start([ $^X, '-MIO::Socket::INET', '-MIO::Select', '-e', $connect_many, $provider->port, 400 ],
			'<', \$in, '>', \$out, IPC::Run::timeout(60));

		push @processes, $process;
		$process->pump until $out =~ /done/;
		return \@processes if $out =~ /full/;
	}
	die 'the queue of the provider does not fill';
}

# ---- (a) claimed, connecting ----

{
	my ($id, $grant) = connect_one();
	my $plug;

	kill('STOP', $provider->pid) == 1 or die 'could not stop the provider';
	$plug = plug();
	advance(3500);
	ok($cluster->poll("SELECT count(*) = 1 FROM conduit.flight WHERE connection_id = '$id' AND attempt = 1"), 'connecting: the refresh is claimed');
	crash();
	is($cluster->sql("SELECT generation, attempt, in_doubt, outcome FROM conduit.flight WHERE connection_id = '$id'"), '1|2|t|', 'connecting: the next worker takes it over, in doubt');
	kill('CONT', $provider->pid);
	$_->finish for @$plug;
	ok(settled($id, 'generation = 2'), 'connecting: and refreshes');
	is(times_sent($grant->{refresh_token}), 1, 'connecting: the refresh token was sent once');
	is(credential($id, 'in_doubt, attempts, status'), 'f|0|ACTIVE', 'connecting: nothing is in doubt any more');
	is_good($id, $grant, 'connecting');
	forget();
}

# ---- (b) sent, not answered ----

{
	my ($id, $grant) = connect_one();

	$provider->script('/token', [ { hang => $true } ]);
	advance(3500);
	$provider->wait_for('/token', 'hanging', 1);
	crash();
	ok(settled($id, 'generation = 2'), 'sent: the next worker refreshes');
	is(times_sent($grant->{refresh_token}), 2, 'sent: the refresh token was sent once more');
	like(slurp_file($node->logfile), qr/LOG:  conduit: 1 refreshes of a former worker are in doubt and are tried again/, 'sent: the log says so');
	is_good($id, $grant, 'sent');
	forget();
}

# ---- (c) consumed, not answered ----

{
	my ($id, $grant) = connect_one();

	$provider->script('/token', [ { rotate => $true, hang => $true } ]);
	advance(3500);
	$provider->wait_for('/token', 'hanging', 1);
	crash();
	ok(settled($id, "status = 'NEEDS_REAUTH'"), 'consumed: the refresh token is dead, and the connection needs re-authorization');
	is($cluster->sql("SELECT status, status_reason FROM conduit_get_connection('alice', '$id')"), 'NEEDS_REAUTH|rotation_outcome_lost', 'consumed: the reason is that the outcome was lost');
	is(times_sent($grant->{refresh_token}), 2, 'consumed: the refresh token was sent once more');
	is(family($grant)->{reuse}, 1, 'consumed: which the provider took for reuse');
	ok($cluster->poll("SELECT string_agg(kind || ' ' || reason, ',') = 'needs_reauth rotation_outcome_lost' FROM conduit.event
		WHERE connection_id = '$id' AND kind = 'needs_reauth' AND seq IS NOT NULL"), 'consumed: there is one event');
	like($cluster->error("SELECT conduit_vend('alice', '$id')"), qr/^PT409\|connection needs re-authorization/, 'consumed: the token is not vended any more');

	($grant) = $provider->issue(1, expires_in => 3600);
	$cluster->store($id, $grant);
	is_good($id, $grant, 'consumed, stored again');
	forget();
}

# ---- the same where the provider does not rotate: nothing to lose ----

{
	my $constant = Conduit::Provider->start('scripted');
	my ($grant) = $constant->issue(1, expires_in => 3600);
	my $id;

	$constant->options(rotate => JSON::PP::false);
	$cluster->connector('constant', token_url => $constant->url . '/token', refresh_rotates => 'no');
	$id = $cluster->connection('alice', 'constant', $grant);
	$constant->script('/token', [ { rotate => $true, hang => $true } ]);
	advance(3500);
	$constant->wait_for('/token', 'hanging', 1);
	crash();
	ok(settled($id, 'generation = 2 AND NOT in_doubt'), 'constant: a refresh token that is not rotated is used again');
	is($cluster->sql("SELECT status FROM conduit_get_connection('alice', '$id')"), 'ACTIVE', 'constant: nothing is lost');
	forget();
}

# ---- (d) answered, not settled ----

# Somebody locks the credentials: the reply is kept in the flight's row.
{
	my ($id, $grant) = connect_one();
	my $session = $cluster->session;

	$provider->script('/token', [ { rotate => $true, hang => $true } ]);
	advance(3500);
	$provider->wait_for('/token', 'hanging', 1);
	$session->query('BEGIN; LOCK TABLE conduit.credential IN ACCESS EXCLUSIVE MODE');
	$provider->release;
	ok($cluster->poll("SELECT outcome = 'refreshed' AND refresh IS NOT NULL FROM conduit.flight WHERE connection_id = '$id'"), 'locked: the reply is parked, sealed');
	crash();
	$session->quit;
	ok(settled($id, 'generation = 2'), 'locked: and moved after the crash');
	is(times_sent($grant->{refresh_token}), 1, 'locked: the refresh token was sent once');
	is_good($id, $grant, 'locked');
	forget();
}

# Flights are locked as well: the reply waits in memory, and nothing new is claimed.
{
	my ($id, $grant) = connect_one();
	my $session = $cluster->session;
	my $offset = -s $node->logfile;

	$provider->script('/token', [ { rotate => $true, hang => $true } ]);
	advance(3500);
	$provider->wait_for('/token', 'hanging', 1);
	$session->query('BEGIN; LOCK TABLE conduit.credential, conduit.flight IN ACCESS EXCLUSIVE MODE');
	$provider->release;
	$offset = $node->wait_for_log('conduit worker, settling', $offset);
	$offset = $node->wait_for_log('conduit worker, parking', $offset);
	$node->wait_for_log('conduit worker, parking', $offset);
	$session->query('COMMIT');
	$session->quit;
	ok(settled($id, 'generation = 2'), 'all locked: the reply is settled when the lock goes');
	is(times_sent($grant->{refresh_token}), 1, 'all locked: the refresh token was sent once');
	is_good($id, $grant, 'all locked');
	forget();
}

# The same with a crash before it could be written anywhere: lost, and said so.
{
	my ($id, $grant) = connect_one();
	my $session = $cluster->session;
	my $offset = -s $node->logfile;

	$provider->script('/token', [ { rotate => $true, hang => $true } ]);
	advance(3500);
	$provider->wait_for('/token', 'hanging', 1);
	$session->query('BEGIN; LOCK TABLE conduit.credential, conduit.flight IN ACCESS EXCLUSIVE MODE');
	$provider->release;
	$node->wait_for_log('conduit worker, parking', $offset);
	crash();
	$session->quit;
	ok(settled($id, "status = 'NEEDS_REAUTH'"), 'written nowhere: the connection needs re-authorization');
	is($cluster->sql("SELECT status_reason FROM conduit_get_connection('alice', '$id')"), 'rotation_outcome_lost', 'written nowhere: the reason is that the outcome was lost');
	is(times_sent($grant->{refresh_token}), 2, 'written nowhere: the refresh token was sent once more');
	forget();
}

# ---- (e) parked behind a prepared transaction, which outlives the crash ----

{
	my ($id, $grant) = connect_one();

	$cluster->sql("BEGIN; SELECT FROM conduit.connection WHERE id = '$id' FOR UPDATE; PREPARE TRANSACTION 'holder'");
	advance(3500);
	ok($cluster->poll("SELECT outcome = 'refreshed' FROM conduit.flight WHERE connection_id = '$id'"), 'parked: the reply is kept');
	crash();
	ok($cluster->poll('SELECT parked = 1 FROM conduit_health()'), 'parked: it is still there after the crash');
	is($cluster->sql("SELECT generation, access_token FROM conduit_vend('alice', '$id')"), '2|' . family($grant)->{access_tokens}[-1], 'parked: and is vended');
	is(credential($id, 'generation'), '1', 'parked: while the credential is held');
	advance(100);
	crash();
	is(times_sent($grant->{refresh_token}), 1, 'parked: the refresh token was sent once');
	$cluster->sql("COMMIT PREPARED 'holder'");
	ok(settled($id, 'generation = 2'), 'parked: it is moved when the lock goes');
	is_good($id, $grant, 'parked');
	forget();
}

# ---- a flight that kills its worker again and again ----

{
	my ($id, $grant) = connect_one();
	my $sent;

	$provider->script('/token', [ { hang => $true } ], repeat_last => $true);
	advance(3500);
	for my $attempt (1 .. 3)
	{
		$provider->wait_for('/token', 'hanging', 1);
		is($cluster->sql("SELECT attempt FROM conduit.flight WHERE connection_id = '$id'"), $attempt, "quarantine: attempt $attempt is under way");
		crash();
	}
	ok(settled($id, "last_error_code = 'quarantined' AND in_doubt"), 'quarantine: the fourth is not made');
	is(credential($id, "status, last_error, next_attempt_at - last_error_at BETWEEN '55 min' AND '75 min'"), 'ACTIVE|transient|t', 'quarantine: for an hour');
	$sent = times_sent($grant->{refresh_token});
	is($sent, 3, 'quarantine: nothing was sent');
	is($cluster->sql("SELECT access_token FROM conduit_vend('alice', '$id')"), $grant->{access_token}, 'quarantine: the token is vended as long as it lives');
	advance(200);
	like($cluster->error("SELECT conduit_vend('alice', '$id')"), qr/^PT504\|provider unavailable\|quarantined retry_after=\d+/, 'quarantine: and then the error says why not');
	$provider->script('/token', []);
	advance(4500);
	ok(settled($id, 'generation = 2'), 'quarantine: after the hour it is tried again');
	is_good($id, $grant, 'quarantine');
	forget();
}

# ---- the whole server crashes ----

{
	my ($first, $first_grant) = connect_one();
	my ($second, $second_grant) = connect_one();

	$provider->script('/token', [ { hang => $true } ], repeat_last => $true);
	advance(3500);
	$provider->wait_for('/token', 'hanging', 2);
	$node->stop('immediate');
	$provider->script('/token', []);
	$node->start;
	$cluster->wait_for_worker;
	ok(settled($first, 'generation = 2') && settled($second, 'generation = 2'), 'immediate shutdown: both are refreshed after the start');
	is_good($first, $first_grant, 'immediate shutdown');
	is_good($second, $second_grant, 'immediate shutdown');
	forget();
}

# ---- at any time ----

srand(my $seed = $ENV{CONDUIT_TEST_SEED} // time);
note "CONDUIT_TEST_SEED=$seed";
{
	my @grants = $provider->issue(20, expires_in => 3600);
	my @ids = map { $cluster->connection('alice', 'test', $_) } @grants;
	my ($lost, $silent, $repeated, $bad) = (0, 0, 0, 0);

	# Few at a time, each slow, so that a crash meets some of them; the provider
	# has consumed the token of some by then.
	$cluster->setting('conduit.max_in_flight', 4);
	for my $round (1 .. 30)
	{
		my $total = $provider->counts('/token')->{total};
		my $least = $total + 1 + int(rand(12));
		my $due = "SELECT count(*) FROM conduit.credential WHERE refresh_at < clock_timestamp() + '$now s'";

		$provider->script('/token', [ map { +{ delay_ms => 20 + int(rand(80)), rand() < 0.04 ? (rotate => $true) : () } } 1 .. 100 ]);
		advance(5000);
		1 until $provider->counts('/token')->{total} >= $least || $cluster->sql($due) == 0;
		crash();
	}
	$provider->script('/token', []);
	$cluster->setting('conduit.max_in_flight', 64);
	advance(20000);
	ok($cluster->poll("SELECT count(*) = 0 FROM conduit.credential WHERE refresh_at < clock_timestamp() + '$now s'")
		&& $cluster->poll('SELECT count(*) = 0 FROM conduit.flight'), 'any time: all that is due is refreshed in the end');

	for my $i (0 .. $#ids)
	{
		my $family = family($grants[$i]);
		my $id = $ids[$i];
		my ($status, $reason) = split /\|/, $cluster->sql("SELECT status, status_reason FROM conduit_get_connection('alice', '$id')");

		if ($status eq 'NEEDS_REAUTH')
		{
			$lost++;
			$silent++ unless $reason eq 'rotation_outcome_lost' && $family->{reuse} >= 1
			  && $cluster->sql("SELECT count(*) FROM conduit.event WHERE connection_id = '$id' AND kind = 'needs_reauth'") == 1;
		}
		else
		{
			my ($refreshed) = $cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')");

			$silent++ unless $status eq 'ACTIVE' && $family->{reuse} == 0;
			$bad++ unless $refreshed eq 't'
			  && $cluster->sql("SELECT access_token FROM conduit_vend('alice', '$id')") eq family($grants[$i])->{access_tokens}[-1];
		}
	}
	note "$lost of 20 connections lost the outcome of a rotation";
	is($silent, 0, 'any time: every connection is good, or says that its outcome was lost, once');
	is($bad, 0, 'any time: every good connection holds the live refresh token');
	cmp_ok($provider->counts('/token')->{max_in_flight_per_refresh_token}, '<=', 1, 'any time: no refresh token was in two requests at once');
	forget();
}

done_testing();
