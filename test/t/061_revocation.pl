# Revocations at providers: sent in every form, tried again, and never where
# another connection may live on the grant.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use JSON::PP ();
use PostgreSQL::Test::Utils ();
use Test::More;

my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main', settings => "restart_after_crash = on\n");
my $node = $cluster->node;
my $clock = 0;
my $true = JSON::PP::true;

sub advance { $cluster->set_clock($clock += $_[0]); return; }

# A connector with a revocation endpoint and a client of its own.
sub connector
{
	my ($slug, %fields) = @_;
	$cluster->connector($slug, client_id => "client-$slug", token_url => $provider->url . "/token/$slug", revoke_url => $provider->url . "/revoke/$slug",
		access_token_lifetime_s => 86400 * 365, %fields);
	return;
}

# A connection with a grant that lives long; [id, grant].
sub connected
{
	my ($owner, $slug, $account, %options) = @_;
	my ($grant) = $provider->issue(1, expires_in => 86400 * 300);
	my $tenant = $options{tenant} // '';
	my $known = defined $account ? "'$account'" : 'NULL';
	my $id = $cluster->sql("SELECT conduit_create_connection('$owner', '$slug', $known, tenant => '$tenant')");

	delete $grant->{$_} foreach @{ $options{without} // [] };
	my $json = JSON::PP::encode_json($grant);
	$cluster->sql("SELECT conduit_store_credential('$id', NULL, \$json\$$json\$json\$, '$tenant')");
	return [ $id, $grant ];
}

sub revoke { my ($owner, $made) = @_; return $cluster->sql("SELECT conduit_revoke_connection('$owner', '$made->[0]')"); }

# Wait until nothing is queued of a connector any more.
sub drained
{
	my ($slug) = @_;
	return $cluster->poll("SELECT count(*) = 0 FROM conduit.revocation WHERE connector = '$slug'");
}

sub requests { my ($slug) = @_; return $provider->counts("/revoke/$slug")->{total}; }
sub is_revoked { my ($made) = @_; my ($family) = $provider->tokens(refresh_token => $made->[1]{refresh_token}); return $family->{revoked} ? 1 : 0; }
sub queued { my ($columns, $slug) = @_; return $cluster->sql("SELECT $columns FROM conduit.revocation WHERE connector = '$slug'"); }

# ---- forms ----

connector('rfc');
my $made = connected('alice', 'rfc', 'a');
my $log_at = -s $node->logfile;
revoke('alice', $made);
ok(drained('rfc'), 'what is revoked here is revoked at the provider');
my ($request) = $provider->log('/revoke/rfc');
is(join(' ', @$request{qw(method query)}), 'POST ', 'as RFC 7009 says');
is_deeply($request->{params}, { token => $made->[1]{refresh_token}, token_type_hint => 'refresh_token', client_id => 'client-rfc', client_secret => 'the-client-secret' }, 'with the refresh token, and by the client');
is(is_revoked($made), 1, 'the grant is gone');
is($cluster->sql("SELECT status FROM conduit.connection WHERE id = '$made->[0]'"), 'REVOKED', 'the connection stays as it was');
revoke('alice', $made);
is(requests('rfc'), 1, 'a second call does nothing');

$made = connected('alice', 'rfc', 'b');
$cluster->sql("SELECT conduit_delete_connection('alice', '$made->[0]')");
my @owned = map { connected('bob', 'rfc', $_) } qw(b1 b2 b3);
$cluster->sql("SELECT conduit_delete_owner('bob')");
ok(drained('rfc'), 'so is what is deleted');
is(join(' ', map { is_revoked($_) } $made, @owned), '1 1 1 1', 'all of it');
$cluster->sql("BEGIN; SELECT conduit_delete_connection('carol', '" . connected('carol', 'rfc', 'c')->[0] . "'); ROLLBACK");
is($cluster->sql('SELECT count(*) FROM conduit.revocation'), 0, 'a rollback queues nothing');
is(requests('rfc'), 5, 'and nothing more is sent');

my %forms = (
	delete_url => [ { revoke_url => $provider->url . '/revoke/delete_url/{token}', revoke_method => 'DELETE', revoke_auth => 'none' },
		sub { my ($r, $g) = @_; return "$r->{method} $r->{path} $r->{raw_body}" eq "DELETE /revoke/delete_url/$g->{refresh_token} " && $r->{auth}{method} eq 'none'; } ],
	delete_json => [ { revoke_url => $provider->url . '/revoke/delete_json/{client_id}/grant', revoke_method => 'DELETE', revoke_body_format => 'json',
			revoke_credential => 'access_token', revoke_param => 'access_token', revoke_auth => 'basic' },
		sub { my ($r, $g) = @_; return $r->{method} eq 'DELETE' && $r->{path} eq '/revoke/delete_json/client-delete_json/grant' && $r->{params}{access_token} eq $g->{access_token}
			&& $r->{auth}{method} eq 'basic' && $r->{headers}{'content-type'} =~ /json/; } ],
	post_json => [ { revoke_body_format => 'json' },
		sub { my ($r, $g) = @_; return $r->{method} eq 'POST' && $r->{params}{token} eq $g->{refresh_token} && !defined $r->{params}{token_type_hint}; } ],
	bearer => [ { revoke_auth => 'token', revoke_param => undef },
		sub { my ($r, $g) = @_; return $r->{headers}{authorization} eq "Bearer $g->{access_token}" && $r->{raw_body} eq ''; } ],
	query => [ { revoke_method => 'GET', revoke_auth => 'none', revoke_credential => 'access_token' },
		sub { my ($r, $g) = @_; return "$r->{method} $r->{params}{token}" eq "GET $g->{access_token}"; } ]);
foreach my $slug (sort keys %forms)
{
	connector($slug, %{ $forms{$slug}[0] });
	$made = connected('alice', $slug, 'a');
	revoke('alice', $made);
	ok(drained($slug), "form $slug is sent");
	my ($seen) = grep { $_->{path} =~ m{^/revoke/$slug(?:/|$)} } $provider->log;
	ok($seen && $forms{$slug}[1]->($seen, $made->[1]), "form $slug is right");
}

# Without a refresh token the access token goes; what the provider does not know any more is revoked.
$made = connected('alice', 'rfc', 'd', without => ['refresh_token']);
$provider->script('/revoke/rfc', [ { status => 400, json => { error => 'invalid_token' } } ]);
revoke('alice', $made);
ok(drained('rfc'), 'a token that the provider does not know is as good as revoked');
is(($provider->log('/revoke/rfc'))[-1]{params}{token}, $made->[1]{access_token}, 'where there is no refresh token, the access token is sent');

# Of several secrets of the client the other one is tried, if the first is wrong.
connector('rotating', client_secret => 'older secret');
$cluster->sql(q{SELECT conduit_set_client('rotating', 'client-rotating', 'newer secret')});
$provider->script('/revoke/rotating', [ { status => 401, json => { error => 'invalid_client' } } ]);
revoke('alice', connected('alice', 'rotating', 'a'));
ok(drained('rotating'), 'a client with a new secret that the provider does not know yet');
is(join(', ', map { $_->{params}{client_secret} } $provider->log('/revoke/rotating')), 'newer secret, older secret', 'is tried with both');

# What has no revocation endpoint queues nothing.
$cluster->connector('none', token_url => $provider->url . '/token/none');
revoke('alice', connected('alice', 'none', 'a'));
is($cluster->sql('SELECT count(*) FROM conduit.revocation'), 0, 'without an endpoint there is nothing to be done');

# ---- the rule ----

# Whether a grant is revoked ("revoked") or let live ("shared"), with another connection beside it.
my $cases = 0;
sub rule
{
	my ($own, $other, %fields) = @_;
	my $slug = 'rule' . ++$cases;

	connector($slug, %fields);
	my $beside = $other->($slug);
	my $subject = connected('alice', $slug, $own);
	$log_at = -s $node->logfile;
	revoke('alice', $subject);
	drained($slug) or return 'still queued';
	my $said = PostgreSQL::Test::Utils::slurp_file($node->logfile, $log_at) =~ /\Q$subject->[0]\E is not revoked at its provider/;
	return 'revoked, said to be shared' if requests($slug) > 0 && $said;
	return requests($slug) > 0 ? 'revoked' : $said ? 'shared' : 'nothing';
}
my $nobody = sub { };
my $of = sub { my ($owner, $account, %options) = @_; return sub { connected($owner, $_[0], $account, %options) } };

is(rule('acct', $nobody), 'revoked', 'alone');
is(rule(undef, $nobody), 'revoked', 'alone, of an account that is not known');
is(rule('acct', $of->('bob', 'acct')), 'shared', "another owner's connection of the account lives on the same grant");
is(rule('acct', $of->('bob', 'acct', tenant => 't2')), 'shared', 'also in another tenant');
is(rule('acct', $of->('bob', undef)), 'shared', 'one whose account is not known may');
is(rule(undef, $of->('bob', 'acct')), 'shared', 'so may any, if our own is not known');
is(rule('acct', $of->('bob', 'other')), 'revoked', 'another account does not');
is(rule('acct', $of->('bob', 'acct'), revokes => 'token'), 'revoked', 'where a token alone is revoked, that does not matter');
is(rule('acct', sub {
	my $id = connected('bob', $_[0], 'acct')->[0];
	$cluster->sql("UPDATE conduit.connection SET status = 'NEEDS_REAUTH' WHERE id = '$id'; UPDATE conduit.credential SET status = 'NEEDS_REAUTH' WHERE connection_id = '$id'");
}), 'shared', 'one that needs re-authorization lives');
is(rule('acct', sub { $cluster->sql("SELECT conduit_create_connection('bob', '$_[0]', 'acct')") }), 'revoked', 'one without a credential does not');
is(rule('acct', sub { my $gone = connected('bob', $_[0], 'acct'); $cluster->sql("UPDATE conduit.connection SET status = 'REVOKED' WHERE id = '$gone->[0]'") }), 'revoked', 'nor a revoked one');
is(rule('acct', sub { my $id = connected('bob', $_[0], 'acct')->[0]; $cluster->sql("UPDATE conduit.connection SET client_id = 'another' WHERE id = '$id'") }), 'revoked', 'nor one of another client');
is(rule('acct', sub { my $id = connected('bob', $_[0], 'acct')->[0]; $cluster->sql("UPDATE conduit.connection SET client_id = NULL WHERE id = '$id'") }), 'shared', 'one whose client is not known may');

# Connectors of one provider share its grants.
my $extending = sub {
	my ($account, %fields) = @_;
	return sub {
		my $json = JSON::PP::encode_json({ extends => $_[0], %fields });
		$cluster->sql("SELECT conduit_register_connector('$_[0]-too', '$json'), conduit_set_client('$_[0]-too', 'client-$_[0]', 'the-client-secret')");
		connected('bob', "$_[0]-too", $account);
	};
};
is(rule('acct', $extending->('acct')), 'shared', 'a connector that extends this one, under the same client');
is(rule('acct', $extending->('other')), 'revoked', 'but not another account of it');
is(rule('acct', $extending->('other', account_path => 'email')), 'shared', 'unless it calls accounts by other names');
is(rule('acct', $extending->('acct', token_url => 'https://elsewhere.example.com/token')), 'revoked', 'one of another provider does not share them');

# Both of two go, the last one takes the grant along.
connector('both');
my @both = map { connected($_, 'both', 'acct') } qw(alice bob);
revoke('alice', $both[0]);
ok(drained('both'), 'the first of two');
is(requests('both'), 0, 'leaves the grant');
revoke('bob', $both[1]);
ok(drained('both'), 'the last one');
is(requests('both'), 1, 'ends it');

# ---- authorized again ----

sub pause
{
	my ($on) = @_;
	$cluster->setting('conduit.refresh_enabled', $on ? 'off' : 'on');
	return $cluster->poll("SELECT " . ($on ? "paused = 'disabled'" : 'paused IS NULL') . ' FROM conduit_health()');
}

connector('again');
pause(1);
revoke('alice', connected('alice', 'again', 'acct'));
is(queued('attempts, next_attempt_at = queued_at', 'again'), '0|t', 'while refreshing is paused, a revocation stays queued');
is($cluster->sql('SELECT queued_revocations FROM conduit_health()'), 1, 'as conduit_health() says');
connected('alice', 'again', 'acct');
pause(0);
ok(drained('again'), 'a grant that was authorized again meanwhile');
is(requests('again'), 0, 'is not revoked');

connector('being');
$cluster->sql(q{SELECT conduit_set_client('being', 'client-being', 'the-client-secret', ARRAY['https://app.example.com/callback'])});
pause(1);
revoke('alice', connected('alice', 'being', 'acct'));
$cluster->sql(q{SELECT conduit_authorize('alice', 'being')});
pause(0);
ok($cluster->poll("SELECT next_attempt_at > queued_at AND attempts = 0 FROM conduit.revocation WHERE connector = 'being'"), 'while its owner may be authorizing again, it waits');
is(requests('being'), 0, 'and nothing is sent');
advance(660);
ok(drained('being'), 'until the authorization has expired');
is(requests('being'), 1, 'then it is sent');

# ---- failures ----

connector('failing');
$provider->script('/revoke/failing', [ { status => 503 }, { status => 429, headers => { 'retry-after' => '1800' } } ]);
$made = connected('alice', 'failing', 'a');
$log_at = -s $node->logfile;
revoke('alice', $made);
ok($cluster->poll("SELECT attempts = 1 AND last_error IS NOT NULL FROM conduit.revocation WHERE connector = 'failing'"), 'what fails');
like(queued('last_error, last_error_code, extract(epoch from next_attempt_at - queued_at)', 'failing'), qr/^transient\|http_503\|(?:4[89]|[56]\d|7[0-5])\.\d+$/, 'is tried again after a minute');
advance(90);
ok($cluster->poll("SELECT attempts = 2 AND last_error = 'throttled' FROM conduit.revocation WHERE connector = 'failing'"), 'and again');
is($cluster->sql(q{SELECT next_attempt_at - queued_at > '30 minutes' FROM conduit.revocation WHERE connector = 'failing'}), 't', 'when the provider has asked for');
is(requests('failing'), 2, 'not before');
advance(2000);
ok(drained('failing'), 'until it succeeds');
is(is_revoked($made), 1, 'the grant is gone');
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile, $log_at);
like($log, qr/revoking the grant of connection \Q$made->[0]\E failed: transient, http_503, next attempt in/, 'the log tells of it');
unlike($log, qr/\Q$made->[1]{$_}\E/, "and not of the $_") foreach qw(refresh_token access_token);

