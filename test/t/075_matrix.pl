# Every role and every function and table, every caller and every function of a
# facade: allowed or not as docs/reference.md says.  What there is comes out of
# the catalogs, so that a new object that nobody has documented fails here.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::PostgREST;
use Conduit::Token;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $reference = slurp_file("$FindBin::RealBin/../../docs/reference.md");
my $json = JSON::PP->new->canonical;
my $cluster = Conduit::Cluster->new('main', extension => 0);
my $node = $cluster->node;
my ($flux, $other) = qw(t_0123456789ab t_ba9876543210);

# ---- what is documented ----

my %profile;
while ($reference =~ /^#### (\w+)\n\n```\n.*?\n```\n\n[^\n]* Profile: (\w+)\.$/msg) { $profile{$1} = $2 }
my ($part) = $reference =~ /^## Functions of a facade\n(.*?)^## /ms;
my (%for, %reads);
while ($part =~ /^\| `(\w+)` \| ([^|]*?) \| (yes)? ?\| [^|]* \|$/mg) { ($for{$1}, $reads{$1}) = ($2, defined $3) }
cmp_ok(scalar keys %profile, '>', 40, 'profiles are documented');
cmp_ok(scalar keys %for, '>', 25, 'and the functions of a facade');

# ---- roles ----

# Whatever is made gives everything away, if it is not taken back.
$node->safe_psql('postgres', 'CREATE DATABASE app');
$cluster->sql(qq{
	CREATE SCHEMA vault; CREATE SCHEMA crypto; CREATE EXTENSION pgcrypto SCHEMA crypto;
	CREATE ROLE greedy;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC, greedy;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, greedy;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC, greedy;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO PUBLIC, greedy;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC, greedy;
	CREATE EXTENSION conduit SCHEMA vault;
	ALTER ROLE ALL IN DATABASE app SET search_path = public, vault;
	CREATE ROLE monitor; CREATE ROLE app; CREATE ROLE service; CREATE ROLE admin; CREATE ROLE stranger;
	CREATE ROLE reader; GRANT pg_read_all_data TO reader;
	CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE backend;
	CREATE ROLE authenticator LOGIN NOINHERIT; GRANT anon, authenticated, backend TO authenticator;
	SELECT vault.conduit_grant(r, r) FROM unnest('{monitor,app,service,admin}'::text[]) r;
	CREATE SCHEMA api; CREATE SCHEMA split;
	REVOKE ALL ON SCHEMA api, split FROM PUBLIC, greedy;
	GRANT USAGE ON SCHEMA api TO anon, authenticated});
foreach my $tenant ($flux, $other)
{
	$cluster->sql(qq{CREATE ROLE ${tenant}_role; CREATE ROLE ${tenant}_ddl; GRANT ${tenant}_role TO authenticator;
		CREATE SCHEMA ${tenant}_api AUTHORIZATION ${tenant}_ddl; GRANT USAGE ON SCHEMA ${tenant}_api TO ${tenant}_role;
		SELECT vault.conduit_expose('${tenant}_api')});
}
$cluster->wait_for_worker;
$cluster->sql(q{SELECT vault.conduit_expose('api', '{"token_role": "authenticated"}'); SELECT vault.conduit_expose('split', '{"tenant": "acme", "roles": ["authenticated"], "backend_roles": ["backend"]}')});
my @roles = (qw(monitor app service admin stranger reader greedy anon authenticated backend authenticator), map { ("${_}_role", "${_}_ddl") } $flux, $other);

# ---- the extension ----

# What belongs to the extension, or stands in its private schema.
$cluster->sql(q{
	CREATE VIEW object AS
	WITH member (classid, objid) AS (
		SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'conduit'
		WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
		UNION SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relnamespace = 'conduit'::regnamespace
		UNION SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = 'conduit'::regnamespace
		UNION SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname = 'conduit')
	SELECT 'function' AS kind, p.oid, p.pronamespace::regnamespace || '.' || p.proname AS name, p.proowner AS owner, COALESCE(p.proacl, acldefault('f', p.proowner)) AS acl
	FROM member m JOIN pg_proc p ON p.oid = m.objid AND m.classid = 'pg_proc'::regclass
	UNION ALL SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, c.oid, c.relnamespace::regnamespace || '.' || c.relname, c.relowner,
		COALESCE(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))
	FROM member m JOIN pg_class c ON c.oid = m.objid AND m.classid = 'pg_class'::regclass AND c.relkind NOT IN ('i', 'c')
	UNION ALL SELECT 'type', t.oid, t.typnamespace::regnamespace || '.' || t.typname, t.typowner, COALESCE(t.typacl, acldefault('T', t.typowner))
	FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
	WHERE t.typnamespace = 'conduit'::regnamespace AND t.typcategory <> 'A' AND COALESCE(c.relkind, 'c') = 'c'
	UNION ALL SELECT 'schema', n.oid, n.nspname, n.nspowner, COALESCE(n.nspacl, acldefault('n', n.nspowner))
	FROM member m JOIN pg_namespace n ON n.oid = m.objid AND m.classid = 'pg_namespace'::regclass});

