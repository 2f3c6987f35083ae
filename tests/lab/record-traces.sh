#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# record-traces OUT WORKLOAD...: what stock Debian guests write, epoch by epoch, for scripts/bench stream --traces
#
# Run by scripts/record-traces in a lab of one host. Each WORKLOAD (postgres, redis, compile) is a guest of its own, in
# a district that makes durable checkpoints while it works; they become OUT/WORKLOAD/checkpoint-* (tests/bench/take-trace.sh).
# Then bench-encode reads them.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

EPOCHS=${EPOCHS:-40}
PERIOD=${PERIOD:-1}
GUESTS_LIMIT=${GUESTS_LIMIT:-480}
# All checkpoints, and the export: hosts that are emulated and share their CPUs take their time.
RECORD_LIMIT=${RECORD_LIMIT:-1800}
HOST=h1
# From the first work to the first checkpoint: what is only done at the start is over.
SETTLE=10
OUT=$1
shift

# Sources of this tree that need no generated header, as the preprocessor leaves them.
SOURCES=(ckpt/encode.c ckpt/decode.c ckpt/format.c common/tls.c common/fdmsg.c netproxy/flow.c netproxy/packet.c)

# ---- Guests: each sets IMAGE, MEMORY and DISK (or leaves that empty) ----

guest_redis()
{
	IMAGE=$(make_image trace-redis trace-redis redis-server) || die "mkguest failed for redis"
	MEMORY=192M
}

guest_postgres()
{
	make_postgres_guests
	IMAGE=$(make_image trace-postgres trace-postgres "") || die "mkguest failed for postgres"
	MEMORY=192M
	DISK=$POSTGRES_DISK
}

# preprocess DIR: the sources, as *.i.
preprocess()
{
	local flags source
	flags=$(pkg-config --cflags gio-unix-2.0 gnutls libzstd libxxhash) || return
	for source in "${SOURCES[@]}"; do
		# shellcheck disable=SC2086 # several
		(cd "$TREE" && gcc -E -std=gnu11 -D_GNU_SOURCE -I . $flags "$source" -o "$1/$(basename "$source" .c).i") || return
	done
}

# preprocessed: a directory of them in the cache, by what is in them; prints its path.
preprocessed()
{
	local work kept
	work=$(mktemp -d "$(guest_cache)/sources.XXXXXX")
	preprocess "$work" || { rm -rf "$work"; return 1; }
	kept=$(guest_cache)/sources-$(cat "$work"/*.i | sha256sum | head -c 12)
	[[ -d $kept ]] || mv -T "$work" "$kept" || return
	rm -rf "$work"
	printf '%s\n' "$kept"
}

guest_compile()
{
	local version kept file lib=usr/lib/x86_64-linux-gnu options=()
	version=$(gcc -dumpversion) || die "there is no gcc: run scripts/install-deps"
	version=${version%%.*}
	kept=$(preprocessed) || die "sources for the guest compile cannot be preprocessed: run scripts/install-deps"
	for file in "$kept"/*.i; do options+=(--add "$file:/src/${file##*/}"); done
	# The compiler and the assembler are all that is used.
	for file in "usr/bin/*-ld*" "usr/bin/ld*" "usr/bin/*-dwp" "usr/bin/dwp" "usr/bin/*gold*" "$lib/libctf*" "usr/lib/gcc/*/*/lto*" \
		"usr/bin/*gp*" "usr/bin/*obj*" "usr/lib/*/ldscripts" "usr/lib/*/bfd-plugins"; do
		options+=(--trim "$file")
	done
	IMAGE=$(make_image trace-compile trace-compile "cpp-$version binutils" "${options[@]}") || die "mkguest failed for compile"
	MEMORY=256M
}

# ---- Recording ----

said() { on "$HOST" cat "/var/log/district/$1/$1.console.log" 2>/dev/null | tr -d '\r' | grep '^trace: ' || true; }
works() { said "$1" | has -E '^trace: .*[0-9]'; }

start_guest()
{
	local name=$1
	[[ -z $DISK ]] || on --timeout "$GUESTS_LIMIT" "$HOST" cp "$DISK" "/var/lib/district/$name.qcow2"
	on "$HOST" sh -c "cat >/etc/district/$name.district" <<-END
	[District]
	Name=$name
	DurableEvery=1440min
	Keep=$((EPOCHS + 3))

	[Member $name]
	Kernel=$LAB_KERNEL
	Initrd=$IMAGE
	Memory=$MEMORY
	CommandLine=console=ttyS0 quiet hostname=$name
	${DISK:+Disk=/var/lib/district/$name.qcow2}
	END
	dst "$HOST" create "/etc/district/$name.district" || die "$name: create failed"
	dst "$HOST" start "$name" || die "$name: start failed"
	within "$GUESTS_LIMIT" works "$name" || {
		on "$HOST" tail -n 20 "/var/log/district/$name/$name.console.log" | sed 's/^/# /'
		die "$name does no work within $GUESTS_LIMIT s (GUESTS_LIMIT=)"
	}
	note "$name works: $(said "$name" | tail -n 1)"
}

record()
{
	local name=$1 taken before after
	IMAGE='' MEMORY='' DISK=''
	"guest_$name"
	start_guest "$name"
	sleep "$SETTLE"
	before=$(said "$name" | wc -l)
	taken=$(on --timeout "$RECORD_LIMIT" "$HOST" env CHECKPOINT_LIMIT=300 EXPORT_LIMIT="$RECORD_LIMIT" \
		"$TREE/tests/bench/take-trace.sh" "$name" "$EPOCHS" "$PERIOD" "/var/lib/district/districts/$name/store" \
		"/var/lib/district/trace-$name" "$BUILD/control/district" 2>&1) ||
		die "$name was not recorded within $RECORD_LIMIT s (RECORD_LIMIT=): $taken"
	after=$(said "$name" | wc -l)
	note "$taken; $((after - before)) lines of work meanwhile, the last one: $(said "$name" | tail -n 1)"
	dst "$HOST" stop "$name" --force || die "$name: stop failed"
	dst "$HOST" destroy "$name" --force || die "$name: destroy failed"
	timeout --kill-after=5 "$RECORD_LIMIT" copy-from "$HOST" "/var/lib/district/trace-$name" "$OUT/$name.tmp" || die "$name: the trace cannot be copied to $OUT"
	on "$HOST" rm -rf "/var/lib/district/trace-$name" "/var/lib/district/$name.qcow2"
	read_trace "$name"
}

# What was recorded can be read; only then it gets its name.
read_trace()
{
	local name=$1 table epochs
	table=$(timeout --kill-after=5 900 "$BUILD/tests/bench/bench-encode" --trace "$OUT/$name.tmp" --json "$LAB_DIR/$name.json" 2>&1) ||
		die "$name: what was recorded cannot be read: $table"
	epochs=$("$BUILD/tests/lab/tools/json-get" 0.epochs <"$LAB_DIR/$name.json")
	rm -rf "${OUT:?}/$name"
	mv "$OUT/$name.tmp" "$OUT/$name"
	claim "$name: $EPOCHS epochs are recorded, and come back from the encoder as they were" \
		"${table//$name.tmp/$name}
$(du -sh "$OUT/$name")" test "$epochs" -eq "$EPOCHS"
}

start_daemon "$HOST"
for workload in "$@"; do
	rm -rf "${OUT:?}/$workload.tmp"
	record "$workload"
done
claims_end record-traces
