# What those try who have a tenant's rights, or a browser, and want more.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::PostgREST;
use Conduit::Token;
use JSON::PP ();
use MIME::Base64 qw(encode_base64url);
use Test::More;
use Time::HiRes qw(usleep);

my $json = JSON::PP->new->canonical;
my $cluster = Conduit::Cluster->new('main', settings => "conduit.claims_login_roles = 'authenticator'\n");
my $key = Conduit::Token->new;
my ($mine, $theirs) = qw(t_aaaaaaaaaaaa t_bbbbbbbbbbbb);

$cluster->sql('CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE authenticator LOGIN NOINHERIT; GRANT anon, authenticated TO authenticator; CREATE SCHEMA api; GRANT USAGE ON SCHEMA api TO anon, authenticated');
foreach my $tenant ($mine, $theirs)
{
	$cluster->sql(qq{CREATE ROLE ${tenant}_role; CREATE ROLE ${tenant}_ddl; GRANT ${tenant}_role TO authenticator;
		CREATE SCHEMA ${tenant}_api AUTHORIZATION ${tenant}_ddl; GRANT USAGE ON SCHEMA ${tenant}_api TO ${tenant}_role;
		SELECT conduit_expose('${tenant}_api'); SELECT conduit_set_jwt_key('${tenant}_api', '@{[ $key->jwk ]}')});
}
$cluster->connector('acme', token_url => 'http://127.0.0.1:1/token');
my %id = map { $_ => $cluster->sql("SELECT conduit_create_connection('victim', 'acme', tenant => '${_}_api')") } $mine, $theirs;
$cluster->sql("SELECT conduit_store_credential('$id{$theirs}', NULL, '{\"access_token\": \"the-treasure\"}', tenant => '${theirs}_api')");
my $their_key = $cluster->sql("SELECT api_key FROM conduit_create_api_key('victim', 'k', '{*}', tenant => '${theirs}_api')");
my $rest = Conduit::PostgREST->start($cluster->node, 'app', schemas => "api,${mine}_api,${theirs}_api", jwt_secret => $key->jwk);
my @me = ($key->bearer(sub => 'victim', role => "${mine}_role", tenant_id => 'a'), 'Content-Profile' => "${mine}_api", 'Accept-Profile' => "${mine}_api");

# ---- a tenant's own functions ----

