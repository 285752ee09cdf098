"""libtxmsg as the server of its checks: CheckService at an address of the application's, asked by txmsgd, and by strangers."""

import contextlib
import resource
import socket
import threading

import grpc
import pytest
from harness.client import CANCELLED, CHECK, CONFIRMED, PREPARED, message, prepare_request
from harness.drive import Answerer
from harness.ids import uuid7
from servers.process import wait_until
from txmsg.v1 import check_service_pb2 as check_pb2, check_service_pb2_grpc

OPTIONS = {"check.in_flight": 1024}
CONNECTIONS_MAX, CALLS_MAX = 128, 256
UNKNOWN, COMMITTED, ROLLED_BACK = (check_pb2.CheckResponse.DESCRIPTOR.fields_by_name["decision"].enum_type
                                   .values_by_name[f"CHECK_VERDICT_{w}"].number
                                   for w in ("UNKNOWN", "COMMITTED", "ROLLED_BACK"))


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(sink={"discard": {}})


@pytest.fixture
def serve(world):
    """Answerers of one producer, which is asked at all of them."""
    made, name = contextlib.ExitStack(), world.unique("asked")

    def begin(count=1, policy=None, **options):
        answerers = [made.enter_context(Answerer(world.txmsgd.grpc, name, **options)) for _ in range(count)]
        world.apply(producers=[{"name": name, "check": {
            "endpoints": [a.url for a in answerers], "first_after": "1s", "initial": "1s", "factor": 1, "max": "1s",
            "include_body": True, "concurrency": 512, "timeout": "60s", **(policy or {})}}])
        return answerers[0] if count == 1 else answerers

    begin.producer = name
    with made:
        yield begin


@pytest.fixture
def alone():
    """One that nobody asks but the test: its producer is at no service."""
    with contextlib.ExitStack() as made:
        yield lambda **options: made.enter_context(Answerer("127.0.0.1:1", **options))


def prepare(world, topic, producer, body):
    tx = uuid7()
    world.client.prepare([message(topic, body)], tx=tx, producer=producer)
    return tx


def check_request(producer="shop", body=b"committed", **more):
    return check_pb2.CheckRequest(**{"transaction_id": uuid7(), "producer": producer, "check_count": 1,
                                     "messages": [{"n": 0, "topic": "t", "body": body}], **more})


