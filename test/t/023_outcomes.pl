# Everything a provider can answer to a refresh, and what becomes of it.
#
# Each case has two connections: one whose token still lives when the provider
# misbehaves, and one whose token is dead by then.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use HTTP::Tiny;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $provider = Conduit::Provider->start('scripted');
my %cert = Conduit::Provider->make_cert(PostgreSQL::Test::Utils::tempdir());
my %tls = map { $_ => Conduit::Provider->start('scripted', tls => 1, cert => $cert{"${_}_cert"}, key => $cert{"${_}_key"}) }
  qw(server selfsigned expired otherhost);
my $nobody = 'http://127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
# All of them in flight at once: what one is answered must not keep the next of
# its connector back.
my $cluster = Conduit::Cluster->new('main', settings => <<"CONF");
conduit.max_in_flight = 128
conduit.http_timeout = '3s'
conduit.ca_file = '$cert{ca}'
CONF
my $now = 0;

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

sub http_date
{
	my @t = gmtime($_[0]);
	return sprintf('%s, %02d %s %04d %02d:%02d:%02d GMT', (qw(Sun Mon Tue Wed Thu Fri Sat))[ $t[6] ], $t[3],
		(qw(Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec))[ $t[4] ], $t[5] + 1900, @t[ 2, 1, 0 ]);
}

sub field
{
	my ($id, $field) = @_;
	return $cluster->sql("SELECT $field FROM conduit_get_connection('alice', '$id')");
}

sub needs_reauth_events
{
	my ($id) = @_;
	return $cluster->sql("SELECT count(*) FROM conduit.event WHERE kind = 'needs_reauth' AND connection_id = '$id'");
}

# A grant as the application stores it, and its name, "at-7".
sub grant
{
	my ($from, %options) = @_;
	my ($grant) = $from->issue(1, expires_in => 3600, %options);
	my ($name) = $grant->{access_token} =~ /^(at-\d+)-1-/;
	return ($grant, $name);
}

# ---- failures that prove nothing about a refresh token ----

