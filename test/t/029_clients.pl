# Clients: whose secret is taken, and where it goes and does not go any more
# when a connector's definition changes.
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
my $elsewhere = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main', settings => "log_statement = none\n");
my $json = JSON::PP->new->canonical;

sub register
{
	my ($slug, %fields) = @_;
	my $definition = $json->encode({ name => 'Clients', %fields });
	$cluster->sql("SELECT conduit_register_connector('$slug', \$j\$$definition\$j\$)");
	return;
}

# What the last attempt came to.
sub failure
{
	my ($id) = @_;
	return $cluster->sql("SELECT status, last_error, last_error_code FROM conduit.credential WHERE connection_id = '$id'");
}

# Whether it could be; the token at hand stays valid.
sub refreshed
{
	my ($id) = @_;
	return $cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')");
}

# Past all backoff; each time is later than the one before.
sub put_off { return $cluster->set_clock(10000 * ($_[0] + 1)); }

my %code = (auth_type => 'oauth2_code', authorize_url => 'https://provider.example.com/authorize', token_url => $provider->url . '/token');

# ---- keys ----
{
	my %key = map { $_ => (Conduit::Provider->make_key($_))[0] } qw(RS256 ES256 ES384 EdDSA rsa1024 secp256k1);
	$key{public} = (Conduit::Provider->make_key('RS256'))[1];
	$key{half} = substr($key{RS256}, 0, length($key{RS256}) / 2);
	$key{secret} = 'a client secret';
	my %fits = (RS256 => 'RS256', RS384 => 'RS256', RS512 => 'RS256', PS256 => 'RS256', ES256 => 'ES256', ES384 => 'ES384', EdDSA => 'EdDSA');
	foreach my $algorithm (sort keys %fits)
	{
		register('signing', %code, client_auth => 'private_key_jwt', signing_algorithm => $algorithm);
		foreach my $name (sort keys %key)
		{
			my $error = $cluster->error("SELECT conduit_set_client('signing', 'cid', \$k\$$key{$name}\$k\$)");
			if ($name eq $fits{$algorithm}) { is($error, '', "$algorithm: $name is taken"); }
			else { like($error, qr/^22023\|invalid client_secret\|private_key\|Give an? .*private key .*in PEM form, without a password\.$/, "$algorithm: $name is refused"); }
		}
	}
	is($cluster->error("SELECT conduit_set_client('signing', 'cid')") =~ s/\|[^|]*$//r, '22023|invalid client_secret|blank', 'there must be one');
	is($cluster->sql("SELECT count(*) FROM conduit_clients() WHERE connector = 'signing'"), 1, 'one client');
}

# ---- who takes a client ----
{
	my %token = (token_url => $provider->url . '/token');
	my @cases = (
		[ 'client credentials', { %token, auth_type => 'oauth2_client_credentials' }, '', 'invalid client_secret' ],
		[ 'client credentials without secret', { %token, auth_type => 'oauth2_client_credentials', client_auth => 'none' }, '', '' ],
		[ 'a JWT bearer grant', { %token, auth_type => 'jwt_bearer' }, 'connector takes no client', 'connector takes no client' ],
		[ 'a JWT bearer grant of a client', { %token, auth_type => 'jwt_bearer', client_auth => 'post' }, '', 'invalid client_secret' ],
		[ 'a renewal', { %token, auth_type => 'bearer_renew' }, 'connector takes no client', 'connector takes no client' ],
		[ 'a renewal with the client in headers', { %token, auth_type => 'bearer_renew', token_headers => { clientid => '{client_id}', clientsecret => '{client_secret}' } }, '', 'invalid client_secret' ],
		[ 'an API key', { auth_type => 'api_key' }, 'connector takes no client', 'connector takes no client' ],
		[ 'a password', { auth_type => 'basic' }, 'connector takes no client', 'connector takes no client' ],
	);
	foreach my $i (0 .. $#cases)
	{
		my ($name, $fields, $with, $without) = @{ $cases[$i] };
		register("kind-$i", %$fields);
		is((split /\|/, $cluster->error("SELECT conduit_set_client('kind-$i', 'cid', 'secret')"))[1] // '', $with, "$name, with a secret");
		is((split /\|/, $cluster->error("SELECT conduit_set_client('kind-$i', 'cid')"))[1] // '', $without, "$name, with none");
	}
}

# ---- a secret follows no endpoint to another origin ----

my $there = $elsewhere->url;
my @moves = (
	[ 'nothing', {}, {}, '' ],
	[ 'path', {}, { revoke_url => $provider->url . '/revoke/2', exchange_url => $provider->url . '/x', exchange_grant_type => 'x' }, '' ],
	[ 'exchange_url', { exchange_grant_type => 'x', exchange_url => $provider->url . '/exchange' }, { exchange_url => "$there/exchange" }, 'cannot_open' ],
	[ 'a new exchange_url', {}, { exchange_grant_type => 'x', exchange_url => "$there/exchange" }, 'cannot_open' ],
	[ 'revoke_url', {}, { revoke_url => "$there/revoke" }, 'cannot_open' ],
	[ 'revoke_url, by Basic', { revoke_auth => 'basic' }, { revoke_url => "$there/revoke" }, 'cannot_open' ],
	[ 'revoke_url, without the client', { revoke_auth => 'none' }, { revoke_url => "$there/revoke" }, '' ],
	[ 'revoke_url, by the token', { revoke_auth => 'token' }, { revoke_url => "$there/revoke" }, '' ],
	[ 'account_url', { account_path => 'id', account_url => $provider->url . '/me' }, { account_url => "$there/me" }, '' ],
	[ 'api_base_url', {}, { api_base_url => "$there/api" }, '' ],
	[ 'refresh_url', {}, { refresh_url => "$there/token" }, 'origin_changed' ],
	[ 'the pattern of a host', { revoke_url => 'https://{sub}.example.com/', params => { sub => { pattern => '^a$', default => 'a' } } },
		{ params => { sub => { pattern => '^.*$', default => 'a' } } }, 'cannot_open' ],
	[ 'the pattern of a path', { revoke_url => 'https://www.example.com/{sub}', params => { sub => { pattern => '^a$', default => 'a' } } },
		{ params => { sub => { pattern => '^.*$', default => 'a' } } }, '' ],
);
foreach my $i (0 .. $#moves)
{
	my ($name, $before, $after, $code) = @{ $moves[$i] };
	my %before = (%code, revoke_url => $provider->url . '/revoke', %$before);
	my ($grant) = $provider->issue(1, expires_in => 1000000);

	register("moved-$i", %before);
	$cluster->sql("SELECT conduit_set_client('moved-$i', 'cid', 'the-secret')");
	my $id = $cluster->connection('alice', "moved-$i", $grant);
	register("moved-$i", %before, %$after);
	is(refreshed($id), $code eq '' ? 't' : 'f', "$name: " . ($code eq '' ? 'refreshed' : 'not refreshed'));
	next if $code eq '';
	is(failure($id), "ACTIVE|config|$code", "$name: a fault of the definition");
	register("moved-$i", %before);
	put_off($i);
	is(refreshed($id), 't', "$name: put back, refreshed");
}
is($elsewhere->counts->{total} // 0, 0, 'nothing has gone elsewhere');

# ---- a private key is not sent where it has signed ----
{
	my ($key) = Conduit::Provider->make_key('RS256');
	my ($grant) = $provider->issue(1, expires_in => 1000000);

	register('key', %code, client_auth => 'private_key_jwt');
	$cluster->sql("SELECT conduit_set_client('key', 'cid', \$k\$$key\$k\$)");
	my $id = $cluster->connection('alice', 'key', $grant);
	is(refreshed($id), 't', 'signed, refreshed');
	my $before = $provider->counts('/token')->{total};
	my $n = @moves;
	foreach my $auth (qw(post basic secret_as_user))
	{
		register('key', %code, client_auth => $auth);
		put_off($n++);
		is(refreshed($id), 'f', "$auth: not refreshed");
		is(failure($id), 'ACTIVE|config|cannot_open', "$auth: the key does not open as a secret");
	}
	is($provider->counts('/token')->{total}, $before, 'nothing was sent');
	unlike($json->encode($provider->log), qr/PRIVATE KEY/, 'the key is in no request');
	register('key', %code, client_auth => 'private_key_jwt');
	put_off($n);
	is(refreshed($id), 't', 'signed again, refreshed again');
}

unlike(slurp_file($cluster->node->logfile), qr/PRIVATE KEY|a client secret/, 'no secret in the log');

done_testing();
