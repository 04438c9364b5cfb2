# One primary that refreshes, two hot standbys behind a pooler that vend: what an
# application sees while they lag behind, and while keys are rotated.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::PgBouncer;
use Conduit::Provider;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $provider = Conduit::Provider->start('scripted');
my $primary = Conduit::Cluster->new('primary', init => [ allows_streaming => 1 ],
	settings => "listen_addresses = '127.0.0.1'\nconduit.vend_patience = '10ms'\n");

append_to_file($primary->node->data_dir . '/pg_hba.conf', "host all all 127.0.0.0/8 trust\n");
$primary->node->reload;
$primary->connector('acme', token_url => $provider->url . '/token');

my @owners = qw(alice bob carol dave);
my %grant = map { $_ => $provider->issue(1, expires_in => 3600) } @owners;
my %id = map { $_ => $primary->connection($_, 'acme', $grant{$_}) } @owners;

# A port that both standbys have, as servers of their own hosts would.
my $port = PostgreSQL::Test::Cluster::get_free_port();
my @standbys = map {
	$primary->standby("standby$_", node => [ port => $port, own_host => 1 ], settings => "listen_addresses = '127.0.0.@{[ 1 + $_ ]}'\n")
} 1, 2;
my ($first, $second) = @standbys;
my $pool = Conduit::PgBouncer->pool(<<"DATABASES");
app      = host=127.0.0.1 port=@{[ $primary->node->port ]} dbname=app
app_read = host=127.0.0.2,127.0.0.3 port=$port dbname=app
DATABASES

# By the pooler: where the database named so is.
sub read_only { return $primary->sql($_[0], connstr => $pool->connstr('app_read')); }
sub refresh
{
	my ($owner) = @_;
	return $primary->sql("SELECT generation FROM conduit_refresh('$owner', '$id{$owner}')", connstr => $pool->connstr('app'));
}

sub vend_query { return "SELECT access_token FROM conduit_vend('$_[0]', '$id{$_[0]}')"; }

sub generation
{
	my ($cluster, $owner) = @_;
	return $cluster->sql("SELECT generation FROM conduit_vend('$owner', '$id{$owner}')");
}

# What applications do: ask a standby, and the primary if the token is dead there.
sub vend
{
	my ($owner) = @_;
	my $error = $primary->error(vend_query($owner), connstr => $pool->connstr('app_read'));

	return read_only(vend_query($owner)) if $error eq '';
	return $primary->sql(vend_query($owner), connstr => $pool->connstr('app')) if $error =~ /^PT504\|.*\|standby\|/;
	return $error;
}

sub family
{
	my ($owner) = @_;
	my ($family) = $provider->tokens(refresh_token => $grant{$owner}{refresh_token});
	return $family;
}

sub newest { return family($_[0])->{access_tokens}[-1]; }

# ---- vends here, refreshes there ----

{
	my @sessions = map { Conduit::Cluster::Session->new($primary->node, 'app', $pool->connstr('app_read')) } 1, 2;
	my @servers = map { $_->query('BEGIN; SELECT pg_catalog.host(pg_catalog.inet_server_addr())') } @sessions;

	is(join(' ', sort @servers), '127.0.0.2 127.0.0.3', 'the pooler has both standbys');
	is_deeply([ map { $_->query(vend_query('alice')) } @sessions ], [ ($grant{alice}{access_token}) x 2 ], 'both vend');
	$_->quit foreach @sessions;
}

foreach my $round (2 .. 5)
{
	is(refresh($_), $round, "$_ is refreshed by the primary, to generation $round") foreach @owners;
	foreach my $owner (@owners)
	{
		my $token = read_only(vend_query($owner));
		ok((grep { $_ eq $token } @{ family($owner)->{access_tokens} }), "and what a standby vends to $owner is a token that the provider knows");
	}
}
$primary->node->wait_for_catchup($_->node) foreach @standbys;
is(read_only(vend_query($_)), newest($_), "in the end $_ has the newest") foreach @owners;
is($provider->counts->{reuse}, 0, 'no refresh token was used twice');

# ---- one that lags ----

$first->sql('SELECT pg_wal_replay_pause()');
$first->poll(q{SELECT pg_get_wal_replay_pause_state() = 'paused'});
my $old = newest('alice');
is(refresh('alice'), 6, 'refreshed, while one standby does not replay');
$primary->node->wait_for_catchup($second->node);
is($second->sql(vend_query('alice')), newest('alice'), 'the other one vends the new token');
is($first->sql(vend_query('alice')), $old, 'it vends the one that it knows');

$first->set_clock(3700);
like($first->error(vend_query('alice')), qr/^PT504\|provider unavailable\|standby\|/, 'until that is dead: then it says that it is a standby');
like($first->error("SELECT conduit_refresh('alice', '$id{alice}')"), qr/^PT504\|provider unavailable\|standby\|/, 'and refreshes nothing');
$second->set_clock(3700);
my $before = $provider->counts('/token')->{total};
is(vend('alice'), newest('alice'), 'who turns to the primary is served');
is($provider->counts('/token')->{total}, $before, 'by a token that lives there');
$primary->set_clock(3700);
ok($primary->poll('SELECT count(*) = 0 FROM conduit.credential WHERE generation < 6 OR refresh_at < now()'), 'the primary refreshes what is due by its clock');
$primary->node->wait_for_catchup($second->node);
is($second->sql(vend_query('bob')), newest('bob'), 'and the standby that does not lag vends it');
$first->sql('SELECT pg_wal_replay_resume()');
$primary->node->wait_for_catchup($first->node);
is($first->sql(vend_query($_)), newest($_), "as does the other for $_ when it has caught up") foreach @owners;
is($provider->counts->{reuse}, 0, 'still no refresh token was used twice');

