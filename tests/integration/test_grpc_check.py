"""gRPC check: CheckService served by the producer, with the same rules as the HTTP check."""

import threading

import grpc
import pytest
from harness.checks import CheckServer
from harness.client import CANCELLED, CHECK, CONFIRMED, PREPARED, RPC, STUCK, message, prepare_request
from harness.ids import uuid7
from harness.peers import verdict
from harness.pull import answer_to
from servers.process import free_port, wait_until

OPTIONS = {"check.in_flight": 1024}
BOTH = pytest.mark.parametrize("batch", [True, False], ids=["CheckBatch", "Check"])


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


@pytest.fixture
def serve(world):
    servers = []

    def made(**fields):
        servers.append(CheckServer(**fields))
        return servers[-1]

    yield made
    for server in servers:
        server.close()


def producer(world, *endpoints, **policy):
    name = world.unique("p")
    urls = [e if isinstance(e, str) else e.url if isinstance(e, CheckServer) else e.url("/check") for e in endpoints]
    world.apply(producers=[{"name": name, "check": {
        "endpoints": urls, "first_after": "1s", "initial": "1s", "factor": 1, "max": "1s", "timeout": "2s",
        "concurrency": 512, **policy}}])
    return name


def prepare(client, topic, name, **fields):
    tx = uuid7()
    client.prepare([message(topic, b"body")], tx=tx, producer=name, **fields)
    return tx


@BOTH
@pytest.mark.parametrize("word, state", [("COMMITTED", CONFIRMED), ("ROLLED_BACK", CANCELLED)])
def test_verdict(world, client, topic, serve, batch, word, state):
    server = serve(batch=batch, default=word)
    name, tx = producer(world, server), uuid7()
    client.prepare([message(topic, b"checked", key=b"k", headers={"h": "1"})], tx=tx, producer=name,
                   business_key="order-7")
    assert world.wait_state(tx, state).origin == CHECK
    assert server.calls == [("CheckBatch" if batch else "Check", 1)]
    check = server.checks[0]
    assert (check.producer, check.business_key, check.check_count) == (name, "order-7", 1)
    assert [(m.n, m.topic, m.key, dict(m.headers), m.body) for m in check.messages] == [(0, topic, b"k", {"h": "1"}, b"")]


def test_include_body(world, client, topic, serve):
    server = serve(default="COMMITTED")
    tx = prepare(client, topic, producer(world, server, include_body=True))
    world.wait_state(tx, CONFIRMED)
    assert server.checks[0].messages[0].body == b"body"


@BOTH
def test_unknowns_end_stuck(world, client, topic, serve, batch):
    server = serve(batch=batch)
    tx = prepare(client, topic, producer(world, server, max_unknowns=2))
    view = world.wait_state(tx, STUCK)
    assert (view.checks.unknowns, len(server.of(tx))) == (2, 2)


BAD = {
    "error": lambda s, tx: setattr(s, "fail", grpc.StatusCode.INTERNAL),
    "not found": lambda s, tx: setattr(s, "fail", grpc.StatusCode.NOT_FOUND),
    "garbage": lambda s, tx: setattr(s, "raw", b"<html>"),
    "empty": lambda s, tx: setattr(s, "raw", b""),
    "no text": lambda s, tx: setattr(s, "raw", b"\x0a\x02\xff\xff"),
    "another id": lambda s, tx: s.decide.update({tx: answer_to_id(uuid7())}),
    "no id": lambda s, tx: s.decide.update({tx: answer_to_id("")}),
    "no decision": lambda s, tx: s.decide.update({tx: answer_to_id(tx, "UNSPECIFIED")}),
    "bodies": lambda s, tx: s.decide.update({tx: answer_to_id(tx, bodies=[{"n": 0, "body": b"x"}])}),
    "missing": lambda s, tx: s.decide.update({tx: None}),
    "late": lambda s, tx: setattr(s, "gate", threading.Event()),
}


def answer_to_id(tx, decision="COMMITTED", **more):
    from txmsg.v1 import check_service_pb2

    return answer_to(check_service_pb2.CheckRequest(transaction_id=tx), decision, **more)


@BOTH
@pytest.mark.parametrize("bad", BAD)
def test_anything_else_is_no_verdict(world, client, topic, serve, batch, bad):
    server, tx = serve(batch=batch, default="COMMITTED"), uuid7()
    BAD[bad](server, tx)
    client.prepare([message(topic)], tx=tx, producer=producer(world, server))
    view = wait_until(lambda: (lambda v: v if v.checks.last_error else None)(client.get(tx)), 30, "the check has ended")
    assert (view.state, view.checks.unknowns) == (PREPARED, 0) and view.checks.last_error.startswith("endpoint 1: ")
    server.decide, server.fail, server.raw = {}, None, None
    if server.gate:
        server.gate.set()
    assert world.wait_state(tx, CONFIRMED).origin == CHECK


