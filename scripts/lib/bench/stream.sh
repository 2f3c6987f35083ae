# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2016,SC2153 # jq has its own variables, and options are set in scripts/bench
#
# stream.sh: scripts/bench stream: what the encoder makes of epochs, by workload, beside plain zstd
#
# bench-encode does the work, on one core and without a guest or a network: its variants take turns with each
# epoch. The pages of a workload are the same in each run; what comes of them nearly, as each process hashes
# pages with a secret of its own.

# Of bench-encode's figures of all runs: one object for each variant, with the median of its bytes, and its speeds as
# median, smallest and largest.
STREAM_FIGURES='
	def spread(f): map(f) | sort
		| {runs: length, p50: ((.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2), min: .[0], max: .[-1]};
	transpose[] | spread(.wire_bytes).p50 as $wire
	| {kind: "stream", source: $source, workload: .[0].workload, variant: .[0].variant, epochs: .[0].epochs,
	   pages: .[0].pages, raw_bytes: .[0].raw_bytes, wire_bytes: $wire,
	   ratio: (if $wire > 0 then .[0].raw_bytes / $wire else null end),
	   encode_mb_s: spread(.encode_mb_s), decode_mb_s: spread(.decode_mb_s)}'

# SOURCE NAME OPTION...: bench-encode with these, RUNS times.
stream_measure()
{
	local source=$1 name=$2 i line
	progress "stream: $name"
	rm -f "$DIR"/stream.*
	for ((i = 0; i < RUNS; i++)); do
		limited 900 "$BUILD/tests/bench/bench-encode" ${QUICK:+--quick} "${@:3}" --json "$DIR/stream.$i" >/dev/null ||
			fail "bench-encode failed with $name"
	done
	jq -cs --arg source "$source" "$STREAM_FIGURES" "$DIR"/stream.* >"$DIR/stream"
	while read -r line; do
		FIGURES+=("$line")
	done <"$DIR/stream"
}

# The directories of recorded epochs that --traces has, one a line.
stream_traces()
{
	local dir
	for dir in "$TRACES"/*/; do
		[[ -z $(compgen -G "$dir/checkpoint-*") ]] || echo "${dir%/}"
	done
}

bench_stream()
{
	local trace traces=()
	if [[ -n $TRACES ]]; then
		mapfile -t traces < <(stream_traces)
		[[ ${#traces[@]} -gt 0 ]] ||
			fail "--traces $TRACES: nothing in it has checkpoint-* files: scripts/record-traces makes such directories"
	fi
	stream_measure pattern patterns --ram 128 --epochs 10
	for trace in "${traces[@]}"; do
		stream_measure trace "${trace##*/}" --trace "$trace"
	done
	[[ -n $TRACES ]] || note "epochs recorded from real guests are left out: scripts/record-traces DIR, then stream --traces DIR"
}
