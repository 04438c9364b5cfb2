# Code and refresh against a second OAuth server that nobody here has written
# (npm's @node-oauth/oauth2-server), by definition alone: no issuer, no
# id_token, the account from a URL of its own.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use HTTP::Tiny;
use JSON::PP ();
use Test::More;

my $provider = Conduit::Provider->start('node_oauth', access_ttl => 3600);
my $info = $provider->info;
my $cluster = Conduit::Cluster->new('main');
my $http = HTTP::Tiny->new(proxy => undef, http_proxy => undef, https_proxy => undef, max_redirect => 0);
my $now = 0;

$cluster->sql("SELECT conduit_register_connector('second', '" . JSON::PP->new->canonical->encode({
	name => 'Second', auth_type => 'oauth2_code', client_auth => 'post',
	authorize_url => $info->{authorization_endpoint}, token_url => $info->{token_endpoint},
	account_url => $info->{account_endpoint}, account_path => 'user.login', account_label_path => 'user.name',
	default_scopes => [ 'read', 'write' ], api_base_url => $info->{url} }) . "')");
$cluster->sql("SELECT conduit_set_client('second', '$info->{client_id}', '$info->{client_secret}', '{$info->{redirect_uri}}')");

# What comes back from the provider when an owner's browser goes there as an account.
sub browse
{
	my ($url, $more) = @_;
	my $response = $http->get("$url&$more");
	is($response->{status}, 302, "the provider sends $more back");
	return { $response->{headers}{location} =~ /[?&]([^=&]+)=([^&]*)/g };
}

sub authorize
{
	my ($owner, $more, $arguments) = @_;
	my ($url, $state) = split /\|/, $cluster->sql("SELECT authorize_url, state FROM conduit_authorize('$owner', 'second'" . ($arguments // '') . ')');
	my $callback = browse($url, $more);
	is($callback->{state}, $state, 'with the state');
	return ($state, $callback);
}

sub field { my ($owner, $id, $field) = @_; return $cluster->sql("SELECT $field FROM conduit_get_connection('$owner', '$id')"); }

my ($state, $callback) = authorize('alice', 'account=alice');
my $id = $cluster->sql("SELECT conduit_authorize_callback('alice', '$state', '$callback->{code}')");
is(field('alice', $id, "concat_ws('|', account, account_label, status, array_to_string(scopes, ' '))"),
	'alice|alice of the second server|ACTIVE|read write', 'a connection, its account from the account URL');
is($cluster->sql("SELECT conduit_authorize_callback('alice', '$state', '$callback->{code}')"), $id, 'the callback again: the same');

sub me
{
	my $token = $cluster->sql("SELECT access_token FROM conduit_vend('alice', '$id')");
	my $response = $http->get($info->{account_endpoint}, { headers => { authorization => "Bearer $token" } });
	return $response->{success} ? JSON::PP::decode_json($response->{content})->{user}{login} : $response->{status};
}

is(me(), 'alice', 'the token works');
my $generation = field('alice', $id, 'generation');
$cluster->set_clock(3500);
ok($cluster->poll("SELECT generation > $generation FROM conduit_get_connection('alice', '$id')"), 'refreshed ahead of expiry');
is(me(), 'alice', 'the new token works, too');
is($provider->get('/control/counts')->{by_grant_type}{refresh_token}, 1, 'by one request');

($state, $callback) = authorize('alice', 'account=alice');
is($cluster->sql("SELECT conduit_authorize_callback('alice', '$state', '$callback->{code}')"), $id, 'the same account again: the same connection');
($state, $callback) = authorize('alice', 'account=bob', ", connection_id => '$id'");
like($cluster->error("SELECT conduit_authorize_callback('alice', '$state', '$callback->{code}')"), qr/^PT400\|authorization failed\|account_mismatch/, 'another account');
($state, $callback) = authorize('alice', 'deny=1');
is($callback->{error}, 'access_denied', 'denied');
like($cluster->error("SELECT conduit_authorize_callback('alice', '$state', NULL, '{\"error\": \"access_denied\"}')"), qr/^PT400\|authorization failed\|denied/, 'which the caller is told');
($state, $callback) = authorize('alice', 'account=alice');
like($cluster->error("SELECT conduit_authorize_callback('alice', '$state', '0123456789abcdef')"), qr/^PT400\|authorization failed\|code_rejected/, 'a code of nobody\'s');

$provider->post('/control/revoke-all', {});
$cluster->set_clock(7200);
ok($cluster->poll("SELECT status = 'NEEDS_REAUTH' FROM conduit_get_connection('alice', '$id')"), 'revoked there: NEEDS_REAUTH');
is(field('alice', $id, 'status_reason'), 'invalid_grant', 'with the provider\'s word for it');
($state, $callback) = authorize('alice', 'account=alice', ", connection_id => '$id'");
is($cluster->sql("SELECT conduit_authorize_callback('alice', '$state', '$callback->{code}')"), $id, 'authorized again');
is(field('alice', $id, 'status'), 'ACTIVE', 'ACTIVE');

done_testing();