my %may = (
	function => q{has_function_privilege(%s, o.oid, p.name)},
	table => q{has_table_privilege(%s, o.oid, p.name)},
	sequence => q{has_sequence_privilege(%s, o.oid, p.name)},
	type => q{has_type_privilege(%s, o.oid, p.name)},
	schema => q{has_schema_privilege(%s, o.oid, p.name)});
my %privileges = (
	function => 'EXECUTE', table => 'SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER',
	sequence => 'USAGE,SELECT,UPDATE', type => 'USAGE', schema => 'USAGE,CREATE');
my @ranks = qw(monitor app service admin);
my %rank = map { $ranks[$_] => $_ } 0 .. $#ranks;

# What a role may, by the documentation.
sub documented
{
	my ($role, $kind, $name, $privilege) = @_;

	# PostgreSQL's own; of what is sealed, row security leaves it nothing.
	return $privilege eq ($kind eq 'schema' ? 'USAGE' : 'SELECT') if $role eq 'reader' && $kind =~ /^(?:schema|table|sequence)$/;
	return 0 if $kind ne 'function' || !defined $rank{$role};
	return 0 unless $name =~ /^vault\.(\w+)$/;
	return $rank{$role} >= $rank{ $profile{$1} // die "$1 is not documented" };
}

foreach my $kind (sort keys %may)
{
	my @names = split /\n/, $cluster->sql("SELECT name FROM object WHERE kind = '$kind' ORDER BY name COLLATE \"C\"");
	my @expected = grep { documented((split / /)[ 0 .. 1 ], (split / /)[ 2, 3 ]) }
	  map { my $name = $_; map { my $role = $_; map { "$role $kind $name $_" } split /,/, $privileges{$kind} } @roles } @names;
	my @found = split /\n/, $cluster->sql(sprintf q{
		SELECT concat_ws(' ', r.name, o.kind, o.name, p.name) FROM object o, unnest('{%s}'::text[]) r (name), unnest('{%s}'::text[]) p (name)
		WHERE o.kind = '%s' AND } . sprintf($may{$kind}, 'r.name'), join(',', @roles), $privileges{$kind}, $kind);
	cmp_ok(scalar @names, '>', 0, "there are objects: $kind");
	is_deeply([ sort @found ], [ sort @expected ], scalar(@names) . " objects ($kind) by " . scalar(@roles) . ' roles: what is documented, and nothing else');
}
is($cluster->sql("SELECT string_agg(r, ',' ORDER BY r) FROM unnest('{@{[ join ',', @roles ]}}'::text[]) r WHERE has_schema_privilege(r, 'vault', 'USAGE')"),
	join(',', sort @ranks, 'reader'), 'USAGE on the schema of the functions');
is($cluster->sql(q{SELECT count(*) FROM object o, aclexplode(o.acl) a WHERE a.grantee = 0}), '0', 'zero rights of PUBLIC');
is($cluster->sql(q{SELECT count(*) FROM object o, aclexplode(o.acl) a WHERE a.is_grantable AND a.grantee <> o.owner}), '0', 'and none that can be handed on');
is($cluster->sql(q{SELECT count(*) FROM pg_attribute a JOIN object o ON o.oid = a.attrelid WHERE a.attacl IS NOT NULL}), '0', 'nor any to a column');
is($cluster->sql(q{SELECT count(*) FROM object WHERE owner <> (SELECT extowner FROM pg_extension WHERE extname = 'conduit')}), '0', 'all of it belongs to the owner of the extension');
my @tables = split /\n/, $cluster->sql(q{SELECT oid::regclass FROM object WHERE kind = 'table' ORDER BY 1});
foreach my $role (qw(admin anon authenticated authenticator), "${flux}_role", "${flux}_ddl")
{
	is_deeply([ grep { $cluster->error("SET ROLE $role; TABLE $_") !~ /^42501\|/ } @tables ], [], "$role can read no table");
}
$cluster->sql(q{SELECT conduit_register_connector('api', '{"name": "A", "auth_type": "oauth2_code", "authorize_url": "https://p.example/a", "token_url": "https://p.example/t", "api_base_url": "https://p.example/"}');
	SELECT conduit_set_client('api', 'c', 's', '{https://app.example.com/callback}');
	SELECT conduit_store_credential(conduit_create_connection('alice', 'api'), NULL, '{"access_token": "a"}')});
is_deeply([ grep { $cluster->sql("SET ROLE reader; SELECT count(*) FROM $_") ne '0' } qw(conduit.credential conduit.client_secret conduit.api_key conduit.jwt_key conduit.session conduit.authorize_state conduit.mac_key) ],
	[], 'of what is sealed, pg_read_all_data reads nothing');

# ---- facades, by role ----

my %expose = (api => { anon => 'all', authenticated => 'all' }, split => { authenticated => 'people', backend => 'all' },
	map { ("${_}_api" => { "${_}_role" => 'all', "${_}_ddl" => 'all' }) } $flux, $other);
foreach my $schema (sort keys %expose)
{
	my @names = split /\n/, $cluster->sql("SELECT proname FROM pg_proc WHERE pronamespace = '$schema'::regnamespace ORDER BY proname");
	is_deeply(\@names, [ sort keys %for ], "$schema has the functions that are documented");
	my @expected;
	foreach my $name (@names)
	{
		my $for_people = $for{$name} =~ /^(?:anybody|an owner)\b/ || $name =~ /^conduit_require_/;
		push @expected, map { "$_ $name" } grep { my $may = $expose{$schema}{$_} // ''; $may eq 'all' || ($may eq 'people' && $for_people) } @roles;
	}
	my @found = split /\n/, $cluster->sql(qq{SELECT r.name || ' ' || p.proname FROM pg_proc p, unnest('{@{[ join ',', @roles ]}}'::text[]) r (name)
		WHERE p.pronamespace = '$schema'::regnamespace AND has_function_privilege(r.name, p.oid, 'EXECUTE')});
	is_deeply([ sort @found ], [ sort @expected ], "$schema: each role may call what is documented, and nothing else");
	is($cluster->sql(qq{SELECT count(*) FROM pg_proc p, aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a WHERE p.pronamespace = '$schema'::regnamespace AND a.grantee = 0}), '0', "$schema: zero rights of PUBLIC");
	is($cluster->sql(qq{SELECT string_agg(DISTINCT a.grantee::regrole::text, ',') FROM pg_proc p, aclexplode(p.proacl) a
		WHERE p.pronamespace = '$schema'::regnamespace AND a.is_grantable AND a.grantee <> p.proowner}), $schema =~ /^(t_\w+)_api$/ ? "$1_ddl" : '', "$schema: who may hand them on");
	is($cluster->sql(qq{SELECT string_agg(proname, ' ' ORDER BY proname) FROM pg_proc WHERE pronamespace = '$schema'::regnamespace AND provolatile = 's'}),
		join(' ', grep { $reads{$_} } sort keys %for), "$schema: what only reads");
}

# ---- facades, by caller ----

my $key = Conduit::Token->new;
$cluster->sql("SELECT conduit_set_jwt_key('api', '@{[ $key->jwk ]}'); SELECT conduit_trust_caller('cron', audience => 'backends')");
my $api_key = sub { my ($owner, $scope, $tenant) = @_; $cluster->sql("SELECT api_key FROM conduit_create_api_key($owner, 'k', '{$scope}', tenant => '$tenant')") };
my $session = $cluster->sql(q{SELECT conduit_open_session('alice')});
my @alice = $key->bearer(sub => 'alice', role => 'authenticated');
my @any = ('X-Conduit-Key' => $api_key->('NULL', '*', ''));
my %caller = (
	'nobody' => [],
	'a person with a token' => \@alice,
	'a person with a session' => [ 'X-Conduit-Session' => $session ],
	'a backend for an owner' => [ 'X-Conduit-Key' => $api_key->(q{'alice'}, '*', '') ],
	'a backend that names an owner' => [ @any, 'X-Conduit-Owner' => 'alice' ],
	'a backend with a session' => [ @any, 'X-Conduit-Session' => $session ],
	'a backend for nobody' => \@any,
	'a trusted caller' => [ $key->bearer(sub => 'cron', aud => 'backends', role => 'authenticated'), 'X-Conduit-Owner' => 'alice' ],
	'a key without the scope' => [ 'X-Conduit-Key' => $api_key->(q{'alice'}, 'nothing', '') ],
	'a key of another tenant' => [ 'X-Conduit-Key' => $api_key->(q{'alice'}, '*', "${flux}_api") ],
	'a person who names an owner' => [ @alice, 'X-Conduit-Owner' => 'alice' ],
	'two who are not one' => [ @alice, 'X-Conduit-Session' => $cluster->sql(q{SELECT conduit_open_session('bob')}) ],
	'a token of another key' => [ 'X-Conduit-Key' => $any[1], Authorization => 'Bearer ' . Conduit::Token->new->sign({ sub => 'alice' }) ]);

# "in", or the status by which a caller is kept out.
sub admitted
{
	my ($caller, $name) = @_;
	my $for = $for{$name};
	my $backend = $caller =~ /^a (?:backend|trusted caller|key without)/;
	my $owner = $caller =~ /^a (?:person with|backend for an|backend that|backend with|trusted|key without)/;

	# what is presented and does not hold is refused, whoever would have been let in without
	return 401 if $caller =~ /^(?:a key of another|a person who|two who|a token of)/;
	return 'in' if $for eq 'anybody';
	return 401 if $caller eq 'nobody';
	return $caller =~ /person/ ? 401 : $caller =~ /trusted/ ? ($name eq 'conduit_require_key' ? 401 : 403) : $caller =~ /without the scope/ && $name ne 'conduit_require_key' ? 403 : 'in' if $for eq 'an API key';
	return 403 if $for =~ /^a backend/ && !$backend;
	return 401 if $for =~ /^(?:an owner(?!, or)|a backend for an owner)/ && !$owner;
	return 403 if $caller =~ /without the scope/ && $name !~ /_require_/;
	return 403 if $for eq 'a backend for nobody' && $owner;
	return 'in';
}

# What each takes; who is let in learns that there is no such connection.
my %value = (connection_id => '01a1fd5b-3398-7e66-8fd2-dc18e2a44342', connection_ids => ['01a1fd5b-3398-7e66-8fd2-dc18e2a44342'], connector => 'api',
	state => 'x', method => 'GET', path => '/x', url_path => 'u', kind => undef, secret => '{"access_token":"x"}', records => '[]', after_seq => 0,
	session_key => $session, seen_generation => undef, retry_after => 1);
# PostgREST answers HEAD of what returns one value without calling it.
my %one_value = map { $_ => 1 } split /\n/, $cluster->sql(q{SELECT proname FROM pg_proc WHERE pronamespace = 'api'::regnamespace AND prorettype <> 'record'::regtype});
my %arguments;
foreach my $row (split /\n/, $cluster->sql(q{SELECT proname || ' ' || COALESCE(array_to_string(proargnames[1:pronargs - pronargdefaults], ' '), '') FROM pg_proc WHERE pronamespace = 'api'::regnamespace}))
{
	my ($name, @names) = split / /, $row;
	$arguments{$name} = { map { exists $value{$_} ? ($_ => $value{$_}) : die "$name takes $_: say what this test gives" } @names };
}

# db-tx-end: so that each call can be taken back.
my $rest = Conduit::PostgREST->start($node, 'app', jwt_secret => $key->jwk, config => qq{db-tx-end = "commit-allow-override"\n});
foreach my $caller (sort keys %caller)
{
	my (%found, %expected, @bare);
	foreach my $name (sort keys %for)
	{
		my $arguments = $arguments{$name};
		my @headers = (@{ $caller{$caller} }, Prefer => 'tx=rollback');
		my %by = (POST => $rest->post($name, $arguments, @headers));
		if ($reads{$name})
		{
			my %query = map { my $value = $arguments->{$_}; ($_ => ref $value ? "{@$value}" : $value) } keys %$arguments;
			my $query = $rest->{http}->www_form_urlencode(\%query);
			$by{$_} = $rest->request($_, "/rpc/$name" . ($query eq '' ? '' : "?$query"), undef, @headers) foreach 'GET', $one_value{$name} ? () : 'HEAD';
		}
		foreach my $method (keys %by)
		{
			my $status = $by{$method}{status};
			$found{"$method $name"} = $status =~ /^40[13]$/ ? $status : $status < 500 ? 'in' : "$status $by{$method}{content}";
			$expected{"$method $name"} = admitted($caller, $name);
			# a bad argument is nobody's secret, nor are guards' errors kept by any cache
			push @bare, "$method $name" if $status != 400 && $caller !~ /^a token of/ && ($status < 300 || $name !~ /_require_/) && ($by{$method}{headers}{'cache-control'} // '') ne 'no-store';
		}
	}
	is_deeply(\%found, \%expected, "$caller: let in or kept out as documented");
	is_deeply(\@bare, [], "$caller: no cache keeps an answer");
}
is($cluster->sql(q{SELECT count(*) FROM conduit.connection}), '1', 'nothing of that was committed');
done_testing();
