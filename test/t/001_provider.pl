# The test providers themselves: what other tests rely on them for.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use File::Temp;
use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use IPC::Run;
use JSON::PP;
use MIME::Base64;
use Test::More;
use Time::HiRes qw(sleep time);

use Conduit::Provider;

my $http = HTTP::Tiny->new(timeout => 30, proxy => undef, http_proxy => undef, https_proxy => undef);

sub form
{
	my ($url, $fields, %headers) = @_;
	my $response = $http->post_form($url, $fields, { headers => \%headers });
	$response->{json} = eval { decode_json($response->{content}) };
	return $response;
}

sub refresh
{
	my ($url, $token, %headers) = @_;
	return form($url, { grant_type => 'refresh_token', refresh_token => $token }, %headers);
}

# One request on a socket of its own, unanswered so far.
sub open_request
{
	my ($port, $path, $body, $length) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port)
	  or die "connect: $@";
	$length //= length $body;
	print $socket "POST $path HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
	  . "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: $length\r\n\r\n$body";
	$socket->flush;
	return $socket;
}

sub rest { my ($socket) = @_; local $/; return scalar(<$socket>) // ''; }

my $scripted = Conduit::Provider->start('scripted');
my $url = $scripted->url;
like($url, qr{^http://127\.0\.0\.1:\d+$}, 'the scripted server is on loopback');

subtest 'strict rotation' => sub {
	my ($first, $other) = $scripted->issue(2, expires_in => 5, prefix => 'canary-');
	like($first->{refresh_token}, qr/^canary-rt-/, 'the prefix marks the tokens');
	is($first->{expires_in}, 5, 'expires_in as asked for');

	my $reply = refresh("$url/token", $first->{refresh_token});
	is($reply->{status}, 200, 'a refresh succeeds');
	isnt($reply->{json}{refresh_token}, $first->{refresh_token}, 'with a new refresh token');
	isnt($reply->{json}{access_token}, $first->{access_token}, 'and a new access token');
	my ($family) = $scripted->tokens(refresh_token => $first->{refresh_token});
	is($family->{refresh_token}, $reply->{json}{refresh_token}, 'the new one is live');
	is($family->{generation}, 2, 'in the second generation');

	$reply = refresh("$url/token", $reply->{json}{refresh_token});
	my $third = $reply->{json};
	$reply = refresh("$url/token", $first->{refresh_token});
	is($reply->{status}, 400, 'a consumed token is refused');
	is($reply->{json}{error}, 'invalid_grant', 'as invalid_grant');
	is($scripted->counts('/token')->{reuse}, 1, 'and counted');
	is(refresh("$url/token", $third->{refresh_token})->{json}{error}, 'invalid_grant', 'the family is revoked');

	is(refresh("$url/token", $other->{refresh_token})->{status}, 200, 'other families are not');
	is(refresh("$url/token", 'nonsense')->{json}{error}, 'invalid_grant', 'unknown tokens are refused');

	$scripted->options(revoke_family_on_reuse => JSON::PP::false);
	my ($lenient) = $scripted->issue(1);
	my $next = refresh("$url/token", $lenient->{refresh_token})->{json};
	refresh("$url/token", $lenient->{refresh_token});
	is(refresh("$url/token", $next->{refresh_token})->{status}, 200, 'reuse revokes nothing when told so');
	is($scripted->counts('/token')->{max_requests_per_refresh_token}, 2, 'how often a token was sent is counted');

	$scripted->options(rotate => JSON::PP::false);
	my ($still) = $scripted->issue(1);
	ok(!exists refresh("$url/token", $still->{refresh_token})->{json}{refresh_token}, 'without rotation no new one comes');
	is(refresh("$url/token", $still->{refresh_token})->{status}, 200, 'and the old one stays good');
	$scripted->reset;
	is(refresh("$url/token", $still->{refresh_token})->{status}, 400, 'reset forgets all');
};

subtest 'userinfo and revocation' => sub {
	$scripted->reset;
	my ($one) = $scripted->issue(1);
	my $userinfo = sub {
		return $http->get("$url/userinfo", { headers => { authorization => "Bearer $_[0]" } })->{status};
	};
	is($userinfo->($one->{access_token}), 200, 'a live access token is let in');
	is($userinfo->('nonsense'), 401, 'another is not');

	$scripted->options(kill_access_on_refresh => JSON::PP::true);
	my $two = refresh("$url/token", $one->{refresh_token})->{json};
	is($userinfo->($one->{access_token}), 401, 'a refresh can kill the old access token');
	$scripted->revoke(access_token => $two->{access_token});
	is($userinfo->($two->{access_token}), 401, 'the test can');
	my $three = refresh("$url/token", $two->{refresh_token})->{json};
	is(form("$url/revoke", { token => $three->{refresh_token} })->{status}, 200, 'RFC 7009 revocation');
	is($userinfo->($three->{access_token}), 401, 'takes the family along');
	is(refresh("$url/token", $three->{refresh_token})->{json}{error}, 'invalid_grant', 'refresh token included');

	my @many = $scripted->issue(3);
	cmp_ok($scripted->revoke(all => JSON::PP::true), '>=', 3, 'all can be revoked');
	is(scalar(grep { $_->{refresh_token} } $scripted->tokens), 0, 'none is live then');
};

subtest 'client authentication' => sub {
	$scripted->reset;
	my ($token) = map { $_->{refresh_token} } $scripted->issue(1);
	$scripted->client('id:1', 's+e/c%');
	my $basic = 'Basic ' . encode_base64('id%3A1:s%2Be%2Fc%25', '');
	my $reply = refresh("$url/token/a", $token);
	is("$reply->{status} $reply->{json}{error}", '401 invalid_client', 'no client is refused');
	$reply = refresh("$url/token/a", $token, authorization => 'Basic ' . encode_base64('id%3A1:wrong', ''));
	is($reply->{status}, 401, 'a wrong secret too');
	$reply = refresh("$url/token/a", $token, authorization => $basic);
	is($reply->{status}, 200, 'the right one in a header is let in, and nothing was consumed before');
	$reply = form("$url/token/b", { grant_type => 'refresh_token', refresh_token => $reply->{json}{refresh_token},
		client_id => 'id:1', client_secret => 's+e/c%' });
	is($reply->{status}, 200, 'or in the body');

	is_deeply([ map { $_->{auth}{method} } $scripted->log('/token/a') ], [ 'none', 'basic', 'basic' ], 'the log says how it came');
	my ($entry) = $scripted->log('/token/b');
	is($entry->{auth}{method}, 'post', 'in the body too');
	is($entry->{auth}{client_secret}, 's+e/c%', 'decoded');
	is($entry->{params}{grant_type}, 'refresh_token', 'with the parameters');
	is($entry->{outcome}, 200, 'and the outcome');
	is($scripted->counts('/token/a')->{by_status}{401}, 2, 'each path has its own counts');
};

subtest 'scripted replies' => sub {
	$scripted->reset;
	my ($token) = map { $_->{refresh_token} } $scripted->issue(1);
	my $try = sub {
		my (@steps) = @_;
		$scripted->script('/token/x', \@steps);
		return refresh("$url/token/x", $token);
	};

	my $reply = $try->({ status => 503, headers => { 'Retry-After' => '7' } });
	is("$reply->{status} $reply->{headers}{'retry-after'}", '503 7', 'status and header');
	$reply = $try->({ json => { error => 'slow_down' }, status => 429 });
	is($reply->{json}{error}, 'slow_down', 'JSON');
	$reply = $try->({ body => '<html>', headers => { 'Content-Type' => 'text/html' } });
	is("$reply->{headers}{'content-type'} $reply->{content}", 'text/html <html>', 'a body that is not JSON');
	is($try->({ body_base64 => encode_base64("\0\xff", '') })->{content}, "\0\xff", 'bytes');
	# HTTP::Tiny follows a 302 to nowhere, which would show as 599.
	my $wary = HTTP::Tiny->new(max_redirect => 0, proxy => undef, http_proxy => undef, https_proxy => undef);
	$scripted->script('/token/x', [ { redirect => 'http://127.0.0.1:1/' } ]);
	is($wary->post("$url/token/x")->{headers}{location}, 'http://127.0.0.1:1/', 'a redirect');

	$reply = $try->({ field_overrides => { expires_in => '12', scope => undef }, omit => ['token_type'] });
	is($reply->{json}{expires_in}, '12', 'fields replaced');
	ok(!exists $reply->{json}{token_type}, 'and left out');
	$token = $reply->{json}{refresh_token};
	ok($token, 'of the normal answer');

	$reply = $try->({ rotate => 1, status => 201,
		json => { data => { accessToken => '$access_token', again => '$refresh_token', ttl => '$expires_in' } } });
	is($reply->{status}, 201, 'another success status');
	is($reply->{json}{data}{ttl}, 3600, 'a rotated answer in another shape');
	$token = $reply->{json}{data}{again};
	$reply = $try->({ rotate => 1, body => 'access_token=$access_token&refresh_token=$refresh_token' });
	($token) = $reply->{content} =~ /refresh_token=(.*)/;
	$reply = $try->({ chunked => 1, huge => 300_000 });
	is(length $reply->{content}, 300_000, 'a huge one');
	ok($token = $reply->{json}{refresh_token}, 'that is still JSON');
	is($reply->{headers}{'transfer-encoding'}, 'chunked', 'and chunked');
	my $started = time();
	$reply = $try->({ drip_ms => 1, delay_ms => 50 });
	cmp_ok(time() - $started, '>', 0.1, 'a slow one');
	ok($token = $reply->{json}{refresh_token}, 'that is complete in the end');
	is($try->({ raw => "SSH-2.0-nonsense\r\n" })->{status}, 599, 'not HTTP at all');

	foreach my $how (qw(before after_read reset mid_body))
	{
		my ($family) = $scripted->tokens;
		$reply = $try->({ close => $how, json => { access_token => 'x' x 100 } });
		is($reply->{status}, 599, "closed: $how");
		is(($scripted->tokens)[0]{generation}, $family->{generation}, 'nothing was consumed');
	}
	$reply = $try->({ rotate => 1, close => 'after_read' });
	is($reply->{status}, 599, 'consumed and closed without an answer');
	is(refresh("$url/token/x", $token)->{json}{error_description}, 'refresh token already used', 'so the token is used up');

	($token) = map { $_->{refresh_token} } $scripted->issue(1);
	$scripted->script('/token/y', [ { status => 500 }, { status => 502 } ], repeat_last => 1);
	is(join(' ', map { refresh("$url/token/y", $token)->{status} } 1 .. 3), '500 502 502', 'steps in turn, the last repeated');
	is(refresh("$url/token", $token)->{status}, 200, 'other paths have scripts of their own');
	is_deeply([ map { $_->{outcome} } grep { $_->{outcome} eq 'closed' } $scripted->log('/token/x') ],
		[ ('closed') x 6 ], 'the log knows what was closed');
};

subtest 'hanging, releasing, killing' => sub {
	$scripted->reset;
	$scripted->script('/token/h', [ { hang => JSON::PP::true } ], repeat_last => 1);
	my @tokens = map { $_->{refresh_token} } $scripted->issue(66);
	my @sockets = map { open_request($scripted->port, '/token/h', "grant_type=refresh_token&refresh_token=$_") } @tokens;
	my $counts = $scripted->wait_for('/token/h', 'hanging', 66);
	is($counts->{in_flight}, 66, '66 requests hang at once');
	is($counts->{max_in_flight_per_refresh_token}, 1, 'each with a token of its own');
	my @answered = IO::Select->new(@sockets)->can_read(0);
	is(scalar @answered, 0, 'none is answered');

	# Two clients die while they wait.
	close(shift @sockets) for 1 .. 2;
	$scripted->wait_for('/token/h', 'total', 66);
	sleep(0.02) while $scripted->counts('/token/h')->{hanging} > 64;
	is($scripted->release, 64, 'the others are released');
	is(scalar(grep { rest($_) =~ m{^HTTP/1.1 200 .*"refresh_token"}s } @sockets), 64, 'and answered normally');
	is($scripted->counts('/token/h')->{by_status}{gone}, 2, 'the dead are counted');
	is($scripted->counts('/token/h')->{refreshed}, 64, 'and their tokens are not consumed');

	$scripted->reset;
	$scripted->script('/token/h', [ { hang => JSON::PP::true, rotate => JSON::PP::true } ], repeat_last => 1);
	my ($token) = map { $_->{refresh_token} } $scripted->issue(1);
	@sockets = map { open_request($scripted->port, '/token/h', "grant_type=refresh_token&refresh_token=$token") } 1 .. 2;
	$counts = $scripted->wait_for('/token/h', 'hanging', 2);
	is($counts->{max_in_flight_per_refresh_token}, 2, 'one token in flight twice is noticed');
	is($counts->{reuse}, 1, 'with "rotate" the first consumed it before it hung');
	is($scripted->kill_connections, 2, 'both are cut');
	is(join('', map { rest($_) } @sockets), '', 'without a word');

	is($scripted->counts('/token/h')->{by_status}{closed}, 2, 'which counts as closed by the server');

	# A client that dies in the middle of its request.
	close(open_request($scripted->port, '/token/h', 'grant_', 1000));
	sleep(0.02) until ($scripted->counts('/token/h')->{by_status}{gone} // 0) == 1;
	pass('half a request is survived');
	is($scripted->counts('/token/h')->{in_flight}, 0, 'and nothing is left in flight');
};

subtest 'TLS' => sub {
	my $dir = File::Temp->newdir;
	my %cert = Conduit::Provider->make_cert("$dir");
	my %verdict;
	foreach my $kind (qw(server expired otherhost selfsigned))
	{
		my $server = Conduit::Provider->start('scripted', tls => 1, cert => $cert{"${kind}_cert"}, key => $cert{"${kind}_key"});
		like($server->url, qr/^https:/, 'an https server') if $kind eq 'server';
		my ($token) = $server->issue(1);
		my $request = "GET /userinfo HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
		  . "Authorization: Bearer $token->{access_token}\r\n\r\n";
		my ($out, $err) = ('', '');
		IPC::Run::run([ qw(openssl s_client -quiet -verify_return_error -verify_ip 127.0.0.1 -CAfile), $cert{ca},
			'-connect', '127.0.0.1:' . $server->port ], '<', \$request, '>', \$out, '2>', \$err);
		($verdict{$kind}) = $out =~ m{^HTTP/1.1 (\d+)} ? $1 : $err =~ /verify error:num=\d+:(.*)/;
	}
	is_deeply(\%verdict, {
		server => 200,
		expired => 'certificate has expired',
		otherhost => 'IP address mismatch',
		selfsigned => 'self-signed certificate',
	}, 'each certificate is what it says');

	my $oidc = Conduit::Provider->start('oidc', tls => 1, cert => $cert{server_cert}, key => $cert{server_key}, ca => $cert{ca});
	ok($oidc->connect_account('alice')->{refresh_token}, 'the real server speaks TLS as well');
	is($oidc->counts->{total}, 1, 'its control surface is there in clear');
};

subtest 'the real server' => sub {
	my $redirect = 'http://127.0.0.1:4711/callback';
	my $oidc = Conduit::Provider->start('oidc',
		access_ttl => 7, client_secret => '-s+e:c/r%t ', redirect_uri => [ $redirect, "$redirect/2" ]);
	my $info = $oidc->info;
	is($info->{redirect_uri}, $redirect, 'the first redirect URI is announced');
	my ($token, $raw) = $oidc->connect_account('alice');
	is_deeply(decode_json($raw), $token, 'the answer comes decoded and as it is');
	is($token->{expires_in}, 7, 'access tokens live as long as asked for');
	ok($token->{refresh_token} && $token->{scope} =~ /offline_access/, 'with a refresh token');

	my $userinfo = sub {
		my $reply = $http->get($info->{userinfo_endpoint}, { headers => { authorization => "Bearer $_[0]" } });
		return $reply->{status} == 200 ? decode_json($reply->{content}) : $reply->{status};
	};
	is($userinfo->($token->{access_token})->{email}, 'alice@example.test', 'userinfo');

	# "-s+e:c/r%t " form-encoded, as RFC 6749 wants it.
	my @basic = (authorization => 'Basic ' . encode_base64('conduit-demo:-s%2Be%3Ac%2Fr%25t+', ''));
	my @post = map { $info->{"post_$_"} } qw(client_id client_secret);
	my $live = $token->{refresh_token};
	my %seen = ($live => 1);
	foreach (2 .. 20)
	{
		my $reply = refresh($info->{token_endpoint}, $live, @basic);
		$live = $reply->{json}{refresh_token} // last;
		$seen{$live}++;
	}
	is(scalar keys %seen, 20, 'it rotates over 20 generations');
	my $reply = refresh($info->{token_endpoint}, $token->{refresh_token}, @basic);
	is("$reply->{status} $reply->{json}{error}", '400 invalid_grant', 'reuse is refused');
	is(refresh($info->{token_endpoint}, $live, @basic)->{json}{error}, 'invalid_grant', 'and revokes the grant');
	is($oidc->counts->{errors}{'refresh token already used'}, 1, 'the reuse is counted');

	my $bob = $oidc->connect_account('bob', auth => 'post');
	my $carol = $oidc->connect_account('carol');
	is($oidc->revoke_grants('bob'), 1, 'a grant revoked at the provider');
	is($userinfo->($bob->{access_token}), 401, 'kills the access token');
	$reply = form($info->{token_endpoint}, { grant_type => 'refresh_token', refresh_token => $bob->{refresh_token},
		client_id => $post[0], client_secret => $post[1] });
	is($reply->{json}{error}, 'invalid_grant', 'and the refresh token');
	is($userinfo->($carol->{access_token})->{sub}, 'carol', 'of this account alone');

	is(form($info->{revocation_endpoint}, { token => $carol->{refresh_token} }, @basic)->{status}, 200, 'RFC 7009 revocation');
	is(refresh($info->{token_endpoint}, $carol->{refresh_token}, @basic)->{json}{error}, 'invalid_grant', 'works');
	is(form($info->{token_endpoint}, { grant_type => 'client_credentials' }, @basic)->{json}{expires_in}, 7, 'client credentials');
	is(form($info->{introspection_endpoint}, { token => 'nonsense' }, @basic)->{json}{active}, JSON::PP::false, 'introspection');
	is(refresh($info->{token_endpoint}, 'x', authorization => 'Basic ' . encode_base64('conduit-demo:no', ''))->{json}{error},
		'invalid_client', 'a wrong client secret is refused');

	my %authorize = (client_id => 'conduit-demo', response_type => 'code', redirect_uri => $redirect,
		scope => 'openid offline_access', prompt => 'consent', state => 'st&te');
	my $authorize = sub {
		return "$info->{authorization_endpoint}?" . $http->www_form_urlencode({ %authorize, @_ });
	};
	my @pkce = (code_challenge => 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM', code_challenge_method => 'S256');
	my $callback = $oidc->authorize($authorize->(@pkce), account => 'dave');
	is_deeply([ @$callback{qw(state iss)} ], [ 'st&te', $info->{issuer} ], "somebody else's authorize URL can be driven");
	$reply = form($info->{token_endpoint}, { grant_type => 'authorization_code', code => $callback->{code},
		redirect_uri => $redirect, code_verifier => 'dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk' }, @basic);
	is($userinfo->($reply->{json}{access_token})->{sub}, 'dave', 'and its code exchanged');
	is($oidc->authorize($authorize->())->{error}, 'invalid_request', 'PKCE is required');
	is($oidc->authorize($authorize->(@pkce), deny => undef)->{error}, 'access_denied', 'the user can say no');

	$oidc->reset;
	$token = $oidc->connect_account('erin');
	is($oidc->counts->{by_grant_type}{authorization_code}, 1, 'requests are counted by grant type');
	is($oidc->counts->{by_status}{200}, 1, 'and by status');
	$oidc->access_ttl(3);
	$oidc->delay(150);
	my $started = time();
	$token = refresh($info->{token_endpoint}, $token->{refresh_token}, @basic)->{json};
	cmp_ok(time() - $started, '>', 0.14, 'replies can be delayed');
	is($token->{expires_in}, 3, 'and the lifetime changed');
	$oidc->delay(0);

	my $request = sub { return "grant_type=refresh_token&refresh_token=$_[0]&client_id=$post[0]&client_secret=$post[1]"; };
	my $frank = $oidc->connect_account('frank', auth => 'post');
	$oidc->hang(1);
	my $dead = open_request($oidc->port, '/token', $request->($frank->{refresh_token}));
	$oidc->wait_for(undef, 'hanging', 1);
	close($dead);
	my $socket = open_request($oidc->port, '/token', $request->($frank->{refresh_token}));
	$oidc->wait_for(undef, 'hanging', 2);
	$oidc->hang(0);
	like(rest($socket), qr{^HTTP/1.1 200 }, 'a hanging request is answered later; one that hung up consumed nothing');

	$frank = $oidc->connect_account('frank', auth => 'post');
	$oidc->hang(1, after_processing => JSON::PP::true);
	$dead = open_request($oidc->port, '/token', $request->($frank->{refresh_token}));
	$oidc->wait_for(undef, 'hanging', 1);
	close($dead);
	$oidc->reset;
	like(rest(open_request($oidc->port, '/token', $request->($frank->{refresh_token}))), qr/invalid_grant/,
		'after processing it did');
	unlike($oidc->stderr, qr/\Q$frank->{refresh_token}\E/, 'nothing secret on stderr');
};

subtest 'no server outlives its test' => sub {
	my ($out, $err) = ('', '');
	IPC::Run::run([ $^X, "-I$FindBin::RealBin/../perl", '-MConduit::Provider', '-e',
		'$|=1; my $s = Conduit::Provider->start("scripted"); print $s->port; kill KILL => $$' ], '<', \undef, '>', \$out, '2>', \$err);
	my $deadline = time() + 30;
	my $alive = 1;
	while ($alive && time() < $deadline)
	{
		sleep(0.02) if $alive = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $out);
	}
	ok($out && !$alive, 'kill -9 of the test ends its server');

	my $port = $scripted->port;
	$scripted->stop;
	ok(!IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port), 'so does stop');
	my $again = Conduit::Provider->start('scripted', port => $port);
	is($again->port, $port, 'and another can take its port');
	ok(!eval { Conduit::Provider->start('scripted', port => $port) } && $@ =~ /EADDRINUSE/, 'one that cannot start says why');
};

done_testing();