# Name, class, code, SQLSTATE for a caller, seconds until the next attempt (a
# range), the endpoint's step or the endpoint, requests that arrive each time.
my @backoff = (24, 36.1);
my @config = (240, 360.1);
my @cases = (
	[ 'status 500', 'transient', 'http_500', 'PT502', \@backoff, { status => 500 } ],
	[ '500 with an error object', 'transient', 'server_error', 'PT502', \@backoff, { status => 500, json => { error => 'server_error' } } ],
	[ '500 with invalid_grant', 'transient', 'http_500', 'PT502', \@backoff, { status => 500, json => { error => 'invalid_grant' } } ],
	[ '502 with a page', 'transient', 'http_502', 'PT502', \@backoff, { status => 502, body => '<html>Bad Gateway</html>' } ],
	[ 'status 503', 'transient', 'http_503', 'PT502', \@backoff, { status => 503 } ],
	[ '503 with Retry-After in seconds', 'throttled', 'http_503', 'PT504', [ 120, 132.1 ], { status => 503, headers => { 'retry-after' => '120' } } ],
	[ '503 with Retry-After as a date', 'throttled', 'http_503', 'PT504', [ 600, 660.1 ],
		{ status => 503, headers => { date => http_date(1_700_000_000), 'retry-after' => http_date(1_700_000_600) } } ],
	[ 'status 429', 'throttled', 'http_429', 'PT504', \@backoff, { status => 429 } ],
	[ '429 with Retry-After', 'throttled', 'http_429', 'PT504', [ 77, 85 ], { status => 429, headers => { 'retry-after' => '77' } } ],
	[ '429 with Retry-After of days', 'throttled', 'http_429', 'PT504', [ 3600, 3960.1 ], { status => 429, headers => { 'retry-after' => '864000' } } ],
	[ '429 with invalid_grant', 'throttled', 'http_429', 'PT504', \@backoff, { status => 429, json => { error => 'invalid_grant' } } ],
	[ 'too many requests called a denial', 'throttled', 'Access_Denied', 'PT504', \@backoff,
		{ status => 400, json => { error => 'Access Denied', error_description => 'You have made too many requests continuously.' } } ],
	[ 'a page with 200', 'transient', 'html', 'PT502', \@backoff, { status => 200, body => '<!DOCTYPE html><title>Please log in</title>', headers => { 'content-type' => 'text/html' } } ],
	[ 'a page with 403', 'transient', 'http_403', 'PT502', \@backoff, { status => 403, body => '<html>blocked</html>' } ],
	[ 'nothing with 200', 'unknown', 'empty', 'PT502', \@backoff, { status => 200, body => '' } ],
	[ 'nothing with 204', 'unknown', 'empty', 'PT502', \@backoff, { status => 204, body => '' } ],
	[ 'nothing with 400', 'config', 'http_400', 'PT502', \@config, { status => 400, body => '' } ],
	[ 'nothing with 401', 'config', 'http_401', 'PT502', \@config, { status => 401, body => '' } ],
	[ 'truncated JSON', 'unknown', 'bad_json', 'PT502', \@backoff, { status => 200, body => '{"access_token":"at-', headers => { 'content-type' => 'application/json' } } ],
	[ 'JSON without a token', 'unknown', 'no_access_token', 'PT502', \@backoff, { status => 200, json => { token_type => 'Bearer' } } ],
	[ 'a token with a line feed', 'unknown', 'bad_token', 'PT502', \@backoff, { status => 200, json => { access_token => "a\nb" } } ],
	[ 'an array', 'unknown', 'bad_json', 'PT502', \@backoff, { status => 200, json => [ 1, 2 ] } ],
	[ 'a huge body', 'unknown', 'too_large', 'PT502', \@backoff, { status => 200, json => { access_token => 'x' }, huge => 200_000 } ],
	[ 'closed before reading', 'unknown', 'broken', 'PT504', \@backoff, { close => 'before' } ],
	[ 'closed after reading', 'unknown', 'broken', 'PT504', \@backoff, { close => 'after_read' } ],
	[ 'reset', 'unknown', 'broken', 'PT504', \@backoff, { close => 'reset' } ],
	[ 'closed in the middle of the body', 'unknown', 'broken', 'PT504', \@backoff, { status => 200, json => { access_token => 'x' }, close => 'mid_body' } ],
	[ 'something else than HTTP', 'unknown', 'broken', 'PT504', \@backoff, { raw => "220 mail.example.com ESMTP\r\n" } ],
	[ 'silence', 'unknown', 'timeout', 'PT504', \@backoff, { hang => $true } ],
	[ 'a redirect', 'config', 'redirect_refused', 'PT502', \@config, { redirect => $provider->url . '/token/elsewhere' } ],
	[ 'invalid_client', 'config', 'invalid_client', 'PT502', \@config, { status => 401, json => { error => 'invalid_client' } } ],
	[ 'unauthorized_client', 'config', 'unauthorized_client', 'PT502', \@config, { status => 400, json => { error => 'unauthorized_client' } } ],
	[ 'unsupported_grant_type', 'config', 'unsupported_grant_type', 'PT502', \@config, { status => 400, json => { error => 'unsupported_grant_type' } } ],
	[ 'GitHub, wrong secret, with 200', 'config', 'incorrect_client_credentials', 'PT502', \@config, { status => 200, json => { error => 'incorrect_client_credentials' } } ],
	[ 'Slack, rate limit, with 200', 'throttled', 'ratelimited', 'PT504', \@backoff, { status => 200, json => { ok => $false, error => 'ratelimited' } } ],
	[ 'Slack, fatal_error, with 200', 'transient', 'fatal_error', 'PT502', \@backoff, { status => 200, json => { ok => $false, error => 'fatal_error' } } ],
	[ 'Microsoft, malformed, called invalid_grant', 'config', 'AADSTS9002313', 'PT502', \@config, { status => 400, json => { error => 'invalid_grant', error_description => 'AADSTS9002313: Invalid request.' } } ],
	[ 'an error of its own', 'config', 'we_are_sorry', 'PT502', \@config, { status => 400, json => { error => 'we are sorry' } } ],
	[ 'TLS, self-signed', 'transient', 'tls', 'PT504', \@backoff, $tls{selfsigned} ],
	[ 'TLS, expired', 'transient', 'tls', 'PT504', \@backoff, $tls{expired} ],
	[ 'TLS, for another host', 'transient', 'tls', 'PT504', \@backoff, $tls{otherhost} ],
	[ 'TLS to a server without', 'transient', 'tls', 'PT504', \@backoff, 'https://127.0.0.1:' . $provider->port ],
	[ 'refused', 'transient', 'refused', 'PT504', \@backoff, $nobody ],
	[ 'a host that is not there', 'transient', 'dns', 'PT504', \@backoff, 'https://provider.invalid' ]);

