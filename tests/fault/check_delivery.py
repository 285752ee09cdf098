"""Consumers against decisions: invariants 4, 5, 6 and 10."""

import bisect
import collections

from . import content

SLACK = 0.01     # seconds between two readings of the clock
BEFORE = 5.0     # a fault explains what was under way when it came: so much before a repeated message was first accepted
PROMPT = 20.0    # seconds from an OK to a healthy consumer while nothing is broken but others
UNRECORDED = 1000 + 4096 # deliveries of one lane and subscription that a takeover may repeat: hard stop and window
SINK_LATE = 1.0  # seconds until the peers know that it is calm
REFUSED = "status " # how an attempt's error begins when the consumer refused it; in all others it may have the message


def check(e):
    seals = {lane: [e.mono(row["at"]) for row in entries if row["kind"] == "S"] for lane, entries in e.log.items()}
    faults = Faults(e)
    for name, ops in e.consumed.items():
        by_message = collections.defaultdict(list)
        for op in ops:
            by_message[op.a["m"]].append(op)
        yield from check_arrivals(e, name, ops)
        yield from check_arrived(e, name, by_message, faults)
        yield from check_repeats(e, name, by_message, seals, faults)
    yield from check_dead(e)
    yield from check_told(e)
    yield from check_prompt(e)


def split(m):
    return m[:36], int(m[37:])


def accepted(op):
    """The consumer has it: it said so, or would have if it had been asked for longer."""
    return op.how in ("ok", "info")


def check_arrivals(e, name, ops):
    expected = e.expected[name]
    for op in ops:
        tx, n = split(op.a["m"])
        decision = e.decisions.get(tx)
        if op.a["m"] not in expected:
            stored = "is not for it" if e.confirmed(tx) else f"was never committed ({decision})"
            yield 4, f"{name} got {op.a['m']}, which {stored}"
            continue
        if op.a["sha"] != expected[op.a["m"]]:
            yield 6, f"{name} got {op.a['m']} with other bytes than are stored"
        if op.start + SLACK < e.mono(decision["at"]):
            yield 4, f"{name} got {op.a['m']} {e.mono(decision['at']) - op.start:.3f} s before its decision began to be stored"
        attempt = op.a["attempt"]
        if attempt < 1 or attempt > content.MAX_ATTEMPTS.get(name, content.NEVER):
            yield 6, f"{name} got {op.a['m']} as attempt {attempt}"
        elif attempt > 1 and (name, tx, n, attempt - 1) not in e.attempts:
            yield 6, f"{name} got attempt {attempt} of {op.a['m']}, and attempt {attempt - 1} is not recorded"


def check_arrived(e, name, by_message, faults):
    """Delivered, or dead: one of them. Both only when a fault hid that it was accepted, and it was refused later."""
    for m in e.expected[name]:
        tx, n = split(m)
        has = any(accepted(op) for op in by_message.get(m, ()))
        dead = e.dead.get((name, tx, n))
        if not has and not dead:
            yield 5, f"{name} never got {m}, confirmed by {e.decisions[tx]}"
        elif dead and not accepted_unseen(e, name, tx, n, by_message.get(m, ()), faults):
            yield 5, f"{name} accepted {m}, which is a dead letter: {dead}"


def accepted_unseen(e, name, tx, n, ops, faults):
    taken = [op.start for op in ops if op.how == "ok"]
    if not taken or any(unanswered(e, name, tx, n, attempt) for attempt in range(1, content.MAX_ATTEMPTS.get(name, 50) + 1)):
        return True
    later = [op.start for op in ops if op.start > max(taken)]
    return bool(later) and faults.between(max(taken) - BEFORE, later[0])


def unanswered(e, name, tx, n, attempt):
    """This attempt is recorded as one that had no answer, so the next one may be a repetition."""
    return any(not row["error"].startswith(REFUSED) for row in e.attempts.get((name, tx, n, attempt), ()))


class Faults:
    """When something was broken."""

    def __init__(self, e):
        self.spans = sorted((op.start, op.end) for op in e.faults)
        self.latest = []
        end = float("-inf")
        for _, until in self.spans:
            end = max(end, until)
            self.latest.append(end)

    def between(self, begin, end):
        """Did a fault overlap this time?"""
        i = bisect.bisect_right(self.spans, (end, float("inf")))
        return i > 0 and self.latest[i - 1] >= begin


