# Facades, from the side of SQL: what conduit_expose() makes, who may use it,
# and what becomes of it when schemas, roles and extensions come and go.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use File::Path qw(make_path);
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

# A server whose directory of extensions can be written to, for an upgrade: its
# programs are copies, the rest are links.
my ($version) = slurp_file("$FindBin::RealBin/../../conduit.control") =~ /^default_version\s*=\s*'([^']*)'/m;
my $later = $version =~ s/\d+$/99/r;
my %dir = map { my ($out) = run_command([ 'pg_config', "--$_" ]); $_ => $out } qw(bindir pkglibdir sharedir);
my $place = PostgreSQL::Test::Utils::tempdir() . '/place';
make_path(map { "$place$_" } $dir{bindir}, dirname($dir{pkglibdir}), "$dir{sharedir}/extension");
foreach my $file (grep { -f } glob("$dir{bindir}/*"))
{
	copy($file, "$place$file") or die "$file: $!";
	chmod 0755, "$place$file";
}
symlink($dir{pkglibdir}, "$place$dir{pkglibdir}");
foreach my $file (grep { basename($_) ne 'extension' } glob("$dir{sharedir}/*"), glob("$dir{sharedir}/extension/*"))
{
	symlink($file, "$place$file");
}
my $cluster = Conduit::Cluster->new('facade', install_path => dirname("$place$dir{bindir}"), settings => "conduit.claims_login_roles = 'authenticator'\n");
my $node = $cluster->node;
my $json = JSON::PP->new->canonical;

$cluster->sql(q{
	CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE backend; CREATE ROLE intruder; CREATE ROLE nobody_special;
	CREATE ROLE authenticator LOGIN NOINHERIT; GRANT anon, authenticated, backend TO authenticator;
	CREATE SCHEMA api; CREATE SCHEMA split;
	ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO intruder;
	ALTER DEFAULT PRIVILEGES IN SCHEMA api GRANT EXECUTE ON FUNCTIONS TO nobody_special;
	ALTER DEFAULT PRIVILEGES GRANT USAGE ON TYPES TO intruder;
});

# Two tenants of Flux, as it makes them.
foreach my $id (qw(0123456789ab ba9876543210))
{
	$cluster->sql(qq{
		CREATE ROLE t_${id}_role; CREATE ROLE t_${id}_ddl; GRANT t_${id}_role TO authenticator;
		CREATE SCHEMA t_${id}_api AUTHORIZATION t_${id}_ddl;
		GRANT USAGE ON SCHEMA t_${id}_api TO t_${id}_role;
		ALTER DEFAULT PRIVILEGES FOR ROLE t_${id}_ddl IN SCHEMA t_${id}_api GRANT ALL ON TABLES TO anon});
}
my $flux = 't_0123456789ab_api';