connector('hopeless');
$provider->script('/revoke/hopeless', [ { status => 503 } ], repeat_last => $true);
$made = connected('alice', 'hopeless', 'acct');
revoke('alice', $made);
ok($cluster->poll("SELECT attempts = 1 AND last_error IS NOT NULL FROM conduit.revocation WHERE connector = 'hopeless'"), 'what does not succeed');
advance(6 * 86400);
ok($cluster->poll("SELECT attempts = 2 FROM conduit.revocation WHERE connector = 'hopeless'"), 'is tried again for a week');
advance(2 * 86400);
ok(drained('hopeless'), 'and given up then');
is($cluster->sql("SELECT kind, owner, connector, account, reason FROM conduit.event WHERE connection_id = '$made->[0]' ORDER BY id DESC LIMIT 1"), 'revocation_failed|alice|hopeless|acct|http_503', 'with an event');
ok($cluster->poll("SELECT seq IS NOT NULL FROM conduit.event WHERE connection_id = '$made->[0]' AND kind = 'revocation_failed'"), 'that is announced');

# Even after a long pause it is tried at least once.
connector('paused');
pause(1);
$made = connected('alice', 'paused', 'acct');
revoke('alice', $made);
advance(10 * 86400);
pause(0);
ok(drained('paused'), 'what was queued longer than a week by a pause');
is(is_revoked($made), 1, 'is revoked all the same');

