# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What lab scenarios with districts share: daemons, host certificates, the district "shop", claims.
#
# Scenarios source this file; they run on the build machine with lab's commands on their PATH. A claim
# prints one TAP line, "ok - sentence" or "not ok - sentence", with its evidence behind "#".

TREE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD=${LAB_BUILD:-$TREE/build}
DB_ADDR=10.77.0.51
APP_ADDR=10.77.0.52
CLAIMS=0
HELD=0

# claim SENTENCE EVIDENCE COMMAND...: the claim holds if the command succeeds.
claim()
{
	local sentence=$1 evidence=$2
	shift 2
	CLAIMS=$((CLAIMS + 1))
	if "$@" >/dev/null 2>&1; then
		HELD=$((HELD + 1))
		printf 'ok %d - %s\n' "$CLAIMS" "$sentence"
	else
		printf 'not ok %d - %s\n' "$CLAIMS" "$sentence"
	fi
	[[ -z $evidence ]] || sed 's/^/#     /' <<<"$evidence"
}

# claims_end WORD: the closing line; fails if a claim did.
claims_end()
{
	printf '%s: %d of %d claims held\n' "$1" "$HELD" "$CLAIMS"
	[[ $HELD -eq $CLAIMS && $CLAIMS -gt 0 ]]
}

note() { printf '# %s\n' "$*"; }

die()
{
	printf 'not ok - %s\n' "$*"
	exit 1
}

# has GREP-ARGS...: grep -q that reads to the end, so that its writer does not fail under pipefail.
has() { grep "$@" >/dev/null; }

# within SECONDS COMMAND...: try it until it succeeds; fails after the time limit.
within()
{
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[[ $SECONDS -lt $end ]] || return 1
		sleep 0.5
	done
}

# dst HOST ARGS...: the district command there.
dst()
{
	local host=$1
	shift
	on --timeout 90 "$host" "$BUILD/control/district" "$@"
}

# field HOST DISTRICT PATH: one value of `district show --json`, by the jq-like path a.b.c.
field()
{
	dst "$1" show "$2" --json 2>/dev/null | "$BUILD/tests/lab/tools/json-get" "$3"
}

is() { [[ $(field "$1" "$2" "$3") == "$4" ]]; }

# is_not HOST DISTRICT PATH VALUE: there is a value, and it is another one.
is_not()
{
	local value
	value=$(field "$1" "$2" "$3") && [[ -n $value && $value != "$4" ]]
}

# refused PATTERN COMMAND...: it says no, which is exit status 1, with one line on stderr that matches
# PATTERN. A command that crashed, hung or was lost on its way has said nothing.
refused()
{
	local pattern=$1 out status=0
	shift
	out=$("$@" 2>&1 >/dev/null) || status=$?
	[[ $status -eq 1 && $(wc -l <<<"$out") -eq 1 ]] && has -E "$pattern" <<<"$out"
}

# no_process HOST NAME: the host was asked, and has none.
no_process()
{
	local status=0
	on -n "$1" pgrep -x "$2" || status=$?
	[[ $status -eq 1 ]]
}

# start_daemon HOST: districtd with its usual paths.
start_daemon()
{
	local host=$1
	on "$host" sh -c "mkdir -p /etc/district /var/log/district && cat >/etc/district/districtd.conf" <<-EOF
	[Daemon]
	HostName=$host
	PkiDir=/var/lib/district/pki
	EOF
	on "$host" sh -c "setsid $BUILD/control/districtd </dev/null >>/var/log/district/districtd.log 2>&1 &"
	within 20 dst "$host" list || die "districtd of $host does not answer: $(on "$host" tail -n 3 /var/log/district/districtd.log)"
}

# join_hosts A B: one command on each side.
join_hosts()
{
	local a=$1 b=$2 a_addr="LAB_ADDR_$1" b_addr="LAB_ADDR_$2" token
	token=$(dst "$a" host add "$b" --address "${!b_addr}" --json | "$BUILD/tests/lab/tools/json-get" token)
	[[ -n $token ]] || die "host add on $a gave no token"
	dst "$b" host add "$a" --address "${!a_addr}" --token "$token" || die "$b could not join $a"
}

guest_cache()
{
	local dir=${DISTRICT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/district}
	mkdir -p "$dir"
	printf '%s\n' "$dir"
}

