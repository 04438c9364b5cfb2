# The primary dies in the middle of refreshes: what a promoted standby knows, what
# it sends, and what keeps a primary that is not dead from sending as well.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::PgBouncer;
use Conduit::Provider;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $true = JSON::PP::true;
my $provider = Conduit::Provider->start('scripted');
my $primary = Conduit::Cluster->new('primary', init => [ allows_streaming => 1 ]);

$primary->connector('acme', token_url => $provider->url . '/token', redirect_uris => ['https://app.example.com/back']);
$primary->connector('lossy', token_url => $provider->url . '/token/lossy');
$primary->connector('dead', token_url => $provider->url . '/token/dead');
$provider->script('/token/dead', [ { status => 400, json => { error => 'invalid_grant' } } ], repeat_last => $true);

my %connector = (alice => 'acme', bob => 'acme', carol => 'lossy', dave => 'acme', erin => 'acme', frank => 'acme', gina => 'dead', hugo => 'dead');
my %grant = map { $_ => $provider->issue(1, expires_in => 3600) } sort keys %connector;
my %id = map { $_ => $primary->connection($_, $connector{$_}, $grant{$_}) } sort keys %connector;

my $first = $primary->standby('standby1');
my $second = $primary->standby('standby2');

sub name { my ($cluster) = @_; return $cluster->node->name; }
sub vend { my ($cluster, $owner) = @_; return $cluster->sql("SELECT access_token FROM conduit_vend('$owner', '$id{$owner}')"); }
sub refresh_query { return "SELECT generation FROM conduit_refresh('$_[0]', '$id{$_[0]}')"; }
sub status { my ($cluster, $owner) = @_; return $cluster->sql("SELECT status, status_reason FROM conduit_get_connection('$owner', '$id{$owner}')"); }
sub newest { my ($family) = $provider->tokens(refresh_token => $grant{$_[0]}{refresh_token}); return $family->{access_tokens}[-1]; }

