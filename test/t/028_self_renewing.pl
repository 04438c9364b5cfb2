# Credentials that renew themselves: by client credentials, by signed JWTs, by
# the refresh token as bearer. Minted when somebody first wants a token, renewed
# ahead of time from then on, and dead when the provider proves it. And when
# tokens are renewed for other reasons than their expiry.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main', settings => "log_statement = none\n");
my $json = JSON::PP->new->canonical;
my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my ($key, $public_key) = Conduit::Provider->make_key('RS256');
my $oidc = Conduit::Provider->start('oidc', access_ttl => 600, client_public_key => $public_key);
my ($other_key, $other_public_key) = Conduit::Provider->make_key('RS256');
my $now = 0;

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

sub register
{
	my ($slug, %definition) = @_;
	my $text = $json->encode({ token_url => $provider->url . "/token/$slug", %definition });
	$cluster->sql("SELECT conduit_register_connector('$slug', \$json\$$text\$json\$)");
	return;
}

sub connect_account
{
	my ($slug, $secret, %params) = @_;
	my $params = $json->encode(\%params);
	my $id = $cluster->sql("SELECT conduit_create_connection('alice', '$slug', params => '$params')");
	$cluster->store($id, $secret) if defined $secret;
	return $id;
}

# How a secret is refused, in short.
sub refusal
{
	my ($slug, $secret) = @_;
	my $id = connect_account($slug);
	my $text = ref $secret ? $json->encode($secret) : $secret;
	my $error = $cluster->error("SELECT conduit_store_credential('$id', NULL, \$json\$$text\$json\$)");
	return $error =~ s/\|[^|]*$//r;
}

sub column
{
	my ($id, $expression) = @_;
	return $cluster->sql("SELECT $expression FROM conduit_get_connection('alice', '$id')");
}

sub stored
{
	my ($id, $expression) = @_;
	return $cluster->sql("SELECT $expression FROM conduit.credential WHERE connection_id = '$id'");
}

sub wait_for_generation
{
	my ($id, $generation) = @_;
	return $cluster->poll("SELECT generation = $generation FROM conduit.credential WHERE connection_id = '$id'");
}

sub requests { return $provider->counts($_[0])->{total}; }

sub last_request { return ($provider->log($_[0]))[-1]; }

# An access token by SQL, or "ERROR ..." in short.
sub vend
{
	my ($id, $more) = @_;
	return $cluster->vend('alice', $id, $more);
}

