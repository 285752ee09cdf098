"""What a user would pick instead, measured beside txmsg: run --peers. Their programs are fetched and built by their own tools
(Go, Maven) into a directory outside of the tree, and only where those tools are there. Nothing of them is in the project."""

import os
import pathlib
import statistics
import time

from bench import kernel
from bench.loads import Load
from bench.place import say
from bench.peers.dtm import Dtm
from bench.peers.rocketmq import RocketMQ

KINDS = {"dtm": Dtm, "rocketmq": RocketMQ}
# Callers of a peer beside a figure. Where there are several, the best one counts.
CALLERS = {"unary_1": [1], "unary_32": [32], "unary_256": [128, 256], "pipeline_32": [32], "pipeline_256": [128, 256],
           "pipeline_1024": [128, 256]}
FIGURES = ["unary_1", "unary_32", "unary_256"]
GOALS = {"unary_1": {"rocketmq": 1, "dtm": 2.5}, "unary_32": {"rocketmq": 1.1, "dtm": 12},
         "unary_256": {"rocketmq": 1.3, "dtm": 20}, "pipeline_32": {"rocketmq": 2.2}, "pipeline_256": {"rocketmq": 4},
         "pipeline_1024": {"rocketmq": 4}}


def cache():
    """Where programs of others are kept: TXMSG_PEERS, or the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("TXMSG_PEERS") or pathlib.Path(home) / "txmsg-peers")


def wanted(names):
    """Of `a,b` or `all`, those that can be had here."""
    if not names:
        return []
    chosen = list(KINDS) if names == "all" else names.split(",")
    for name in chosen:
        if name not in KINDS:
            raise SystemExit(f"no such peer: {name}; there are {', '.join(KINDS)}")
        if KINDS[name].missing():
            say(f"{name} is left out: {KINDS[name].missing()} is not there")
    return [name for name in chosen if not KINDS[name].missing()]


class Peers:
    """The peers that were asked for, running, and what they did."""

    def __init__(self, place):
        self.place, self.running, self.runs = place, {}, {}
        for name in place.options.peers:
            directory = cache() / name
            directory.mkdir(parents=True, exist_ok=True)
            say(f"{name}: its programs are in {directory}")
            peer = self.running[name] = KINDS[name](place, directory)
            place.closing.append(peer.close)
            peer.start()

    def snapshot(self, peer):
        """As Service.snapshot(), of a peer."""
        place = self.place

        def take(client=0):
            ticks = {"client": kernel.process_ticks(client)[0],
                     "server": sum(kernel.process_ticks(pid)[0] for pid in peer.pids()),
                     "postgres": kernel.tree_ticks(place.postgres.process.pid)}
            busy, idle = kernel.machine_ticks()
            ticks["rest"] = busy - sum(ticks.values())
            return {"time": time.monotonic(), "ticks": ticks, "busy": busy, "idle": idle, "wal": 0}
        return take

    def beside(self, figure, number):
        """One run of each peer with the callers of this figure; what this round has measured is not measured again."""
        for name, peer in self.running.items():
            for callers in CALLERS.get(figure, []):
                runs = self.runs.setdefault((name, callers), {})
                if number in runs:
                    continue
                peer.prepare()
                runs[number] = Load(peer.command(callers), self.snapshot(peer)).finish()
                peer.rest()
                say(f"run {number} {name}, {callers} callers: {runs[number]['per_second']:.0f} messages/s, "
                    f"p50 {runs[number]['latency_ms']['p50']:.2f} ms, CPU per message {runs[number]['cpu_us']} us")

    def compare(self, figures):
        """For each figure and peer: its medians by callers, the best, and the ratio to it, round by round."""
        found = {}
        for figure in figures:
            for name in self.running if figure in CALLERS else ():
                by = {c: list(self.runs[name, c].values()) for c in CALLERS[figure]}
                best = max(by, key=lambda c: statistics.median(r["per_second"] for r in by[c]))
                pairs = zip(figures[figure]["runs"], by[best])
                ratios = [round(ours["per_second"] / theirs["per_second"], 3) for ours, theirs in pairs]
                found.setdefault(figure, {})[name] = {
                    "callers": best, "per_second": statistics.median(r["per_second"] for r in by[best]),
                    "min": min(r["per_second"] for r in by[best]), "max": max(r["per_second"] for r in by[best]),
                    "p50_ms": statistics.median(r["latency_ms"]["p50"] for r in by[best]),
                    "cpu_us": {k: statistics.median(r["cpu_us"][k] for r in by[best]) for k in by[best][0]["cpu_us"]},
                    "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
                    "goal": GOALS.get(figure, {}).get(name), "runs": by}
        return found


def lines(compared):
    """The ratios, as text."""
    for figure, others in compared.items():
        for name, o in others.items():
            goal = f", goal {o['goal']:g}{', MISSED' if o['ratio'] < o['goal'] else ''}" if o["goal"] else ""
            cpu = " + ".join(f"{o['cpu_us'][who]:.0f}" for who in ("client", "server", "postgres"))
            yield (f"{figure}: {o['ratio']:.2f} x {name} ({o['ratio_min']:.2f} - {o['ratio_max']:.2f}){goal}; it did "
                   f"{o['per_second']:.0f} messages/s ({o['min']:.0f} - {o['max']:.0f}) with {o['callers']} callers, p50 "
                   f"{o['p50_ms']:.2f} ms, CPU {cpu} us a message (client, server, PostgreSQL)")