# Runs statements in a function of the attacking tenant, as a request of its own.
sub attack
{
	my ($body, @headers) = @_;
	$cluster->sql(qq{SET ROLE ${mine}_ddl; DROP FUNCTION IF EXISTS ${mine}_api.attack; CREATE FUNCTION ${mine}_api.attack() RETURNS text LANGUAGE plpgsql AS \$f\$ DECLARE r text; BEGIN $body; RETURN r; END \$f\$;
		GRANT EXECUTE ON FUNCTION ${mine}_api.attack TO ${mine}_role; NOTIFY pgrst});
	my $answer;
	for (1 .. 100)
	{
		$answer = $rest->post('attack', {}, @me, @headers);
		# until PostgREST knows the function
		last unless ref $answer->{json} eq 'HASH' && ($answer->{json}{code} // '') eq 'PGRST202';
		usleep(100_000);
	}
	return $answer->{success} ? "SUCCESS $answer->{content}" : join(' ', @{ $answer->{json} }{qw(code message)});
}

my $get = "SELECT owner INTO r FROM ${theirs}_api.conduit_get_connection('$id{$theirs}')";
like(attack("SELECT owner INTO r FROM ${mine}_api.conduit_get_connection('$id{$mine}')"), qr/^SUCCESS "victim"/, 'what a tenant may do to itself');
like(attack($get), qr/^42501 /, 'another tenant\'s schema is closed');
is(attack("SET LOCAL ROLE ${theirs}_role; $get"), 'PT401 unauthorized', 'also to one who takes its role, with a token of the same key');
is(attack("SET LOCAL ROLE ${theirs}_role; PERFORM set_config('request.jwt.claims', '{\"sub\": \"victim\", \"role\": \"${theirs}_role\", \"tenant_id\": \"b\"}', true); $get"), 'PT401 unauthorized', 'and sets its claims');
is(attack("SET LOCAL ROLE ${theirs}_role; PERFORM set_config('request.headers', '{\"x-conduit-owner\": \"victim\"}', true); $get"), 'PT401 unauthorized', 'or names the owner');
my $none = join('.', (map { encode_base64url($json->encode($_)) } { alg => 'none' }, { sub => 'victim', role => "${theirs}_role", exp => time + 600 }), '');
is(attack("SET LOCAL ROLE ${theirs}_role; PERFORM set_config('request.headers', '{\"authorization\": \"Bearer $none\"}', true); $get"), 'PT401 unauthorized', 'or makes a token without a signature');
my $forged = Conduit::Token->new->sign({ sub => 'victim', role => "${theirs}_role" });
is(attack("SET LOCAL ROLE ${theirs}_role; PERFORM set_config('request.headers', '{\"authorization\": \"Bearer $forged\"}', true); $get"), 'PT401 unauthorized', 'or with one of its own');
is(attack("SET LOCAL ROLE ${theirs}_role; SELECT access_token INTO r FROM ${theirs}_api.conduit_vend('$id{$theirs}')"), 'PT401 unauthorized', 'nor is there a token to be had');
like(attack("SELECT owner INTO r FROM conduit.enter('${theirs}_api', 'vend', 'nobody', NULL, NULL)"), qr/^42501 /, 'the inside is closed');
like(attack("PERFORM public.conduit_vend('victim', '$id{$theirs}', tenant => '${theirs}_api')"), qr/^42501 /, 'and the functions outside of facades');

# ---- what a tenant puts in the way ----

$cluster->sql(qq{
	SET ROLE ${mine}_ddl; SET search_path = ${mine}_api;
	CREATE TABLE trap (who text); GRANT INSERT ON trap TO PUBLIC;
	CREATE FUNCTION spring(a text, b text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN INSERT INTO ${mine}_api.trap VALUES (current_user); RETURN true; END';
	CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = spring);
	CREATE OPERATOR <> (LEFTARG = text, RIGHTARG = text, FUNCTION = spring);
	CREATE FUNCTION set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS 'BEGIN INSERT INTO ${mine}_api.trap VALUES (current_user); RETURN NULL; END';
	CREATE FUNCTION format(text, VARIADIC pg_catalog.text[]) RETURNS text LANGUAGE plpgsql AS 'BEGIN INSERT INTO ${mine}_api.trap VALUES (current_user); RETURN NULL; END';
	CREATE FUNCTION "substring"(text, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN INSERT INTO ${mine}_api.trap VALUES (current_user); RETURN NULL; END';
	CREATE TYPE lure AS (x int);
	CREATE FUNCTION bite(lure) RETURNS pg_catalog.uuid LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''cast by %'', current_user; END';
	CREATE FUNCTION bite(pg_catalog.text) RETURNS lure LANGUAGE plpgsql AS 'BEGIN INSERT INTO ${mine}_api.trap VALUES (current_user); RETURN NULL; END';
	CREATE CAST (lure AS pg_catalog.uuid) WITH FUNCTION bite(lure) AS IMPLICIT;
	CREATE CAST (pg_catalog.text AS lure) WITH FUNCTION bite(pg_catalog.text) AS IMPLICIT;
	CREATE TYPE uuid AS (x int); CREATE DOMAIN record AS pg_catalog.text CHECK (${mine}_api.spring(VALUE, 'x'))});
is($rest->get('conduit_get_connection', { connection_id => $id{$mine} }, @me)->{status}, 200, 'functions, operators and types of a tenant\'s');
$rest->post('conduit_authorize', { connector => 'acme' }, @me);
$rest->post('conduit_vend', { connection_id => $id{$mine} }, @me);
is(attack("SELECT owner INTO r FROM ${mine}_api.conduit_get_connection(ROW(1)::${mine}_api.lure)"), "P0001 cast by ${mine}_role", 'a cast runs with the rights of who calls it');
is($cluster->error("SET search_path = ${mine}_api, pg_catalog; SELECT public.conduit_expose('${mine}_api'::pg_catalog.text)"), '', 'and when the facade is made anew among them');
is($cluster->sql("SELECT count(*) FROM ${mine}_api.trap"), '0', 'are used by none of ours');

# ---- the function of further owners ----

$cluster->sql(q{
	CREATE ROLE app_owner; CREATE SCHEMA app AUTHORIZATION app_owner;
	SET ROLE app_owner;
	CREATE TABLE app.loot (who text, what text);
	CREATE FUNCTION app.teams(subject text) RETURNS SETOF text LANGUAGE plpgsql AS $$
	BEGIN
		IF subject = 'thief' THEN INSERT INTO app.loot SELECT current_user, c::text FROM conduit.credential c; END IF;
		IF subject = 'climber' THEN EXECUTE 'RESET ROLE'; END IF;
		IF subject = 'planter' THEN CREATE TEMP TABLE planted (x int); END IF;
		RETURN NEXT current_user || ':' || subject;
	END $$});
$cluster->sql(q{SELECT conduit_expose('api', '{"owners": "app.teams", "jwt_audience": "ours"}'); SELECT conduit_set_jwt_key('api', '} . $key->jwk . q{')});
$rest->until(sub { $rest->get('conduit_health') });
my $as = sub { my ($subject, $owner, %claims) = @_; $rest->post('conduit_list_connections', {}, $key->bearer(sub => $subject, role => 'authenticated', aud => 'ours', %claims), defined $owner ? ('X-Conduit-Owner' => $owner) : ()) };
is($as->('alice', 'app_owner:alice')->{status}, 200, 'runs as its owner');
is($as->('alice', 'postgres:alice')->{status}, 401, 'and not as ours');
# In a call that may write, so that nothing else stops it.
my $code = sub
{
	my ($subject) = @_;
	return $rest->post('conduit_delete_connection', { connection_id => $id{$theirs} }, $key->bearer(sub => $subject, role => 'authenticated', aud => 'ours'), 'X-Conduit-Owner' => "app_owner:$subject")->{json}{code};
};
is($code->('alice'), 'PT404', 'one that does what it should');
is($code->('thief'), '42501', 'it cannot read what is sealed');
is($code->('climber'), '42501', 'nor become somebody else');
is($code->('planter'), '42501', 'nor leave something behind in the session');
is($cluster->sql('SELECT count(*) FROM app.loot'), '0', 'and has taken nothing');

# ---- browsers ----

is($as->('alice')->{status}, 200, 'a good token');
foreach my $case ([ 'another audience', aud => 'theirs' ], [ 'none', aud => undef ], [ 'expired', exp => time - 60 ], [ 'not yet good', nbf => time + 600 ])
{
	my ($title, %claims) = @$case;
	is($as->('alice', undef, %claims)->{status}, 401, "a token: $title");
}
is($rest->post('conduit_list_connections', {}, Authorization => "Bearer $_")->{status}, 401, 'a token that proves nothing') foreach $none, $forged;
is($rest->post('conduit_list_connections', {}, 'X-Conduit-Session' => 'A' x 43)->{status}, 401, 'a session key that somebody chose is none');
my $chosen = $cluster->sql(q{SELECT conduit_open_session('alice')});
isnt($cluster->sql(q{SELECT conduit_open_session('alice')}), $chosen, 'each log-in has a new one');

# Session fixation: mallory's own session, planted in a victim's browser.
my $planted = $cluster->sql(q{SELECT conduit_open_session('mallory')});
my $web_key = $cluster->sql(q{SELECT api_key FROM conduit_create_api_key(NULL, 'web', '{*}')});
my @victim = $key->bearer(sub => 'alice', role => 'authenticated', aud => 'ours');
is($rest->post('conduit_list_connections', {}, @victim, 'X-Conduit-Session' => $planted)->{status}, 401, 'a planted session is not taken with the victim\'s token');
is($rest->post('conduit_open_session', {}, 'X-Conduit-Key' => $web_key, 'X-Conduit-Owner' => 'alice', 'X-Conduit-Session' => $planted)->{status}, 401, 'nor does a log-in go on with it');
is($rest->post('conduit_open_session', { session_key => $planted }, 'X-Conduit-Key' => $web_key, 'X-Conduit-Owner' => 'alice')->{json}{code}, 'PGRST202', 'nobody can choose the key of one');
my $fresh = $rest->post('conduit_open_session', {}, 'X-Conduit-Key' => $web_key, 'X-Conduit-Owner' => 'alice')->{json};
isnt($fresh, $planted, 'a log-in has its own');
is($cluster->sql("SELECT owner FROM conduit_session('$planted')"), 'mallory', 'and the planted one stays who it was');
is($rest->get('conduit_preview', { connection_id => $id{$theirs}, path => '/x', url_path => 'u' }, Cookie => "conduit-session=$fresh")->{status}, 401, 'a cookie that other hosts could set is none');
is($rest->post('conduit_close_session', { session_key => $planted }, 'X-Conduit-Key' => $web_key)->{status}, 204, 'closed');
is($rest->post('conduit_list_connections', {}, 'X-Conduit-Session' => $planted)->{status}, 401, 'it opens nothing any more');
my $line = "x\r\nX-Injected: 1";
foreach my $call ([ conduit_authorize => { connector => $line } ], [ conduit_find_connection => { connector => $line } ], [ conduit_authorize_callback => { state => $line, code => $line } ],
	[ conduit_get_connection => { connection_id => $line } ])
{
	my $answer = $rest->post(@$call, $key->bearer(sub => 'alice', role => 'authenticated', aud => 'ours'));
	ok($answer->{status} >= 400 && !exists $answer->{headers}{'x-injected'}, "$call->[0]: line breaks in arguments come out in no header");
}
is($rest->post('conduit_list_connections', {}, $key->bearer(sub => "alice\r\nX-Injected: 1", role => 'authenticated', aud => 'ours'))->{status}, 401, 'nor do they stand in a subject');
is($rest->post('conduit_vend', { connection_id => $id{$theirs} }, 'X-Conduit-Key' => $their_key)->{status}, 401, 'a key of another tenant');
done_testing();
