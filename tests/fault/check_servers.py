"""The servers themselves: invariants 11 and 12. Nobody dies by himself, everything stays within its bounds and comes back."""

import re

MEGABYTES, THREADS = 600, 64
CONNECTIONS = 7 + 16 # of one replica: a worker's five, two of the main thread, and one for each adopted lane
BAD_LINES = re.compile(r"AddressSanitizer|ThreadSanitizer|LeakSanitizer|runtime error:|assertion failed|level=fatal|"
                       r"Segmentation fault", re.I)


def check(e):
    for fact in e.facts:
        if fact["f"] == "broken":
            yield 12, f"does not come back: {fact}"
        elif fact["f"] == "unrest":
            yield 12, f"not in time: {fact['what']}; left: {fact['left']}"
        elif fact["f"] == "died":
            yield 1, f"a replica ended by itself: {fact}"
        elif fact["f"] == "stopped" and fact["code"] != 0:
            yield 12, f"a replica did not stop well: {fact}"
    for fact in e.check_facts:
        if fact["f"] == "broken":
            yield 12, f"a peer broke: {fact}"
    for op in e.faults:
        if op.f == "terminate" and op.r.get("code") != 0:
            yield 12, f"a replica did not stop well: {op}"
        if op.end == float("inf"):
            yield 12, f"a fault that never ended: {op}"
    for log in sorted(e.directory.glob("replica*.log")):
        for number, line in enumerate(log.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if BAD_LINES.search(line):
                yield 1, f"{log.name}:{number}: {line[:300]}"
    yield from check_bounds(e)


def check_bounds(e):
    limit = 2 * CONNECTIONS * e.run["replicas"] + 10 # those of the dead end when the database notices
    for fact in e.samples:
        if fact["f"] == "connections" and fact["n"] > limit:
            yield 11, f"{fact['n']} connections of {e.run['replicas']} replicas"
        elif fact["f"] == "sample" and not e.run["sanitized"] and fact["rss"] > MEGABYTES:
            yield 11, f"{fact['who']} uses {fact['rss']} MB"
        elif fact["f"] == "sample" and fact["threads"] > THREADS:
            yield 11, f"{fact['who']} has {fact['threads']} threads"
