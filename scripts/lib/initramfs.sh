# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# initramfs.sh: making an initramfs for a stock Debian kernel out of busybox
# and a few kernel modules.  Sourced by scripts/lab and scripts/mkguest.
#
# A tree under construction is an ordinary directory.  Modules are kept flat in
# its /lib/modules, and /lib/modules/order lists them in the order in which
# insmod takes them, so that no modules.dep is needed at boot.

# Print "PROGRAM: MESSAGE" as an error and exit.
die()
{
	echo "${0##*/}: $*" >&2
	exit 1
}

# Where built images and downloaded packages are kept between runs.
cache_dir()
{
	echo "${DISTRICT_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/district}"
}

# Print the newest stock cloud kernel.
default_kernel()
{
	local kernels
	mapfile -t kernels < <(printf '%s\n' /boot/vmlinuz-*-cloud-amd64 | sort -V)
	[[ -e ${kernels[-1]} ]] ||
		die "no kernel /boot/vmlinuz-*-cloud-amd64: give another by --kernel, or run scripts/install-deps, but not on a host of districts"
	echo "${kernels[-1]}"
}

# Print the version of kernel image $1, whose modules must be installed.
kernel_version()
{
	local version=${1##*/vmlinuz-}
	[[ -r $1 ]] || die "kernel $1 cannot be read: give another by --kernel"
	[[ -d /lib/modules/$version ]] ||
		die "kernel $1 has no modules in /lib/modules/$version: install the package it came from"
	echo "$version"
}

# initramfs_busybox TREE APPLET...: static busybox and links for its applets.
initramfs_busybox()
{
	local tree=$1 applet busybox=${BUSYBOX:-/bin/busybox}
	shift
	[[ -x $busybox ]] || die "no $busybox: run scripts/install-deps (package busybox-static)"
	mkdir -p "$tree/bin"
	cp "$busybox" "$tree/bin/busybox"
	for applet in "$@"; do
		[[ -e $tree/bin/$applet ]] || ln -s busybox "$tree/bin/$applet"
	done
}

# initramfs_modules TREE VERSION NAME...: modules and all they depend on.
initramfs_modules()
{
	local tree=$1 version=$2 name kind path listing file
	shift 2
	mkdir -p "$tree/lib/modules"
	touch "$tree/lib/modules/order"
	for name in "$@"; do
		listing=$(/sbin/modprobe -S "$version" --show-depends "$name" 2>/dev/null) ||
			die "kernel $version has no module '$name': check its name with modinfo"
		while read -r kind path _; do
			[[ $kind == insmod ]] || continue
			file=${path##*/}
			file=${file%%.ko*}.ko
			[[ -e $tree/lib/modules/$file ]] && continue
			case $path in
			*.ko) cp "$path" "$tree/lib/modules/$file" ;;
			*.ko.xz) xz -dc "$path" >"$tree/lib/modules/$file" ;;
			*.ko.zst) zstd -qdc "$path" >"$tree/lib/modules/$file" ;;
			*) die "module $path: compression not known" ;;
			esac
			echo "$file" >>"$tree/lib/modules/order"
		done <<<"$listing"
	done
}

# initramfs_pack TREE OUT: write the tree as an uncompressed newc archive, whole or not at all.
initramfs_pack()
{
	local tree=$1 out=$2
	(cd "$tree" && find . -print0 | LC_ALL=C sort -z |
		cpio --null --create --format=newc --owner=0:0 --reproducible --quiet) >"$out.tmp.$$" ||
		die "cannot write $out"
	mv "$out.tmp.$$" "$out"
}
