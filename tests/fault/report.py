"""The closing table."""

import collections

SHOWN = 40


def figures(e):
    """[(group, name, number), ...]"""
    rows = []
    faults = collections.Counter(op.f for op in e.faults)
    names = [("kill", "replica, kill -9"), ("crash", "PostgreSQL, immediate stop"), ("backends", "backends terminated"),
             ("freeze", "replica frozen and woken"), ("terminate", "replica, SIGTERM"), ("full", "disk full"),
             ("rabbit", "RabbitMQ restarted")]
    rows += [("faults", text, faults[name]) for name, text in names]
    rows.append(("faults", "PostgreSQL ended by itself (disk full)", sum(f["f"] == "ended" for f in e.facts)))
    rows.append(("kills", "kill -9 + immediate stop + backends", sum(faults[n] for n in ("kill", "crash", "backends"))))
    ends = collections.Counter(op.how for op in e.calls)
    rows += [("calls", what, ends[how]) for how, what in (("ok", "OK"), ("fail", "refused"), ("info", "outcome unknown"))]
    for reason, n in sorted(collections.Counter(op.r.get("reason") or op.r["code"] for op in e.calls if op.r.get("code")).items()):
        rows.append(("answers", reason, n))
    totals = collections.Counter(h["total"] > 0 for h in e.headers.values())
    decisions = collections.Counter((d["verdict"], d["origin"]) for d in e.decisions.values())
    rows += [("transactions", "prepared", totals[True]), ("transactions", "tombstones", totals[False])]
    for (verdict, origin), n in sorted(decisions.items()):
        rows.append(("transactions", f"{('committed', 'rolled back')[verdict - 1]} by {('rpc', 'check', 'admin')[origin - 1]}", n))
    rows.append(("transactions", "STUCK", sum(r["state"] == 1 for r in e.check_due.values())))
    rows.append(("checks", "requests", len(e.checks)))
    for name, ops in e.consumed.items():
        messages = {op.a["m"] for op in ops if op.how == "ok"}
        rows += [(name, "confirmed for it", len(e.expected[name])), (name, "arrivals", len(ops)),
                 (name, "accepted more than once", sum(op.how == "ok" for op in ops) - len(messages))]
        if dead := sum(sub == name for sub, _, _ in e.dead):
            rows.append((name, "dead", dead))
    rows.append(("lanes", "opened", len(e.log)))
    rows.append(("lanes", "seals", sum(r["kind"] == "S" for entries in e.log.values() for r in entries)))
    rows.append(("lanes", "unknown commits made void", sum(r["kind"] == "N" for entries in e.log.values() for r in entries)))
    last = {}
    for fact in e.samples:
        if fact["f"] == "sample":
            for name in fact:
                if name.startswith("txmsg_"):
                    last[fact["pid"], name] = fact[name]
    for name in sorted({name for _, name in last}):
        rows.append(("counted", name, sum(n for (_, key), n in last.items() if key == name)))
    if e.samples:
        rows.append(("bounds", "largest resident size, MB", max((f["rss"] for f in e.samples if f["f"] == "sample"), default=0)))
        rows.append(("bounds", "most connections", max((f["n"] for f in e.samples if f["f"] == "connections"), default=0)))
    return rows


def show(found, rows, directory):
    """Prints the verdict; answers the exit code."""
    group = None
    for where, name, number in rows:
        print(f"  {where if where != group else '':14} {name:42} {number:>10}")
        group = where
    counts = collections.Counter(invariant for invariant, _ in found)
    for invariant in sorted(counts):
        mine = [text for number, text in found if number == invariant]
        print(f"invariant {invariant}: {len(mine)} violations")
        for text in mine[:SHOWN]:
            print(f"  {text[:1500]}")
    print(f"{'FAILED' if found else 'proven'}: {len(found)} violations in {directory}", flush=True)
    return 1 if found else 0
