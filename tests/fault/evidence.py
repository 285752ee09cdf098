"""Everything that a run left, read once and ordered for the checks."""

import collections
import functools
import json
import pathlib

from . import content, history

INFINITE = float("inf")


def rows(directory, name):
    return list(history.lines(directory / "tables" / f"{name}.jsonl"))


class Evidence:
    """`directory` holds run.json, the histories, logs and tables/."""

    def __init__(self, directory):
        directory = pathlib.Path(directory)
        self.directory = directory
        self.run = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        self.calls, self.call_facts = history.read(directory / "producers.jsonl")
        self.checks, self.check_facts = history.read(directory / "checks.jsonl")
        self.faults, self.facts = history.read(directory / "nemesis.jsonl")
        _, self.samples = history.read(directory / "samples.jsonl")
        self.consumed = {}
        names = sorted({name for names in content.SUBSCRIPTIONS.values() for name in names})
        for name in names:
            self.consumed[name], _ = history.read(directory / f"{name}.jsonl")
        self._tables()
        clocks = [f["wall"] - f["t"] for f in self.facts if f["f"] == "clock"]
        self.offset = sum(clocks) / len(clocks) if clocks else 0.0
        self.by_tx = collections.defaultdict(list)
        for op in self.calls:
            self.by_tx[op.a["tx"]].append(op)

    def _tables(self):
        self.messages = collections.defaultdict(dict)
        for row in rows(self.directory, "message"):
            self.messages[row["tx"]][row["n"]] = row
        self.headers = {tx: found[0] for tx, found in self.messages.items() if 0 in found}
        self.decisions = {row["tx"]: row for row in rows(self.directory, "decision")}
        self.log = collections.defaultdict(list)
        for row in rows(self.directory, "lane_log"):
            self.log[row["lane"]].append(row)
        for entries in self.log.values():
            entries.sort(key=lambda row: row["seq"])
        self.subscriptions = {row["id"]: row for row in rows(self.directory, "subscription")}
        self.check_due = {row["tx"]: row for row in rows(self.directory, "check_due")}
        self.delivery_due = rows(self.directory, "delivery_due")
        self.dead = {(self.name_of(row["sub"]), row["tx"], row["n"]): row for row in rows(self.directory, "dead_letter")}
        self.told = rows(self.directory, "told")
        self.attempts = collections.defaultdict(list)
        for row in rows(self.directory, "attempt"):
            self.attempts[self.name_of(row["sub"]), row["tx"], row["n"], row["attempt"]].append(row)

    @functools.cached_property
    def stalls(self):
        """When the peers were late themselves, as (begin, end)."""
        return [(f["t"] - f["seconds"], f["t"]) for f in self.check_facts if f["f"] == "stalled"]

    def stalled(self, begin, end):
        return any(a <= end and b >= begin for a, b in self.stalls)

    def stalled_long(self, begin, end):
        """So long that the breakers of its senders may have opened."""
        return any(a <= end and b >= begin and b - a > content.SINK_TIMEOUT / 2 for a, b in self.stalls)

    def name_of(self, sub):
        return self.subscriptions[sub]["name"]

    def mono(self, wall):
        """A time of the database on the histories' clock."""
        return wall - self.offset

    def fact(self, name):
        """When something happened, or infinity."""
        return next((f["t"] for f in self.facts if f["f"] == name), INFINITE)

    def own(self, tx):
        """Published by the service itself: nobody called for it."""
        return tx in self.headers and self.headers[tx]["producer"] == content.OWN

    def stored(self, tx):
        """The stored content: [(topic, digest), ...]; empty for a tombstone or nothing."""
        found = self.messages.get(tx, {})
        return [(found[n]["topic"], found[n]["sha"][:24]) for n in sorted(found) if found[n]["total"] > 0]

    def sent(self, op):
        """The content of a Prepare or Publish, in the same form."""
        return sent(op.a["tx"], op.a["v"], tuple(map(tuple, op.a["messages"])))

    def confirmed(self, tx):
        return self.decisions.get(tx, {}).get("verdict") == 1

    @functools.cached_property
    def known_since(self):
        """When decisions were surely committed, on the histories' clock: when the next entry of their lane began, which its owner
        starts only after the commit."""
        since = {}
        for entries in self.log.values():
            for entry, following in zip(entries, entries[1:]):
                if entry["kind"] == following["kind"] == "D":
                    since[entry["lane"], entry["seq"]] = self.mono(following["at"])
        return {tx: since.get((d["lane"], d["seq"]), INFINITE) for tx, d in self.decisions.items()}

    @functools.cached_property
    def expected(self):
        """What each subscription must get: {subscription: {"tx.n": digest}}."""
        found = {name: {} for name in self.consumed}
        for tx, messages in self.messages.items():
            if self.confirmed(tx):
                for n, row in messages.items():
                    for name in content.SUBSCRIPTIONS.get(row["topic"], ()):
                        found[name][f"{tx}.{n}"] = row["sha"][:24]
        return found


@functools.lru_cache(maxsize=1 << 16)
def sent(tx, variant, messages):
    t = content.Transaction(tx, "", "", messages)
    return [(topic, sha) for (topic, _), sha in zip(messages, t.digests(variant))]
