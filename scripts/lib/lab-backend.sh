# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# lab-backend.sh: starting and stopping lab hosts and their wire.  Sourced by
# scripts/lab and by the commands it puts on a scenario's PATH.
#
# All of it runs inside the lab: a PID and mount namespace of its own, with
# another network namespace at $LAB_DIR/net which holds nothing but the wire,
# a bridge named "wire" with one port "p-HOST" per host.  Whatever is started
# here dies with the lab.
#
# $LAB_DIR/HOST is a host's directory:
#   host.conf  its settings (see lab-host)     disk   its persistent state
#   agent      where lab-on finds its agent    pid    the process to kill
#   qmp        QEMU's monitor (tcg)            fsd    pid of virtiofsd (tcg)

# Seconds a host may take to boot, and to print its first line.
BOOT_LIMIT=${LAB_BOOT_LIMIT:-60}
FIRST_OUTPUT_LIMIT=$((BOOT_LIMIT / 3))

lab_message()
{
	echo "lab: $*" >&2
}

in_lab_net()
{
	nsenter --net="$LAB_DIR/net" "$@"
}

# Make the network namespace and the wire's bridge in it.
wire_create()
{
	touch "$LAB_DIR/net"
	unshare --net="$LAB_DIR/net" true
	in_lab_net ip -batch - <<-EOF
	link set lo up
	link add wire type bridge stp_state 0 forward_delay 0 mcast_snooping 0
	link set wire up
	EOF
}

# host_create HOST INDEX: its directory, settings and empty persistent state.
host_create()
{
	local host=$1 index=$2 dir=$LAB_DIR/$1
	mkdir -m 700 "$dir"
	if [[ $LAB_BACKEND == tcg ]]; then
		truncate -s "$LAB_DISK" "$dir/disk"
		mkfs.ext4 -q -F -m 0 -J size=16 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$dir/disk"
		echo "tcp $((7000 + index)) $LAB_DIR/net" >"$dir/agent"
		in_lab_net ip tuntap add dev "p-$host" mode tap
		in_lab_net ip link set "p-$host" master wire up
	else
		mkdir "$dir/disk"
		echo "unix $dir/agent.sock" >"$dir/agent"
	fi
	{
		printf 'host=%q\nindex=%q\n' "$host" "$index"
		printf 'backend=%q\nroot=%q\nbuild=%q\n' "$LAB_BACKEND" "$LAB_ROOT" "$LAB_BUILD"
		printf 'state_disk=/dev/vda\n'
	} >"$dir/host.conf"
}