# How often the refresh token that the owner began with was sent.
sub times_sent
{
	my ($owner) = @_;
	return scalar grep { ($_->{params}{refresh_token} // '') eq $grant{$owner}{refresh_token} } $provider->log;
}

sub events { my ($cluster, $after) = @_; return $cluster->sql("SELECT seq, kind, connection_id FROM conduit_events_after($after, 10000)"); }

# Who has asked, and waits.
sub ask
{
	my ($cluster, $owner) = @_;
	my $caller = $cluster->wire('conduit.vend_timeout' => '5min');

	$caller->send(refresh_query($owner));
	return $caller;
}

sub address { my ($cluster) = @_; return 'host=' . $cluster->node->host . ' port=' . $cluster->node->port; }

# As an administrator points a standby at another primary.
sub follow
{
	my ($standby, $conninfo) = @_;

	$standby->node->safe_psql('postgres', "ALTER SYSTEM SET primary_conninfo = '$conninfo'");
	$standby->node->reload;
	return;
}

# The worker waits for a synchronous standby, at the commit of a claim, of what
# became of it, or of the claim of an authorization.  Whatever else it waits with, counting uses say, is cut short.
sub wait_for_commit
{
	my ($cluster, $of) = @_;
	my %written = (claim => 'conduit.flight', settle => 'conduit.credential conduit.flight', authorization => 'conduit.authorize_state');

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $tables = $cluster->sql(q{SELECT coalesce(string_agg(l.relation::regclass::text, ' ' ORDER BY l.relation::regclass::text), 'none')
			FROM pg_stat_activity a LEFT JOIN pg_locks l ON l.pid = a.pid AND l.mode = 'RowExclusiveLock' AND l.relation::regclass::text IN ('conduit.flight', 'conduit.credential', 'conduit.authorize_state')
			WHERE a.backend_type = 'conduit worker' AND a.wait_event = 'SyncRep' HAVING count(*) > 0});

		return 1 if $tables eq $written{$of};
		$cluster->sql("SELECT pg_cancel_backend(@{[ $cluster->worker_pid ]})") if $tables eq 'none';
		select undef, undef, undef, 0.1;
	}
	return 0;
}

my $pool = Conduit::PgBouncer->pool(<<"DATABASES");
app      = @{[ address($primary) ]} dbname=app
app_read = @{[ address($first) ]} dbname=app
DATABASES

# ---- the primary is killed, with a synchronous standby ----

$primary->setting('synchronous_standby_names', 'FIRST 1 (standby1, standby2)');
ok($primary->poll(q{SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'standby1' AND sync_state = 'sync'}), 'there is a synchronous standby');

# It has what it is sent, but vends of none of it yet.
$first->sql('SELECT pg_wal_replay_pause()');
$first->poll(q{SELECT pg_get_wal_replay_pause_state() = 'paused'});
is($primary->sql(refresh_query('alice')), 2, 'a refresh is made');
like($primary->error(refresh_query('gina')), qr/^PT409\|/, 'a connection needs its owner');
ok($primary->poll("SELECT count(*) = 1 FROM conduit_events_after(0, 10000) WHERE kind = 'needs_reauth'"), 'and a subscriber reads of it');
my $seen = events($primary, 0);
my ($cursor) = $seen =~ /(\d+)\|[^\n]*$/;

$provider->script('/token', [ { hang => $true } ]);
$provider->script('/token/lossy', [ { rotate => $true, hang => $true } ]);
my @callers = map { ask($primary, $_) } qw(bob carol);
$provider->wait_for("/token$_", 'hanging', 1) foreach '', '/lossy';
$primary->stop('immediate');

my $offset = -s $first->node->logfile;
is(vend($first, 'dave'), $grant{dave}{access_token}, 'until a standby is promoted, tokens are vended');
$first->node->promote;
$first->wait_for_worker;
$first->node->wait_for_log('conduit: 2 refreshes of a former worker are in doubt and are tried again', $offset);
ok($first->poll('SELECT count(*) = 0 FROM conduit.flight'), 'promoted: its worker starts by itself, and ends what was under way');

is($first->sql("SELECT generation FROM conduit_vend('alice', '$id{alice}')"), 2, 'what was refreshed before is there');
is(vend($first, 'alice'), newest('alice'), 'with the token that the provider gave last');
is(times_sent('alice'), 1, 'and its former refresh token was not sent again');
is($first->sql("SELECT generation, in_doubt FROM conduit.credential WHERE connection_id = '$id{bob}'"), '2|f', 'a request that the provider had not taken up is made again');
is(times_sent('bob'), 2, 'once');
is(status($first, 'carol'), 'NEEDS_REAUTH|rotation_outcome_lost', 'one that it had answered, and nobody heard, is lost, and says so');
is(times_sent('carol'), 2, 'after one request more');
is(times_sent($_), 0, "nothing was sent for $_") foreach qw(dave erin frank);
is($first->sql('SELECT ok, worker, paused FROM conduit_health()'), 't|running|', 'the new primary is well, and no clone');

# ---- the other standby follows ----

follow($second, address($first));
ok($second->poll(q{SELECT status = 'streaming' AND received_tli = 2 FROM pg_stat_wal_receiver}), 'the second standby follows the new primary');
$pool->databases($first->node, <<"DATABASES");
app      = @{[ address($first) ]} dbname=app
app_read = @{[ address($second) ]} dbname=app
DATABASES
is($first->sql(refresh_query('dave'), connstr => $pool->connstr('app')), 2, 'as does the pooler: refreshed by the one');
$first->node->wait_for_catchup($second->node);
is($first->sql("SELECT generation FROM conduit_vend('dave', '$id{dave}')", connstr => $pool->connstr('app_read')), 2, 'and vended by the other');

# Without a pooler, libpq finds them.
my @all = map { $_->node } $primary, $first, $second;
my $any = 'host=' . join(',', map { $_->host } @all) . ' port=' . join(',', map { $_->port } @all) . ' dbname=app';
is($first->sql('SELECT pg_is_in_recovery()', connstr => "$any target_session_attrs=read-write"), 'f', 'a list of hosts leads to the primary');
is($first->sql('SELECT pg_is_in_recovery()', connstr => "$any target_session_attrs=prefer-standby"), 't', 'or to a standby');

# ---- events ----

ok($first->poll("SELECT count(*) = 0 FROM conduit.event WHERE seq IS NULL"), 'events are numbered');
$first->node->wait_for_catchup($second->node);
my $later = events($first, $cursor);
is(events($first, 0), "$seen\n$later", 'what a subscriber has read of the old primary, the new one has under the same numbers');
is($later =~ s/^\d+\|//mgr, "needs_reauth|$id{carol}", 'and from its cursor on it reads what came since');
is(events($second, $cursor), $later, 'also from a standby');
my $listener = $first->wire;
$listener->simple('LISTEN conduit_needs_reauth');
is($second->wire->simple('LISTEN conduit_needs_reauth')->{error}{C}, '25006', 'nobody can listen to a standby');
like($first->error(refresh_query('hugo')), qr/^PT409\|/, 'a connection dies');
ok($first->poll("SELECT count(*) = 1 FROM conduit_events_after($cursor, 10000) WHERE connection_id = '$id{hugo}'"), 'which the new primary writes down');
my @notifications = @{ $listener->simple('SELECT 1')->{notifications} };
like($notifications[0][1], qr/"seq":\d+,"event":"needs_reauth","connection_id":"$id{hugo}"/, 'and announces');

# ---- an asynchronous standby does not have everything ----

$first->node->wait_for_catchup($second->node);
follow($second, '');
ok($second->poll('SELECT count(*) = 0 FROM pg_stat_wal_receiver'), 'a standby that is cut off');
is($first->sql(refresh_query('erin')), 2, 'a refresh that it does not hear of');

# ---- two primaries ----

my (undef, $state) = $first->authorize('alice', 'acme');

# The old one has to wait for a standby that does not answer, before it sends.
$first->setting('synchronous_standby_names', 'FIRST 1 (standby2)');
my $sent = $provider->counts('/token')->{total};
my $caller = ask($first, 'frank');
ok(wait_for_commit($first, 'claim'), 'a primary that is alone waits, with a claim');
$second->node->promote;
$second->wait_for_worker;
is(times_sent('frank'), 0, 'before its standby has the claim, it sends nothing');

# Nor if somebody ends that wait.
$offset = -s $first->node->logfile;
$first->sql("SELECT pg_cancel_backend(@{[ $first->worker_pid ]})");
$first->node->wait_for_log('canceling wait for synchronous replication', $offset);
ok(wait_for_commit($first, 'settle'), 'one whose wait is cancelled waits with what came of it');
is($second->sql(refresh_query('frank')), 2, 'the promoted one refreshes');
is(vend($second, 'frank'), newest('frank'), 'and vends');
$first->sql("SELECT pg_cancel_backend(@{[ $first->worker_pid ]})");
is($caller->receive->{notices}[0]{C}, 'PT504', 'cancelled again, it tells who asked that nothing came of it');

# Nor when it is told to stop, or started again.
$caller = ask($first, 'dave');
ok(wait_for_commit($first, 'claim'), 'another claim waits');
$first->stop('fast');
is($caller->receive->{error}{C}, '57P01', 'for as long as there is somebody to wait');
$first->node->start;
is($first->sql('SELECT count(*) FROM conduit.flight'), 0, 'the claim was withdrawn');
$caller = $first->wire;
$caller->send(Conduit::Cluster::callback_query('alice', $state, 'a code'));
ok(wait_for_commit($first, 'authorization'), 'an authorization waits before its code is sent');
$offset = -s $first->node->logfile;
$first->sql("SELECT pg_cancel_backend(@{[ $first->worker_pid ]})");
$first->node->wait_for_log('canceling wait for synchronous replication', $offset);
ok(wait_for_commit($first, 'authorization'), 'cancelled, it is put back');
$first->stop('fast');
$first->node->start;
is($first->sql("SELECT status FROM conduit.authorize_state"), 'open', 'and may be completed later');
$first->set_clock(7200);
ok(wait_for_commit($first, 'claim'), 'with much that is due, it claims, and waits');
$first->stop('immediate');
is(times_sent('frank'), 1, 'one request was made for it by both');
is($provider->counts('/token')->{total}, $sent + 1, 'and no other');

is(vend($second, 'erin'), $grant{erin}{access_token}, 'the refresh that an asynchronous standby had not heard of');
like($second->error(refresh_query('erin')), qr/^PT409\|/, 'is lost: the token that it has is refused');
is(status($second, 'erin'), 'NEEDS_REAUTH|invalid_grant', 'as dead');
is($second->sql('SELECT ok, worker, paused FROM conduit_health()'), 't|running|', 'which is known of nobody else');

$pool->stop;
done_testing();
