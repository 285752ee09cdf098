"""Checks against their endpoints: invariant 8. Who is asked, when, how often, and what is made of the answer."""

import collections

from . import content

EARLY = 0.05   # seconds: readings of two clocks
LATE = 2.0     # seconds that a request may wait in the endpoint
THAWED = 3.0   # seconds: what a frozen replica still sends when it wakes up
SOONEST = (1 - content.JITTER) * 1.0 # seconds from an answer to the next question
DECISION = {"COMMITTED": 1, "ROLLED_BACK": 2}


def check(e):
    by_tx = collections.defaultdict(list)
    for op in e.checks:
        by_tx[op.a["tx"]].append(op)
    thaws = sorted(op.end for op in e.faults if op.f == "freeze")
    for tx, asked in by_tx.items():
        yield from check_asked(e, tx, asked, thaws)
    for tx, decision in e.decisions.items():
        if decision["origin"] == 2:
            yield from check_decided(e, tx, decision, by_tx.get(tx, ()))
    yield from check_open(e, by_tx)


def first_after(e, tx):
    return next((op.a["after"] for op in e.by_tx.get(tx, ()) if "after" in op.a), content.FIRST_AFTER)


def lease(producer):
    return 2 * content.CHECK_TIMEOUT * max(1, len(content.ENDPOINTS[producer])) + 5


def woke(thaws, when):
    return any(when - THAWED <= t <= when for t in thaws)


def check_asked(e, tx, asked, thaws):
    header, decision = e.headers.get(tx), e.decisions.get(tx)
    if header is None or header["total"] == 0:
        yield 8, f"{tx}: asked about what was never prepared"
        return
    last = {}
    for op in asked:
        if op.a["producer"] != header["producer"]:
            yield 8, f"{tx}: {op.a['producer']} was asked, {header['producer']} prepared it"
        age = op.start - e.mono(header["at"])
        if age < first_after(e, tx) - EARLY:
            yield 8, f"{tx}: asked at the age of {age:.3f} s"
        latest = e.mono(decision["at"]) + lease(header["producer"]) + LATE if decision else float("inf")
        if op.start > latest and not woke(thaws, op.start) and not e.stalled(latest - LATE, op.start):
            yield 8, f"{tx}: asked {op.start - e.mono(decision['at']):.1f} s after it was decided"
        before = last.get(op.a["at"], float("-inf"))
        gap = op.start - before
        # A late endpoint sees a request that was given up together with the one that followed.
        if gap < SOONEST - 4 * EARLY and not woke(thaws, op.start) and not e.stalled(before - content.CHECK_TIMEOUT, op.start):
            yield 8, f"{tx}: {op.a['at']} was asked again after {gap:.3f} s"
        last[op.a["at"]] = op.start


def check_decided(e, tx, decision, asked):
    said = [op for op in asked if DECISION.get(op.r.get("answer")) == decision["verdict"]]
    if not any(op.start - EARLY <= e.mono(decision["at"]) for op in said):
        yield 8, f"{tx}: decided by a check, {decision}, and nobody answered so before: {list(asked)}"


def check_open(e, by_tx):
    """What is still undecided, and the rows of checks."""
    for tx, header in e.headers.items():
        if header["total"] == 0 or tx in e.decisions:
            continue
        row = e.check_due.get(tx)
        if row is None or row["state"] != 1:
            yield 8, f"{tx}: neither decided nor STUCK: {header['business_key']}, {row}"
        if header["business_key"][0] != content.UNKNOWN:
            yield 8, f"{tx}: its producer knows the answer, {header['business_key']}, and it is undecided: {row}"
    for tx, row in e.check_due.items():
        asked = by_tx.get(tx, [])
        unknown = sum(op.r.get("answer") == "UNKNOWN" for op in asked)
        if tx not in e.headers:
            yield 8, f"{tx}: a check of nothing: {row}"
            continue
        if row["unknowns"] > unknown:
            yield 8, f"{tx}: {row['unknowns']} UNKNOWNs were counted, {unknown} answered"
        if row["state"] == 1 and row["unknowns"] != content.MAX_UNKNOWNS[row["producer"]]:
            yield 8, f"{tx}: STUCK after {row['unknowns']} UNKNOWNs of {content.MAX_UNKNOWNS[row['producer']]}"
        most = max(collections.Counter(op.a["at"] for op in asked).values(), default=0)
        if most > row["tries"]:
            yield 8, f"{tx}: {row['tries']} tries were counted, an endpoint was asked {most} times"