# ---- client credentials, with a client of the connection's own ----
{
	register('post', auth_type => 'oauth2_client_credentials');
	$provider->client('own-id', 'own-SECRET', 'post');
	my $id = connect_account('post', { clientId => 'own-id', clientSecret => 'own-SECRET', scope => [ 'read', 'write' ] });

	is(column($id, 'has_credential, refreshable, expires_at IS NULL, refresh_at IS NULL, generation'), 't|t|t|t|1', 'a client is stored');
	is(stored($id, 'kind, own_client, access IS NULL, refresh IS NOT NULL'), 'CLIENT|own-id|t|t', 'as what tokens are minted with');
	is($cluster->sql('SELECT conduit_refresh_due()'), 0, 'nothing is due for that');

	my @callers = map { $cluster->wire('conduit.vend_timeout' => '1min') } 1 .. 20;
	$_->send(Conduit::Cluster::vend_query('alice', $id)) foreach @callers;
	my %tokens = map { Conduit::Cluster::vend_text($_->receive) => 1 } @callers;
	is(join(' ', keys %tokens), 'at-1-1', 'twenty who want a token at once get the same one');
	is(requests('/token/post'), 1, 'of one request');
	is_deeply(last_request('/token/post')->{params}, { grant_type => 'client_credentials', client_id => 'own-id', client_secret => 'own-SECRET', scope => 'read write' },
		'which is that of client credentials');
	is(column($id, "generation, scopes, refresh_at BETWEEN expires_at - interval '6 min' AND expires_at - interval '5 min'"), '2|{read,write}|t', 'it is renewed ahead from now on');
	is(column($id, 'refreshable, status'), 't|ACTIVE', 'with what it was minted with');
	like(vend($id, "scopes => ARRAY['read']"), qr/^at-1-1$/, 'it has the scope that was granted');

	advance(3400);
	ok(wait_for_generation($id, 3), 'before it expires there is a new one, unasked');
	is(vend($id), 'at-2-1', 'which is vended');
	is(requests('/token/post'), 2, 'at one request each');

	# who grants what was asked for need not say so
	$provider->script('/token/post', [ { rotate => $true, omit => ['scope'] } ]);
	$cluster->store($id, { client_id => 'own-id', client_secret => 'own-SECRET', scope => 'read' });
	is(column($id, 'generation, expires_at IS NULL'), '4|t', 'another scope is stored');
	is(vend($id, 'min_ttl => NULL'), 'at-3-1', 'and its token minted when it is wanted');
	is(column($id, 'scopes'), '{read}', 'a reply without scope grants what was asked for');
	is(vend($id, "scopes => ARRAY['write']"), 'ERROR PT409 scope', 'and no more');

	# an outage proves nothing, a refused client of its own everything
	$provider->script('/token/post', [ { status => 503 } ]);
	$cluster->sql("SELECT conduit_refresh('alice', '$id')");
	is(column($id, 'status, last_error'), 'ACTIVE|transient', 'an outage is no proof');
	is(stored($id, 'in_doubt'), 'f', 'and leaves nothing in doubt');
	$provider->script('/token/post', [ { close => 'after_read' } ]);
	$cluster->sql("SELECT conduit_refresh('alice', '$id')");
	is(stored($id, 'status, last_error, in_doubt'), 'ACTIVE|unknown|f', 'nor does an answer that never came');
	$provider->client('own-id', 'another-SECRET', 'post');
	like($cluster->error("SELECT conduit_refresh('alice', '$id')"), qr/^PT409\|/, 'a client that is refused needs a person');
	is(column($id, 'status, status_reason'), 'NEEDS_REAUTH|invalid_client', 'for what is stored is dead');
	is(vend($id), 'ERROR PT409 needs_reauth', 'nothing is vended');
	$cluster->store($id, { client_id => 'own-id', client_secret => 'another-SECRET' });
	is(vend($id), 'at-4-1', 'until another secret is stored');
	is(last_request('/token/post')->{params}{scope}, undef, 'for no scope in particular');
	is(column($id, 'status, status_reason IS NULL'), 'ACTIVE|t', 'which makes it well again');
	$provider->client(undef, undef);
}

# ---- a first token that is not to be had ----
{
	my $id = connect_account('post', { client_id => 'first', client_secret => 'x' });

	$provider->script('/token/post', [ { status => 500 } ]);
	is(vend($id), 'ERROR PT502 http_500', 'the first token cannot be minted');
	is(stored($id, 'refresh_at IS NULL, next_attempt_at IS NOT NULL, attempts'), 't|t|1', 'which is not tried again for nobody');
	my $before = requests('/token/post');
	is(vend($id), 'ERROR PT502 http_500', 'nor for anybody, at once');
	is(requests('/token/post'), $before, 'without a request');
	advance(60);
	is(vend($id), 'at-5-1', 'but for who comes later');
}

# ---- how a client of one's own is shown ----
{
	register('basic', auth_type => 'oauth2_client_credentials', client_auth => 'basic', default_scopes => [ 'a', 'b' ], scope_separator => ',');
	$provider->client('own id', 'own:SECRET', 'basic');
	my $id = connect_account('basic', { client_id => 'own id', client_secret => 'own:SECRET' });
	is(vend($id), 'at-6-1', 'as Basic');
	is(last_request('/token/basic')->{params}{scope}, 'a,b', 'the scopes are the connector\'s, where no others are wanted');

	register('signed', auth_type => 'oauth2_client_credentials', client_auth => 'private_key_jwt');
	$provider->client('signer', undef, undef, public_key => $public_key);
	is(vend(connect_account('signed', { client_id => 'signer', client_secret => $key })), 'at-7-1', 'by a key');
	is(refusal('signed', { client_id => 'signer', client_secret => 'no key' }), '22023|invalid secret|bad_private_key', 'which has to be one');
	$provider->client(undef, undef);
}

