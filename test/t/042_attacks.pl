# What somebody with a session, with rights of a lesser profile, or with write
# access to the tables cannot get at.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Conduit::Cluster;
use Conduit::Provider;
use Conduit::Wire;

my $json = JSON::PP->new->canonical;
my $cluster = Conduit::Cluster->new('attacks');
my $node = $cluster->node;
my $provider = Conduit::Provider->start('scripted');
my $attacker = Conduit::Provider->start('scripted');    # its requests are what must not be

$cluster->connector('web', token_url => $provider->url . '/token');
$cluster->sql($_) for
  'CREATE ROLE mallory LOGIN',
  'GRANT CREATE ON SCHEMA public TO mallory',
  'GRANT CREATE ON DATABASE ' . $cluster->database . ' TO mallory',
  (map { ("CREATE ROLE $_ LOGIN", "SELECT conduit_grant('$_', '$_')") } qw(monitor app service admin)),
  'CREATE ROLE reader LOGIN IN ROLE pg_read_all_data';

sub wire { return Conduit::Wire->connect($node, $cluster->database, user => $_[0] // scalar getpwuid($>)); }

sub state_of
{
	my ($wire, @statement) = @_;
	my $error = $wire->query(@statement)->{error};
	return $error ? $error->{C} : '';
}

sub message
{
	my ($wire, @statement) = @_;
	my $error = $wire->query(@statement)->{error};
	return $error ? "$error->{C} $error->{M}" : '';
}

sub web_connection
{
	my ($owner, $account) = @_;
	my ($grant) = $provider->issue(1, expires_in => 3600);
	return ($cluster->connection($owner, 'web', $grant, account => $account), $grant);
}

my $vend = 'SELECT access_token FROM conduit_vend($1, $2)';
my ($id, $grant) = web_connection('alice', 'main');

subtest 'profiles' => sub {
	my %calls = (
		conduit_connectors => [ 'monitor' ],
		conduit_health => [ 'monitor' ],
		conduit_stats => [ 'monitor' ],
		conduit_doctor => [ 'monitor' ],
		conduit_get_connection => [ 'app', 'alice', $id ],
		conduit_list_connections => [ 'app', 'alice' ],
		conduit_find_connection => [ 'app', 'alice', 'web', 'main' ],
		conduit_create_connection => [ 'app', 'alice', 'web' ],
		conduit_delete_owner => [ 'app', 'nobody' ],
		conduit_vend => [ 'service', 'alice', $id ],
		conduit_refresh => [ 'service', 'alice', $id, -1 ],
		conduit_store_credential => [ 'service', $id, undef, $json->encode($grant) ],
		conduit_events_after => [ 'service', 0 ],
		conduit_rate_take => [ 'service', 'alice', $id ],
		conduit_rate_report => [ 'service', 'alice', $id, 0 ],
		conduit_clients => [ 'admin' ],
		conduit_set_client => [ 'admin', 'web', 'cid', 'the-client-secret' ],
		conduit_register_connector => [ 'admin', 'another', '{"name": "Another", "auth_type": "basic"}' ],
		conduit_keyring => [ 'admin' ],
		conduit_rewrap => [ 'admin' ],
		conduit_refresh_due => [ 'admin', 0 ],
		conduit_grant => [ 'admin', 'mallory', 'monitor' ],
		conduit_ungrant => [ 'admin', 'mallory' ]);
	my %rank = (mallory => 0, monitor => 1, app => 2, service => 3, admin => 4);

	for my $role (sort { $rank{$a} <=> $rank{$b} } keys %rank)
	{
		my $wire = wire($role);
		for my $function (sort keys %calls)
		{
			my ($least, @arguments) = @{ $calls{$function} };
			my $call = "SELECT * FROM $function(" . join(', ', map { "\$$_" } 1 .. @arguments) . ')';
			$wire->query('BEGIN');
			if ($rank{$role} >= $rank{$least})
			{
				is(message($wire, $call, @arguments), '', "$role may call $function");
			}
			else
			{
				is(message($wire, $call, @arguments), "42501 permission denied for function $function", "$role may not call $function");
			}
			$wire->query('ROLLBACK');
		}
		my $internals = message($wire, 'SELECT conduit.announce()');
		is($internals, '42501 permission denied for schema conduit', "$role may not call what is internal");
		is(message($wire, q{SELECT conduit.settle_rights('conduit_vend', 'monitor')}), '42501 permission denied for schema conduit', 'any of it');
		is(message($wire, 'SELECT count(*) FROM conduit.credential'), '42501 permission denied for schema conduit', "$role may not read tables");
		is(message($wire, 'CREATE TABLE conduit.mine ()'), '42501 permission denied for schema conduit', 'or make one there');
		is(message($wire, q{CREATE FUNCTION conduit.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'}),
			'42501 permission denied for schema conduit', 'or a function');
	}

	is(message(wire('app'), 'SELECT * FROM conduit_list_connections(NULL)'), '42501 permission denied to list the connections of every owner',
		'app lists one owner at a time');
	is(state_of(wire('service'), 'SELECT * FROM conduit_list_connections(NULL)'), '', 'service lists all');

	my $reader = wire('reader');
	for my $table (qw(client_secret credential flight revocation))
	{
		is($reader->value("SELECT count(*) FROM conduit.$table"), 0, "who may read all data sees nothing in conduit.$table");
	}
	is($reader->value('SELECT count(*) > 0 FROM conduit.connection'), 't', 'though other tables');
};

subtest 'settings' => sub {
	my $wire = wire('admin');
	is(state_of($wire, "SET $_"), '55P02', "SET $_") for
	  q{conduit.clock_offset = 1000}, q{conduit.egress_allow = '0.0.0.0/0'}, q{conduit.keyring_file = '/etc/passwd'},
	  q{conduit.refresh_lead = 1}, q{conduit.claims_login_roles = ''}, q{conduit.max_in_flight = 1};
	is(state_of($wire, 'SET conduit.refresh_enabled = off'), '42501', 'SET conduit.refresh_enabled');
	is(state_of($wire, 'ALTER ROLE admin SET conduit.refresh_enabled = off'), '42501', 'nor for the role');
	is(state_of($wire, "SHOW $_"), '42501', "SHOW $_") for qw(conduit.keyring_file conduit.egress_allow conduit.clock_offset);
	is(state_of($wire, q{SET conduit.vend_time_out = 1}), '42602', 'no other setting has this prefix');
	is(state_of($wire, 'SET conduit.vend_timeout = 100'), '', 'how long to wait is one\'s own affair');
	is(state_of($wire, 'SET ROLE service'), '42501', 'roles are not for the taking');
	is(state_of($wire, 'SET SESSION AUTHORIZATION service'), '42501', 'neither way');
	is(state_of($wire, 'SET session_replication_role = replica'), '42501', 'nor are triggers to be switched off');
};

# Things named like those that Conduit's own SQL uses.  Each of the planted
# functions raises an error that names it.
subtest 'planted objects' => sub {
	my $wire = wire('service');
	my $owner = wire();
	my @types = qw(text uuid timestamptz int4 int8 jsonb bool bytea);

	$owner->query('GRANT mallory TO service');
	is(state_of($wire, $_), '', $_) for
	  'SET ROLE mallory',
	  'CREATE SCHEMA trap',
	  q{CREATE FUNCTION trap.sprung(text) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'trap %', $1; END$$},
	  'CREATE SCHEMA conduit_public',
	  'CREATE TEMP TABLE connection (id uuid)', 'CREATE TEMP TABLE credential (id uuid)', 'CREATE TEMP TABLE connector (slug text)',
	  'CREATE TEMP TABLE pg_extension (extname name, extversion text, extowner oid, extnamespace oid)',
	  'CREATE TEMP TABLE pg_class (oid oid, relname name)', 'CREATE TEMP TABLE pg_proc (oid oid, proname name)',
	  'CREATE TEMP TABLE pg_roles (oid oid, rolname name)', 'CREATE TEMP VIEW pg_namespace AS SELECT trap.sprung($$view$$)',
	  q{CREATE DOMAIN pg_temp.text AS pg_catalog.int4 CHECK (trap.sprung('domain'))},
	  q{CREATE DOMAIN trap.jsonb AS pg_catalog.text CHECK (trap.sprung('domain'))};
	for my $type (@types)
	{
		$wire->query(qq{CREATE FUNCTION trap.equal(pg_catalog.$type, pg_catalog.$type) RETURNS bool LANGUAGE sql AS \$\$SELECT trap.sprung('operator')\$\$});
		for my $operator ('=', '<>', '<', '>', '<=', '>=', '||', '->>')
		{
			is(state_of($wire, "CREATE OPERATOR trap.$operator (LEFTARG = pg_catalog.$type, RIGHTARG = pg_catalog.$type, FUNCTION = trap.equal)"), '',
				"operator $operator of $type");
		}
	}
	my %functions = (now => '', clock_timestamp => '', nextval => 'regclass', count => 'anyelement', coalesce => 'text', format => 'text text',
		octet_length => 'bytea', array_position => 'anyarray anyelement', current_setting => 'text', gen_random_uuid => '', max => 'timestamptz',
		pg_has_role => 'text oid text', aclexplode => 'aclitem[]', regexp_split_to_array => 'text text');
	for my $function (sort keys %functions)
	{
		for my $schema (qw(trap pg_temp))
		{
			my $arguments = join(', ', map { "pg_catalog.$_" } split / /, $functions{$function});
			is(state_of($wire, qq{CREATE FUNCTION $schema."$function"($arguments) RETURNS pg_catalog.text LANGUAGE sql
				AS \$\$SELECT trap.sprung('function')::pg_catalog.text\$\$}), '', "function $schema.$function($arguments)");
		}
	}
	is(state_of($wire, 'RESET ROLE'), '', 'RESET ROLE');
	is(state_of($owner, 'REVOKE mallory FROM service'), '', 'REVOKE');
	is(state_of($owner, 'GRANT USAGE ON SCHEMA trap TO PUBLIC'), '', 'GRANT');

	like(message(wire_with_trap('service'), q{SELECT 1 WHERE 'a'::pg_catalog.text = 'a'::pg_catalog.text}), qr/trap operator/, 'the trap is set');

	for my $role (qw(service admin))
	{
		my $trapped = $role eq 'service' ? $wire : wire('admin');    # the first has the temporary objects
		is(state_of($trapped, 'SET search_path = pg_temp, trap, pg_catalog, public'), '', 'with the trap first in the search path');
		my $id = $trapped->value('SELECT public.conduit_create_connection($1, $2, $3)', 'trapped', 'web', $role);
		my ($grant) = $provider->issue(1, expires_in => 3600);
		my $call = sub {
			my ($expected, $function, @arguments) = @_;
			my $answer = $trapped->query("SELECT * FROM public.$function(" . join(', ', map { "\$$_" } 1 .. @arguments) . ')', @arguments);
			is($answer->{error} ? "$answer->{error}{C} $answer->{error}{M}" : '', $expected, "$role: $function");
			return $answer->{rows};
		};
		$call->('', 'conduit_store_credential', $id, 'OAUTH2', $json->encode($grant));
		is($call->('', 'conduit_vend', 'trapped', $id)->[0][0], $grant->{access_token}, 'vended');
		is($call->('', 'conduit_refresh', 'trapped', $id)->[0][0], 't', 'refreshed');
		is(scalar @{ $call->('', 'conduit_list_connections', 'trapped', 'web') }, $role eq 'service' ? 1 : 2, 'listed');
		$call->('', 'conduit_get_connection', 'trapped', $id);
		is($call->('', 'conduit_find_connection', 'trapped', 'web', $role)->[0][0], $id, 'found');
		$call->('', 'conduit_update_connection', 'trapped', $id, "$role 2", '{}', '{"a": 1}');
		$call->('', 'conduit_events_after', 0, 1000);
		$call->('', $_) for qw(conduit_health conduit_stats conduit_doctor conduit_connectors);
		$call->('PT404 connection not found', 'conduit_vend', 'somebody', $id);
		if ($role eq 'admin')
		{
			$call->('', 'conduit_register_connector', 'trapped', '{"name": "T", "auth_type": "basic"}');
			$call->('', 'conduit_drop_connector', 'trapped');
			$call->('', 'conduit_set_client', 'web', 'cid', 'the-client-secret');
			$call->('', $_) for qw(conduit_clients conduit_keyring conduit_rewrap);
			$call->('', 'conduit_grant', 'monitor', 'monitor');
			$call->('', 'conduit_refresh_due', 10);
		}
	}
};

sub wire_with_trap
{
	my $wire = wire($_[0]);
	$wire->query('SET search_path = trap, pg_catalog');
	return $wire;
}

subtest 'an error leaves nothing behind' => sub {
	my $wire = wire('service');
	my $missing = '00000000-0000-7000-8000-000000000000';
	my $block = sub {
		my ($call) = @_;
		return $wire->query(qq{DO \$do\$
			BEGIN
				BEGIN
					PERFORM $call;
				EXCEPTION WHEN OTHERS THEN
					IF current_user <> 'service' OR current_setting('search_path') <> 'public' THEN
						RAISE EXCEPTION 'left behind: %, %', current_user, current_setting('search_path');
					END IF;
					BEGIN
						PERFORM count(*) FROM conduit.credential;
						RAISE EXCEPTION 'tables are open';
					EXCEPTION WHEN insufficient_privilege THEN
						RETURN;
					END;
				END;
				RAISE EXCEPTION 'no error';
			END \$do\$})->{error};
	};
	$wire->query('SET search_path = public');
	for my $call ("conduit_vend('alice', '$missing')", "conduit_vend('bob', '$id')", "conduit_get_connection('bob', '$id')",
		"conduit_store_credential('$id', NULL, 'x')", "conduit_store_credential('$id', 'BASIC', '{}')",
		"conduit_create_connection('alice', 'web', 'main')", "conduit_create_connection('alice', 'unknown')",
		"conduit_update_connection('alice', '$id', params => '{\"a\": \"b\"}')", "conduit_list_connections('alice', page_size => 0)")
	{
		my $error = $block->($call);
		is($error && $error->{M}, undef, $call);
	}
};

# One answer for all that is not the caller's, in all its fields.
subtest 'foreign, unknown and deleted are one' => sub {
	my %foreign = map { $_ => (web_connection('bob', $_))[0] } qw(active dead revoked deleted);
	$foreign{bare} = $cluster->connection('bob', 'web', undef, account => 'bare');
	$foreign{due} = (web_connection('bob', 'due'))[0];
	$foreign{failing} = (web_connection('bob', 'failing'))[0];
	$cluster->sql("SELECT conduit_revoke_connection('bob', '$foreign{revoked}')");
	$cluster->sql("SELECT conduit_delete_connection('bob', '$foreign{deleted}')");
	$cluster->sql("UPDATE conduit.connection SET status = 'NEEDS_REAUTH', status_reason = 'x' WHERE id = '$foreign{dead}'");
	$cluster->sql("UPDATE conduit.credential SET status = 'NEEDS_REAUTH', refresh_at = NULL WHERE connection_id = '$foreign{dead}'");
	$cluster->sql("UPDATE conduit.credential SET expires_at = now() - interval '1 h', due_at = now() - interval '1 h', next_attempt_at = now() + interval '1 h',
		refresh_at = now() + interval '1 h', last_error = 'transient', last_error_code = 'http_500' WHERE connection_id = '$foreign{failing}'");
	$cluster->sql("UPDATE conduit.credential SET due_at = now() - interval '1 min' WHERE connection_id = '$foreign{due}'");

	my %calls = (
		conduit_vend => [ 'service', '($1, $2)' ],
		'conduit_vend, scopes' => [ 'service', "(\$1, \$2, '1 hour', '{admin}')" ],
		conduit_refresh => [ 'service', '($1, $2)' ],
		'conduit_refresh, generation' => [ 'service', '($1, $2, 7)' ],
		conduit_get_connection => [ 'app', '($1, $2)' ],
		conduit_update_connection => [ 'app', "(\$1, \$2, 'another', '{}', '{}')" ],
		conduit_revoke_connection => [ 'app', '($1, $2)' ],
		conduit_delete_connection => [ 'app', '($1, $2)' ]);
	my %stranger = ('another owner' => [ 'carol', '' ], 'another tenant' => [ 'bob', 'other' ]);

	for my $name (sort keys %calls)
	{
		my ($role, $arguments) = @{ $calls{$name} };
		my ($function) = $name =~ /^(\w+)/;
		my $wire = wire($role);
		my $ask = sub {
			my ($owner, $id, $tenant) = @_;
			(my $call = $arguments) =~ s/\)$/, tenant => \$3)/;
			my $answer = $wire->query("SELECT * FROM $function$call", $owner, $id, $tenant);
			return $json->encode([ $answer->{error}, $answer->{notices}, $answer->{rows} ]);
		};
		my $unknown = $ask->('carol', '00000000-0000-7000-8000-000000000000', '');
		like($unknown, qr/"C":"PT404".*"M":"connection not found"/, "$name: unknown");
		unlike($unknown, qr/"D":|00000000|carol/, "$name: nothing of the question is in the answer");
		for my $who (sort keys %stranger)
		{
			my ($owner, $tenant) = @{ $stranger{$who} };
			is($ask->($owner, $foreign{$_}, $tenant), $unknown, "$name: $who, $_") for sort keys %foreign;
		}
		is($ask->('bob', $foreign{deleted}, ''), $unknown, "$name: the owner, deleted");
	}
	is(state_of(wire('service'), 'SELECT conduit_store_credential($1, NULL, $2, $3)', $foreign{active}, '{"access_token": "x"}', 'other'), 'PT404',
		'storing asks for the tenant');
	is($cluster->sql("SELECT count(*) FROM conduit.connection WHERE owner = 'bob'"), 6, 'and all of them are as they were');
};

# Whoever writes to the tables, with a copy of an old dump perhaps, can break a
# credential but not have it opened in another place.
subtest 'sealed blobs stay in their place' => sub {
	my $wire = wire();
	my ($one, $first) = web_connection('alice', 'one');
	my ($two) = web_connection('alice', 'two');
	my ($bobs) = web_connection('bob', 'swap');
	my $requests = $provider->counts->{total};
	my $refused = sub {
		my ($what, $update, $owner, $id, $tenant) = @_;
		$wire->query('BEGIN');
		is($wire->simple($update)->{error}, undef, "$what: written");
		is(message($wire, 'SELECT conduit_vend($1, $2, tenant => $3)', $owner // 'alice', $id // $one, $tenant // ''),
			'PT500 credential cannot be opened', "$what: refused");
		$wire->query('ROLLBACK');
	};
	my $set = sub { return "UPDATE conduit.credential SET $_[0] WHERE connection_id = '$one'"; };

	is($wire->value($vend, 'alice', $one), $first->{access_token}, 'in its place it opens');
	$refused->('of another connection of the same owner',
		$set->("access = (SELECT access FROM conduit.credential WHERE connection_id = '$two')"));
	$refused->('of another owner', $set->("access = (SELECT access FROM conduit.credential WHERE connection_id = '$bobs')"));
	$refused->('the refresh part as access part', $set->('access = refresh'));
	$refused->('another owner', $set->("owner = 'carol'"), 'carol');
	$refused->('another tenant', $set->("tenant = 'other'"), 'alice', $one, 'other');
	$refused->('another generation', $set->('generation = generation + 1'));
	$refused->('another origin', $set->("origin = 'https://evil.example.com:443'"));
	$refused->('another connector', $set->("connector = 'github'"));
	$refused->('another id', qq{
		INSERT INTO conduit.connection (id, tenant, owner, connector, created_at, updated_at)
			VALUES ('00000000-0000-7000-8000-00000000000a', '', 'alice', 'web', now(), now());
		UPDATE conduit.credential SET connection_id = '00000000-0000-7000-8000-00000000000a' WHERE connection_id = '$one'},
		'alice', '00000000-0000-7000-8000-00000000000a');
	$refused->('nothing', $set->(q{access = ''}));
	$refused->('a client secret', $set->('access = (SELECT secret FROM conduit.client_secret LIMIT 1)'));

	my $length = $wire->value('SELECT octet_length(access) FROM conduit.credential WHERE connection_id = $1', $one);
	my %seen;
	for my $byte (0 .. $length - 1)
	{
		$wire->query('BEGIN');
		$wire->query($set->("access = set_byte(access, $byte, get_byte(access, $byte) # " . (1 << $byte % 8) . ')'));
		$seen{ message($wire, $vend, 'alice', $one) }++;
		$wire->query('ROLLBACK');
		$wire->query('BEGIN');
		$wire->query($set->("access = substr(access, 1, $byte)"));
		$seen{ message($wire, $vend, 'alice', $one) }++;
		$wire->query('ROLLBACK');
	}
	my $opened = delete $seen{''};
	is($opened, undef, 'no changed byte, no lost end goes unseen');
	is_deeply([ sort grep { !/^PT500 (?:credential cannot be opened|key not in keyring)$/ } keys %seen ], [], 'and each is one of two errors')
	  or diag explain \%seen;

	# a former blob with its former generation's number, after a refresh
	my $old = $wire->value(q{SELECT encode(access, 'hex') FROM conduit.credential WHERE connection_id = $1}, $one);
	my $refresh = $wire->value(q{SELECT encode(refresh, 'hex') FROM conduit.credential WHERE connection_id = $1}, $one);
	is($wire->value('SELECT refreshed FROM conduit_refresh($1, $2)', 'alice', $one), 't', 'refreshed');
	$refused->('of a former generation', $set->("access = '\\x$old'"));
	$requests = $provider->counts->{total};

	# what only the worker opens
	my $unsent = sub {
		my ($what, $update, $restore) = @_;
		is($wire->simple($update)->{error}, undef, "$what: written");
		$wire->query('SELECT conduit_refresh($1, $2)', 'alice', $one);
		is($cluster->sql("SELECT last_error || ' ' || last_error_code FROM conduit.credential WHERE connection_id = '$one'"),
			'config cannot_open', "$what: refused");
		is($provider->counts->{total}, $requests, "$what: not sent");
		$wire->simple($restore) if $restore;
		$wire->simple($set->('last_error = NULL, last_error_code = NULL, next_attempt_at = NULL'));
	};
	my $keep = 'CREATE TEMP TABLE kept AS SELECT * FROM conduit.credential';
	$wire->simple($keep);
	my $back = $set->('refresh = k.refresh, access = k.access, generation = k.generation, origin = k.origin FROM kept k');
	$back =~ s/WHERE connection_id = /WHERE k.connection_id = credential.connection_id AND credential.connection_id = /;
	$unsent->('refresh part of another connection',
		$set->("refresh = (SELECT refresh FROM conduit.credential WHERE connection_id = '$two')"), $back);
	$unsent->('access part as refresh part', $set->('refresh = access'), $back);
	$unsent->('refresh part of a former generation', $set->("refresh = '\\x$refresh'"), $back);
	$unsent->('a changed byte', $set->('refresh = set_byte(refresh, 100, get_byte(refresh, 100) # 1)'), $back);

	# a client's secret under another client
	$cluster->connector('twin', token_url => $provider->url . '/token', client_secret => 'the secret of the twin');
	$wire->simple('CREATE TEMP TABLE secrets AS SELECT * FROM conduit.client_secret');
	$unsent->('the client secret of another connector', q{UPDATE conduit.client_secret SET secret =
			(SELECT s.secret FROM conduit.client_secret s JOIN conduit.client c ON c.id = s.client WHERE c.connector = 'twin')
			WHERE client = (SELECT id FROM conduit.client WHERE connector = 'web')},
		'UPDATE conduit.client_secret s SET secret = o.secret FROM secrets o WHERE o.id = s.id');

	is($wire->value('SELECT refreshed FROM conduit_refresh($1, $2)', 'alice', $one), 't', 'put back, all is well');
	is($provider->counts->{total}, $requests + 1, 'and one request is sent');
};

subtest 'a token goes to where it came from' => sub {
	my $evil = $attacker->url;
	$cluster->connector('moving', token_url => $provider->url . '/token/moving');
	my ($grant) = $provider->issue(1, expires_in => 3600);
	my $id = $cluster->connection('alice', 'moving', $grant, account => 'moving');
	my $register = sub {
		my (%fields) = @_;
		return $cluster->sql(q{SELECT conduit_register_connector('moving', '} . $json->encode({
			name => 'M', auth_type => 'oauth2_code', authorize_url => 'https://provider.example.com/authorize', client_auth => 'post', %fields }) . q{')});
	};
	my $code = "SELECT last_error || ' ' || last_error_code FROM conduit.credential WHERE connection_id = '%s'";

	for my $change ({ token_url => "$evil/token" }, { token_url => $provider->url . '/token/moving', refresh_url => "$evil/token" })
	{
		my $what = join(', ', sort keys %$change);
		$register->(%$change);
		$cluster->sql("SELECT conduit_refresh('alice', '$id')");
		is($cluster->sql(sprintf $code, $id), 'config origin_changed', "$what: noticed");
		is($cluster->sql("SELECT status FROM conduit.connection WHERE id = '$id'"), 'ACTIVE', "$what: and no connection is lost");
		$cluster->sql("UPDATE conduit.credential SET last_error = NULL, last_error_code = NULL WHERE connection_id = '$id'");
	}

	# a grant that the attacker hands out itself does not bring it the client's secret
	$register->(token_url => "$evil/token");
	my ($bait) = $attacker->issue(1, expires_in => 3600);
	my $baited = $cluster->connection('mallory', 'moving', $bait, account => 'bait');
	$cluster->sql("SELECT conduit_refresh('mallory', '$baited')");
	like($cluster->sql(sprintf $code, $baited), qr/^config (?:client_missing|cannot_open)$/, 'the client secret is bound to the origin as well');
	is($attacker->counts->{total}, 0, 'the attacker has had no request');
	is($provider->counts('/token/moving')->{total}, 0, 'nor has the provider');

	$register->(token_url => $provider->url . '/token/moving');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'where it was, all is well');

	# the connection's own parameters lead elsewhere
	$register->(token_url => 'https://{site}.example.com/token', params => { site => { pattern => '^[a-z]+$' } });
	my $templated = $cluster->sql(q{SELECT conduit_create_connection('alice', 'moving', 'templated', '{"site": "home"}')});
	$cluster->store($templated, ($provider->issue(1, expires_in => 3600))[0]);
	is($cluster->sql("SELECT has_credential FROM conduit_get_connection('alice', '$templated')"), 't', 'parameters of a connection');
	$cluster->sql(qq{SELECT conduit_update_connection('alice', '$templated', params => '{"site": "away"}')});
	is($cluster->sql("SELECT has_credential FROM conduit_get_connection('alice', '$templated')"), 'f', 'that lead elsewhere drop the credential');
	like($cluster->error(qq{SELECT conduit_create_connection('alice', 'moving', 'injected', '{"site": "$_"}')}), qr/^22023/, "a site cannot be $_")
	  for '127.0.0.1/', 'evil.example.net/?', 'a.b', '', 'A', 'home\\n';
	is($attacker->counts->{total}, 0, 'the attacker has had no request');
};

subtest 'internal hosts' => sub {
	my $port = $attacker->port;
	my $wire = wire('admin');
	my $register = sub {
		my ($slug, $url) = @_;
		return state_of($wire, 'SELECT conduit_register_connector($1, $2)', $slug, $json->encode({ name => 'I', auth_type => 'oauth2_code',
			authorize_url => 'https://provider.example.com/authorize', token_url => $url, client_auth => 'none' }));
	};
	is($register->('inside', "http://127.0.0.1:$port/token"), '', 'a loopback host that is allowed');
	$cluster->sql(q{SELECT conduit_set_client('inside', 'cid')});
	my $id = $cluster->connection('alice', 'inside', ($attacker->issue(1, expires_in => 3600))[0]);

	$cluster->setting('conduit.egress_allow', '');
	$cluster->sql("SELECT conduit_refresh('alice', '$id')");
	is($cluster->sql("SELECT last_error || ' ' || last_error_code FROM conduit.credential WHERE connection_id = '$id'"),
		'config endpoint_invalid', 'is not reached when it is no longer');

	my $n = 0;
	for my $host ('127.0.0.1', '127.1', '2130706433', '0x7f000001', '0177.0.0.1', '0.0.0.0', '[::1]', '[::]', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]',
		'[64:ff9b::7f00:1]', '[2002:7f00:1::]', '10.0.0.1', '172.16.0.1', '192.168.1.1', '100.64.0.1', '169.254.169.254', '[fe80::1]', '[fd00::1]',
		'224.0.0.1', '255.255.255.255', 'localhost', 'LOCALHOST', 'localhost.', 'sub.localhost', '127.0.0.1.', '%31%32%37.0.0.1', '１２７.0.0.1')
	{
		is($register->("bad_" . $n++, "https://$host:$port/token"), '22023', "https://$host");
	}
	for my $url ("http://example.com/token", 'ftp://example.com/', 'file:///etc/passwd', 'gopher://example.com/', '//example.com/',
		"https://example.com\@127.0.0.1:$port/", "https://user:pass\@example.com/", "https://example.com#\@127.0.0.1/", "https://127.0.0.1\\\@example.com/",
		"https://example.com:0/", "https://example.com:99999/", "https://exa mple.com/", "https://", "https:///token", "https://example.com/\r\nHost: 127.0.0.1", '')
	{
		(my $shown = $url) =~ s/\W*\r\n/ CRLF /;
		is($register->("bad_" . $n++, $url), '22023', $shown);
	}
	is($register->('outside', 'https://example.com/token'), '', 'another host is taken');
	is($attacker->counts->{total}, 0, 'the host inside has had no request');
	$cluster->setting('conduit.egress_allow', '127.0.0.0/8');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'allowed again, it is reached');
	is($attacker->counts->{total}, 1, 'once');
};

subtest 'forged notifications' => sub {
	my $mallory = wire('mallory');
	my $listener = wire('service');
	$cluster->poll('SELECT unnumbered_events = 0 FROM conduit_health()') or die 'events are not told';
	$listener->query('LISTEN conduit_events');
	my $before = $cluster->sql('SELECT count(*), max(seq) FROM conduit.event');

	is($mallory->query(q{SELECT count(pg_notify('conduit_events', '{"seq":' || n || ',"event":"needs_reauth","connection_id":null}')) FROM generate_series(1, 20000) n})->{error},
		undef, 'anybody may notify');
	is($cluster->sql('SELECT count(*), max(seq) FROM conduit.event'), $before, 'but the events are what they were');
	my $seq = (split /\|/, $before)[1];
	my $id = $cluster->connection('alice', 'web', undef, account => 'after the flood');
	ok($cluster->poll("SELECT count(*) = 1 FROM conduit_events_after($seq)"), 'a true one has a number');
	my @payloads;
	for (1 .. 1000)
	{
		push @payloads, grep { /\Q$id\E/ } map { $_->[1] } @{ $listener->query('SELECT 1')->{notifications} };
		last if @payloads;
	}
	is(scalar @payloads, 1, 'and is told of, after the flood');
	is_deeply([ sort keys %{ $json->decode($payloads[0]) } ], [qw(connection_id event seq)], 'by its number and its connection');
	is($cluster->sql('SELECT status FROM conduit.connection WHERE id = \'' . $id . '\''), 'ACTIVE', 'a forged flip flips nothing');
};

is($cluster->sql('SELECT worker FROM conduit_health()'), 'running', 'after all that the worker is well');
is($cluster->sql("SELECT access_token <> '' FROM conduit_vend('alice', '$id')"), 't', 'and tokens are vended');

done_testing();