# What cannot be sent.
connector('needing', revoke_auth => 'token');
pause(1);
$made = connected('alice', 'needing', 'acct', without => ['access_token']);
revoke('alice', $made);
pause(0);
ok(drained('needing'), 'a revocation without the token it needs');
is($cluster->sql("SELECT reason FROM conduit.event WHERE connection_id = '$made->[0]' AND kind = 'revocation_failed'"), 'token_missing', 'fails at once');
is(requests('needing'), 0, 'unsent');

connector('retired');
pause(1);
$made = connected('alice', 'retired', 'acct');
$cluster->sql("SELECT conduit_delete_connection('alice', '$made->[0]')");
my $wire = $cluster->wire;
is(join(' ', map { "$_->{S} $_->{D}" } @{ $wire->query(q{SELECT conduit_retire_client('retired', 'client-retired')})->{notices} }), 'WARNING queued 1', 'who retires a client is told what is queued under it');
pause(0);
ok($cluster->poll("SELECT last_error_code = 'client_missing' FROM conduit.revocation WHERE connector = 'retired'"), 'without its client it cannot be sent');
is($wire->query(q{SELECT conduit_drop_connector('retired')})->{notices}[0]{D}, 'queued 1', 'who drops a connector is told, too');
advance(200);
ok(drained('retired'), 'without its connector it is given up');
is($cluster->sql("SELECT reason FROM conduit.event WHERE connection_id = '$made->[0]' AND kind = 'revocation_failed'"), 'connector_gone', 'with an event');

