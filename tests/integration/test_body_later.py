"""A body that is born inside the local transaction: declared at Prepare, given by whoever decides."""

import base64
import json
import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from harness.checks import CheckServer
from harness.client import (ADMIN, CANCELLED, CHECK, CONFIRMED, DELIVERY, PREPARED, RPC, STUCK, Client, message,
                            prepare_request, publish_request, refused, result_error, result_state)
from harness.ids import uuid7
from harness.peers import Reply, verdict
from harness.pipeline import Pipe
from harness.pull import Puller, answer_to
from harness.world import subscription
from servers.process import wait_until
from txmsg.v1 import message_service_pb2 as service_pb2, transaction_pb2

OPTIONS = {"limits.body": "1KiB", "limits.transaction": "2KiB"}


@pytest.fixture(scope="module")
def sink(world):
    return world.sink()


@pytest.fixture(scope="module")
def topic(world, sink):
    return world.topic(http={"http": {"url": sink.url("/")}})


def later(topic, **fields):
    return transaction_pb2.Message(topic=topic, body_later=True, **fields)


def bodies(*pairs):
    return [transaction_pb2.MessageBody(n=n, body=body) for n, body in pairs]


def prepared(client, *messages, producer="shop"):
    tx = uuid7()
    assert client.prepare(list(messages), tx=tx, producer=producer).state == PREPARED
    return tx


def asked(world, *endpoints, **policy):
    name = world.unique("p")
    world.apply(producers=[{"name": name, "check": {
        "endpoints": list(endpoints), "first_after": "1s", "initial": "1s", "factor": 1, "max": "1s", "timeout": "2s",
        **policy}}])
    return name


def confirm_request(tx, *pairs):
    return service_pb2.ConfirmRequest(transaction_id=tx, bodies=bodies(*pairs))


def test_confirm_brings_the_body(world, client, sink, topic):
    tx = prepared(client, later(topic, key=b"k", headers={"h": "1"}))
    view = client.get(tx, bodies=True).messages[0]
    assert (view.message.body_later, view.message.body, view.body_size) == (True, b"", 0)
    assert client.confirm(tx, bodies=bodies((0, b"born inside"))).state == CONFIRMED
    got = sink.wait_for(tx)[0]
    assert got.body == b"born inside" and got.headers["h"] == "1"
    view = client.get(tx, bodies=True).messages[0]
    assert (view.message.body_later, view.message.body, view.body_size) == (True, b"born inside", 11)
    assert client.get(tx).messages[0].body_size == 11


def test_some_of_many(world, client, sink, topic):
    """Each message gets its own, whatever the order of the request; those that have one keep it; an empty one is a body."""
    tx = prepared(client, message(topic, b"zero"), later(topic), message(topic, b"two"), later(topic), later(topic))
    client.confirm(tx, bodies=bodies((4, b""), (1, b"one"), (3, b"three")))
    for n, body in enumerate([b"zero", b"one", b"two", b"three", b""]):
        assert sink.wait_for(tx, n)[0].body == body
    view = client.get(tx, bodies=True)
    assert [m.message.body for m in view.messages] == [b"zero", b"one", b"two", b"three", b""]
    assert [m.body_size for m in view.messages] == [4, 3, 3, 5, 0]


@pytest.mark.parametrize("given", [(), ((0, b"x"),), ((1, b"x"), (2, b"x")), ((2, b"x"),), ((1, b"x"), (99, b"x"))],
                         ids=["none", "of another", "one too many", "instead", "of no message"])
def test_wrong_set_is_refused(client, topic, given):
    tx = prepared(client, message(topic), later(topic), message(topic))
    with refused("INVALID_ARGUMENT", "BODIES_MISMATCH"):
        client.confirm(tx, bodies=bodies(*given))
    assert client.get(tx).state == PREPARED
    assert client.confirm(tx, bodies=bodies((1, b"x"))).state == CONFIRMED


def test_bodies_nobody_declared(client, topic):
    tx = prepared(client, message(topic))
    with refused("INVALID_ARGUMENT", "BODIES_MISMATCH"):
        client.confirm(tx, bodies=bodies((0, b"x")))
    assert client.confirm(tx).state == CONFIRMED
    with refused("INVALID_ARGUMENT", "BODIES_MISMATCH"):
        client.confirm(tx, bodies=bodies((0, b"x")))


@pytest.mark.parametrize("given, field", [
    (((0, b"x" * 1025), (1, b"")), "bodies[0].body"), (((0, b"x"), (0, b"x")), "bodies[1].n"),
    (((0, b"x"), (128, b"x")), "bodies[1].n"), (((0, b"x" * 1024), (1, b"x" * 1024), (2, b"x")), "bodies")])
