# Connector definitions, field by field: what is taken and what it becomes, what
# is refused and in whose name; and what becomes of their templates.
#
# The SQL functions unit_* are those of test/unit; build that module first.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use PostgreSQL::Test::Utils;
use Test::More;

use Conduit::Unit qw(literal);

my $unit = Conduit::Unit->new('connector_units', 'unit_connector.sql');

# The least definition of each type, by the letter that stands for it below.
my %least = (
	C => '"auth_type":"oauth2_code","authorize_url":"https://p.example/a","token_url":"https://p.example/t"',
	L => '"auth_type":"oauth2_client_credentials","token_url":"https://p.example/t"',
	J => '"auth_type":"jwt_bearer","token_url":"https://p.example/t"',
	R => '"auth_type":"bearer_renew","token_url":"https://p.example/t"',
	K => '"auth_type":"api_key"',
	B => '"auth_type":"basic"');
my @types = qw(C L J R K B);

# A definition of a type with more fields; what is given again counts.
sub definition
{
	my ($type, $more) = @_;
	my $least = $least{$type};
	while ($more =~ /"(\w+)":/g)
	{
		my $name = $1;
		$least =~ s/"$name":"[^"]*",?//;
	}
	$least =~ s/,$//;
	return '{' . join(',', grep { $_ ne '' } $least, $more) . '}';
}

sub registering { return 'try(' . literal('SELECT unit_connector(' . literal($_[0]) . ')') . ')'; }

my $refused = '22023 invalid connector definition /';

# -- Every field, who may have it, a value and what it needs beside it. --

my $key_jwt = '"client_auth":"private_key_jwt"';
my @fields = (
	[ 'name', 'CLJRKB', '"N"' ],
	[ 'auth_type', 'CLJRKB' ],
	[ 'params', 'CLJRKB', '{"a":{"pattern":"^a$"}}' ],
	[ 'issuer', 'CLJR', '"https://p.example"' ],
	[ 'authorize_url', 'C', '"https://p.example/a"' ],
	[ 'token_url', 'CLJR', '"https://p.example/t"' ],
	[ 'refresh_url', 'C', '"https://p.example/r"' ],
	[ 'exchange_url', 'C', '"https://p.example/x"', '"exchange_grant_type":"x"' ],
	[ 'revoke_url', 'CLJ', '"https://p.example/v"' ],
	[ 'account_url', 'C', '"https://p.example/me"', '"account_path":"id"' ],
	[ 'api_base_url', 'CLJRKB', '"https://p.example/api"' ],
	[ 'api_auth', 'CLJRKB', '"X-A: {token}"' ],
	[ 'preview_hosts', 'CLJRKB', '["files.p.example","*.s.p.example"]' ],
	[ 'client_auth', 'CLJ', '"basic"' ],
	[ 'client_assertion_audience', 'CLJ', '"https://p.example"', $key_jwt ],
	[ 'client_assertion_issuer', 'CLJ', '"app.example"', $key_jwt ],
	[ 'signing_algorithm', 'CLJ', '"ES256"', $key_jwt ],
	[ 'body_format', 'CLJR', '"json"' ],
	[ 'refresh_body_format', 'C', '"json"' ],
	[ 'token_method', 'CLJ', '"GET"', '"body_format":"query"' ],
	[ 'refresh_method', 'C', '"GET"', '"refresh_body_format":"query"' ],
	[ 'token_param_names', 'CLJ', '{"client_id":"app"}' ],
	[ 'refresh_param_names', 'C', '{"refresh_token":"t"}' ],
	[ 'extra_token_params', 'CLJR', '"a=b"' ],
	[ 'extra_code_params', 'C', '"a=b"' ],
	[ 'extra_refresh_params', 'C', '"a=b"' ],
	[ 'code_grant_type', 'C', '"c"' ],
	[ 'refresh_grant_type', 'CLJ', '"r"' ],
	[ 'exchange_grant_type', 'C', '"x"' ],
	[ 'refresh_credential', 'C', '"access_token"' ],
	[ 'refresh_sends_scope', 'C', 'true' ],
	[ 'token_headers', 'CLJR', '{"X-A":"b"}' ],
	[ 'pkce', 'C', 'false' ],
	[ 'scope_separator', 'CLJ', '"comma"' ],
	[ 'default_scopes', 'CLJ', '["a"]' ],
	[ 'authorize_param_names', 'C', '{"client_id":"app"}' ],
	[ 'extra_authorize_params', 'C', '"a=b"' ],
	[ 'callback_code_param', 'C', '"auth_code"' ],
	[ 'callback_params', 'C', '{"where":"a"}', '"params":{"a":{"pattern":"^a$"}}' ],
	[ 'callback_metadata', 'C', '["realmId"]' ],
	[ 'callback_iss_required', 'C', 'true' ],
	(map { [ $_, 'CLJR', '"a.b"' ] } qw(access_token_path token_type_path scope_path expires_path error_path error_description_path)),
	[ 'refresh_token_path', 'CR', '"a.b"' ],
	[ 'expires_kind', 'CLJR', '"at"' ],
	[ 'expires_unit', 'CLJR', '"ms"' ],
	[ 'refresh_expires_path', 'CR', '"a.b"' ],
	[ 'success_path', 'CLJR', '"ok"', '"success_value":true' ],
	[ 'success_value', 'CLJR', 'true', '"success_path":"ok"' ],
	[ 'refresh_extends', 'CR', 'true', '"access_token_lifetime_s":60' ],
	[ 'response_params', 'CLJR', '{"a":"b"}', '"params":{"a":{"pattern":"^a$"}}' ],
	[ 'response_metadata', 'CLJR', '{"a":"b"}' ],
	[ 'account_path', 'C', '"id"' ],
	[ 'account_label_path', 'C', '"name"' ],
	[ 'refresh_rotates', 'CR', 'false' ],
	[ 'refresh_kills_access_token', 'CLJR', 'true' ],
	[ 'reuse_window_s', 'CR', '60' ],
	[ 'access_token_lifetime_s', 'CLJR', '60' ],
	[ 'refresh_token_lifetime_s', 'CR', '60' ],
	[ 'refresh_idle_limit_s', 'CR', '60' ],
	[ 'refresh_lead_s', 'CLJR', '60' ],
	[ 'error_codes', 'CLJR', '{"a":"dead"}' ],
	[ 'error_phrases', 'CLJR', '{"gone away":"dead"}' ],
	[ 'dead_errors', 'CLJR', '["gone"]' ],
	[ 'dead_statuses', 'CLJR', '[401]' ],
	[ 'revoke_method', 'CLJ', '"DELETE"' ],
	[ 'revoke_body_format', 'CLJ', '"json"' ],
	[ 'revoke_credential', 'C', '"access_token"' ],
	[ 'revoke_param', 'CLJ', '"t"' ],
	[ 'revoke_auth', 'CLJ', '"token"' ],
	[ 'revokes', 'CLJ', '"token"' ],
	[ 'jwt_audience', 'J', '"https://p.example"' ],
	[ 'jwt_lifetime_s', 'J', '60' ],
	[ 'jwt_in', 'J', '"authorization"' ],
	[ 'jwt_scope_claim', 'J', 'true' ],
	[ 'jwt_claims', 'J', '{"a":"b"}' ],
	[ 'rate_limit_requests', 'CLJRKB', '5', '"rate_limit_window_s":1' ],
	[ 'rate_limit_window_s', 'CLJRKB', '5', '"rate_limit_requests":1' ],
	[ 'rate_limit_burst', 'CLJRKB', '5', '"rate_limit_requests":1,"rate_limit_window_s":1' ],
	[ 'token_rate_limit_requests', 'CLJR', '5', '"token_rate_limit_window_s":1' ],
	[ 'token_rate_limit_window_s', 'CLJR', '5', '"token_rate_limit_requests":1' ],
	[ 'token_rate_limit_burst', 'CLJR', '5', '"token_rate_limit_requests":1,"token_rate_limit_window_s":1' ],
);

