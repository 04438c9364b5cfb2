# From an authorization server's metadata to a working connector.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use JSON::PP ();
use Test::More;

my $json = JSON::PP->new->canonical;
my $oidc = Conduit::Provider->start('oidc');
my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main');

sub discover { my ($issuer) = @_; return $json->decode($cluster->sql("SELECT conduit_discover('$issuer')")); }

# ---- a real server ----

my $definition = discover($oidc->info->{issuer});
is($definition->{auth_type}, 'oauth2_code', 'a server with codes');
is($definition->{issuer}, $oidc->info->{issuer}, 'its issuer');
is($definition->{token_url}, $oidc->info->{token_endpoint}, 'its token endpoint');
is($definition->{authorize_url}, $oidc->info->{authorization_endpoint}, 'its authorization endpoint');
is($definition->{revoke_url}, $oidc->info->{revocation_endpoint}, 'its revocation endpoint');
is("$definition->{account_url} $definition->{account_path}", "$oidc->{info}{userinfo_endpoint} sub", 'whose account it is');
is($definition->{pkce} ? 'pkce' : 'no', 'pkce', 'PKCE');
is($definition->{callback_iss_required} ? 'iss' : 'no', 'iss', 'it sends iss (RFC 9207)');

# As it is, it registers and connects.
$cluster->sql("SELECT conduit_register_connector('found', conduit_discover('$oidc->{info}{issuer}') || '{\"extra_authorize_params\": {\"prompt\": \"consent\"}}')");
$cluster->sql("SELECT conduit_set_client('found', '$oidc->{info}{client_id}', '$oidc->{info}{client_secret}', '{$oidc->{info}{redirect_uri}}')");
my ($url, $state) = split /\|/, $cluster->sql("SELECT authorize_url, state FROM conduit_authorize('alice', 'found')");
my ($out) = PostgreSQL::Test::Utils::run_command([ 'node', "$FindBin::RealBin/../provider/connect.js", '--authorize-only', '--account', 'alice', '--url', $url ]);
my $callback = $json->decode($out);
my $id = $cluster->sql("SELECT conduit_authorize_callback('alice', '$state', '$callback->{code}', '$out')");
is($cluster->sql("SELECT account, refreshable FROM conduit_get_connection('alice', '$id')"), 'alice|t', 'the discovered connector connects');

# ---- documents ----

my $base = $provider->url;
my %least = (issuer => $base, authorization_endpoint => "$base/authorize", token_endpoint => "$base/token");
sub document { my ($path, @steps) = @_; $provider->script($path, \@steps, repeat_last => JSON::PP::true); return; }
sub serve { my (%more) = @_; document('/.well-known/openid-configuration', { status => 200, json => { %least, %more } }); return; }

serve();
is_deeply(discover($base), { name => '127.0.0.1', auth_type => 'oauth2_code', issuer => $base, authorize_url => "$base/authorize", token_url => "$base/token", client_auth => 'basic' }, 'the least there is');
my @cases = (
	[ 'the best method', { token_endpoint_auth_methods_supported => [qw(none client_secret_post client_secret_basic)] }, client_auth => 'basic' ],
	[ 'another method', { token_endpoint_auth_methods_supported => [qw(none client_secret_post)] }, client_auth => 'post' ],
	[ 'a public client', { token_endpoint_auth_methods_supported => ['none'] }, client_auth => 'none' ],
	[ 'a client that signs', { token_endpoint_auth_methods_supported => ['private_key_jwt'], token_endpoint_auth_signing_alg_values_supported => [qw(RS256 ES256)] }, client_auth => 'private_key_jwt', signing_algorithm => 'ES256' ],
	[ 'no PKCE', { code_challenge_methods_supported => ['plain'] }, pkce => JSON::PP::false ],
	[ 'PKCE', { code_challenge_methods_supported => [qw(plain S256)] }, pkce => JSON::PP::true ],
	[ 'OpenID without userinfo', { scopes_supported => [qw(openid email)] }, account_path => 'id_token.sub', default_scopes => ['openid'] ],
	[ 'offline access', { scopes_supported => [qw(openid offline_access)] }, default_scopes => [qw(openid offline_access)] ],
	[ 'revocation', { revocation_endpoint => "$base/revoke" }, revoke_url => "$base/revoke" ],
	[ 'machines alone', { authorization_endpoint => undef, grant_types_supported => ['client_credentials'] }, auth_type => 'oauth2_client_credentials', authorize_url => undef ]);