sub expose
{
	my ($schema, $options) = @_;
	return ref $options ? sprintf(q{SELECT conduit_expose('%s', '%s')}, $schema, $json->encode($options) =~ s/'/''/gr) : "SELECT conduit_expose('$schema')";
}

# What is in a schema, to the byte.
sub contents
{
	my ($schema) = @_;
	return $cluster->sql(qq{
		SELECT p.oid, p.oid::regprocedure, p.proowner::regrole, p.proacl, p.prosrc, pg_get_function_result(p.oid), p.provolatile, p.prosecdef, p.proconfig, obj_description(p.oid, 'pg_proc')
		FROM pg_proc p WHERE pronamespace = '$schema'::regnamespace ORDER BY 2::text;
		SELECT oid, typname, typowner::regrole, typacl FROM pg_type WHERE typnamespace = '$schema'::regnamespace ORDER BY 2});
}

# ---- making one ----

my $listener = $cluster->wire;
$listener->query('LISTEN pgrst');
$listener->query('BEGIN');
$listener->query(expose('api'));
$listener->query('ROLLBACK');
is(contents('api'), '', 'rolled back, it was never there');
is_deeply($listener->query('SELECT 1')->{notifications}, [], 'and PostgREST heard nothing');
my @answers = map { $listener->query($_) } expose('api'), 'SELECT 1';
is($answers[0]{error}, undef, 'exposed');
is_deeply([ map { @{ $_->{notifications} } } @answers ], [ [ 'pgrst', 'reload schema' ] ], 'PostgREST is told');
is($cluster->sql(q{SELECT tenant, options FROM conduit.facade WHERE schema_name = 'api'}), '|{}', 'it serves tenant ""');

my $before = contents('api');
cmp_ok(scalar(split /\n/, $before), '>', 25, 'there is something in it');
$cluster->sql('CREATE TABLE note (owner text); ALTER TABLE note ENABLE ROW LEVEL SECURITY;
	CREATE POLICY own ON note USING (owner = (SELECT owner FROM api.conduit_require_key()));
	CREATE VIEW who AS SELECT * FROM api.conduit_require_key()');
$cluster->sql(expose('api'));
is(contents('api'), $before, 'again: the same to the byte, though a policy and a view use it');
$cluster->sql(expose('split', { tenant => 'acme', roles => ['authenticated'], backend_roles => ['backend'] }));
$cluster->sql(expose($flux));
is($cluster->sql(q{SELECT string_agg(schema_name || '=' || tenant, ' ' ORDER BY 1) FROM conduit.facade}), "api= split=acme $flux=$flux", 'tenants');
is($cluster->sql(qq{
	SELECT count(*) FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang, unnest(p.proargtypes || p.prorettype || COALESCE(p.proallargtypes, '{}')) a (t)
	JOIN pg_type t ON t.oid = a.t WHERE p.pronamespace = '$flux'::regnamespace
	AND (l.lanname <> 'plpgsql' OR NOT p.prosecdef OR p.proconfig <> '{"search_path=pg_catalog, pg_temp"}' OR p.prosqlbody IS NOT NULL
		OR (t.typnamespace <> 'pg_catalog'::regnamespace AND t.typname <> '*/*'))}), '0', 'plpgsql, SECURITY DEFINER, a fixed search_path, built-in types');
is($cluster->sql(qq{SELECT count(*) FROM pg_class WHERE relnamespace IN ('api'::regnamespace, '$flux'::regnamespace)}), '0', 'no table, no view');
is($cluster->sql(q{
	SELECT string_agg(p.proname, ' ' ORDER BY 1) FROM pg_proc p WHERE p.pronamespace = 'api'::regnamespace
	AND p.proargnames[1:pronargs] && '{owner,tenant}'}), '', 'no function takes an owner or a tenant');
is($cluster->sql(q{SELECT string_agg(proname, ' ' ORDER BY proname) FROM pg_proc WHERE pronamespace = 'api'::regnamespace AND provolatile = 's'}),
	join(' ', map { "conduit_$_" } qw(connectors events_after find_connection get_connection health list_connections
	  preview require_backend require_key session vend vend_many)), 'what reads is STABLE');
is($cluster->sql(q{SELECT count(*) FROM pg_proc p WHERE pronamespace = 'api'::regnamespace AND COALESCE(obj_description(p.oid, 'pg_proc'), '') !~ '^[^\n]+\.(\n\n|$)'}), '0', 'each has a comment with a summary');

# ---- who may what ----

my %may = (
	api => { anon => 'all', authenticated => 'all' },
	split => { authenticated => 'browsers', backend => 'all' },
	$flux => { t_0123456789ab_role => 'all', t_0123456789ab_ddl => 'all' });
my @for_backends = map { "conduit_$_" } qw(create_connection update_connection delete_owner store_credential import vend vend_many refresh
  rate_take rate_report events_after open_session session close_session token);
my @roles = qw(anon authenticated backend intruder nobody_special authenticator t_0123456789ab_role t_0123456789ab_ddl t_ba9876543210_role t_ba9876543210_ddl);
my %for_backends = map { $_ => 1 } @for_backends;
foreach my $schema (sort keys %may)
{
	my (@expected, @found);
	foreach my $function (split /\n/, $cluster->sql("SELECT proname FROM pg_proc WHERE pronamespace = '$schema'::regnamespace ORDER BY 1"))
	{
		foreach my $role (@roles)
		{
			my $may = $may{$schema}{$role} // 'none';
			push @expected, "$function $role" if $may eq 'all' || ($may eq 'browsers' && !$for_backends{$function});
		}
	}
	@found = split /\n/, $cluster->sql(qq{
		SELECT p.proname || ' ' || r.name FROM pg_proc p, unnest('{@{[ join ',', @roles ]}}'::text[]) WITH ORDINALITY r (name, place)
		WHERE p.pronamespace = '$schema'::regnamespace AND has_function_privilege(r.name, p.oid, 'EXECUTE') ORDER BY p.proname, r.place});
	is_deeply(\@found, \@expected, "$schema: each role has EXECUTE on what it should, and on nothing else");
	is($cluster->sql(qq{SELECT count(*) FROM pg_proc p, aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a WHERE p.pronamespace = '$schema'::regnamespace AND a.grantee = 0}), '0', "$schema: PUBLIC has nothing");
	is($cluster->sql(qq{SELECT count(*) FROM pg_type t, aclexplode(COALESCE(t.typacl, acldefault('T', t.typowner))) a WHERE t.typnamespace = '$schema'::regnamespace AND t.typtype = 'd' AND a.grantee <> t.typowner}), '0', "$schema: nor has anybody its domain");
}
is($cluster->sql(qq{
	SELECT count(*) FROM unnest('{@{[ join ',', @roles ]}}'::text[]) r WHERE has_schema_privilege(r, 'conduit', 'USAGE')
		OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'conduit'::regnamespace AND c.relkind IN ('r', 'v') AND has_table_privilege(r, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'))
		OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'conduit'::regnamespace AND c.relkind = 'S' AND has_sequence_privilege(r, c.oid, 'USAGE, SELECT, UPDATE'))
		OR EXISTS (SELECT FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e' JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'conduit'
			WHERE has_function_privilege(r, p.oid, 'EXECUTE'))}), '0', 'outside of the schema nobody has any right');
is($cluster->error(qq{SET ROLE t_0123456789ab_ddl; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA $flux TO t_0123456789ab_role}), '', 'a tenant may grant on all functions of its schema');
is($cluster->error(qq{SET ROLE t_0123456789ab_role; SELECT $flux.conduit_vend(gen_random_uuid())}), 'PT401|unauthorized||Present a valid API key, session or token.', 'and whoever has EXECUTE is still asked who it is');

# ---- objects of others ----

my $foreign = '42710|schema has an object of that name|foreign_object|Drop or rename its type "*/*" and its functions whose names are those of a facade and that conduit_expose() has not made.';
$cluster->sql(expose($flux));
my $flux_before = contents($flux);
foreach my $object (
	[ 'FUNCTION %s.conduit_vend(text)', q{RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$} ],
	[ 'FUNCTION %s.conduit_token(text)', q{RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
-- Made by conduit_expose(), and made anew by ALTER EXTENSION conduit UPDATE: do not change it.
BEGIN RETURN 'mine'; END $$} ])
{
	my ($name, $definition) = (sprintf($object->[0], $flux), $object->[1]);
	$cluster->sql("SET ROLE t_0123456789ab_ddl; CREATE $name $definition");
	my $with = contents($flux);
	is($cluster->error(expose($flux)), $foreign, "refused for $name");
	is(contents($flux), $with, 'and nothing has changed');
	$cluster->sql("DROP $name");
}
$cluster->sql("DROP FUNCTION $flux.conduit_preview; DROP DOMAIN $flux.\"*/*\"; SET ROLE t_0123456789ab_ddl; CREATE DOMAIN $flux.\"*/*\" AS bytea CHECK (false)");
is($cluster->error(expose($flux)), $foreign, 'refused for a domain of the tenant\'s');
$cluster->sql("DROP DOMAIN $flux.\"*/*\"");
is($cluster->error(expose($flux)), '', 'and made once it is gone');
is(contents($flux) =~ s/^\d+\|//mgr, $flux_before =~ s/^\d+\|//mgr, 'as before');
is($cluster->error(qq{SET ROLE t_0123456789ab_ddl; ALTER FUNCTION $flux.conduit_health SET search_path = $flux}), "42501|must be owner of function $flux.conduit_health||", 'a tenant cannot change them');
is($cluster->error(qq{SET ROLE t_0123456789ab_ddl; ALTER DOMAIN $flux."*/*" ADD CHECK (false)}), qq{42501|must be owner of type $flux."*/*"||}, 'nor the domain');

# ---- what is refused ----

my $is_available = 'Available options are tenant, roles, backend_roles, owner_claim, jwt_audience, trust_claims, owners, browser_request, token_role and token_ttl.';
foreach my $case (
	[ 'api', { frobnicate => 1 }, 'frobnicate unknown' ], [ 'api', { 'Ill Named' => 1 }, 'options unknown' ], [ 'api', [], 'options object' ],
	[ 'api', { roles => 'anon' }, 'roles array' ], [ 'api', { roles => ['nobody_at_all'] }, 'roles role' ], [ 'api', { roles => ['pg_monitor'] }, 'roles role' ],
	[ 'api', { roles => ['postgres'] }, 'roles role' ], [ 'api', { backend_roles => [7] }, 'backend_roles role' ], [ 'api', { token_role => 'nobody_at_all' }, 'token_role role' ],
	[ 'api', { token_ttl => 5 }, 'token_ttl range 10 3600' ], [ 'api', { token_ttl => 60.5 }, 'token_ttl range 10 3600' ], [ 'api', { owner_claim => '' }, 'owner_claim text' ],
	[ 'api', { tenant => 't_0123456789ab_api' }, 'tenant text' ], [ 'api', { trust_claims => 'yes' }, 'trust_claims boolean' ],
	[ 'api', { owners => 'nothing.there' }, 'owners function' ], [ 'api', { owners => 'a b(' }, 'owners function' ], [ 'api', { owners => 'pg_catalog.lower' }, 'owners function' ],
	[ 'api', { browser_request => [ {} ] }, 'browser_request pattern' ], [ 'api', { browser_request => ['GET /'] }, 'browser_request pattern' ],
	[ 'api', { browser_request => [ { method => 'get', path => '/x' } ] }, 'browser_request pattern' ], [ 'api', { browser_request => [ { method => 'GET', path => '/a*' } ] }, 'browser_request pattern' ],
	[ 'api', { browser_request => [ { method => 'GET', path => '/**/a' } ] }, 'browser_request pattern' ], [ 'api', { browser_request => [ { method => 'GET', path => '/x', host => 'h' } ] }, 'browser_request pattern' ],
	[ $flux, { trust_claims => JSON::PP::true }, 'trust_claims shared' ], [ $flux, { tenant => '' }, 'tenant fixed' ], [ $flux, { roles => ['anon'] }, 'roles fixed' ])
{
	my ($schema, $options, $detail) = @$case;
	like($cluster->error(expose($schema, $options)), qr/^22023\|invalid options\|\Q$detail\E\|./, $json->encode($options));
}
is($cluster->error(expose('api', { frobnicate => 1 })), "22023|invalid options|frobnicate unknown|$is_available", 'the hint says what there is');
like($cluster->error(expose('nowhere')), qr/^22023\|unknown schema\|unknown_schema\|./, 'no such schema');
like($cluster->error(expose($_)), qr/^22023\|schema cannot be exposed\|reserved_schema\|./, "$_ cannot be exposed") foreach qw(conduit public pg_catalog information_schema);
like($cluster->error(expose('api', { tenant => 'other' })), qr/^22023\|facade serves another tenant\|tenant\|./, 'another tenant');
$cluster->sql(q{CREATE FUNCTION public.teams(subject text) RETURNS SETOF text LANGUAGE sql AS $$ SELECT 'team:1' $$});
$cluster->sql(expose('api', { owners => 'public.teams', browser_request => [ { method => 'GET', path => '/user/*/repos' }, { method => 'POST', path => '/**', connector => 'github' } ] }));
is($cluster->sql(q{SELECT options ->> 'owners' FROM conduit.facade WHERE schema_name = 'api'}), 'public.teams', 'options are kept');
$cluster->sql(expose('api'));
is($cluster->sql(q{SELECT options FROM conduit.facade WHERE schema_name = 'api'}), '{}', 'and replaced as a whole');

my @paths = (
	[ '/user/*', { '/user/a' => 1, '/user/%20a' => 1, '/user/a/b' => 0, '/user/' => 0, '/user' => 0, '/user/..' => 0, '/user/.' => 0, '/user/%2e%2e' => 0, '/user/a%2Fb' => 0, '/user/a;b' => 0, '/user/a\\b' => 0, '/user/a?b' => 0, "/user/a\n" => 0, '/user/%252e' => 0 } ],
	[ '/a/**', { '/a/b' => 1, '/a/b/c' => 1, '/a/' => 0, '/a' => 0, '/a//b' => 0, '/a/../b' => 0, '/ab' => 0, '/x/a/b' => 0 } ],
	[ '/a/*/c', { '/a/b/c' => 1, '/a/b/b/c' => 0, '/a//c' => 0 } ], [ '/u.r', { '/u.r' => 1, '/usr' => 0 } ], [ '/$(+)', { '/$(+)' => 1 } ]);
foreach my $case (@paths)
{
	my ($pattern, $cases) = @$case;
	foreach my $path (sort keys %$cases)
	{
		is($cluster->wire->query('SELECT conduit.path_matches($1, $2)', $path, $pattern)->{rows}[0][0], $cases->{$path} ? 't' : 'f', "$pattern and " . $path =~ s/\n/\\n/r);
	}
}

# ---- the doctor ----

sub findings { return $cluster->sql(q{SELECT severity || ' ' || finding || ': ' || detail FROM conduit_doctor() WHERE finding LIKE 'facade%' ORDER BY 1}) }
is(findings(), '', 'the doctor has nothing to say');
$cluster->sql('ALTER FUNCTION api.conduit_vend RESET ALL; GRANT EXECUTE ON FUNCTION api.conduit_health TO PUBLIC; GRANT CREATE ON SCHEMA api TO anon; ALTER SCHEMA split RENAME TO splat; GRANT EXECUTE ON FUNCTION api.conduit_token TO intruder');
is(findings(), join("\n", 'error facade_rights: PUBLIC may call conduit_health of exposed schema "api"', 'error facade_rights: intruder may call conduit_token of exposed schema "api"',
	'warning facade_changed: function conduit_vend of exposed schema "api" is not as it was made', 'warning facade_create: role anon can create objects in exposed schema "api"',
	'warning facade_without_schema: exposed schema "split" does not exist'), 'what was changed by hand');
$cluster->sql('REVOKE CREATE ON SCHEMA api FROM anon; ALTER SCHEMA splat RENAME TO split');
$cluster->sql(expose('api'));
is(findings(), '', 'and mended');
is(contents('api'), $before, 'to the byte');

# ---- dumps ----

$node->safe_psql('postgres', 'CREATE DATABASE bare');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/flux.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('app'), "--schema=$flux", '-f', $dump ], 'a dump of a tenant');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('bare'), '-f', $dump ], 'is restored where Conduit is not');
is($cluster->sql("SELECT count(*) FROM pg_proc WHERE pronamespace = '$flux'::regnamespace", database => 'bare'),
	$cluster->sql("SELECT count(*) FROM pg_proc WHERE pronamespace = '$flux'::regnamespace"), 'with all its functions');

