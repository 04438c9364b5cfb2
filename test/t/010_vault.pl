# The vault: what is sealed opens in its own place only, the keyring is read
# when it should be and refused when it must be, and the JSON reader is strict.
#
# The SQL functions unit_* are those of test/unit; build that module first.

use strict;
use warnings;

use Digest::SHA qw(sha256 hmac_sha256 hmac_sha256_hex);
use FindBin;
use IPC::Run;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $module = $ENV{CONDUIT_UNIT_MODULE} // "$FindBin::RealBin/../unit/conduit_unit.so";
die "$module is missing: run make in test/unit" unless -f $module;

my $safe = PostgreSQL::Test::Utils::tempdir();
my $ring = "$safe/keyring";

my %kek = map { $_ => sha256("unit $_") } qw(k1 k2 k3);
my %base64 = map { $_ => encode_base64($kek{$_}, '') } keys %kek;

sub write_file
{
	my ($path, $text, $mode) = @_;
	unlink $path;
	open my $file, '>:raw', $path or die "$path: $!";
	print $file $text;
	close $file;
	chmod $mode // 0600, $path or die "$path: $!";
	return;
}

sub write_ring { return write_file($ring, join('', map { "$_\n" } @_)); }

write_ring("k1:$base64{k1}");

my $node = PostgreSQL::Test::Cluster->new('vault');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = '$module'
conduit.keyring_file = '$ring'
max_connections = 100
log_min_messages = debug1
log_statement = none
});
$node->start;
$node->safe_psql('postgres', slurp_file("$FindBin::RealBin/../unit/unit_vault.sql"),
	extra_params => [ '-v', "module=$module" ]);

# A session of its own, for what one process remembers.
sub open_session
{
	my ($connstr) = @_;
	my $session = { in => '', out => '', err => '' };
	$session->{run} = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $connstr // $node->connstr('postgres'), '-f', '-' ],
		'<', \$session->{in}, '>', \$session->{out}, '2>', \$session->{err},
		IPC::Run::timeout(120));
	return $session;
}

# The answer, or the error text.
sub ask
{
	my ($session, $sql) = @_;
	$session->{out} = $session->{err} = '';
	$session->{in} .= "$sql;\n\\echo -done-\n\\warn -done-\n";
	$session->{run}->pump
	  until $session->{out} =~ /-done-\n/ && $session->{err} =~ /-done-\n/;
	my ($out, $err) = ($session->{out}, $session->{err});
	s/-done-\n// for $out, $err;
	chomp $out;
	return $err =~ /ERROR:\s+(.*)/ ? "ERROR $1" : $out;
}

sub close_session
{
	my ($session) = @_;
	$session->{in} .= "\\q\n";
	$session->{run}->finish;
	return;
}

# Reload, and wait until the session has taken notice.
sub reload
{
	my ($session) = @_;
	my $before = ask($session, 'SELECT unit_settings_epoch()');
	$node->reload;
	for (1 .. 1000)
	{
		return if ask($session, 'SELECT unit_settings_epoch()') > $before;
		usleep(10_000);
	}
	die 'the reload was not noticed';
}

my @fields = qw(purpose row connection tenant owner connector field generation origin);
my %home = (
	purpose => 'credential',
	row => '00000000-0000-4000-8000-000000000001',
	connection => '00000000-0000-4000-8000-000000000002',
	tenant => 't',
	owner => "o'1",
	connector => 'github',
	field => 'access',
	generation => 7,
	origin => 'https://github.com:443');