def test_bodies_beyond_limits(client, topic, given, field):
    tx = prepared(client, *[later(topic)] * 3)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.confirm(tx, bodies=bodies(*given))
    assert field in caught.error.fields
    client.cancel(tx)


def test_declared_with_a_body(client, topic):
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.prepare([message(topic), later(topic, body=b"x")], tx=uuid7())
    assert "messages[1].body" in caught.error.fields


def test_publish_with_body_later(client, topic):
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.publish([later(topic)], tx=uuid7())
    assert "messages[0].body_later" in caught.error.fields


def test_repeated_prepare(client, topic):
    """Declared is another content than an empty body."""
    tx = prepared(client, later(topic))
    assert client.prepare([later(topic)], tx=tx).state == PREPARED
    for other in ([message(topic, b"")], [later(topic), later(topic)]):
        with refused("ALREADY_EXISTS", "CONTENT_DIFFERS"):
            client.prepare(other, tx=tx)
    with refused("ALREADY_EXISTS", "CONTENT_DIFFERS"):
        client.publish([message(topic, b"")], tx=tx)
    client.cancel(tx)


def test_repeated_confirm(client, topic):
    """The same bodies agree, others differ, none are none; and after a Cancel none help."""
    tx = prepared(client, later(topic), later(topic))
    first = client.confirm(tx, bodies=bodies((0, b"a"), (1, b"b")))
    assert client.confirm(tx, bodies=bodies((1, b"b"), (0, b"a"))).decision_time == first.decision_time
    for given in (((0, b"b"), (1, b"a")), ((0, b"a"), (1, b"")), ((0, b"ab"), (1, b""))):
        with refused("ALREADY_EXISTS", "CONTENT_DIFFERS"):
            client.confirm(tx, bodies=bodies(*given))
    for given in ((), ((0, b"a"),)):
        with refused("INVALID_ARGUMENT", "BODIES_MISMATCH"):
            client.confirm(tx, bodies=bodies(*given))
    with refused("FAILED_PRECONDITION", "DECIDED_OTHERWISE", decision="COMMITTED"):
        client.cancel(tx)
    gone = prepared(client, later(topic))
    assert client.cancel(gone).state == CANCELLED
    for given in ((), ((0, b"a"),)):
        with refused("FAILED_PRECONDITION", "DECIDED_OTHERWISE", decision="ROLLED_BACK"):
            client.confirm(gone, bodies=bodies(*given))


def test_batch(client, sink, topic):
    """Good and bad ones together, with Prepare and Confirm of one id in one call."""
    a, b, c, d = (uuid7() for _ in range(4))
    results = client.batch([
        prepare_request([later(topic)], tx=a), confirm_request(a, (0, b"of a")),
        prepare_request([message(topic, b"of b")], tx=b), confirm_request(b),
        prepare_request([later(topic), later(topic)], tx=c), confirm_request(c, (0, b"half")),
        prepare_request([later(topic), message(topic, b"1")], tx=d), confirm_request(d, (0, b"of d"))])
    assert [result_state(results[i]) for i in (0, 1, 2, 3, 4, 6, 7)] == [PREPARED, CONFIRMED, PREPARED, CONFIRMED,
                                                                       PREPARED, PREPARED, CONFIRMED]
    assert result_error(results[5]).reason == "BODIES_MISMATCH"
    for tx, n, body in ((a, 0, b"of a"), (b, 0, b"of b"), (d, 0, b"of d"), (d, 1, b"1")):
        assert sink.wait_for(tx, n)[0].body == body
    assert client.get(c).state == PREPARED
    assert result_error(client.batch([publish_request([later(topic)], tx=uuid7())])[0]).reason == "INVALID_FIELD"


def test_pipeline(client, sink, topic):
    pipe = Pipe(client)
    ids = [uuid7() for _ in range(100)]
    assert all(result_state(r) == PREPARED for r in pipe.run([prepare_request([later(topic)], tx=tx) for tx in ids]))
    results = pipe.run([confirm_request(tx, (0, tx.encode())) for tx in ids])
    assert all(result_state(r) == CONFIRMED for r in results)
    assert [sink.wait_for(tx)[0].body for tx in ids] == [tx.encode() for tx in ids]
    wrong = pipe.run([confirm_request(ids[0]), confirm_request(ids[1], (0, b"other"))])
    assert [result_error(r).reason for r in wrong] == ["BODIES_MISMATCH", "CONTENT_DIFFERS"]


