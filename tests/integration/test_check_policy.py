"""The rules of checks that an operator sets: who is believed how early, how often is asked, and when again. Time is that of the database:
a test moves the rows, it does not wait."""

import datetime
import threading
import time

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from harness.checks import CheckServer
from harness.client import CANCELLED, CHECK, CONFIRMED, PREPARED, message, prepare_request
from harness.ids import uuid7
from harness.peers import verdict
from harness.pull import Puller, answer_to
from harness.system import memory, room
from servers.process import free_port, wait_until

OPTIONS = {"check.in_flight": 1024}
HOUR = 3600
QUICK = {"first_after": "1s", "initial": "1s", "factor": 1, "max": "1s", "timeout": "2s", "concurrency": 512}


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


def producer(world, *endpoints, **policy):
    name = world.unique("p")
    world.apply(producers=[{"name": name, "check": {**QUICK, "endpoints": list(endpoints), **policy}}])
    return name


def prepare(client, topic, name, **fields):
    tx = uuid7()
    client.prepare([message(topic, b"body", key=b"k", headers={"h": "1"})], tx=tx, producer=name, **fields)
    return tx


def answered(tx, word, again_at=None, again_after=None):
    """The same answer in both forms: for HTTP, and as a message."""
    json = {**({"askAgainAt": again_at.isoformat()} if again_at else {}),
            **({"askAgainAfter": f"{again_after}s"} if again_after is not None else {})}
    fields = {}
    if again_at:
        fields["ask_again_at"] = Timestamp(seconds=int(again_at.timestamp()))
    if again_after is not None:
        fields["ask_again_after"] = Duration(seconds=again_after)
    return verdict(word, **json), (word, fields)


class Asked:
    """A producer that is asked over one of the ways; `say(tx, ...)` is its next answer."""

    def __init__(self, world, client, way):
        self.world, self.client, self.way, self.puller = world, client, way, None
        self.says = {}
        if way == "HTTP":
            self.peer = world.check_endpoint()
            self.peer.reply = lambda request: self.says.get(request.json()["transactionId"], verdict("UNKNOWN"))(request)
        elif way != "stream":
            self.peer = CheckServer(batch=way == "CheckBatch")
            self.peer._answer = self.message
        else:
            self.peer = None

    def producer(self, **policy):
        endpoints = [] if not self.peer else [self.peer.url("/check") if self.way == "HTTP" else self.peer.url]
        name = producer(self.world, *endpoints, **policy)
        if not self.peer:
            self.puller = Puller(self.client, name)
            self.puller.decide = self.message
        return name

    def say(self, tx, *args, **fields):
        json, form = answered(tx, *args, **fields)
        self.says[tx] = json if self.way == "HTTP" else form

    def message(self, check):
        word, fields = self.says.get(check.transaction_id, ("UNKNOWN", {}))
        return answer_to(check, word, **fields)

    def close(self):
        if self.puller:
            self.puller.close()
        elif self.way != "HTTP":
            self.peer.close()


@pytest.fixture(params=["HTTP", "Check", "CheckBatch", "stream"])
def asked(world, client, request):
    asked = Asked(world, client, request.param)
    yield asked
    asked.close()


def row(world, tx):
    """(seconds until it is due, unknowns, failures, last error, tries) of its row to check."""
    rows = world.sql("SELECT extract(epoch FROM due - now())::float8, unknowns, failures, last_error, tries FROM check_due"
                     " WHERE tx = %s", tx)
    return rows[0] if rows else (None, 0, 0, None, 0)


def ended(world, tx, unknowns=0, failures=0):
    """Waits until so many checks of it have ended; its row."""
    return wait_until(lambda: (lambda r: r if (r[1], r[2]) == (unknowns, failures) else None)(row(world, tx)), 30,
                      f"{tx} has {unknowns} UNKNOWNs and {failures} failures")


def due_now(world, tx):
    world.sql("UPDATE check_due SET due = now() WHERE tx = %s", tx)


def test_rolled_back_not_before(world, client, topic, asked):
    """Too early it counts as UNKNOWN, is not asked again before the age, and then it decides."""
    name, tx = asked.producer(rolled_back_not_before="1h", max_unknowns=2), uuid7()
    asked.say(tx, "ROLLED_BACK")
    client.prepare([message(topic)], tx=tx, producer=name)
    due, _, _, error, _ = ended(world, tx, unknowns=1)
    assert HOUR - 60 < due <= HOUR and "rolled_back_not_before" in error
    assert client.get(tx).state == PREPARED
    world.sql("UPDATE message SET at = at - interval '1 hour' WHERE tx = %s", tx)
    due_now(world, tx)
    assert world.wait_state(tx, CANCELLED).origin == CHECK


def test_committed_needs_no_age(world, client, topic, asked):
    name, tx = asked.producer(rolled_back_not_before="1h"), uuid7()
    asked.say(tx, "COMMITTED")
    client.prepare([message(topic)], tx=tx, producer=name)
    assert world.wait_state(tx, CONFIRMED).origin == CHECK