# The token is for the provider that it came from.
connector('moved');
pause(1);
revoke('alice', connected('alice', 'moved', 'acct'));
my $elsewhere = JSON::PP::encode_json({ auth_type => 'oauth2_code', authorize_url => 'https://e.example.com/a', client_auth => 'post',
	token_url => 'https://e.example.com/token', revoke_url => $provider->url . '/revoke/moved' });
$cluster->sql("SELECT conduit_register_connector('moved', '$elsewhere')");
pause(0);
ok($cluster->poll("SELECT last_error_code = 'origin_changed' FROM conduit.revocation WHERE connector = 'moved'"), 'a connector that has moved to another provider');
is(requests('moved'), 0, 'gets no token of the former one');

# ---- who holds, who ends ----

connector('held');
pause(1);
revoke('alice', connected('alice', 'held', 'acct'));
my $session = $cluster->session;
$session->query(q{BEGIN; SELECT FROM conduit.revocation WHERE connector = 'held' FOR UPDATE});
pause(0);
connector('unheld');
revoke('alice', connected('alice', 'unheld', 'acct'));
ok(drained('unheld'), 'a row that somebody holds keeps no other');
is(requests('held'), 0, 'and is not sent');
$session->query('COMMIT');
ok(drained('held'), 'until it is let go');
is(requests('held'), 1, 'then it is, once');

