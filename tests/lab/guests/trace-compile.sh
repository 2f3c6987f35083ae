#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Service of the guest "compile" of record-traces: gcc's compiler and the assembler, over and over, with the files of
# /src, which the preprocessor has been through.
cc1=$(echo /usr/lib/gcc/x86_64-linux-gnu/*/cc1)
n=0
while :; do
	for source in /src/*.i; do
		$cc1 -fpreprocessed -quiet -O2 -g "$source" -o /tmp/out.s && as /tmp/out.s -o /tmp/out.o || exit
		n=$((n + 1))
		echo "trace: $n files compiled, the last one ${source##*/}"
	done
done