# ---- by the connector's client ----
{
	register('common', auth_type => 'oauth2_client_credentials');
	my $id = connect_account('common', {});

	is(stored($id, 'own_client IS NULL'), 't', 'a credential without a client of its own');
	is(vend($id), 'ERROR PT500 client_missing', 'can mint nothing before there is one');
	$cluster->sql(q{SELECT conduit_set_client('common', 'first-client', 'first-SECRET')});
	is(vend($id), 'at-8-1', 'and does at once when there is');
	is(last_request('/token/common')->{params}{client_id}, 'first-client', 'by that client');

	$provider->client('first-client', 'other-SECRET', 'post');
	$cluster->sql("SELECT conduit_refresh('alice', '$id')");
	is(column($id, 'status, last_error, last_error_code'), 'ACTIVE|config|invalid_client', 'a refused client of the connector is no proof about a connection');
	$cluster->sql(q{SELECT conduit_set_client('common', 'second-client', 'second-SECRET')});
	$provider->client('second-client', 'second-SECRET', 'post');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'it is minted by the client of today');
	is($cluster->sql(q{SELECT conduit_retire_client('common', 'first-client')}), '', 'which nothing keeps from being replaced');
	is($cluster->sql("SELECT client_id IS NULL FROM conduit.connection WHERE id = '$id'"), 't', 'for no connection depends on it');
	isnt($cluster->sql(q{SELECT last_success_at FROM conduit_clients() WHERE client_id = 'second-client'}), '', 'its successes are noted');

	my $imported = $cluster->sql(q{SELECT connection_id FROM conduit_import('common', '[{"owner": "alice", "account": "imported", "secret": {}}]')});
	like(vend($imported), qr/^at-\d+-1$/, 'one that is imported is minted in the same way');
	is($cluster->sql("SELECT client_id IS NULL FROM conduit.connection WHERE id = '$imported'"), 't', 'and depends on no client either');
	is($cluster->sql(q{SELECT error FROM conduit_import('common', '[{"owner": "alice", "account": "x", "client_id": "second-client", "secret": {}}]')}), 'client_id unexpected', 'none is to be named');
	$provider->client(undef, undef);
}

# ---- npm's oidc-provider ----
{
	my $info = $oidc->info;
	register('oidc-cc', auth_type => 'oauth2_client_credentials', token_url => $info->{token_endpoint}, client_auth => 'basic');
	my $id = connect_account('oidc-cc', { client_id => $info->{client_id}, client_secret => $info->{client_secret} });

	like($cluster->sql("SELECT access_token FROM conduit_vend('alice', '$id')"), qr/^.{20,}$/, 'an independent server mints as well');
	is($oidc->counts->{by_grant_type}{client_credentials}, 1, 'by client credentials');
	is(column($id, "expires_at - last_refreshed_at BETWEEN interval '595 s' AND interval '605 s'"), 't', 'for ten minutes');
	advance(320);
	ok(wait_for_generation($id, 3), 'and again ahead of time');
	my $wrong = connect_account('oidc-cc', { client_id => $info->{client_id}, client_secret => 'wrong' });
	like($cluster->error("SELECT conduit_vend('alice', '$wrong')"), qr/^PT409\|/, 'a wrong secret is found out');
	is(column($wrong, 'status_reason'), 'invalid_client', 'for what it is');

	register('oidc-signed', auth_type => 'oauth2_client_credentials', token_url => $info->{token_endpoint}, client_auth => 'private_key_jwt');
	$id = connect_account('oidc-signed', { client_id => 'conduit-demo-signed', client_secret => $key });
	like($cluster->sql("SELECT access_token FROM conduit_vend('alice', '$id')"), qr/^.{20,}$/, 'and takes our signature (private_key_jwt)');
	$id = connect_account('oidc-signed', { client_id => 'conduit-demo-signed', client_secret => $other_key });
	like($cluster->error("SELECT conduit_vend('alice', '$id')"), qr/^PT409\|/, 'but no other key\'s');
}