my @known = slurp_file("$FindBin::RealBin/../../src/provider/connector.c") =~ /^\t\{"(\w+)", [A-Z| ]+, \w+/mg;
is_deeply([ sort map { $_->[0] } @fields ], [ sort @known ], 'every field there is has a row here');

# The order of the rows is kept, so that a later one can lean on an earlier one.
$unit->check_all('who may have a field', map {
	my ($name, $who, $value, @beside) = @$_;
	map {
		my $type = $_;
		my $may = index($who, $type) >= 0;
		my $why = $type =~ /[KB]/ ? 'without a token endpoint' : 'with this auth_type';
		defined $value ? [ "$type $name", registering(definition($type, join(',', "\"$name\":$value", $may ? @beside : ()))),
			$may ? 'ok ok' : "$refused $name: has no meaning $why" ] : ()
	} @types
} @fields);

# null is the same as nothing, for everybody.
$unit->check_all('null', map {
	my ($name) = @$_;
	map { [ "$_ $name", registering('{' . $least{$_} . ",\"$name\":null}"), 'ok ok' ] } grep { $least{$_} !~ /"$name"/ } @types
} @fields);

# -- Defaults. --

my $json_grant = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
my %everybody = (
	slug => 'unit', name => 'unit', issuer => '-', refresh_url => '-', exchange_url => '-', revoke_url => '-', account_url => '-',
	api_base_url => '-', api_auth => '-', client_assertion_audience => '-', client_assertion_issuer => '-', signing_algorithm => 'RS256',
	'code_request.method' => 'POST', 'code_request.grant_type' => 'authorization_code', 'code_request.param_names' => '-',
	'code_request.extra_params' => '-', 'refresh_request.method' => 'POST', 'refresh_request.param_names' => '-',
	'refresh_request.extra_params' => '-', exchange_grant_type => '-', refresh_by_access_token => 'false', refresh_sends_scope => 'false',
	token_headers => '-', scope_separator => ' ', default_scopes => '', authorize_param_names => '-', extra_authorize_params => '-',
	callback_code_param => 'code', callback_params => '-', callback_metadata => '', callback_iss_required => 'false',
	(map { $_ => '-' } qw(access_token_path refresh_token_path token_type_path scope_path expires_path refresh_expires_path error_path
		error_description_path success_path success_value response_params response_metadata account_path account_label_path)),
	expires_is_time => 'false', expires_in_ms => 'false', refresh_extends => 'false', refresh_kills_access_token => 'false',
	reuse_window_s => 0, access_token_lifetime_s => 0, refresh_token_lifetime_s => 0, refresh_idle_limit_s => 0, refresh_lead_s => -1,
	error_codes => '', error_phrases => '', dead_statuses => '', revoke_method => 'POST', revoke_body_format => 0, revoke_param => 'token',
	revoke_auth => 0, revokes_token => 'false', jwt_audience => '-', jwt_lifetime_s => 300, jwt_in_header => 'false',
	jwt_scope_claim => 'false', jwt_claims => '-', params => '-',
	map { ("api_limit.$_" => 0, "token_limit.$_" => 0) } qw(requests window_s burst));
my @differing = qw(auth_type authorize_url token_url client_auth code_request.body_format refresh_request.body_format
  refresh_request.grant_type pkce refresh_rotates revoke_by_access_token);
my %differing = (
	C => [ 0, 'https://p.example/a', 'https://p.example/t', 0, 0, 0, 'refresh_token', 'true', 'true', 'false' ],
	L => [ 1, '-', 'https://p.example/t', 0, 0, 0, 'client_credentials', 'false', 'false', 'true' ],
	J => [ 2, '-', 'https://p.example/t', 2, 0, 0, $json_grant, 'false', 'false', 'true' ],
	R => [ 3, '-', 'https://p.example/t', 2, 1, 1, '-', 'false', 'true', 'false' ],
	K => [ 4, '-', '-', 2, 0, 0, '-', 'false', 'false', 'true' ],
	B => [ 5, '-', '-', 2, 0, 0, '-', 'false', 'false', 'true' ]);
my ($every_member) = $unit->evaluate('unit_connector_members(' . literal("{$least{C}}") . ')');
is_deeply([ sort $every_member =~ /(?:^| )([a-z_.]+)=/g ], [ sort keys %everybody, @differing ], 'every member has a default here');
foreach my $type (@types)
{
	my %expected = (%everybody, map { $differing[$_] => $differing{$type}[$_] } 0 .. $#differing);
	$unit->check_all("defaults of $type", map {
		[ $_, 'unit_connector_members(' . literal("{$least{$type}}") . ", '$_')", "$_=$expected{$_}" ]
	} sort keys %expected);
}

# -- What values become: [ type, fields, members, their text ]. --

my $params = '"params":{"sub":{"pattern":"^[a-z]+$"},"v":{"pattern":"^.+$","default":"v1"}}';
my @taken = (
	[ 'C', '"name":"Ac-me \u00e9"', 'name', "name=Ac-me \xc3\xa9" ],
	[ 'C', '"name":"' . ('n' x 100) . '"', 'name', 'name=' . ('n' x 100) ],
	[ 'C', "$params," . '"issuer":"https://{sub}.p.example/oauth2"', 'issuer', 'issuer=https://{sub}.p.example/oauth2' ],
	[ 'C', '"refresh_url":"https://r.example/r","api_base_url":"https://api.example"', 'refresh_url api_base_url', 'refresh_url=https://r.example/r api_base_url=https://api.example' ],
	[ 'C', '"exchange_url":"https://x.example","exchange_grant_type":"fb_exchange_token"', 'exchange_url exchange_grant_type', 'exchange_url=https://x.example exchange_grant_type=fb_exchange_token' ],
	[ 'C', "$params," . '"authorize_url":"https://{sub}.p.example/{v}?x={v}"', 'authorize_url', 'authorize_url=https://{sub}.p.example/{v}?x={v}' ],
	[ 'C', "$params," . '"token_url":"https://{sub}.p.example/{v}"', 'token_url', 'token_url=https://{sub}.p.example/{v}' ],
	[ 'C', "$params," . '"token_url":"https://{sub}/t"', 'token_url', 'token_url=https://{sub}/t' ],
	[ 'C', '"revoke_url":"https://p.example/{client_id}/token/{token}?t={token}"', 'revoke_url revoke_param', 'revoke_url=https://p.example/{client_id}/token/{token}?t={token} revoke_param=-' ],
	[ 'C', '"revoke_url":"https://p.example/{token}","revoke_param":"t"', 'revoke_param', 'revoke_param=t' ],
	[ 'C', '"revoke_param":null', 'revoke_param', 'revoke_param=-' ],
	[ 'C', '"account_url":"https://api.p.example/me","account_path":"data.0.id","account_label_path":"data.0.name"', 'account_url account_path account_label_path',
		'account_url=https://api.p.example/me account_path=data.0.id account_label_path=data.0.name' ],
	[ 'C', "$params," . '"api_auth":"Authorization: Bearer {token}; X-Sub: {sub}; ?key={api_key}"', 'api_auth', 'api_auth=Authorization: Bearer {token}; X-Sub: {sub}; ?key={api_key}' ],
	[ 'K', '"api_auth":"X: {api_key}{api_secret}{username}{password}{basic}{client_id}"', 'api_auth', 'api_auth=X: {api_key}{api_secret}{username}{password}{basic}{client_id}' ],

	(map { [ 'C', "\"client_auth\":\"$_->[0]\"", 'client_auth', "client_auth=$_->[1]" ] } [ 'post', 0 ], [ 'basic', 1 ], [ 'none', 2 ], [ 'private_key_jwt', 3 ], [ 'secret_as_user', 4 ]),
	[ 'C', "$params,$key_jwt," . '"client_assertion_audience":"https://{sub}.p.example","client_assertion_issuer":"app.example.com"', 'client_assertion_audience client_assertion_issuer',
		'client_assertion_audience=https://{sub}.p.example client_assertion_issuer=app.example.com' ],
	(map { [ 'C', "$key_jwt,\"signing_algorithm\":\"$_\"", 'signing_algorithm', "signing_algorithm=$_" ] } qw(RS256 RS384 RS512 PS256 ES256 ES384 EdDSA)),
	[ 'J', '"signing_algorithm":"PS256"', 'signing_algorithm', 'signing_algorithm=PS256' ],

	(map { [ 'C', "\"body_format\":\"$_->[0]\"", 'code_request.body_format refresh_request.body_format', "code_request.body_format=$_->[1] refresh_request.body_format=$_->[1]" ] } [ 'form', 0 ], [ 'json', 1 ], [ 'query', 2 ]),
	[ 'C', '"body_format":"query","refresh_body_format":"form"', 'code_request.body_format refresh_request.body_format', 'code_request.body_format=2 refresh_request.body_format=0' ],
	[ 'C', '"body_format":"query","token_method":"GET"', 'code_request.method refresh_request.method', 'code_request.method=GET refresh_request.method=GET' ],
	[ 'C', '"body_format":"query","token_method":"GET","refresh_body_format":"json"', 'code_request.method refresh_request.method', 'code_request.method=GET refresh_request.method=POST' ],
	[ 'C', '"body_format":"query","token_method":"GET","refresh_method":"POST"', 'code_request.method refresh_request.method', 'code_request.method=GET refresh_request.method=POST' ],
	[ 'C', '"refresh_body_format":"query","refresh_method":"GET"', 'code_request.method refresh_request.method', 'code_request.method=POST refresh_request.method=GET' ],
	[ 'L', '"body_format":"query","token_method":"GET"', 'refresh_request.method refresh_request.body_format', 'refresh_request.method=GET refresh_request.body_format=2' ],
	[ 'C', '"token_param_names":{"client_id":"client_key","redirect_uri":null}', 'code_request.param_names refresh_request.param_names',
		'code_request.param_names={"client_id":"client_key","redirect_uri":null} refresh_request.param_names={"client_id":"client_key","redirect_uri":null}' ],
	[ 'C', '"token_param_names":{"client_id":"a","client_secret":"s"},"refresh_param_names":{"client_secret":null,"refresh_token":"access_token"}', 'code_request.param_names refresh_request.param_names',
		'code_request.param_names={"client_id":"a","client_secret":"s"} refresh_request.param_names={"client_id":"a","client_secret":null,"refresh_token":"access_token"}' ],
	[ 'C', '"refresh_param_names":{"client_id":"a"}', 'code_request.param_names refresh_request.param_names', 'code_request.param_names=- refresh_request.param_names={"client_id":"a"}' ],
	[ 'C', '"extra_token_params":{"a":"b"}', 'code_request.extra_params refresh_request.extra_params', 'code_request.extra_params={"a":"b"} refresh_request.extra_params={"a":"b"}' ],
	[ 'C', '"extra_token_params":"a=1&b=2","extra_code_params":"b=3&c=4","extra_refresh_params":{"d":"5"}', 'code_request.extra_params refresh_request.extra_params',
		'code_request.extra_params={"a":"1","b":"3","c":"4"} refresh_request.extra_params={"a":"1","b":"2","d":"5"}' ],
	[ 'C', "$params," . '"extra_token_params":"resource=%7Bsub%7D+x&claims=%7B%22a%22%3A1%7D"', 'code_request.extra_params', 'code_request.extra_params={"resource":"{sub} x","claims":"{\"a\":1}"}' ],
	[ 'C', '"token_param_names":{"client_id":"appid"},"extra_token_params":"client_id=fixed"', 'code_request.extra_params', 'code_request.extra_params={"client_id":"fixed"}' ],
	[ 'C', '"token_param_names":{"grant_type":null},"extra_code_params":"grant_type=a","extra_refresh_params":"grant_type=b"', 'refresh_request.extra_params', 'refresh_request.extra_params={"grant_type":"b"}' ],
	[ 'C', '"extra_token_params":"scope=x"', 'refresh_request.extra_params', 'refresh_request.extra_params={"scope":"x"}' ],
	[ 'C', '"token_param_names":{"client_id":"client_secret","client_secret":"client_id"}', 'code_request.param_names', 'code_request.param_names={"client_id":"client_secret","client_secret":"client_id"}' ],
	[ 'C', '"code_grant_type":"web","refresh_grant_type":"ig_refresh_token"', 'code_request.grant_type refresh_request.grant_type', 'code_request.grant_type=web refresh_request.grant_type=ig_refresh_token' ],
	[ 'L', '"refresh_grant_type":"account_credentials"', 'refresh_request.grant_type', 'refresh_request.grant_type=account_credentials' ],
	[ 'J', '"refresh_grant_type":"urn:x"', 'refresh_request.grant_type', 'refresh_request.grant_type=urn:x' ],
	[ 'J', '"jwt_in":"authorization"', 'refresh_request.grant_type jwt_in_header', 'refresh_request.grant_type=- jwt_in_header=true' ],
	[ 'J', '"jwt_in":"assertion"', 'refresh_request.grant_type jwt_in_header', "refresh_request.grant_type=$json_grant jwt_in_header=false" ],
	[ 'C', '"refresh_credential":"access_token"', 'refresh_by_access_token', 'refresh_by_access_token=true' ],
	[ 'C', '"refresh_credential":"refresh_token"', 'refresh_by_access_token', 'refresh_by_access_token=false' ],
	[ 'C', '"refresh_sends_scope":true', 'refresh_sends_scope', 'refresh_sends_scope=true' ],
	[ 'C', "$params," . '"token_headers":{"X-Client":"{client_id}:{client_secret}","X-Id":"{uuid}","X-Sub":"{sub}"}', 'token_headers', 'token_headers={"X-Client":"{client_id}:{client_secret}","X-Id":"{uuid}","X-Sub":"{sub}"}' ],
	[ 'C', '"token_headers":{"WM_SVC.NAME":"Market"}', 'token_headers', 'token_headers={"WM_SVC.NAME":"Market"}' ],
	[ 'C', '"client_auth":"none","token_headers":{"Authorization":"Key {client_secret}"}', 'token_headers', 'token_headers={"Authorization":"Key {client_secret}"}' ],

	(map { [ 'C', "\"pkce\":$_->[0]", 'pkce', "pkce=$_->[1]" ] } [ 'true', 'true' ], [ 'false', 'false' ], [ '"supported"', 'true' ], [ '"required"', 'true' ], [ '"unknown"', 'true' ], [ '"no"', 'false' ]),
	(map { [ 'C', "\"scope_separator\":\"$_->[0]\"", 'scope_separator', "scope_separator=$_->[1]" ] } [ 'space', ' ' ], [ 'comma', ',' ], [ 'plus', '+' ], [ ' ', ' ' ], [ ',', ',' ], [ '+', '+' ]),
	[ 'C', '"default_scopes":["read:user","https://p.example/auth/x"]', 'default_scopes', 'default_scopes=[read:user][https://p.example/auth/x]' ],
	[ 'C', '"default_scopes":[]', 'default_scopes', 'default_scopes=' ],
	[ 'C', '"default_scopes":["a,b"]', 'default_scopes', 'default_scopes=[a,b]' ],
	[ 'C', '"authorize_param_names":{"client_id":"app_id","scope":null}', 'authorize_param_names', 'authorize_param_names={"client_id":"app_id","scope":null}' ],
	[ 'C', '"pkce":false,"authorize_param_names":{"code_challenge":null}', 'authorize_param_names', 'authorize_param_names={"code_challenge":null}' ],
	[ 'C', '"extra_authorize_params":"access_type=offline&prompt=select%20account+x"', 'extra_authorize_params', 'extra_authorize_params={"access_type":"offline","prompt":"select account x"}' ],
	[ 'C', '"authorize_param_names":{"scope":null},"extra_authorize_params":"scope=public_api"', 'extra_authorize_params', 'extra_authorize_params={"scope":"public_api"}' ],
	[ 'C', '"callback_code_param":"spapi_oauth_code","callback_metadata":["selling_partner_id","realmId"],"callback_iss_required":true', 'callback_code_param callback_metadata callback_iss_required',
		'callback_code_param=spapi_oauth_code callback_metadata=[selling_partner_id][realmId] callback_iss_required=true' ],
	[ 'C', "$params," . '"callback_params":{"accounts-server":"sub"},"token_url":"https://{sub}.p.example/t"', 'callback_params', 'callback_params={"accounts-server":"sub"}' ],

	[ 'C', '"access_token_path":"authed_user.access_token","refresh_token_path":"data.tokens.0.value","token_type_path":"a","scope_path":"b-c","error_path":"error.code","error_description_path":"meta:x@y/z$"',
		'access_token_path refresh_token_path token_type_path scope_path error_path error_description_path',
		'access_token_path=authed_user.access_token refresh_token_path=data.tokens.0.value token_type_path=a scope_path=b-c error_path=error.code error_description_path=meta:x@y/z$' ],
	[ 'C', '"expires_path":"a.b","expires_kind":"at","expires_unit":"ms","refresh_expires_path":"c"', 'expires_path expires_is_time expires_in_ms refresh_expires_path',
		'expires_path=a.b expires_is_time=true expires_in_ms=true refresh_expires_path=c' ],
	[ 'C', '"expires_kind":"in","expires_unit":"s"', 'expires_is_time expires_in_ms', 'expires_is_time=false expires_in_ms=false' ],
	[ 'C', '"scope_path":"' . join('.', ('a' x 27) x 8) . '"', 'scope_path', 'scope_path=' . join('.', ('a' x 27) x 8) ],
	(map { [ 'C', "\"success_path\":\"result\",\"success_value\":$_", 'success_path success_value', "success_path=result success_value=$_" ] } '"0000"', '0', 'true', 'false'),
	[ 'C', '"refresh_extends":true,"access_token_lifetime_s":2592000', 'refresh_extends access_token_lifetime_s', 'refresh_extends=true access_token_lifetime_s=2592000' ],
	[ 'C', '"refresh_extends":false', 'refresh_extends', 'refresh_extends=false' ],
	[ 'C', '"params":{"host":{"pattern":"^[a-z.]+$"}},"response_params":{"host":"instance_url"},"api_base_url":"https://{host}/","account_url":"https://{host}/me","account_path":"id"', 'response_params', 'response_params={"host":"instance_url"}' ],
	[ 'J', '"params":{"host":{"pattern":"^[a-z.]+$"}},"response_params":{"host":"instance_url"},"api_base_url":"https://{host}/"', 'response_params', 'response_params={"host":"instance_url"}' ],
	[ 'C', '"response_metadata":{"team":"team.name"},"account_path":"id_token.sub","account_label_path":"access_token.email"', 'response_metadata account_path account_label_path',
		'response_metadata={"team":"team.name"} account_path=id_token.sub account_label_path=access_token.email' ],

	(map { [ 'C', "\"refresh_rotates\":$_->[0]", 'refresh_rotates', "refresh_rotates=$_->[1]" ] } [ 'true', 'true' ], [ 'false', 'false' ], [ '"yes"', 'true' ], [ '"unknown"', 'true' ], [ '"no"', 'false' ]),
	[ 'C', '"refresh_kills_access_token":true,"reuse_window_s":28800,"refresh_token_lifetime_s":7200,"refresh_idle_limit_s":5184000,"refresh_lead_s":0', 'refresh_kills_access_token reuse_window_s refresh_token_lifetime_s refresh_idle_limit_s refresh_lead_s',
		'refresh_kills_access_token=true reuse_window_s=28800 refresh_token_lifetime_s=7200 refresh_idle_limit_s=5184000 refresh_lead_s=0' ],
	[ 'C', '"access_token_lifetime_s":3.6e3', 'access_token_lifetime_s', 'access_token_lifetime_s=3600' ],
	[ 'C', '"access_token_lifetime_s":316224000,"refresh_lead_s":2592000', 'access_token_lifetime_s refresh_lead_s', 'access_token_lifetime_s=316224000 refresh_lead_s=2592000' ],

	[ 'C', '"error_codes":{"a":"dead","b-2":"config","40105":"throttled","e":"transient"}', 'error_codes', 'error_codes=a=dead, b-2=config, 40105=throttled, e=transient' ],
	[ 'C', '"error_codes":{"Session Gone":"dead","x":"config"},"dead_errors":["session_gone","y","y"]', 'error_codes', 'error_codes=Session Gone=dead, x=config, y=dead' ],
	[ 'C', '"error_phrases":{"Made too MANY requests":"throttled","user is inactive":"dead"}', 'error_phrases', 'error_phrases=made too many requests=throttled, user is inactive=dead' ],
	[ 'C', '"dead_errors":["gone","GRANT.GONE"],"dead_statuses":[401,410]', 'error_codes dead_statuses', 'error_codes=gone=dead, GRANT.GONE=dead dead_statuses=[401][410]' ],

	(map { [ 'C', "\"revoke_method\":\"$_->[0]\"", 'revoke_method revoke_body_format', "revoke_method=$_->[0] revoke_body_format=$_->[1]" ] } [ 'POST', 0 ], [ 'DELETE', 0 ], [ 'GET', 2 ]),
	[ 'C', '"revoke_body_format":"json","revoke_credential":"access_token","revoke_param":"access_token","revokes":"token"', 'revoke_body_format revoke_by_access_token revoke_param revokes_token',
		'revoke_body_format=1 revoke_by_access_token=true revoke_param=access_token revokes_token=true' ],
	[ 'C', '"revoke_credential":"refresh_token","revokes":"grant"', 'revoke_by_access_token revokes_token', 'revoke_by_access_token=false revokes_token=false' ],
	(map { [ 'C', "\"revoke_auth\":\"$_->[0]\"", 'revoke_auth', "revoke_auth=$_->[1]" ] } [ 'client', 0 ], [ 'basic', 1 ], [ 'token', 2 ], [ 'none', 3 ]),

	[ 'J', "$params," . '"jwt_audience":"account.docusign.com","jwt_lifetime_s":3600,"jwt_scope_claim":true,"jwt_claims":{"box_sub_type":"enterprise","org":"{sub}"}', 'jwt_audience jwt_lifetime_s jwt_scope_claim jwt_claims',
		'jwt_audience=account.docusign.com jwt_lifetime_s=3600 jwt_scope_claim=true jwt_claims={"box_sub_type":"enterprise","org":"{sub}"}' ],
	[ 'J', '"jwt_lifetime_s":30,"jwt_claims":{}', 'jwt_lifetime_s jwt_claims', 'jwt_lifetime_s=30 jwt_claims={}' ],

	[ 'K', '"rate_limit_requests":200,"rate_limit_window_s":60,"rate_limit_burst":10', 'api_limit.requests api_limit.window_s api_limit.burst', 'api_limit.requests=200 api_limit.window_s=60 api_limit.burst=10' ],
	[ 'C', '"token_rate_limit_requests":10,"token_rate_limit_window_s":600,"token_rate_limit_burst":5', 'token_limit.requests token_limit.window_s token_limit.burst', 'token_limit.requests=10 token_limit.window_s=600 token_limit.burst=5' ],
	[ 'K', '"params":{"a":{"pattern":"^a$","default":"a","description":"d"}}', 'params', 'params={"a":{"pattern":"^a$","default":"a","description":"d"}}' ],
);
$unit->check_all('fields taken', map {
	my ($type, $more, $members, $expected) = @$_;
	[ "$type $more", 'unit_connector_members(' . literal(definition($type, $more)) . ", '$members')", $expected ]
} @taken);

# -- What is refused, and in whose name: [ type, fields, DETAIL ]. --

my $twenty = '"' . join('.', ('a') x 9) . '"';
my @bad = (
	[ 'C', '"auth_type":null', 'auth_type: missing' ],
	[ 'K', '"auth_type":7', 'auth_type: not a string' ],
	[ 'K', '"auth_type":"oauth1"', 'auth_type: not a known value' ],
	[ 'C', '"token_url":null', 'token_url: missing' ],
	[ 'C', '"authorize_url":null', 'authorize_url: missing' ],
	(map { [ $_, '"token_url":null', 'token_url: missing' ] } qw(L J R)),
	[ 'C', '"tokn_url":"https://p.example"', 'tokn_url: unknown field' ],
	[ 'C', '"a b\'c":1', 'definition: unknown field' ],
	[ 'C', '"extends":"github"', 'extends: unknown field' ],

	# texts
	[ 'C', '"name":""', 'name: empty' ],
	[ 'C', '"name":7', 'name: not a string' ],
	[ 'C', '"name":"a\u0007"', 'name: has a control character' ],
	[ 'C', '"name":"' . ('n' x 101) . '"', 'name: too long' ],
	(map { my $f = $_; map { [ 'C', "\"$f\":$_->[0]", "$f: $_->[1]" ] } [ '7', 'not a string' ], [ '""', 'empty' ], [ '"a\nb"', 'has a control character' ], [ '"' . ('x' x 300) . '"', 'too long' ] }
		qw(code_grant_type refresh_grant_type exchange_grant_type callback_code_param revoke_param)),
	(map { my $f = $_; map { [ 'C', "$key_jwt,\"$f\":$_->[0]", "$f: $_->[1]" ] } [ '7', 'not a string' ], [ '""', 'empty' ], [ '"a\u007f"', 'has a control character' ], [ '"a {sub}"', 'a variable is not declared in params' ], [ '"' . ('x' x 2100) . '"', 'too long' ] }
		qw(client_assertion_audience client_assertion_issuer)),
	(map { [ 'J', "\"jwt_audience\":$_->[0]", "jwt_audience: $_->[1]" ] } [ '["a"]', 'not a string' ], [ '""', 'empty' ], [ '"{sub}"', 'a variable is not declared in params' ]),

	# words
	(map { my ($type, $f) = @$_; map { [ $type, "\"$f\":$_->[0]", "$f: $_->[1]" ] } [ '7', 'not a string' ], [ 'true', 'not a string' ], [ '"odd"', 'not a known value' ], [ '""', 'empty' ] }
		map { [ /^jwt/ ? 'J' : 'C', $_ ] } qw(client_auth body_format refresh_body_format token_method refresh_method refresh_credential scope_separator
		expires_kind expires_unit revoke_method revoke_body_format revoke_credential revoke_auth revokes jwt_in)),
	[ 'C', "$key_jwt,\"signing_algorithm\":\"HS256\"", 'signing_algorithm: not a known value' ],
	[ 'C', "$key_jwt,\"signing_algorithm\":\"none\"", 'signing_algorithm: not a known value' ],
	[ 'C', '"token_method":"post"', 'token_method: not a known value' ],
	[ 'C', '"token_method":"PUT"', 'token_method: not a known value' ],
	(map { my $f = $_; map { [ /^jwt/ ? 'J' : 'C', "\"$f\":$_", "$f: not a known value" ] } '1', '"maybe"', '[true]' } qw(pkce refresh_rotates)),
	(map { my ($type, $f) = @$_; map { [ $type, "\"$f\":$_", "$f: not a known value" ] } '1', '"yes"', '{}' }
		map { [ /^jwt/ ? 'J' : 'C', $_ ] } qw(refresh_sends_scope callback_iss_required refresh_extends refresh_kills_access_token jwt_scope_claim)),

	# numbers
	(map { my $f = $_; map { [ 'C', "\"$f\":$_->[0]", "$f: $_->[1]" ] } [ '"60"', 'not an integer' ], [ '1.5', 'not an integer' ], [ '-1', 'out of range' ], [ '1e300', 'out of range' ], [ '99999999999', 'out of range' ], [ 'true', 'not an integer' ] }
		qw(reuse_window_s access_token_lifetime_s refresh_token_lifetime_s refresh_idle_limit_s refresh_lead_s rate_limit_requests rate_limit_window_s rate_limit_burst
		token_rate_limit_requests token_rate_limit_window_s token_rate_limit_burst)),
	[ 'C', '"rate_limit_requests":0,"rate_limit_window_s":1', 'rate_limit_requests: out of range' ],
	[ 'C', '"rate_limit_requests":1,"rate_limit_window_s":2678401', 'rate_limit_window_s: out of range' ],
	[ 'C', '"refresh_lead_s":2592001', 'refresh_lead_s: out of range' ],
	[ 'J', '"jwt_lifetime_s":29', 'jwt_lifetime_s: out of range' ],
	[ 'J', '"jwt_lifetime_s":3601', 'jwt_lifetime_s: out of range' ],
	[ 'J', '"jwt_lifetime_s":"300"', 'jwt_lifetime_s: not an integer' ],

	# paths
	(map { my $f = $_; map { [ 'C', "\"$f\":$_->[0]", "$f: $_->[1]" ] }
		[ '7', 'not a string' ], [ '""', 'empty' ], [ '"."', 'the path has an empty step' ], [ '"a..b"', 'the path has an empty step' ], [ '".a"', 'the path has an empty step' ], [ '"a."', 'the path has an empty step' ],
		[ '"a b"', 'the path has a character that is not allowed' ], [ '"a[0]"', 'the path has a character that is not allowed' ], [ '"a\"b"', 'the path has a character that is not allowed' ],
		[ '"a\u00e9"', 'the path has a character that is not allowed' ], [ '"a\nb"', 'has a control character' ],
		[ '"' . ('a' x 65) . '"', 'a step of the path is too long' ], [ $twenty, 'the path has too many steps' ], [ '"' . join('.', ('a' x 60) x 5) . '"', 'too long' ] }
		qw(access_token_path refresh_token_path token_type_path scope_path expires_path refresh_expires_path error_path error_description_path success_path account_path account_label_path)),
	[ 'C', '"success_path":"ok","success_value":["a"]', 'success_value: not a string, number or boolean' ],
	[ 'C', '"success_path":"ok","success_value":{}', 'success_value: not a string, number or boolean' ],
	[ 'C', '"success_path":"ok"', 'success_value: missing' ],
	[ 'C', '"success_value":true', 'success_path: missing' ],
	(map { my $f = $_; map { [ 'C', "\"params\":{\"a\":{\"pattern\":\"^a\$\"}},\"$f\":$_->[0]", "$f: $_->[1]" ] }
		[ '"a"', 'not an object' ], [ '["a"]', 'not an object' ], [ '{"a":7}', 'a path is not a string' ], [ '{"a":null}', 'a path is not a string' ], [ '{"a":"b..c"}', 'the path has an empty step' ], [ '{"a":""}', 'the path has an empty step' ],
		[ '{"a":"access_token"}', 'a path leads to a secret' ], [ '{"a":"x.refreshToken"}', 'a path leads to a secret' ], [ '{"a":"id_token"}', 'a path leads to a secret' ], [ '{"a":"x.Client-Secret"}', 'a path leads to a secret' ] }
		qw(response_params response_metadata)),
	(map { [ 'C', "\"$_\":\"authed_user.access_token\"", "$_: a path leads to a secret" ] } qw(account_path account_label_path)),
	[ 'C', '"access_token_path":"data.token","response_metadata":{"a":"data"}', 'response_metadata: a path leads to a secret' ],
	[ 'C', '"access_token_path":"data.token","response_metadata":{"a":"data.token"}', 'response_metadata: a path leads to a secret' ],
	[ 'C', '"refresh_token_path":"r.key","account_path":"r.key"', 'account_path: a path leads to a secret' ],
	[ 'C', '"response_metadata":{"":"b"}', 'response_metadata: a key is not valid' ],
	[ 'C', '"response_metadata":{"a\u0001":"b"}', 'response_metadata: a key is not valid' ],
	[ 'C', '"response_params":{"a":"b"}', 'response_params: a key is not declared in params' ],
	[ 'C', '"account_url":"https://p.example/me"', 'account_path: missing' ],
	[ 'C', '"refresh_extends":true', 'access_token_lifetime_s: missing' ],
	[ 'C', '"refresh_extends":true,"access_token_lifetime_s":0', 'access_token_lifetime_s: out of range' ],

	# what an answer may fill
	(map { [ 'C', "\"params\":{\"a\":{\"pattern\":\"^a\$\"}},\"response_params\":{\"a\":\"b\"},\"exchange_grant_type\":\"x\",\"$_->[0]\":\"$_->[1]\"", "response_params: a stands in $_->[0], to which secrets are sent" ] }
		map { my $f = $_; ([ $f, 'https://{a}.p.example/t' ], [ $f, 'https://p.example/{a}' ], [ $f, 'https://p.example/t?x={a}' ]) } qw(token_url refresh_url exchange_url revoke_url)),

	# the redirect
	(map { my $f = $_; map { [ 'C', "\"params\":{\"a\":{\"pattern\":\"^a\$\"},\"b\":{\"pattern\":\"^b\$\"}},\"callback_params\":$_->[0]", "callback_params: $_->[1]" ] }
		[ '["a"]', 'not an object' ], [ '{"x":7}', 'a value is not a string' ], [ '{"x":"none"}', 'a variable is not declared in params' ], [ '{"":"a"}', 'a name is not valid' ], [ '{"x":"a","y":"a"}', 'two parameters fill one variable' ],
		(map { [ "{\"$_\":\"a\"}", "$_ is not for keeping" ] } qw(state code iss error access_token refresh_token id_token)) } 1),
	(map { [ 'C', "\"callback_metadata\":$_->[0]", "callback_metadata: $_->[1]" ] }
		[ '{"a":"b"}', 'not an array' ], [ '"realmId"', 'not an array' ], [ '[7]', 'an entry is not a name' ], [ '[""]', 'an entry is not a name' ], [ '["a\n"]', 'an entry is not a name' ], [ '["' . ('a' x 129) . '"]', 'an entry is not a name' ],
		(map { [ "[\"$_\"]", "$_ is not for keeping" ] } qw(state code iss error access_token refresh_token id_token))),
	[ 'C', '"callback_code_param":"auth_code","callback_metadata":["auth_code"]', 'callback_metadata: the code is not for keeping' ],
	[ 'C', '"params":{"a":{"pattern":"^a$"}},"callback_code_param":"auth_code","callback_params":{"auth_code":"a"}', 'callback_params: the code is not for keeping' ],
	(map { [ 'C', "\"callback_code_param\":\"$_\"", 'callback_code_param: has a meaning of its own' ] } qw(state error iss)),

	# names and extras
	(map { my $f = $_; map { [ 'C', "\"$f\":$_->[0]", "$f: $_->[1]" ] }
		[ '"a"', 'not an object' ], [ '["client_id"]', 'not an object' ], [ '{"client_id":7}', 'client_id is not renamed to a name' ], [ '{"client_id":""}', 'client_id is not renamed to a name' ],
		[ '{"client_id":"a\n"}', 'client_id is not renamed to a name' ], [ '{"nonsense":"a"}', 'nonsense is none of the parameters that Conduit sends' ], [ '{"a b":"c"}', 'a key is none of the parameters that Conduit sends' ] }
		qw(token_param_names refresh_param_names authorize_param_names)),
	[ 'C', '"refresh_param_names":{"code":"a"}', 'refresh_param_names: code is none of the parameters that Conduit sends' ],
	[ 'C', '"authorize_param_names":{"client_secret":"a"}', 'authorize_param_names: client_secret is none of the parameters that Conduit sends' ],
	[ 'C', '"token_param_names":{"code":null}', 'token_param_names: code cannot be left out' ],
	[ 'C', '"token_param_names":{"code_verifier":null}', 'token_param_names: code_verifier cannot be left out' ],
	[ 'C', '"token_param_names":{"refresh_token":null}', 'token_param_names: refresh_token cannot be left out' ],
	[ 'C', '"refresh_param_names":{"refresh_token":null}', 'refresh_param_names: refresh_token cannot be left out' ],
	[ 'J', '"token_param_names":{"assertion":null}', 'token_param_names: assertion cannot be left out' ],
	(map { [ 'C', "\"authorize_param_names\":{\"$_\":null}", "authorize_param_names: $_ cannot be left out" ] } qw(state code_challenge code_challenge_method)),
	[ 'C', '"token_param_names":{"client_id":"code"}', 'token_param_names: code and client_id would have one name' ],
	[ 'C', '"token_param_names":{"client_id":"x","client_secret":"x"}', 'token_param_names: client_id and client_secret would have one name' ],
	[ 'C', '"refresh_param_names":{"client_id":"refresh_token"}', 'refresh_param_names: refresh_token and client_id would have one name' ],
	[ 'C', '"token_param_names":{"client_id":"refresh_token"}', 'token_param_names: refresh_token and client_id would have one name' ],
	[ 'C', '"refresh_sends_scope":true,"refresh_param_names":{"refresh_token":"scope"}', 'refresh_param_names: refresh_token and scope would have one name' ],
	[ 'C', '"authorize_param_names":{"scope":"state"}', 'authorize_param_names: scope and state would have one name' ],
	[ 'L', '"token_param_names":{"client_id":"scope"}', 'token_param_names: client_id and scope would have one name' ],
	[ 'J', '"token_param_names":{"assertion":"grant_type"}', 'token_param_names: grant_type and assertion would have one name' ],
	(map { my $f = $_; map { [ 'C', "\"$f\":$_->[0]", "$f: $_->[1]" ] }
		(map { [ $_, 'neither an object nor of the form a=b&c=d' ] } '7', '[]', '"a"', '"a=b&"', '"a=%0"', '"a=%00"', '"=b"', '"a=1&a=2"'),
		[ '{"a":1}', 'a value is not a string' ], [ '{"a":null}', 'a value is not a string' ], [ '{"":"a"}', 'a name is not valid' ], [ '{"a\n":"b"}', 'a name is not valid' ],
		[ '{"a":"b\n"}', 'a value is too long or has a control character' ], [ '"a=%0d%0ab"', 'a value is too long or has a control character' ], [ '{"a":"' . ('b' x 2049) . '"}', 'a value is too long or has a control character' ],
		[ '{"a":"{sub}"}', 'a variable is not declared in params' ] }
		qw(extra_authorize_params extra_token_params extra_code_params extra_refresh_params)),
	(map { [ 'C', "\"extra_token_params\":{\"$_\":\"x\"}", "extra_token_params: $_ is set by Conduit itself" ] }
		qw(grant_type refresh_token client_id client_secret code code_verifier redirect_uri client_assertion client_assertion_type)),
	(map { [ 'C', "\"extra_code_params\":{\"$_\":\"x\"}", "extra_code_params: $_ is set by Conduit itself" ] } qw(grant_type code client_secret code_verifier)),
	(map { [ 'C', "\"extra_refresh_params\":{\"$_\":\"x\"}", "extra_refresh_params: $_ is set by Conduit itself" ] } qw(grant_type refresh_token client_secret)),
	(map { [ 'C', "\"extra_authorize_params\":{\"$_\":\"x\"}", "extra_authorize_params: $_ is set by Conduit itself" ] }
		qw(response_type client_id redirect_uri scope state code_challenge code_challenge_method)),
	[ 'C', '"token_param_names":{"client_id":"client_key"},"extra_token_params":"client_key=x"', 'extra_token_params: client_key is set by Conduit itself' ],
	[ 'C', '"refresh_param_names":{"refresh_token":"token"},"extra_refresh_params":"token=x"', 'extra_refresh_params: token is set by Conduit itself' ],
	[ 'C', '"refresh_sends_scope":true,"extra_refresh_params":"scope=x"', 'extra_refresh_params: scope is set by Conduit itself' ],
	[ 'C', '"authorize_param_names":{"state":"s"},"extra_authorize_params":"s=x"', 'extra_authorize_params: s is set by Conduit itself' ],
	[ 'L', '"extra_token_params":"scope=x"', 'extra_token_params: scope is set by Conduit itself' ],
	[ 'J', '"extra_token_params":"assertion=x"', 'extra_token_params: assertion is set by Conduit itself' ],

	# requests
	[ 'C', '"token_method":"GET"', 'token_method: GET needs body_format query' ],
	[ 'C', '"token_method":"GET","body_format":"json"', 'token_method: GET needs body_format query' ],
	[ 'C', '"refresh_method":"GET"', 'refresh_method: GET needs refresh_body_format query' ],
	[ 'C', '"body_format":"query","refresh_body_format":"form","refresh_method":"GET"', 'refresh_method: GET needs refresh_body_format query' ],
	[ 'C', '"revoke_method":"GET","revoke_body_format":"form"', 'revoke_method: GET needs revoke_body_format query' ],
	[ 'C', '"exchange_url":"https://p.example/x"', 'exchange_grant_type: missing' ],
	(map { [ 'C', "\"$_\":\"x\"", "$_: has no meaning without client_auth private_key_jwt" ] } qw(client_assertion_audience client_assertion_issuer)),
	[ 'C', '"signing_algorithm":"RS256"', 'signing_algorithm: has no meaning without client_auth private_key_jwt' ],
	[ 'L', '"signing_algorithm":"RS256"', 'signing_algorithm: has no meaning without client_auth private_key_jwt' ],
	[ 'J', '"client_assertion_issuer":"x"', 'client_assertion_issuer: has no meaning without client_auth private_key_jwt' ],
	[ 'C', '"issuer":"https://p.example/?a=b"', 'issuer: has a query' ],

	# headers
	(map { [ 'C', "\"api_auth\":\"$_->[0]\"", "api_auth: $_->[1]" ] }
		[ 'Bearer {token}', 'not of the form "Header: value"' ], [ 'Authorization', 'not of the form "Header: value"' ], [ 'Authorization:{token}', 'not of the form "Header: value"' ], [ 'Authorization: ', 'not of the form "Header: value"' ],
		[ '?={token}', 'not of the form "Header: value"' ], [ '?a', 'not of the form "Header: value"' ], [ 'X-A: {token}; ', 'not of the form "Header: value"' ], [ 'X-A: b\r\nX-B: c', 'has a control character' ],
		[ 'X A: b', 'not of the form "Header: value"' ], [ 'X-A: {secret}', 'a variable is unknown' ], [ 'X-A: {client_secret}', 'a variable is unknown' ], [ 'X-A: {token', 'a brace does not enclose a variable\'s name' ],
		[ 'X-A: }', 'a brace does not enclose a variable\'s name' ], [ 'X-A: {Token}', 'a brace does not enclose a variable\'s name' ], [ 'X-A: ' . ('a' x 1024), 'too long' ],
		(map { [ "$_: {token}", lc($_) . ' cannot be set' ] } qw(Host Connection Content-Length CONTENT-TYPE Transfer-Encoding Expect TE Trailer Upgrade Keep-Alive Proxy-Authorization Proxy-Connection)),
		[ 'X-A: {token}; host: x', 'host cannot be set' ]),
	(map { [ 'C', "\"token_headers\":$_->[0]", "token_headers: $_->[1]" ] }
		[ '"X-A: b"', 'not an object' ], [ '["X-A"]', 'not an object' ], [ '{"":"b"}', 'a name is not that of a header' ], [ '{"X A":"b"}', 'a name is not that of a header' ], [ '{"X-A\r\nX-B":"b"}', 'a name is not that of a header' ],
		[ '{"X-A:":"b"}', 'a name is not that of a header' ], [ '{"' . ('X' x 65) . '":"b"}', 'a name is not that of a header' ], [ '{"X-A":"b","x-a":"c"}', 'a header is given twice' ],
		[ '{"X-A":7}', 'a value is not a string of 1 to 1024 bytes' ], [ '{"X-A":""}', 'a value is not a string of 1 to 1024 bytes' ], [ '{"X-A":"' . ('a' x 1025) . '"}', 'a value is not a string of 1 to 1024 bytes' ],
		[ '{"X-A":"b\r\nX-B: c"}', 'a value has a control or non-ASCII character' ], [ '{"X-A":"\u00e9"}', 'a value has a control or non-ASCII character' ], [ '{"X-A":"\u007f"}', 'a value has a control or non-ASCII character' ],
		[ '{"X-A":"{token}"}', 'a variable is unknown' ], [ '{"X-A":"{sub}"}', 'a variable is unknown' ], [ '{"X-A":"{uuid"}', 'a brace does not enclose a variable\'s name' ], [ '{"X-A":"{UUID}"}', 'a brace does not enclose a variable\'s name' ],
		[ '{"Authorization":"x"}', 'authorization is set by Conduit itself' ],
		(map { [ "{\"$_\":\"x\"}", lc($_) . ' cannot be set' ] } qw(Host connection Content-Length Content-Type Transfer-Encoding Expect TE Trailer Upgrade Keep-Alive Proxy-Authorization Proxy-Connection
			Accept Accept-Encoding Cookie User-Agent))),
	[ 'C', "$key_jwt,\"token_headers\":{\"X\":\"a{client_secret}\"}", 'token_headers: would send the private key' ],
	[ 'C', "$key_jwt,\"revoke_auth\":\"basic\"", 'revoke_auth: would send the private key' ],
	[ 'C', '"client_auth":"basic","token_headers":{"AUTHORIZATION":"x"}', 'token_headers: authorization is set by Conduit itself' ],
	[ 'J', '"jwt_in":"authorization","token_headers":{"Authorization":"x"}', 'token_headers: authorization is set by Conduit itself' ],
	[ 'R', '"token_headers":{"Authorization":"x"}', 'token_headers: authorization is set by Conduit itself' ],

	# scopes
	(map { [ 'C', "\"default_scopes\":$_->[0]", "default_scopes: $_->[1]" ] }
		[ '"a b"', 'not an array' ], [ '{"a":"b"}', 'not an array' ], (map { [ "[$_]", 'an entry is not a scope' ] } '7', '""', '"a b"', '"a\n"', '"\u00e9"', '"' . ('a' x 256) . '"', 'null')),
	[ 'C', '"scope_separator":"comma","default_scopes":["a,b"]', 'default_scopes: an entry has the scope_separator in it' ],
	[ 'C', '"scope_separator":"plus","default_scopes":["a+b"]', 'default_scopes: an entry has the scope_separator in it' ],

	# errors
	(map { [ 'C', "\"error_codes\":$_->[0]", "error_codes: $_->[1]" ] }
		[ '["a"]', 'not an object' ], [ '{"a":"gone"}', 'a value is not a known class' ], [ '{"a":7}', 'a value is not a known class' ], [ '{"a":"unknown"}', 'a value is not a known class' ], [ '{"a":"refreshed"}', 'a value is not a known class' ],
		[ '{"":"dead"}', 'a key is not an error code' ], [ '{"' . ('a' x 65) . '":"dead"}', 'a key is not an error code' ], [ '{"a\n":"dead"}', 'a key is not an error code' ], [ '{"a_b":"dead","A-B":"config"}', 'a code has two meanings' ]),
	(map { [ 'C', "\"error_phrases\":$_->[0]", "error_phrases: $_->[1]" ] }
		[ '"a"', 'not an object' ], [ '{"a phrase":"gone"}', 'a value is not a known class' ], [ '{"abc":"dead"}', 'a key is not a phrase' ], [ '{"' . ('a' x 201) . '":"dead"}', 'a key is not a phrase' ], [ '{"a\nphrase":"dead"}', 'a key is not a phrase' ]),
	(map { [ 'C', "\"dead_errors\":$_->[0]", "dead_errors: $_->[1]" ] }
		[ '"gone"', 'not an array' ], [ '[1]', 'an entry is not an error code' ], [ '[""]', 'an entry is not an error code' ], [ '["' . ('a' x 65) . '"]', 'an entry is not an error code' ], [ '["a\u0001"]', 'an entry is not an error code' ]),
	[ 'C', '"error_codes":{"gone":"config"},"dead_errors":["Gone"]', 'dead_errors: a code has two meanings' ],
	(map { [ 'C', "\"dead_statuses\":$_->[0]", "dead_statuses: $_->[1]" ] }
		[ '401', 'not an array' ], (map { [ "[$_]", 'an entry is not a status from 400 to 499' ] } '399', '500', '"401"', '401.5', 'null'), [ '[429]', '429 asks to wait and says nothing of the token' ]),

	# lifetimes, claims, limits
	[ 'C', '"refresh_rotates":false,"reuse_window_s":60', 'reuse_window_s: has no meaning where refresh tokens do not rotate' ],
	(map { [ 'J', "\"jwt_claims\":{\"$_\":\"x\"}", "jwt_claims: $_ is set by Conduit itself" ] } qw(iss sub aud iat nbf exp jti)),
	[ 'J', '"jwt_claims":["a"]', 'jwt_claims: not an object' ],
	[ 'J', '"jwt_claims":{"a":1}', 'jwt_claims: a value is not a string' ],
	[ 'J', '"jwt_claims":{"a":"{sub}"}', 'jwt_claims: a variable is not declared in params' ],
	[ 'J', '"jwt_scope_claim":true,"jwt_claims":{"scope":"x"}', 'jwt_claims: scope is set by Conduit itself' ],
	[ 'C', '"rate_limit_requests":5', 'rate_limit_window_s: missing' ],
	[ 'C', '"rate_limit_window_s":5', 'rate_limit_requests: missing' ],
	[ 'C', '"rate_limit_burst":5', 'rate_limit_requests: missing' ],
	[ 'C', '"token_rate_limit_requests":5', 'token_rate_limit_window_s: missing' ],
	[ 'C', '"token_rate_limit_window_s":5', 'token_rate_limit_requests: missing' ],
	[ 'C', '"token_rate_limit_burst":5', 'token_rate_limit_requests: missing' ],

	# variables
	(map { [ 'C', "\"params\":$_->[0]", "params: $_->[1]" ] }
		[ '["a"]', 'not an object' ], [ '{"A":{"pattern":"^a$"}}', 'a key is not the name of a variable' ], [ '{"1a":{"pattern":"^a$"}}', 'a key is not the name of a variable' ], [ '{"a b":{"pattern":"^a$"}}', 'a key is not the name of a variable' ],
		[ '{"' . ('a' x 64) . '":{"pattern":"^a$"}}', 'a key is not the name of a variable' ],
		(map { [ "{\"$_\":{\"pattern\":\"^a\$\"}}", "$_ is the name of a credential" ] } qw(token api_key api_secret username password basic client_id client_secret uuid)),
		[ '{"a":"^a$"}', 'a is not an object' ], [ '{"a":{}}', 'a has no pattern' ], [ '{"a":{"pattern":null}}', 'a has no pattern' ], [ '{"a":{"pattern":7}}', 'a.pattern is not a string' ], [ '{"a":{"pattern":"^a$","default":7}}', 'a.default is not a string' ],
		[ '{"a":{"pattern":"^a$","format":"b"}}', 'a has an unknown key' ], [ '{"a":{"pattern":"a"}}', 'a: the pattern is not anchored by ^ and $' ], [ '{"a":{"pattern":"^a"}}', 'a: the pattern is not anchored by ^ and $' ],
		[ '{"a":{"pattern":"^(a$"}}', 'a: the pattern is not a valid regular expression' ], [ '{"a":{"pattern":"^a)|(?:.*$"}}', 'a: the pattern is not a valid regular expression' ],
		[ '{"a":{"pattern":"^(a)\\\\1$"}}', 'a: the pattern has a back reference' ], [ '{"a":{"pattern":"^' . ('a' x 255) . '$"}}', 'a: the pattern is too long' ], [ '{"a":{"pattern":"^a$","default":"b"}}', 'a: the default does not match the pattern' ]),
);
$unit->check_all('fields refused', map {
	my ($type, $more, $detail) = @$_;
	[ "$type " . substr($more, 0, 100), registering(definition($type, $more)), "$refused $detail" ]
} @bad);

$unit->check_all('no definitions', map { [ $_->[0], registering($_->[0]), $_->[1] ] } (
	[ '{', qr/^\Q$refused\E definition: / ], [ '', qr/^\Q$refused\E definition: / ], [ '{"auth_type":"api_key","auth_type":"basic"}', qr/^\Q$refused\E definition: / ],
	[ '[]', "$refused definition: not an object" ], [ '"github"', "$refused definition: not an object" ], [ '{}', "$refused auth_type: missing" ],
));

# -- URLs: what no field of them takes.  [ URL as JSON has it, problem ] --

my %problem = (
	ip => 'the host is an IP address that is not in conduit.egress_allow',
	lone => 'the host is not a plain dotted IPv4 address',
	internal => 'the host is a name of an internal network that is not in conduit.egress_allow',
	space => 'the URL has a space, control or non-ASCII character',
	user => 'the URL carries a user or password',
	scheme => 'the URL does not begin with https://',
	http => 'only a loopback host that is in conduit.egress_allow may speak plain http',
	port => 'a port other than 443 needs the host in conduit.egress_allow',
	badport => 'the port is not valid',
	percent => 'the host has a percent sign',
	brace => 'a brace does not enclose a variable\'s name',
	host => 'the host has a character that is not allowed',
);
my @bad_urls = (
	(map { [ "https://$_/x", $problem{ip} ] } '127.0.0.1', '10.1.2.3', '172.16.0.1', '192.168.1.1', '169.254.169.254', '0.0.0.0', '8.8.8.8', '[::1]', '[::]', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]', '[0:0:0:0:0:0:0:1]',
		'[64:ff9b::7f00:1]', '[fe80::1]', '[fd00::1]', '[2002:7f00:1::1]', '[2606:4700::1111]'),
	(map { [ "https://$_/x", $problem{lone} ] } '2130706433', '0x7f000001', '0x7F.1', '017700000001', '127.1', '127.0.1', '0177.0.0.1', '127.0.0.01', '0x7f.0.0.1', '256.1.1.1', '1.2.3.4.5', '0', 'a.127', 'p.example.0x7f'),
	(map { [ "https://$_/x", $problem{internal} ] } 'localhost', 'LocalHost', 'a.localhost', 'metadata', 'metadata.google.internal', 'idp.corp', 'nas.local', 'router.home.arpa', 'db.lan', 'x.intranet', 'x.home', 'x.private', 'x.localdomain'),
	[ 'https://localhost./x', 'the host ends with a dot' ], [ 'https://p.example./x', 'the host ends with a dot' ],
	(map { [ $_, $problem{user} ] } 'https://user@p.example/', 'https://user:pw@p.example/', 'https://@p.example/', 'https://p.example@evil.example/', 'https://p.example:443@evil.example/'),
	[ 'https://p.example\\\\@evil.example/', 'the URL has a character that is not allowed' ], [ 'https://p.example#@evil.example/', 'the URL has a fragment' ], [ 'https://p.example/#x', 'the URL has a fragment' ],
	(map { [ "https://p.example/$_", 'has a control character' ] } 'a\nb', 'a\r\nX: y', '\u0000x' =~ s/\\u0000/\\u0001/r, '\u007f'),
	[ 'https://p.exam\tple/', 'has a control character' ], [ 'https://p.example/a b', $problem{space} ], [ ' https://p.example/', $problem{space} ], [ 'https://b\u00fccher.example/', $problem{space} ], [ 'https://p\u3002example/', $problem{space} ], [ 'https://\uff11\uff12\uff17.0.0.1/', $problem{space} ],
	(map { [ $_, $problem{scheme} ] } 'ftp://p.example/', 'file:///etc/passwd', 'gopher://p.example/', 'javascript:alert(1)', '//p.example/', 'p.example/x', 'https:p.example', 'data:text/plain,x', 'HTTPSS://p.example/'),
	[ 'http://p.example/', $problem{http} ], [ 'http://localhost/', $problem{http} ], [ 'https://p.example:8443/', $problem{port} ], [ 'https://p.example:22/', $problem{port} ],
	(map { [ "https://p.example:$_/", $problem{badport} ] } '0', '0443', '65536', '', '4a', '443:443'),
	[ 'https://p%2eexample/', $problem{percent} ], [ 'https://%31%32%37.0.0.1/', $problem{percent} ], [ 'https:///x', 'the URL has no host' ], [ 'https://:443/', 'the URL has no host' ],
	[ 'https://a..b.example/', 'the host has an empty label' ], [ 'https://-a.example/', 'a label of the host begins or ends with a hyphen' ], [ 'https://a!.example/', $problem{host} ], [ 'https://[v1.x]/', 'the host is not an IPv6 address' ], [ 'https://[fe80::1%25eth0]/', $problem{percent} ],
	[ 'https://p.example/../x', 'the path has a dot segment' ], [ 'https://p.example/%2e%2e/x', 'the path has a dot segment' ],
	[ 'https://' . ('a' x 64) . '.example/', 'a label of the host is too long' ], [ 'https://p.example/' . ('a' x 2048), 'too long' ],
	# templates
	[ 'https://{none}.p.example/', '{none}: the variable is not declared in params' ], [ 'https://p.example/{none}', '{none}: the variable is not declared in params' ],
	(map { [ $_, $problem{brace} ] } 'https://{Sub}.p.example/', 'https://{sub.p.example/', 'https://{}.p.example/', 'https://{ sub }.p.example/', 'https://p.example/{sub', 'https://{{sub}}.p.example/', 'https://p.example/{1a}'),
	[ 'https://a}.p.example/', 'the URL has a character that is not allowed' ],
	[ '{sub}://p.example/', $problem{scheme} ], [ '{sub}', $problem{scheme} ], [ 'https:{sub}', $problem{scheme} ],
	[ 'https://p.example:{sub}/', 'the port has a variable' ], [ 'https://p.example:44{sub}/', 'the port has a variable' ], [ 'https://{sub}:8443/', $problem{port} ],
	[ 'https://{sub}@p.example/', $problem{user} ], [ 'https://u:{sub}@p.example/', 'the port has a variable' ], [ 'https://{sub}.local/', $problem{internal} ], [ 'https://127.0.0.{sub}.1/', $problem{lone} ],
	[ 'https://{sub}.0x7f/', $problem{lone} ], [ 'https://[{sub}]/', 'the host is not an IPv6 address' ], [ 'https://p.example/{sub}/../x', 'the path has a dot segment' ], [ 'https://p.example/x#{sub}', 'the URL has a fragment' ],
	[ 'https://{token}.p.example/', undef ], [ 'https://{client_id}.p.example/', undef ], [ 'https://{api_key}.p.example/', '{api_key}: the variable is not declared in params' ],
	[ 'https://p.example/{client_secret}', '{client_secret}: the variable is not declared in params' ],
);
cmp_ok(scalar @bad_urls, '>=', 100, 'enough URLs');
my @url_fields = map { $_->[0] } grep { $_->[0] =~ /_url$|^issuer$/ } @fields;
cmp_ok(scalar @url_fields, '==', 8, 'all fields that are URLs');
foreach my $field (@url_fields)
{
	$unit->check_all("URLs refused for $field", map {
		my ($url, $problem) = @$_;
		my ($special) = $url =~ /\{(token|client_id)\}/;
		$problem //= "{$special}: " . ($field eq 'revoke_url' ? 'the variable can only stand behind the host' : 'the variable is not declared in params');
		[ substr($url, 0, 60), registering(definition('C', "\"params\":{\"sub\":{\"pattern\":\"^.*\$\"}},\"$field\":\"$url\"")), "$refused $field: $problem" ]
	} @bad_urls);
}
$unit->check_all('{token} and {client_id} stand in revoke_url alone', map {
	[ $_, registering(definition('C', "\"exchange_grant_type\":\"x\",\"account_path\":\"id\",\"$_\":\"https://p.example/{token}\"")),
		$_ eq 'revoke_url' ? 'ok ok' : "$refused $_: {token}: the variable is not declared in params" ]
} @url_fields);

# What an accepted definition may not do any more when it is loaded is nothing
# that only settings forbid.
$unit->check_all('loading what was accepted', map { [ $_, 'try(' . literal('SELECT unit_connector(' . literal(definition('C', "\"token_url\":\"$_\"")) . ', true)') . ')', 'ok ok' ] }
	'http://127.0.0.1:8080/t', 'https://10.0.0.1/t', 'https://idp.internal:8443/t');

# -- Slugs, clients. --

$unit->check_all('slugs', map { [ $_->[0], "unit_slug_valid('$_->[0]')", $_->[1] ] } (
	[ 'github', 't' ], [ 'a', 't' ], [ 'a-b_c9', 't' ], [ '', 'f' ], [ '9a', 'f' ], [ '-a', 'f' ], [ 'a-', 'f' ], [ 'a--b', 'f' ], [ 'a_-b', 'f' ],
	[ 'A', 'f' ], [ 'a b', 'f' ], [ 'a' x 63, 't' ], [ 'a' x 64, 'f' ], [ 'a/b', 'f' ],
));
$unit->check_all('who takes a client, who needs its secret', map { [ "$_->[0] $_->[1]", 'unit_client_use(' . literal(definition($_->[0], $_->[1])) . ')', $_->[2] ] } (
	[ 'C', '', '1/1' ], [ 'C', '"client_auth":"none"', '1/0' ], [ 'C', $key_jwt, '1/1' ], [ 'C', '"client_auth":"none","token_headers":{"X":"{client_secret}"}', '1/1' ],
	[ 'L', '', '1/1' ], [ 'L', '"client_auth":"none"', '1/0' ], [ 'J', '', '0/0' ], [ 'J', '"client_auth":"post"', '1/1' ], [ 'J', '"token_headers":{"X":"{client_id}"}', '1/0' ],
	[ 'R', '', '0/0' ], [ 'R', '"token_headers":{"clientid":"{client_id}","clientsecret":"{client_secret}"}', '1/1' ], [ 'R', '"token_headers":{"X":"{uuid}"}', '0/0' ],
	[ 'K', '', '0/0' ], [ 'B', '', '0/0' ],
));

# -- Templates. --

my %url = %problem;
$unit->set_conf('conduit.egress_allow', '127.0.0.0/8');
my $tenant = '{"auth_type":"oauth2_code","authorize_url":"https://{sub}.p.example/a","token_url":"https://{sub}.p.example/{v}/t",' .
  '"params":{"sub":{"pattern":"^(?:[a-z0-9.-]+|.*evil.*)$"},"v":{"pattern":"^.*$","default":"v1"},"un":{"pattern":"^x|y$"}}}';
my $token_url = 'https://{sub}.p.example/{v}/t';
$unit->check_all('templates', map {
	[ "$_->[0] $_->[1]", sprintf('unit_expand(%s, %s, %s)', literal($tenant), literal($_->[0]), literal($_->[1])), $_->[2] ]
} (
	[ $token_url, '{"sub":"acme"}', 'https://acme.p.example/v1/t' ],
	[ $token_url, '{"sub":"a.b-c","v":"v 2/ü?#&%"}', 'https://a.b-c.p.example/v%202%2F%C3%BC%3F%23%26%25/t' ],
	[ 'https://p.example/?q={v}', '{"v":"a&b=c"}', 'https://p.example/?q=a%26b%3Dc' ],
	[ $token_url, '{}', '! sub: the value is missing' ],
	[ $token_url, '{"sub":null}', '! sub: the value is missing' ],
	[ $token_url, '{"sub":7}', '! sub: the value is not a string' ],
	[ $token_url, '{"sub":""}', '! sub: the value is empty' ],
	[ $token_url, '{"sub":"' . ('a' x 600) . '"}', '! sub: the value is too long' ],
	[ $token_url, '{"sub":"a\nb"}', '! sub: the value has a control character' ],
	[ $token_url, '{"sub":"Acme"}', '! sub: the value does not match its pattern' ],
	(map { [ $token_url, "{\"sub\":\"$_\"}", '! sub: the value has a character that a host cannot have' ] }
		'evil.com/', 'evil.com?', 'evil.com#', 'evil.com@', 'x@evil.com', 'evil.com:443', 'evil com', 'evil\\\\x', 'evil%2f', 'évil', '[::1]evil', 'evil_x', 'evil{v}'),
	(map { [ $token_url, "{\"sub\":\"$_\"}", '! sub: the value is not part of a host name' ] } '.evil', 'evil.', '-evil', 'evil-', 'ev..evil'),
	[ $token_url, '{"sub":"a","v":".."}', '! -: the path has a dot segment' ],
	[ $token_url, '{"sub":"a","v":"."}', '! -: the path has a dot segment' ],
	[ 'https://{sub}/', '{"sub":"127.0.0.9"}', 'https://127.0.0.9/' ],
	[ 'https://{sub}/', '{"sub":"10.2.0.1"}', "! -: $url{ip}" ],
	[ 'https://{sub}/', '{"sub":"2130706433"}', "! -: $url{lone}" ],
	[ 'https://x.{sub}/', '{"sub":"127.0.0.1"}', "! -: $url{lone}" ],
	[ 'https://{none}/', '{}', '! none: the variable is not declared in params' ],
	[ 'https://p.example/{un}', '{"un":"x"}', 'https://p.example/x' ],
	[ 'https://p.example/{un}', '{"un":"xz"}', '! un: the value does not match its pattern' ],
	[ 'https://p.example/{un}', '{"un":"zy"}', '! un: the value does not match its pattern' ],
	[ 'https://p.example/{un}', '{"un":"x\nq"}', '! un: the value has a control character' ],
));
$unit->check_all('params', map {
	[ $_->[0], 'try(' . literal(sprintf('SELECT unit_check_params(%s, %s)', literal($tenant), literal($_->[0]))) . ')', $_->[1] ]
} (
	[ '{"sub":"acme"}', 'ok ok' ],
	[ '{"sub":"acme","v":null}', 'ok ok' ],
	[ '{"sub":"acme","un":"x"}', 'ok ok' ],
	[ '{}', '22023 invalid params / sub: the value is missing' ],
	[ '[]', '22023 invalid params / not_an_object' ],
	[ '{"sub":7}', '22023 invalid params / sub: the value is not a string' ],
	[ '{"sub":"acme","v":7}', '22023 invalid params / v: the value is not a string' ],
	[ '{"sub":"acme","other":"x"}', '22023 invalid params / other: the connector declares no such variable' ],
	[ '{"sub":"acme","se cret":"x"}', '22023 invalid params / params: a key is not the name of a variable' ],
	[ '{"sub":"acme","un":"z"}', '22023 invalid params / un: the value does not match its pattern' ],
	[ '{"sub":"evil/x"}', '22023 invalid params / sub: the value has a character that a host cannot have' ],
	[ '{"sub":"acme","v":".."}', '22023 invalid params / params: the path has a dot segment' ],
));
$unit->check_all('token origins', map {
	[ $_->[1], 'try(' . literal(sprintf('SELECT unit_token_origin(%s, %s)', literal($_->[0]), literal($_->[1]))) . ')', $_->[2] ]
} (
	[ $tenant, '{"sub":"ACME"}', 'ok https://acme.p.example:443' ],
	[ $tenant, '{}', '22023 invalid params / sub: the value is missing' ],
	[ definition('C', '"refresh_url":"https://r.example/r"'), '{}', 'ok https://r.example:443' ],
	[ definition('C', ''), '{}', 'ok https://p.example:443' ],
	[ definition('K', ''), '{}', 'ok ' ],
));

# Whatever the pattern lets through, the host that comes of it is judged.
my $lax = definition('C', '"params":{"h":{"pattern":"^.*$"},"i":{"pattern":"^.*$"}},"token_url":"https://{h}/t","api_base_url":"https://{h}.{i}/"');
$unit->set_conf('conduit.egress_allow', '');
foreach my $template ('https://{h}/t', 'https://a.{h}/t?x={h}')
{
	$unit->check_all("a lax pattern, $template", map {
		[ "host $_->[0]", sprintf('unit_expand(%s, %s, %s)', literal($lax), literal($template), literal("{\"h\":\"$_->[0]\"}")), $_->[1] ]
	} (
		[ 'good.example', $template =~ s/\{h\}/good.example/gr ],
		(map { [ $_, qr/^! -: (\Q$url{ip}\E|\Q$url{lone}\E)$/ ] } '127.0.0.1', '10.0.0.1', '169.254.169.254', '8.8.8.8', '2130706433', '127.1', '0177.0.0.1', '0x7f000001', '0x7f.0.0.1', '017700000001'),
		(map { [ $_, "! -: $url{internal}" ] } 'a.localhost', 'metadata.google.internal', 'nas.local', 'x.corp'),
		(map { [ $_, '! h: the value has a character that a host cannot have' ] } '[::1]', 'evil.example/', 'evil.example?', 'evil.example#', 'u@evil.example', 'evil.example:8443', '%31', 'a_b', 'evil\\\\.example', '{i}', 'a b', "\xc3\xa9.example"),
		(map { [ $_, '! h: the value is not part of a host name' ] } '.evil.example', 'evil.example.', '-evil', 'evil-', 'a..b'),
		[ '', '! h: the value is empty' ], [ 'a\u0000b' =~ s/\\u0000/\\u0001/r, '! h: the value has a control character' ], [ ('a' x 64) . '.example', '! -: a label of the host is too long' ],
	));
}
$unit->check_all('values that make a host together', map {
	[ "$_->[0] $_->[1]", 'try(' . literal(sprintf('SELECT unit_check_params(%s, %s)', literal($lax), literal("{\"h\":\"$_->[0]\",\"i\":\"$_->[1]\"}"))) . ')', $_->[2] ]
} (
	[ 'a.example', 'b.example', 'ok ok' ],
	[ 'a.example', 'local', "22023 invalid params / params: $url{internal}" ],
	[ 'a.example', '0x7f', "22023 invalid params / params: $url{lone}" ],
	[ 'localhost', 'b.example', "22023 invalid params / params: $url{internal}" ],
	[ 'a.example', 'b.example:81', '22023 invalid params / i: the value has a character that a host cannot have' ],
));

# -- revoke_url. --

my $revoking = definition('C', '"params":{"sub":{"pattern":"^[a-z]+$"}},"revoke_url":"https://{sub}.p.example/{client_id}/x/{token}?y={token}"');
$unit->check_all('revoke_url', map {
	[ "@$_[0 .. 2]", sprintf('unit_expand_revoke(%s, %s, %s, %s)', literal($revoking), literal($_->[0]), literal($_->[1]), literal($_->[2])), $_->[3] ]
} (
	[ '{"sub":"a"}', 'tok', 'id', 'https://a.p.example/id/x/tok?y=tok' ],
	[ '{"sub":"a"}', 't/o?k&=+#{sub}%', '../id', 'https://a.p.example/..%2Fid/x/t%2Fo%3Fk%26%3D%2B%23%7Bsub%7D%25?y=t%2Fo%3Fk%26%3D%2B%23%7Bsub%7D%25' ],
	[ '{"sub":"a"}', 'tok', '..', '! -: the path has a dot segment' ],
	[ '{}', 'tok', 'id', '! sub: the value is missing' ],
	[ '{"sub":"a"}', 't' x 70000, 'id', '! -: the URL is too long' ],
	[ '{"sub":"a"}', 't' x 1000, 'id', 'https://a.p.example/id/x/' . ('t' x 1000) . '?y=' . ('t' x 1000) ],
));
$unit->check_all('params of a connector with such a revoke_url', map {
	[ $_->[0], 'try(' . literal(sprintf('SELECT unit_check_params(%s, %s)', literal($revoking), literal($_->[0]))) . ')', $_->[1] ]
} (
	[ '{"sub":"a"}', 'ok ok' ], [ '{}', '22023 invalid params / sub: the value is missing' ], [ '{"sub":"a","token":"x"}', '22023 invalid params / token: the connector declares no such variable' ],
));

# -- Free text. --

my $texts = definition('C', '"params":{"sub":{"pattern":"^[a-z]+$"},"v":{"pattern":"^.+$","default":"v1"}}');
$unit->check_all('texts', map {
	[ "$_->[0] $_->[1]", sprintf('unit_text_fill(%s, %s, %s)', literal($texts), literal($_->[0]), literal($_->[1])), $_->[2] ]
} (
	[ '', '{}', '' ], [ 'plain', '{}', 'plain' ], [ '{sub}', '{"sub":"acme"}', 'acme' ], [ 'a{sub}b{v}c', '{"sub":"acme"}', 'aacmebv1c' ],
	[ '{v}', '{"v":"a b/&=%{sub}"}', 'a b/&=%{sub}' ], [ '{client_id}:{client_secret}', '{}', "{sub} \xc3\xa9:s" ], [ '{"a":{sub}}', '{"sub":"x"}', '{"a":x}' ], [ '{ {A} {} }', '{}', '{ {A} {} }' ],
	[ '{sub}', '{}', '! sub: the value is missing' ], [ '{sub}', '{"sub":"A"}', '! sub: the value does not match its pattern' ], [ '{v}', '{"v":"a\nb"}', '! v: the value has a control character' ], [ 'x{none}', '{}', '! none: the variable is not declared in params' ],
));

# -- Variables that the provider fills. --

my $filled = definition('C', '"params":{"server":{"pattern":"^[a-z.]+$"},"host":{"pattern":"^[a-z.]+$"},"org":{"pattern":"^[a-z]+$"}},"callback_params":{"accounts-server":"server"},"response_params":{"host":"api_domain"},' .
	'"token_url":"https://{server}/t","api_base_url":"https://{host}/{org}"');
$unit->check_all('variables that the provider fills', map {
	[ $_->[0], 'try(' . literal(sprintf('SELECT unit_check_params(%s, %s)', literal($filled), literal($_->[0]))) . ')', $_->[1] ]
} (
	[ '{"org":"a"}', 'ok ok' ], [ '{}', '22023 invalid params / org: the value is missing' ], [ '{"org":"a","server":"accounts.p.example"}', 'ok ok' ], [ '{"org":"a","server":"A"}', '22023 invalid params / server: the value does not match its pattern' ],
	[ '{"org":"a","host":"a.local"}', "22023 invalid params / params: $url{internal}" ], [ '{"org":"a","host":7}', '22023 invalid params / host: the value is not a string' ],
));
$unit->check_all('variables that are needed', map {
	my ($type, $more) = @$_;
	[ "$type $more", 'try(' . literal(sprintf('SELECT unit_check_params(%s, %s)', literal(definition($type, "\"params\":{\"a\":{\"pattern\":\"^a\$\"}},$more")), literal('{}'))) . ')', '22023 invalid params / a: the value is missing' ]
} (
	(map { [ 'C', "\"exchange_grant_type\":\"x\",\"account_path\":\"id\",\"$_\":\"https://{a}.p.example/t\"" ], [ 'C', "\"exchange_grant_type\":\"x\",\"account_path\":\"id\",\"$_\":\"https://p.example/{a}\"" ] } @url_fields),
	(map { [ 'C', "\"$_\":{\"x\":\"{a}\"}" ] } qw(extra_authorize_params extra_token_params extra_code_params extra_refresh_params token_headers)),
	[ 'K', '"api_auth":"X-A: {a}"' ], [ 'C', "$key_jwt,\"client_assertion_audience\":\"{a}\"" ], [ 'C', "$key_jwt,\"client_assertion_issuer\":\"{a}\"" ], [ 'J', '"jwt_audience":"{a}"' ], [ 'J', '"jwt_claims":{"x":"{a}"}' ],
));
$unit->check_all('origins of templates', map {
	[ "$_->[0] $_->[1]", sprintf('unit_template_origin(%s, %s, %s)', literal($lax), literal($_->[0]), literal($_->[1])), $_->[2] ]
} (
	[ 'https://{h}/{i}?x={i}', '{"h":"Acme.example"}', 'https://acme.example:443' ], [ 'https://{h}', '{}', '-' ], [ 'http://127.0.0.1:80/x', '{}', 'http://127.0.0.1:80' ], [ 'https://p.example?x', '{}', 'https://p.example:443' ],
	[ 'https://{h}/', '{"h":"a/b"}', '-' ],
));

unlike(slurp_file($unit->node->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed');

done_testing();