foreach my $case (@cases)
{
	my ($title, $more, %expected) = @$case;
	serve(%$more);
	my $found = discover($base);
	is_deeply({ map { $_ => $found->{$_} } keys %expected }, \%expected, $title) or diag $json->encode($found);
	$cluster->sql("SELECT conduit_register_connector('case', conduit_discover('$base'))");
}

# RFC 8414 has it between host and path.
document('/tenant/a/.well-known/openid-configuration', { status => 404, body => 'no' });
document('/.well-known/oauth-authorization-server/tenant/a', { status => 200, json => { %least, issuer => "$base/tenant/a" } });
is(discover("$base/tenant/a")->{issuer}, "$base/tenant/a", 'an issuer with a path, RFC 8414');
document('/tenant/b/.well-known/openid-configuration', { status => 200, json => { %least, issuer => "$base/tenant/b/" } });
is(discover("$base/tenant/b/")->{issuer}, "$base/tenant/b/", 'an issuer that ends in a slash');

# ---- what is refused ----

sub refusal
{
	my ($step, $expected, $title) = @_;
	document('/.well-known/openid-configuration', $step);
	my $error = $cluster->error("SELECT conduit_discover('$base')");
	return is(join('|', (split /\|/, $error)[ 0 .. 2 ]), $expected, $title);
}
my $bad = 'PT502|bad provider response';
refusal({ status => 200, json => { %least, issuer => 'https://other.example.com' } }, "$bad|issuer_mismatch", 'another issuer');
refusal({ status => 200, json => { %least, issuer => "$base/" } }, "$bad|issuer_mismatch", 'nearly the same');
refusal({ status => 200, json => { %least, issuer => undef } }, "$bad|issuer_mismatch", 'no issuer');
refusal({ status => 200, json => { %least, token_endpoint => undef } }, "$bad|no_token_endpoint", 'no token endpoint');
refusal({ status => 200, json => { %least, authorization_endpoint => undef } }, "$bad|no_grant", 'nothing that we speak');
refusal({ status => 200, json => { %least, token_endpoint_auth_methods_supported => ['tls_client_auth'] } }, "$bad|no_client_auth", 'no method that we speak');
refusal({ status => 200, json => [1] }, "$bad|bad_json", 'an array');
refusal({ status => 200, body => '<html>' }, "$bad|bad_json", 'a page');
refusal({ status => 500, body => 'x' }, "$bad|http_500", 'a server in trouble');
refusal({ redirect => "$base/elsewhere" }, "$bad|http_302", 'a redirect');
refusal({ status => 200, json => \%least, huge => 200_000 }, "$bad|too_large", 'a huge document');
refusal({ close => 'mid_body', status => 200, json => \%least }, "$bad|broken", 'half a document');
foreach my $url ('http://10.0.0.1/token', 'https://169.254.169.254/token', 'file:///etc/passwd', 'https://user@example.com/token', 'https://10.0.0.1/token')
{
	document('/.well-known/openid-configuration', { status => 200, json => { %least, token_endpoint => $url } });
	like($cluster->error("SELECT conduit_discover('$base')"), qr/^22023\|invalid connector definition\|token_url: /, "a token endpoint at $url");
}
foreach my $issuer ('', 'x', 'http://example.com', 'https://10.0.0.1', 'https://a@example.com', "$base?x=1", "$base#x", 'https://169.254.169.254', 'ftp://example.com')
{
	like($cluster->error("SELECT conduit_discover('$issuer')"), qr/^22023\|invalid issuer\|/, "issuer \"$issuer\"");
}
is($cluster->sql('SELECT ok FROM conduit_health()'), 't', 'all is well');

done_testing();
