# Refreshes as providers want them put: how the client is authenticated, what
# the body looks like, which headers there are. A provider that insists on each
# sees the request and answers it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $json = JSON::PP->new->canonical;
my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main', settings => "log_statement = none\n");
my $offset = -s $cluster->node->logfile;
my %keys = map { $_ => [ Conduit::Provider->make_key($_) ] } qw(RS256 ES256 EdDSA);
my ($client_id, $client_secret) = ('the client', 'client-SECRET-&+1');
my %connected;

sub register
{
	my ($slug, %definition) = @_;
	my %all = (
		auth_type => 'oauth2_code',
		token_url => $provider->url . "/token/$slug",
		%definition);
	$all{authorize_url} = 'https://provider.example.com/authorize' if $all{auth_type} eq 'oauth2_code';
	my $text = $json->encode(\%all);
	$cluster->sql("SELECT conduit_register_connector('$slug', \$json\$$text\$json\$)");
	return;
}

sub set_client
{
	my ($slug, $secret) = @_;
	$cluster->sql("SELECT conduit_set_client('$slug', '$client_id', " . (defined $secret ? "'$secret'" : 'NULL') . ')');
	return;
}

# A connection of alice's, and the secret that refreshes it.
sub connect_account
{
	my ($slug, %options) = @_;
	my ($issued) = $provider->issue(1, prefix => "$slug-SECRET-");
	my $params = $json->encode($options{params} // {});
	my %stored = $options{stored} ? $options{stored}->($issued) : %$issued;

	$connected{$slug} = { id => $cluster->sql("SELECT conduit_create_connection('alice', '$slug', params => '$params')"), issued => $issued };
	$cluster->store($connected{$slug}{id}, \%stored);
	return;
}

sub refresh
{
	my ($slug) = @_;
	return $cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$connected{$slug}{id}')");
}

sub field
{
	my ($slug, $field) = @_;
	return $cluster->sql("SELECT $field FROM conduit_get_connection('alice', '$connected{$slug}{id}')");
}

# What the provider saw last: "POST json basic:id:secret x-a=1 | name=value ...",
# where tokens are RT and AT.
sub seen
{
	my ($slug, $path, @headers) = @_;
	my ($request) = reverse $provider->log($path // "/token/$slug");
	return 'nothing' unless $request;
	my $type = $request->{headers}{'content-type'} // '';
	my %auth = %{ $request->{auth} };
	my %params = %{ $request->{params} };
	my $text = join ' ', $request->{method},
	  $request->{raw_body} eq '' ? 'empty' : $type =~ /json/ ? 'json' : $type =~ /urlencoded/ ? 'form' : "[$type]",
	  join(':', $auth{method}, grep { defined } @auth{qw(client_id client_secret)}),
	  (map { "$_=" . ($request->{headers}{$_} // '') } @headers),
	  '|', map { "$_=$params{$_}" } sort keys %params;
	$text =~ s/\Q$connected{$slug}{issued}{refresh_token}\E/RT/g;
	$text =~ s/\Q$connected{$slug}{issued}{access_token}\E/AT/g;
	return $text;
}

my $id_and_secret = "$client_id:$client_secret";
my $in_body = "client_id=$client_id client_secret=$client_secret grant_type=refresh_token refresh_token=RT";
my %answer = (json => { access_token => 'fresh-SECRET-token', expires_in => 3600 });
my @cases = (
	{ name => 'post', definition => { client_auth => 'post' }, demand => [ $client_id, $client_secret, 'post' ],
		seen => "POST form post:$id_and_secret | $in_body" },
	{ name => 'basic', definition => { client_auth => 'basic' }, demand => [ $client_id, $client_secret, 'basic' ],
		seen => "POST form basic:$id_and_secret | grant_type=refresh_token refresh_token=RT" },
	{ name => 'none', definition => { client_auth => 'none' }, secret => undef, demand => [ $client_id, undef, 'none' ],
		seen => "POST form none:$client_id | client_id=$client_id grant_type=refresh_token refresh_token=RT" },
	{ name => 'user', definition => { client_auth => 'secret_as_user' }, demand => [ $client_secret =~ s/\+/ /r, '', 'basic' ],
		seen => 'POST form basic:' . ($client_secret =~ s/\+/ /r) . ': | grant_type=refresh_token refresh_token=RT' },
	{ name => 'rs256', definition => { client_auth => 'private_key_jwt' }, secret => $keys{RS256}[0], demand => [ $client_id, undef, 'assertion', public_key => $keys{RS256}[1] ],
		like => qr/^POST form assertion:the client \| client_assertion=[\w.-]+ client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer client_id=the client grant_type=refresh_token refresh_token=RT$/ },
	{ name => 'es256', definition => { client_auth => 'private_key_jwt', signing_algorithm => 'ES256', body_format => 'json' }, secret => $keys{ES256}[0],
		demand => [ $client_id, undef, 'assertion', public_key => $keys{ES256}[1] ], like => qr/^POST json assertion:/ },
	{ name => 'eddsa', definition => { client_auth => 'private_key_jwt', signing_algorithm => 'EdDSA', client_assertion_issuer => 'app.example', client_assertion_audience => 'https://{place}.example' },
		params => { place => { pattern => '^[a-z]+$' } }, values => { place => 'there' }, secret => $keys{EdDSA}[0],
		demand => [ $client_id, undef, 'assertion', public_key => $keys{EdDSA}[1], issuer => 'app.example', audience => 'https://there.example' ], like => qr/^POST form assertion:/ },
	{ name => 'json', definition => { body_format => 'json' }, seen => "POST json post:$id_and_secret | $in_body" },
	{ name => 'query', definition => { body_format => 'query' }, seen => "POST empty post:$id_and_secret | $in_body" },
	{ name => 'get', definition => { refresh_body_format => 'query', refresh_method => 'GET' }, seen => "GET empty post:$id_and_secret | $in_body" },
	{ name => 'getmore', definition => { body_format => 'query', token_method => 'GET', refresh_method => 'GET', token_url => $provider->url . '/token/getmore?v=2' },
		seen => "GET empty post:$id_and_secret | $in_body v=2" },
	{ name => 'renamed', definition => { token_param_names => { client_id => 'key', client_secret => 'k', refresh_token => 'again', grant_type => undef } }, step => {%answer},
		seen => "POST form none | again=RT k=$client_secret key=$client_id" },
	{ name => 'extras', definition => { extra_refresh_params => { expires_in => '1800', place => 'of {place}' }, refresh_grant_type => 'refresh_token', extra_token_params => 'a=1' },
		params => { place => { pattern => '^[a-z&]+$' } }, values => { place => 'a&b' }, seen => "POST form post:$id_and_secret | a=1 client_id=$client_id client_secret=$client_secret expires_in=1800 grant_type=refresh_token place=of a&b refresh_token=RT" },
	{ name => 'headers', definition => { token_headers => { 'X-Client' => '{client_id}/{client_secret}', 'X-Place' => '{place}' }, client_auth => 'none' },
		params => { place => { pattern => '^[a-z]+$', default => 'home' } }, headers => [qw(accept x-client x-place)],
		seen => "POST form none:$client_id accept=application/json x-client=$client_id/$client_secret x-place=home | client_id=$client_id grant_type=refresh_token refresh_token=RT" },
	{ name => 'scope', definition => { refresh_sends_scope => $true }, seen => "POST form post:$id_and_secret | $in_body scope=read write" },
	{ name => 'access', definition => { refresh_credential => 'access_token', refresh_grant_type => 'ig_refresh_token', refresh_param_names => { refresh_token => 'access_token', client_id => undef, client_secret => undef },
			refresh_method => 'GET', refresh_body_format => 'query' }, stored => sub { return (access_token => $_[0]{access_token}, expires_in => 86400) }, step => {%answer},
		seen => 'GET empty none | access_token=AT grant_type=ig_refresh_token' },
	{ name => 'renew', definition => { auth_type => 'bearer_renew', token_url => $provider->url . '/renew/renew', access_token_lifetime_s => 3600, refresh_token_lifetime_s => 604800 },
		path => '/renew/renew', no_client => 1, stored => sub { return (accessToken => $_[0]{access_token}, refreshToken => $_[0]{refresh_token}) },
		headers => [qw(authorization)], seen => 'POST json none authorization=Bearer RT |' },
	{ name => 'renewid', definition => { auth_type => 'bearer_renew', token_url => $provider->url . '/renew/renewid', access_token_lifetime_s => 3600,
			token_headers => { clientid => '{client_id}', clientsecret => '{client_secret}' } },
		path => '/renew/renewid', headers => [qw(authorization clientid clientsecret)],
		seen => "POST json none authorization=Bearer RT clientid=$client_id clientsecret=$client_secret |" },
);

foreach my $case (@cases)
{
	my $slug = $case->{name};

	register($slug, %{ $case->{definition} }, $case->{params} ? (params => $case->{params}) : ());
	set_client($slug, exists $case->{secret} ? $case->{secret} : $client_secret) unless $case->{no_client};
	connect_account($slug, params => $case->{values}, stored => $case->{stored});
	$provider->client(@{ $case->{demand} // [] });
	$provider->script($case->{path} // "/token/$slug", [ $case->{step} ]) if $case->{step};

	is(refresh($slug), 't', "$slug: refreshed");
	my $seen = seen($slug, $case->{path}, @{ $case->{headers} // [] });
	if ($case->{like}) { like($seen, $case->{like}, "$slug: the request"); }
	else { is($seen, $case->{seen}, "$slug: the request"); }
	my $token = $cluster->sql("SELECT access_token FROM conduit_vend('alice', '$connected{$slug}{id}')");
	if ($case->{step}) { is($token, 'fresh-SECRET-token', "$slug: the new token is vended"); }
	else { like($token, qr/^$slug-SECRET-at-\d+-2-/, "$slug: the new token is vended"); }
	is(field($slug, q{status || ' ' || generation || ' ' || coalesce(last_error_code, '')}), 'ACTIVE 2 ', "$slug: all is well");
}
$provider->client;

# Each twice: what a refresh has brought is what the next one sends.
foreach my $slug (qw(basic rs256 get access renew))
{
	$provider->script("/token/$slug", [ { json => { access_token => 'newest-SECRET-token', expires_in => 3600 } } ]) if $slug eq 'access';
	is(refresh($slug), 't', "$slug: refreshed again");
	is(field($slug, 'generation'), '3', "$slug: one further");
}
is(seen('access'), 'GET empty none | access_token=fresh-SECRET-token grant_type=ig_refresh_token', 'the access token that came is the next credential');

# -- A key that is exchanged for another: both are tried, each is verified. --

{
	my @new = Conduit::Provider->make_key('RS256');

	set_client('rs256', $new[0]);
	$provider->client($client_id, undef, 'assertion', public_key => $keys{RS256}[1]);
	my $before = $provider->counts('/token/rs256')->{total};
	is(refresh('rs256'), 't', 'refused with the new key, the former one is tried');
	is($provider->counts('/token/rs256')->{total} - $before, 2, 'two requests');
	$provider->client($client_id, undef, 'assertion', public_key => $new[1]);
	$before = $provider->counts('/token/rs256')->{total};
	is(refresh('rs256'), 't', 'the provider has the new key, too');
	is($provider->counts('/token/rs256')->{total} - $before, 1, 'one request');
	$provider->client;
}

# -- A key that does not fit: our mistake, not the connection's end. --

{
	my $before = $provider->counts('/token/rs256')->{total};

	register('rs256', client_auth => 'private_key_jwt', signing_algorithm => 'ES256');
	is(refresh('rs256'), 'f', 'a key of another kind');
	is(field('rs256', q{status || ' ' || last_error || ' ' || last_error_code}), 'ACTIVE config bad_private_key', 'the connection stays');
	is($provider->counts('/token/rs256')->{total}, $before, 'nothing was sent');
	register('rs256', client_auth => 'private_key_jwt');
	is(refresh('rs256'), 't', 'and it goes on when the mistake is mended');
}

# -- A refused secret, whichever way it was sent, is never told. --

{
	my %requests = (post => "the $client_secret is wrong", basic => $client_secret, headers => "$client_secret!", renewid => "no $client_secret");

	foreach my $slug (sort keys %requests)
	{
		my $path = $slug eq 'renewid' ? '/renew/renewid' : "/token/$slug";
		$provider->script($path, [ { status => 400, json => { error => $requests{$slug} } } ]);
		is(refresh($slug), 'f', "$slug: an error that quotes the secret");
		is(field($slug, 'last_error_code'), 'http_400', "$slug: nor is it kept");
	}
}

is($provider->counts('/token/get')->{reuse} + $provider->counts('/renew/renew')->{reuse}, 0, 'no refresh token was sent twice');
{
	my $log = slurp_file($cluster->node->logfile, $offset);
	unlike($log, qr/SECRET/, 'no secret in the log');
	unlike($log, qr/BEGIN (?:EC |RSA )?PRIVATE KEY/, 'no key either');
	unlike($log, qr/TRAP|PANIC|terminated by signal/, 'nothing crashed');
}

$cluster->stop;
done_testing();