$node->safe_psql('postgres', 'DROP DATABASE bare');

# ---- updates of the extension ----

append_to_file("$place$dir{sharedir}/extension/conduit--$version--$later.sql", <<'SQL');
DROP FUNCTION @extschema@.conduit_rate_report(text, uuid, double precision, text);
CREATE FUNCTION @extschema@.conduit_rate_report(owner text, connection_id uuid, retry_after double precision, cause text DEFAULT 'none', tenant text DEFAULT '')
RETURNS void LANGUAGE sql AS '';
COMMENT ON FUNCTION @extschema@.conduit_rate_report(text, uuid, double precision, text, text) IS 'Another one.';
SELECT conduit.refresh_facades();
SQL
$cluster->sql('SET ROLE t_ba9876543210_ddl; CREATE TABLE t_ba9876543210_api.mine ()');
$cluster->sql(expose('t_ba9876543210_api'));
$cluster->sql(q{DROP FUNCTION t_ba9876543210_api.conduit_token; SET ROLE t_ba9876543210_ddl; CREATE FUNCTION t_ba9876543210_api.conduit_token() RETURNS text LANGUAGE sql AS $$ SELECT 'mine' $$});
my ($out, $err) = ('', '');
$node->psql('app', "ALTER EXTENSION conduit UPDATE TO '$later'", stdout => \$out, stderr => \$err);
like($err, qr/\A[^\n]*WARNING:  facade could not be made anew\n[^\n]*DETAIL:  t_ba9876543210_api: schema has an object of that name\n[^\n]*HINT:[^\n]*\n?\z/, 'a tenant cannot keep the extension from being updated');
is($cluster->sql(q{SELECT extversion FROM pg_extension WHERE extname = 'conduit'}), $later, 'updated');
is($cluster->sql(qq{SELECT pg_get_function_arguments(p.oid) FROM pg_proc p WHERE p.proname = 'conduit_rate_report' AND p.pronamespace IN ('api'::regnamespace, '$flux'::regnamespace)}),
	join("\n", ("connection_id uuid, retry_after double precision, cause text DEFAULT 'none'::text") x 2), 'facades follow');