# ---- JWT bearer: a service account ----
{
	my $account = 'robot@project.example.com';
	my %file = (
		type => 'service_account', project_id => 'project', private_key_id => 'key-1', private_key => $key, client_email => $account,
		client_id => '1234567890', auth_uri => 'https://a.example', token_uri => 'https://t.example',
		auth_provider_x509_cert_url => 'https://c.example', client_x509_cert_url => 'https://d.example', universe_domain => 'example.com');

	register('robot', auth_type => 'jwt_bearer', jwt_scope_claim => $true, jwt_lifetime_s => 3600);
	$provider->granter(public_key => $public_key, issuer => $account);
	my $id = connect_account('robot', { %file, scope => 'https://scope.example/one two', subject => 'user@example.com' });

	is(stored($id, 'kind, own_client IS NULL, access IS NULL'), 'JWT|t|t', 'the key file of a service account is stored as it is');
	like(vend($id), qr/^at-\d+-1$/, 'and mints a token');
	my $params = last_request('/token/robot')->{params};
	is_deeply([ sort keys %$params ], [ 'assertion', 'grant_type' ], 'by an assertion alone');
	my $jwt = $provider->verify($params->{assertion}, $public_key);
	is_deeply($jwt->{header}, { alg => 'RS256', typ => 'JWT', kid => 'key-1' }, 'signed by its key');
	is_deeply({ map { $_ => $jwt->{claims}{$_} } qw(iss sub aud scope) },
		{ iss => $account, sub => 'user@example.com', aud => $provider->url . '/token/robot', scope => 'https://scope.example/one two' }, 'for all that was said');
	is(column($id, 'generation, refreshable, refresh_at < expires_at'), '2|t|t', 'it is renewed like the rest');
	advance(3400);
	ok(wait_for_generation($id, 3), 'ahead of time');

	# what the provider says of the assertion
	$provider->script('/token/robot', [ { status => 400, json => { error => 'invalid_grant', error_description => 'Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.' } } ]);
	$cluster->sql("SELECT conduit_refresh('alice', '$id')");
	is(column($id, 'status, last_error'), 'ACTIVE|config', 'a clock that is wrong is no proof');
	$provider->granter(public_key => $other_public_key, issuer => $account);
	like($cluster->error("SELECT conduit_refresh('alice', '$id')"), qr/^PT409\|/, 'an assertion that is refused is');
	is(column($id, 'status, status_reason'), 'NEEDS_REAUTH|invalid_grant', 'the key is dead');
	$cluster->store($id, { %file, private_key => $other_key });
	like(vend($id), qr/^at-\d+-1$/, 'another one brings it back');

	is(refusal('robot', { %file, type => 'else' }), '22023|invalid secret|unknown_key', 'keys that only such files have are unknown elsewhere');
	is(refusal('robot', { private_key => $key }), '22023|invalid secret|incomplete', 'an issuer is needed');
	is(refusal('robot', { issuer => 'me' }), '22023|invalid secret|incomplete', 'and a key');
	is(refusal('robot', { issuer => 'me', private_key => 'x' }), '22023|invalid secret|bad_private_key', 'that is one');
	is(refusal('robot', { issuer => 'me', private_key => $key, client_email => 'me' }), '22023|invalid secret|bad_value', 'an issuer is named once');
	is(refusal('robot', { issuer => "me\n", private_key => $key }), '22023|invalid secret|bad_value', 'without control characters');
	is(refusal('robot', { issuer => 'me', private_key => $key, access_token => 'x' }), '22023|invalid secret|unknown_key', 'no token is stored beside it');
	is(refusal('robot', { issuer => 'me', private_key => $key, scope => [ 'a b' ] }), '22023|invalid secret|bad_value', 'a scope is one word');
	is(refusal('post', { client_id => 'x' }), '22023|invalid secret|incomplete', 'a client has a secret');
	is(refusal('post', { client_secret => 'x' }), '22023|invalid secret|incomplete', 'and an id');
	is(refusal('post', { client_id => "\x{e9}", client_secret => 'x' }), '22023|invalid secret|bad_value', 'of ASCII');
	is(refusal('post', { client_id => 'x', client_secret => "a\nb" }), '22023|invalid secret|bad_value', 'in one line');
	is(refusal('post', { client_id => 'x', client_secret => 'y', expires_at => 1 }), '22023|invalid secret|unknown_key', 'and does not expire');
	$provider->granter;
}

# ---- JWT bearer: an app's installations ----
{
	register('installation', auth_type => 'jwt_bearer', jwt_in => 'authorization', jwt_lifetime_s => 540,
		token_url => $provider->url . '/installations/{installation_id}/access_tokens', access_token_path => 'token',
		expires_path => 'expires_at', expires_kind => 'at', params => { installation_id => { pattern => '^[0-9]{1,20}$' } });
	$cluster->set_clock(0);
	$provider->granter(public_key => $public_key, issuer => '4711');
	my $one = connect_account('installation', { app_id => 4711, private_key => $key }, installation_id => '1');
	my $two = connect_account('installation', { app_id => '4711', private_key => $key }, installation_id => '2');

	like(vend($one), qr/^at-\d+-1$/, 'an installation\'s token');
	my $request = last_request('/installations/1/access_tokens');
	is($request->{raw_body}, '', 'is asked for without a body');
	like($request->{headers}{authorization}, qr/^Bearer ey/, 'with a JWT in the header');
	is(column($one, "expires_at - last_refreshed_at BETWEEN interval '59 min' AND interval '61 min'"), 't', 'it expires when the answer says');
	like(vend($two), qr/^at-\d+-1$/, 'and each installation has its own');
	is(requests('/installations/2/access_tokens'), 1, 'of its own address');
	$cluster->set_clock($now);
	$provider->granter;
}

