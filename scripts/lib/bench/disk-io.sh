# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# disk-io.sh: the I/O of scripts/bench disk
#
# THEORY OF OPERATION
#
# The same tiny guest (op=disk) does the same jobs on the same image under stock QEMU, under district-vmm
# alone, in a district with its overlay and durable checkpoints, and in one that is also protected to a
# second districtd on this machine. One after the other in each run, and every ratio is of one run. The
# guest measures; its loop is native code and polls, so that the host's side is what is seen. A CPU is
# taken by that: this wants two, with nothing else on them.
#
# A protected guest does its jobs over and over; the first list that began after the first copy counts.

IO_MIB=256 IO_MS=500 IO_DURABLE=2s
IO_JOBS=id:4096:1,id:4096:16,read:131072:1,read:131072:16,write:131072:1,write:131072:16
IO_JOBS+=,randread:4096:1,randread:4096:16,randwrite:4096:1,randwrite:4096:16,sync:4096:1
IO_GUEST="op=disk pages=8192 time=$IO_MS io=$IO_JOBS"
IO_JOB_LAST=$(($(tr -dc , <<<"$IO_JOBS" | wc -c)))
IO_VARIANTS="qemu qemu-cached vmm store protected"

# ---- One list of jobs under each: the guest's lines go to $DIR/out/guest ----

io_image() { echo "$DIR/image.$1"; }

# io_qemu FORMAT CACHE-DIRECT
io_qemu()
{
	limited 120 qemu-system-x86_64 -accel kvm -machine q35,smm=off -cpu host,-arch-capabilities -m 128 \
		-bios qboot.rom -nodefaults -display none -no-reboot \
		-kernel "$GUEST" -append "$IO_GUEST rounds=1 poweroff=0x604:0x2000" \
		-chardev "file,id=out,path=$DIR/out/guest" -device isa-debugcon,iobase=0xe9,chardev=out \
		-blockdev "driver=file,node-name=file,filename=$(io_image "$1"),cache.direct=$2,aio=io_uring" \
		-blockdev "driver=$1,node-name=disk,file=file,cache.direct=$2" \
		-device virtio-blk-pci,drive=disk,disable-legacy=on </dev/null >"$DIR/qemu.log" 2>&1 ||
		fail "QEMU: $(tail -n 1 "$DIR/qemu.log")"
}

io_vmm()
{
	limited 120 "$BUILD/vmm/district-vmm" --memory 128M --kernel "$GUEST" \
		--append "$IO_GUEST rounds=1 poweroff=0x604:0x3400" --debugcon "$DIR/out/guest" \
		--disk "$(io_image "$1"),format=$1" </dev/null >"$DIR/vmm.log" 2>&1 ||
		fail "district-vmm: $(tail -n 1 "$DIR/vmm.log")"
}

io_done()
{
	! grep "^error" "$DIR/out/guest" 2>/dev/null || fail "the guest gives up"
	grep -q "^io round=$1 job=$IO_JOB_LAST " "$DIR/out/guest" 2>/dev/null
}

# io_wait ROUND: the guest has done all jobs of that round.
io_wait()
{
	await 180 io_done "$1" ||
		fail "the guest has not done its jobs within 180 s: $(tail -n 1 "$DIR/log/bench/vmm-guest.log" 2>/dev/null)"
}

# How many rounds the guest has done.
io_rounds() { grep -c "^io round=[0-9]* job=$IO_JOB_LAST " "$DIR/out/guest" || true; }

# io_district_start FORMAT ROUNDS
io_district_start()
{
	cat >"$DIR/bench.district" <<-EOF
	[District]
	Name=bench
	DurableEvery=$IO_DURABLE
	[Member guest]
	Kernel=$GUEST
	Memory=128M
	CommandLine=$IO_GUEST rounds=$2
	Debugcon=$DIR/out/guest
	Disk=$(io_image "$1"),format=$1
	EOF
	district create "$DIR/bench.district" >/dev/null
	district start bench >/dev/null
}

io_store()
{
	io_district_start "$1" 1
	io_wait 1
	district_end
}

io_protected()
{
	local round
	io_district_start "$1" 0
	district protect bench --standby standby --wait >/dev/null
	round=$(($(io_rounds) + 2))
	io_wait "$round"
	sed -i "/^io round=$round /!d" "$DIR/out/guest"
	district unprotect bench >/dev/null
	district_end
}

# io_once FORMAT RUN: a line of "RUN FORMAT VARIANT the-guest's-words" for each job of each variant.
io_once()
{
	local variant
	for variant in $IO_VARIANTS; do
		rm -f "$DIR/out/guest"
		sync "$(io_image "$1")"
		case $variant in
		qemu) io_qemu "$1" on ;;
		qemu-cached) io_qemu "$1" off ;;
		*) "io_$variant" "$1" ;;
		esac
		sed -n "s/^io /$2 $1 $variant /p" "$DIR/out/guest" >>"$DIR/io.lines"
	done
}

# ---- Tables ----

