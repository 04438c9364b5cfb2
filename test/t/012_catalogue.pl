# The built-in connectors, each of them: sql/catalogue.json.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP ();
use MIME::Base64 qw(decode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Conduit::Cluster;

my $top = "$FindBin::RealBin/../..";
my $module = $ENV{CONDUIT_UNIT_MODULE} // "$top/test/unit/conduit_unit.so";
die "$module is missing: run make in test/unit" unless -f $module;

my $cluster = Conduit::Cluster->new('catalogue', settings => "conduit.egress_allow = ''\n");

# What provider/ makes of a definition is asked of a server with that wing alone.
my $unit = PostgreSQL::Test::Cluster->new('catalogue_unit');
$unit->init;
$unit->append_conf('postgresql.conf', "shared_preload_libraries = '$module'\nlog_statement = none\n");
$unit->start;
$unit->safe_psql('postgres', slurp_file("$top/test/unit/$_.sql"), extra_params => [ '-v', "module=$module" ])
  for qw(unit_connector unit_provider unit_request);
$unit->safe_psql('postgres', q{
CREATE FUNCTION attempt(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
	detail text;
BEGIN
	EXECUTE 'SELECT ' || call INTO answer;
	RETURN answer;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN '! ' || SQLERRM || ': ' || detail;
END $$});

my $json = JSON::PP->new->utf8->canonical;
my $data = $json->decode(slurp_file("$top/sql/catalogue.json"));
my @slugs = sort keys %$data;
my %whole = map { $_ => whole($_) } @slugs;

# A row with what it extends, as the database merges them.
sub whole
{
	my ($slug) = @_;
	my $row = $data->{$slug};
	my %fields = (defined $row->{extends} ? %{ whole($row->{extends}) } : (), %$row);
	delete @fields{qw(extends retired)};
	return \%fields;
}

sub literal { return "'" . $_[0] =~ s/'/''/gr . "'" }

# Answers of many calls of unit functions, in one session.
sub ask
{
	my @answers = split /\x01\n?/, $unit->safe_psql('postgres',
		join("\n", map { 'SELECT attempt(' . literal($_) . q{) || E'\x01';} } @_)), -1;
	pop @answers if @answers && $answers[-1] eq '';
	die scalar(@answers) . ' answers to ' . scalar(@_) . " questions\n" if @answers != @_;
	return @answers;
}

sub has_endpoint { return $_[0]{auth_type} !~ /^(?:api_key|basic)$/ }

subtest 'rows' => sub {
	cmp_ok(scalar @slugs, '>=', 250, 'there are at least 250');
	is($cluster->sql(q{SELECT string_agg(slug, ' ' ORDER BY slug COLLATE "C") FROM conduit_connectors() WHERE builtin}), "@slugs", 'and installed');
	foreach my $slug (@slugs)
	{
		my $installed = $json->decode($cluster->sql("SELECT definition FROM conduit_connectors() WHERE slug = '$slug'")) if $slug =~ /^(?:github|google-drive|zoho-desk|binance)$/;
		is_deeply($installed, $whole{$slug}, "$slug is what the file has") if $installed;
	}
	# what version 0.1.0 has been developed with is there for good
	ok($data->{$_}, "$_ is there") for qw(alpaca binance coinbase github gitlab google microsoft slack);

	my %slug_of;
	foreach my $slug (@slugs)
	{
		my $row = $whole{$slug};
		push @{ $slug_of{ lc($data->{$slug}{name} // '') } }, $slug;
		my @missing = grep { !defined $row->{$_} || $row->{$_} !~ /\S/ } qw(auth_type api_base_url api_auth);
		is_deeply(\@missing, [], "$slug has a type and says how its API is called") if @missing;
		my $credential = has_endpoint($row) ? qr/\{token\}/ : $row->{auth_type} eq 'basic' ? qr/\{basic\}|\{username\}.*\{password\}/ : qr/\{api_key\}/;
		like($row->{api_auth}, $credential, "$slug: api_auth carries the credential") if $row->{api_auth} !~ $credential;
		my @bare = grep { ($row->{params}{$_}{description} // '') !~ /\S/ } keys %{ $row->{params} // {} };
		is_deeply(\@bare, [], "$slug: variables are described") if @bare;
	}
	is_deeply([ grep { $_ eq '' || @{ $slug_of{$_} } > 1 } sort keys %slug_of ], [], 'each has a name of its own');
};

# The same way as for users' connectors, with their rules of hosts.
subtest 'registering' => sub {
	my $refused = $cluster->sql(q{
		CREATE FUNCTION register(slug text, definition jsonb) RETURNS text LANGUAGE plpgsql AS $$
		DECLARE
			detail text;
		BEGIN
			PERFORM conduit_register_connector(slug, definition);
			RETURN NULL;
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
			RETURN slug || ': ' || detail;
		END $$;
		SELECT register('copy-of-' || slug, definition), register('extends-' || slug, jsonb_build_object('extends', slug, 'name', 'Ours'))
		FROM conduit_connectors() WHERE builtin}) =~ s/^\|?$//mgr =~ s/\n+/\n/gr =~ s/^\n//r;
	is($refused, '', 'every row passes the validator');
	is($cluster->sql(q{
		SELECT count(*) FROM conduit_connectors() o
		JOIN conduit_connectors() c ON c.slug = 'copy-of-' || o.slug AND c.definition = o.definition AND NOT c.builtin
		JOIN conduit_connectors() e ON e.slug = 'extends-' || o.slug AND e.definition = o.definition || '{"name": "Ours"}'}), scalar @slugs,
		'and is taken as it is, or extended');
	$cluster->sql(q{SELECT conduit_drop_connector(slug) FROM conduit_connectors() WHERE NOT builtin});
};

# A field that changes nothing is not there: what the data says is what differs.
subtest 'nothing is said twice' => sub {
	my @calls = map { 'unit_connector_members(' . literal($json->encode($whole{$_})) . ')' } @slugs;
	my %parsed;
	@parsed{@slugs} = ask(@calls);
	is_deeply([ grep { $parsed{$_} =~ /^!/ } @slugs ], [], 'all are parsed');

	my (@fields, @without);
	foreach my $slug (@slugs)
	{
		my $base = defined $data->{$slug}{extends} ? $whole{ $data->{$slug}{extends} } : {};
		foreach my $field (grep { $_ !~ /^(?:name|extends|retired)$/ } sort keys %{ $data->{$slug} })
		{
			my %fields = %{ $whole{$slug} };
			delete $fields{$field};
			$fields{$field} = $base->{$field} if exists $base->{$field};
			push @fields, [ $slug, $field ];
			push @without, 'unit_connector_members(' . literal($json->encode(\%fields)) . ')';
		}
	}
	my @answers = ask(@without);
	my @idle = map { join ' ', @{ $fields[$_] } } grep { $answers[$_] eq $parsed{ $fields[$_][0] } } 0 .. $#fields;
	is(join("\n", @idle), '', 'no field repeats its default or what the row extends');
};

# Run by their users, so that no domain binds them; documented as such.
my %open = map { $_ => 1 } qw(meilisearch woocommerce);

subtest 'hosts' => sub {
	my @hostile = split ' ', 'evil.example x.evil.example evil-example evil.example/ evil.example? evil.example# a@evil.example
		evil.example:443 127.0.0.1 localhost 169.254.169.254 [::1] ..';
	my (@calls, @asked);
	foreach my $slug (@slugs)
	{
		my $row = $whole{$slug};
		foreach my $field (grep { /_url$/ && $_ ne 'revoke_url' } sort keys %$row)
		{
			my ($host) = ($row->{$field} // '') =~ m{^https://([^/?]*)} or next;
			foreach my $variable ($host =~ /\{(\w+)\}/g)
			{
				foreach my $value (@hostile)
				{
					my %params = (sample_params($slug), $variable => $value);
					push @asked, [ $slug, $field, $variable, $value, $host ];
					push @calls, 'unit_expand(' . join(', ', map { literal($_) } $json->encode($row), $row->{$field}, $json->encode(\%params)) . ')';
				}
			}
		}
	}
	cmp_ok(scalar @calls, '>', 500, 'there are hosts with variables');
	my @answers = ask(@calls);
	my (%loose, @odd);
	foreach my $i (0 .. $#answers)
	{
		my ($slug, $field, $variable, $value, $host) = @{ $asked[$i] };
		next if $answers[$i] =~ /^!/;
		my ($tail) = $host =~ /\}([^{}]*)$/;
		my ($made) = $answers[$i] =~ m{^https://([^/?]*)};
		# what is put in front of the provider's own domain stays there
		next if $tail =~ /\.[a-z]+$/ && $tail =~ /^[-.]/ && substr($made, -length $tail) eq $tail;
		$loose{$slug} = 1;
		push @odd, "$slug $field: $made" if $field ne 'api_base_url';
	}
	is_deeply([ sort keys %loose ], [ sort keys %open ], 'no value leads away from the provider');
	is_deeply(\@odd, [], 'least of all where secrets go');
};

# Values for a row's variables: the example that its description gives, its
# default, or one from here.
sub sample_params
{
	my ($slug) = @_;
	my %known = (
		'algolia.app_id'              => 'ERBSOWZO32',
		'auth0-cc.audience'           => 'https://api.example.com/',
		'beehiiv.publication_id'      => 'pub_01234567-89ab-cdef-0123-456789abcdef',
		'exact-online.extension'      => 'nl',
		'github-app-installation.installation_id' => '4711',
		'meilisearch.hostname'        => 'search.example.com',
		'myob.business_id'            => '01234567-89ab-cdef-0123-456789abcdef',
		'pipedrive.api_domain'        => 'acme.pipedrive.com',
		'quickbooks.realm_id'         => '1234567890',
		'quickbooks-sandbox.realm_id' => '1234567890',
		'recruitee.company_id'        => '4711',
		'salesforce.instance_host'    => 'acme.my.salesforce.com',
		'salesforce-cc.instance_host' => 'acme.my.salesforce.com',
		'salesforce-sandbox.instance_host' => 'acme--test.sandbox.my.salesforce.com',
		'sentry-oauth.installation_uuid'   => '01234567-89ab-cdef-0123-456789abcdef',
		'sharepoint-online-oauth2-cc.tenant_id' => '01234567-89ab-cdef-0123-456789abcdef',
		'supabase.project_ref'        => 'abcdefghijklmnopqrst',
		'woocommerce.hostname'        => 'shop.example.com',
		'wrike.host'                  => 'www.wrike.com');
	my %params;
	my $declared = $whole{$slug}{params} // {};
	foreach my $variable (keys %$declared)
	{
		my ($example) = $declared->{$variable}{description} =~ /such as ([\w.-]*\w)/;
		$params{$variable} = $known{"$slug.$variable"} // $declared->{$variable}{default} // $example // 'acme';
	}
	return %params;
}

subtest 'variables' => sub {
	my (@calls, @rows);
	foreach my $slug (grep { $whole{$_}{params} } @slugs)
	{
		push @rows, $slug;
		push @calls, 'unit_check_params(' . literal($json->encode($whole{$slug})) . ', ' . literal($json->encode({ sample_params($slug) })) . ')';
		foreach my $variable (sort keys %{ $whole{$slug}{params} })
		{
			my ($example) = $whole{$slug}{params}{$variable}{description} =~ /such as ([\w.-]*\w)/ or next;
			push @rows, "$slug, $variable $example";
			push @calls, 'unit_check_params(' . literal($json->encode($whole{$slug})) . ', '
			  . literal($json->encode({ sample_params($slug), $variable => $example })) . ')';
		}
	}
	cmp_ok(scalar @calls, '>', 50, 'there are variables');
	my @answers = ask(@calls);
	is_deeply([ map { "$rows[$_] $answers[$_]" } grep { $answers[$_] ne 'ok' } 0 .. $#rows ], [], 'values like those in the descriptions are taken');
};

# Answers as the providers give them, each with what is made of it: what the
# fields of a row are for.
subtest 'answers' => sub {
	my $tokens = '"access_token": "at", "refresh_token": "rt"';
	my $known = qr/^refreshed access=at refresh=rt /;
	my @answers = (
		[ 'slack', 200, qq({"ok": true, $tokens, "expires_in": 43200, "team": {"id": "T1", "name": "Acme"}, "bot_user_id": "U1"}),
			$known, qr/expires=43200 /, qr/account=T1 label=Acme/, qr/"bot_user_id": ?"U1"/ ],
		[ 'slack', 200, '{"ok": true, "access_token": "at", "team": {"id": "T1"}}', qr/expires=never/ ],
		[ 'slack', 200, '{"ok": false, "error": "invalid_refresh_token"}', qr/^dead invalid_refresh_token/ ],
		[ 'slack', 200, '{"ok": false, "error": "bad_client_secret"}', qr/^config bad_client_secret/ ],
		[ 'github', 200, '{"error": "bad_refresh_token"}', qr/^dead bad_refresh_token/ ],
		[ 'github', 200, '{"error": "incorrect_client_credentials"}', qr/^config / ],
		[ 'github-app-user', 200, qq({$tokens, "expires_in": 28800, "refresh_token_expires_in": 15897600, "scope": "", "token_type": "bearer"}),
			$known, qr/expires=28800 refresh_expires=15897600/ ],
		[ 'github-app-installation', 201, '{"token": "at", "expires_at": "2030-01-01T01:00:00Z", "permissions": {"issues": "read"}}',
			qr/^refreshed access=at /, qr/expires=3600 / ],
		[ 'hubspot', 400, '{"status": "BAD_REFRESH_TOKEN", "message": "missing or invalid refresh token"}', qr/^dead BAD_REFRESH_TOKEN/ ],
		[ 'notion', 200, qq({$tokens, "workspace_id": "w-1", "workspace_name": "Acme", "bot_id": "b-1"}), $known, qr/account=w-1 label=Acme/ ],
		[ 'facebook', 200, '{"access_token": "at", "token_type": "bearer"}', qr/access=at refresh=at /, qr/expires=5184000/ ],
		[ 'facebook', 400, '{"error": {"message": "Error validating access token: Session has expired", "type": "OAuthException", "code": 190}}', qr/^dead 190/ ],
		[ 'instagram', 400, '{"error": {"message": "Application request limit reached", "type": "IGApiException", "code": 4}}', qr/^throttled 4/ ],
		[ 'threads', 400, '{"error": {"message": "Error validating client secret.", "type": "OAuthException", "code": 1}}', qr/^config / ],
		[ 'instagram', 200, '{"access_token": "at", "token_type": "bearer", "expires_in": 5184000}', qr/access=at refresh=at /, qr/expires=5184000/ ],
		[ 'threads', 200, '{"access_token": "at", "user_id": 4711}', qr/access=at refresh=at /, qr/account=4711/ ],
		[ 'tiktok-accounts', 200, '{"code": 0, "message": "OK", "data": {"access_token": "at", "refresh_token": "rt", "expires_in": 86400, "refresh_token_expires_in": 31536000, "scope": "a,b", "open_id": "o-1"}}',
			$known, qr/expires=86400 refresh_expires=31536000/, qr/account=o-1/ ],
		[ 'tiktok-ads', 200, '{"code": 40105, "message": "Access token is incorrect or has been revoked.", "data": {}}', qr/^(?!refreshed|dead)/ ],
		[ 'tiktok-personal', 200, qq({$tokens, "expires_in": 86400, "refresh_expires_in": 31536000, "open_id": "o-1", "scope": "user.info.basic"}),
			$known, qr/refresh_expires=31536000/, qr/account=o-1/ ],
		[ 'withings', 200, '{"status": 0, "body": {"userid": "4711", "access_token": "at", "refresh_token": "rt", "expires_in": 10800, "scope": "user.info,user.metrics", "token_type": "Bearer"}}',
			$known, qr/expires=10800/, qr/account=4711/ ],
		[ 'withings', 200, '{"status": 503, "body": {}, "error": "Invalid Params: invalid refresh_token"}', qr/^dead / ],
		[ 'withings', 200, '{"status": 601, "body": {}, "error": "Too Many Requests"}', qr/^throttled / ],
		[ 'withings', 200, '{"status": 2554, "body": {}, "error": "Unspecified unknown error occurred"}', qr/^(?!refreshed|dead)/ ],
		[ 'clover', 200, qq({$tokens, "access_token_expiration": 1893459600, "refresh_token_expiration": 1924992000}),
			$known, qr/expires=3600 refresh_expires=31536000/ ],
		[ 'sentry-oauth', 201, '{"token": "at", "refreshToken": "rt", "expiresAt": "2030-01-01T08:00:00Z", "scopes": ["event:read"]}', $known, qr/expires=28800/ ],
		[ 'quickbooks', 200, qq({$tokens, "expires_in": 3600, "x_refresh_token_expires_in": 8726400}), $known, qr/refresh_expires=8726400/ ],
		[ 'salesforce', 200, qq({$tokens, "instance_url": "https://acme.my.salesforce.com", "id": "https://login.salesforce.com/id/00D/005", "issued_at": "1893456000000"}),
			$known, qr/expires=3600/, qr/params=\{"instance_host": ?"acme\.my\.salesforce\.com"\}/, qr{account=https://login.salesforce.com/id/00D/005} ],
		[ 'salesforce', 200, qq({$tokens, "instance_url": "https://acme.my.salesforce.com.evil.example"}), qr/^(?!.*instance_host)/ ],
		[ 'salesforce', 400, '{"error": "invalid_grant", "error_description": "expired access/refresh token"}', qr/^dead / ],
		[ 'zoho', 200, '{"access_token": "at", "api_domain": "https://www.zohoapis.eu", "token_type": "Bearer", "expires_in": 3600}',
			qr/params=\{"api_domain": ?"www\.zohoapis\.eu"\}/ ],
		[ 'zoho', 400, '{"error": "Access Denied", "error_description": "You have made too many requests continuously. Please try again after some time."}', qr/^throttled / ],
		[ 'pipedrive', 200, qq({$tokens, "expires_in": 3600, "api_domain": "https://acme.pipedrive.com"}), qr/params=\{"api_domain": ?"acme\.pipedrive\.com"\}/ ],
		[ 'teamwork', 200, '{"access_token": "at", "installation": {"id": 7, "name": "Acme", "apiEndPoint": "https://acme.teamwork.com/"}}',
			qr/params=\{"hostname": ?"acme\.teamwork\.com"\}/, qr/account=7 label=Acme/, qr/expires=never/ ],
		[ 'wrike', 200, qq({$tokens, "expires_in": 3600, "host": "app-eu.wrike.com"}), qr/params=\{"host": ?"app-eu\.wrike\.com"\}/ ],
		[ 'shopify', 200, qq({$tokens, "expires_in": 3600, "refresh_token_expires_in": 7776000, "scope": "read_orders,write_orders"}),
			$known, qr/refresh_expires=7776000/ ],
		[ 'airtable', 200, qq({$tokens, "expires_in": 3600, "refresh_expires_in": 5184000}), $known, qr/refresh_expires=5184000/ ],
		[ 'atlassian', 403, '{"error": "unauthorized_client", "error_description": "refresh_token is invalid"}', qr/^dead / ],
		[ 'fitbit', 400, '{"errors": [{"errorType": "invalid_grant", "message": "Refresh token invalid"}], "success": false}', qr/^dead invalid_grant/ ],
		[ 'mailchimp', 200, '{"access_token": "at", "expires_in": 0, "scope": null}', qr/expires=never/ ],
		[ 'paypal', 200, qq({$tokens, "expires_in": "28800"}), $known, qr/expires=28800/ ],
		[ 'stripe-app', 200, qq({$tokens, "livemode": true, "stripe_user_id": "acct_1"}), $known, qr/expires=3600/, qr/account=acct_1/ ],
		[ 'square', 200, qq({$tokens, "expires_at": "2030-01-31T00:00:00Z", "merchant_id": "M1"}), $known, qr/expires=2592000/, qr/account=M1/ ],
		[ 'google', 400, '{"error": "invalid_grant", "error_description": "Token has been expired or revoked."}', qr/^dead / ],
		[ 'microsoft', 400, '{"error": "invalid_grant", "error_description": "AADSTS9002313: Invalid request. Request is malformed or invalid."}', qr/^config / ],
		[ 'coinbase', 401, '', qr/^dead / ]);

	my @made = ask(map {
		'unit_classify(' . literal($json->encode($whole{ $_->[0] })) . ", $_->[1], 'application/json', convert_to(" . literal($_->[2]) . q{, 'UTF8'))}
	} @answers);
	foreach my $i (0 .. $#answers)
	{
		my ($slug, undef, $body, @patterns) = @{ $answers[$i] };
		like($made[$i], $_, "$slug: " . substr($body, 0, 60)) for @patterns;
	}
};

# What each row makes of a client, a code and tokens, to the byte: read it as
# the provider would.
subtest 'requests' => sub {
	my $golden = "$top/test/catalogue/requests.golden";
	my ($key) = run_command([ 'openssl', 'genpkey', '-quiet', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048' ]);
	my (@blocks, @titles, @calls);
	foreach my $slug (grep { has_endpoint($whole{$_}) } @slugs)
	{
		my $row = $whole{$slug};
		my @scopes = @{ $row->{default_scopes} // [qw(read write)] };
		my %fields = (params => { sample_params($slug) }, redirect_uri => 'https://app.example.com/callback', state => 'state',
			code => 'code', access_token => 'access/token', refresh_token => 'refresh/token', scopes => \@scopes);
		@fields{qw(code_challenge code_verifier)} = qw(challenge verifier) if $row->{pkce} // 1;
		if ($row->{auth_type} eq 'jwt_bearer')
		{
			@fields{qw(private_key issuer)} = ($key, 'issuer');
			@fields{qw(scope subject key_id)} = ('read write', 'subject', 'key') unless ($row->{jwt_in} // '') eq 'authorization';
		}
		else
		{
			@fields{qw(client_id client_secret)} = ('client', ($row->{client_auth} // '') eq 'private_key_jwt' ? $key : 'client secret');
			$fields{scope} = "@scopes";
		}
		my $ask = sub {
			my ($title, $call, @arguments) = @_;
			push @blocks, $slug;
			push @titles, $title;
			push @calls, "$call(" . join(', ', map { literal($_) } $json->encode($row), @arguments, $json->encode(\%fields)) . ')';
		};
		if ($row->{auth_type} eq 'oauth2_code')
		{
			$ask->('authorize', 'unit_authorize_url');
			$ask->('code', 'unit_token_request', 'code');
			my $renews_access = ($row->{refresh_credential} // '') eq 'access_token';
			local $fields{refresh_token} = 'access/token' if $renews_access;
			$ask->('exchange', 'unit_token_request', 'exchange') if defined $row->{exchange_grant_type};
			$ask->('refresh', 'unit_token_request', 'refresh');
		}
		else
		{
			$ask->('token', 'unit_token_request', $row->{auth_type} =~ s/^oauth2_//r);
		}
		$ask->('account', 'unit_get_request') if defined $row->{account_url};
		$ask->('revoke', 'unit_revoke_request') if defined $row->{revoke_url};
	}
	cmp_ok(scalar @calls, '>', 500, 'there are requests');
	my @answers = ask(@calls);
	is_deeply([ map { "$blocks[$_] $titles[$_]: $answers[$_]" } grep { $answers[$_] =~ /^!/ } 0 .. $#answers ], [], 'all can be made');

	my $text = '';
	foreach my $i (0 .. $#answers)
	{
		$text .= ($text eq '' ? '' : "\n") . "=== $blocks[$i]\n" if $i == 0 || $blocks[$i] ne $blocks[ $i - 1 ];
		$text .= "\n[$titles[$i]]\n" . shown($answers[$i]) . "\n";
	}
	if ($ENV{CONDUIT_REGENERATE})
	{
		open my $out, '>', $golden or die "$golden: $!";
		print $out $text;
		close $out or die "$golden: $!";
		pass('test/catalogue/requests.golden is written');
		return;
	}
	my %before = map { /^=== (\S+)/ ? ($1 => $_) : () } split /^(?====)/m, slurp_file($golden);
	my %now = map { /^=== (\S+)/ ? ($1 => $_) : () } split /^(?====)/m, $text;
	is($now{$_}, $before{$_}, "requests of $_") for grep { ($now{$_} // '') ne ($before{$_} // '') } sort keys %{ { %before, %now } };
	ok($text eq slurp_file($golden), 'they are those of test/catalogue/requests.golden; CONDUIT_REGENERATE=1 writes it anew');
};

# A request without what differs each time: an assertion is shown by what it
# says, its times counted from when it was issued.
sub shown
{
	my ($request) = @_;
	$request =~ s{\b(eyJ[\w-]+)\.([\w-]+)\.[\w-]+}{
		my ($header, $claims) = map { $json->decode(decode_base64(tr/-_/+\//r)) } $1, $2;
		my $issued = delete $claims->{iat};
		$claims->{exp} -= $issued;
		$claims->{jti} = 'unique' if defined $claims->{jti};
		'<' . $json->encode($header) . $json->encode($claims) . '>'}ge;
	return $request;
}

# conduit.settle_catalogue, as an upgrade script calls it.
subtest 'upgrade' => sub {
	my $revisions = sub { return $cluster->sql(q{SELECT string_agg(slug || ' ' || revision, ',' ORDER BY slug) FROM conduit.connector}) };
	$cluster->sql(q{
		SELECT conduit_register_connector('our-drive', '{"extends": "google-drive", "name": "Our drive", "pkce": false}');
		SELECT conduit_register_connector('our-own', '{"auth_type": "api_key", "api_base_url": "https://own.example.com"}')});
	my $before = $revisions->();
	$cluster->sql(sprintf('SELECT conduit.settle_catalogue(%s)', literal(slurp_file("$top/sql/catalogue.json"))));
	is($revisions->(), $before, 'the same rows change nothing');

	my $row = sub {
		my ($slug, $field) = @_;
		return $cluster->sql("SELECT definition ->> '$field' FROM conduit_connectors() WHERE slug = '$slug'");
	};
	my %google = (%{ $data->{google} }, access_token_lifetime_s => 1800);
	my %retired = (%{ $data->{binance} }, retired => JSON::PP::true);
	$cluster->sql(sprintf('SELECT conduit.settle_catalogue(%s)', literal($json->encode({
		google => \%google, binance => \%retired, 'our-own' => { name => 'Not ours', auth_type => 'basic' },
		'another' => { extends => 'our-own', name => 'Another' }, 'brand-new' => { name => 'New', auth_type => 'basic', extends => 'brand-older' },
		'brand-older' => { auth_type => 'api_key', api_base_url => 'https://brand.example.com' } }))));
	is($row->($_, 'access_token_lifetime_s'), 1800, "a change reaches $_") for qw(google google-drive our-drive);
	is($row->('our-drive', 'pkce'), 'false', 'which keeps what is its own');
	is($row->('our-drive', 'name'), 'Our drive', 'all of it');
	is($row->('brand-new', 'api_base_url'), 'https://brand.example.com', 'a new row extends another new one');
	is($row->('our-own', 'auth_type'), 'api_key', 'a slug that a user has taken stays the user\'s');
	is($cluster->sql(q{SELECT builtin, retired FROM conduit_connectors() WHERE slug = 'binance'}), 't|t', 'a row is retired');
	like($cluster->error(q{SELECT conduit_create_connection('alice', 'binance')}), qr/^22023\|connector is retired\|/, 'and takes no new connections');
	my %changed = map { $_ => 1 } split /,/, $revisions->();
	my @same = grep { $changed{$_} } split /,/, $before;
	my @expected = grep { !/^(?:google|google-(?!gemini|service).*|youtube|binance|our-drive) / } split /,/, $before;
	is_deeply(\@same, \@expected, 'what is not concerned is not touched');

	# a dump of a user's connector, restored where it has become built in
	$cluster->sql(q{
		INSERT INTO conduit.connector (slug, definition, resolved)
		SELECT 'brand-older', d, d FROM (SELECT '{"auth_type": "basic", "name": "Ours"}'::jsonb) v (d)});
	is($cluster->sql(q{SELECT name, builtin FROM conduit_connectors() WHERE slug = 'brand-older'}), 'Ours|f', 'the user\'s takes its place');
};

done_testing();
