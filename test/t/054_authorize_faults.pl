# What rollbacks, cancellations, kills, open transactions and missing keys do to
# an authorization.  The provider is the oracle: it counts how often each code
# was sent.
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
my $cluster = Conduit::Cluster->new('main', settings => "restart_after_crash = on\nconduit.vend_timeout = '10s'\n");
my $node = $cluster->node;
my @uris = ('https://app.example.com/callback');
my $uuid = qr/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
my $pending = 'PT504 provider unavailable (pending)';
my $codes = 0;

$cluster->connector('test', authorize_url => $provider->url . '/authorize', token_url => $provider->url . '/token',
	redirect_uris => \@uris, account_path => 'sub', pkce => $true);
$cluster->connector('asked', authorize_url => $provider->url . '/authorize', token_url => $provider->url . '/token/asked',
	account_url => $provider->url . '/userinfo', account_path => 'id', api_auth => 'Authorization: Bearer {token}', redirect_uris => \@uris);
$cluster->connector('longer', authorize_url => $provider->url . '/authorize', token_url => $provider->url . '/token/longer',
	exchange_grant_type => 'x_exchange', exchange_url => $provider->url . '/token/exchange', refresh_credential => 'access_token',
	redirect_uris => \@uris);

sub new_code { return 'the-code-' . ++$codes; }

# What the next code is answered; further steps of Provider->script().
sub reply
{
	my ($account, %step) = @_;
	return $provider->script('/token', [ { rotate => $true, field_overrides => { sub => $account }, %step } ]);
}

