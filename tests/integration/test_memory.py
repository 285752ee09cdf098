"""Memory that runs out, one allocation after the other: never a crash, never a false OK, never half an answer; what was
refused can be repeated under the same id, and the next call is served. In builds with -Dfault_points=true."""

import functools

import grpc
import pytest
from google.protobuf import json_format
from harness import FULL, memory
from harness.client import (CANCELLED, CONFIRMED, DEADLINE, PREPARED, admin_pb2, message, prepare_request, publish_request,
                            service_pb2)
from harness.ids import uuid7
from servers.process import wait_until

pytestmark = pytest.mark.skipif(not memory.available(), reason="a build without -Dfault_points=true")

ALLOWED = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
STEPS_MAX = 300 if FULL else 180
HEADERS = {"a": "1", "b": "2"}
SECOND = b"second" * 4000 # more than a call keeps at hand


@pytest.fixture(scope="module")
def fault(tmp_path_factory):
    return memory.MemoryFault(tmp_path_factory.mktemp("memory") / "order")


@pytest.fixture(scope="module")
def world(site, fault):
    made = site.world("memory", {"workers": "1", "grpc.threads": "1", "check.poll": "20ms", "check.find_poll": "20ms"})
    with fault.shared():
        made.start()
    try:
        yield made
    finally:
        fault.disarm()
        made.close()


@pytest.fixture(scope="module")
def sink(world):
    return world.sink()


@pytest.fixture(scope="module")
def topic(world, sink):
    return world.topic(http=sink)


def counts(dense):
    """The steps: each one, or a geometric choice where there are many and each takes long."""
    n = 1
    while n < STEPS_MAX:
        yield n
        n += 1 if dense or FULL else 1 + n // 4


class Refused(Exception):
    """A call failed as it may when memory runs out."""


def attempt(call):
    """What the call answers; `Refused` if it fails in an allowed way."""
    try:
        return call()
    except grpc.RpcError as error:
        assert error.code() in ALLOWED, f"{error.code()}: {error.details()}"
        raise Refused from error


# Memory of one thread's part of a call; the second form is out of memory for a while.
WAYS = [pytest.param(threads, times, id=f"{threads}{times}") for threads in ("rpc", "worker") for times in (1, 6)]
walked = pytest.mark.parametrize("threads,times", WAYS)


def walk(world, fault, threads, times, step, dense=True):
    """Calls `step(armed)` with the first, second, ... allocation failing, until none fails any more in one. `armed`
    runs a function with the countdown on."""
    def armed(n, call):
        fault.arm(n, threads, times)
        try:
            return call()
        finally:
            hits.append(fault.disarm())

    for n in counts(dense and threads == "rpc" and times == 1):
        hits = []
        step(functools.partial(armed, n))
        world.txmsgd.process.check_alive()
        if not any(hits):
            assert n > 1, "nothing was ever allocated"
            print(f"to the {n}th")
            return
    print("to the end")
    # Other work of the thread allocates as well; that many steps have gone through every part of a call.


def same(call, want):
    """An answer is complete: what it was when memory was there."""
    answer = attempt(call)
    assert answer == want
    return answer


def prepared(world, topic, **fields):
    tx = uuid7()
    world.client.prepare([message(topic, b"body of " + tx.encode(), key=b"k", headers=HEADERS)], tx=tx, **fields)
    return tx


def content(topic, tx):
    return [message(topic, b"body of " + tx.encode(), key=b"k", content_type="text/plain", headers=HEADERS),
            message(topic, SECOND)]


def assert_status(status, tx, state):
    assert (status.transaction_id, status.state) == (tx, state)
    assert status.HasField("prepare_time") or state != PREPARED
    assert status.HasField("decision_time") == (state != PREPARED)


def assert_stored(world, topic, tx, state):
    view = world.client.get(tx, bodies=True)
    assert view.state == state
    assert [m.message for m in view.messages] == content(topic, tx)


@walked
def test_prepare(world, fault, topic, threads, times):
    def step(armed):
        tx = uuid7()
        request = prepare_request(content(topic, tx), tx=tx, business_key="order")
        try:
            status = armed(lambda: attempt(lambda: world.client.messages.Prepare(request, timeout=DEADLINE))).status
            assert_status(status, tx, PREPARED)
            assert_stored(world, topic, tx, PREPARED)
        except Refused:
            assert_status(world.client.messages.Prepare(request, timeout=DEADLINE).status, tx, PREPARED)
        assert_stored(world, topic, tx, PREPARED)

    walk(world, fault, threads, times, step)