# ---- deleted while a token is minted ----
{
	register('leaving', auth_type => 'jwt_bearer', revoke_url => $provider->url . '/revoke');
	my $id = connect_account('leaving', { issuer => 'me', private_key => $key });
	my $caller = $cluster->wire('conduit.vend_timeout' => '1min');

	$provider->script('/token/leaving', [ { rotate => $true, hang => $true } ]);
	$caller->send(Conduit::Cluster::vend_query('alice', $id));
	$provider->wait_for('/token/leaving', 'hanging', 1);
	$cluster->sql("SELECT conduit_delete_connection('alice', '$id')");
	$provider->release;
	is(Conduit::Cluster::vend_text($caller->receive), 'ERROR PT404', 'a connection is deleted while its token is minted');
	is($cluster->sql("SELECT count(*) FROM conduit.revocation WHERE connection_id = '$id'"), 0, 'its key is kept nowhere');
}

# ---- the refresh token as bearer token ----
{
	register('platform', auth_type => 'bearer_renew', token_url => $provider->url . '/renew/platform', refresh_token_lifetime_s => 604800,
		access_token_lifetime_s => 3600, dead_statuses => [ 400, 403 ], token_headers => { clientid => '{client_id}', clientsecret => '{client_secret}' });
	$cluster->sql(q{SELECT conduit_set_client('platform', 'platform-id', 'platform-SECRET')});
	my ($issued) = $provider->issue(1);
	my $id = connect_account('platform', { accessToken => $issued->{access_token}, refreshToken => $issued->{refresh_token} });

	is(stored($id, 'kind'), 'OAUTH2', 'tokens of a platform that is no OAuth server');
	is($cluster->sql("SELECT client_id FROM conduit.connection WHERE id = '$id'"), 'platform-id', 'are bound to their client');
	advance(3400);
	ok(wait_for_generation($id, 2), 'they are renewed ahead of time');
	my $request = last_request('/renew/platform');
	is("$request->{method} $request->{raw_body} $request->{headers}{authorization}", "POST {} Bearer $issued->{refresh_token}", 'by the refresh token in the header and nothing else');
	is("$request->{headers}{clientid} $request->{headers}{clientsecret}", 'platform-id platform-SECRET', 'but who asks');
	is(column($id, "round(extract(epoch FROM expires_at - last_refreshed_at))"), 3600, 'they live as long as the connector says');
	is(stored($id, "round(extract(epoch FROM refresh_expires_at - refreshed_at))"), 604800, 'also that which renews');
	my ($new) = $provider->tokens(refresh_token => $issued->{refresh_token});
	$provider->revoke(refresh_token => $new->{refresh_token});
	like($cluster->error("SELECT conduit_refresh('alice', '$id')"), qr/^PT409\|/, 'a refusal that OAuth does not know');
	is(column($id, 'status_reason'), 'invalid_refresh_token', 'is understood');
}