connector('heldlater');
$provider->script('/revoke/heldlater', [ { hang => $true, rotate => $true } ]);
revoke('alice', connected('alice', 'heldlater', 'acct'));
$provider->wait_for('/revoke/heldlater', 'hanging', 1);
$session->query(q{BEGIN; SELECT FROM conduit.revocation WHERE connector = 'heldlater' FOR UPDATE});
$provider->release('/revoke/heldlater');
connector('after');
revoke('alice', connected('alice', 'after', 'acct'));
ok(drained('after'), 'an answer that meets a held row keeps no other');
is(queued('count(*)', 'heldlater'), 1, 'it waits for the row');
$session->query('COMMIT');
ok(drained('heldlater'), 'is written down when it is let go');
is(requests('heldlater'), 1, 'and nothing is sent again');

# Few at a time.
connector('many');
pause(1);
revoke('alice', $_) foreach map { connected('alice', 'many', $_) } 1 .. 30;
$provider->script('/revoke/many', [ { hang => $true, rotate => $true } ], repeat_last => $true);
pause(0);
$provider->wait_for('/revoke/many', 'hanging', 4);
connector('few');
revoke('alice', connected('alice', 'few', 'acct'));
ok(drained('few'), 'a provider that hangs holds up no other');
cmp_ok($provider->counts('/revoke/many')->{max_in_flight}, '<=', 4, 'a provider is asked for few at a time');
$provider->script('/revoke/many', []);
$provider->release('/revoke/many');
ok(drained('many'), 'and for all in the end');
is(requests('many'), 30, 'once each');