sub place
{
	my %place = (%home, @_);
	return 'ARRAY[' . join(',', map { my $v = $place{$_}; $v =~ s/'/''/g; "'$v'" } @fields) . ']';
}

my $home = place();

sub seal
{
	my ($session, $hex) = @_;
	return ask($session, "SELECT encode(unit_seal($home, '\\x$hex'), 'hex')");
}

my $main = open_session();


subtest 'round trip' => sub {
	is(seal($main, '00'), 'ERROR SEAL_UNVERIFIED', 'nothing is sealed under a key that is not confirmed');
	is(ask($main, 'SELECT unit_verify(true)'), 't', 'the primary is confirmed');

	my $sizes = '0, 1, 15, 16, 17, 31, 63, 64, 65, 127, 255, 256, 511, 512, 513, 4096, 65535, 65536, 1000003';
	is(ask($main, "SELECT bool_and(unit_open($home, unit_seal($home, p)) = p), count(*)
		FROM unnest('{$sizes}'::int[]) n, LATERAL (SELECT decode(repeat('a7', n), 'hex') AS p) x"),
		't|19', 'what is sealed opens, at many sizes');
	is(ask($main, "SELECT octet_length(unit_seal($home, ''))"), 126, 'overhead of a blob');
	is(ask($main, "SELECT count(DISTINCT unit_seal($home, ('x' || n - n)::bytea)) FROM generate_series(1, 1000) n"),
		1000, 'equal texts are sealed differently');
	is(ask($main, "SELECT unit_blob_key_id(unit_seal($home, 'x'))"), 'k1', 'a blob names its key');
	is(ask($main, "SELECT unit_blob_key_id('x') IS NULL"), 't', 'what is no blob names none');
	like(ask($main, 'SELECT unit_take_counts()'), qr/^k1=10\d\d$/, 'wraps are counted');
	is(ask($main, 'SELECT unit_take_counts()'), '', 'and told once');
	is(ask($main, "SELECT unit_cleansed_by_reset($home, unit_seal($home, 'some secret'))"), 't',
		'an opened secret is cleansed by the reset of its memory context');

	my $long = place(owner => 'o' x 5000, origin => 'https://' . 'a' x 2000 . ':443');
	is(ask($main, "SELECT unit_open($long, unit_seal($long, 'abc'))"), '\x616263', 'a place of any length');
};

subtest 'damage and wrong places' => sub {
	my $blob = seal($main, 'ab' x 64);
	is(ask($main, "SELECT unit_damage($home, '\\x$blob', false)"), 0, 'no single bit flip is accepted');
	is(ask($main, "SELECT unit_damage($home, '\\x$blob', true)"), 0, 'no truncation is accepted');
	is(ask($main, "SELECT unit_open_status($home, '\\x${blob}00')"), 'SEAL_CANNOT_OPEN', 'nor a longer blob');
	is(ask($main, "SELECT unit_open_status($home, '')"), 'SEAL_CANNOT_OPEN', 'nor an empty one');
	is(ask($main, "SELECT unit_open_status($home, decode(repeat('00', 300), 'hex'))"), 'SEAL_CANNOT_OPEN',
		'nor zeros');
	is(ask($main, "SELECT unit_open_status($home, '\\x$blob')"), 'SEAL_OK', 'the blob itself opens');

	my %other = (%home,
		purpose => 'client', row => '00000000-0000-4000-8000-000000000003',
		connection => '00000000-0000-4000-8000-000000000004', tenant => '',
		owner => 'o2', connector => 'gitlab', field => 'refresh', generation => 8,
		origin => 'https://github.com:8443');
	is(ask($main, "SELECT unit_open_status(" . place($_ => $other{$_}) . ", '\\x$blob')"),
		'SEAL_CANNOT_OPEN', "not in a place with another $_")
	  for @fields;
	is(ask($main, "SELECT unit_open_status(" . place(tenant => "to'1", owner => '') . ", '\\x$blob')"),
		'SEAL_CANNOT_OPEN', 'fields do not run into each other');
	is(ask($main, "SELECT unit_open_status(" . place(row => $home{connection}, connection => $home{row})
		. ", '\\x$blob')"), 'SEAL_CANNOT_OPEN', 'nor are they exchanged');

	# Cut and paste between two blobs of the same place.
	my $second = seal($main, 'cd' x 64);
	for my $cut (22, 82, 98, 110)
	{
		my $mixed = substr($blob, 0, $cut * 2) . substr($second, $cut * 2);
		is(ask($main, "SELECT unit_open_status($home, '\\x$mixed')"),
			$cut == 22 ? 'SEAL_OK' : 'SEAL_CANNOT_OPEN', "two blobs joined at byte $cut");
	}
};


# AES-256-GCM as NIST SP 800-38D writes it, with openssl's command line for the
# block cipher alone: nothing of it is shared with the code under test.
sub aes
{
	my ($key, $blocks) = @_;
	my $out = '';
	IPC::Run::run([ 'openssl', 'enc', '-aes-256-ecb', '-nopad', '-K', unpack('H*', $key) ],
		'<', \$blocks, '>', \$out)
	  or die 'openssl failed';
	return $out;
}

sub ghash
{
	my ($h, $data) = @_;
	my ($hh, $hl) = unpack('Q>2', $h);
	my ($yh, $yl) = (0, 0);
	for my $block (unpack('(a16)*', $data))
	{
		my ($xh, $xl) = unpack('Q>2', $block);
		($xh, $xl) = ($xh ^ $yh, $xl ^ $yl);
		my ($vh, $vl) = ($hh, $hl);
		($yh, $yl) = (0, 0);
		for my $i (0 .. 127)
		{
			my $bit = $i < 64 ? ($xh >> (63 - $i)) & 1 : ($xl >> (127 - $i)) & 1;
			($yh, $yl) = ($yh ^ $vh, $yl ^ $vl) if $bit;
			my $carry = $vl & 1;
			$vl = ($vl >> 1) | (($vh & 1) << 63);
			$vh >>= 1;
			$vh ^= 0xE1 << 56 if $carry;
		}
	}
	return pack('Q>2', $yh, $yl);
}

# The key stream for a text of some length, behind what the tag needs of it.
sub gcm_stream
{
	my ($key, $nonce, $length) = @_;
	my $count = int(($length + 15) / 16);
	return aes($key, "\0" x 16 . join('', map { $nonce . pack('N', $_) } 1 .. $count + 1));
}

sub gcm_tag
{
	my ($stream, $aad, $ciphertext) = @_;
	my $padded = sub { return $_[0] . "\0" x (-length($_[0]) % 16) };
	my $hash = ghash(substr($stream, 0, 16),
		$padded->($aad) . $padded->($ciphertext) . pack('Q>2', 8 * length $aad, 8 * length $ciphertext));
	return $hash ^ substr($stream, 16, 16);
}

# The plaintext, or undef if the tag does not match.
sub gcm_open
{
	my ($key, $nonce, $aad, $ciphertext, $tag) = @_;
	my $stream = gcm_stream($key, $nonce, length $ciphertext);
	return undef if gcm_tag($stream, $aad, $ciphertext) ne $tag;
	return $ciphertext ^ substr($stream, 32, length $ciphertext);
}

# The ciphertext and its tag.
sub gcm_seal
{
	my ($key, $nonce, $aad, $plaintext) = @_;
	my $stream = gcm_stream($key, $nonce, length $plaintext);
	my $ciphertext = $plaintext ^ substr($stream, 32, length $plaintext);
	return $ciphertext . gcm_tag($stream, $aad, $ciphertext);
}

subtest 'known answer' => sub {
	my $hex = sub { return pack('H*', $_[0]) };

	# Test case 16 of the GCM specification: the reference is right itself.
	my $plain = gcm_open(
		$hex->('feffe9928665731c6d6a8f9467308308' x 2), $hex->('cafebabefacedbaddecaf888'),
		$hex->('feedfacedeadbeeffeedfacedeadbeefabaddad2'),
		$hex->('522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa'
			. '8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662'),
		$hex->('76fc6ece0f4e1768cddf8853bb2d551b'));
	is(unpack('H*', $plain // ''),
		'd9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72'
		. '1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39', 'the reference opens NIST test case 16');

	my $secret = 'a secret of seventy bytes, which are not a multiple of any block size';
	my $blob = $hex->(seal($main, unpack('H*', $secret)));
	my ($kind, $key_id, $wrap_nonce, $wrapped, $wrap_tag, $commit, $nonce, $rest) =
	  unpack('a6 a16 a12 a32 a16 a16 a12 a*', $blob);
	my ($ciphertext, $tag) = (substr($rest, 0, -16), substr($rest, -16));
	is(unpack('H*', $kind), 'c0d701010000', 'magic, version, algorithm, flags');
	is($key_id, 'k1' . "\0" x 14, 'key id');
	is(length $ciphertext, length $secret, 'length');

	my $uuid = sub { (my $u = $home{ $_[0] }) =~ tr/-//d; return $hex->($u) };
	my $described = join '', map { pack('N/a*', $_) }
	  $uuid->('row'), $uuid->('connection'), pack('q>', $home{generation}),
	  map { $home{$_} } qw(purpose tenant owner connector field origin);
	my $wrap_key = hmac_sha256('conduit/wrap/v1' . $uuid->('connection'), $kek{k1});
	my $dek = gcm_open($wrap_key, $wrap_nonce, "W$kind$key_id$described", $wrapped, $wrap_tag);
	ok(defined $dek, 'the data key unwraps');
	is(unpack('H*', $commit), unpack('H*', substr(sha256('conduit/commit/v1' . ($dek // '')), 0, 16)),
		'the commitment is to it');
	is(gcm_open($dek, $nonce, "D$kind$commit$described", $ciphertext, $tag), $secret, 'the secret opens');

	# A blob that somebody who has the key makes by hand.
	my $forge = sub {
		my ($commitment) = @_;
		my $dek = sha256('chosen');
		return unpack 'H*', $kind . $key_id . $wrap_nonce
		  . gcm_seal($wrap_key, $wrap_nonce, "W$kind$key_id$described", $dek)
		  . $commitment . $nonce . gcm_seal($dek, $nonce, "D$kind$commitment$described", 'forged');
	};
	my $committed = $forge->(substr(sha256('conduit/commit/v1' . sha256('chosen')), 0, 16));
	is(ask($main, "SELECT encode(unit_open($home, '\\x$committed'), 'escape')"), 'forged',
		'a blob made by this description opens');
	my $uncommitted = $forge->('x' x 16);
	is(ask($main, "SELECT unit_open_status($home, '\\x$uncommitted')"), 'SEAL_CANNOT_OPEN',
		'but not with another commitment, though all tags are right');

	is(ask($main, 'SELECT unit_keyring()'),
		(ask($main, 'SELECT unit_keyring()') =~ /^(\|\d+\|)/)[0] . 'k1:' . substr(hmac_sha256_hex('conduit/kcv/v1', $kek{k1}), 0, 16) . ':primary:verified',
		'the check value');
};

subtest 'nonces of many processes' => sub {
	$node->safe_psql('postgres', 'CREATE TABLE sealed (pid int, blob bytea)');
	write_file("$safe/seal.sql", "SELECT unit_verify(true);\n"
		. "INSERT INTO sealed SELECT pg_backend_pid(), unit_seal($home, 'x') FROM generate_series(1, 20);\n");
	command_ok(
		[ 'pgbench', '-n', '-c', 64, '-j', 4, '-t', 1, '-f', "$safe/seal.sql", '-h', $node->host, '-p', $node->port, 'postgres' ],
		'64 backends seal at once');
	is($node->safe_psql('postgres', q{SELECT count(DISTINCT pid), count(*), count(DISTINCT substr(blob, 23, 12)),
		count(DISTINCT substr(blob, 99, 12)), count(DISTINCT substr(blob, 83, 16)) FROM sealed}),
		'64|1280|1280|1280|1280', 'all nonces and data keys are distinct');
};

subtest 'rewrap and reload' => sub {
	my $old = seal($main, 'ab' x 100);
	is(ask($main, "SELECT unit_rewrap($home, '\\x$old') IS NULL"), 't', 'nothing to do under the primary');

	write_ring('# a second key', '@test-ring', "k1:$base64{k1}", '', "*k2:$base64{k2}  ");
	usleep(1_100_000);
	is(seal($main, '00') =~ /^c0d7/, 1, 'no file is read before a reload');
	is(ask($main, 'SELECT unit_keyring_find($$k2$$)'), 't', 'unless an unknown key is asked for');
	like(ask($main, 'SELECT unit_keyring()'), qr/^test-ring\|\d+\|k1:\w{16}:verified k2:\w{16}:primary$/,
		'the ring is new, the unchanged key still confirmed');
	is(ask($main, "SELECT encode(unit_rewrap($home, '\\x$old'), 'hex')"), 'ERROR SEAL_UNVERIFIED',
		'no rewrap to a key that is not confirmed');
	ask($main, 'SELECT unit_verify(true)');
	is(ask($main, "SELECT encode(unit_rewrap(" . place(owner => 'x') . ", '\\x$old'), 'hex')"),
		'ERROR SEAL_CANNOT_OPEN', 'nor in a wrong place');
	ask($main, 'SELECT unit_take_counts()');
	my $new = ask($main, "SELECT encode(unit_rewrap($home, '\\x$old'), 'hex')");
	is(ask($main, 'SELECT unit_take_counts()'), 'k2=1', 'a rewrap counts for the new key');
	is(substr($new, 82 * 2), substr($old, 82 * 2), 'commitment, nonce and ciphertext are the same bytes');
	isnt(substr($new, 22 * 2, 60 * 2), substr($old, 22 * 2, 60 * 2), 'the wrap is new');
	is(ask($main, "SELECT unit_blob_key_id('\\x$new')"), 'k2', 'under the primary');
	is(ask($main, "SELECT encode(unit_open($home, '\\x$new'), 'hex')"), 'ab' x 100, 'it opens');
	is(ask($main, "SELECT encode(unit_open($home, '\\x$old'), 'hex')"), 'ab' x 100, 'as does the old one');
	is(ask($main, "SELECT unit_damage($home, '\\x$new', false)"), 0, 'no single bit flip is accepted');

	write_ring("k3:$base64{k3}", "*k2:$base64{k2}");
	reload($main);
	like(ask($main, 'SELECT unit_keyring()'), qr/k3:\w{16} k2:\w{16}:primary:verified$/,
		'a reload reads the file although the setting did not change');
	is(ask($main, "SELECT unit_open_status($home, '\\x$old')"), 'SEAL_UNKNOWN_KEY', 'the old key is gone');
	is(ask($main, "SELECT encode(unit_rewrap($home, '\\x$old'), 'hex')"), 'ERROR SEAL_UNKNOWN_KEY',
		'for rewrap too');

	# Right id, wrong bytes.
	write_ring("k2:$base64{k1}");
	reload($main);
	is(ask($main, "SELECT unit_open_status($home, '\\x$new')"), 'SEAL_CANNOT_OPEN', 'a wrong key does not open');
	is(seal($main, '00'), 'ERROR SEAL_UNVERIFIED', 'and does not seal, though its id was confirmed');

	# The file is read unasked once per second at most.
	write_ring("k2:$base64{k2}");
	reload($main);
	my $serial = sub { return (split /\|/, ask($main, 'SELECT unit_keyring()'))[1] };
	usleep(1_100_000);
	my $before = $serial->();
	ask($main, "SELECT count(unit_open_status($home, '\\x$old')) FROM generate_series(1, 5000)");
	is($serial->(), $before + 1, 'many rows with an unknown key make one reading');
	ask($main, "SELECT count(unit_open_status($home, '\\x$new')) FROM generate_series(1, 5000)");
	is($serial->(), $before + 1, 'rows with known keys none');
};

subtest 'keyring files' => sub {
	my $data = $node->data_dir;
	mkdir "$safe/dir" or die;
	mkdir "$safe/space" or die;
	symlink $ring, "$safe/link" or die;
	symlink $data, "$safe/to_data" or die;
	IPC::Run::run([ 'mkfifo', "$safe/fifo" ]) or die;
	my $good = "k1:$base64{k1}\n";
	write_ring("k1:$base64{k1}");
	$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '$safe/space'");
	write_file("$data/inside", $good);
	write_file("$safe/space/inside", $good);
	my $twice = "$base64{k2}$base64{k3}";
	(my $loose = $base64{k1}) =~ s/.=$/$& eq 'A=' ? 'B=' : 'B='/e;

	my @cases = (
		[ 'mode 0644', 'permissions', $good, mode => 0644 ],
		[ 'mode 0640, not root\'s', 'permissions', $good, mode => 0640 ],
		[ 'mode 0601', 'permissions', $good, mode => 0601 ],
		[ 'in the data directory', 'in_data_directory', undef, path => "$data/inside" ],
		[ 'in it by way of a link', 'in_data_directory', undef, path => "$safe/to_data/inside" ],
		[ 'in it by way of ..', 'in_data_directory', undef, path => "$data/base/../inside" ],
		[ 'in a tablespace', 'in_data_directory', undef, path => "$safe/space/inside" ],
		[ 'symbolic link', 'unreadable', undef, path => "$safe/link" ],
		[ 'missing', 'unreadable', undef, path => "$safe/missing" ],
		[ 'relative path', 'unreadable', undef, path => 'keyring' ],
		[ 'directory', 'unreadable', undef, path => "$safe/dir" ],
		[ 'FIFO', 'unreadable', undef, path => "$safe/fifo" ],
		[ 'device', 'unreadable', undef, path => '/dev/zero' ],
		[ 'not readable', 'unreadable', $good, mode => 0 ],
		[ 'empty', 'no_primary', '' ],
		[ 'comments alone', 'no_primary', "# nothing\n\n" ],
		[ 'no primary', 'no_primary', "k1:$base64{k1}\nk2:$base64{k2}\n" ],
		[ 'two primaries', 'malformed', "*k1:$base64{k1}\n*k2:$base64{k2}\n" ],
		[ 'duplicate id', 'malformed', "*k1:$base64{k1}\nk1:$base64{k2}\n" ],
		[ 'bad base64', 'malformed', "k1:" . '!' x 43 . "=\n" ],
		[ 'URL-safe base64', 'malformed', "k1:" . '-_' x 21 . "A=\n" ],
		[ 'loose bits in base64', 'malformed', "k1:$loose\n" ],
		[ 'no padding', 'malformed', 'k1:' . substr($base64{k1}, 0, 43) . "\n" ],
		[ 'short key', 'malformed', 'k1:' . encode_base64('x' x 16, '') . "\n" ],
		[ 'long key', 'malformed', 'k1:' . encode_base64('x' x 33, '') . "\n" ],
		[ 'two keys on a line', 'malformed', "k1:$twice\n" ],
		[ 'no id', 'malformed', ":$base64{k1}\n" ],
		[ 'no colon', 'malformed', "$base64{k1}\n" ],
		[ 'long id', 'malformed', 'k' x 17 . ":$base64{k1}\n" ],
		[ 'id with a blank', 'malformed', "k 1:$base64{k1}\n" ],
		[ 'blank before the id', 'malformed', " k1:$base64{k1}\n" ],
		[ 'NUL', 'malformed', "k1:$base64{k1}\0\n" ],
		[ 'two names', 'malformed', "\@a\n\@b\nk1:$base64{k1}\n" ],
		[ 'empty name', 'malformed', "\@\nk1:$base64{k1}\n" ],
		[ 'too large', 'malformed', $good . '#' x 65536 . "\n" ],
		[ 'not set', 'not_set', undef, path => '' ]);

	for my $case (@cases)
	{
		my ($name, $code, $text, %more) = @$case;
		my $path = $more{path} // "$safe/bad";
		write_file($path, $text, $more{mode}) if defined $text;
		$node->safe_psql('postgres', "ALTER SYSTEM SET conduit.keyring_file = '$path'");
		reload($main);
		my $session = open_session();
		my $problem = ask($session, 'SELECT unit_keyring_problem()');
		like($problem, qr/^$code: /, "$name: $code") or diag($problem);
		unlike($problem, qr/$_/, "$name: no key in the text") for map { quotemeta } values %base64;
		is(seal($session, '00'), 'ERROR SEAL_LOCKED', "$name: the vault is locked");
		close_session($session);
	}

	my @good = (
		[ 'no newline at the end', "k1:$base64{k1}" ],
		[ 'CRLF', "# x\r\nk1:$base64{k1}\r\n" ],
		[ 'longest id', '*' . 'k' x 14 . "_-:$base64{k1}\n" ],
		[ 'mode 0400', $good, 0400 ],
		[ 'many keys', join('', map { "k$_:" . encode_base64(sha256($_), '') . "\n" } 1 .. 900) . "*k:$base64{k1}\n" ]);
	for my $case (@good)
	{
		my ($name, $text, $mode) = @$case;
		write_file("$safe/good", $text, $mode);
		$node->safe_psql('postgres', "ALTER SYSTEM SET conduit.keyring_file = '$safe/good'");
		reload($main);
		is($node->safe_psql('postgres', "SELECT unit_verify(true), unit_open($home, unit_seal($home, 'x'))"),
			't|\x78', "$name is accepted");
	}
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET conduit.keyring_file');
	write_ring("k1:$base64{k1}");
	reload($main);
};

subtest 'a file that goes bad' => sub {
	ask($main, 'SELECT unit_verify(true)');
	my $blob = seal($main, '0a0b');
	my $start = -s $node->logfile;
	write_ring("k1:$base64{k1}", "k2:$base64{k2}");
	reload($main);
	is(ask($main, "SELECT encode(unit_open($home, '\\x$blob'), 'hex')"), '0a0b', 'the former ring stays in force');
	like(seal($main, '00'), qr/^c0d7/, 'for sealing too');
	reload($main);
	is(ask($main, "SELECT unit_open_status($home, '\\x$blob') FROM generate_series(1, 100) LIMIT 1"), 'SEAL_OK',
		'after another reload too');
	my $log = slurp_file($node->logfile, $start);
	my $lines = () = $log =~ /LOG:  conduit keyring is not loaded, the former one stays in force: no key .*primary/g;
	is($lines, 1, 'one LOG line');

	unlink $ring;
	reload($main);
	is(ask($main, "SELECT unit_open_status($home, '\\x$blob')"), 'SEAL_OK', 'also when the file is gone');
	like(ask($main, 'SELECT unit_keyring_problem()'), qr/^unreadable: could not open .*No such file/, 'the problem is told');
	like(slurp_file($node->logfile, $start), qr/stays in force: could not open/, 'another problem, another line');

	my $locked = open_session();
	is(ask($locked, "SELECT unit_open_status($home, '\\x$blob')"), 'SEAL_LOCKED', 'a new process has no ring');
	write_ring("k1:$base64{k1}");
	usleep(1_100_000);
	is(ask($locked, "SELECT unit_open_status($home, '\\x$blob')"), 'SEAL_OK',
		'it finds the file by itself once it is there');
	close_session($locked);
	reload($main);
	is(ask($main, 'SELECT unit_keyring_problem() IS NULL'), 't', 'no problem is left');
	like(slurp_file($node->logfile, $start), qr/LOG:  conduit keyring is loaded/, 'which is logged');

	$node->safe_psql('postgres', "ALTER SYSTEM SET conduit.keyring_file = ''");
	reload($main);
	is(ask($main, "SELECT unit_open_status($home, '\\x$blob')"), 'SEAL_LOCKED', 'an emptied setting locks the vault');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET conduit.keyring_file');
	reload($main);
	is(ask($main, "SELECT unit_open_status($home, '\\x$blob')"), 'SEAL_OK', 'and a new one opens it');

	# No assign hook runs for a setting from the command line.
	close_session($main);
	$node->stop;
	my @pg_ctl = ('pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile);
	system_or_bail(@pg_ctl, '-o', "-c conduit.keyring_file=$ring", 'start');
	$main = open_session();
	is(ask($main, "SELECT unit_open_status($home, '\\x$blob')"), 'SEAL_OK', 'a setting from the command line');
	write_ring("k2:$base64{k2}");
	reload($main);
	is(ask($main, "SELECT unit_open_status($home, '\\x$blob')"), 'SEAL_UNKNOWN_KEY', 'the file is read after a reload');
	close_session($main);
	system_or_bail(@pg_ctl, 'stop');
	$node->start;
	write_ring("k1:$base64{k1}");
	$main = open_session();

	# A client may ask for LOG messages; the path is none of its business.
	write_ring('bad');
	my ($ret, $out, $err) = $node->psql('postgres', "SET client_min_messages = debug5; SELECT unit_keyring() IS NULL");
	is($out, 't', 'no ring');
	unlike($err, qr/keyring/, 'the problem goes to the log alone');
	write_ring("k1:$base64{k1}");
};

subtest 'secrets' => sub {
	my $secret = "ARRAY['at', 'rt', 'key', 'key secret', 'user', 'pass', 'client', '{\"a\": 1}', 'id', 'pem', 'iss', 'sub', 'kid', 'aud', 'r w']";
	is(ask($main, "SELECT octet_length(unit_secret_encode($secret))"), 192, 'a record is padded to 64 bytes');
	is(ask($main, "SELECT bool_and(octet_length(r) % 64 = 0 AND unit_secret_decode(r) = s), count(DISTINCT octet_length(r))
		FROM generate_series(0, 300) n, LATERAL (SELECT ARRAY[repeat('x', n), NULL, NULL, ''] || array_fill(NULL::text, '{11}') s) a,
		LATERAL (SELECT unit_secret_encode(s) r) b"), 't|5', 'what is encoded decodes, in few lengths');
	is(ask($main, "SELECT unit_secret_decode(unit_secret_encode($secret)) = $secret"), 't', 'with all fields');
	is(ask($main, "SELECT unit_secret_decode(unit_secret_encode(array_fill(NULL::text, '{15}'))) = array_fill(NULL::text, '{15}')"),
		't', 'and with none');

	my $hex = sub { my ($text) = @_; return "'\\x" . unpack('H*', $text . "\0" x (-length($text) % 64)) . "'" };
	is(ask($main, 'SELECT unit_secret_decode(' . $hex->("\1" . "\1\0\0\0\2at" . "\2\0\0\0\2rt" . "\x08\0\0\0\2{}") . ") = ARRAY['at', 'rt', NULL, NULL, NULL, NULL, NULL, '{}'] || array_fill(NULL::text, '{7}')"),
		't', 'what was written when there were fewer fields');
	my %bad = (
		'empty' => "''",
		'another version' => $hex->("\2"),
		'no multiple of 64' => "'\\x0100'",
		'an unknown tag' => $hex->("\1" . "\x10" . "\0\0\0\1x"),
		'a field twice' => $hex->("\1" . "\1\0\0\0\1x" x 2),
		'fields out of order' => $hex->("\1" . "\2\0\0\0\1x" . "\1\0\0\0\1x"),
		'a field that is too long' => $hex->("\1" . "\1\0\0\0\x40x"),
		'a field that is much too long' => $hex->("\1" . "\1\xff\xff\xff\xffx"),
		'half a field header' => "'\\x01" . '0100000038' . '78' x 56 . '0200' . "'",
		'something in the padding' => $hex->("\1" . "\1\0\0\0\1x" . "\0\0x"),
		'more padding than needed' => "'\\x01" . '00' x 127 . "'");
	is(ask($main, "SELECT unit_secret_decode($bad{$_}) IS NULL"), 't', "refused: $_") for sort keys %bad;

	ask($main, 'SELECT unit_verify(true)');
	is(ask($main, "SELECT unit_secret_open($home, unit_secret_seal($home, $secret)) = $secret"), 't', 'sealed and opened');
	is(ask($main, "SELECT unit_secret_open($home, unit_seal($home, 'no record'))"), 'ERROR SEAL_CANNOT_OPEN',
		'what is no record does not open as one');
};

subtest 'JSON' => sub {
	my $deep = sub { return '[' x $_[0] . ']' x $_[0] };
	my @good = (
		# input, and its canonical text unless that is the same
		['null'], ['true'], ['false'], ['0'], ['-0'], ['1'], ['-1'], ['10'], ['1.5'], ['1.50'], ['0.1'], ['1e5'], ['1E+5'],
		['1e-5'], ['-1.5e10'], ['1e999'], ['123456789012345678901234567890'], ['""'], ['"a"'], ['[]'], ['{}'], ['[1]'],
		['[1,2,3]'], ['[[],{}]'], ['{"a":1}'], ['{"a":{"a":{"a":1}}}'], ['[{"a":1},{"a":2}]'], ['{"":0}'],
		[" \t\r\n1 \t\r\n", '1'], ['[ 1 , 2 ]', '[1,2]'], ['{ "a" : 1 , "b" : 2 }', '{"a":1,"b":2}'],
		['[1 ,2.5 ,"x"]', '[1,2.5,"x"]'], ['{"a":1,"b":-2}'],
		['"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\\"\\\\/\\b\\f\\n\\r\\t"'], ['"\\u0041"', '"A"'], ['"\\u00e9"', "\"\xc3\xa9\""],
		['"\\u20AC"', "\"\xe2\x82\xac\""], ['"\\uD83D\\uDE00"', "\"\xf0\x9f\x98\x80\""], ['"\\ud83d\\ude00x"', "\"\xf0\x9f\x98\x80x\""],
		['"\\u0001"', '"\\u0001"'], ['"\\u001f"', '"\\u001f"'], ["\"\x7f\""], ["\"\xc3\xa9\""], ["\"\xf0\x9f\x98\x80\""],
		["\"\xef\xbf\xbf\""], ["\"\xf4\x8f\xbf\xbf\""], ['"\\uFFFF"', "\"\xef\xbf\xbf\""], ['{"\\u0061":1}', '{"a":1}'],
		['{"a":1,"A":2}'], [$deep->(32)], ['{"a":' x 32 . '0' . '}' x 32],
		['[' . join(',', 1 .. 2000) . ']'], ['{' . join(',', map { "\"k$_\":$_" } 1 .. 500) . '}']);
	my @bad = (
		# input and problem
		['', 'unexpected end'], [' ', 'unexpected end'], ['nul', 'unexpected end'], ['nulL', 'unexpected character'],
		['True', 'unexpected character'], ['nullx', 'trailing characters'], ['1 2', 'trailing characters'],
		['{}}', 'trailing characters'], ['[],', 'trailing characters'], ["1\0", 'trailing characters'],
		["\xef\xbb\xbf1", 'unexpected character'], ['// x', 'unexpected character'], ["'a'", 'unexpected character'],
		['01', 'trailing characters'], ['-', 'invalid number'], ['-a', 'invalid number'], ['+1', 'unexpected character'],
		['.5', 'unexpected character'], ['1.', 'trailing characters'], ['1e', 'trailing characters'], ['1e+', 'trailing characters'],
		['-01', 'trailing characters'], ['0x10', 'trailing characters'], ['1_000', 'trailing characters'],
		['NaN', 'unexpected character'], ['Infinity', 'unexpected character'], ['-Infinity', 'invalid number'],
		['[1.]', 'unexpected character'], ['[1 2]', 'unexpected character'], ['[1,]', 'unexpected character'],
		['[,1]', 'unexpected character'], ['[1', 'unexpected end'], ['[', 'unexpected end'], ['[1,', 'unexpected end'],
		['[}', 'unexpected character'], ['{"a":1]', 'unexpected character'], ['{', 'unexpected end'], ['{"a"', 'unexpected end'],
		['{"a":', 'unexpected end'], ['{"a":1', 'unexpected end'], ['{"a":1,', 'unexpected end'], ['{"a":1,}', 'unexpected character'],
		['{a:1}', 'unexpected character'], ['{1:1}', 'unexpected character'], ['{"a" 1}', 'unexpected character'],
		['{"a"::1}', 'unexpected character'], ['{,}', 'unexpected character'],
		['"', 'unexpected end'], ['"a', 'unexpected end'], ['"\\', 'unexpected end'], ['"\\"', 'unexpected end'],
		['"\\x41"', 'invalid escape'], ['"\\u12"', 'invalid escape'], ['"\\u12G4"', 'invalid escape'], ['"\\u', 'invalid escape'],
		['"\\U0041"', 'invalid escape'], ["\"\n\"", 'control character in string'], ["\"\t\"", 'control character in string'],
		["\"\x1f\"", 'control character in string'], ["\"\0\"", 'NUL character'], ['"\\u0000"', 'NUL character'],
		['{"\\u0000":1}', 'NUL character'], ['"\\ud800"', 'lone surrogate'], ['"\\udc00"', 'lone surrogate'],
		['"\\ud800x"', 'lone surrogate'], ['"\\ud800\\n"', 'lone surrogate'], ['"\\ud800\\ud800"', 'lone surrogate'],
		['"\\ud800\\u0041"', 'lone surrogate'], ['"\\udc00\\ud800"', 'lone surrogate'], ['"\\ud800\\u', 'lone surrogate'],
		["\"\x80\"", 'invalid UTF-8'], ["\"\xff\"", 'invalid UTF-8'], ["\"\xc3\"", 'invalid UTF-8'], ["\"\xc3", 'invalid UTF-8'],
		["\"\xc0\x80\"", 'invalid UTF-8'], ["\"\xc1\xbf\"", 'invalid UTF-8'], ["\"\xe0\x80\x80\"", 'invalid UTF-8'],
		["\"\xed\xa0\x80\"", 'invalid UTF-8'], ["\"\xf0\x80\x80\x80\"", 'invalid UTF-8'], ["\"\xf4\x90\x80\x80\"", 'invalid UTF-8'],
		["\"\xf8\x88\x80\x80\x80\"", 'invalid UTF-8'], ["{\"\xe9\":1}", 'invalid UTF-8'], ["\xc3\xa9", 'unexpected character'],
		['{"a":1,"a":2}', 'duplicate key'], ['{"a":1,"\\u0061":2}', 'duplicate key'], ['[{"b":{"x":1,"y":2,"x":3}}]', 'duplicate key'],
		['{"":1,"":2}', 'duplicate key'],
		['{' . join(',', map { "\"k$_\":$_" } 1 .. 500, 250) . '}', 'duplicate key'],
		['{' . join(',', map { "\"k$_\":$_" } 1 .. 9, 1) . '}', 'duplicate key'],
		[$deep->(33), 'nested too deeply'], ['{"a":' x 33 . '0' . '}' x 33, 'nested too deeply'],
		['[' x 1_000_000, 'nested too deeply'], ['{"a":' x 200_000, 'nested too deeply']);

	my @cases = ((map { [ $_->[0], 'ok ' . ($_->[1] // $_->[0]) ] } @good), (map { [ $_->[0], "bad $_->[1]" ] } @bad));
	cmp_ok(scalar @cases, '>=', 80, 'a corpus of ' . @cases);
	write_file("$safe/corpus.sql", join '', map {
		"SELECT encode(convert_to(unit_json('\\x" . unpack('H*', $_->[0]) . "'), 'UTF8'), 'hex');\n" } @cases);
	my $output = '';
	IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', "$safe/corpus.sql" ], '>', \$output) or die;
	my @answers = map { pack 'H*', $_ } split /\n/, $output;
	is(scalar @answers, scalar @cases, 'each has an answer');
	for my $i (0 .. $#cases)
	{
		(my $shown = substr $cases[$i][0], 0, 40) =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ge;
		is($answers[$i], $cases[$i][1], "JSON $shown");
	}

	my $doc = q{'{"a": {"b": [10, {"c": "2.50"}, "x", 1e999, "0x1"]}, "": {"": true}, "d.e": 1}'};
	my %paths = (
		'a.b.0' => '10 = 10', 'a.b.1.c' => '"2.50" = 2.5', 'a.b.2' => '"x"', 'a.b.3' => '1e999', 'a.b.4' => '"0x1"', 'a.b.5' => '',
		'a.b.00' => '', 'a.b.-1' => '', 'a.b.1x' => '', 'a.b.' => '', 'a.b.99999999999' => '', 'a' => '{"b":[10,{"c":"2.50"},"x",1e999,"0x1"]}',
		'' => '{"":true}', '.' => 'true', 'a.b.0.c' => '', 'b' => '', 'd.e' => '', 'a.bb' => '');
	is(ask($main, "SELECT unit_json_path($doc, '$_')"), $paths{$_}, "path '$_'") for sort keys %paths;

	my %ms = map { $_ => ask($main, "SELECT min(unit_json_bench($_, false)) FROM generate_series(1, 5)") } (10_000, 80_000);
	note("object of 10,000 keys: $ms{10000} ms, of 80,000: $ms{80000} ms");
	cmp_ok($ms{80_000}, '<', 24 * $ms{10_000} + 5, 'eight times the keys do not take 64 times as long');
	is(ask($main, "SELECT unit_json_bench(10000, true) >= 0"), 't', 'a repeated key among 10,000 is found');

	$node->safe_psql('postgres', q{CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0});
	$node->safe_psql('latin', slurp_file("$FindBin::RealBin/../unit/unit_vault.sql"), extra_params => [ '-v', "module=$module" ]);
	is($node->safe_psql('latin', q{SELECT encode(convert_to(unit_json('\x22c3a922'), 'LATIN1'), 'hex'), unit_json('\x22e922')}),
		'6f6b2022c3a922|bad invalid UTF-8', 'the reader takes UTF-8 whatever the encoding of the database');
};

subtest 'errors' => sub {
	my @expected = (
		[ 'PT401', 'unauthorized' ], [ 'PT403', 'forbidden' ], [ 'PT429', 'rate limited' ], [ 'PT404', 'not found' ],
		[ 'PT404', 'connection not found' ], [ 'PT404', 'credential not found' ],
		[ 'PT409', 'connection needs re-authorization' ], [ 'PT409', 'connection lacks scope' ],
		[ 'PT410', 'connection revoked' ], [ 'PT502', 'bad provider response' ], [ 'PT504', 'provider unavailable' ],
		[ 'PT500', 'conduit worker is not running' ], [ 'PT500', 'refresh is paused' ], [ 'PT500', 'vault is locked' ],
		[ 'PT500', 'key not in keyring' ], [ 'PT500', 'credential cannot be opened' ],
		[ 'PT500', 'connector is not configured' ], [ '55000', 'credential is not committed' ],
		[ 'PT400', 'authorization failed' ],
		[ '55000', 'restart PostgreSQL to load the new conduit library' ],
		[ '55000', 'run ALTER EXTENSION conduit UPDATE' ]);
	my $start = -s $node->logfile;
	for my $i (0 .. $#expected)
	{
		my ($state, $message) = @{ $expected[$i] };
		my ($ret, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT unit_raise($i, 'detail-$i 1')");
		like($err, qr/ERROR:  $state: \Q$message\E\n/, "$state $message");
		like($err, qr/\nHINT:  \S.*\.\n/, "$message: a hint");
		if ($state =~ /^PT40[14]$/) { unlike($err, qr/DETAIL/, "$message: no detail"); }
		else { like($err, qr/\nDETAIL:  detail-$i 1\n/, "$message: the detail"); }
		($ret, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT unit_warn($i, 'd')");
		like($err, qr/WARNING:  $state: \Q$message\E\n/, "$message, as a warning") if $message eq 'provider unavailable';
	}
	my $log = slurp_file($node->logfile, $start);
	like($log, qr/ERROR:  connection revoked/, 'errors are logged');
	unlike($log, qr/unit_raise/, 'without the statement');
	unlike($log, qr/WARNING/, 'warnings are for the client alone');
};

subtest 'clock' => sub {
	is(ask($main, 'SELECT unit_clock_shift() = 0'), 't', 'the clock is right');
	$node->safe_psql('postgres', "ALTER SYSTEM SET conduit.clock_offset = '-2h'");
	reload($main);
	is(ask($main, 'SELECT unit_clock_shift()'), -7200, 'unless it is shifted');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET conduit.clock_offset');
	reload($main);
	is(ask($main, q{SET timezone = 'UTC'; SELECT unit_time_add('2025-01-01', 1.5), unit_time_add('2025-01-01', -86400),
		unit_time_add('2025-01-01', '1e300'), unit_time_add('2025-01-01', '-inf'), unit_time_add('infinity', -1),
		unit_time_add('2025-01-01', 'nan')}),
		'2025-01-01 00:00:01.5+00|2024-12-31 00:00:00+00|294276-12-31 23:59:59.999999+00|4714-11-24 00:00:00+00 BC|infinity|2025-01-01 00:00:00+00',
		'arithmetic saturates');
};

subtest 'settings' => sub {
	is($node->safe_psql('postgres', q{SELECT string_agg(format('%s=%s%s %s', substr(name, 9), boot_val, unit, context), E'\n' ORDER BY name)
		FROM pg_settings WHERE name LIKE 'conduit.%'}), join("\n",
		'ca_file= sighup', 'claims_login_roles=authenticator sighup', 'clock_offset=0s sighup', 'egress_allow= sighup',
		'event_retention=2592000s sighup', 'http_timeout=30000ms sighup', 'keyring_file= sighup', 'max_in_flight=64 sighup',
		'max_response_size=64kB sighup', 'refresh_enabled=on superuser', 'refresh_idle=0s sighup', 'refresh_lead=300s sighup',
		'request_max_size=10240kB sighup', 'request_timeout=6000ms sighup', 'session_max_ttl=2592000s sighup', 'session_ttl=604800s sighup',
		'shutdown_grace=1000ms sighup', 'vend_patience=1000ms user', 'vend_timeout=5000ms user'), 'defaults and contexts');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name LIKE 'conduit.%' AND short_desc !~ '^Sets .*\.$'}),
		0, 'descriptions');
	$node->safe_psql('postgres', 'CREATE ROLE plain LOGIN');
	my ($ret, $out, $err) = $node->psql('postgres', 'SET ROLE plain; SHOW conduit.keyring_file');
	like($err, qr/must be superuser|permission denied/, 'the path of the keyring is for superusers');
	($ret, $out, $err) = $node->psql('postgres', 'SET conduit.nonsense = 1');
	like($err, qr/invalid configuration parameter name "conduit.nonsense"/, 'the prefix is reserved');
};

subtest 'cost' => sub {
	my $secret = "ARRAY[repeat('x', 120), NULL, NULL, NULL, NULL, NULL, NULL, '{}']";
	ask($main, "CREATE TEMP TABLE b AS SELECT unit_secret_seal($home, $secret) AS blob");
	note("$_: " . ask($main, "SELECT round(unit_bench('$_', $home, blob, 20000)::numeric, 2) FROM b") . ' us')
	  for qw(open secret seal);
	pass('measured');
};

close_session($main);
$node->stop;

# All of the above, at debug1.
my $log = slurp_file($node->logfile);
for my $name (sort keys %kek)
{
	unlike($log, qr/\Q$base64{$name}\E/, "$name is not in the log");
	unlike($log, qr/@{[unpack 'H*', $kek{$name}]}/i, "$name is not in the log in hexadecimal");
}
is(-d $node->data_dir && !!grep({ -s && slurp_file($_) =~ /\Q$base64{k1}\E/ } glob($node->data_dir . '/*.conf')), '',
	'nor in a configuration file');

done_testing();