# ---- refresh tokens that die of idleness are kept alive ----
{
	my %code = (auth_type => 'oauth2_code', authorize_url => 'https://provider.example.com/authorize');
	my $stay = sub { my ($slug) = @_; $cluster->sql("SELECT conduit_set_client('$slug', 'cid', 'SECRET')"); };
	my $at = sub { my ($id) = @_; return stored($id, "round(extract(epoch FROM refresh_at - COALESCE(refreshed_at, issued_at)))"); };

	register('idle', %code, refresh_idle_limit_s => 864000);
	$stay->('idle');
	my ($grant) = $provider->issue(1, expires_in => 3600);
	my $endless = connect_account('idle', { access_token => $grant->{access_token}, refresh_token => $grant->{refresh_token} });
	is(stored($endless, 'expires_at IS NULL, due_at IS NULL'), 't|t', 'an access token that does not expire');
	ok($at->($endless) >= 864000 * 0.72 && $at->($endless) <= 864000 * 0.75, 'is refreshed for its refresh token\'s sake');
	($grant) = $provider->issue(1, expires_in => 3600);
	my $short = connect_account('idle', $grant);
	is(stored($short, 'refresh_at = due_at'), 't', 'one that expires sooner, when it is due');
	($grant) = $provider->issue(1, expires_in => 8640000);
	my $long = connect_account('idle', $grant);
	ok($at->($long) >= 864000 * 0.72 && $at->($long) <= 864000 * 0.75, 'one that expires later, for its refresh token');
	is(stored($long, 'due_at > refresh_at'), 't', 'though readers need not wait for that');
	is(vend($long) =~ s/^at-\d+-//r, '1', 'nor do they');

	$provider->script('/token/idle', [ { rotate => $true, omit => ['expires_in'] } ], repeat_last => $true);
	advance(864000 * 0.75);
	ok(wait_for_generation($endless, 2), 'the time comes');
	ok(wait_for_generation($long, 2), 'for both');
	ok($at->($endless) >= 864000 * 0.72 && $at->($endless) <= 864000 * 0.75, 'and again as long after that');
	is($provider->counts('/token/idle')->{reuse}, 0, 'each refresh token was used once');

	# what the provider says goes before what the connector says
	($grant) = $provider->issue(1);
	my $said = connect_account('idle', { access_token => $grant->{access_token}, refresh_token => $grant->{refresh_token}, refresh_token_expires_in => 1000 });
	ok($at->($said) >= 720 && $at->($said) <= 750, 'a lifetime that was stated');

	# also where nobody uses it and nothing else is refreshed ahead
	($grant) = $provider->issue(1, expires_in => 3600);
	my $unused = connect_account('idle', $grant);
	$cluster->setting('conduit.refresh_idle', '1d');
	advance(86400 * 3);
	ok($cluster->poll("SELECT refresh_at > due_at FROM conduit.credential WHERE connection_id = '$unused'"), 'a connection that nobody uses is put off');
	ok($at->($unused) >= 864000 * 0.72 && $at->($unused) <= 864000 * 0.75, 'until its refresh token has to be kept alive');
	is(stored($unused, 'generation'), 1, 'not refreshed');
	advance(864000 * 0.75 - 86400 * 3);
	ok(wait_for_generation($unused, 2), 'which it then is');
	$cluster->setting('conduit.refresh_idle', '0');
}

# ---- how early ----
{
	my %code = (auth_type => 'oauth2_code', authorize_url => 'https://provider.example.com/authorize', refresh_kills_access_token => $true);
	my $lead = sub { my ($slug) = @_; return stored(connect_account($slug, ($provider->issue(1, expires_in => 28800))[0]), 'round(extract(epoch FROM expires_at - due_at))'); };

	register('killing', %code);
	my $seconds = $lead->('killing');
	ok($seconds >= 60 && $seconds <= 66, 'a token that its successor kills is used to the end');
	register('killing-said', %code, refresh_lead_s => 1200);
	$seconds = $lead->('killing-said');
	ok($seconds >= 1200 && $seconds <= 1320, 'unless the connector says how early');
}

# ---- an answer that got lost, where a consumed token is good for a while ----
{
	my %code = (auth_type => 'oauth2_code', authorize_url => 'https://provider.example.com/authorize');
	my %wait;

	foreach my $slug (qw(window no-window))
	{
		register($slug, %code, $slug eq 'window' ? (reuse_window_s => 20) : ());
		$cluster->sql("SELECT conduit_set_client('$slug', 'cid', 'SECRET')");
		$provider->script("/token/$slug", [ { close => 'after_read' }, { close => 'after_read' } ]);
		my $id = connect_account($slug, ($provider->issue(1))[0]);
		$cluster->sql("SELECT conduit_refresh('alice', '$id')");
		is(stored($id, 'in_doubt, last_error'), 't|unknown', "$slug: in doubt");
		$wait{$slug} = sub { return stored($id, 'extract(epoch FROM next_attempt_at - last_error_at)'); };
	}
	cmp_ok($wait{window}->(), '<=', 10.5, 'it is asked for again within half of the window');
	cmp_ok($wait{'no-window'}->(), '>=', 23.5, 'where there is none, not so soon');
	advance(11);
	ok($cluster->poll(q{SELECT attempts = 2 FROM conduit.credential WHERE connector = 'window'}), 'which is done');
	cmp_ok($wait{window}->(), '>=', 45, 'once: then there is no hurry');
}

is($cluster->sql(q{SELECT count(*) FROM conduit.flight}), 0, 'no claim is left');
my $log = slurp_file($cluster->node->logfile);
unlike($log, qr/SECRET|BEGIN [A-Z ]*PRIVATE KEY/, 'no secret is in the log');
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'and nothing has crashed');

$cluster->stop;
done_testing();
