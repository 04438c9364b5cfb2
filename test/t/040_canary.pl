# No secret in clear ever reaches a heap page, WAL, a log, a statistics view, a
# temporary file, a NOTIFY payload, a dump or an error text.
#
# Unique secrets go through the whole line, bound as parameters, on a server
# that logs and counts all it can.  Then everything that the server has written
# or shows is searched for any twelve characters of them, in many encodings.
# The same search must find what is planted for it, in each of those places.

use strict;
use warnings;

use File::Find;
use File::Temp ();
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Conduit::Cluster;
use Conduit::Provider;
use Conduit::Wire;

my $json = JSON::PP->new->canonical;

# ---- what is looked for ----

# A secret is a few pieces with characters between them that encodings change.
# One piece is enough to give it away, so each is searched for by itself.
my @alphabet = ('a' .. 'z', 'A' .. 'Z', '0' .. '9');
my %piece_of;    # piece => name of the secret

sub piece
{
	my ($name) = @_;
	open(my $random, '<:raw', '/dev/urandom') or die "could not open /dev/urandom: $!";
	my $text = '';
	while (length $text < 12)
	{
		read($random, my $byte, 1) == 1 or die "could not read /dev/urandom";
		$text .= $alphabet[ ord $byte ] if ord $byte < @alphabet;
	}
	$piece_of{$text} = $name;
	return $text;
}

sub secret
{
	my ($name) = @_;
	return piece($name) . '/' . piece($name) . '+' . piece($name) . '%=';
}

# A key of the keyring, in base64; looked for as bytes and as text.
sub key_secret
{
	my ($name) = @_;
	my $key = Conduit::Cluster->new_key;
	$piece_of{ substr(decode_base64($key), 0, 16) } = "$name, bytes";
	$piece_of{ substr(decode_base64($key), 16, 16) } = "$name, bytes";
	$piece_of{ substr($key, 0, 20) } = "$name, text";
	$piece_of{ substr($key, 20, 20) } = "$name, text";
	return $key;
}