@contextlib.contextmanager
def stub(answerer):
    with grpc.insecure_channel(f"127.0.0.1:{answerer.port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield check_service_pb2_grpc.CheckServiceStub(channel)


def waiting(port):
    """Connections that were made and not accepted, as the kernel counts them at the listening socket."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table.readlines()[1:]:
            words = line.split()
            if words[1].endswith(f":{port:04X}") and words[3] == "0A":
                return int(words[4].split(":")[1], 16)
    return None


# --- asked by the service ---

@pytest.mark.parametrize("word,state", [("committed", CONFIRMED), ("rolled_back", CANCELLED)])
def test_verdict(world, topic, serve, word, state):
    answerer = serve()
    tx = prepare(world, topic, serve.producer, word)
    assert world.wait_state(tx, state).origin == CHECK
    count = answerer("count")
    assert (count["asked"], count["could_free"]) == ("1", "0")


def test_unknown_is_asked_again(world, topic, serve):
    answerer = serve()
    tx = prepare(world, topic, serve.producer, "undecided")
    wait_until(lambda: int(answerer("count")["max_count"]) >= 2, 30, "it was asked again")
    view = world.client.get(tx)
    assert view.state == PREPARED and view.checks.unknowns >= 1


@pytest.mark.parametrize("at", ["127.0.0.1:0", "-"], ids=["address", "streams"])
def test_what_cannot_be_found_out_does_not_count(world, topic, serve, at):
    answerer = serve(at=at, policy={"max_unknowns": 2} if at != "-" else {"max_unknowns": 2, "endpoints": []})
    tx = prepare(world, topic, serve.producer, "no_answer")
    wait_until(lambda: int(answerer("count")["asked"]) >= 4, 60, "it is asked more often than it may be unknown")
    view = world.client.get(tx)
    assert (view.state, view.checks.unknowns) == (PREPARED, 0) and "without a decision" in view.checks.last_error


def test_many_at_once(world, topic, serve):
    """They come in batches; each gets its own answer."""
    answerer = serve(threads=4)
    ids = {uuid7(): "rolled_back" if i % 3 == 0 else "committed" for i in range(600)}
    world.client.batch([prepare_request([message(topic, body)], serve.producer, tx) for tx, body in ids.items()])
    wait_until(lambda: world.sql("SELECT count(*) FROM decision WHERE producer = %s", serve.producer)[0][0] == 600, 90,
               "all are decided")
    for tx, body in list(ids.items())[::50]:
        assert world.client.get(tx).state == (CANCELLED if body == "rolled_back" else CONFIRMED)
    assert int(answerer("count")["asked"]) >= 600


def test_a_slow_listener_settles_some_of_each_batch(world, topic, serve):
    """A batch takes it longer than the service waits. What it has answered until then counts."""
    serve(ms=50, policy={"timeout": "1s"})
    ids = [uuid7() for _ in range(60)]
    world.client.batch([prepare_request([message(topic, "committed")], serve.producer, tx) for tx in ids])
    for tx in ids:
        assert world.wait_state(tx, CONFIRMED, timeout=90).origin == CHECK


def test_bodies_come_with_the_answers(world, topic, serve):
    """Together they are more than a batch may bring: the rest comes with the next one."""
    serve(later=200000, threads=4)
    ids = [uuid7() for _ in range(20)]
    world.client.batch([prepare_request([message(topic, b"", body_later=True)], serve.producer, tx) for tx in ids])
    for tx in ids:
        assert world.wait_state(tx, CONFIRMED, timeout=90).origin == CHECK
        assert world.client.get(tx, bodies=True).messages[0].message.body == b"x" * 200000


def hold_one(world, topic, serve):
    """Two of which one is asked and thinks: that one, the other, and the transaction."""
    both = serve(count=2)
    for answerer in both:
        answerer.tell("hold")
    tx = prepare(world, topic, serve.producer, "committed")
    held = wait_until(lambda: next((a for a in both if a("count")["running"] == "1"), None), 30, "one is asked")
    other, = (a for a in both if a is not held)
    other.tell("release")
    assert other("count")["asked"] == "0"
    return held, other, tx


def test_the_next_one_answers_for_one_that_is_killed(world, topic, serve):
    """In the middle of a check: it is asked at the next endpoint, in the same check."""
    held, other, tx = hold_one(world, topic, serve)
    held.kill()
    assert world.wait_state(tx, CONFIRMED).origin == CHECK
    count = other("count")
    assert (count["asked"], count["max_count"]) == ("1", "1")


def test_free_waits_for_the_listener_and_gives_the_port_back(world, topic, serve):
    held, other, tx = hold_one(world, topic, serve)
    held.tell("free")
    # the call has ended, so the other one is asked, while the listener of this one still runs
    assert world.wait_state(tx, CONFIRMED).origin == CHECK
    assert held("count")["running"] == "1" # and free has not returned, or its line had come first
    assert socket.socket().connect_ex(("127.0.0.1", held.port)) != 0
    held.tell("release")
    assert held.hear()["status"] == "OK"
    assert held("again")["status"] == "ERROR_CLOSED"
    assert other("clash", f"127.0.0.1:{held.port}")["status"] == "OK" # the port is free


# --- asked by anybody ---

def test_each_answer_is_for_its_id(alone):
    with stub(alone()) as service:
        single = check_request(body=b"rolled_back")
        answer = service.Check(single, timeout=30)
        assert (answer.transaction_id, answer.decision) == (single.transaction_id, ROLLED_BACK)
        words = {b"committed": COMMITTED, b"rolled_back": ROLLED_BACK, b"who knows": UNKNOWN}
        checks = [check_request(body=body) for body in list(words) * 33]
        answers = service.CheckBatch(check_pb2.CheckBatchRequest(checks=checks), timeout=30).answers
        assert {a.transaction_id: a.decision for a in answers} == \
            {c.transaction_id: words[c.messages[0].body] for c in checks}


REFUSED = {
    "another producer": ("Check", lambda: check_request("other"), grpc.StatusCode.FAILED_PRECONDITION),
    "another producer in a batch": ("CheckBatch", lambda: check_pb2.CheckBatchRequest(
        checks=[check_request(), check_request("other")]), grpc.StatusCode.FAILED_PRECONDITION),
    "no id": ("Check", lambda: check_request(transaction_id="x"), grpc.StatusCode.INVALID_ARGUMENT),
    "no check": ("CheckBatch", check_pb2.CheckBatchRequest, grpc.StatusCode.INVALID_ARGUMENT),
    "101 checks": ("CheckBatch", lambda: check_pb2.CheckBatchRequest(checks=[check_request() for _ in range(101)]),
                   grpc.StatusCode.INVALID_ARGUMENT),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_never_reaches_the_listener(alone, what):
    method, request, code = REFUSED[what]
    answerer = alone()
    with stub(answerer) as service:
        with pytest.raises(grpc.RpcError) as error:
            getattr(service, method)(request(), timeout=30)
        assert error.value.code() == code and error.value.details()
        assert answerer("count")["asked"] == "0"
        assert service.Check(check_request(), timeout=30).decision == COMMITTED


@pytest.mark.parametrize("method,raw,code", [
    ("Check", b"<html>", grpc.StatusCode.INVALID_ARGUMENT), ("Check", b"\x0a\x02\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
    ("CheckBatch", b"\x0a\x05", grpc.StatusCode.INVALID_ARGUMENT), ("Other", b"", grpc.StatusCode.UNIMPLEMENTED),
    ("Check", b"x" * (33 << 20), grpc.StatusCode.RESOURCE_EXHAUSTED)], ids=["html", "no text", "cut off", "unknown", "large"])
def test_what_is_no_request(alone, method, raw, code):
    answerer = alone()
    with grpc.insecure_channel(f"127.0.0.1:{answerer.port}") as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(f"/txmsg.v1.CheckService/{method}")(raw, timeout=60)
        assert error.value.code() == code
        assert check_service_pb2_grpc.CheckServiceStub(channel).Check(check_request(), timeout=30).decision == COMMITTED


def test_one_id_that_is_none_is_left_out(alone):
    with stub(alone()) as service:
        good = check_request()
        batch = check_pb2.CheckBatchRequest(checks=[check_request(transaction_id="nonsense"), good])
        answers = service.CheckBatch(batch, timeout=30).answers
        assert [a.transaction_id for a in answers] == [good.transaction_id]


def test_nobody_is_asked_for_those_who_wait_no_more(alone):
    """Of two calls one listener has the first; both give up. The second is never asked, the first is ignored."""
    answerer = alone()
    answerer.tell("hold")
    with stub(answerer) as service:
        first = service.Check.future(check_request(), timeout=60)
        wait_until(lambda: answerer("count")["running"] == "1", 30, "it is asked")
        second = service.Check.future(check_request(), timeout=1)
        # The end of both clocks: that of the server is CANCELLED if it comes first.
        assert second.exception(60).code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
        assert first.cancel()
        third = service.Check.future(check_request(), timeout=60)
        with pytest.raises(grpc.RpcError): # on the same connection, so what came before it was seen
            service.Check(check_request("other"), timeout=60)
        answerer.tell("release")
        assert third.result(60).decision == COMMITTED
        assert answerer("count")["asked"] == "2"


def test_a_batch_is_answered_in_part_before_its_deadline(alone):
    answerer = alone(ms=100)
    with stub(answerer) as service:
        checks = [check_request() for _ in range(100)]
        answers = service.CheckBatch(check_pb2.CheckBatchRequest(checks=checks), timeout=6).answers
        assert 0 < len(answers) < 100
        assert {a.transaction_id for a in answers} <= {c.transaction_id for c in checks}
        assert {a.decision for a in answers} == {COMMITTED}


def test_too_many_calls_are_refused(alone):
    """Over four connections, for one may have 100 at a time. The others are answered, and later ones too."""
    answerer = alone(threads=16)
    answerer.tell("hold")
    with contextlib.ExitStack() as stubs:
        services = [stubs.enter_context(stub(answerer)) for _ in range(4)]
        calls = [s.Check.future(check_request(), timeout=120) for s in services for _ in range(90)]
        beyond = len(calls) - CALLS_MAX
        wait_until(lambda: sum(c.done() for c in calls) >= beyond, 60, "the rest is refused")
        assert {c.exception().code() for c in calls if c.done()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        answerer.tell("release")
        assert sum(c.exception(120) is None for c in calls) == CALLS_MAX
        assert services[0].Check(check_request(), timeout=30).decision == COMMITTED


def test_connections_beyond_the_bound_wait(alone):
    answerer = alone()
    silent = [socket.create_connection(("127.0.0.1", answerer.port)) for _ in range(CONNECTIONS_MAX + 1)]
    wait_until(lambda: waiting(answerer.port) == 1, 30, "all but one were accepted")
    with stub(answerer) as service:
        call = service.Check.future(check_request(), timeout=120, wait_for_ready=True)
        wait_until(lambda: waiting(answerer.port) == 2, 30, "the call's waits, too")
        for one in silent:
            one.close()
        assert call.result(120).decision == COMMITTED


def test_without_descriptors_the_port_comes_back(alone):
    """Somebody connects while the application has no descriptor left. Nothing is lost when it has some again."""
    answerer = alone()
    pid = answerer.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    with stub(answerer) as service:
        call = service.Check.future(check_request(), timeout=120, wait_for_ready=True)
        wait_until(lambda: waiting(answerer.port) == 1, 30, "it could not be accepted")
        assert answerer("count")["asked"] == "0"
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert call.result(120).decision == COMMITTED


@pytest.mark.parametrize("address,errno", [
    ("taken", "EADDRINUSE"), ("127.0.0.1", "EINVAL"), ("127.0.0.1:", "EINVAL"), (":7500", "EINVAL"),
    ("127.0.0.1:http", "EINVAL"), ("127.0.0.1:70000", "EINVAL"), ("192.0.2.1:7500", "EADDRNOTAVAIL"), ("nobody.invalid:1", "EADDRNOTAVAIL")])
def test_an_address_that_cannot_be_says_why(alone, address, errno):
    answerer = alone()
    answer = answerer("clash", f"127.0.0.1:{answerer.port}" if address == "taken" else address)
    assert (answer["status"], answer["errno"]) == ("ERROR_ADDRESS", errno)
    with stub(answerer) as service:
        assert service.Check(check_request(), timeout=30).decision == COMMITTED


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::1]:0", "localhost:0"])
def test_forms_of_an_address(alone, address):
    answerer = alone(at=address)
    host = "[::1]" if "::" in address else "localhost" if "local" in address else "127.0.0.1"
    with grpc.insecure_channel(f"{host}:{answerer.port}") as channel:
        assert check_service_pb2_grpc.CheckServiceStub(channel).Check(check_request(), timeout=30).decision == COMMITTED


def test_misuse(alone):
    answer = alone()("misuse")
    assert answer["right"] == answer["of"]


def test_two_clients_in_one_process_and_many_askers(alone):
    """While other threads ask, clients that serve come and go."""
    answerer, stop = alone(threads=8), threading.Event()
    faults = []

    def ask():
        with stub(answerer) as service:
            while not stop.is_set():
                batch = check_pb2.CheckBatchRequest(checks=[check_request() for _ in range(20)])
                if len(service.CheckBatch(batch, timeout=60).answers) != 20:
                    faults.append("answers are missing")

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for _ in range(20):
        assert answerer("clash", "127.0.0.1:0")["status"] == "OK"
    stop.set()
    for asker in askers:
        asker.join(60)
    assert not faults
