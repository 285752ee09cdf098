"""One run of a load tool, what the machine paid for it, and what was seen meanwhile."""

import json
import os
import subprocess
import tempfile
import threading
import time

from servers.process import ServerError
from servers.txmsgd import clean_environment

from bench.kernel import TICK
from bench.place import say

FOREVER = 86400
LOADED_MIB = 256 # of txmsgd, at most, whatever the load


def value(found, goal, at_most=False):
    """Something that was found, and what it is to be at least, or at most."""
    return {"value": found, "goal": goal, "at_most": at_most}


def between(a, b, per_second):
    """The counted differences per message. The moments of counting and of the tool's own clock differ by some ms, so
    both sides are rates."""
    messages = per_second * (b["time"] - a["time"])
    if not messages:
        raise ServerError("no message was measured")
    cpu = {who: (b["ticks"][who] - a["ticks"][who]) / TICK * 1e6 / messages for who in a["ticks"]}
    machine = b["busy"] - a["busy"] + b["idle"] - a["idle"]
    return {"cpu_us": {who: round(us, 2) for who, us in cpu.items()},
            "idle_percent": round(100 * (b["idle"] - a["idle"]) / max(machine, 1), 1),
            "wal_bytes": round((b["wal"] - a["wal"]) / messages, 1)}


class Load:
    """A tool that says "measuring" and "measured" and ends with a line of JSON. It runs beside the caller."""

    def __init__(self, command, snapshot):
        self.command = [os.fspath(a) for a in command]
        self.snapshot = snapshot
        self.moments, self.report = [], None
        self.measuring = threading.Event() # also set when it ends before
        self.errors = tempfile.TemporaryFile()
        self.tool = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                     env=clean_environment())
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for line in self.tool.stdout:
                if line.startswith("measur"):
                    self.moments.append(self.snapshot(self.tool.pid))
                    self.measuring.set()
                elif line.startswith("{"):
                    self.report = json.loads(line)
        finally:
            self.measuring.set()

    def running(self):
        return self.tool.poll() is None

    def check_alive(self):
        if not self.running():
            raise ServerError(f"the load tool ended early with {self.tool.returncode}: {self.error_text()}")

    def error_text(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace").strip()

    def wait_measuring(self):
        self.measuring.wait()
        if not self.moments:
            self.thread.join()
            raise ServerError(f"the load tool ended early: {self.error_text()}")

    def stop(self):
        """Before its time; messages under way are ended first."""
        self.tool.terminate()
        return self.finish()

    def finish(self):
        """Its report, with what one message has cost."""
        self.thread.join()
        code = self.tool.wait()
        text = self.error_text()
        self.errors.close()
        if not self.report or len(self.moments) != 2:
            raise ServerError(f"{self.command[0]} ended with {code}: {text}")
        if text:
            say(f"{' '.join(self.command[1:])}: {text}")
        return {**self.report, **between(*self.moments, self.report["per_second"])}


def load(service, arguments, seconds=None, warmup=None, tool="txmsg-bench"):
    """A load tool against a service."""
    options = service.place.options
    seconds = options.seconds if seconds is None else seconds
    warmup = options.warmup if warmup is None else warmup
    return Load([options.build / "tests/bench" / tool, f"--server={service.target}", f"--seconds={seconds:g}",
                 f"--warmup={warmup:g}", "--json", "--phases", *arguments], service.snapshot)


def run(service, arguments, settle=True, **timing):
    """One run from begin to end: just after a checkpoint, so that none is hit by one that time or volume starts, and until
    all of it is done."""
    service.place.postgres.psql("CHECKPOINT")
    commits = [service.metric(f"txmsg_group_commit_size_{part}") for part in ("sum", "count")]
    result = load(service, arguments, **timing).finish()
    service.book(result["total"], result["errors"])
    result["server_mib"] = round(service.resident(), 1)
    if settle:
        settled, delivered = service.settle()
        result["settled_after_ms"], result["delivered_after_ms"] = round(settled * 1e3), round(delivered * 1e3)
    total, count = [service.metric(f"txmsg_group_commit_size_{part}") for part in ("sum", "count")]
    result["operations_per_commit"] = round((total - commits[0]) / max(count - commits[1], 1), 1)
    return result


class Sampler:
    """Calls functions again and again on a thread of its own: rows of {"time": .., name: value, ..}."""

    def __init__(self, every=1.0, **functions):
        self.every, self.functions = every, functions
        self.rows, self.error = [], None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            while not self.ended.is_set():
                self.take()
                self.ended.wait(self.every)
        except (ServerError, OSError, ValueError) as error:
            self.error = error

    def take(self):
        row = {"time": time.monotonic()}
        self.rows.append({**row, **{name: f() for name, f in self.functions.items()}})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        if self.error:
            raise self.error

    def at(self, name, moment):
        """Its value at a moment, on the line between the samples around it."""
        before = max((r for r in self.rows if r["time"] <= moment), key=lambda r: r["time"], default=self.rows[0])
        after = min((r for r in self.rows if r["time"] >= moment), key=lambda r: r["time"], default=self.rows[-1])
        if after["time"] <= before["time"]:
            return before[name]
        share = (moment - before["time"]) / (after["time"] - before["time"])
        return before[name] + share * (after[name] - before[name])

    def rate(self, name, begin, end):
        return (self.at(name, end) - self.at(name, begin)) / max(end - begin, 1e-9)

    def values(self, name, begin=0.0, end=float("inf")):
        return [r[name] for r in self.rows if begin <= r["time"] <= end]
