"""Calls against tables: invariants 1, 2, 3, 11 and 12. What was answered is what is stored, and nothing else is stored."""

RETRIABLE = {"STORE_UNAVAILABLE", "SHUTTING_DOWN", "OUTCOME_UNKNOWN", "OVERLOADED", "EXPIRED_IN_QUEUE", "DEADLINE_PASSED"}
# All that a producer of this test may hear, as (code, reason).
ANSWERS = {("UNAVAILABLE", r) for r in ("STORE_UNAVAILABLE", "SHUTTING_DOWN", "OUTCOME_UNKNOWN", None)} | {
    ("DEADLINE_EXCEEDED", r) for r in ("EXPIRED_IN_QUEUE", "DEADLINE_PASSED", None)} | {
    ("RESOURCE_EXHAUSTED", "OVERLOADED"), ("NOT_FOUND", "TRANSACTION_NOT_FOUND"), ("ALREADY_EXISTS", "CONTENT_DIFFERS"),
    ("FAILED_PRECONDITION", "DECIDED_OTHERWISE"), ("FAILED_PRECONDITION", "PRODUCER_MISMATCH")}
VERDICT = {"confirm": 1, "publish": 1, "cancel": 2}
STATE = {1: "CONFIRMED", 2: "CANCELLED"}
DECISION = {1: "COMMITTED", 2: "ROLLED_BACK"}
ORIGIN = {1: "RPC", 2: "CHECK", 3: "ADMIN"}


def check(e):
    for tx in {**e.messages, **e.decisions, **e.by_tx}:
        if e.own(tx):
            continue
        ops = e.by_tx.get(tx, [])
        yield from check_rows(e, tx, ops)
        yield from check_decision(e, tx, ops)
        for op in ops:
            yield from check_answer(e, tx, op, ops)
    yield from check_outages(e)
    for fact in e.call_facts:
        if fact["f"] in ("unsettled", "broken"):
            yield 12, f"a call never got a certain answer: {fact}"


def may_have_happened(op):
    return op.how != "fail"


def same_content(e, tx, op):
    header = e.headers[tx]
    return (e.sent(op) == e.stored(tx) and op.a["producer"] == header["producer"] and op.a["key"] == header["business_key"])


def check_rows(e, tx, ops):
    found = e.messages.get(tx)
    if found is None:
        return
    header = found.get(0)
    if header is None:
        yield 2, f"{tx}: messages without a header"
    elif header["total"] == 0:
        if len(found) != 1:
            yield 2, f"{tx}: a tombstone with messages"
        if not any(op.f == "cancel" and op.a.get("producer") == header["producer"] and may_have_happened(op) for op in ops):
            yield 1, f"{tx}: a tombstone that no Cancel can have left: {ops}"
    else:
        if sorted(found) != list(range(header["total"])):
            yield 2, f"{tx}: messages {sorted(found)} of {header['total']}"
        makers = [op for op in ops if op.f in ("prepare", "publish") and same_content(e, tx, op)]
        if not makers:
            yield 1, f"{tx}: a phantom, nobody sent what is stored: {ops}"
        elif not any(map(may_have_happened, makers)):
            yield 11, f"{tx}: stored, though every attempt was answered as not stored: {makers}"


def check_decision(e, tx, ops):
    decision, header = e.decisions.get(tx), e.headers.get(tx)
    if decision is None:
        if header and header["total"] == 0:
            yield 3, f"{tx}: a tombstone without a decision"
        return
    if header is None:
        yield 3, f"{tx}: decided without a message"
        return
    if decision["producer"] != header["producer"]:
        yield 3, f"{tx}: decided for {decision['producer']}, prepared by {header['producer']}"
    if decision["verdict"] == 1 and header["total"] == 0:
        yield 3, f"{tx}: a tombstone was committed"
    if decision["origin"] == 3:
        yield 3, f"{tx}: decided by nobody's order"
    if decision["origin"] != 1:
        return
    makers = [op for op in ops if VERDICT.get(op.f) == decision["verdict"]
              and op.a.get("producer") in (None, header["producer"]) and (op.f != "publish" or same_content(e, tx, op))]
    if not makers:
        yield 3, f"{tx}: {DECISION[decision['verdict']]} by no call: {ops}"
    elif not any(map(may_have_happened, makers)):
        yield 11, f"{tx}: decided, though every attempt was answered as not stored: {makers}"