# make_image NAME SCRIPT PACKAGES [MKGUEST-OPTION...]: an image made once per version of all that; prints its path.
make_image()
{
	local name=$1 script=$TREE/tests/lab/guests/$2.sh packages=$3 image key
	shift 3
	key=$({
		cat "$TREE/scripts/mkguest" "$TREE"/scripts/lib/*.sh "$script"
		printf '%s\n' "$packages" "$@"
	} | sha256sum | head -c 12)
	image=$(guest_cache)/$name-$key.cpio
	[[ -e $image ]] || "$TREE/scripts/mkguest" "$image" --packages "$packages" --script "$script" "$@" >&2 || return
	printf '%s\n' "$image"
}

# make_guest NAME PACKAGES [MKGUEST-OPTION...]: image of the guest of that script; sets NAME_IMAGE.
make_guest()
{
	local image
	image=$(make_image "$1" "$@") || die "mkguest failed for $1"
	eval "${1^^}_IMAGE=\$image"
}

make_guests()
{
	make_guest db redis-server
	make_guest app ""
}

# make_postgres_guests: PostgreSQL and its client; sets POSTGRES_IMAGE, PGBENCH_IMAGE and POSTGRES_DISK.
make_postgres_guests()
{
	local lib=usr/lib/x86_64-linux-gnu pg='usr/lib/postgresql/*' unused server root key
	# The compiler for queries, what manages clusters in Perl, other clients, and what came along.
	unused="$lib/libLLVM* $lib/libz3* $lib/perl* $lib/libperl* $lib/libdb-5* $lib/libxslt* $lib/libmvec* $lib/libpcre2*
		$lib/libedit* $lib/libicutu* $lib/ossl-modules $lib/engines-3 usr/lib/locale usr/bin/perl* usr/bin/openssl
		usr/bin/localedef usr/share/perl* usr/share/postgresql-common $pg/lib/*/ $pg/lib/llvm*
		$pg/bin/pg_dump* $pg/bin/pg_re* $pg/bin/pg_upgrade $pg/bin/pg_basebackup"
	server="$lib/libicu* $lib/libxml2* $lib/libstdc++* $lib/libsystemd* $lib/libgcrypt* $lib/libreadline* $lib/libext2fs*
		usr/share/postgresql $pg/lib $pg/bin/postgres $pg/bin/psql $pg/bin/initdb"
	make_guest postgres e2fsprogs
	make_guest pgbench postgresql-15 --trim "$unused $server" --compress lz4
	# Its service does not matter: the disk is not booted from.
	root=$(make_image postgres-root app postgresql-15 --trim "$unused" --compress lz4) ||
		die "mkguest failed for the root of postgres"
	key=$(cat "$TREE/tests/lab/make-postgres-disk" "$root" | sha256sum | head -c 12)
	POSTGRES_DISK=$(guest_cache)/postgres-$key.qcow2
	[[ -e $POSTGRES_DISK ]] || "$TREE/tests/lab/make-postgres-disk" "$root" "$POSTGRES_DISK" >&2 ||
		die "no disk for the guest postgres"
}

# write_shop HOST [EXTRA-LINE...]: the definition of district shop, as /etc/district/shop.district.
write_shop()
{
	local host=$1 name cpus
	shift
	{
		printf '[District]\nName=shop\nInterval=%s\nBridge=br0\n' "${SHOP_INTERVAL:-25ms}"
		[[ $# -eq 0 ]] || printf '%s\n' "$@"
		for name in db app; do
			local image=${name^^}_IMAGE addr=${name^^}_ADDR
			cpus=1
			[[ $name == db ]] && cpus=${DB_CPUS:-1}
			printf '\n[Member %s]\nEngine=kvm\nKernel=%s\nInitrd=%s\nMemory=192M\nCPUs=%s\nRng=yes\n' \
				"$name" "$LAB_KERNEL" "${!image}" "$cpus"
			printf 'CommandLine=console=ttyS0 quiet hostname=%s ip=%s/24 db=%s\n' \
				"$name" "${!addr}" "$DB_ADDR"
		done
	} | on "$host" sh -c "cat >/etc/district/shop.district"
}

# start_books HOST EXTRA-LINE...: create and start district books, whose member ledger counts on a qcow2 disk.
start_books()
{
	local host=$1
	shift
	make_guest ledger ""
	on "$host" qemu-img create -q -f qcow2 /var/lib/district/books.qcow2 64M || die "no disk image"
	{
		printf '[District]\nName=books\n'
		printf '%s\n' "$@"
		printf '\n[Member ledger]\nKernel=%s\nInitrd=%s\nMemory=128M\n' "$LAB_KERNEL" "$LEDGER_IMAGE"
		printf 'CommandLine=console=ttyS0 quiet hostname=ledger\nDisk=/var/lib/district/books.qcow2\n'
	} | on "$host" sh -c 'mkdir -p /etc/district && cat >/etc/district/books.district'
	dst "$host" create /etc/district/books.district || die "create failed"
	dst "$host" start books || die "start failed"
}

# console HOST MEMBER: what the guest has printed since its engine started on that host.
console() { on "$1" cat "/var/log/district/shop/$2.console.log" | tr -d '\r'; }

console_has() { console "$1" "$2" | has "$3"; }

# redis HOST COMMAND: ask db's redis from a host's own stack, one line of answer.
redis()
{
	on --timeout 10 "$1" bash -c "exec 3<>/dev/tcp/$DB_ADDR/6379; echo '$2' >&3; read -t 8 -r a <&3; echo \"\${a%?}\"; if [[ \$a == \\\$[1-9]* ]]; then read -t 8 -r a <&3; echo \"\${a%?}\"; fi" | tail -n 1
}

# start_shop HOST: create and start shop, wait until app counts.
start_shop()
{
	local host=$1
	dst "$host" create /etc/district/shop.district || die "create failed"
	dst "$host" start shop || die "start failed"
	within 120 console_has "$host" app 'app: acked' || {
		console "$host" app | tail -n 5 | sed 's/^/# app: /'
		console "$host" db | tail -n 5 | sed 's/^/# db: /'
		die "the guests did not come up in 120 s"
	}
}

# protect_shop HOST STANDBY OPTIONS...: and wait until there is something to fail over to.
protect_shop()
{
	local host=$1 standby=$2
	shift 2
	dst "$host" protect shop --standby "$standby" "$@" || die "protect failed"
	within 180 is "$host" shop protection protected || die "shop was not protected within 180 s: $(dst "$host" show shop)"
}

# last_acked HOST: the newest value app has printed there.
last_acked() { console "$1" app | sed -n 's/.*app: acked \([0-9]*\)$/\1/p' | tail -n 1; }

# acked_above HOST VALUE: app has printed a higher value there.
acked_above()
{
	local now
	now=$(last_acked "$1")
	[[ -n $now && $now -gt $2 ]]
}

# unbroken HOST: app is at work there, on a connection that it did not make or lose there.
unbroken()
{
	local text
	text=$(console "$1" app) && has 'app: acked' <<<"$text" || return
	[[ $(grep -cE 'connection lost|connected port' <<<"$text") == 0 ]]
}
