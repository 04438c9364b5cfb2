=pod

=head1 NAME

Conduit::Provider - OAuth servers to test against

=head1 SYNOPSIS

  use Conduit::Provider;

  my $server = Conduit::Provider->start('scripted');
  my ($tokens) = $server->issue(1, expires_in => 5);
  $server->script('/token/x', [ { status => 503 } ], repeat_last => 1);
  is($server->counts('/token/x')->{total}, 0);

  my $oidc = Conduit::Provider->start('oidc', access_ttl => 10);
  my ($response, $raw) = $oidc->connect_account('alice');

=head1 DESCRIPTION

Starts the programs of F<test/provider> on loopback ports and talks to their
control surface, which F<test/provider/README.md> describes. A server dies with
the object, and with the test even after kill -9, since its standard input is a
pipe from here.

Needs nothing but core Perl, IPC::Run (as PostgreSQL's own TAP tests do), node
and npm; C<make_cert> needs openssl.

=cut

package Conduit::Provider;

use strict;
use warnings;

use Carp;
use Cwd qw(abs_path);
use Fcntl qw(:flock);
use File::Basename qw(dirname);
use File::Copy qw(copy);
use File::Path qw(make_path);
use File::Temp;
use HTTP::Tiny;
use IO::Select;
use IPC::Run;
use JSON::PP;
use POSIX ();
use Time::HiRes qw(sleep time);

my $provider_dir = abs_path(dirname(__FILE__) . '/../../provider');
my $json = JSON::PP->new->utf8->canonical;

# Where npm must have been, and how.
my @npm_ci = qw(npm ci --ignore-scripts --no-audit --no-fund);

=head1 STARTING AND STOPPING

=head2 Conduit::Provider->start('scripted' | 'oidc', %options)

Options are those of the program, with underscores: C<< access_ttl => 5 >>; an
array gives an option several times, an undefined value leaves it out. Three are
ours: C<ca> is the certificate file C<connect_account> shall trust, C<log> a
file for the server's stderr, C<timeout> the seconds it may take to start.

=cut

sub start
{
	my ($class, $program, %options) = @_;
	my $log = delete $options{log};
	my $ca = delete $options{ca};
	my $timeout = delete $options{timeout} // 60;

	croak "no such provider: $program" unless $program =~ /^(?:oidc|scripted|node_oauth)$/;
	my @arguments = ('--die-with-stdin', delete $options{tls} ? '--tls' : ());
	foreach my $name (sort keys %options)
	{
		(my $switch = "--$name") =~ tr/_/-/;
		my $value = $options{$name};
		# The form with = also takes values that begin with a dash.
		push @arguments, map { "$switch=$_" } ref $value ? @$value : $value // ();
	}

	local $ENV{CONDUIT_NODE_MODULES} = $class->ensure_modules if $program ne 'scripted';

	my $self = bless {
		program => $program,
		owner => $$,
		ca => $ca,
		log => $log // File::Temp->new(TEMPLATE => "conduit-$program-XXXXXX", TMPDIR => 1, SUFFIX => '.log'),
		# The environment's proxies are not for loopback.
		http => HTTP::Tiny->new(
			timeout => 60, proxy => undef, http_proxy => undef, https_proxy => undef),
	}, $class;
	$self->_spawn(_node(), "$provider_dir/$program.js", @arguments);

	my $line = $self->_first_line($timeout);
	if (!defined $line)
	{
		$self->stop;
		croak "$program.js did not start: " . ($self->stderr || 'nothing on stderr');
	}
	$self->{info} = $json->decode($line);
	return $self;
}

# Starts the server with pipes at stdin and stdout. Perl marks the pipes
# close-on-exec, so that a postmaster started later does not hold them open.
sub _spawn
{
	my ($self, @command) = @_;

	pipe(my $in_read, my $in_write) or croak "pipe: $!";
	pipe(my $out_read, my $out_write) or croak "pipe: $!";
	open(my $err, '>>', "$self->{log}") or croak "cannot write $self->{log}: $!";

	my $pid = fork() // croak "fork: $!";
	if ($pid == 0)
	{
		# By descriptor, since PostgreSQL's test modules tie the handles.
		POSIX::dup2(fileno($in_read), 0);
		POSIX::dup2(fileno($out_write), 1);
		POSIX::dup2(fileno($err), 2);
		{ no warnings 'exec'; exec { $command[0] } @command; }
		POSIX::_exit(127);
	}
	@$self{qw(pid stdin stdout)} = ($pid, $in_write, $out_read);
	return;
}

sub _first_line
{
	my ($self, $timeout) = @_;
	my $deadline = time() + $timeout;
	my $select = IO::Select->new($self->{stdout});
	my $text = '';

	while ($text !~ /\n/)
	{
		my $left = $deadline - time();
		return undef if $left <= 0;
		next unless $select->can_read($left);
		return undef unless sysread($self->{stdout}, $text, 65536, length $text);
	}
	return $text;
}

=head2 $server->stop

Ends the server and waits until it is gone. Also done by the destructor.

=cut

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;

	# Closing its stdin is the polite way; one that is busy gets two seconds.
	close(delete $self->{stdin});
	close(delete $self->{stdout});
	local ($?, $!);
	foreach (1 .. 200)
	{
		return if waitpid($pid, POSIX::WNOHANG()) != 0;
		sleep(0.01);
	}
	kill('KILL', $pid);
	waitpid($pid, 0);
	return;
}

