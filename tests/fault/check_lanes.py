"""The log against the tables: invariants 5 and 7. Every id is listed once and where it was decided, nothing follows a seal, and
the counters are the counts."""

import collections

from . import content


def check(e):
    for lane, entries in e.log.items():
        yield from check_order(lane, entries)
        yield from check_cursors(lane, entries)
    yield from check_ids(e)
    yield from check_counters(e)
    yield from check_conservation(e)


def check_order(lane, entries):
    if [row["seq"] for row in entries] != list(range(1, len(entries) + 1)):
        yield 7, f"lane {lane}: the log has gaps"
    sealed = False
    for row in entries:
        where = f"lane {lane} entry {row['seq']}"
        if row["kind"] == "S":
            sealed = True
        elif sealed and row["kind"] == "D":
            yield 7, f"{where}: data behind a seal"
        elif not sealed and row["kind"] == "P":
            yield 7, f"{where}: progress of an adopter before any seal"
        if row["kind"] != "D" and (row["prep"] or row["conf"]):
            yield 7, f"{where}: ids in an entry of kind {row['kind']}"


def check_cursors(lane, entries):
    stands = {}
    for row in entries:
        for target, seq, index in triples(row["prog"]):
            if (seq, index) < stands.get(target, (0, 0)):
                yield 7, f"lane {lane} entry {row['seq']}: cursor {target} goes back from {stands[target]} to {(seq, index)}"
            stands[target] = (seq, index)


def triples(prog):
    return zip(*[iter(prog or ())] * 3)


def check_ids(e):
    prepared, confirmed = {}, {}
    for row in (row for entries in e.log.values() for row in entries):
        for ids, seen, what in ((row["prep"], prepared, "prepared"), (row["conf"], confirmed, "confirmed")):
            for tx in ids or ():
                if tx in seen:
                    yield 3, f"{tx}: {what} by two entries of the log"
                seen[tx] = row
    for tx, row in prepared.items():
        header = e.headers.get(tx)
        if header is None or header["total"] == 0 or header["at"] != row["at"]:
            yield 1, f"{tx}: prepared in lane {row['lane']} entry {row['seq']}, stored is {header}"
    for tx, row in confirmed.items():
        decision = e.decisions.get(tx)
        if not decision or (decision["verdict"], decision["lane"], decision["seq"]) != (1, row["lane"], row["seq"]):
            yield 3, f"{tx}: confirmed in lane {row['lane']} entry {row['seq']}, stored is {decision}"
    for tx, decision in e.decisions.items():
        if decision["verdict"] == 1 and tx not in confirmed:
            yield 4, f"{tx}: confirmed, and no lane knows: it would never be delivered"
    for tx, header in e.headers.items():
        if header["total"] > 0 and tx not in prepared and e.decisions.get(tx, {}).get("at") != header["at"]:
            yield 8, f"{tx}: prepared, and no lane knows: it would never be checked"


def check_counters(e):
    """[prepared, confirmed, cancelled, tombstones]."""
    counted = [0, 0, 0, 0]
    for row in (row for entries in e.log.values() for row in entries):
        for i, n in enumerate(row["cnt"] or ()):
            counted[i] += n
    real = [h["total"] > 0 for h in e.headers.values()]
    verdicts = collections.Counter((d["verdict"], e.headers[tx]["total"] > 0) for tx, d in e.decisions.items() if tx in e.headers)
    stored = [real.count(True), verdicts[1, True], verdicts[2, True], real.count(False)]
    if counted != stored:
        yield 5, f"the counters say prepared, confirmed, cancelled, tombstones = {counted}; stored are {stored}"


def check_conservation(e):
    counted = collections.Counter()
    for row in (row for entries in e.log.values() for row in entries):
        for sub, *numbers in zip(*[iter(row["sub_cnt"] or ())] * 5):
            for what, n in zip(("delivered", "dead", "discarded", "spilled"), numbers):
                counted[e.name_of(sub), what] += n
    dead = collections.Counter(sub for sub, _, _ in e.dead)
    waiting = collections.Counter(e.name_of(row["sub"]) for row in e.delivery_due)
    for names in content.SUBSCRIPTIONS.values():
        for name in names:
            confirmed = len(e.expected[name])
            said = {what: counted[name, what] for what in ("delivered", "dead", "discarded")}
            if confirmed != sum(said.values()) + waiting[name]:
                yield 5, f"{name}: {confirmed} messages were confirmed for it; counted are {said}, {waiting[name]} wait"
            if said["dead"] != dead[name]:
                yield 5, f"{name}: counted as dead {said['dead']}, stored {dead[name]}"
            if said["discarded"]:
                yield 5, f"{name}: discarded {said['discarded']}, and nobody asked for it"
            if waiting[name]:
                yield 5, f"{name}: {waiting[name]} deliveries are not at rest"