# A private key in PEM form; looked for as bytes and as text.  Its first half is
# what the public key tells.
sub private_key
{
	my ($name) = @_;
	my ($pem) = Conduit::Provider->make_key('RS256');
	my @lines = grep { !/-/ } split /\n/, $pem;
	for my $line (@lines[ @lines / 2 .. $#lines - 1 ])
	{
		$piece_of{ substr($line, 0, 20) } = "$name, text";
		$piece_of{ substr(decode_base64($line), 0, 16) } = "$name, bytes";
	}
	return $pem;
}

# All forms of a piece; of base64 what stays the same whatever stands around it.
sub encodings
{
	my ($piece) = @_;
	my $hex = unpack('H*', $piece);
	my %forms = (
		plain    => $piece,
		reversed => scalar reverse($piece),
		hex      => $hex,
		'upper-case hex' => uc $hex,
		'percent-encoded' => join('', map { sprintf '%%%02X', ord } split //, $piece),
		'JSON escapes'    => join('', map { sprintf '\u%04x', ord } split //, $piece),
		'octal escapes'   => join('', map { sprintf '\\%03o', ord } split //, $piece),
		'UTF-16' => join("\0", split //, $piece),
		'UTF-32' => join("\0\0\0", split //, $piece));
	for my $before (0 .. 2)
	{
		my $text = encode_base64("\0" x $before . $piece, '');
		my $known = int((8 * ($before + length $piece)) / 6);
		my $from = $before == 0 ? 0 : $before + 1;
		$text = substr($text, $from, $known - $from);
		$forms{"base64 at $before"} = $text;
		(my $url = $text) =~ tr{+/}{-_};
		$forms{"base64url at $before"} = $url if $url ne $text;
	}
	return %forms;
}

# Of more alternatives than some 6000 Perl makes no trie, but tries them one by
# one, at every place: several patterns of fewer are a thousand times as fast.
my $forms_of_a_pattern = 4000;
my (@patterns, %form_of);

sub build_pattern
{
	%form_of = ();
	for my $piece (keys %piece_of)
	{
		my %forms = encodings($piece);
		$form_of{ $forms{$_} } //= [ $piece_of{$piece}, $_ ] for keys %forms;
	}
	my @forms = map { quotemeta } sort keys %form_of;
	@patterns = ();
	while (my @some = splice(@forms, 0, $forms_of_a_pattern))
	{
		my $alternatives = join('|', @some);
		push @patterns, qr/($alternatives)/;
	}
	return;
}

my %found;    # name of the secret => place => form

sub search
{
	my ($place, $text) = @_;
	utf8::encode($text) if utf8::is_utf8($text);
	for my $pattern (@patterns)
	{
		while ($text =~ /$pattern/g)
		{
			my ($name, $form) = @{ $form_of{$1} };
			$found{$name}{$place} //= $form;
		}
	}
	return;
}

# ---- the server ----

my @keys = map { key_secret("keyring key $_") } 1 .. 3;
my $ring = "k1:$keys[0]\n";

my $cluster = Conduit::Cluster->new('canary',
	init => [ extra => [ '--wal-segsize=1' ] ],
	keyring => $ring,
	settings => q{
shared_preload_libraries = 'pg_stat_statements,conduit'
restart_after_crash = on
wal_level = logical
wal_keep_size = 4GB
autovacuum = off
log_statement = all
log_min_duration_statement = 0
log_duration = on
log_connections = on
log_disconnections = on
log_error_verbosity = verbose
log_lock_waits = on
log_temp_files = 0
track_activity_query_size = 64kB
track_functions = all
track_io_timing = on
pg_stat_statements.track = all
pg_stat_statements.track_utility = on
pg_stat_statements.save = on
});
my $node = $cluster->node;
my $database = $cluster->database;

$cluster->sql('CREATE EXTENSION pg_stat_statements');
$cluster->sql(q{SELECT pg_create_logical_replication_slot('canary', 'test_decoding')});

$cluster->sql(q{SELECT conduit_register_connector('pair', '{"name": "Pair", "auth_type": "basic"}')});

my $provider = Conduit::Provider->start('scripted');

my @heard;    # error texts, notices and notifications, all fields
my $client_messages = 'notice';

sub wire
{
	return Conduit::Wire->connect($node, $database, client_min_messages => $client_messages);
}

sub hear
{
	my ($answer) = @_;
	for my $message ($answer->{error} // (), @{ $answer->{notices} })
	{
		push @heard, join("\n", map { "$_: $message->{$_}" } sort keys %$message);
	}
	push @heard, map { "@$_" } @{ $answer->{notifications} };
	return $answer;
}

sub ask { my ($wire, @statement) = @_; return hear($wire->query(@statement)); }

# The rows of a statement that must succeed.
sub rows
{
	my ($wire, @statement) = @_;
	my $answer = ask($wire, @statement);
	die "$statement[0]: $answer->{error}{C} $answer->{error}{M}" if $answer->{error};
	return $answer->{rows};
}

sub one { my $rows = rows(@_); return @$rows ? $rows->[0][0] : undef; }

sub state_of { my $answer = ask(@_); return $answer->{error} ? $answer->{error}{C} : ''; }

# All that monitoring shows: every view, as text.  It is taken in one session
# whose statements name no secret.
my @views = split /\n/, $cluster->sql(q{
	SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind = 'v' AND n.nspname IN ('pg_catalog', 'public')
		AND has_table_privilege('pg_monitor', c.oid, 'SELECT') ORDER BY 1});

my @shown;

sub look_at_views
{
	my $wire = wire();
	for my $view (@views)
	{
		my $answer = $wire->simple("SELECT v::text FROM $view v");
		push @shown, [ "view $view", join("\n", map { $_->[0] // '' } @{ $answer->{rows} }) ] unless $answer->{error};
	}
	for my $function (qw(conduit_connectors conduit_clients conduit_health conduit_stats conduit_doctor conduit_keyring))
	{
		push @shown, [ "function $function", $json->encode(rows($wire, "SELECT v::text FROM $function() v")) ];
	}
	return;
}

# ---- the whole line ----

# gpg's, with a subkey to encrypt to.
my $public_key = do {
	my $home = File::Temp->newdir('gpg-XXXXXX', TMPDIR => 1);
	my @gpg = ('gpg', '--homedir', "$home", '--batch', '--quiet', '--no-tty', '--pinentry-mode', 'loopback', '--passphrase', '');
	my $gpg = sub {
		my ($out, $err) = ('', '');
		IPC::Run::run([ @gpg, @_ ], '<', \undef, '>', \$out, '2>', \$err) or die "gpg: $err";
		return $out;
	};
	$gpg->('--quick-generate-key', 'canary@example.org', 'rsa2048', 'cert', 'never');
	my ($fingerprint) = $gpg->('--with-colons', '--list-keys') =~ /^fpr:+(\w+):/m;
	$gpg->('--quick-add-key', $fingerprint, 'rsa2048', 'encr', 'never');
	my $key = $gpg->('--export', 'canary@example.org');
	IPC::Run::run([ 'gpgconf', '--homedir', "$home", '--kill', 'all' ]);
	'\x' . unpack('H*', $key);
};

my $clock = 0;
my $path;     # of the token endpoint, and a part of the connector's name

sub prefix { my ($name) = @_; return join('.', map { piece($name) } 1 .. 2) . '~'; }

sub refresh
{
	my ($wire, $id) = @_;
	return ask($wire, 'SELECT refreshed FROM conduit_refresh($1, $2)', 'alice', $id);
}

sub vend
{
	my ($wire, $id) = @_;
	return rows($wire, 'SELECT * FROM conduit_vend($1, $2)', 'alice', $id)->[0];
}

sub store
{
	my ($wire, $id, $secret) = @_;
	return ask($wire, 'SELECT conduit_store_credential($1, NULL, $2)', $id, ref $secret ? $json->encode($secret) : $secret);
}

sub generation
{
	my ($id) = @_;
	return $cluster->sql("SELECT generation FROM conduit.credential WHERE connection_id = '$id'");
}

sub wait_for_generation
{
	my ($id, $least) = @_;
	$cluster->poll("SELECT generation >= $least FROM conduit.credential WHERE connection_id = '$id'")
	  or die "generation of $id is not $least";
	return;
}

sub create
{
	my ($wire, $connector, $account) = @_;
	return one($wire, 'SELECT conduit_create_connection($1, $2, $3)', 'alice', $connector, $account);
}

sub stored_and_vended
{
	my ($wire, $pass) = @_;
	my %plain = (api_key => secret("$pass: API key"), api_secret => secret("$pass: API secret"));
	my %pair = (username => secret("$pass: user name"), password => secret("$pass: password"));
	my $key = create($wire, 'alpaca', "key $pass");
	my $pair = create($wire, 'pair', "pair $pass");

	is(state_of($wire, 'SELECT conduit_store_credential($1, $2, $3)', $key, 'API_KEY', $json->encode(\%plain)), '', 'an API key is stored');
	is(state_of($wire, 'SELECT conduit_store_credential($1, $2, $3)', $pair, 'BASIC', $json->encode(\%pair)), '', 'a basic pair too');
	is_deeply([ @{ vend($wire, $key) }[ 3, 4 ] ], [ @plain{qw(api_key api_secret)} ], 'the API key is vended');
	is_deeply([ @{ vend($wire, $pair) }[ 5, 6 ] ], [ @pair{qw(username password)} ], 'the pair is vended');
	return ($key, $pair);
}

# What tokens are minted with.
sub minted
{
	my ($wire, $pass, $client_secret) = @_;
	my $key = private_key("$pass: private key");
	my %mints = (
		"client_$path" => [ { auth_type => 'oauth2_client_credentials', token_url => $provider->url . "/token/client_$path" },
			{ client_id => 'cid', client_secret => $client_secret } ],
		"jwt_$path" => [ { auth_type => 'jwt_bearer', jwt_in => 'authorization', access_token_path => 'token', token_url => $provider->url . "/installations/$path" },
			{ issuer => 'minter', private_key => $key } ]);
	my @ids;

	for my $slug (sort keys %mints)
	{
		my ($definition, $secret) = @{ $mints{$slug} };
		rows($wire, 'SELECT conduit_register_connector($1, $2)', $slug, $json->encode($definition));
		my $id = create($wire, $slug, "mint $pass");
		is(store($wire, $id, $secret)->{error}, undef, "what mints is stored: $slug");
		like(vend($wire, $id)->[0], qr/^at-/, 'and mints');
		is(refresh($wire, $id)->{rows}[0][0], 't', 'again and again');
		push @ids, $id;
	}
	$provider->script("/token/client_$path", [ { status => 400, json => { error => "bad secret $client_secret" } } ]);
	ok(refresh($wire, $ids[0])->{rows}[0][0] eq 'f', 'what refuses it may quote it');
	return @ids;
}

# A grant of the provider, with whatever else token responses may have in them.
sub grant
{
	my ($pass, $name) = @_;
	my ($grant) = $provider->issue(1, expires_in => 3600, prefix => prefix("$pass: tokens of $name"));
	return {
		%$grant,
		id_token => 'eyJhbGciOiJub25lIn0.' . secret("$pass: id token of $name") . '.',
		client_secret => secret("$pass: echoed client secret of $name"),
		instance => secret("$pass: extra of $name"),
		user => { name => 'x', refresh_token => secret("$pass: nested token of $name") } };
}

# Many at once, good and bad; and one that leaves for somebody else's key.
sub in_bulk
{
	my ($wire, $pass) = @_;
	my $import = 'SELECT ordinal, connection_id, error FROM conduit_import($1, $2)';
	my @good = map { { owner => 'alice', account => "bulk $pass $_", secret => grant($pass, "import $_") } } 1 .. 20;
	my $imported = rows($wire, $import, "web_$path", $json->encode(\@good));
	my $bad = sub { return secret("$pass: bad record $_[0]"); };

	is(scalar(grep { !defined $_->[2] } @$imported), 20, 'grants are imported');
	is(scalar(grep { defined $_->[2] } @{ rows($wire, $import, "web_$path", '[' . join(',', $bad->('bare'), '"' . $bad->('text') . '"',
		'{"owner": "a", "' . $bad->('key') . '": 1}', '{"owner": "a", "owner": "' . $bad->('twice') . '"}', '{"owner": ["' . $bad->('owner') . '"]}',
		'{"owner": "a", "params": {"' . $bad->('variable') . '": "x"}}', '{"owner": "a", "client_id": "' . $bad->('client') . '"}',
		'{"owner": "a", "secret": "' . $bad->('secret') . '"}', '{"owner": "a", "secret": {"access_token": "' . $bad->('token') . '\\u0000"}}') . ']') }), 9,
		'bad records are not');
	is(state_of($wire, $import, "web_$path", '[{"secret": "' . $bad->('open')), '22023', 'nor what is no array');
	is(scalar(grep { defined $_->[0] } @{ rows($wire, 'SELECT access_token, error FROM conduit_vend_many($1, $2)', 'alice', '{' . join(',', map { $_->[1] } @$imported) . '}') }), 20,
		'all are vended together');
	my $export = 'SELECT octet_length(conduit_export_credential($1, $2, $3))';
	cmp_ok(one($wire, $export, 'alice', $imported->[0][1], $public_key), '>', 500, 'one is exported');
	is(state_of($wire, $export, 'alice', $imported->[0][1], '\x' . unpack('H*', 'no key')), '22023', 'but not for what is no key');
	return;
}

# The provider repeats the token that it is to revoke.
sub revoked
{
	my ($wire, $pass) = @_;
	my $id = create($wire, "web_$path", "revoked $pass");
	my $grant = grant($pass, 'a grant that is revoked');

	store($wire, $id, $grant);
	rows($wire, 'DELETE FROM conduit.credential WHERE connection_id IN (SELECT id FROM conduit.connection WHERE account LIKE $1)', 'bulk %');
	$provider->script("/revoke/$path", [ { status => 400, json => { error => $grant->{refresh_token}, error_description => "no $grant->{refresh_token}" } } ]);
	rows($wire, 'SELECT conduit_revoke_connection($1, $2)', 'alice', $id);
	ok($cluster->poll("SELECT last_error IS NOT NULL FROM conduit.revocation WHERE connection_id = '$id'"), 'a revocation fails');
	take_tables();
	$cluster->set_clock($clock += 100);
	ok($cluster->poll("SELECT count(*) = 0 FROM conduit.revocation WHERE connection_id = '$id'"), 'and succeeds');
	is(($provider->log("/revoke/$path"))[-1]{params}{token}, $grant->{refresh_token}, 'with the token itself');
	return;
}

sub refreshed
{
	my ($wire, $pass) = @_;
	my $id = create($wire, "web_$path", "web $pass");
	my $grant = grant($pass, 'the first grant');

	is(store($wire, $id, $grant)->{error}, undef, 'a token response is stored');
	is(vend($wire, $id)->[0], $grant->{access_token}, 'its token is vended');
	like(vend($wire, $id)->[8], qr/\Q$grant->{instance}\E/, 'and the extra');

	is(refresh($wire, $id)->{rows}[0][0], 't', 'refreshed on demand');
	isnt(vend($wire, $id)->[0], $grant->{access_token}, 'and the new token is vended');
	$cluster->set_clock($clock += 3500);
	wait_for_generation($id, 3);
	return $id;
}

sub failed
{
	my ($wire, $pass, $id, $client_secret) = @_;
	my ($family) = $provider->tokens(refresh_token => ($provider->log("/token/$path"))[-1]{params}{refresh_token});
	my $token = $family->{refresh_token} or die 'no live refresh token';
	my $page = secret("$pass: page");
	my @steps = (
		[ 'an HTML page', { status => 500, headers => { 'content-type' => 'text/html', 'x-token' => secret("$pass: header") },
			body => "<html>$page $token</html>" } ],
		[ 'a redirect', { redirect => 'https://example.com/?token=' . secret("$pass: location") . "&$token" } ],
		[ 'the token as error code', { status => 400, json => { error => $token } } ],
		[ 'the client secret as error code', { status => 400, json => { error => "bad secret $client_secret" } } ],
		[ 'an error in prose', { status => 400, json => { error => 'strange', error_description => "$page: $token" } } ],
		[ 'broken JSON', { status => 400, body => qq({"error": "$page, "access_token": "$token" ) } ],
		[ 'not HTTP', { raw => "$page $token\r\n\r\n" } ]);

	for my $step (@steps)
	{
		$provider->script("/token/$path", [ $step->[1] ]);
		my $answer = refresh($wire, $id);
		ok($answer->{error} || $answer->{rows}[0][0] eq 'f', "$step->[0] refreshes nothing");
	}
	$cluster->set_clock($clock += 1500);
	wait_for_generation($id, 4);
	pass('the token is still good after all that');

	$token = ($provider->tokens(family => $family->{family}))[0]{refresh_token};
	$provider->script("/token/$path",
		[ { status => 400, json => { error => 'invalid_grant', error_description => "Token $token is dead, $page" } } ]);
	like(refresh($wire, $id)->{error}{C}, qr/PT409/, 'a dead token');
	is($cluster->sql("SELECT status FROM conduit.connection WHERE id = '$id'"), 'NEEDS_REAUTH', 'flips the connection');
	is(store($wire, $id, grant($pass, 'the second grant'))->{error}, undef, 'until another is stored');
	return;
}

sub malformed
{
	my ($wire, $pass, $key, $pair, $web) = @_;
	my $s = sub { return secret("$pass: malformed $_[0]"); };
	my @cases = (
		[ $key, 'bare', $s->('bare') ],
		[ $key, 'unclosed string', '{"api_key": "' . $s->('unclosed') ],
		[ $key, 'unquoted', '{"api_key": ' . $s->('unquoted') . '}' ],
		[ $key, 'single quotes', "{'api_key': '" . $s->('single') . "'}" ],
		[ $key, 'trailing comma', '{"api_key": "' . $s->('comma') . '",}' ],
		[ $key, 'two objects', '{"api_key": "' . $s->('two') . '"}{"api_key": "' . $s->('two') . '"}' ],
		[ $key, 'bad escape', '{"api_key": "' . $s->('escape') . '\\x"}' ],
		[ $key, 'bad surrogate', '{"api_key": "' . $s->('surrogate') . '\\ud800"}' ],
		[ $key, 'control character', qq({"api_key": "${\$s->('control')}\n"}) ],
		[ $key, 'NUL escape', '{"api_key": "' . $s->('nul') . '\\u0000"}' ],
		[ $key, 'array', '["' . $s->('array') . '"]' ],
		[ $key, 'string', '"' . $s->('string') . '"' ],
		[ $key, 'unknown key', '{"api_key": "x", "' . $s->('key name') . '": "' . $s->('key value') . '"}' ],
		[ $key, 'duplicate key', '{"api_key": "' . $s->('first') . '", "api_key": "' . $s->('second') . '"}' ],
		[ $key, 'both spellings', '{"api_key": "' . $s->('snake') . '", "apiKey": "' . $s->('camel') . '"}' ],
		[ $key, 'a list for a string', '{"api_key": ["' . $s->('list') . '"]}' ],
		[ $key, 'nothing required', '{"api_secret": "' . $s->('alone') . '"}' ],
		[ $key, 'secret as time', '{"api_key": "x", "expires_at": "' . $s->('time') . '"}' ],
		[ $key, 'too deep', '[' x 3000 . '"' . $s->('deep') . '"' . ']' x 3000 ],
		[ $key, 'too long', '{"api_key": "' . $s->('long') . 'x' x 3_000_000 . '"}' ],
		[ $pair, 'no name', '{"password": "' . $s->('nameless') . '"}' ],
		[ $pair, 'an API key', '{"api_key": "' . $s->('kind') . '"}' ],
		[ $web, 'a number', '{"access_token": 12, "refresh_token": "' . $s->('number') . '"}' ],
		[ $web, 'no token', '{"token": "' . $s->('token') . '"}' ],
		[ $web, 'control in a token', '{"access_token": "' . $s->('control token') . '\\n"}' ]);

	is(store($wire, $_->[0], $_->[2])->{error}{C}, '22023', "refused: $_->[1]") for @cases;

	my $unknown = '00000000-0000-7000-8000-000000000000';
	my $good = sub { return $json->encode({ api_key => $s->($_[0]) }); };
	is(store($wire, $unknown, $good->('unknown'))->{error}{C}, 'PT404', 'refused: unknown connection');
	is(state_of($wire, 'SELECT conduit_store_credential($1, $2, $3)', $key, 'BASIC', $good->('wrong kind')), '22023', 'refused: wrong kind');
	is(state_of($wire, 'SELECT conduit_store_credential($1, $2, $3)', $key, $s->('kind'), $good->('bad kind')), '22023', 'refused: a secret as kind');
	is(state_of($wire, 'SELECT conduit_store_credential($1, NULL, $2, $3)', $key, $good->('tenant'), 'other'), 'PT404', 'refused: another tenant');
	is(state_of($wire, 'SELECT conduit_set_client($1, $2, $3, $4)', "web_$path", 'cid', $s->('client'), '{no uri}'), '22023', 'refused: bad redirect URI');
	is(state_of($wire, 'SELECT conduit_set_client($1, $2, $3)', 'nobody', 'cid', $s->('no connector')), '22023', 'refused: unknown connector');
	return;
}

sub in_transactions
{
	my ($wire, $pass, $key) = @_;
	my $s = sub { return { api_key => secret("$pass: $_[0]") }; };

	rows($wire, 'BEGIN');
	is(store($wire, $key, $s->('rolled back'))->{error}, undef, 'stored');
	rows($wire, 'ROLLBACK');

	rows($wire, 'BEGIN');
	rows($wire, 'SAVEPOINT s');
	is(store($wire, $key, $s->('in a subtransaction'))->{error}, undef, 'stored');
	rows($wire, 'ROLLBACK TO s');
	is(store($wire, $key, $s->('after it'))->{error}, undef, 'stored');
	rows($wire, 'COMMIT');

	rows($wire, 'BEGIN');
	is(store($wire, $key, $s->('prepared'))->{error}, undef, 'stored');
	rows($wire, "PREPARE TRANSACTION 'canary'");
	$cluster->sql('CHECKPOINT');
	rows($wire, "COMMIT PREPARED 'canary'");

	rows($wire, 'BEGIN');
	is(store($wire, $key, $s->('before an error'))->{error}, undef, 'stored');
	is(state_of($wire, 'SELECT 1/0'), '22012', 'an error');
	is(store($wire, $key, $s->('after an error'))->{error}{C}, '25P02', 'refused by then');
	rows($wire, 'ROLLBACK');

	# The server knows a statement's parameters also where it waits for a lock.
	my $holder = wire();
	rows($holder, 'BEGIN');
	rows($holder, 'SELECT 1 FROM conduit.connection WHERE id = $1 FOR UPDATE', $key);
	$wire->send('SELECT conduit_store_credential($1, NULL, $2)', $key, $json->encode($s->('waiting for a lock')));
	$cluster->poll('SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = \'Lock\' AND pid = ' . $wire->pid)
	  or die 'nobody waits';
	look_at_views();
	$wire->cancel;
	is(hear($wire->receive)->{error}{C}, '57014', 'cancelled in a wait for a lock');
	rows($holder, 'ROLLBACK');
	return;
}

sub cancelled
{
	my ($wire, $pass, $id) = @_;
	my $before = generation($id);

	$provider->script("/token/$path", [ { rotate => JSON::PP::true, hang => JSON::PP::true } ]);
	$wire->send('SELECT refreshed FROM conduit_refresh($1, $2)', 'alice', $id);
	$provider->wait_for("/token/$path", 'hanging', 1);
	look_at_views();
	$wire->cancel;
	is(hear($wire->receive)->{error}{C}, '57014', 'a caller is cancelled');
	$provider->release;
	wait_for_generation($id, $before + 1);
	return;
}

# What others have drawn is looked for in pieces, too; as bytes, like the rest.
sub drawn
{
	my ($name, $text) = @_;
	utf8::downgrade($text);
	$piece_of{ substr($text, 12 * $_, 12) } = $name for 0 .. int(length($text) / 12) - 1;
	return $text;
}

sub callback
{
	my ($owner, $state, $code, $params) = @_;
	return ('SELECT conduit_authorize_callback($1, $2, $3, $4)', $owner, $state, $code, ref $params ? $json->encode($params) : $params);
}

# A state, and a code that the provider knows how to answer.
sub begun
{
	my ($wire, $pass, $name, @step) = @_;
	my $tokens = { access_token => secret("$pass: access token $name"), refresh_token => secret("$pass: refresh token $name"),
		id_token => secret("$pass: id token $name"), sub => 'canary', expires_in => 3600 };
	my $state = drawn("$pass: state $name", one($wire, 'SELECT state FROM conduit_authorize($1, $2)', 'alice', "auth_$path"));

	$provider->script("/token/auth_$path", [ { json => $tokens, @step } ]);
	return ($state, secret("$pass: code $name"), $tokens);
}

# The verifier that went to the provider last.
sub verifier_sent
{
	my ($pass, $name) = @_;
	my $sent = ($provider->log("/token/auth_$path"))[-1]{params};

	drawn("$pass: verifier $name", $sent->{code_verifier});
	return $sent->{code};
}

sub authorized
{
	my ($wire, $pass, $client_secret) = @_;
	my $true = JSON::PP::true;

	rows($wire, 'SELECT conduit_register_connector($1, $2)', "auth_$path", $json->encode({
		name => 'Authorized', auth_type => 'oauth2_code', authorize_url => 'https://provider.example.com/authorize',
		token_url => $provider->url . "/token/auth_$path", client_auth => 'post', pkce => $true, account_path => 'sub' }));
	rows($wire, 'SELECT conduit_set_client($1, $2, $3, $4)', "auth_$path", 'cid', $client_secret, '{https://app.example.com/callback}');

	my ($state, $code, $tokens) = begun($wire, $pass, 'of an authorization');
	my $id = one($wire, callback('alice', $state, $code));
	is(verifier_sent($pass, 'of an authorization'), $code, 'the code was sent, with a verifier');
	is(vend($wire, $id)->[0], $tokens->{access_token}, 'and its token is vended');
	is(one($wire, callback('alice', $state, undef, { code => $code, state => $state })), $id, 'a repetition');
	is(state_of($wire, callback('bob', $state, $code)), 'PT400', 'by another owner');

	# refused, or not even read
	($state, $code) = begun($wire, $pass, 'of a refusal');
	$provider->script("/token/auth_$path", [ { status => 400, json => { error => $code, error_description => "$code is dead" } } ]);
	isnt(state_of($wire, callback('alice', $state, $code)), '', 'a provider that repeats the code');
	verifier_sent($pass, 'of a refusal');
	($state, $code) = begun($wire, $pass, 'of bad params');
	my $s = sub { return secret("$pass: redirect $_[0]"); };
	my @bad = ('{"code": "' . $s->('unclosed'), '["' . $s->('array') . '"]', '{"code": {"x": "' . $s->('nested') . '"}}',
		'{"code": "' . $s->('first') . '", "code": "' . $s->('second') . '"}', '{"' . $s->('name') . '": 1}', '{"x": "' . $s->('blank') . '"}');
	is(state_of($wire, callback('alice', $state, undef, $_)), '22023', 'bad params') for @bad;
	is(state_of($wire, callback('alice', $state, 'x' x 20_000 . $s->('long'))), '22023', 'a code that is too long');
	is(state_of($wire, callback('alice', drawn("$pass: a state of nobody", $s->('state') =~ tr/A-Za-z0-9//cdr), $code)), 'PT400', 'an unknown state');
	is(state_of($wire, callback('alice', $state, $code, { iss => 'https://' . $s->('issuer') })), 'PT400', 'another issuer');

	# the caller is cancelled while the code is out
	($state, $code) = begun($wire, $pass, 'of a cancelled caller', hang => $true);
	$wire->send(callback('alice', $state, $code));
	$provider->wait_for("/token/auth_$path", 'hanging', 1);
	look_at_views();
	$wire->cancel;
	is(hear($wire->receive)->{error}{C}, '57014', 'a caller is cancelled');
	$provider->release;
	is(one($wire, callback('alice', $state, $code)), $id, 'and told when it comes again');
	verifier_sent($pass, 'of a cancelled caller');

	# what came stands in the row of the state for a while
	my $holder = wire();
	($state, $code, $tokens) = begun($wire, $pass, 'that is parked');
	rows($holder, 'BEGIN');
	rows($holder, 'SELECT 1 FROM conduit.connection WHERE id = $1 FOR UPDATE', $id);
	$wire->send(callback('alice', $state, $code));
	hear($wire->receive);
	is($cluster->sql(q{SELECT count(*) FROM conduit.authorize_state WHERE status = 'parked' AND granted IS NOT NULL}), 1, 'a grant is parked');
	$cluster->sql('CHECKPOINT');
	take_tables();
	dump_all('dump');
	rows($holder, 'COMMIT');
	$cluster->poll(q{SELECT count(*) = 0 FROM conduit.authorize_state WHERE status = 'parked'}) or die 'it is still parked';
	is(vend($wire, $id)->[0], $tokens->{access_token}, 'and moved to its place');
	verifier_sent($pass, 'that is parked');
	begun($wire, $pass, 'that nobody uses');
	return $id;
}

sub parked
{
	my ($wire, $pass, $id) = @_;
	my $holder = wire();
	my $before = vend($wire, $id);

	rows($holder, 'BEGIN');
	rows($holder, 'SELECT 1 FROM conduit.credential WHERE connection_id = $1 FOR UPDATE', $id);
	is(refresh($wire, $id)->{rows}[0][0], 't', 'refreshed while the row is held');
	$cluster->sql('CHECKPOINT');
	rows($holder, 'COMMIT');
	wait_for_generation($id, $before->[9] + 1);
	isnt(vend($wire, $id)->[0], $before->[0], 'and moved to its place');
	return;
}

sub crashed
{
	my ($wire, $pass, $id) = @_;

	$provider->script("/token/$path", [ { rotate => JSON::PP::true, hang => JSON::PP::true } ]);
	$wire->send('SELECT refreshed FROM conduit_refresh($1, $2)', 'alice', $id);
	$provider->wait_for("/token/$path", 'hanging', 1);
	my $storing = wire();
	my $holder = wire();
	rows($holder, 'BEGIN');
	rows($holder, 'LOCK TABLE conduit.credential IN EXCLUSIVE MODE');
	$storing->send('SELECT conduit_store_credential($1, NULL, $2)', $id, $json->encode(grant($pass, 'one in a crash')));
	$cluster->poll('SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = \'Lock\' AND pid = ' . $storing->pid)
	  or die 'nobody waits';

	kill 'KILL', $cluster->worker_pid or die "cannot kill the worker: $!";
	ok(hear($_->receive)->{closed}, 'the server ends all sessions') for $wire, $storing;
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	$provider->release;
	$cluster->wait_for_worker;
	$cluster->poll("SELECT status_reason = 'rotation_outcome_lost' FROM conduit.connection WHERE id = '$id'")
	  or die 'the flight in doubt was not tried again';
	pass('the flight in doubt was tried again');
	$wire = wire();
	is(store($wire, $id, grant($pass, 'the third grant'))->{error}, undef, 'and another token is stored');
	return $wire;
}

sub rewrapped
{
	my ($wire, $pass, $n) = @_;

	# what cannot be read of a keyring is not quoted either
	my $broken = piece("$pass: line of the keyring") . piece("$pass: line of the keyring");
	my $offset = -s $node->logfile;
	$cluster->write_keyring("${ring}broken:$broken\n");
	$cluster->reload;
	$node->wait_for_log(qr/keyring/, $offset);
	is(vend($wire, $_[3])->[0] ne '', 1, 'the former keyring stays in force');

	$ring .= "*k$n:$keys[$n - 1]\n";
	$ring =~ s/^\*(?!k$n:)//mg;
	$cluster->write_keyring($ring);
	$cluster->reload;
	my $all = 0;
	while (my $count = one($wire, 'SELECT conduit_rewrap()'))
	{
		$all += $count;
	}
	cmp_ok($all, '>', 3, 'data keys are wrapped anew');
	is(one($wire, "SELECT blobs > 3 FROM conduit_keyring() WHERE key_id = 'k$n'"), 't', 'under the new key');
	return;
}

sub dump_all
{
	my ($place) = @_;
	my ($out, $err) = run_command([ 'pg_dump', '-d', $node->connstr($database) ]);
	die "pg_dump: $err" unless $out =~ /PostgreSQL database dump complete/;
	push @shown, [ $place, $out ];
	return;
}

sub take_changes
{
	my $wire = wire();
	push @shown, [ 'logical decoding',
		join("\n", map { $_->[0] } @{ rows($wire, q{SELECT data FROM pg_logical_slot_get_changes('canary', NULL, NULL)}) }) ];
	return;
}

sub take_tables
{
	my $wire = wire();
	my $tables = rows($wire, q{SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'conduit'::regnamespace AND c.relkind = 'r'});
	for my $table (map { $_->[0] } @$tables)
	{
		push @shown, [ 'tables', $json->encode(rows($wire, "SELECT t::text FROM $table t")) ];
	}
	return;
}

sub whole_line
{
	my ($pass, $n) = @_;
	my $wire = wire();
	my $listener = wire();

	rows($listener, 'LISTEN conduit_events');
	rows($listener, 'LISTEN conduit_needs_reauth');
	$path = $pass;
	rows($wire, 'SELECT conduit_register_connector($1, $2)', "web_$path", $json->encode({
		name => 'Web', auth_type => 'oauth2_code', authorize_url => 'https://provider.example.com/authorize',
		token_url => $provider->url . "/token/$path", revoke_url => $provider->url . "/revoke/$path", revokes => 'token', client_auth => $n == 2 ? 'post' : 'basic' }));
	rows($wire, 'SELECT conduit_set_client($1, $2, $3)', "web_$path", 'cid', secret("$pass: former client secret"));
	my $client_secret = secret("$pass: client secret");
	rows($wire, 'SELECT conduit_set_client($1, $2, $3)', "web_$path", 'cid', $client_secret);
	$provider->client('cid', $client_secret);
	my @minting = minted($wire, $pass, $client_secret);

	my ($key, $pair) = stored_and_vended($wire, $pass);
	my $web = refreshed($wire, $pass);
	is(($provider->log("/token/$path"))[-1]{auth}{client_secret}, $client_secret, 'the client secret was used');
	failed($wire, $pass, $web, $client_secret);
	malformed($wire, $pass, $key, $pair, $web);
	in_transactions($wire, $pass, $key);
	in_bulk($wire, $pass);
	cancelled($wire, $pass, $web);
	my $authorized = authorized($wire, $pass, $client_secret);
	parked($wire, $pass, $web);
	rewrapped($wire, $pass, $n, $web);
	$cluster->poll('SELECT unnumbered_events = 0 FROM conduit_health()') or die 'events are not told';
	is(scalar(grep { $_->[0] eq 'conduit_needs_reauth' } @{ hear($listener->query('SELECT 1'))->{notifications} }), 1,
		'a notification was sent');
	$wire = crashed($wire, $pass, $web);
	dump_all('dump');
	look_at_views();
	take_tables();
	revoked($wire, $pass);
	rows($wire, 'SELECT conduit_revoke_connection($1, $2)', 'alice', $pair);
	rows($wire, 'SELECT conduit_delete_connection($1, $2)', 'alice', $_) for $key, $web, @minting, $authorized;
	look_at_views();
	take_tables();
	dump_all('dump');
	take_changes();
	return;
}

# ---- what was planted, for the search to be seen finding it ----

sub plant
{
	my $wire = wire();
	my $listener = wire();
	my $literal = sub { return secret("planted in $_[0]"); };

	rows($listener, 'LISTEN planted');
	rows($wire, "SELECT pg_notify('planted', '${\$literal->('notification')}')");
	hear($listener->query('SELECT 1'));
	rows($wire, 'CREATE TABLE planted (t text)');
	rows($wire, 'INSERT INTO planted VALUES ($1)', secret('planted in table'));
	rows($wire, 'INSERT INTO planted VALUES ($1::bytea)', '\x' . unpack('H*', secret('planted in bytea')));
	rows($wire, q{INSERT INTO conduit.setting VALUES ('planted', $1, now())}, secret('planted in conduit.setting'));
	rows($wire, "COMMENT ON TABLE planted IS '${\$literal->('statement')}'");
	is(state_of($wire, 'SELECT $1::int', secret('planted in error')), '22P02', 'a planted error');
	rows($wire, 'DELETE FROM planted');
	dump_all('dump');
	look_at_views();
	take_tables();
	take_changes();
	rows($wire, q{DELETE FROM conduit.setting WHERE name = 'planted'});
	return;
}

my %expected_plants = (
	'notification' => [ 'log', 'messages' ],
	'table' => [ 'files base', 'files pg_wal', 'logical decoding' ],
	'bytea' => [ 'files base', 'files pg_wal', 'logical decoding' ],
	'conduit.setting' => [ 'files base', 'files pg_wal', 'logical decoding', 'dump', 'tables' ],
	'statement' => [ 'files base', 'files pg_wal', 'log', 'dump', 'view pg_stat_statements', 'files pg_stat' ],
	'error' => [ 'log', 'messages' ]);

# ---- the search ----

sub search_files
{
	my $root = $node->data_dir;
	my $bytes = 0;
	find({
		no_chdir => 1,
		wanted => sub {
			my $file = $File::Find::name;
			return unless -f $file;
			open(my $handle, '<:raw', $file) or die "$file: $!";
			local $/;
			my $text = <$handle> // '';
			my ($top) = $file =~ m{^\Q$root\E/([^/]+)};
			$bytes += length $text;
			search("files $top", $text);
		} }, $root);
	cmp_ok($bytes, '>', 30_000_000, 'there was much to search');
	return;
}

sub report
{
	my ($is_planted) = @_;
	my @report;
	for my $name (sort grep { (/^planted/ ? 1 : 0) == $is_planted } keys %found)
	{
		push @report, map { "$name: in $_, $found{$name}{$_}" } sort keys %{ $found{$name} };
	}
	return @report;
}

subtest 'a server that logs all statements' => sub { whole_line('quiet', 2); };

$node->append_conf('postgresql.conf', "log_min_messages = debug5\nlog_min_error_statement = debug5\n");
$cluster->reload;
$client_messages = 'debug5';
subtest 'with debug messages, to the log and to clients' => sub { whole_line('noisy', 3); };

subtest 'planted' => sub {
	plant();
	$node->safe_psql('postgres', 'CHECKPOINT');
	ok($provider->counts->{refreshed} >= 8, 'the provider was asked');
	build_pattern();
	cmp_ok(scalar(keys %piece_of), '>', 150, 'many pieces');

	# every form is found, wherever in a text it stands
	for my $piece (grep { $piece_of{$_} eq 'planted in table' } keys %piece_of)
	{
		my %forms = encodings($piece);
		$forms{"aligned $_"} = encode_base64('x' x $_ . $piece . 'yz', '') for 0 .. 2;
		%found = ();
		for my $form (sort keys %forms)
		{
			search($form, "surroundings$forms{$form}surroundings");
			ok($found{'planted in table'}{$form}, "found: $form");
		}
	}
	%found = ();
};

search_files();
search('log', slurp_file($node->logfile));
search('messages', $_) for @heard;
search(@$_) for @shown;

# statistics are written when the server stops
$cluster->stop;
search_files();
search('log', slurp_file($node->logfile));

for my $name (sort keys %expected_plants)
{
	for my $place (@{ $expected_plants{$name} })
	{
		ok($found{"planted in $name"}{$place}, "what was planted in $name is found in $place");
	}
}

my @leaks = report(0);
is(scalar @leaks, 0, 'no secret is anywhere') or diag(join("\n", @leaks[ 0 .. ($#leaks < 40 ? $#leaks : 40) ]));

done_testing();