sub DESTROY
{
	my ($self) = @_;

	# A forked child's copy must not end its parent's server.
	$self->stop if $self->{owner} == $$;
	return;
}

=head2 $server->url, port, pid, info, stderr

C<info> is the JSON line the program printed, decoded; C<stderr> what it has
complained about so far.

=cut

sub url { return $_[0]{info}{url}; }
sub port { return $_[0]{info}{port}; }
sub pid { return $_[0]{pid}; }
sub info { return $_[0]{info}; }

sub stderr
{
	my ($self) = @_;
	open(my $fh, '<', "$self->{log}") or return '';
	local $/;
	return scalar <$fh> // '';
}

=head1 TALKING TO IT

=head2 $server->get($path), $server->post($path, \%json)

For paths under F</control/>; dies unless the answer is 200, returns it decoded.

=cut

sub get
{
	my ($self, $path) = @_;
	return $self->_decode($path, $self->{http}->get($self->_control_url . $path));
}

sub post
{
	my ($self, $path, $body) = @_;
	return $self->_decode(
		$path,
		$self->{http}->post(
			$self->_control_url . $path,
			{
				headers => { 'content-type' => 'application/json' },
				content => $json->encode($body // {}),
			}));
}

# HTTP::Tiny speaks TLS only with modules that are not core, so a server with
# TLS has its control surface in clear as well.
sub _control_url { return $_[0]{info}{control_url} // $_[0]{info}{url}; }

sub _decode
{
	my ($self, $path, $response) = @_;
	croak "$self->{program}.js answered $response->{status} to $path: $response->{content}"
	  unless $response->{status} == 200;
	return $json->decode($response->{content});
}

sub _query
{
	my ($path, %query) = @_;
	my @pairs = map { HTTP::Tiny->www_form_urlencode({ $_ => $query{$_} }) }
	  grep { defined $query{$_} } sort keys %query;
	return @pairs ? "$path?" . join('&', @pairs) : $path;
}

=head2 Both servers

C<counts($path)> (without a path those of all endpoints; the path is for
scripted alone), C<reset>.

=cut

sub counts
{
	my ($self, $path) = @_;
	return $self->get(_query('/control/counts', path => $path));
}

sub reset
{
	my ($self) = @_;
	return $self->post('/control/reset');
}

=head2 $server->wait_for($path, $field, $least)

Polls the counts until C<$field> (such as C<total>, C<in_flight>, C<hanging>)
is at least that; dies after a minute.

=cut

sub wait_for
{
	my ($self, $path, $field, $least) = @_;
	my $deadline = time() + 60;

	while (1)
	{
		my $counts = $self->counts($path);
		return $counts if $counts->{$field} >= $least;
		croak "$field is still $counts->{$field}, not $least" if time() > $deadline;
		sleep(0.02);
	}
}

=head2 The scripted server

C<issue($count, %options)> returns a list of token responses,
C<script($path, \@steps, %options)> sets what an endpoint shall do, C<scripts>
that of many, each C<< { path => $path, steps => \@steps, %options } >>,
C<options(%options)>, C<client($client_id, $client_secret, $method, %key)>,
C<granter(%key)>, C<verify($jwt, $public_key)> (a JWT's C<header> and C<claims>; of
an array, an array), C<release($path)>, C<kill_connections(%options)>,
C<log($path)> (a list), C<tokens(%filter)> (a list), C<revoke(%which)>.

=cut

sub issue
{
	my ($self, $count, %options) = @_;
	return @{ $self->post('/control/issue', { %options, count => $count + 0 }) };
}

sub script
{
	my ($self, $path, $steps, %options) = @_;
	return $self->post('/control/script', { %options, path => $path, steps => $steps });
}

sub scripts
{
	my ($self, @scripts) = @_;
	return $self->post('/control/scripts', { scripts => \@scripts });
}

sub options
{
	my ($self, %options) = @_;
	return $self->post('/control/options', \%options);
}

sub client
{
	my ($self, $id, $secret, $method, %key) = @_;
	return $self->post('/control/client',
		{ %key, client_id => $id, client_secret => $secret, defined $method ? (method => $method) : () });
}

sub granter
{
	my ($self, %key) = @_;
	return $self->post('/control/granter', \%key);
}

sub verify
{
	my ($self, $jwt, $public_key) = @_;
	return $self->post('/control/verify', { jwt => $jwt, public_key => $public_key });
}

sub release
{
	my ($self, $path) = @_;
	return $self->post('/control/release', defined $path ? { path => $path } : {})->{released};
}

sub kill_connections
{
	my ($self, %options) = @_;
	return $self->post('/control/kill-connections', \%options)->{killed};
}

sub log
{
	my ($self, $path) = @_;
	return @{ $self->get(_query('/control/log', path => $path)) };
}

sub tokens
{
	my ($self, %filter) = @_;
	return @{ $self->get(_query('/control/tokens', %filter)) };
}

sub revoke
{
	my ($self, %which) = @_;
	return $self->post('/control/revoke', \%which)->{revoked};
}

=head2 The oidc server

C<connect_account($account, %options)> walks the authorization-code flow and
returns the token response, decoded and (in list context) as it came; options
are those of F<connect.js>. C<authorize($url, %options)> drives somebody else's
authorize URL and returns the callback's parameters. C<revoke_grants($account)>
returns the number of grants destroyed. C<delay($ms)>, C<hang($on, %options)>,
C<access_ttl($seconds)>.

=cut

sub connect_account
{
	my ($self, $account, %options) = @_;
	my $raw = $self->_connect($json->encode($self->{info}),
		info => '-', account => $account, %options);
	chomp $raw;
	return wantarray ? ($json->decode($raw), $raw) : $json->decode($raw);
}

sub authorize
{
	my ($self, $url, %options) = @_;
	return $json->decode($self->_connect('', 'authorize-only' => undef, url => $url, %options));
}

# An undefined value is a switch. Secrets go by stdin, out of sight of ps.
sub _connect
{
	my ($self, $stdin, %options) = @_;
	my @arguments = map {
		(my $switch = "--$_") =~ tr/_/-/;
		defined $options{$_} ? "$switch=$options{$_}" : $switch;
	} sort keys %options;
	push @arguments, "--ca=$self->{ca}" if $self->{ca};

	my ($out, $err) = ('', '');
	IPC::Run::run([ _node(), "$provider_dir/connect.js", @arguments ], '<', \$stdin, '>', \$out, '2>', \$err)
	  or croak "connect.js failed: $err";
	return $out;
}

sub revoke_grants
{
	my ($self, $account) = @_;
	return $self->post('/control/revoke-grants', { account => $account })->{revoked};
}

sub delay
{
	my ($self, $ms) = @_;
	return $self->post('/control/delay', { ms => $ms + 0 });
}

sub hang
{
	my ($self, $on, %options) = @_;
	return $self->post('/control/hang', { %options, on => $on ? JSON::PP::true : JSON::PP::false });
}

sub access_ttl
{
	my ($self, $seconds) = @_;
	return $self->post('/control/access-ttl', { seconds => $seconds + 0 });
}

=head1 CERTIFICATES

=head2 Conduit::Provider->make_cert($dir, %options)

Makes a test authority and, signed by it, certificates for 127.0.0.1 and
localhost (C<server>), the same but expired (C<expired>), one for another host
(C<otherhost>); and one that nobody has signed (C<selfsigned>). Returns the
files: C<ca>, then C<server_cert>, C<server_key> and so on. Option C<days>,
the lifetime, default 30.

=cut

sub make_cert
{
	my ($class, $dir, %options) = @_;
	my $days = $options{days} // 30;
	my $here = 'IP:127.0.0.1,DNS:localhost';
	my %files = (ca => "$dir/ca.crt", ca_key => "$dir/ca.key");
	my @new_key = qw(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes);

	make_path($dir);
	_openssl('req', '-x509', @new_key, '-subj' => '/CN=Conduit test authority',
		'-days' => $days, '-keyout' => $files{ca_key}, '-out' => $files{ca});

	# "openssl ca" alone lets all versions of OpenSSL issue what has expired.
	my $config = "$dir/ca.cnf";
	_write("$dir/index.txt", '');
	_write($config, <<"CNF");
[ca]
default_ca = authority
[authority]
new_certs_dir = $dir
database = $dir/index.txt
rand_serial = yes
default_md = sha256
policy = names
copy_extensions = copy
[names]
commonName = supplied
CNF
	foreach my $wish (
		[ 'server', $here, '-days' => $days ],
		[ 'expired', $here, '-startdate' => '20240101000000Z', '-enddate' => '20240102000000Z' ],
		[ 'otherhost', 'DNS:elsewhere.example.test', '-days' => $days ])
	{
		my ($name, $hosts, @validity) = @$wish;
		my $request = "$dir/$name.csr";
		@files{ "${name}_cert", "${name}_key" } = ("$dir/$name.crt", "$dir/$name.key");

		_openssl('req', '-new', @new_key, '-subj' => "/CN=Conduit test $name",
			'-addext' => "subjectAltName=$hosts",
			'-keyout' => $files{"${name}_key"}, '-out' => $request);
		_openssl('ca', '-batch', '-notext', '-config' => $config, '-in' => $request,
			'-cert' => $files{ca}, '-keyfile' => $files{ca_key},
			@validity, '-out' => $files{"${name}_cert"});
		unlink $request;
	}

	@files{qw(selfsigned_cert selfsigned_key)} = ("$dir/selfsigned.crt", "$dir/selfsigned.key");
	_openssl('req', '-x509', @new_key, '-subj' => '/CN=Conduit test selfsigned',
		'-addext' => "subjectAltName=$here", '-days' => $days,
		'-keyout' => $files{selfsigned_key}, '-out' => $files{selfsigned_cert});

	chmod 0600, grep { /\.key$/ } values %files;
	return %files;
}

=head2 Conduit::Provider->make_key($algorithm)

A new key pair for that algorithm of JWTs, C<rsa1024> or C<secp256k1>: the private
and the public key as PEM.

=cut

sub make_key
{
	my ($class, $algorithm) = @_;
	my %how = (
		(map { $_ => [ qw(-algorithm RSA -pkeyopt rsa_keygen_bits:2048) ] } qw(RS256 RS384 RS512 PS256)),
		ES256 => [ qw(-algorithm EC -pkeyopt ec_paramgen_curve:P-256) ],
		ES384 => [ qw(-algorithm EC -pkeyopt ec_paramgen_curve:P-384) ],
		EdDSA => [ qw(-algorithm ED25519) ],
		rsa1024 => [ qw(-algorithm RSA -pkeyopt rsa_keygen_bits:1024) ],
		secp256k1 => [ qw(-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1) ]);
	my $file = File::Temp->new(TEMPLATE => 'conduit-key-XXXXXX', TMPDIR => 1);

	_openssl('genpkey', @{ $how{$algorithm} // croak "no algorithm $algorithm" }, '-out' => "$file");
	my $private = _read("$file");
	_openssl('pkey', '-in' => "$file", '-pubout', '-out' => "$file.pub");
	my $public = _read("$file.pub");
	unlink "$file.pub";
	return ($private, $public);
}

sub _read
{
	my ($path) = @_;
	open(my $file, '<', $path) or croak "could not read $path: $!";
	local $/;
	return scalar <$file>;
}

sub _write
{
	my ($path, $text) = @_;
	open(my $file, '>', $path) or croak "could not write $path: $!";
	print $file $text;
	close($file) or croak "could not write $path: $!";
	return;
}

sub _openssl
{
	my @command = ('openssl', @_);
	my $output = '';
	IPC::Run::run(\@command, '<', \undef, '>&', \$output)
	  or croak "@command failed: $output";
	return;
}

=head1 THE NPM MODULES

=head2 Conduit::Provider->ensure_modules, Conduit::Provider->ensure_modules($directory)

Installs what F<package-lock.json> names, unless it is there already, and
returns the directory that holds F<node_modules>; parallel tests wait for each
other. The place is F<test/provider>, or the named directory beside it; or, for
users who may not write to the checkout, the directory in the environment
variable CONDUIT_NODE_MODULES.

=cut

sub ensure_modules
{
	my ($class, $name) = @_;
	my $home = defined $name ? abs_path("$provider_dir/../$name") : $provider_dir;
	my $elsewhere = $ENV{CONDUIT_NODE_MODULES};
	$elsewhere =~ s{(?:/node_modules)?/*$}{} if defined $elsewhere;
	$elsewhere .= "/$name" if defined $elsewhere && defined $name;

	# An installation in the checkout, made by its owner, is good for everyone.
	foreach my $dir ($elsewhere // (), $home)
	{
		return $dir if _modules_fresh($home, $dir);
	}

	my $dir = $elsewhere // $home;
	make_path($dir, { error => \my $unused });
	open(my $lock, '>>', "$dir/.npm-ci.lock") or croak <<"END";
the npm modules of the test providers are missing or out of date, and $dir is not writable ($!).
Either run as its owner:
    cd $home && @npm_ci
or let this user have a copy of its own, in a directory it may write to:
    export CONDUIT_NODE_MODULES=/some/directory
END
	flock($lock, LOCK_EX) or croak "cannot lock $dir/.npm-ci.lock: $!";
	return $dir if _modules_fresh($home, $dir);    # somebody else has just done it

	if ($dir ne $home)
	{
		foreach my $file (qw(package.json package-lock.json .npmrc))
		{
			copy("$home/$file", "$dir/$file") or croak "cannot copy $file to $dir: $!";
		}
	}

	# npm wants a cache, and a system user's home directory may not be its own.
	my $cache = -w ($ENV{HOME} // '') ? undef : File::Temp->newdir;
	local $ENV{npm_config_cache} = "$cache" if $cache;
	my $output = '';
	my $done = eval {
		IPC::Run::run(\@npm_ci, '<', \undef, '>&', \$output, init => sub { chdir $dir or die "chdir $dir: $!" });
	};
	croak "cd $dir && @npm_ci failed: " . ($@ || $output) . ($@ =~ /not found/ ? "Install npm: apt-get install npm\n" : '')
	  unless $done;
	return $dir;
}

# npm leaves its own lock file in what it has installed. The two are compared
# by their contents: the times of files say little after a checkout.
sub _modules_fresh
{
	my ($home, $dir) = @_;
	my ($wanted, $present) = map { _lock_versions($_) }
	  ("$home/package-lock.json", "$dir/node_modules/.package-lock.json");
	return defined $present && $present eq $wanted;
}

sub _lock_versions
{
	my ($file) = @_;
	open(my $fh, '<', $file) or return undef;
	my $packages = do { local $/; $json->decode(<$fh>) }->{packages};
	return join("\n",
		map { "$_ $packages->{$_}{version} $packages->{$_}{integrity}" } grep { $_ ne '' } sort keys %$packages);
}

# Debian calls it node; a test may name another by NODE.
sub _node
{
	return $ENV{NODE} if $ENV{NODE};
	foreach my $dir (split /:/, $ENV{PATH})
	{
		return "$dir/node" if -x "$dir/node";
	}
	croak 'node is not installed: apt-get install nodejs npm';
}

1;
