# A facade behind PostgREST behind PgBouncer, where each transaction may have
# another session: nothing of one request may be found by the next.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::PgBouncer;
use Conduit::PostgREST;
use Conduit::Token;
use Test::More;

my $cluster = Conduit::Cluster->new('main');
my $key = Conduit::Token->new;
$cluster->connector('acme', token_url => 'http://127.0.0.1:1/token');
$cluster->sql(qq{
	CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE authenticator LOGIN NOINHERIT; GRANT anon, authenticated TO authenticator;
	CREATE SCHEMA api; GRANT USAGE ON SCHEMA api TO anon, authenticated;
	CREATE FUNCTION api.plain() RETURNS text STABLE LANGUAGE sql AS 'SELECT current_user::text'; GRANT EXECUTE ON FUNCTION api.plain TO anon;
	SELECT conduit_expose('api'); SELECT conduit_set_jwt_key('api', '@{[ $key->jwk ]}')});
my %id = map { $_ => $cluster->connection($_, 'acme', { access_token => "token-of-$_", expires_in => 3600 }) } qw(alice bob);
my %api_key = map { $_ => $cluster->sql("SELECT api_key FROM conduit_create_api_key('$_', 'k', '{*}')") } qw(alice bob);

my $bouncer = Conduit::PgBouncer->start($cluster->node, 'app');
my $rest = Conduit::PostgREST->start($cluster->node, 'app', $bouncer->place, jwt_secret => $key->jwk);

foreach my $round (1 .. 3)
{
	foreach my $owner (qw(alice bob))
	{
		my $other = $owner eq 'alice' ? 'bob' : 'alice';
		my @backend = ('X-Conduit-Key' => $api_key{$owner});
		my @browser = $key->bearer(sub => $owner, role => 'authenticated');
		is($rest->post('conduit_vend', { connection_id => $id{$owner} }, @backend)->{json}{access_token}, "token-of-$owner", "$owner vends");
		is($rest->get('conduit_vend', { connection_id => $id{$owner} })->{status}, 401, 'and nobody after it');
		is($rest->post('conduit_vend', { connection_id => $id{$other} }, @backend)->{status}, 404, 'not what is another\'s');
		is($rest->get('conduit_get_connection', { connection_id => $id{$owner} }, @browser)->{json}{owner}, $owner, "$owner looks");
		is($rest->get('conduit_list_connections')->{status}, 401, 'and nobody after it');
		is($rest->post('conduit_vend', { connection_id => $id{$owner} }, @browser)->{status}, 403, 'a browser is no backend');
		is($rest->get('conduit_vend', { connection_id => $id{$owner} }, @backend)->{headers}{'cache-control'}, 'no-store', 'no cache keeps it');
		my $plain = $rest->get('plain');
		is_deeply([ $plain->{json}, $plain->{headers}{'cache-control'} ], [ 'anon', undef ], 'the next answer has neither its role nor its headers');
	}
}
is($cluster->sql(q{SELECT count(DISTINCT pid) FROM pg_stat_activity WHERE usename = 'authenticator'}), '1', 'all by one session');
$rest->stop;
$bouncer->stop;

# All that a facade does behind PostgREST, it does here as well.
subtest 'what 072_postgrest.pl tests' => sub {
	local $ENV{CONDUIT_TEST_PGBOUNCER} = 1;
	my $file = "$FindBin::RealBin/072_postgrest.pl";

	do $file or die $@ || "$file: $!";
};
done_testing();