def check_repeats(e, name, by_message, seals, faults):
    """A message that was accepted comes again only after a fault, and as a first attempt only after a takeover of its lane."""
    repeated = collections.Counter()
    for m, ops in by_message.items():
        if len(ops) < 2 or m not in e.expected[name]:
            continue
        decision = e.decisions[split(m)[0]]
        ops = sorted(ops, key=lambda op: op.start)
        first = next((op for op in ops if op.how == "ok"), None)
        for op in ops:
            if not first or op.start <= first.start or op.a.get("redelivered") or faults.between(first.start - BEFORE, op.start):
                continue
            if not unanswered(e, name, *split(m), op.a["attempt"] - 1):
                yield 6, f"{name} accepted {m} and got it again without any fault: {first}, {op}"
        again = [op for op in ops if op.a["attempt"] == 1 and not op.a.get("redelivered")][1:]
        taken = [t for t in seals.get(decision["lane"], ()) if again and t < again[-1].start + SLACK]
        if len(again) > len(taken):
            yield 6, (f"{name} got {len(again) + 1} first attempts of {m}, and its lane {decision['lane']} was taken over "
                      f"{len(taken)} times: {ops}")
        repeated[decision["lane"]] += len(again)
    for lane, n in repeated.items():
        if n > UNRECORDED * len(seals.get(lane, ())):
            yield 6, f"{name} got {n} messages of lane {lane} again, after {len(seals.get(lane, ()))} takeovers"


def check_dead(e):
    for (name, tx, n), row in e.dead.items():
        m = f"{tx}.{n}"
        if m not in e.expected.get(name, {}):
            yield 4, f"a dead letter that was never committed for {name}: {m}"
            continue
        if row["sha"][:24] != e.expected[name][m]:
            yield 6, f"the dead letter {m} of {name} holds other bytes than are stored"
        if row["attempts"] >= content.MAX_ATTEMPTS.get(name, content.NEVER):
            continue
        if name != "strict" or not content.refused_for_good(tx, n):
            yield 5, f"{name}: {m} is dead after {row['attempts']} attempts, and nobody refused it: {row['error']}"


def check_told(e):
    """Outcome events: one for each delivery of the producer that wants them, however often it was attempted, and for no other."""
    told = collections.defaultdict(list)
    for row in e.told:
        told[row["sub"], row["m"]].append(row["outcome"])
    ended = {(name, m): "dead" if (name, *split(m)) in e.dead else "delivered" for name, expected in e.expected.items()
             for m in expected if e.headers[split(m)[0]]["producer"] == content.TELLER}
    for name, m in told.keys() - ended.keys():
        yield 4, f"{name}: {told[name, m]} was told of {m}, which is not its, or not committed"
    for (name, m), outcome in ended.items():
        if told[name, m] != [outcome]:
            yield 5, f"{name}: {m} is {outcome}, and told was {told[name, m]}"


def check_prompt(e):
    """Invariant 10, with one sink and one check endpoint dead and nothing else broken."""
    calm, ends, opened = e.fact("calm"), e.fact("load ends"), next((f["t"] for f in e.check_facts if f["f"] == "open"), 0)
    got = {name: {} for name in content.HEALTHY}
    for name in got:
        for op in e.consumed[name]:
            if accepted(op):
                got[name].setdefault(op.a["m"], op.end)
    for op in e.calls:
        if not (op.f in ("confirm", "publish") and op.how == "ok" and calm <= op.start and op.end <= ends):
            continue
        for n, row in e.messages.get(op.a["tx"], {}).items():
            for name in set(content.SUBSCRIPTIONS.get(row["topic"], ())) & content.HEALTHY:
                late = got[name].get(f"{op.a['tx']}.{n}", float("inf")) - op.end
                if late > PROMPT * e.run["slow"] and not e.stalled_long(op.start - BEFORE, op.end + late):
                    yield 10, f"{name} got {op.a['tx']}.{n} {late:.1f} s after its OK, with nothing broken but others"
    for op in e.consumed["void"]:
        if calm + SINK_LATE < op.start < opened and op.how != "fail":
            yield 10, f"the dead consumer answered: {op}"