class TestCheck:
    """The answer to a check brings them, over every way of asking."""

    @pytest.fixture(params=["HTTP", "Check", "CheckBatch", "stream"])
    def way(self, world, client, request):
        """(name of the producer, rules by id: (word, ((n, body), ...)), what was asked of an id)"""
        rules, way = {}, request.param

        def form(check):
            word, pairs = rules.get(check.transaction_id, ("UNKNOWN", ()))
            return answer_to(check, word, bodies=bodies(*pairs))

        def page(request):
            word, pairs = rules.get(request.json()["transactionId"], ("UNKNOWN", ()))
            return verdict(word, bodies=[{"n": n, "bodyBase64": base64.b64encode(b).decode()} for n, b in pairs])(request)

        if way == "HTTP":
            endpoint = world.check_endpoint()
            endpoint.reply = page
            yield asked(world, endpoint.url("/check")), rules, lambda tx: [
                m.get("bodyLater", False) for m in endpoint.got(tx)[0].json()["messages"]]
        elif way == "stream":
            name = asked(world)
            puller = Puller(client, name)
            puller.decide = form
            yield name, rules, lambda tx: [m.body_later for m in puller.of(tx)[0].check.messages]
            puller.close()
        else:
            server = CheckServer(batch=way == "CheckBatch")
            server._answer = form
            yield asked(world, server.url), rules, lambda tx: [m.body_later for m in server.of(tx)[0].messages]
            server.close()

    def test_brings_the_bodies(self, world, client, sink, topic, way):
        name, rules, declared = way
        tx = uuid7()
        rules[tx] = ("COMMITTED", ((2, b"\x00\xff"), (0, b"by check")))
        client.prepare([later(topic), message(topic, b"kept"), later(topic)], tx=tx, producer=name)
        assert world.wait_state(tx, CONFIRMED).origin == CHECK
        assert [sink.wait_for(tx, n)[0].body for n in range(3)] == [b"by check", b"kept", b"\x00\xff"]
        assert declared(tx) == [True, False, True]
        assert client.confirm(tx, bodies=bodies((0, b"by check"), (2, b"\x00\xff"))).origin == CHECK
        with refused("ALREADY_EXISTS", "CONTENT_DIFFERS"):
            client.confirm(tx, bodies=bodies((0, b"other"), (2, b"\x00\xff")))

    @pytest.mark.parametrize("pairs", [(), ((1, b"x"),), ((0, b"x"), (1, b"x")), ((0, b"x"), (0, b"x")), ((0, b"x" * 1025),)],
                             ids=["none", "of another", "one too many", "twice", "too large"])
    def test_wrong_set_is_no_answer(self, world, client, topic, way, pairs):
        name, rules, _ = way
        tx = uuid7()
        rules[tx] = ("COMMITTED", pairs)
        client.prepare([later(topic), message(topic)], tx=tx, producer=name)
        wait_until(lambda: world.sql("SELECT failures FROM check_due WHERE tx = %s", tx)[:1] >= [(1,)], 20, "it was asked")
        assert client.get(tx).state == PREPARED
        rules[tx] = ("COMMITTED", ((0, b"right"),))
        assert world.wait_state(tx, CONFIRMED).origin == CHECK

    def test_rolled_back_brings_none(self, world, client, topic, way):
        name, rules, _ = way
        tx = uuid7()
        rules[tx] = ("ROLLED_BACK", ())
        client.prepare([later(topic)], tx=tx, producer=name)
        assert world.wait_state(tx, CANCELLED).origin == CHECK


@pytest.mark.parametrize("given", [
    "text", {"n": 0, "body": "x"}, [{"n": 0}], [{"body": "x"}], [{"n": "0", "body": "x"}], [{"n": 0, "body": 1}],
    [{"n": 0, "bodyBase64": "!"}], [{"n": 0, "body": "x", "bodyBase64": "eA=="}], [{"n": -1, "body": "x"}], ["x"]])
def test_malformed_bodies_of_an_http_answer(world, client, topic, given):
    endpoint = world.check_endpoint()
    tx = uuid7()
    endpoint.reply = lambda request: Reply(200, json.dumps({"transactionId": tx, "decision": "COMMITTED",
                                                            "bodies": given}).encode())
    client.prepare([later(topic)], tx=tx, producer=asked(world, endpoint.url("/check")))
    wait_until(lambda: world.sql("SELECT failures FROM check_due WHERE tx = %s", tx)[:1] >= [(1,)], 20, "it was asked")
    assert client.get(tx).state == PREPARED
    client.cancel(tx)


class TestStuck:
    @pytest.fixture
    def stuck(self, world, client, topic):
        endpoint = world.check_endpoint()
        tx = prepared(client, later(topic), producer=asked(world, endpoint.url("/check"), max_unknowns=1))
        world.wait_state(tx, STUCK)
        return tx

    def test_resolved_with_bodies(self, world, client, sink, stuck):
        resolve = ("stuck", "resolve", stuck, "--decision", "committed", "--reason", "seen in the books")
        done = world.ctl.run(*resolve)
        assert done.returncode == 1 and "BODIES_MISMATCH" in done.stderr and client.get(stuck).state == STUCK
        world.ctl(*resolve, "--body", "by hand")
        assert sink.wait_for(stuck)[0].body == b"by hand"
        assert client.get(stuck).origin == ADMIN
        done = world.ctl.run(*resolve, "--body", "another")
        assert done.returncode == 1 and "CONTENT_DIFFERS" in done.stderr

    def test_rolled_back_without(self, world, client, stuck):
        resolve = ("stuck", "resolve", stuck, "--decision", "rolled_back", "--reason", "r")
        done = world.ctl.run(*resolve, "--body", "x")
        assert done.returncode == 1 and "BODIES_MISMATCH" in done.stderr
        world.ctl(*resolve)
        assert client.get(stuck).state == CANCELLED