# ---- counters are each server's own ----

$second->sql(vend_query('carol')) foreach 1 .. 3;
cmp_ok($second->sql("SELECT vends FROM conduit_stats() WHERE connector = 'acme'"), '>=', 3, 'vends on a standby are counted there');
is($primary->sql("SELECT last_used_at FROM conduit_get_connection('carol', '$id{carol}')"), '', 'and are no uses that the primary knows of');

# ---- keys ----

# On the primary alone, and primary at once: the mistake.
my $key = Conduit::Cluster::new_key();
my $ring = slurp_file($primary->keyring_file) =~ s/^/*/r;
my $rotated = $ring =~ s/^\*//r . "*k2:$key\n";
$primary->write_keyring($rotated);
$primary->reload;
my $sealed_before = newest('dave');
my $generation = refresh('bob');
$primary->node->wait_for_catchup($_->node) foreach @standbys;
foreach my $standby (@standbys)
{
	like($standby->error(vend_query('bob')), qr/^PT500\|key not in keyring\|unknown_key k2\|/, 'sealed under a key that a standby has not: an error that says so');
	is($standby->sql(vend_query('dave')), $sealed_before, 'and no other token is concerned');
	is($standby->sql(q{SELECT key_id, state, blobs > 0 FROM conduit_keyring() WHERE NOT in_keyring}), 'k2|missing|t', 'conduit_keyring() tells which');
}

# The file is read again when a key is not found: no reload is needed.
my $session = $first->session;
$session->query(vend_query('bob'));
like($session->error, qr/key not in keyring/, 'a session that has read the former file');
$first->write_keyring("$ring" . "k2:$key\n");
ok($first->poll(vend_query('bob'), newest('bob')), 'mended by the key in the file, as it has to be first: not yet primary');
my $mended = '';
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if ($mended = $session->query(vend_query('bob'))) ne '';
	select undef, undef, undef, 0.1;
}
is($mended, newest('bob'), 'also in that session');
$session->quit;
$second->write_keyring($rotated);

# In order, now: all have it, so it may be all there is.
cmp_ok($primary->sql('SELECT conduit_rewrap(1000)'), '>', 0, 'the other data keys are wrapped anew');
$primary->node->wait_for_catchup($_->node) foreach @standbys;
is($_->sql(vend_query('dave')), $sealed_before, 'and standbys open what they wrap') foreach @standbys;
is($primary->sql(q{SELECT key_id FROM conduit_keyring() WHERE blobs > 0}), 'k2', 'nothing is left of the former key');

# ---- reading one's own writes ----

$primary->node->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = '2 (standby1, standby2)'});
$primary->setting('synchronous_commit', 'remote_apply');
ok($primary->poll(q{SELECT count(*) = 2 FROM pg_stat_replication WHERE sync_state = 'sync'}), 'with synchronous standbys, and remote_apply');
foreach my $round (1 .. 10)
{
	my $new = refresh('carol');
	is(join(' ', map { generation($_, 'carol') } @standbys), "$new $new", 'who has refreshed reads the new token everywhere');
}

# It is the worker that waits, and its setting that counts.
$first->sql('SELECT pg_wal_replay_pause()');
$first->poll(q{SELECT pg_get_wal_replay_pause_state() = 'paused'});
my $caller = $primary->wire('conduit.vend_timeout' => '5min');
$generation = generation($primary, 'carol');
$caller->send("SELECT generation FROM conduit_refresh('carol', '$id{carol}')");
my $worker = q{FROM pg_stat_activity WHERE backend_type = 'conduit worker'};
ok($primary->poll("SELECT wait_event = 'SyncRep' $worker"), 'a standby that does not replay: the worker waits for it');
is(generation($primary, 'carol'), $generation, 'what has not reached it is not vended by the primary either');
is(generation($first, 'carol'), $generation, 'nor by it; but nothing of what is known waits');
$first->sql('SELECT pg_wal_replay_resume()');
is($caller->receive->{rows}[0][0], $generation + 1, 'who asked has waited, too');
is(join(' ', map { generation($_, 'carol') } @standbys), join(' ', ($generation + 1) x 2), 'until all had it');
is($provider->counts->{reuse}, 0, 'no refresh token was used twice in all this');

# ---- the primary is gone ----

my %last = map { $_ => newest($_) } @owners;
$primary->stop('immediate');
is($_->sql(vend_query('alice')), $last{alice}, 'without a primary, what lives is vended') foreach @standbys;
is($primary->sql(vend_query('bob'), connstr => $pool->connstr('app_read')), $last{bob}, 'through the pooler as well');
is(join(' ', map { $_->sql('SELECT ok, worker FROM conduit_health()') } @standbys), 't|standby t|standby', 'and standbys are well');

$pool->stop;
done_testing();