# kill -9 between the claim and the answer: sent again, later, under the rule.
connector('crash');
$provider->script('/revoke/crash', [ { hang => $true }, { hang => $true } ]);
my @crashed = map { connected('alice', 'crash', $_) } qw(alone shared);
$node->safe_psql('app', 'CHECKPOINT');
revoke('alice', $_) foreach @crashed;
$provider->wait_for('/revoke/crash', 'hanging', 2);
is(queued('count(*), min(attempts), bool_and(next_attempt_at > queued_at)', 'crash'), '2|1|t', 'the claim is committed before anything is sent');
kill('KILL', $cluster->worker_pid) == 1 or die 'could not kill the worker';
$provider->kill_connections(path => '/revoke/crash');
$node->poll_query_until('postgres', 'SELECT true') or die 'the server is not back';
$cluster->wait_for_worker;
my $requests = requests('crash');
connected('alice', 'crash', 'shared');
advance(120);
ok(drained('crash'), 'what a crash has interrupted is taken up by the next worker');
is(requests('crash') - $requests, 1, 'and sent again, but where the grant was authorized again meanwhile');

# Told to stop, the worker waits no longer than it may, and the next one goes on.
connector('stopped');
$provider->script('/revoke/stopped', [ { hang => $true } ]);
$cluster->setting('conduit.shutdown_grace', '100ms');
revoke('alice', connected('alice', 'stopped', 'acct'));
$provider->wait_for('/revoke/stopped', 'hanging', 1);
my $pid = $cluster->worker_pid;
$cluster->sql("SELECT pg_terminate_backend($pid)");
ok($cluster->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'conduit worker' AND pid <> $pid"), 'a worker that is told to leave does so');
$provider->release('/revoke/stopped');
advance(120);
ok(drained('stopped'), 'and the next one revokes');

# A copy of the database revokes nothing of the original's.
connector('copy');
pause(1);
revoke('alice', connected('alice', 'copy', 'acct'));
$cluster->sql(q{UPDATE conduit.setting SET value = 'another' WHERE name = 'identity'});
$cluster->setting('conduit.refresh_enabled', 'on');
ok($cluster->poll("SELECT paused = 'not adopted' FROM conduit_health()"), 'a database that is a copy');
is(requests('copy'), 0, 'revokes nothing');
$cluster->sql('SELECT conduit_adopt()');
ok(drained('copy'), 'until it has taken over');
is(requests('copy'), 1, 'then it does');

# The queue survives a rewrap of its keys.
connector('rewrapped');
pause(1);
$made = connected('alice', 'rewrapped', 'acct');
revoke('alice', $made);
PostgreSQL::Test::Utils::append_to_file($cluster->keyring_file, 'k2:' . Conduit::Cluster::new_key() . "\n");
my $ring = PostgreSQL::Test::Utils::slurp_file($cluster->keyring_file);
$ring =~ s/^k2:/*k2:/m;
$cluster->write_keyring($ring);
$cluster->reload;
1 while $cluster->sql('SELECT conduit_rewrap()') > 0;
pause(0);
ok(drained('rewrapped'), 'a queued grant whose keys were rewrapped');
is(is_revoked($made), 1, 'can be revoked');

# ---- a server that nobody here has written ----

{
	my $oidc = Conduit::Provider->start('oidc');
	my $info = $oidc->info;
	my ($response, $raw) = $oidc->connect_account('olga');

	$cluster->connector('oidc', token_url => $info->{token_endpoint}, revoke_url => $info->{revocation_endpoint},
		client_auth => 'basic', client_id => $info->{client_id}, client_secret => $info->{client_secret});
	my $id = $cluster->connection('olga', 'oidc', $raw, account => 'olga');
	is($cluster->sql("SELECT generation FROM conduit_refresh('olga', '$id')"), 2, "a grant of npm's oidc-provider");
	$cluster->sql("SELECT conduit_revoke_connection('olga', '$id')");
	ok(drained('oidc'), 'is revoked there');
	is_deeply($oidc->counts->{endpoints}{revocation}, { 200 => 1 }, 'by one request that it likes') or diag(explain($oidc->counts));
}

$session->quit;
$cluster->stop;
done_testing();
