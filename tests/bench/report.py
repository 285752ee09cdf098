"""From runs to the table: medians, goals, ratios."""

import json
import os
import pathlib
import platform
import re
import statistics
import subprocess

from bench.figures import CPU, FIGURES, GOALS, RATIOS, SLOWEST_SECOND
from bench.place import SETTINGS

PERCENTILES = ["p50", "p90", "p99", "p99.9", "max", "mean"]


def middle(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarise(name, runs):
    figure = {"what": FIGURES[name][1], "per_second": middle([r["per_second"] for r in runs])}
    for key in ("latency_ms", "cpu_us"):
        if key in runs[0]:
            figure[key] = {k: statistics.median(r[key][k] for r in runs) for k in runs[0][key]}
    for key in ("idle_percent", "wal_bytes", "operations_per_commit", "server_mib"):
        if key in runs[0]:
            figure[key] = statistics.median(r[key] for r in runs)
    if "values" in runs[0]:
        figure["values"] = {k: {**middle([r["values"][k]["value"] for r in runs]), "goal": v["goal"],
                                "at_most": v["at_most"]} for k, v in runs[0]["values"].items()}
    return {**figure, "runs": runs}


def compare(figures):
    """The goals, as far as this run can say: `goal` and how much of it was reached, `reached` (1 is all of it)."""
    for name, figure in figures.items():
        if name in GOALS:
            figure["goal"] = GOALS[name]
            figure["reached"] = round(figure["per_second"]["median"] / GOALS[name], 3)
        if name in RATIOS:
            base, goal = RATIOS[name]
            pairs = list(zip(figure["runs"], figures[base]["runs"]))
            figure["ratio"] = {"to": base, **middle([round(a["per_second"] / b["per_second"], 3) for a, b in pairs])}
            figure["goal"], figure["reached"] = goal, round(figure["ratio"]["median"] / goal, 3)
        if name in SLOWEST_SECOND and all("slowest_second" in a for a, _ in pairs):
            figure["slowest_second"] = {"goal": SLOWEST_SECOND[name], **middle(
                [round(a["slowest_second"] / b["per_second"], 3) for a, b in pairs])}
        for goal, (process, most) in CPU.get(name, {}).items():
            figure[goal] = {"value": figure["cpu_us"][process], "goal": most}


def number(figure, key, digits=0):
    return f"{figure[key]:.{digits}f}" if key in figure else "-"


def goal_cells(figure):
    if "ratio" in figure:
        return [f"{figure['goal']:g} x", f"{figure['ratio']['median']:.2f} x"]
    if "goal" in figure:
        return [f"{figure['goal']}", f"{figure['reached']:.0%}"]
    ratio = figure.get("values", {}).get("ratio")
    return [f"{ratio['goal']:g} x", f"{ratio['median']:.2f} x"] if ratio else ["-", "-"]


def row_of(name, f):
    rate, cpu, latency = f["per_second"], f.get("cpu_us", {}), f.get("latency_ms", {})
    served_by = f["runs"][0].get("server", "txmsgd")
    us = [cpu.get("client"), cpu.get(served_by), None if served_by == "echo" else cpu.get("postgres"), cpu.get("rest")]
    return [name, f"{rate['median']:.0f}", f"({rate['min']:.0f} - {rate['max']:.0f})",
            *(f"{latency[p]:.2f}" if p in latency else "-" for p in ("p50", "p99", "max")),
            *("-" if c is None else f"{c:.1f}" for c in us), number(f, "idle_percent"), number(f, "wal_bytes"),
            number(f, "operations_per_commit"), number(f, "server_mib"), *goal_cells(f)]


def print_columns(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))))


def table(figures):
    columns = ["figure", "messages/s", "(min - max)", "p50 ms", "p99 ms", "max ms", "client us", "server us",
               "postgres us", "rest us", "idle %", "WAL B", "ops/commit", "MiB", "goal", "reached"]
    print_columns([columns, *(row_of(name, f) for name, f in figures.items())])


def remarks(figures):
    """What the table has no column for."""
    for name, f in figures.items():
        if "ratio" in f:
            yield (f"{name}: {f['ratio']['median']:.2f} ({f['ratio']['min']:.2f} - {f['ratio']['max']:.2f}) of "
                   f"{f['ratio']['to']}, goal {f['goal']}")
        if "slowest_second" in f:
            yield (f"{name}: the slowest second of a run {f['slowest_second']['min']:.2f} of it, "
                   f"goal {f['slowest_second']['goal']}")
        for goal in CPU.get(name, {}):
            yield f"{name}: {goal} {f[goal]['value']:.1f}, goal at most {f[goal]['goal']}"
        for key, v in f.get("values", {}).items():
            missed = v["median"] > v["goal"] if v["at_most"] else v["median"] < v["goal"]
            spread = f" ({v['min']:g} - {v['max']:g})" if v["min"] != v["max"] else ""
            yield (f"{name}: {key} {v['median']:g}{spread}, goal {'at most ' if v['at_most'] else ''}{v['goal']:g}"
                   f"{', MISSED' if missed else ''}")


def machine(place):
    """What the figures were measured on, and with."""
    options = place.options
    model = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    version = subprocess.run([options.build / "services/txmsgd/txmsgd", "--version"], capture_output=True, text=True,
                             check=False).stdout.strip()
    chosen = json.loads((options.build / "meson-info/intro-buildoptions.json").read_text(encoding="utf-8"))
    buildtype = next(o["value"] for o in chosen if o["name"] == "buildtype")
    return {"cpu": model[1] if model else platform.machine(), "cores": os.cpu_count(), "kernel": platform.release(),
            "fdatasync_ms": round(place.sync_ms, 3), "postgres": place.session.ask("SHOW server_version"),
            "postgres_settings": {**SETTINGS, **options.pg}, "txmsgd": version, "buildtype": buildtype,
            "txmsgd_options": options.set, "seconds": options.seconds, "runs": options.runs, "size": 1024,
            "scale": {name: getattr(options, name) for name in
                      ("minutes", "width", "history", "backlog", "recover", "phase", "rate")}}