is($cluster->sql(q{SELECT count(*) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'conduit' LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
	LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
	WHERE d.deptype = 'e' AND COALESCE(p.pronamespace, t.typnamespace)::regnamespace::text ~ '^(api|split|t_.*)$'}), '0', 'they are no members of the extension');
is($cluster->sql(q{SELECT count(*) FROM pg_init_privs i JOIN pg_proc p ON i.classoid = 'pg_proc'::regclass AND p.oid = i.objoid WHERE p.pronamespace::regnamespace::text ~ '^(api|split|t_.*)$'}), '0', 'nor are their rights initial ones');
is(findings(), join("\n", map { qq{warning facade_changed: function conduit_$_ of exposed schema "t_ba9876543210_api" is not as it was made} } qw(rate_report token)), 'rights are as they should be');
is($cluster->error(q{SET ROLE t_0123456789ab_role; SELECT t_0123456789ab_api.conduit_rate_report(gen_random_uuid(), 1)}) =~ s/\|.*//r, 'PT401', 'and they work');

# ---- the end of a tenant ----

my %left = map { $_ => "SELECT count(*) FROM conduit.$_ WHERE tenant = '$flux'" } qw(connection credential api_key session client trusted_caller authorize_state);
$cluster->connector('acme', token_url => 'http://127.0.0.1:1/token');
foreach my $tenant ('', $flux)
{
	$cluster->sql(qq{
		SELECT conduit_set_client('acme', 'c', 's', '{https://app.example.com/callback}', tenant => '$tenant');
		SELECT conduit_store_credential(conduit_create_connection('alice', 'acme', tenant => '$tenant'), 'OAUTH2', '{"access_token": "a"}', tenant => '$tenant');
		SELECT conduit_create_connection('bob', 'acme', tenant => '$tenant');
		SELECT conduit_create_api_key('alice', 'k', '{*}', tenant => '$tenant');
		SELECT conduit_open_session('alice', tenant => '$tenant');
		SELECT conduit_authorize('alice', 'acme', tenant => '$tenant');
		SELECT conduit_trust_caller('t', audience => 'x', tenant => '$tenant')});
}
$cluster->sql(qq{SELECT conduit_set_jwt_key('$flux', '{"kty":"oct","k":"@{[ 'A' x 43 ]}"}')});
cmp_ok($cluster->sql($left{$_}), '>', 0, "there is a $_") foreach sort keys %left;
my $holder = $cluster->session;
$holder->query("BEGIN; SELECT 1 FROM conduit.connection WHERE tenant = '$flux' AND owner = 'bob' FOR UPDATE");
$cluster->sql("DROP SCHEMA $flux CASCADE");
$cluster->sql('DROP ROLE t_0123456789ab_role; DROP ROLE t_0123456789ab_ddl');
pass('schema and roles are dropped by plain DROP');
$node->reload;
ok($cluster->poll("SELECT count(*) = 0 FROM conduit.connection WHERE tenant = '$flux' AND owner = 'alice'"), 'the worker destroys what belonged to it');
is($cluster->sql("SELECT count(*) FROM conduit.connection WHERE tenant = '$flux'"), '1', 'but for what somebody has locked');
$cluster->sql("CREATE SCHEMA $flux");
like($cluster->error(expose($flux)), qr/^55000\|former tenant is not gone yet\|dropped\|./, 'a new tenant of that name has to wait');
$holder->query('COMMIT');
$holder->quit;
$node->reload;
ok($cluster->poll("SELECT count(*) = 0 FROM conduit.facade WHERE schema_name = '$flux'"), 'until all is gone');
is($cluster->sql($left{$_}), '0', "no $_ is left") foreach sort keys %left;
is($cluster->sql(q{SELECT count(*) FROM conduit.jwt_key}), '0', 'nor a key of its');
is($cluster->sql(q{SELECT count(*) FROM conduit.connection WHERE tenant = ''}), '2', 'other tenants have lost nothing');
is($cluster->error(expose($flux)), '', 'and there is room for a new one');

# The schema may go with all that a role has.
$cluster->sql(q{CREATE ROLE t_cccccccccccc_ddl; CREATE SCHEMA t_cccccccccccc_api AUTHORIZATION t_cccccccccccc_ddl});
$cluster->sql(expose('t_cccccccccccc_api'));
$cluster->sql(q{SELECT conduit_create_connection('alice', 'acme', tenant => 't_cccccccccccc_api'); DROP OWNED BY t_cccccccccccc_ddl CASCADE; DROP ROLE t_cccccccccccc_ddl});
$node->reload;
ok($cluster->poll(q{SELECT count(*) = 0 FROM conduit.facade f FULL JOIN conduit.connection n USING (tenant) WHERE tenant = 't_cccccccccccc_api'}), 'by DROP OWNED, too, it takes its tenant with it');

# Nothing keeps a schema from being dropped.
my $lock = $cluster->session;
$lock->query('BEGIN; LOCK TABLE conduit.facade IN SHARE ROW EXCLUSIVE MODE');
is($cluster->error("SET lock_timeout = '100ms'; DROP SCHEMA $flux CASCADE"), '', 'DROP SCHEMA does not fail, whatever happens');
$lock->query('ROLLBACK');
$lock->quit;
like(findings(), qr/exposed schema "$flux" does not exist/, 'the doctor says what is left');
is($cluster->error("SELECT conduit_unexpose('$flux', true)"), '', 'which is removed by hand');
is($cluster->error('BEGIN; DROP SCHEMA api CASCADE; ROLLBACK'), '', 'a DROP that is taken back');
is($cluster->sql(q{SELECT dropped_at IS NULL FROM conduit.facade WHERE schema_name = 'api'}), 't', 'has not happened');

# By hand.
like($cluster->error(q{SELECT conduit_unexpose('nowhere')}), qr/^22023\|unknown facade\|unknown_facade\|./, 'what is not exposed');
$cluster->sql('CREATE SCHEMA second');
$cluster->sql(expose('second', { tenant => 'acme' }));
like($cluster->error(q{SELECT conduit_unexpose('second', true)}), qr/^23503\|tenant is in use\|in_use\|./, 'a tenant that another facade serves');
$cluster->sql(qq{SELECT conduit_set_jwt_key('second', '{"kty":"oct","k":"@{[ 'A' x 43 ]}"}')});
$listener->query('SELECT 1');
is($cluster->error(q{SELECT conduit_unexpose('second')}), '', 'a facade alone');
is_deeply($listener->query('SELECT 1')->{notifications}, [ [ 'pgrst', 'reload schema' ] ], 'PostgREST is told');
is(contents('second'), '', 'of which nothing is left');
is($cluster->sql(q{SELECT count(*) FROM conduit.jwt_key WHERE schema_name = 'second'}), '0', 'nor the keys that proved tokens');
$cluster->sql(q{SELECT conduit_create_connection('alice', 'acme', tenant => 'acme')});
is($cluster->error(q{SELECT conduit_unexpose('split', true)}), '', 'a facade and its tenant');
is($cluster->sql(q{SELECT count(*) FROM conduit.connection WHERE tenant = 'acme'}), '0', 'whose connections are gone');
$cluster->sql('DROP VIEW who; DROP TABLE note; DROP SCHEMA api CASCADE');
$node->reload;
ok($cluster->poll(q{SELECT count(*) = 0 FROM conduit.facade WHERE schema_name = 'api'}), 'the schema of tenant "" is dropped');
is($cluster->sql(q{SELECT count(*) FROM conduit.connection WHERE tenant = ''}), '2', 'which is everybody\'s, and stays');
is($cluster->error('DROP EXTENSION conduit CASCADE'), '', 'and the extension');
is($cluster->error('CREATE SCHEMA last; DROP SCHEMA last'), '', 'without which schemas come and go');
done_testing();