# --- single answers ---


def check_answer(e, tx, op, ops):
    if op.how == "ok":
        yield from check_ok(e, tx, op, ops)
    elif op.r:
        if (op.r["code"], op.r.get("reason")) not in ANSWERS and not cut_by_the_end(e, op):
            yield 1, f"an answer that nobody expects: {op}"
        elif op.how == "fail":
            yield from check_refusal(e, tx, op, ops)


def cut_by_the_end(e, op):
    """gRPC core ends calls that reach a server after its last look for calls with a bare CANCELLED: unknown, to the caller."""
    return op.r["code"] == "CANCELLED" and "reason" not in op.r and any(
        f.f == "terminate" and f.a["who"] == f"replica{op.a['at']}" and f.start <= op.end and op.start <= f.end for f in e.faults)


def check_ok(e, tx, op, ops):
    decision, header = e.decisions.get(tx), e.headers.get(tx)
    if header is None:
        yield 1, f"lost: {op}"
        return
    if op.f in ("prepare", "publish"):
        if header["total"] == 0:
            yield 3, f"opened what is cancelled: {op}"
        elif not same_content(e, tx, op):
            yield 2, f"OK for other content than is stored: {op}"
    if op.f in VERDICT:
        if decision is None:
            yield 1, f"lost decision: {op}"
        elif decision["verdict"] != VERDICT[op.f]:
            yield 3, f"OK for the contrary of what is stored, {decision}: {op}"
        elif op.a.get("producer") not in (None, header["producer"]):
            yield 3, f"OK for another producer: {op}"
        if op.r["state"] != STATE[VERDICT[op.f]]:
            yield 3, f"the state is not what was decided: {op}"
    yield from check_state(e, tx, op, ops)


def check_state(e, tx, op, ops):
    decision = e.decisions.get(tx)
    if op.r["state"] in STATE.values():
        if decision is None or STATE[decision["verdict"]] != op.r["state"]:
            yield 3, f"answered a state that is not stored, {decision}: {op}"
        elif op.r.get("origin") != ORIGIN[decision["origin"]]:
            yield 3, f"answered another origin than is stored, {decision}: {op}"
    else:
        if "origin" in op.r:
            yield 3, f"undecided, with an origin: {op}"
        before = [o for o in ops if o.f in VERDICT and o.how == "ok" and o.end < op.start]
        if before:
            yield 1, f"forgot a decision: {op}, after {before[0]}"
        elif decision and e.known_since[tx] < op.start:
            yield 1, f"does not know of a decision of {e.known_since[tx]:.3f}: {op}"


def check_refusal(e, tx, op, ops):
    decision, header, reason = e.decisions.get(tx), e.headers.get(tx), op.r.get("reason")
    if reason == "DECIDED_OTHERWISE":
        if decision is None:
            yield 3, f"refused over a decision that is not stored: {op}"
        elif op.r.get("decision") != DECISION[decision["verdict"]] or op.r.get("origin") != ORIGIN[decision["origin"]]:
            yield 3, f"names another decision than is stored, {decision}: {op}"
        elif op.f == "prepare" and header["total"] > 0:
            yield 2, f"a Prepare was refused over a decision: {op}"
        elif VERDICT.get(op.f) == decision["verdict"]:
            yield 3, f"refused over a decision that agrees: {op}"
    elif reason == "CONTENT_DIFFERS":
        if op.f not in ("prepare", "publish") or header is None or (header["total"] > 0 and same_content(e, tx, op)):
            yield 2, f"refused as other content, but it is not: {op}"
    elif reason == "PRODUCER_MISMATCH":
        if header is None or op.a.get("producer") in (None, header["producer"]):
            yield 3, f"refused as another producer's, but it is not: {op}"
    elif reason == "TRANSACTION_NOT_FOUND":
        before = [o for o in ops if o.how == "ok" and o.f != "get" and o.end < op.start]
        if before:
            yield 1, f"lost: {op}, after {before[0]}"


def check_outages(e):
    """No OK while there is no database."""
    down, outages = None, []
    for fact in e.facts:
        if fact["f"] == "down":
            down = fact["t"]
        elif fact["f"] == "coming up" and down is not None:
            outages.append((down, fact["t"]))
            down = None
    for op in e.calls:
        if op.how == "ok" and any(begin <= op.start and op.end <= end for begin, end in outages):
            yield 12, f"OK while the database was down: {op}"
