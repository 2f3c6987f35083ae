#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables and plots of what scripts/bench has measured.

usage: report.py [--markdown [--images DIR] | --plots DIR] FIGURES.json

Prints the tables as text, or as Markdown; or writes the plots that the figures are enough for, as SVG.
Standard library only.
"""

import argparse
import json
import math
import os
import sys
from xml.sax.saxutils import escape

SYSTEMS = {
    "district": "District",
    "floor": "floor",
    "qemu-cut": "QEMU stop, state, compare",
    "qemu-migrate": "QEMU migration to a file",
}


# ---- Figures ----


def of_kind(figures, kind):
    return [f for f in figures if f.get("kind") == kind]


def ms(ns):
    return f"{ns / 1e6:.3f}" if ns is not None else "-"


def spread(distribution):
    """Median and p99 of a distribution in ns."""
    return [ms(distribution["p50"]), ms(distribution["p99"])]


def percent(value):
    return f"{value['p50']:.1f} ({value['min']:.1f} to {value['max']:.1f})"


def ratio(value, base):
    return f"{value / base:.1f}" if base else "-"


def table_pause(figures):
    floors = {f["dirty_mib"]: f["pause_ns"]["p50"] for f in figures if f["system"] == "floor"}
    rows = []
    for f in figures:
        floor = floors.get(f["dirty_mib"])
        whole = f.get("whole_ns") or f.get("commit_ns")
        rows.append([f["dirty_mib"], SYSTEMS[f["system"]], f["pause_ns"]["count"]] + spread(f["pause_ns"])
                    + [ratio(f["pause_ns"]["p50"], floor)] + spread(f["gap_ns"])
                    + [ms(whole["p50"]) if whole else "-"])
    return ["Pause per cut, ms, against MiB dirtied in an epoch",
            ["MiB", "system", "cuts", "median", "p99", "to the floor", "guest's median", "guest's p99",
             "to have it"], rows,
            "floor: kick, KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG, and memcpy of the residue, on the bare KVM "
            "API. Guest: the longest time in an epoch that it did not run, whoever stopped it. To have it: until the "
            "standby has committed, or all of the migration, median. Epochs of "
            f"{figures[0]['interval_ms']} ms."]


def table_epochs(figures):
    rows = []
    for f in figures:
        rows.append([f["interval_ms"], f"{f['epochs_per_s']:.1f}"] + spread(f["pause_ns"]) + spread(f["commit_ns"])
                    + [ms(f["lag_ns"]["p50"]), percent(f["slowdown_percent"]), percent(f["floor_slowdown_percent"])])
    return ["Epochs against the interval asked for",
            ["interval, ms", "epochs/s", "pause, ms", "p99", "commit, ms", "p99", "lag, ms", "slowdown, %", "floor, %"], rows,
            "Slowdown: time lost to a guest that writes 10 MiB/s of text and computes; median of pairs of windows "
            "(smallest to largest). Floor: the same on the bare KVM API, with its dirty log harvested and copied alone."]


def table_cpu(figures):
    names = sorted({n for f in figures for n in f["cpu_percent"]})
    rows = [[n] + [f"{f['cpu_percent'].get(n, 0):.1f}" for f in figures] for n in names]
    return ["CPU, % of one, of each process against the interval",
            ["process"] + [f"{f['interval_ms']} ms" for f in figures], rows,
            "vmm has the guest, which never rests, in it."]


VARIANTS = {
    "plain": "plain",
    "delta": "deltas",
    "delta+dup": "District",
    "zstd": "zstd",
    "zstd-long": "zstd, long",
}


def stream_name(f):
    return f["workload"] + (" (recorded)" if f["source"] == "trace" else "")


def by_workload(figures):
    """Workload -> variant -> figure, both in the order of the figures."""
    workloads = {}
    for f in figures:
        workloads.setdefault(stream_name(f), {})[f["variant"]] = f
    return workloads


def times(value):
    """A ratio of raw bytes to bytes on the wire."""
    if value is None:
        return "-"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3}f}"


def best_zstd(variants):
    ratios = [f["ratio"] for name, f in variants.items() if name.startswith("zstd") and f["ratio"]]
    return max(ratios, default=None)


def table_stream(figures):
    rows = []
    for name, variants in by_workload(figures).items():
        plain, ours = variants["plain"]["ratio"], variants["delta+dup"]["ratio"]
        zstd = best_zstd(variants)
        rows.append([name, variants["plain"]["epochs"], f"{variants['plain']['pages'] / variants['plain']['epochs']:.0f}"]
                    + [times(variants[v]["ratio"]) for v in VARIANTS]
                    + [times(ours / plain if ours and plain else None), times(ours / zstd if ours and zstd else None)])
    return ["Raw bytes of an epoch's pages for each byte on the wire, by workload",
            ["workload", "epochs", "pages/epoch"] + list(VARIANTS.values()) + ["District to plain", "District to zstd"],
            rows,
            "Plain: unchanged pages and zero pages left out, the rest through zstd, as in checkpoint files. Deltas: what a page "
            "was before, in a cache, is used too. District: and other pages with the same content; that is what is sent. Zstd: "
            "all pages as they are, through one zstd stream of the same level; long: with a window of 128 MiB (zstd --long). "
            "District to zstd: to the better one of these; below 1 we lose."]


def table_speed(figures, what, label):
    rows = [[name] + [spread_of(variants[v][what]) for v in VARIANTS] for name, variants in by_workload(figures).items()]
    return [label + ", MB/s of raw pages on one core, by workload", ["workload"] + list(VARIANTS.values()), rows,
            f"Median of {figures[0][what]['runs']} runs (smallest to largest)."]


def table_encode(figures):
    return table_speed(figures, "encode_mb_s", "Encoding")


def table_decode(figures):
    return table_speed(figures, "decode_mb_s", "Decoding")


def spread_of(value):
    return f"{value['p50']:.0f} ({value['min']:.0f} to {value['max']:.0f})"


def table_activate(figures):
    rows = [[f["ram_mib"], f["client_ns"]["count"]] + [ms(f[k][p]) for k in ("daemon_ns", "client_ns", "guest_ns")
                                                       for p in ("p50", "max")] for f in figures]
    return ["Activation at the standby, ms, against the size of RAM",
            ["MiB", "runs", "to running", "worst", "command", "worst", "guest seen", "worst"], rows,
            "To running: what districtd says, from the decision until the members run. Command: all of `district "
            "failover`. Guest seen: until the guest's next line has arrived, one each 5 ms."]


def table_many(figures):
    rows = []
    for f in figures:
        for part, cost in sorted(f["per_member"].items()):
            rows.append([f["shape"], f["guests"], f["interval_ms"], part] + spread(f["skew_ns"]) + spread(f["pause_ns"])
                        + [f"{cost['cpu_percent']:.2f}", f"{cost['wakeups_per_s']:.1f}",
                           f"{cost['memory_kib'] / 1024:.1f}"])
    return ["Districts x members: skew and pause, ms, and the cost of each member",
            ["shape", "guests", "interval, ms", "host", "skew", "p99", "pause", "p99", "CPU, %", "wake-ups/s",
             "MiB beside RAM"], rows,
            "Of many districts: the median of their medians and of their p99. The interval is what was asked for. Idle guests "
            "do nothing and are not cut; ticking ones take 500 interrupts a second."]


def table_guest(figures):
    rows = []
    for f in figures:
        wire = f["wire_ratio"]
        rows.append([f["workload"], f["speed"], percent(f["slowdown_percent"]), percent(f["floor_slowdown_percent"])]
                    + spread(f["pause_ns"])
                    + ["-" if wire is None else f"{wire:.3f}"])
    return ["Slowdown of the guest by workload",
            ["workload", "speed", "slowdown, %", "floor, %", "pause, ms", "p99", "wire/raw"], rows,
            "Paced: 64 pages each 25 ms, and the time lost to the rest; fast: writes only, as fast as it goes, and "
            f"rounds lost. Interval {figures[0]['interval_ms']} ms. wire/raw: bytes sent against dirty pages."]


TABLES = [("pause", table_pause), ("epochs", table_epochs), ("epochs", table_cpu), ("stream", table_stream),
          ("stream", table_encode), ("stream", table_decode), ("activate", table_activate),
          ("many", table_many), ("guest", table_guest)]


def tables(figures):
    return [make(of_kind(figures, kind)) for kind, make in TABLES if of_kind(figures, kind)]


def machine_line(m):
    quick = "; a quick run: these are no measurements" if m["quick"] else ""
    qemu = f", QEMU {m['qemu']}" if m["qemu"] else ""
    return (f"{m['cpus']} x {m['cpu']}, {m['memory_mib']} MiB, Linux {m['kernel']} ({m['kvm'] or 'kvm built in'}){qemu}, "
            f"commit {m['commit'] or 'unknown'}, {m['date']}, load {m['load']}{quick}")


def print_text(data):
    print("machine:", machine_line(data["machine"]))
    for title, head, rows, legend in tables(data["figures"]):
        cells = [[str(c) for c in row] for row in [head] + rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        print("\n" + title)
        for row in cells:
            print("  ".join(c.rjust(w) for c, w in zip(row, widths)))
        print(legend)
    for note in data["notes"]:
        print("note:", note)


def print_markdown(data, images):
    print("# Figures\n\nWritten by `scripts/bench --markdown`; what they mean is in [performance.md](performance.md).\n")
    print("Machine:", machine_line(data["machine"]) + ".")
    for name, (title, _) in plots(data["figures"]).items() if images else ():
        print(f"\n![{title}]({os.path.join(images, name + '.svg')})")
    for title, head, rows, legend in tables(data["figures"]):
        print(f"\n**{title}**\n")
        print("| " + " | ".join(head) + " |")
        print("|" + "|".join("---" for _ in head) + "|")
        for row in rows:
            print("| " + " | ".join(str(c) for c in row) + " |")
        print("\n" + legend)
    for note in data["notes"]:
        print(f"\n{note[0].upper()}{note[1:]}.")


# ---- Plots ----

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 210, 50, 60
COLOURS = ["#1b6ca8", "#d1495b", "#2e8b57", "#e08e0b", "#6a4c93"]


class Axis:
    """Values to pixels; logarithmic values must be above zero."""

    def __init__(self, values, low_px, high_px, log):
        self.log = log
        if log:
            self.low = math.floor(math.log10(min(values)))
            self.high = max(math.ceil(math.log10(max(values))), self.low + 1)
            self.ticks = [10.0 ** e for e in range(self.low, self.high + 1)]
        else:
            step = nice_step(max(max(values), 1e-9) - min(min(values), 0))
            self.low = math.floor(min(min(values), 0) / step) * step
            self.high = max(math.ceil(max(values) / step) * step, self.low + step)
            self.ticks = [self.low + i * step for i in range(round((self.high - self.low) / step) + 1)]
        self.low_px, self.high_px = low_px, high_px

    def place(self, value):
        at = math.log10(value) if self.log else value
        return self.low_px + (at - self.low) / (self.high - self.low) * (self.high_px - self.low_px)


def nice_step(span):
    magnitude = 10 ** math.floor(math.log10(span / 5))
    return next(magnitude * m for m in (1, 2, 5, 10) if magnitude * m * 5 >= span * 0.999)


def text(x, y, content, anchor="middle", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(content)}</text>'


def frame(title, y_label, y_axis):
    """The parts of any plot: title, grid and the upright axis."""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
             f'height="{HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             text(WIDTH / 2, 24, title, extra='font-size="15" font-weight="bold"'),
             text(18, (TOP + HEIGHT - BOTTOM) / 2, y_label,
                  extra=f'transform="rotate(-90 18 {(TOP + HEIGHT - BOTTOM) / 2})"')]
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(text(LEFT - 8, y + 4, f"{tick:g}", "end"))
    return parts


def legend(parts, names):
    for i, name in enumerate(names):
        y = TOP + 10 + i * 20
        parts.append(f'<rect x="{WIDTH - RIGHT + 14}" y="{y - 9}" width="12" height="12" '
                     f'fill="{COLOURS[i % len(COLOURS)]}"/>')
        parts.append(text(WIDTH - RIGHT + 32, y + 1, name, "start"))


def plot_lines(title, x_label, y_label, series, log_y):
    """series: name -> [(x, y)]. The x values are places in order, not distances: they double and more."""
    places = sorted({x for points in series.values() for x, _ in points})
    values = [y for points in series.values() for _, y in points if y > 0 or not log_y]
    y_axis = Axis(values, HEIGHT - BOTTOM, TOP, log_y)
    parts = frame(title, y_label, y_axis)
    step = (WIDTH - RIGHT - LEFT) / max(len(places), 1)
    at = {x: LEFT + (i + 0.5) * step for i, x in enumerate(places)}
    for x, px in at.items():
        parts.append(text(px, HEIGHT - BOTTOM + 20, f"{x:g}"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, x_label))
    for i, points in enumerate(series.values()):
        colour = COLOURS[i % len(COLOURS)]
        marks = [(at[x], y_axis.place(y)) for x, y in sorted(points) if y > 0 or not log_y]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in marks)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in marks]
    legend(parts, series)
    return "\n".join(parts + ["</svg>", ""])


def plot_bars(title, y_label, series, log_y=False):
    """series: name -> {place: y}. Bars stand on 0; on 1 if the axis is logarithmic."""
    places = list(dict.fromkeys(p for bars in series.values() for p in bars))
    base = 1 if log_y else 0
    y_axis = Axis([base] + [y for bars in series.values() for y in bars.values()], HEIGHT - BOTTOM, TOP, log_y)
    parts = frame(title, y_label, y_axis)
    step = (WIDTH - RIGHT - LEFT) / max(len(places), 1)
    width = step * 0.8 / len(series)
    for i, bars in enumerate(series.values()):
        for place, y in bars.items():
            x = LEFT + places.index(place) * step + step * 0.1 + i * width
            low, high = sorted((y_axis.place(base), y_axis.place(y)))
            parts.append(f'<rect x="{x:.1f}" y="{low:.1f}" width="{width:.1f}" height="{high - low:.1f}" '
                         f'fill="{COLOURS[i % len(COLOURS)]}"/>')
    for i, place in enumerate(places):
        x, y = LEFT + (i + 0.5) * step, HEIGHT - BOTTOM + 16
        parts.append(text(x, y, place, "end", f'transform="rotate(-25 {x:.1f} {y})"'))
    legend(parts, series)
    return "\n".join(parts + ["</svg>", ""])


def by_system(figures):
    series = {}
    for f in figures:
        series.setdefault(SYSTEMS[f["system"]], []).append((f["dirty_mib"], f["pause_ns"]["p50"] / 1e6))
    return series


def plots(figures):
    """Name -> (title, SVG) of what there are figures for."""
    made = {}

    def add(name, plot, title, *rest):
        made[name] = (title, plot(title, *rest))

    pause, epochs, stream = of_kind(figures, "pause"), of_kind(figures, "epochs"), of_kind(figures, "stream")
    guest, activate = of_kind(figures, "guest"), of_kind(figures, "activate")
    wire = {f["workload"]: f["wire_ratio"] for f in guest if f["speed"] == "paced" and f["wire_ratio"] is not None}
    if pause:
        add("pause", plot_lines, "Pause per cut, median", "MiB dirtied in an epoch", "ms", by_system(pause), True)
    if epochs:
        add("slowdown", plot_lines, "Slowdown of the guest", "interval between cuts, ms", "%", {
            "District": [(f["interval_ms"], f["slowdown_percent"]["p50"]) for f in epochs],
            "floor": [(f["interval_ms"], f["floor_slowdown_percent"]["p50"]) for f in epochs]}, False)
    if stream:
        add("stream", plot_bars, "Ratio by workload", "raw bytes for each byte on the wire", {
            label: {stream_name(f): f["ratio"] for f in stream if f["variant"] == variant and f["ratio"]}
            for variant, label in VARIANTS.items()}, True)
    if activate:
        add("activate", plot_lines, "Activation at the standby, median", "RAM, MiB", "ms", {
            "members run": [(f["ram_mib"], f["daemon_ns"]["p50"] / 1e6) for f in activate],
            "guest seen": [(f["ram_mib"], f["guest_ns"]["p50"] / 1e6) for f in activate]}, False)
    if guest:
        add("workloads", plot_bars, "Slowdown of the guest by workload", "%", {
            speed: {f["workload"]: f["slowdown_percent"]["p50"] for f in guest if f["speed"] == speed}
            for speed in ("paced", "fast") if any(f["speed"] == speed for f in guest)})
    if wire:
        add("ratio", plot_bars, "Bytes on the wire against raw dirty pages", "ratio", {"ratio": wire})
    return made


def main():
    parser = argparse.ArgumentParser(description="Tables and plots of scripts/bench.")
    parser.add_argument("--markdown", action="store_true", help="tables as Markdown")
    parser.add_argument("--images", metavar="DIR", help="where the plots are for who reads these")
    parser.add_argument("--plots", metavar="DIR", help="write plots there, and no tables")
    parser.add_argument("figures")
    options = parser.parse_args()
    with open(options.figures, encoding="utf-8") as file:
        data = json.load(file)
    if options.plots:
        os.makedirs(options.plots, exist_ok=True)
        for name, (_, svg) in plots(data["figures"]).items():
            with open(os.path.join(options.plots, name + ".svg"), "w", encoding="utf-8") as file:
                file.write(svg)
    elif options.markdown:
        print_markdown(data, options.images)
    else:
        print_text(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
