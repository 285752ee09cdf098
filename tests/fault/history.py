"""Append-only histories: one JSON object a line, with the machine's monotonic time, which all processes share.

An operation has two lines: `invoke` before it begins, with an `op` of its own, and `ok`, `fail` (surely nothing happened) or
`info` (nobody knows) after it. An invoke without an end is the same as `info`. Facts that are no operations have one line."""

import itertools
import json
import pathlib
import threading
import time


class Recorder:
    """Writes one history file. Any thread. Lines reach the file when flushed, by `flush` or every second at the latest
    while lines come."""

    def __init__(self, directory, name):
        self.name = name
        self.path = pathlib.Path(directory) / f"{name}.jsonl"
        self.file = open(self.path, "a", encoding="utf-8")
        self.lock = threading.Lock()
        self.serial = itertools.count(1)
        self.flushed = time.monotonic()

    def _write(self, event):
        line = json.dumps(event, separators=(",", ":")) + "\n"
        with self.lock:
            self.file.write(line)
            if event["t"] - self.flushed > 1:
                self.flushed = event["t"]
                self.file.flush()

    def invoke(self, f, **fields):
        """The beginning of an operation; answers its number for `end`."""
        op = next(self.serial)
        self._write({"t": time.monotonic(), "e": "invoke", "op": op, "f": f, **fields})
        return op

    def end(self, op, how, **fields):
        self._write({"t": time.monotonic(), "e": how, "op": op, **fields})

    def fact(self, f, **fields):
        self._write({"t": time.monotonic(), "e": "fact", "f": f, **fields})

    def flush(self):
        with self.lock:
            self.file.flush()

    def close(self):
        with self.lock:
            self.file.close()


class Op:
    """An operation as it is read back: `f` and the fields of its invoke, `how` it ended, and the fields of its end."""

    __slots__ = ("f", "start", "end", "how", "a", "r")

    def __init__(self, f, start, arguments, how="info", end=None, result=None):
        self.f, self.start, self.a = f, start, arguments
        self.how, self.end, self.r = how, float("inf") if end is None else end, result or {}

    def __repr__(self):
        return f"{self.f} {self.a} at {self.start:.3f}: {self.how} {self.r} at {self.end:.3f}"


def lines(path):
    """The events of one file. A last line that was cut off, by a full disk or a kill, is left out."""
    with open(path, encoding="utf-8") as file:
        for text in file:
            if text.endswith("\n"):
                yield json.loads(text)


def read(path):
    """(operations in the order of their invokes, facts) of one history; nothing if there is no such file."""
    ops, facts = {}, []
    if not pathlib.Path(path).exists():
        return [], []
    for event in lines(path):
        t, kind, op = event.pop("t"), event.pop("e"), event.pop("op", None)
        if kind == "invoke":
            ops[op] = Op(event.pop("f"), t, event)
        elif kind == "fact":
            facts.append({"t": t, **event})
        elif op in ops and ops[op].end == float("inf"):
            ops[op].how, ops[op].end, ops[op].r = kind, t, event
        else:
            raise ValueError(f"{path}: the end of operation {op}, which did not begin or ended before")
    return list(ops.values()), facts
