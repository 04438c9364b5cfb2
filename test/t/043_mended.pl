# Faults that reviews have found, each as it was shown to them.
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
my $attacker = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main');
my $node = $cluster->node;
my $keyring = slurp_file($cluster->keyring_file);
my $true = JSON::PP::true;

$cluster->connector('test', token_url => $provider->url . '/token');

sub connect_one
{
	my ($owner) = @_;
	my ($grant) = $provider->issue(1, expires_in => 3600);
	return $cluster->connection($owner, 'test', $grant);
}

sub refreshed
{
	my ($owner, $id) = @_;
	return $cluster->sql("SELECT refreshed FROM conduit_refresh('$owner', '$id')");
}

# ---- a new primary key, and a refresh before anybody has stored under it ----
{
	my $id = connect_one('rotation');

	$keyring = $keyring =~ s/^/*k2:@{[ Conduit::Cluster::new_key() ]}\n/r;
	$cluster->write_keyring($keyring);
	$cluster->reload;
	is(refreshed('rotation', $id), 't', 'a refresh is the first to seal under a new primary key');
	like($cluster->sql("SELECT access_token FROM conduit_vend('rotation', '$id')"), qr/^at-/, 'and its token is vended');
	is($cluster->sql("SELECT access IS NOT NULL AND refresh IS NOT NULL FROM conduit.credential WHERE connection_id = '$id'"), 't', 'nothing is lost');
}

# ---- the keyring goes while a reply is on its way ----
{
	my $id = connect_one('locked');

	$provider->script('/token', [ { rotate => $true, hang => $true } ]);
	$node->safe_psql('app', "SET conduit.vend_patience = '10ms'; SET conduit.vend_timeout = '10ms'; SELECT conduit_refresh('locked', '$id')");
	$provider->wait_for('/token', 'hanging', 1);
	$cluster->setting('conduit.keyring_file', '');
	ok($cluster->poll("SELECT vault <> 'open' FROM conduit_health()"), 'the vault is locked');
	$provider->release;
	$node->wait_for_log(qr/a refreshed token waits in memory to be sealed/);
	is($cluster->sql("SELECT generation FROM conduit.credential WHERE connection_id = '$id'"), '1', 'a token that cannot be sealed is not written');
	is($cluster->sql("SELECT count(*) FROM conduit.flight WHERE outcome IS NOT NULL"), '0', 'nor parked');
	$cluster->setting('conduit.keyring_file', $cluster->keyring_file);
	ok($cluster->poll("SELECT generation = 2 AND access IS NOT NULL AND refresh IS NOT NULL FROM conduit.credential WHERE connection_id = '$id'"), 'it is settled when the keyring is back');
	is(refreshed('locked', $id), 't', 'and the rotated refresh token is the one that is sent next');
}

# ---- bytes that are no UTF-8 in a form-encoded answer ----
{
	my $id = connect_one('bytes');

	$provider->script('/token', [ { body => 'access_token=a&refresh_token=r&scope=%ff%fe+x', headers => { 'content-type' => 'application/x-www-form-urlencoded' } } ]);
	$cluster->sql("SELECT refreshed FROM conduit_refresh('bytes', '$id')");
	is($cluster->sql("SELECT count(*) FROM conduit.credential WHERE scope IS NOT NULL AND length(convert_to(scope, 'UTF8')) <> octet_length(scope)"), '0', 'no text that is no text gets into a table');
	is($cluster->sql("SELECT generation, last_error FROM conduit.credential WHERE connection_id = '$id'"), '1|unknown', 'such an answer is none');
}

# ---- keys beyond tokens that grow with every answer ----
{
	my $id = connect_one('growing');

	for my $n (1 .. 20)
	{
		$provider->script('/token', [ { rotate => $true, field_overrides => { "extra_$n" => 'x' x 50000 } } ]);
		$cluster->sql("SELECT refreshed FROM conduit_refresh('growing', '$id')");
	}
	is($cluster->sql("SELECT generation, octet_length(access) < 300000 FROM conduit.credential WHERE connection_id = '$id'"), '21|t', 'they do not fill the row');
}

# ---- a secret does not follow a refresh_url to another host ----
{
	my $definition = sub {
		return JSON::PP->new->encode({ name => 'Moved', auth_type => 'oauth2_code', client_auth => 'post',
			authorize_url => 'https://provider.example.com/authorize', token_url => $provider->url . '/token', @_ });
	};
	$cluster->sql("SELECT conduit_register_connector('moved', \$j\$@{[ $definition->() ]}\$j\$)");
	$cluster->sql("SELECT conduit_set_client('moved', 'cid', 'the-secret-of-moved')");
	$cluster->sql("SELECT conduit_register_connector('moved', \$j\$@{[ $definition->(refresh_url => $attacker->url . '/token') ]}\$j\$)");
	my $id = $cluster->connection('moved', 'moved', '{"refresh_token": "dummy"}');
	ok($cluster->poll("SELECT last_error_code = 'cannot_open' FROM conduit.credential WHERE connection_id = '$id'"), 'the client secret does not open for another host');
	is($attacker->counts('/token')->{total} // 0, 0, 'which is sent nothing');
}

# ---- what is not allowed has no consequences for the worker ----
{
	my $pid = $cluster->worker_pid;

	$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN');
	$node->safe_psql('postgres', q{SET SESSION AUTHORIZATION nobody;
		DO $$ BEGIN EXECUTE 'ALTER DATABASE app SET conduit.refresh_enabled = off'; EXCEPTION WHEN OTHERS THEN NULL; END $$});
	my $id = connect_one('after');
	is(refreshed('after', $id), 't', 'refreshes go on');
	is($cluster->worker_pid, $pid, 'by the same worker');
}

# ---- a function of the same name gives no rights ----
{
	$cluster->sql(q{CREATE ROLE app_role LOGIN; SELECT conduit_grant('app_role', 'app'); GRANT CREATE ON SCHEMA public TO app_role});
	$cluster->sql('SET SESSION AUTHORIZATION app_role; CREATE FUNCTION public.conduit_vend(int) RETURNS int LANGUAGE sql AS $$SELECT 1$$');
	like($cluster->error('SET SESSION AUTHORIZATION app_role; SELECT count(*) FROM conduit_list_connections(NULL)'), qr/^42501\|/, 'an overload of conduit_vend does not let its owner see every connection');
	$cluster->sql('DROP FUNCTION public.conduit_vend(int)');
}

# ---- a write that fails, in a trigger of the administrator's, keeps no memory ----
{
	my $id = connect_one('trigger');

	$cluster->sql(<<'SQL');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'refused'; END$$;
CREATE TRIGGER refuse AFTER UPDATE ON conduit.credential FOR EACH ROW EXECUTE FUNCTION refuse();
SQL
	is($cluster->sql(<<"SQL"), '0', 'of twenty that were refused');
DO \$\$
BEGIN
	FOR i IN 1 .. 20 LOOP
		BEGIN
			PERFORM conduit_store_credential('$id', NULL, '{"access_token": "a"}');
			RAISE assert_failure;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
END \$\$;
SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'conduit direct writer';
SQL
	$cluster->sql('DROP TRIGGER refuse ON conduit.credential; DROP FUNCTION refuse()');
	is(refreshed('trigger', $id), 't', 'and nothing has changed');
}

# ---- one damaged row does not stop the rotation of keys ----
{
	my $id = connect_one('damaged');

	$cluster->write_keyring("*k3:@{[ Conduit::Cluster::new_key() ]}\n" . ($keyring =~ s/^\*//mr));
	$cluster->reload;
	$cluster->sql("UPDATE conduit.credential SET access = set_byte(access, 40, get_byte(access, 40) # 1) WHERE connection_id = '$id'");
	cmp_ok($cluster->sql('SELECT conduit_rewrap()'), '>', 3, 'the others are rewrapped');
	is($cluster->sql('SELECT conduit_rewrap()'), '0', 'until none is left that can be');
}

$cluster->stop;
done_testing();
