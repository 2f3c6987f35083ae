#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Service of the guest "ledger": counts in memory and writes each number to a file on its first disk,
# synced, before it prints it. When the file does not end with the number that memory has, or has a
# gap, it says "ledger: broken". "ledger: boot" is printed once for each boot.
DISK=/dev/vda
FILE=/data/ledger

mkdir -p /data
if ! grep -q " /data " /proc/mounts; then
	mount -t ext4 $DISK /data 2>/dev/null || mount -t ext2 $DISK /data 2>/dev/null ||
		{ mke2fs -F $DISK >/dev/null 2>&1 && mount -t ext2 $DISK /data; } || exit 1
fi
n=$(tail -n 1 $FILE 2>/dev/null)
n=${n:-0}
echo "ledger: boot at $n"
while :; do
	last=$(tail -n 1 $FILE 2>/dev/null)
	lines=$(wc -l <$FILE 2>/dev/null || echo 0)
	if [ "${last:-0}" != "$n" ] || [ "$lines" != "$n" ]; then
		echo "ledger: broken: memory has $n, the file ends with $last after $lines lines"
		exit 1
	fi
	n=$((n + 1))
	echo "$n" >>$FILE
	sync
	# What the page cache has is not what the disk has.
	echo 3 >/proc/sys/vm/drop_caches
	echo "ledger: $n"
	usleep 100000
done