# Start the QEMU of HOST, and the virtiofsd through which it sees our root.
start_tcg()
{
	local host=$1 dir=$LAB_DIR/$1 index=${1#h} append
	local socket=$dir/fsd.sock
	rm -f "$socket" "$dir/qmp"
	setsid "$LAB_VIRTIOFSD" -f --socket-path="$socket" -o source=/ -o cache=always \
		-o no_writeback -o sandbox=chroot -o log_level=err \
		</dev/null >>"$LAB_LOG/$host.virtiofsd.log" 2>&1 &
	echo $! >"$dir/fsd"
	for ((i = 0; i < 250; i++)); do
		[[ -S $socket ]] && break
		sleep 0.02
	done
	append="console=ttyS0 panic=-1 mitigations=off quiet net.ifnames=0 lab.state=$dir lab.start=$LAB_ROOT/scripts/lib/lab-host"
	((LAB_SMP > 1)) && append+=" tsc=reliable"
	# mitigations are off because they cost time and protect nothing here;
	# xsave is off because TCG does not intercept XSETBV of a nested guest.
	setsid nsenter --net="$LAB_DIR/net" qemu-system-x86_64 -name "$host" \
		-accel tcg,tb-size=512,thread=multi -machine q35,memory-backend=ram \
		-cpu max,xsave=off -smp "$LAB_SMP" -m "$LAB_MEMORY" \
		-object memory-backend-memfd,id=ram,size="${LAB_MEMORY}M",share=on \
		-nodefaults -display none -no-reboot -rtc base=utc,clock=host \
		-kernel "$LAB_KERNEL" -initrd "$LAB_INITRD" -append "$append" \
		-chardev file,id=console,path="$LAB_LOG/$host.log",append=on -serial chardev:console \
		-qmp unix:"$dir/qmp",server=on,wait=off \
		-netdev tap,id=wire,ifname="p-$host",script=no,downscript=no \
		-device virtio-net-pci,netdev=wire,id=wire-nic,addr=4,romfile=,mac="52:54:00:77:00:$(printf %02x "$index")" \
		-netdev user,id=mgmt,restrict=on,ipv6=off,hostfwd="tcp:127.0.0.1:$((7000 + index))-:7000" \
		-device virtio-net-pci,netdev=mgmt,addr=5,romfile=,mac="52:54:00:78:00:$(printf %02x "$index")" \
		-drive if=none,id=disk,file="$dir/disk",format=raw,cache=writeback \
		-device virtio-blk-pci,drive=disk \
		-chardev socket,id=fs,path="$socket" -device vhost-user-fs-pci,chardev=fs,tag=labroot \
		-device virtio-rng-pci \
		</dev/null >>"$LAB_LOG/$host.qemu.log" 2>&1 &
	echo $! >"$dir/pid"
	# Under a bridge a port that was down has lost its forwarding state.
	in_lab_net ip link set "p-$host" master wire up
}

# Start HOST as a set of namespaces.
start_netns()
{
	local host=$1 dir=$LAB_DIR/$1 index=${1#h}
	rm -f "$dir/agent.sock"
	touch "$dir/netns"
	unshare --net="$dir/netns" true
	in_lab_net ip link add "p-$host" type veth peer name "w-$host" \
		address "52:54:00:77:00:$(printf %02x "$index")"
	in_lab_net ip link set "p-$host" master wire up
	in_lab_net ip link set "w-$host" netns "$dir/netns"
	nsenter --net="$dir/netns" ip link set "w-$host" name wire0
	setsid nsenter --net="$dir/netns" \
		unshare --pid --mount --uts --ipc --fork --kill-child --mount-proc --propagation private \
		"$LAB_ROOT/scripts/lib/lab-host" "$dir" \
		</dev/null >>"$LAB_LOG/$host.log" 2>&1 &
	echo $! >"$dir/pid"
}

# Whether process $1 runs.
is_running()
{
	[[ -n $1 ]] && kill -0 "$1" 2>/dev/null && [[ $(ps -o stat= -p "$1") != Z* ]]
}

# End HOST at once, as if its plug had been pulled; returns when it is gone.
host_stop()
{
	local dir=$LAB_DIR/$1 pid children=() child
	pid=$(cat "$dir/pid" 2>/dev/null) || return 0
	[[ -e $dir/fsd ]] && children+=("$(cat "$dir/fsd")")
	if [[ $LAB_BACKEND == netns ]]; then
		read -r -a children <"/proc/$pid/task/$pid/children" || true
	fi 2>/dev/null
	kill -KILL "$pid" "${children[@]}" 2>/dev/null || true
	for child in "$pid" "${children[@]}"; do
		while is_running "$child"; do sleep 0.01; done
	done
	rm -f "$dir/pid" "$dir/fsd"
	if [[ $LAB_BACKEND == netns ]]; then
		# Other hosts' mount namespaces may still hold this one's network
		# namespace, so its wire has to be taken out.
		in_lab_net ip link del "p-$1"
		umount "$dir/netns"
	fi
}

# Whether HOST's agent answers within the boot limit. A host that printed
# nothing at all is given up early: now and then one hangs in its first moments.
host_await()
{
	local host=$1 waited=0 log_size=$2
	while ((waited < BOOT_LIMIT)); do
		if "$LAB_DIR/bin/on" --wait 2 -n "$host" true 2>/dev/null; then
			return 0
		fi
		is_running "$(cat "$LAB_DIR/$host/pid")" || return 1
		waited=$((waited + 2))
		if ((waited >= FIRST_OUTPUT_LIMIT && $(stat -c %s "$LAB_LOG/$host.log") == log_size)); then
			return 1
		fi
	done
	return 1
}

# Boot HOST, trying twice; returns when its agent answers.
host_start()
{
	local host=$1 attempt log_size
	if is_running "$(cat "$LAB_DIR/$host/pid" 2>/dev/null)"; then
		lab_message "$host is already on"
		return 1
	fi
	for attempt in 1 2; do
		touch "$LAB_LOG/$host.log"
		log_size=$(stat -c %s "$LAB_LOG/$host.log")
		start_"$LAB_BACKEND" "$host"
		if host_await "$host" "$log_size"; then
			[[ $LAB_BACKEND == netns ]] ||
				"$LAB_DIR/bin/on" -n "$host" date -u -s "@$EPOCHREALTIME" >/dev/null
			return 0
		fi
		lab_message "$host did not boot (attempt $attempt of 2); its last output:"
		tail -n 15 "$LAB_LOG/$host.log" "$LAB_LOG/$host".*.log >&2 || true
		host_stop "$host"
	done
	return 1
}

# qmp HOST COMMAND: run one QMP command (JSON), print its answer; fails if that is an error.
qmp()
{
	local answer
	coproc monitor { exec socat - "UNIX-CONNECT:$LAB_DIR/$1/qmp"; } 2>/dev/null
	# shellcheck disable=SC2154
	local in=${monitor[0]} out=${monitor[1]} pid=$monitor_PID
	printf '{"execute":"qmp_capabilities"}\n%s\n' "$2" >&"$out"
	local returns=0
	while ((returns < 2)) && read -r -t 10 answer <&"$in"; do
		[[ $answer == *'"return"'* || $answer == *'"error"'* ]] && returns=$((returns + 1))
	done
	# It has nothing to finish, and its handler of other signals may hang.
	kill -KILL "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
	echo "$answer"
	[[ $returns == 2 && $answer == *'"return"'* ]]
}

# wire_set HOST on|off LOUD: mend or cut; LOUD says whether the host sees its carrier go.
wire_set()
{
	local host=$1 position=$2
	case $position-$3-$LAB_BACKEND in
	on-*)
		in_lab_net ip link set "p-$host" master wire up
		[[ $LAB_BACKEND == netns ]] ||
			qmp "$host" '{"execute":"set_link","arguments":{"name":"wire","up":true}}' >/dev/null
		;;
	off-silent-*) in_lab_net ip link set "p-$host" nomaster ;;
	off-loud-netns) in_lab_net ip link set "p-$host" down ;;
	off-loud-tcg)
		qmp "$host" '{"execute":"set_link","arguments":{"name":"wire","up":false}}' >/dev/null
		;;
	esac
}
