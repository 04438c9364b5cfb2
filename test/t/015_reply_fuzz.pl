# Mutated replies: whatever comes, nothing crashes, nothing raises an error, and
# what is taken over is fit for its place.  The same seeds, the same replies.
use strict;
use warnings;
use FindBin;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $module = $ENV{CONDUIT_UNIT_MODULE} // "$FindBin::RealBin/../unit/conduit_unit.so";
die "$module is missing: run make in test/unit" unless -f $module;

my $node = PostgreSQL::Test::Cluster->new('reply_fuzz');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', "shared_preload_libraries = '$module'\nlog_statement = none\n");
$node->start;
$node->safe_psql('postgres', slurp_file("$FindBin::RealBin/../unit/unit_fuzz.sql"), extra_params => [ '-v', "module=$module" ]);

sub jwt { return 'eyJhbGciOiJub25lIn0.' . (encode_base64($_[0], '') =~ tr{+/=}{-_}dr) . '.c2ln'; }

my $jwt = jwt('{"exp":1893459600,"iat":1893456000,"sub":"user-9"}');
my @bodies = (
	'{"access_token":"a-token-of-some-length","refresh_token":"another-token-of-length","expires_in":3600,"token_type":"bearer","scope":"a b"}',
	'{"accessToken":"a-token-of-some-length","refreshToken":"another-token-of-length","expiresAt":"2030-01-01T01:00:00.5+01:00"}',
	qq({"access_token":"$jwt","id_token":"$jwt","refresh_token":"$jwt","refresh_token_expires_in":86400}),
	'{"ok":true,"access_token":"xoxb-0123456789","authed_user":{"id":"U1","access_token":"xoxp-0123456789","refresh_token":"xoxe-0123456789","scope":"a,b"}}',
	'{"status":0,"body":{"access_token":"within-the-body","refresh_token":"within-it-too","expires_in":"10800","scope":["a","b"]}}',
	'{"code":0,"data":{"access_token":"within-the-data","list":[1,2.5,-3e10,null,true,{"a":"b"}],"link":"https://x.example/?t=within-the-data"}}',
	'{"access_token":"a-token-of-some-length","expires_at":1893459600000,"h":"eu1","instance_url":"https://x","n":1e300}',
	'access_token=form-encoded-token&refresh_token=another%2Ftoken&expires_in=28800&scope=repo%20gist&token_type=bearer',
	'{"error":"invalid_grant","error_description":"AADSTS9002313: Invalid request.","error_codes":[9002313]}',
	'{"error":"invalid_grant","error_description":"AADSTS70008: expired"}',
	'{"error":{"code":400,"message":"INVALID_REFRESH_TOKEN","status":"INVALID_ARGUMENT","errors":[{"reason":"invalid"}]}}',
	'{"errors":[{"errorType":"invalid_client","message":"Refresh token has expired"}],"success":false}',
	'{"ok":false,"error":"token_revoked"}',
	'{"status":"BAD_REFRESH_TOKEN","message":"missing or invalid refresh token"}',
	'{"result":"0000"}',
	'error=bad_refresh_token&error_description=gone',
	"Invalid refresh token\n",
	'<html><title>503</title></html>',
	'');
my $bodies = 'ARRAY[' . join(',', map { q{'\x} . unpack('H*', $_) . q{'} } @bodies) . ']::bytea[]';

my $endpoints = '"auth_type":"oauth2_code","authorize_url":"https://p.example/a","token_url":"https://p.example/t"';
my %definitions = (
	plain => '',
	paths => ',"access_token_path":"body.access_token","expires_path":"body.expires_in","expires_unit":"ms","refresh_expires_path":"body.x","success_path":"status","success_value":0,"error_path":"status"',
	through => ',"access_token_path":"data.access_token","account_path":"id_token.sub","account_label_path":"h","scope_path":"data.list.5.a","response_metadata":{"u":"id_token.sub","l":"data.list","h":"h"},"error_codes":{"invalid_grant":"config"},"error_phrases":{"gone":"transient"}',
	taken => ',"account_path":"instance_url","params":{"h":{"pattern":"^[a-z0-9]+$"}},"api_base_url":"https://{h}.example","response_params":{"h":"h"},"response_metadata":{"i":"instance_url","n":"n","all":"authed_user"},"refresh_idle_limit_s":100,"refresh_token_lifetime_s":1000',
	extended => ',"success_path":"result","success_value":"0000","refresh_extends":true,"access_token_lifetime_s":86400,"dead_statuses":[400]',
	itself => ',"refresh_credential":"access_token"');

foreach my $name (sort keys %definitions)
{
	foreach my $seed (1 .. 3)
	{
		my ($out, $err) = ('', '');
		my $rounds = 40000;

		$node->psql('postgres', "SELECT unit_fuzz_replies('{$endpoints$definitions{$name}}', $bodies, $seed, $rounds)", stdout => \$out, stderr => \$err);
		is($err, '', "$name, seed $seed: nothing is wrong");
		# A generator that makes but rubbish would show nothing.
		my %counts = $out =~ /(\w+)=(\d+)/g;
		cmp_ok($counts{$_} // 0, '>', 20, "$name, seed $seed: some are $_") foreach qw(refreshed dead config throttled transient unknown);
	}
}
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed');
$node->stop;
done_testing();