@walked
def test_publish(world, fault, sink, topic, threads, times):
    published = []

    def step(armed):
        tx = uuid7()
        request = publish_request(content(topic, tx), tx=tx)
        published.append(tx)
        try:
            status = armed(lambda: attempt(lambda: world.client.messages.Publish(request, timeout=DEADLINE))).status
            assert_status(status, tx, CONFIRMED)
            assert_stored(world, topic, tx, CONFIRMED)
        except Refused:
            assert_status(world.client.messages.Publish(request, timeout=DEADLINE).status, tx, CONFIRMED)
        assert_stored(world, topic, tx, CONFIRMED)

    walk(world, fault, threads, times, step)
    for tx in published:
        assert sink.wait_for(tx, 0)[0].body == b"body of " + tx.encode()
        assert sink.wait_for(tx, 1)[0].body == SECOND


@walked
@pytest.mark.parametrize("decide", [CONFIRMED, CANCELLED])
def test_decide(world, fault, sink, topic, threads, times, decide):
    decided = []

    def step(armed):
        tx = prepared(world, topic)
        call = (lambda: world.client.confirm(tx)) if decide == CONFIRMED else (lambda: world.client.cancel(tx, reason="r"))
        decided.append(tx)
        try:
            assert_status(armed(lambda: attempt(call)), tx, decide)
        except Refused:
            assert world.client.get(tx).state in (PREPARED, decide)
            assert_status(call(), tx, decide)
        assert world.client.get(tx).state == decide

    walk(world, fault, threads, times, step)
    marker = uuid7()
    world.client.publish([message(topic, b"marker")], tx=marker)
    sink.wait_for(marker)
    for tx in decided:
        if decide == CONFIRMED:
            sink.wait_for(tx)
        else:
            assert not sink.of(tx)


@walked
def test_batch(world, fault, topic, threads, times):
    def step(armed):
        one, two, three = uuid7(), uuid7(), prepared(world, topic)
        requests = [prepare_request(content(topic, one), tx=one), publish_request(content(topic, two), tx=two),
                    service_pb2.ConfirmRequest(transaction_id=three, producer="shop"),
                    prepare_request([message("no-such-topic")], tx=uuid7())]
        try:
            results = armed(lambda: attempt(lambda: world.client.batch(requests)))
            assert len(results) == len(requests)
            for result, tx, state in zip(results, (one, two, three), (PREPARED, CONFIRMED, CONFIRMED)):
                if result.WhichOneof("result") == "status":
                    assert_status(result.status, tx, state)
                    assert world.client.get(tx).state == state
                else:
                    assert result.error.code in [code.value[0] for code in ALLOWED], result
            assert results[3].WhichOneof("result") == "error"
        except Refused:
            pass
        results = world.client.batch(requests)
        assert [r.status.state for r in results[:3]] == [PREPARED, CONFIRMED, CONFIRMED]

    walk(world, fault, threads, times, step)


@walked
def test_get(world, fault, sink, topic, threads, times):
    tx = uuid7()
    world.client.publish(content(topic, tx), tx=tx, business_key="seen")
    world.wait_delivery(tx, f"{topic}-http", 3, n=1)
    want = world.client.get(tx, bodies=True)

    def step(armed):
        try:
            armed(lambda: same(lambda: world.client.get(tx, bodies=True), want))
        except Refused:
            pass
        assert world.client.get(tx, bodies=True) == want

    walk(world, fault, threads, times, step)


@walked
def test_list(world, fault, topic, threads, times):
    key = world.unique("listed")
    for _ in range(3):
        world.client.cancel(prepared(world, topic, business_key=key), reason="because")
    call = functools.partial(world.client.list, producer="shop", business_key=key, page_size=2)
    want = call()
    assert len(want.transactions) == 2 and want.next_page_token

    def step(armed):
        try:
            armed(lambda: same(call, want))
        except Refused:
            pass
        assert call() == want

    walk(world, fault, threads, times, step)


SECRET = "whsec_" + "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"


def objects(topic, sink):
    return {"topics": [{"name": topic}], "producers": [{"name": f"{topic}-p", "check": {"endpoints": [sink.url("/c")],
                                                                                       "secret": SECRET}}],
            "subscriptions": [{"name": f"{topic}-s", "topic": topic, "retry": {"initial": "0.050s"},
                               "sink": {"http": {"url": sink.url("/"), "secret": SECRET}}}]}