def test_rolled_back_not_before_counts_to_the_limit(world, client, topic, asked):
    name, tx = asked.producer(rolled_back_not_before="1h", max_unknowns=1), uuid7()
    asked.say(tx, "ROLLED_BACK")
    client.prepare([message(topic)], tx=tx, producer=name)
    wait_until(lambda: tx in str(world.ctl.json("stuck", "list", "--producer", name)), 20, "it is STUCK")


def in_seconds(seconds):
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)).replace(microsecond=0)


@pytest.mark.parametrize("again, low, high", [
    (lambda: {"again_after": 2 * HOUR}, 2 * HOUR - 60, 2 * HOUR),
    (lambda: {"again_at": in_seconds(3 * HOUR)}, 3 * HOUR - 60, 3 * HOUR),
    (lambda: {"again_after": 30 * 24 * HOUR}, 24 * HOUR - 60, 24 * HOUR),
    (lambda: {"again_at": in_seconds(30 * 24 * HOUR)}, 24 * HOUR - 60, 24 * HOUR),
], ids=["after", "at", "after is bounded", "at is bounded"])
def test_ask_again(world, client, topic, asked, again, low, high):
    """The answer's time beats the policy's second; then it is asked again as ever."""
    name, tx = asked.producer(), uuid7()
    asked.say(tx, "UNKNOWN", **again())
    client.prepare([message(topic)], tx=tx, producer=name)
    due, *_ = ended(world, tx, unknowns=1)
    assert low < due <= high
    asked.say(tx, "COMMITTED")
    due_now(world, tx)
    assert world.wait_state(tx, CONFIRMED).origin == CHECK


def test_ask_again_in_the_past_is_soon(world, client, topic, asked):
    name, tx = asked.producer(initial="1h", max="1h"), uuid7()
    asked.say(tx, "UNKNOWN", again_at=in_seconds(-HOUR))
    client.prepare([message(topic)], tx=tx, producer=name)
    ended(world, tx, unknowns=2)
    asked.say(tx, "COMMITTED")
    world.wait_state(tx, CONFIRMED)


def test_ask_again_counts_to_the_limit(world, client, topic, asked):
    name, tx = asked.producer(max_unknowns=1), uuid7()
    asked.say(tx, "UNKNOWN", again_after=HOUR)
    client.prepare([message(topic)], tx=tx, producer=name)
    wait_until(lambda: tx in str(world.ctl.json("stuck", "list", "--producer", name)), 20, "it is STUCK")


@pytest.mark.parametrize("word, fields", [
    ("UNKNOWN", {"askAgainAfter": "soon"}), ("UNKNOWN", {"askAgainAfter": -1}), ("UNKNOWN", {"askAgainAt": "tomorrow"}),
    ("UNKNOWN", {"askAgainAt": "2026-01-01T00:00:00Z", "askAgainAfter": "1s"}), ("COMMITTED", {"askAgainAfter": "1s"}),
], ids=["no duration", "a number", "no time", "both", "with a verdict"])
def test_malformed_ask_again_is_no_answer(world, client, topic, word, fields):
    endpoint = world.check_endpoint()
    endpoint.reply = verdict(word, **fields)
    tx = prepare(client, topic, producer(world, endpoint.url("/check"), max_unknowns=1))
    _, unknowns, failures, error, _ = ended(world, tx, failures=1)
    assert (unknowns, failures) == (0, 1) and "sk" in error and client.get(tx).state == PREPARED
    client.cancel(tx)


@pytest.mark.parametrize("word, fields", [
    ("UNKNOWN", {"ask_again_after": Duration(seconds=-1)}),
    ("UNKNOWN", {"ask_again_at": Timestamp(seconds=1, nanos=-1)}),
    ("COMMITTED", {"ask_again_after": Duration(seconds=1)}),
], ids=["negative", "no time", "with a verdict"])
def test_malformed_ask_again_message_is_no_answer(world, client, topic, asked, word, fields):
    if asked.way == "HTTP":
        pytest.skip("has forms of its own")
    name, tx = asked.producer(max_unknowns=1), uuid7()
    asked.says[tx] = (word, fields)
    client.prepare([message(topic)], tx=tx, producer=name)
    ended(world, tx, failures=1)
    assert client.get(tx).state == PREPARED
    client.cancel(tx)


