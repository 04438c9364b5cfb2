# The whole line against npm's oidc-provider, an OAuth server that nobody here
# has written: PKCE, rotating refresh tokens, reuse revokes the grant.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use HTTP::Tiny;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $lifetime = 3600;
my $provider = Conduit::Provider->start('oidc', access_ttl => $lifetime);
my $info = $provider->info;
my $cluster = Conduit::Cluster->new('main');
my $now = 0;

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

sub field
{
	my ($owner, $id, $field) = @_;
	return $cluster->sql("SELECT $field FROM conduit_get_connection('$owner', '$id')");
}

# Who the provider says an access token belongs to, or the status of its refusal.
sub userinfo
{
	my ($token) = @_;
	my $http = HTTP::Tiny->new(proxy => undef, http_proxy => undef, https_proxy => undef);
	my $response = $http->get($info->{userinfo_endpoint}, { headers => { authorization => "Bearer $token" } });

	return $response->{status} unless $response->{success};
	return JSON::PP::decode_json($response->{content})->{sub};
}

sub vend
{
	my ($owner, $id) = @_;
	return $cluster->sql("SELECT access_token FROM conduit_vend('$owner', '$id')");
}

sub refreshes { return $provider->get('/control/counts')->{by_grant_type}{refresh_token} // 0; }

$cluster->connector('oidc',
	authorize_url => $info->{authorization_endpoint},
	token_url => $info->{token_endpoint},
	revoke_url => $info->{revocation_endpoint},
	client_auth => 'basic',
	client_id => $info->{client_id},
	client_secret => $info->{client_secret});

# ---- connect, store, vend, use ----

my ($response, $raw) = $provider->connect_account('alice');
my $alice = $cluster->connection('owner of alice', 'oidc', $raw, account => 'alice');

is(vend('owner of alice', $alice), $response->{access_token}, 'the access token of the authorization is vended');
is(userinfo(vend('owner of alice', $alice)), 'alice', 'and lets us in at the provider');
is(field('owner of alice', $alice, 'status, refreshable, generation, account'), 'ACTIVE|t|1|alice', 'the connection shows it');
is(field('owner of alice', $alice, "'openid' = ANY (scopes), expires_at - created_at <= '1 hour 1 s'"), 't|t', 'with its scopes and its expiry');
is($cluster->sql("SELECT coalesce(extra ?| '{id_token,refresh_token}', false) FROM conduit_vend('owner of alice', '$alice')"), 'f',
	'neither the ID token nor the refresh token is among what is vended');
is(refreshes(), 0, 'nobody has asked for a refresh yet');

# ---- refresh on read ----

$cluster->setting('conduit.refresh_idle', '1s');
advance($lifetime + 1);
ok($cluster->poll("SELECT refresh_at IS NULL FROM conduit_get_connection('owner of alice', '$alice')"), 'the worker leaves an idle connection to its readers');
my $token = vend('owner of alice', $alice);
isnt($token, $response->{access_token}, 'a reader of an expired token is given another one');
is(userinfo($token), 'alice', 'which lets us in');
is(field('owner of alice', $alice, 'generation'), 2, 'the second generation');
is(refreshes(), 1, 'of one request');
$cluster->setting('conduit.refresh_idle', '0');

# ---- ahead of expiry, over 20 generations ----

my @tokens = ($token);
foreach my $generation (3 .. 22)
{
	advance($lifetime - 100);
	ok($cluster->poll("SELECT generation = $generation FROM conduit_get_connection('owner of alice', '$alice')"), "the worker refreshes it ahead of its expiry: generation $generation")
	  or last;
	push @tokens, vend('owner of alice', $alice);
}
is(refreshes(), 21, 'one request for each generation');
is($provider->get('/control/counts')->{max_in_flight}, 1, 'one at a time');
is_deeply($provider->get('/control/counts')->{errors}, {}, 'the provider, which revokes a grant when a refresh token comes twice, complained about none');
is(scalar(keys %{ { map { $_ => 1 } @tokens } }), 21, 'each generation has a token of its own');
is(userinfo($tokens[-1]), 'alice', 'and the last one lets us in');
is(field('owner of alice', $alice, 'status, attempts, last_error IS NULL'), 'ACTIVE|0|t', 'the connection is well');

# ---- many readers ----

{
	my @callers = map { $cluster->wire } 1 .. 20;
	my $before = refreshes();

	$provider->hang(1);
	advance($lifetime + 1);
	$provider->wait_for(undef, 'hanging', 1);
	$_->value(q{SELECT set_config('conduit.vend_timeout', '60s', false)}) foreach @callers;
	$_->send('SELECT access_token FROM conduit_vend($1, $2)', 'owner of alice', $alice) foreach @callers;
	ok($cluster->poll("SELECT count(*) = 20 FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event_type = 'Extension'"), 'twenty readers wait for the provider');
	$provider->hang(0);
	my %tokens = map { ($_->receive->{rows}[0][0] // 'none') => 1 } @callers;
	is(scalar(keys %tokens), 1, 'all are given the same token');
	is(userinfo((keys %tokens)[0]), 'alice', 'which lets them in');
	is(refreshes() - $before, 1, 'of one request');
	$_->close foreach @callers;
}

# ---- the other kind of client ----

{
	$cluster->connector('oidc-post',
		token_url => $info->{token_endpoint},
		client_auth => 'post',
		client_id => $info->{post_client_id},
		client_secret => $info->{post_client_secret});
	my ($response, $raw) = $provider->connect_account('bob', auth => 'post');
	my $bob = $cluster->connection('bob', 'oidc-post', $raw);

	is($cluster->sql("SELECT refreshed FROM conduit_refresh('bob', '$bob')"), 't', 'a client that authenticates in the body is let in, too');
	is(userinfo(vend('bob', $bob)), 'bob', 'and the token lets bob in');
}

# ---- the grant is revoked ----

my $listener = $cluster->wire;
my @notifications;
$listener->simple('LISTEN conduit_needs_reauth');
$listener->simple('LISTEN conduit_events');

cmp_ok($provider->revoke_grants('alice'), '>=', 1, 'the grant is revoked at the provider');
is(userinfo(vend('owner of alice', $alice)), 401, 'the token at hand is vended still, though no good');
advance($lifetime - 100);
ok($cluster->poll("SELECT status = 'NEEDS_REAUTH' FROM conduit_get_connection('owner of alice', '$alice')"), 'the next refresh finds out');
is(field('owner of alice', $alice, 'status_reason, last_error, last_error_code, refresh_at IS NULL'), 'invalid_grant|dead|invalid_grant|t', 'and says why');
is(Conduit::Cluster::vend_text($cluster->wire->query('SELECT access_token FROM conduit_vend($1, $2)', 'owner of alice', $alice)), 'ERROR PT409 needs_reauth', 'nothing is vended any more');
ok($cluster->poll("SELECT count(*) = 1 FROM conduit_events_after(0, 1000) WHERE kind = 'needs_reauth'"), 'there is an event');
is($cluster->sql("SELECT connection_id, owner, connector, account, old_status, new_status, reason FROM conduit_events_after(0, 1000) WHERE kind = 'needs_reauth'"),
	"$alice|owner of alice|oidc|alice|ACTIVE|NEEDS_REAUTH|invalid_grant", 'exactly this one');
push @notifications, @{ $listener->simple('SELECT 1')->{notifications} };
my $seq = $cluster->sql("SELECT seq FROM conduit_events_after(0, 1000) WHERE kind = 'needs_reauth'");
is_deeply([ map { [ $_->[0], JSON::PP::decode_json($_->[1]) ] } sort { $a->[0] cmp $b->[0] } @notifications ],
	[ map { [ $_, { seq => $seq + 0, event => 'needs_reauth', connection_id => $alice } ] } qw(conduit_events conduit_needs_reauth) ],
	'and one notification on each channel, in another session');

my $before = refreshes();
advance(86400);
is($cluster->sql('SELECT conduit_refresh_due()'), 0, 'a day later nothing is due');
is($cluster->sql("SELECT count(*) FROM conduit.event WHERE kind = 'needs_reauth'"), 1, 'and it stays with the one event');

# ---- authorized again ----

($response, $raw) = $provider->connect_account('alice');
$cluster->store($alice, $raw);
is(field('owner of alice', $alice, 'status, status_reason IS NULL, last_error IS NULL'), 'ACTIVE|t|t', 'authorized again and stored, the connection is ACTIVE');
is(userinfo(vend('owner of alice', $alice)), 'alice', 'and its token lets us in');
ok($cluster->poll("SELECT count(*) = 1 FROM conduit_events_after(0, 1000) WHERE kind = 'recovered' AND connection_id = '$alice'"), 'there is an event of that');
is($cluster->sql("SELECT refreshed FROM conduit_refresh('owner of alice', '$alice')"), 't', 'and it is refreshed like before');
is(userinfo(vend('owner of alice', $alice)), 'alice', 'with a token that lets us in');
is($cluster->sql('SELECT ok, needs_reauth FROM conduit_health()'), 't|0', 'all is well');

$listener->close;
$cluster->stop;
done_testing();