def apply_request(topology, **fields):
    return admin_pb2.ApplyTopologyRequest(topology=json_format.ParseDict(topology, admin_pb2.ApplyTopologyRequest().topology),
                                          **fields)


def stored_specs(world, topic):
    return world.sql("SELECT name, spec::text FROM subscription WHERE name = %s"
                     " UNION ALL SELECT name, spec::text FROM producer WHERE name = %s ORDER BY 1", f"{topic}-s", f"{topic}-p")


@walked
def test_apply(world, fault, sink, threads, times):
    def step(armed):
        topic = world.unique("m")
        request = apply_request(objects(topic, sink))
        call = functools.partial(world.client.admin.ApplyTopology, request, timeout=DEADLINE)
        try:
            answer = armed(lambda: attempt(call))
            assert sorted(c.name for c in answer.changes) == [topic, f"{topic}-p", f"{topic}-s"]
        except Refused:
            call()
        assert not call().changes
        specs = stored_specs(world, topic)
        assert len(specs) == 2 and all(SECRET in spec for _, spec in specs)

    walk(world, fault, threads, times, step, dense=False)


@walked
def test_export_and_apply_again(world, fault, sink, threads, times):
    """Secrets stay masked in what leaves, and are what they were after a masked object was applied."""
    topic = world.unique("m")
    world.client.admin.ApplyTopology(apply_request(objects(topic, sink)), timeout=DEADLINE)
    before = stored_specs(world, topic)
    export = functools.partial(world.client.admin.ExportTopology, admin_pb2.ExportTopologyRequest(), timeout=DEADLINE)
    want = export()
    mine = apply_request({})
    mine.topology.subscriptions.extend(s for s in want.topology.subscriptions if s.name == f"{topic}-s")
    mine.topology.producers.extend(p for p in want.topology.producers if p.name == f"{topic}-p")
    mine.topology.topics.extend(t for t in want.topology.topics if t.name == topic)

    def step(armed):
        try:
            armed(lambda: same(export, want))
        except Refused:
            pass
        try:
            assert not armed(lambda: attempt(lambda: world.client.admin.ApplyTopology(mine, timeout=DEADLINE))).changes
        except Refused:
            pass
        assert stored_specs(world, topic) == before
        assert export() == want

    walk(world, fault, threads, times, step, dense=False)


# --- what goes on without a caller ---


@pytest.fixture(scope="module")
def endpoint(world):
    return world.check_endpoint()


def storm(world, fault, threads, keep_busy):
    """Allocations of these threads fail, now near, now far, while there is work for them."""
    for n in counts(dense=False):
        for times in (1, 6):
            fault.arm(n, threads, times)
            keep_busy()
            wait_until(lambda: fault.failed() >= 1, 60, f"the {n}th allocation of {threads} failed",
                       alive=world.txmsgd.process.check_alive)
    fault.disarm()


def test_checks_and_deliveries(world, fault, sink, endpoint):
    """Every verdict is taken in the end, and every message arrives, as it was."""
    topic = world.topic(http=sink)
    world.apply(producers=[{"name": "asked", "check": {"endpoints": [endpoint.url("/check")], "first_after": "1s",
                                                      "initial": "1s", "factor": 1, "max": "1s"}}])
    confirmed, cancelled = [], []

    def more():
        for decision, made in (("COMMITTED", confirmed), ("ROLLED_BACK", cancelled)):
            tx = uuid7()
            endpoint.decide(tx, decision)
            made.append(tx)
            repeated(lambda: world.client.prepare(content(topic, tx), tx=tx, producer="asked"))
        tx = uuid7()
        confirmed.append(tx)
        repeated(lambda: world.client.publish(content(topic, tx), tx=tx))

    storm(world, fault, "worker", more)
    for tx in confirmed:
        world.wait_state(tx, CONFIRMED, timeout=90)
        assert {r.body for r in sink.wait_for(tx, 0, timeout=90)} == {b"body of " + tx.encode()}
        assert {r.body for r in sink.wait_for(tx, 1, timeout=90)} == {SECOND}
    for tx in cancelled:
        world.wait_state(tx, CANCELLED, timeout=90)
        assert not sink.of(tx, 0) and not sink.of(tx, 1)


def repeated(call):
    """As a producer does: with the same id until it is answered."""
    def answered():
        try:
            return attempt(call)
        except Refused:
            return None

    return wait_until(answered, 60, "the call is answered")