def test_many_in_few_calls(world, client, topic, serve):
    """A batch is of one producer, at most 100; one bad answer is no answer of that one alone."""
    server = serve(default="COMMITTED")
    name = producer(world, server)
    ids = [uuid7() for _ in range(300)]
    server.decide = {ids[7]: "ROLLED_BACK", ids[8]: None, ids[9]: answer_to_id(ids[9], "UNSPECIFIED")}
    client.batch([prepare_request([message(topic)], producer=name, tx=tx) for tx in ids])
    for i, tx in enumerate(ids):
        if i not in (8, 9):
            world.wait_state(tx, CANCELLED if i == 7 else CONFIRMED, timeout=60)
    assert {method for method, _ in server.calls} == {"CheckBatch"}
    assert max(n for _, n in server.calls) <= 100 and len(server.calls) < 60, server.calls
    server.decide = {}
    for tx in ids[8:10]:
        view = world.wait_state(tx, CONFIRMED)
        assert view.checks.unknowns == 0


def test_two_answers_for_one_id(world, client, topic, serve):
    from txmsg.v1 import check_service_pb2

    server, tx = serve(), uuid7()
    server.raw = check_service_pb2.CheckBatchResponse(
        answers=[answer_to_id(tx, "COMMITTED"), answer_to_id(tx, "ROLLED_BACK")]).SerializeToString()
    client.prepare([message(topic)], tx=tx, producer=producer(world, server))
    view = wait_until(lambda: (lambda v: v if v.checks.last_error else None)(client.get(tx)), 30, "the check has ended")
    assert view.state == PREPARED and "two answers" in view.checks.last_error


def test_application_without_batches(world, client, topic, serve):
    """It is asked for one after UNIMPLEMENTED, which costs no check; that is remembered."""
    server = serve(batch=False, default="COMMITTED")
    name = producer(world, server)
    ids = [uuid7() for _ in range(50)]
    client.batch([prepare_request([message(topic)], producer=name, tx=tx) for tx in ids])
    for tx in ids:
        world.wait_state(tx, CONFIRMED, timeout=60)
    assert server.calls == [("Check", 1)] * 50
    assert {c.check_count for c in server.checks} == {1}


def test_next_endpoint_when_one_is_down(world, client, topic, serve):
    """Nobody listens, one breaks, HTTP errs: the last one is asked, all in one check."""
    broken, good = serve(default="COMMITTED"), serve(default="COMMITTED")
    broken.fail = grpc.StatusCode.UNAVAILABLE
    http = world.check_endpoint()
    http.reply = verdict("MAYBE")
    name = producer(world, f"grpc://127.0.0.1:{free_port()}", broken, http, good)
    for _ in range(4):
        tx = prepare(client, topic, name)
        view = world.wait_state(tx, CONFIRMED)
        assert view.origin == CHECK
        assert {c.check_count for c in good.of(tx)} == {1}


def test_falls_back_to_http(world, client, topic):
    http = world.check_endpoint()
    http.reply = verdict("ROLLED_BACK")
    tx = prepare(client, topic, producer(world, f"grpc://127.0.0.1:{free_port()}", http))
    assert world.wait_state(tx, CANCELLED).origin == CHECK


def test_application_that_comes_back(world, client, topic, serve):
    """Down at first: the checks count as unreachable, and the first one that gets through decides."""
    port = free_port()
    tx = prepare(client, topic, producer(world, f"grpc://127.0.0.1:{port}", max_unknowns=1))
    wait_until(lambda: client.get(tx).checks.last_error, 30, "it was not reached")
    serve(default="COMMITTED", port=port)
    view = world.wait_state(tx, CONFIRMED, timeout=60)
    assert view.checks.unknowns == 0


def test_one_slow_application_delays_no_other(world, client, topic, serve):
    slow, quick = serve(), serve(default="COMMITTED")
    slow.gate = threading.Event()
    name, other = producer(world, slow, timeout="10s"), producer(world, quick)
    for _ in range(40):
        prepare(client, topic, name)
    wait_until(lambda: slow.calls, 30, "the slow one is asked")
    tx = prepare(client, topic, other)
    assert world.wait_state(tx, CONFIRMED, timeout=10).origin == CHECK


def test_confirm_wins_over_a_check_under_way(world, client, topic, serve):
    server = serve(default="ROLLED_BACK")
    server.gate = threading.Event()
    tx = prepare(client, topic, producer(world, server, timeout="20s"))
    wait_until(lambda: server.of(tx), 30, "it is asked")
    assert client.confirm(tx).origin == RPC
    server.gate.set()
    marker = prepare(client, topic, producer(world, serve(default="COMMITTED")))
    world.wait_state(marker, CONFIRMED)
    view = client.get(tx)
    assert (view.state, view.origin) == (CONFIRMED, RPC)


def test_stops_with_a_check_under_way(world, client, topic, serve):
    """A daemon that waits for an application stops at once, and cleanly; the check is made by another one."""
    server = serve(default="COMMITTED")
    server.gate = threading.Event()
    other = world.daemon(world.unique("other")).start()
    tx = prepare(client, topic, producer(world, server, timeout="5s"))
    wait_until(lambda: server.of(tx), 30, "it is asked")
    world.txmsgd.restart()
    assert other.stop() == 0
    server.gate.set()
    assert world.wait_state(tx, CONFIRMED, timeout=90).origin == CHECK