def test_command_line(world, client, sink, topic, tmp_path):
    tx = uuid7()
    world.ctl("prepare", "--producer", "shop", "--topic", topic, "--id", tx, "--body-later")
    assert "body to come" in world.ctl("get", tx, "--bodies")
    world.ctl("confirm", tx, "--body", "typed")
    assert sink.wait_for(tx)[0].body == b"typed"
    assert "typed" in world.ctl("get", tx, "--bodies")
    two = prepared(client, later(topic), later(topic))
    (tmp_path / "one").write_bytes(b"from a file")
    world.ctl("confirm", two, "--body", "zero", "--body-of", f"1={tmp_path / 'one'}")
    assert [sink.wait_for(two, n)[0].body for n in (0, 1)] == [b"zero", b"from a file"]
    for wrong in (("--body-of", "x"), ("--body", "x", "--body-file", "-"), ("--body-of", "0=/nowhere")):
        assert world.ctl.run("confirm", two, *wrong).returncode == 2
    assert world.ctl.run("publish", "--producer", "shop", "--topic", topic, "--body-later").returncode == 2


def test_with_a_time_of_delivery(client, sink, topic):
    """Delayed and then completed: it comes with its body, after another one that was confirmed later."""
    at = Timestamp(nanos=int((time.time() + 4) * 1e9) % 10**9, seconds=int(time.time() + 4))
    tx = prepared(client, later(topic, deliver_at=at))
    client.confirm(tx, bodies=bodies((0, b"in time")))
    sink.wait_for(client.publish([message(topic)], tx=uuid7()).transaction_id)
    assert not sink.of(tx)
    assert sink.wait_for(tx)[0].body == b"in time"


def test_dead_letter_and_redrive(world, client, topic):
    """The dead letter holds the completed bodies, of a first attempt and of a retry, and sends them again."""
    bad = world.sink()
    again = world.unique("t")
    world.apply(topics=[again], subscriptions=[
        subscription(f"{again}-at-once", again, {"http": {"url": bad.url("/at-once")}}),
        subscription(f"{again}-retried", again, {"http": {"url": bad.url("/retried")}},
                     retry={"initial": "10ms", "max": "10ms", "max_attempts": 2})])
    bad.reply = lambda request: Reply(410 if request.path == "/at-once" else 500)
    tx = prepared(client, later(again), message(again, b"one"), later(again))
    client.confirm(tx, bodies=bodies((0, b"zero"), (2, b"two")))
    both = (f"{again}-at-once", f"{again}-retried")
    for name in both:
        for n in range(3):
            world.wait_delivery(tx, name, DELIVERY["DEAD"], n)
    bad.reply = Reply(200)
    for name in both:
        letters = world.sql("SELECT n, body FROM dead_letter x JOIN subscription s ON s.id = x.sub WHERE s.name = %s"
                            " ORDER BY n", name)
        assert [(n, bytes(body)) for n, body in letters] == [(0, b"zero"), (1, b"one"), (2, b"two")]
        before = len(bad.got())
        world.ctl("dead", "redrive", "--subscription", name, "--force")
        wait_until(lambda: len(bad.got()) >= before + 3, 20, "all are sent again")
        assert sorted(r.body for r in bad.got()[before:]) == [b"one", b"two", b"zero"]


def test_survives_a_takeover(world, sink, topic):
    """Prepared at one replica, confirmed at another after the first was killed: what is sent has the bodies."""
    second = world.daemon("second")
    second.start()
    there = Client(second.grpc)
    ids = [uuid7() for _ in range(20)]
    for tx in ids:
        there.prepare([later(topic)], tx=tx)
    for tx in ids[:10]:
        there.confirm(tx, bodies=bodies((0, b"before " + tx.encode())))
    second.kill()
    there.close()
    for tx in ids[10:]:
        world.client.confirm(tx, bodies=bodies((0, b"after " + tx.encode())))
    for i, tx in enumerate(ids):
        assert sink.wait_for(tx, timeout=60)[0].body == (b"before " if i < 10 else b"after ") + tx.encode()
    for tx in ids[:10]:
        assert world.client.confirm(tx, bodies=bodies((0, b"before " + tx.encode()))).origin == RPC