# "FORMAT VARIANT JOB MODE BYTES DEPTH REQUESTS/S TO-QEMU TO-CACHED P50-US P99-US WORST-US ERRORS": medians over
# the runs, the worst of all, and all errors.
io_summary()
{
	awk '
	function median(values, v, n, i, j, t) {
		n = split(values, v, " ")
		for (i = 2; i <= n; i++)
			for (j = i; j > 1 && v[j] + 0 < v[j - 1] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
		return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
	}
	function ratio(key, to, list, run) {
		for (run = 0; run < runs; run++)
			list = list " " rate[run, key] / rate[run, format[key] " " to " " job[key]]
		return median(list)
	}
	function rates(key, list, run) {
		for (run = 0; run < runs; run++)
			list = list " " rate[run, key]
		return median(list)
	}
	{
		for (i = 4; i <= NF; i++) { split($i, kv, "="); f[kv[1]] = kv[2] }
		key = $2 " " $3 " " f["job"]
		if (!(key in format)) order[++keys] = key
		format[key] = $2
		job[key] = f["job"]
		what[key] = f["mode"] " " f["bytes"] " " f["depth"]
		rate[$1, key] = f["requests"] * 1e6 / f["us"]
		runs = $1 + 1
		p50[key] = p50[key] " " f["p50"] / 1000
		p99[key] = p99[key] " " f["p99"] / 1000
		if (f["worst"] / 1000 > worst[key]) worst[key] = f["worst"] / 1000
		errors[key] += f["errors"]
	}
	END {
		for (k = 1; k <= keys; k++) {
			key = order[k]
			printf "%s %s %.1f %.3f %.3f %.1f %.1f %.1f %d\n", key, what[key], rates(key), ratio(key, "qemu"), \
				ratio(key, "qemu-cached"), median(p50[key]), median(p99[key]), worst[key], errors[key]
		}
	}' "$DIR/io.lines"
}

# io_table FORMAT
io_table()
{
	printf '\nI/O of one guest on a %s image of %s MiB\n' "$1" "$IO_MIB"
	printf '%-26s %-12s %10s %8s %8s %9s %10s %10s %10s\n' job under "requests/s" "MiB/s" "to qemu" "to cached" \
		p50 p99 worst
	awk -v format="$1" '
	$1 == format {
		what = $4 ($4 == "id" ? "" : " " $5 / 1024 " KiB") ", " $6 " at once"
		line[++n] = sprintf("%-26s %-12s %10.0f %8s %8.2f %9.2f %7.0f us %7.0f us %7.0f us%s", what, $2, $7, \
			$4 == "id" ? "-" : sprintf("%.1f", $7 * $5 / 1048576), $8, $9, $10, $11, $12, \
			$13 > 0 ? " " $13 " failed" : "")
		at[n] = $3
		if ($3 + 0 > last) last = $3 + 0
	}
	END { for (j = 0; j <= last; j++) for (i = 1; i <= n; i++) if (at[i] == j) print line[i] }' "$DIR/io.summary"
}

# Where District does less than QEMU through the page cache, by how much.
io_losses()
{
	printf '\nTimes as slow as qemu-cached, where that is more than 1.1\n'
	awk '
	$2 !~ /^qemu/ && $9 > 0 && $9 < 1 / 1.1 {
		who = $1 " " $2
		if (!(who in said)) order[++n] = who
		said[who] = said[who] sprintf("%s%s", said[who] == "" ? " " : ", ", \
			$4 ($4 == "id" ? "" : " " $5 / 1024 "K") " x" $6 " " sprintf("%.1f", 1 / $9))
	}
	END { for (i = 1; i <= n; i++) printf "%-16s%s\n", order[i], said[order[i]] }' "$DIR/io.summary"
}

io_figures()
{
	local figure
	while read -r figure; do
		FIGURES+=("$figure")
	done < <(awk '{
		printf "{\"io_format\":\"%s\",\"under\":\"%s\",\"mode\":\"%s\",\"bytes\":%d,\"depth\":%d,\"per_second\":%s,", $1, $2, $4, $5, $6, $7
		printf "\"ratio_to_qemu\":%s,\"ratio_to_qemu_cached\":%s,\"p50_us\":%s,\"p99_us\":%s,\"worst_us\":%s,\"errors\":%d}\n", $8, $9, $10, $11, $12, $13
	}' "$DIR/io.summary")
}

bench_disk_io()
{
	local format i
	[[ -n $(type -P qemu-system-x86_64) && -n $(type -P qemu-img) ]] ||
		fail "qemu-system-x86_64 and qemu-img are needed to compare with: scripts/install-deps installs them"
	dd if=/dev/urandom of="$(io_image raw)" bs=1M count=$IO_MIB status=none
	limited 120 qemu-img convert -f raw -O qcow2 "$(io_image raw)" "$(io_image qcow2)"
	: >"$DIR/io.lines"
	for ((i = 0; i < RUNS; i++)); do
		for format in raw qcow2; do
			io_once "$format" "$i"
		done
	done
	io_summary >"$DIR/io.summary"
	for format in raw qcow2; do
		io_table "$format"
	done
	io_losses
	io_figures
	cat <<-EOF
	qemu: $(qemu-system-x86_64 --version | sed -n 's/^QEMU emulator version \([^ ]*\).*/\1/p'), virtio-blk, aio=io_uring, past the page cache; qemu-cached: through it, as District.
	vmm: district-vmm alone, no overlay. store: a district, with overlay and durable checkpoints
	(DurableEvery=$IO_DURABLE). protected: that, and a standby, whose processes are on this machine too.
	id asks for the disk's name: what a request costs without data. sync: each write is flushed; with an overlay a
	flush is a barrier, and durable is what is in a durable checkpoint. to qemu, to cached: requests/s in the same run.
	EOF
}