@pytest.mark.parametrize("include_body", [False, True])
def test_question(world, client, topic, asked, include_body):
    """Keys, headers and, if the policy says so, bodies are in the question, over every way."""
    name, tx = asked.producer(include_body=include_body), uuid7()
    asked.say(tx, "COMMITTED")
    client.prepare([message(topic, b"the body", key=b"k", headers={"h": "1"})], tx=tx, producer=name, business_key="o-1")
    world.wait_state(tx, CONFIRMED)
    if asked.way == "HTTP":
        question = asked.peer.got(tx)[0].json()
        got = question["messages"][0]
        assert (question["businessKey"], got["key"], got["headers"]) == ("o-1", "k", {"h": "1"})
        assert got.get("body") == ("the body" if include_body else None)
    else:
        check = asked.puller.of(tx)[0].check if asked.puller else asked.peer.of(tx)[0]
        got = check.messages[0]
        assert (check.business_key, got.key, dict(got.headers)) == ("o-1", b"k", {"h": "1"})
        assert got.body == (b"the body" if include_body else b"")


def test_unreachable_for_hours(world, client, topic):
    """Nobody is there: the checks come ever more rarely, for a day and more, and it is never STUCK. Then somebody is."""
    port = free_port()
    name = producer(world, f"http://127.0.0.1:{port}/check", max_unknowns=1, initial="1m", factor=4, max="4h", jitter=0.1)
    tx = prepare(client, topic, name, check_after=1)
    passed = 0
    for failures, minutes in enumerate([1, 4, 16, 64] + [240] * 8, 1):
        due, unknowns, _, error, tries = ended(world, tx, failures=failures)
        assert unknowns == 0 and error and tries == failures
        assert 0.9 * 60 * minutes - 10 < due <= 1.1 * 60 * minutes
        passed += due
        due_now(world, tx)
    assert passed > 24 * HOUR and client.get(tx).state == PREPARED
    assert world.sql("SELECT state FROM check_due WHERE tx = %s", tx) == [(0,)]
    endpoint = world.check_endpoint()
    endpoint.decide(tx, "COMMITTED")
    world.apply(producers=[{"name": name, "check": {**QUICK, "endpoints": [endpoint.url("/check")]}}])

    def settled():
        due_now(world, tx) # again and again: the first may still be asked where nobody is
        return client.get(tx).state == CONFIRMED

    wait_until(settled, 30, "it is confirmed", interval=0.5)
    assert client.get(tx).origin == CHECK


def test_jitter_spreads_checks(world, client, topic):
    """What became undecided in one moment is not asked about in one moment."""
    endpoint = world.check_endpoint()
    name = producer(world, endpoint.url("/check"), initial="1h", max="1h", jitter=0.2)
    ids = [uuid7() for _ in range(200)]
    client.batch([prepare_request([message(topic)], producer=name, tx=tx) for tx in ids])
    wait_until(lambda: len(endpoint.got()) == 200, 30, "all are asked about once")
    wait_until(lambda: world.sql("SELECT count(*) FROM check_due WHERE producer = %s AND unknowns = 1", name)[0][0] == 200,
               30, "all have an answer")
    low, high = world.sql("SELECT min(due - now()), max(due - now()) FROM check_due WHERE producer = %s", name)[0]
    assert (high - low).total_seconds() > 0.2 * HOUR, "+-20 % of an hour are 24 minutes"
    for tx in ids:
        client.cancel(tx)


RATE, FLOOD = 200, 100000


def test_hundred_thousand_undecided_are_no_storm(world, client, topic):
    """Asked about at the producer's rate, whatever waits and by however many replicas; the memory of the daemon does not know how many they are; and a
    producer beside is asked as if there were none."""
    endpoint, other = world.check_endpoint(), world.check_endpoint()
    times, lock = [], threading.Lock()

    def note(request):
        with lock:
            times.append(time.monotonic())
        return verdict("UNKNOWN")(request)

    endpoint.reply = note
    world.daemon("second").start()
    name = producer(world, endpoint.url("/check"), rate=RATE, initial="1h", max="1h")
    beside = producer(world, other.url("/check"))
    before = memory(world.txmsgd.process.pid)[0]
    for _ in range(FLOOD // 1000):
        requests = [prepare_request([message(topic, b"")], producer=name, tx=uuid7()) for _ in range(1000)]
        wait_until(lambda: all(r.status.state == PREPARED for r in client.batch(requests)), 60, "a thousand are stored")
    wait_until(lambda: world.sql("SELECT count(*) FROM check_due WHERE producer = %s", name)[0][0] == FLOOD, 120,
               "all of them are found")
    for _ in range(5):
        tx = uuid7()
        other.decide(tx, "COMMITTED")
        client.prepare([message(topic)], tx=tx, producer=beside)
        assert world.wait_state(tx, CONFIRMED, timeout=10).origin == CHECK
    wait_until(lambda: len(times) > 10 * RATE, 120, "ten seconds' worth of checks")
    with lock:
        seen = list(times)
    seconds = seen[-1] - seen[0]
    assert len(seen) <= RATE * (seconds + 1) + 20, f"{len(seen)} checks in {seconds:.1f} s"
    grown = memory(world.txmsgd.process.pid)[0] - before
    assert grown < room(160), f"{grown >> 20} MiB more"