foreach my $i (0 .. $#cases)
{
	my ($title, $class, $code, $sqlstate, $range, $how) = @{ $cases[$i] };
	my %case = (title => $title, class => $class, code => $code, sqlstate => $sqlstate, range => $range, slug => "case$i", path => "/token/case$i");
	my $server = ref $how eq 'HASH' ? $provider : ref $how ? $how : undef;

	$cases[$i] = \%case;
	$provider->script($case{path}, [$how], repeat_last => $true) if ref $how eq 'HASH';
	$case{server} = $server;
	$cluster->connector($case{slug}, token_url => ($server ? $server->url : $how) . $case{path});
	my ($living, $name) = grant($provider);
	my ($dying) = grant($provider, expires_in => 3000);
	$case{name} = $name;
	$case{living} = $cluster->connection('alice', $case{slug}, $living);
	$case{dead} = $cluster->connection('alice', $case{slug}, $dying);
	$case{tokens} = [ $living->{refresh_token}, $dying->{refresh_token} ];
}
my $slugs = "('" . join("','", map { $_->{slug} } @cases) . "')";

# All of them fail at once, and unasked.
sub wait_for_attempts
{
	my ($n) = @_;
	return $cluster->poll("SELECT bool_and(attempts >= $n) FROM conduit.credential WHERE connector IN $slugs")
	  || diag $cluster->sql("SELECT string_agg(connector || ' ' || attempts, ', ') FROM conduit.credential WHERE connector IN $slugs AND attempts < $n");
}

my $logged = -s $cluster->node->logfile;
advance(3400);
ok(wait_for_attempts(1), 'the worker has tried all of them');
$provider->release;
# What follows takes its time, and no next attempt shall be due meanwhile.
advance(-90);
my $seconds = 'extract(epoch FROM refresh_at - last_error_at)::numeric';
my %requests = map { $_->{slug} => $_->{server} ? $_->{server}->counts($_->{path})->{total} : 0 } @cases;
my $log = slurp_file($cluster->node->logfile, $logged);

foreach my $case (@cases)
{
	my $sent = $case->{code} =~ /^(?:tls|refused|dns)$/ ? 0 : 2;

	subtest $case->{title} => sub {
		foreach my $which (qw(living dead))
		{
			is(field($case->{$which}, 'status, last_error, last_error_code, attempts, generation'), "ACTIVE|$case->{class}|$case->{code}|1|1", "state, the token is $which");
			is(field($case->{$which}, "$seconds BETWEEN $case->{range}[0] AND $case->{range}[1]"), 't', "next attempt in $case->{range}[0] to $case->{range}[1] s")
			  or diag field($case->{$which}, $seconds);
			is(needs_reauth_events($case->{$which}), 0, 'no event');
			is(() = $log =~ /refresh of connection \Q$case->{$which}\E failed: $case->{class}, $case->{code}, next attempt in \d+ s/g, 1, 'one line in the log');
		}
		is($cluster->vend('alice', $case->{living}), "$case->{name}-1 WARNING $case->{sqlstate} $case->{code}", 'a token that lives is vended with a warning');
		is($cluster->vend('alice', $case->{dead}), "ERROR $case->{sqlstate} $case->{code}", 'one that has expired is not');
		is($requests{ $case->{slug} }, $sent, "$sent requests have arrived");
		is($case->{server} ? $case->{server}->counts($case->{path})->{total} : 0, $sent, 'and none more by asking during the backoff');
	};
}
is($provider->counts('/token/elsewhere')->{total}, 0, 'a redirect is not followed');
is($cluster->error("SELECT conduit_vend('alice', '$cases[0]{dead}')") =~ s/retry_after=\d+/retry_after=N/r,
	'PT502|bad provider response|http_500 retry_after=N|See last_error_code of the connection and the server log; Conduit tries again by itself.', 'the error of a provider that answers badly, in full');
my ($silence) = grep { $_->{title} eq 'silence' } @cases;
is($cluster->error("SELECT conduit_vend('alice', '$silence->{dead}')") =~ s/retry_after=\d+/retry_after=N/r,
	'PT504|provider unavailable|timeout retry_after=N|Try again later.', 'and of one that does not answer');
like($cluster->error("SELECT conduit_vend('alice', '$cases[5]{dead}')"), qr/\|http_503 retry_after=(?:1\d|2[0-2])\d\|/, 'retry_after counts down from what the provider said');
is($cluster->sql("SELECT count(*) FROM conduit.connection WHERE status <> 'ACTIVE'"), 0, 'nobody needs a new authorization');
is($cluster->sql('SELECT count(*) FROM conduit.flight'), 0, 'no claim is left');
is($cluster->sql("SELECT ok, needs_reauth, in_flight FROM conduit_health()"), 't|0|0', 'an outage of providers is none of ours');
is($cluster->sql("SELECT sum(transient), sum(throttled), sum(config), sum(unknown), sum(dead), sum(refreshed) FROM conduit_stats() WHERE connector IN $slugs"),
	join('|', map { my $class = $_; 2 * grep { $_->{class} eq $class } @cases } qw(transient throttled config unknown dead refreshed)), 'conduit_stats() has counted them by class');

is($cluster->sql("SELECT sum(waits) FROM conduit_stats() WHERE connector IN $slugs"), 0, 'and during the backoff nobody has waited');
advance(90);

# ---- attempts grow, and what is between them ----

{
	my ($outage, $throttled) = map { my $title = $_; grep { $_->{title} eq $title } @cases } 'status 500', '429 with Retry-After';
	my @expected = ([ 48, 72.1 ], [ 96, 144.1 ], [ 192, 288.1 ], [ 384, 576.1 ], [ 720, 1080.1 ], [ 720, 1080.1 ]);

	foreach my $n (0 .. $#expected)
	{
		my ($least, $most) = @{ $expected[$n] };
		my $attempts = $n + 2;

		# Past the next attempt of both, which is no farther than the last range says.
		advance(1090);
		ok($cluster->poll("SELECT bool_and(attempts = $attempts) FROM conduit.credential WHERE connection_id IN ('$outage->{dead}', '$throttled->{dead}')"), "attempt $attempts");
		is(field($outage->{dead}, "$seconds BETWEEN $least AND $most"), 't', "the next one comes after $least to $most s")
		  or diag field($outage->{dead}, $seconds);
		is(field($throttled->{dead}, "$seconds BETWEEN 77 AND 85"), 't', 'but when the provider says, if it does')
		  or diag field($throttled->{dead}, $seconds);
	}
	is($provider->counts($outage->{path})->{max_requests_per_refresh_token}, 7, 'one request each');
	is(field($outage->{living}, 'status, attempts, expires_at < last_error_at'), 'ACTIVE|7|t', 'also when the token has died meanwhile');
	is($cluster->vend('alice', $outage->{living}), 'ERROR PT502 http_500', 'which then is no longer vended');
}

# ---- and when the provider is well again ----

{
	my @well = grep { $_->{server} && $_->{server} == $provider } @cases;
	my $list = "('" . join("','", map { $_->{slug} } @well) . "')";

	$provider->script($_->{path}, []) foreach @well;
	$provider->kill_connections;
	ok($cluster->poll('SELECT count(*) = 0 FROM conduit.flight'), 'the last failures are in');
	advance(4000);
	ok($cluster->poll("SELECT bool_and(generation = 2) FROM conduit.credential WHERE connector IN $list"), 'all are refreshed when the provider is well again')
	  or diag $cluster->sql("SELECT string_agg(connector || ' ' || coalesce(last_error_code, '-') || ' ' || status, ', ') FROM conduit.credential WHERE connector IN $list AND generation = 1");
	is($cluster->sql("SELECT count(*) FROM conduit.credential WHERE connector IN $list AND (attempts > 0 OR in_doubt OR next_attempt_at IS NOT NULL OR last_error IS NOT NULL OR last_error_code IS NOT NULL OR last_error_at IS NOT NULL)"),
		0, 'and nothing of the failure is left');
	is(join(' ', map { $cluster->vend('alice', $_->{living}) } @well), join(' ', map { "$_->{name}-2" } @well), 'the new tokens are vended, without a warning');
}

# ---- TLS that is well ----

{
	my ($grant, $name) = grant($tls{server});
	$cluster->connector('tls', token_url => $tls{server}->url . '/token');
	my $id = $cluster->connection('alice', 'tls', $grant);

	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'a certificate of an authority in conduit.ca_file is trusted');
	is($cluster->vend('alice', $id), "$name-2", 'and the token is vended');
	$cluster->setting('conduit.ca_file', '');
	is(Conduit::Cluster::vend_text($cluster->wire->query("SELECT refreshed FROM conduit_refresh('alice', '$id')")), 'f WARNING PT504 tls', 'without it, it is not, also on a connection that was open');
	$cluster->setting('conduit.ca_file', $cert{ca});
}

# ---- dead ----

my $listener = $cluster->wire;
my @notifications;
$listener->simple('LISTEN conduit_needs_reauth');

sub notified
{
	my ($id) = @_;
	push @notifications, @{ $listener->simple('SELECT 1')->{notifications} };
	return grep { $_->[1] =~ /\Q$id\E/ } @notifications;
}

my @deaths = (
	[ 'invalid_grant', 'invalid_grant', { status => 400, json => { error => 'invalid_grant' } } ],
	[ 'invalid_grant with 401', 'invalid_grant', { status => 401, json => { error => 'invalid_grant' } } ],
	[ 'GitHub, with 200', 'bad_refresh_token', { status => 200, json => { error => 'bad_refresh_token' } } ],
	[ 'GitHub, form-encoded', 'bad_refresh_token', { status => 200, body => 'error=bad_refresh_token&error_description=The+refresh+token+passed+is+incorrect', headers => { 'content-type' => 'application/x-www-form-urlencoded' } } ],
	[ 'Slack, ok: false with 200', 'invalid_refresh_token', { status => 200, json => { ok => $false, error => 'invalid_refresh_token' } } ],
	[ 'Slack, account_inactive', 'account_inactive', { status => 200, json => { ok => $false, error => 'account_inactive' } } ],
	[ 'Microsoft, AADSTS700082', 'invalid_grant', { status => 400, json => { error => 'invalid_grant', error_description => 'AADSTS700082: The refresh token has expired due to inactivity.' } } ],
	[ 'a status that the connector declares', 'http_410', { status => 410, body => '' }, dead_statuses => [410] ],
	[ 'a code that the connector declares', 'gone_fishing', { status => 400, json => { error => 'gone fishing' } }, dead_errors => ['gone_fishing'] ]);

foreach my $i (0 .. $#deaths)
{
	my ($title, $reason, $step, %fields) = @{ $deaths[$i] };
	my $path = "/token/death$i";
	my ($grant, $name) = grant($provider);
	my ($again, $new_name) = grant($provider);

	$cluster->connector("death$i", token_url => $provider->url . $path, %fields);
	my $id = $cluster->connection('alice', "death$i", $grant);
	$provider->script($path, [$step], repeat_last => $true);

	subtest "dead: $title" => sub {
		my @events = ("SELECT string_agg(kind || ' ' || coalesce(old_status, '-') || ' ' || new_status || ' ' || coalesce(reason, '-'), ', ' ORDER BY seq) FROM conduit_events_after(0, 10000) WHERE connection_id = '$id' AND kind IN ('needs_reauth', 'recovered')");

		is($cluster->error("SELECT conduit_refresh('alice', '$id')"), q{PT409|connection needs re-authorization|needs_reauth|Let the owner authorize again with conduit_authorize(), or store a new credential with conduit_store_credential().}, 'the caller is told');
		is(field($id, 'status, status_reason, last_error, last_error_code, refresh_at IS NULL, expires_at > created_at'), "NEEDS_REAUTH|$reason|dead|$reason|t|t", 'the connection shows it');
		is($cluster->vend('alice', $id), 'ERROR PT409 needs_reauth', 'nothing is vended, though the access token still lives');
		is($cluster->error("SELECT conduit_refresh('alice', '$id')") =~ s/\|.*//r, 'PT409', 'nor refreshed');
		is($cluster->sql("SELECT conduit_refresh_due()"), 0, 'nor due');
		ok($cluster->poll("SELECT count(*) = 1 FROM conduit_events_after(0, 10000) WHERE connection_id = '$id' AND kind = 'needs_reauth'"), 'there is an event');
		is($cluster->sql(@events), "needs_reauth ACTIVE NEEDS_REAUTH $reason", 'exactly this one');
		is(scalar notified($id), 1, 'and exactly one notification');
		my ($notification) = notified($id);
		is_deeply([ sort keys %{ JSON::PP::decode_json($notification->[1]) } ], [qw(connection_id event seq)], 'that names no owner');
		is($provider->counts($path)->{total}, 1, 'of one request');
		is(() = slurp_file($cluster->node->logfile) =~ /connection \Q$id\E needs re-authorization: $reason/g, 1, 'the log says it once');

		$provider->script($path, []);
		$cluster->store($id, $again);
		is(field($id, 'status, status_reason IS NULL, last_error IS NULL, attempts'), 'ACTIVE|t|t|0', 'stored again, it is ACTIVE');
		is($cluster->vend('alice', $id), "$new_name-1", 'and vended');
		ok($cluster->poll("SELECT count(*) = 1 FROM conduit_events_after(0, 10000) WHERE connection_id = '$id' AND kind = 'recovered'"), 'there is an event');
		is($cluster->sql(@events), "needs_reauth ACTIVE NEEDS_REAUTH $reason, recovered NEEDS_REAUTH ACTIVE -", 'exactly this one');
		is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'and it is refreshed like any other');
	};
}

# ---- dead, but no longer what is stored ----

# The flight hangs at the provider, and says that it is dead when released.
my $late = { hang => $true, status => 400, json => { error => 'invalid_grant' } };
{
	my ($grant) = grant($provider);
	my ($again, $name) = grant($provider, expires_in => 36000);

	$cluster->setting('conduit.http_timeout', '60s');
	$cluster->connector('late', token_url => $provider->url . '/token/late');
	my $id = $cluster->connection('alice', 'late', $grant);
	$provider->script('/token/late', [$late]);
	advance(3500);
	$provider->wait_for('/token/late', 'hanging', 1);
	$cluster->store($id, $again);
	$provider->release('/token/late');
	ok($cluster->poll("SELECT count(*) = 0 FROM conduit.flight WHERE connection_id = '$id'"), 'the flight of a generation that was replaced meanwhile ends');
	is(field($id, 'status, generation, last_error IS NULL'), 'ACTIVE|2|t', 'its refusal flips nothing');
	is(needs_reauth_events($id), 0, 'and is no event');
	is($cluster->vend('alice', $id), "$name-1", 'the new token is vended');
	is(field($id, 'refresh_at > last_refreshed_at OR refresh_at > created_at'), 't', 'and will be refreshed');
}
{
	my ($grant, $name) = grant($provider);

	$cluster->connector('moved', token_url => $provider->url . '/token/moved');
	my $id = $cluster->connection('alice', 'moved', $grant);
	$provider->script('/token/moved', [$late]);
	advance(3500);
	$provider->wait_for('/token/moved', 'hanging', 1);
	$cluster->sql("SELECT conduit_set_client('moved', 'another', 'secret')");
	$cluster->sql("UPDATE conduit.connection SET client_id = 'another' WHERE id = '$id'");
	$provider->release('/token/moved');
	ok($cluster->poll("SELECT count(*) = 0 FROM conduit.flight WHERE connection_id = '$id'"), 'the flight under a former client ends');
	is(field($id, 'status'), 'ACTIVE', 'its refusal flips nothing either: another client cannot tell');
	is(needs_reauth_events($id), 0, 'and is no event');
	is($cluster->vend('alice', $id), "$name-2", 'a reader is given a token refreshed under the new client');
	is(($provider->log('/token/moved'))[-1]{auth}{client_id}, 'another', 'which is the one that was used');
}

# ---- in doubt ----

foreach my $rotates (1, 0)
{
	my $slug = $rotates ? 'doubt' : 'nodoubt';
	my ($grant) = grant($provider);

	$cluster->connector($slug, token_url => $provider->url . "/token/$slug", refresh_rotates => $rotates ? $true : $false);
	my $id = $cluster->connection('alice', $slug, $grant);
	# The provider rotates, and the answer is lost.
	$provider->script("/token/$slug", [ $rotates ? { rotate => $true, close => 'after_read' } : { close => 'after_read' }, { status => 400, json => { error => 'invalid_grant' } } ]);
	advance(3500);
	ok($cluster->poll("SELECT last_error = 'unknown' FROM conduit_get_connection('alice', '$id')"), "$slug: an answer is lost");
	is(field($id, 'status, last_error_code, attempts'), 'ACTIVE|broken|1', 'which proves nothing');
	is($cluster->sql("SELECT in_doubt FROM conduit.credential WHERE connection_id = '$id'"), $rotates ? 't' : 'f', $rotates ? 'but the refresh token may have been consumed' : 'the refresh token stays');
	advance(40);
	ok($cluster->poll("SELECT status = 'NEEDS_REAUTH' FROM conduit_get_connection('alice', '$id')"), 'the next attempt meets a refusal');
	is(field($id, 'status_reason, last_error_code'), ($rotates ? 'rotation_outcome_lost' : 'invalid_grant') . '|invalid_grant', 'and the reason says whose fault it may be');
	is($provider->counts("/token/$slug")->{total}, 2, 'after two requests');
	is(needs_reauth_events($id), 1, 'and one event');
}
{
	my ($grant, $name) = grant($provider);

	$cluster->connector('lucky', token_url => $provider->url . '/token/lucky');
	my $id = $cluster->connection('alice', 'lucky', $grant);
	$provider->script('/token/lucky', [ { close => 'after_read' } ]);
	advance(3500);
	ok($cluster->poll("SELECT last_error = 'unknown' FROM conduit_get_connection('alice', '$id')"), 'an answer is lost, of a request that was not processed');
	advance(40);
	ok($cluster->poll("SELECT generation = 2 FROM conduit_get_connection('alice', '$id')"), 'the next attempt succeeds');
	is($cluster->sql("SELECT in_doubt, attempts FROM conduit.credential WHERE connection_id = '$id'"), 'f|0', 'and the doubt is over');
	is($cluster->vend('alice', $id), "$name-2", 'the token is vended');
}

# ---- a key that is gone ----

{
	my ($living, $name) = grant($provider);
	my ($dying) = grant($provider, expires_in => 3000);
	my $former = slurp_file($cluster->keyring_file);
	my $other = '*k2:' . Conduit::Cluster::new_key() . "\n";

	$cluster->connector('keyless', token_url => $provider->url . '/token/keyless');
	my ($living_id, $dying_id) = map { $cluster->connection('alice', 'keyless', $_) } $living, $dying;
	# The key that sealed both stands behind another one, and then not at all.
	foreach my $keyring ($other . $former, $other)
	{
		$cluster->write_keyring($keyring);
		$cluster->reload;
		ok($cluster->poll("SELECT count(*) = 1 FROM conduit.key WHERE id = 'k2'"), 'the worker knows the new key');
	}
	advance(3400);
	ok($cluster->poll("SELECT count(*) = 2 FROM conduit.credential WHERE connection_id IN ('$living_id', '$dying_id') AND last_error_code = 'unknown_key'"), 'without its key nothing is refreshed');
	is(field($dying_id, 'status, last_error'), 'ACTIVE|config', 'which is our fault');
	is($cluster->error("SELECT conduit_vend('alice', '$dying_id')") =~ s/\|unknown_key.*?\|/|unknown_key|/r,
		'PT500|key not in keyring|unknown_key|Add the key that sealed the credential to conduit.keyring_file and reload the configuration.', 'and said so, also during the backoff');
	is($provider->counts('/token/keyless')->{total}, 0, 'the provider was not asked');
	$cluster->write_keyring($other . $former);
	$cluster->reload;
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$living_id')"), 't', 'with the key it is refreshed');
	is($cluster->vend('alice', $living_id), "$name-2", 'and vended');
}

$listener->close;
$cluster->stop;
done_testing();