sub times_sent
{
	my ($code) = @_;
	return scalar grep { ($_->{params}{code} // '') eq $code } $provider->log;
}

sub status
{
	my ($owner) = @_;
	return $cluster->sql("SELECT status FROM conduit.authorize_state WHERE owner = '$owner' ORDER BY created_at DESC LIMIT 1");
}

sub wait_for_status
{
	my ($owner, $status) = @_;
	return $cluster->poll("SELECT (SELECT status FROM conduit.authorize_state WHERE owner = '$owner' ORDER BY created_at DESC LIMIT 1) = '$status'");
}

# A state and a caller whose code the provider has, and does not answer yet.
sub begin_hanging
{
	my ($owner, $account, %options) = @_;
	my (undef, $state) = $cluster->authorize($owner, 'test', %{ $options{arguments} // {} });
	my $code = new_code();
	my $wire = $options{wire} // $cluster->wire;

	reply($account, hang => $true);
	$wire->send(Conduit::Cluster::callback_query($owner, $state, $code));
	$provider->wait_for('/token', 'hanging', 1);
	return ($wire, $state, $code);
}

sub connections { return $cluster->sql("SELECT count(*) FROM conduit.connection WHERE owner = '$_[0]'"); }

sub wait_for_other_worker
{
	my ($former) = @_;
	return $node->poll_query_until('postgres', qq{
		SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'conduit worker' AND datname = 'app' AND state IS NOT NULL AND pid <> $former})
	  || die 'no other worker';
}

# kill -9: the server restarts all of its processes.
sub crash
{
	my $pid = $cluster->worker_pid;
	my $offset = -s $node->logfile;

	kill('KILL', $pid) == 1 or die "could not kill $pid";
	$node->wait_for_log('terminated by signal 9', $offset);
	wait_for_other_worker($pid);
	return;
}

# ---- the caller goes, the grant stays ----

{
	my $wire = $cluster->wire;
	my (undef, $state) = $cluster->authorize('rolls back', 'test');
	my $code = new_code();

	reply('a1');
	$wire->simple('BEGIN');
	my $id = Conduit::Cluster::callback_text($wire->query(Conduit::Cluster::callback_query('rolls back', $state, $code)));
	like($id, $uuid, 'a callback in a transaction');
	is($wire->query(q{SELECT account FROM conduit_get_connection('rolls back', $1)}, $id)->{rows}[0][0], 'a1', 'which sees what came of it');
	$wire->simple('ROLLBACK');
	is($cluster->callback('rolls back', $state, $code), $id, 'its ROLLBACK takes nothing away');
	is(times_sent($code), 1, 'and the code was sent once');

	(undef, $state) = $cluster->authorize('rolls back', 'test');
	$code = new_code();
	reply('a2');
	$wire->simple('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
	$wire->simple('SELECT count(*) FROM conduit.connection');
	like(Conduit::Cluster::callback_text($wire->query(Conduit::Cluster::callback_query('rolls back', $state, $code))), $uuid,
		'a READ ONLY transaction with a snapshot of before is told, too');
	$wire->simple('ROLLBACK');

	$wire->simple('BEGIN');
	$state = $wire->value(q{SELECT state FROM conduit_authorize('rolls back', 'test')});
	is(Conduit::Cluster::callback_text($wire->query(Conduit::Cluster::callback_query('rolls back', $state, new_code()))),
		'PT400 authorization failed (invalid_state)', 'a state counts from its commit');
	$wire->simple('ROLLBACK');
	is($cluster->callback('rolls back', $state, new_code()), 'PT400 authorization failed (invalid_state)', 'and not at all after a ROLLBACK');
}

foreach my $how (qw(cancel terminate))
{
	my ($wire, $state, $code) = begin_hanging($how, 'a1');

	$how eq 'cancel' ? $wire->cancel : $cluster->sql('SELECT pg_terminate_backend(' . $wire->pid . ')');
	like($wire->receive->{error}{C}, qr/^57/, "$how: the caller is gone at once");
	$provider->release;
	ok(wait_for_status($how, 'done'), "$how: the worker goes on");
	like($cluster->callback($how, $state, $code), $uuid, "$how: whoever asks again is told the id");
	is(connections($how), 1, "$how: of one connection");
	is(times_sent($code), 1, "$how: the code was sent once");
}

# ---- the worker goes ----

{
	my ($wire, $state, $code) = begin_hanging('worker killed', 'a1');
	is(status('worker killed'), 'claimed', 'the claim is committed before the code is answered');
	crash();
	$provider->release;
	ok(wait_for_status('worker killed', 'failed'), 'a code whose worker is gone');
	is($cluster->callback('worker killed', $state, $code), 'PT400 authorization failed (lost)', 'is lost');
	is(times_sent($code), 1, 'and never sent again');
	is(connections('worker killed'), 0, 'no connection came of it');
}
{
	my ($wire, $state, $code) = begin_hanging('worker stopped', 'a1');
	my $pid = $cluster->worker_pid;
	$cluster->sql("SELECT pg_terminate_backend($pid)");
	wait_for_other_worker($pid);
	$provider->release;
	is(Conduit::Cluster::callback_text($wire->receive), 'PT400 authorization failed (lost)', 'told to stop, and the provider does not answer: the caller is told by its successor');
	is(times_sent($code), 1, 'the code was sent once');
}
{
	$cluster->setting('conduit.shutdown_grace', '30s');
	my ($wire, $state, $code) = begin_hanging('worker stopped in grace', 'a1');
	my $pid = $cluster->worker_pid;
	$cluster->sql("SELECT pg_terminate_backend($pid)");
	$cluster->poll("SELECT query = 'leaving' FROM pg_stat_activity WHERE pid = $pid") or die 'the worker does not leave';
	$provider->release;
	like(Conduit::Cluster::callback_text($wire->receive), $uuid, 'told to stop, and the provider answers in time: nothing is lost');
	wait_for_other_worker($pid);
	$cluster->setting('conduit.shutdown_grace', '1s');
}

# From the first reply on, another worker goes on where the last one was.
{
	my (undef, $state) = $cluster->authorize('account killed', 'asked');
	my $code = new_code();
	my $wire = $cluster->wire;
	$provider->script('/userinfo', [ { hang => $true }, { json => { id => 'a7' } } ]);
	$wire->send(Conduit::Cluster::callback_query('account killed', $state, $code));
	$provider->wait_for('/userinfo', 'hanging', 1);
	is(status('account killed'), 'received', 'the token is committed before the account is asked for');
	crash();
	$provider->release;
	ok(wait_for_status('account killed', 'done'), 'the next worker asks again');
	my $id = $cluster->callback('account killed', $state, $code);
	is($cluster->sql("SELECT account, has_credential FROM conduit_get_connection('account killed', '$id')"), 'a7|t', 'and the connection has its account');
	is(times_sent($code), 1, 'of a code that was sent once');
}
{
	my (undef, $state) = $cluster->authorize('exchange killed', 'longer');
	my $code = new_code();
	my $wire = $cluster->wire;
	$provider->script('/token/longer', [ { json => { access_token => 'short-lived', expires_in => 3600 } } ]);
	$provider->script('/token/exchange', [ { hang => $true }, { json => { access_token => 'long-lived', expires_in => 5_000_000 } } ]);
	$wire->send(Conduit::Cluster::callback_query('exchange killed', $state, $code));
	$provider->wait_for('/token/exchange', 'hanging', 1);
	crash();
	$provider->release;
	ok(wait_for_status('exchange killed', 'done'), 'the next worker exchanges the token');
	my $id = $cluster->callback('exchange killed', $state, $code);
	is($cluster->sql("SELECT access_token FROM conduit_vend('exchange killed', '$id')"), 'long-lived', 'for the longer-lived one');
	is(times_sent($code), 1, 'of a code that was sent once');
}
{
	my (undef, $state) = $cluster->authorize('copy', 'asked');
	my $code = new_code();
	my $wire = $cluster->wire;
	$provider->script('/userinfo', [ { hang => $true } ]);
	$wire->send(Conduit::Cluster::callback_query('copy', $state, $code));
	$provider->wait_for('/userinfo', 'hanging', 1);
	my $asked = $provider->counts('/userinfo')->{total};
	$cluster->sql(q{UPDATE conduit.setting SET value = 'another' WHERE name = 'identity'});
	crash();
	$provider->release;
	ok(wait_for_status('copy', 'done'), 'a worker that finds itself in a copy settles what there is');
	is($provider->counts('/userinfo')->{total}, $asked, 'and asks nobody');
	reply('a1');
	(undef, $state) = $cluster->authorize('copy', 'test');
	like($cluster->callback('copy', $state, new_code()), $uuid, 'whom an owner authorizes here is authorized, while refreshing is paused');
	$cluster->sql('SELECT conduit_adopt()');
}

# ---- somebody's open transaction ----

# hold -> SQL that takes the lock; free -> how it ends.
sub held_by
{
	my ($name, $owner, $account, $hold, $end, %options) = @_;
	my $holder = $cluster->wire;
	my $impatient = $cluster->wire(options => '-c conduit.vend_timeout=300ms');
	my (undef, $state) = $cluster->authorize($owner, 'test', %{ $options{arguments} // {} });
	my $code = new_code();
	my $offset = -s $node->logfile;

	$holder->simple('BEGIN');
	my $held = $holder->simple($hold);
	is($held->{error}{M}, undef, "$name: held");
	reply($account);
	is(Conduit::Cluster::callback_text($impatient->query(Conduit::Cluster::callback_query($owner, $state, $code))), $pending, "$name: pending");
	ok(wait_for_status($owner, $options{status} // 'parked'), "$name: what came is kept in the row of the state");

	# Nobody else is held up.
	my (undef, $other) = $cluster->authorize('bystander', 'test');
	reply('of another');
	like($cluster->callback('bystander', $other, new_code()), $uuid, "$name: others go on");

	# Who waits for a lock ends in lock_timeout, and parks after that, too.
	unlike(slurp_file($node->logfile, $offset), qr/lock timeout/, "$name: the worker has not waited");

	crash() if $options{crash};
	$holder->simple($end) unless $options{crash};
	$cluster->sql($options{after}) if $options{after};
	ok(wait_for_status($owner, $options{ends} // 'done'), "$name: it is moved when the lock is gone");
	my $id = $cluster->callback($owner, $state, $code);
	is(times_sent($code), 1, "$name: the code was sent once");
	return $id;
}

sub make
{
	my ($owner, $account) = @_;
	my ($grant) = $provider->issue(1);
	return $cluster->connection($owner, 'test', $grant, account => $account);
}

{
	my $id = make('held', 'a1');
	is(held_by('the connection authorized again', 'held', 'a1', "SELECT FROM conduit.connection WHERE id = '$id' FOR UPDATE", 'COMMIT',
			arguments => { connection_id => "'$id'" }), $id, 'and is that connection');
	is(held_by('the connection of the account', 'held', 'a1', qq{SELECT conduit_update_connection('held', '$id', metadata => '{"x": "y"}')}, 'COMMIT'), $id, 'and is that connection');
	is(held_by('its credential', 'held', 'a1', "SELECT FROM conduit.credential WHERE connection_id = '$id' FOR UPDATE", 'ROLLBACK'), $id, 'and is that connection');
	is($cluster->sql("SELECT generation FROM conduit.credential WHERE connection_id = '$id'"), 4, 'three generations later');
	is(held_by('a deletion', 'held', 'a1', "SELECT conduit_delete_connection('held', '$id')", 'COMMIT',
			arguments => { connection_id => "'$id'" }, ends => 'failed'), 'PT400 authorization failed (connection_gone)', 'and has nowhere to go');
}
{
	# A row that is not committed cannot be seen, and must not be waited for.
	my $id = held_by('an uncommitted connection of the account, committed', 'rival', 'a1', q{SELECT conduit_create_connection('rival', 'test', 'a1')}, 'COMMIT');
	is($cluster->sql(q{SELECT id FROM conduit.connection WHERE owner = 'rival'}), $id, 'the rival is the one');
	like(held_by('an uncommitted connection of the account, rolled back', 'other rival', 'a1', q{SELECT conduit_create_connection('other rival', 'test', 'a1')}, 'ROLLBACK'), $uuid, 'a new one');
	is(connections('other rival'), 1, 'alone');
}
{
	# Held by one that survives the server, and parked so long.
	my $id = make('prepared', 'a1');
	is(held_by('a prepared transaction, across a crash', 'prepared', 'a1',
			qq{UPDATE conduit.connection SET updated_at = updated_at WHERE id = '$id'; PREPARE TRANSACTION 'held'}, '',
			crash => 1, after => q{COMMIT PREPARED 'held'}), $id, 'and is that connection');
	is($cluster->sql("SELECT generation FROM conduit.credential WHERE connection_id = '$id'"), 2, 'of another generation');
}
{
	my $holder = $cluster->wire;
	my $impatient = $cluster->wire(options => '-c conduit.vend_timeout=300ms');
	my (undef, $state) = $cluster->authorize('row held', 'test');
	my $code = new_code();
	$holder->simple('BEGIN');
	$holder->simple(q{SELECT FROM conduit.authorize_state WHERE owner = 'row held' FOR UPDATE});
	reply('a1');
	is(Conduit::Cluster::callback_text($impatient->query(Conduit::Cluster::callback_query('row held', $state, $code))), $pending, 'the row of the state is held');
	is(times_sent($code), 0, 'nothing is sent before it is claimed');
	$holder->simple('COMMIT');
	like($cluster->callback('row held', $state, $code), $uuid, 'when it is free, it goes on');
	is(times_sent($code), 1, 'the code was sent once');
}
{
	# A lock on the whole table is an error after lock_timeout; the reply is kept all the same.
	my ($wire, $state, $code) = begin_hanging('table locked', 'a1');
	my $holder = $cluster->wire;
	$holder->simple('BEGIN');
	$holder->simple('LOCK TABLE conduit.credential IN ACCESS EXCLUSIVE MODE');
	$provider->release;
	ok(wait_for_status('table locked', 'parked'), 'a table is locked: what came is kept');
	$holder->simple('COMMIT');
	like($cluster->callback('table locked', $state, $code), $uuid, 'and moved when it is free') if ok(wait_for_status('table locked', 'done'), 'it is moved');
	$wire->close;

	# The caller leaves, for its own look at the table would keep the lock away.
	($wire, $state, $code) = begin_hanging('states locked', 'a1');
	$wire->cancel;
	$wire->receive;
	my $offset = -s $node->logfile;
	$holder->simple('BEGIN');
	$holder->simple('LOCK TABLE conduit.authorize_state IN ACCESS EXCLUSIVE MODE');
	$provider->release;
	# neither settled nor parked
	$node->wait_for_log(qr/lock timeout.*lock timeout/s, $offset);
	$holder->simple('COMMIT');
	ok(wait_for_status('states locked', 'done'), 'the table of the states is locked: what came is kept in memory, and tried again');
	like($cluster->callback('states locked', $state, $code), $uuid, 'nothing is lost');
	is(times_sent($code), 1, 'the code was sent once');
}

# ---- keys ----

{
	my $old = PostgreSQL::Test::Utils::slurp_file($cluster->keyring_file);
	my (undef, $state) = $cluster->authorize('rotates', 'test');
	my ($former) = $old =~ /^(k1:.*)$/m;
	$cluster->write_keyring("$former\n*k2:" . Conduit::Cluster::new_key() . "\n");
	$cluster->reload;
	$cluster->poll(q{SELECT state = 'good' FROM conduit_keyring() WHERE key_id = 'k2'}) or die 'the new key is not in use';
	$cluster->sql('SELECT conduit_rewrap()');
	is($cluster->sql(q{SELECT blobs FROM conduit_keyring() WHERE key_id = 'k1'}), 0, 'a rewrap reaches the verifier of an open state');
	reply('a1');
	like($cluster->callback('rotates', $state, new_code()), $uuid, 'which still opens');
}
{
	my (undef, $state) = $cluster->authorize('moved', 'test');
	my (undef, $other) = $cluster->authorize('moved', 'test');
	$cluster->sql(q{UPDATE conduit.authorize_state s SET verifier = (SELECT verifier FROM conduit.authorize_state o
		WHERE o.owner = 'moved' AND o.id <> s.id) WHERE owner = 'moved'});
	reply('a1');
	my $code = new_code();
	is($cluster->callback('moved', $state, $code), 'PT500 credential cannot be opened (cannot_open)', 'a verifier that was moved to another state does not open');
	is(times_sent($code), 0, 'and nothing is sent');
}

# ---- paused, switched off ----

{
	$cluster->setting('conduit.refresh_enabled', 'off');
	$cluster->poll(q{SELECT paused IS NOT NULL FROM conduit_health()}) or die 'refreshing goes on';
	my (undef, $state) = $cluster->authorize('paused', 'test');
	reply('a1');
	like($cluster->callback('paused', $state, new_code()), $uuid, 'it works while refreshing is switched off');
	$cluster->setting('conduit.refresh_enabled', 'on');
}

is($cluster->sql(q{SELECT count(*) FROM conduit.authorize_state WHERE status IN ('claimed', 'received', 'parked')}), 0, 'nothing is left under way');
is($cluster->sql(q{SELECT count(*) FROM conduit.authorize_state WHERE status IN ('done', 'failed') AND (verifier IS NOT NULL OR granted IS NOT NULL)}), 0, 'and no secret in what is over');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|segmentation/i, 'no worker ended but those that were killed');

$cluster->stop;
done_testing();
