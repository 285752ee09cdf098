"""Pull mode: checks go down streams that the producer opened, answers come up, and decide."""

import contextlib

import pytest
from harness.client import (CANCELLED, CHECK, CONFIRMED, PREPARED, RPC, STUCK, Client, error_of, message, prepare_request)
from harness.ids import uuid7
from harness.peers import verdict
from harness.pull import Puller, answer_to
from servers.process import wait_until

OPTIONS = {"check.in_flight": 1024}


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


@pytest.fixture
def shop(world):
    """A new producer without endpoints; its name."""
    return producer(world)


@pytest.fixture
def pull(client):
    """Opens streams of producers; they are closed with the test."""
    with contextlib.ExitStack() as streams:
        def opened(name, to=client, **fields):
            puller = Puller(to, name, **fields)
            streams.callback(puller.close)
            return puller

        yield opened


def producer(world, **policy):
    name = world.unique("p")
    world.apply(producers=[{"name": name, "check": {"first_after": "1s", "initial": "1s", "factor": 1, "max": "1s",
                                                    "timeout": "2s", "concurrency": 512, **policy}}])
    return name


def prepare(client, topic, name, **fields):
    tx = uuid7()
    client.prepare([message(topic, b"body")], tx=tx, producer=name, **fields)
    return tx


def open_streams(world, daemon=None):
    lines = (daemon or world.txmsgd).get("/metrics")[1].splitlines()
    return {line.split('"')[1]: int(line.split()[-1]) for line in lines if line.startswith("txmsg_check_streams{")}


def wait_streams(world, name, count, daemon=None):
    wait_until(lambda: open_streams(world, daemon).get(name, 0) == count, 20, f"{count} streams of {name}")


@pytest.mark.parametrize("word, state", [("COMMITTED", CONFIRMED), ("ROLLED_BACK", CANCELLED)])
def test_verdict(world, client, topic, shop, pull, word, state):
    puller, tx = pull(shop, default=word), uuid7()
    client.prepare([message(topic, b"checked", key=b"k", headers={"h": "1"})], tx=tx, producer=shop,
                   business_key="order-7")
    view = world.wait_state(tx, state)
    assert view.origin == CHECK
    asked = puller.of(tx)
    assert len(asked) == 1
    check = asked[0].check
    assert (check.producer, check.business_key, check.check_count) == (shop, "order-7", 1)
    assert check.prepared_time.ToMilliseconds() == int(tx.replace("-", "")[:12], 16)
    assert [(m.n, m.topic, m.key, dict(m.headers), m.body) for m in check.messages] == [(0, topic, b"k", {"h": "1"}, b"")]
    assert asked[0].deadline.ToMilliseconds() > check.prepared_time.ToMilliseconds()


def test_include_body(world, client, topic, pull):
    name = producer(world, include_body=True)
    puller = pull(name, default="COMMITTED")
    tx = prepare(client, topic, name)
    world.wait_state(tx, CONFIRMED)
    assert puller.of(tx)[0].check.messages[0].body == b"body"


def test_unknowns_end_stuck(world, client, topic, pull):
    name = producer(world, max_unknowns=2)
    puller = pull(name)
    tx = prepare(client, topic, name)
    view = world.wait_state(tx, STUCK)
    assert (view.checks.unknowns, view.checks.count, len(puller.of(tx))) == (2, 2, 2)


def test_nobody_asks_before_a_stream_is_open(world, client, topic, shop, pull):
    """Undecided rows wait, without counting anything, and go down as soon as somebody comes."""
    tx, other = prepare(client, topic, shop), producer(world)
    marker = prepare(client, topic, other)
    pull(other, default="COMMITTED")
    world.wait_state(marker, CONFIRMED)
    assert client.get(tx).checks.count == 0
    puller = pull(shop, default="COMMITTED")
    world.wait_state(tx, CONFIRMED)
    assert [c.check.check_count for c in puller.of(tx)] == [1]


@pytest.mark.parametrize("bad", ["another id", "no decision", "bodies", "no answer", "another tag"])
def test_anything_else_is_no_verdict(world, client, topic, shop, pull, bad):
    """It counts as unreachable: never a decision, never towards the limit; the next check is asked again."""
    puller = pull(shop)
    rules = {
        "another id": lambda check: answer_to(check, "COMMITTED", transaction_id=uuid7()),
        "no decision": lambda check: answer_to(check, "UNSPECIFIED"),
        "bodies": lambda check: answer_to(check, "COMMITTED", bodies=[{"n": 0, "body": b"x"}]),
        "no answer": lambda check: None,
        "another tag": lambda check: None,
    }
    puller.decide = rules[bad]
    tx = prepare(client, topic, shop)
    first = puller.wait(tx)[0]
    if bad == "another tag":
        puller.send([(first.tag + 1000, answer_to(first.check, "COMMITTED")), (0, answer_to(first.check, "COMMITTED"))])
    view = wait_until(lambda: (lambda v: v if v.checks.last_error else None)(client.get(tx)), 30, "the check has ended")
    assert (view.state, view.checks.unknowns) == (PREPARED, 0) and view.checks.last_error.startswith("stream: ")
    puller.decide = {tx: "COMMITTED"}
    assert world.wait_state(tx, CONFIRMED).origin == CHECK


def test_who_gave_no_answer_is_not_asked_at_once_again(world, client, topic, shop, pull):
    """Another stream is, with the same check; the only one waits for the next."""
    nonsense = lambda check: answer_to(check, "UNSPECIFIED")
    only = pull(shop)
    only.decide = nonsense
    alone = prepare(client, topic, shop)
    only.wait(alone, 3)
    assert [c.check.check_count for c in only.of(alone)][:3] == [1, 2, 3]
    client.cancel(alone)
    other = pull(shop)
    other.decide = nonsense
    wait_streams(world, shop, 2)
    tx = prepare(client, topic, shop)
    counts = [[c.check.check_count for c in puller.wait(tx, 2)][:2] for puller in (only, other)]
    assert counts == [[1, 2], [1, 2]]


def test_late_answer_counts_for_nothing(world, client, topic, shop, pull):
    """Its time is over, so the check was given to somebody else."""
    slow = pull(shop)
    slow.decide = {}
    slow.default = None
    tx = prepare(client, topic, shop)
    late = slow.wait(tx)[0]
    other = pull(shop, default="ROLLED_BACK")
    world.wait_state(tx, CANCELLED, timeout=60)
    slow.send([(late.tag, answer_to(late.check, "COMMITTED"))])
    assert not slow.ended and other.of(tx)
    assert client.get(tx).state == CANCELLED


def test_answer_on_another_stream_counts_for_nothing(world, client, topic, shop, pull):
    """Streams have tags of their own: the same number on another one is another check."""
    one = pull(shop, default=None)
    tx = prepare(client, topic, shop)
    asked = one.wait(tx)[0]
    two = pull(shop, default=None)
    wait_streams(world, shop, 2)
    two.send([(asked.tag, answer_to(asked.check, "COMMITTED"))], credit=0)
    one.send([(asked.tag, answer_to(asked.check, "ROLLED_BACK"))])
    assert world.wait_state(tx, CANCELLED).origin == CHECK


def test_balanced_over_all_streams(world, client, topic, shop, pull):
    pullers = [pull(shop, credit=100, default="COMMITTED") for _ in range(4)]
    wait_streams(world, shop, 4)
    ids = [uuid7() for _ in range(400)]
    client.batch([prepare_request([message(topic)], producer=shop, tx=tx) for tx in ids])
    for tx in ids:
        world.wait_state(tx, CONFIRMED, timeout=60)
    shares = [len(p.checks) for p in pullers]
    assert sum(shares) == 400 and min(shares) >= 50, shares


def test_not_more_than_the_credit(world, client, topic, shop, pull):
    puller = pull(shop, credit=3, default=None)
    ids = [prepare(client, topic, shop) for _ in range(10)]
    wait_until(lambda: len(puller.checks) == 3, 30, "three checks")
    other = producer(world)
    marker = prepare(client, topic, other)
    pull(other, default="COMMITTED")
    world.wait_state(marker, CONFIRMED)
    assert len(puller.checks) == 3
    puller.default = "COMMITTED"
    puller.send(credit=20)
    for tx in ids:
        world.wait_state(tx, CONFIRMED, timeout=60)


def test_instance_that_dies_is_replaced_at_once(world, client, topic, pull):
    """Its checks go to another one long before their time is over, however often that happens, and nothing is
    counted."""
    name = producer(world, timeout="60s")
    dying = pull(name, credit=50, default=None)
    ids = [prepare(client, topic, name) for _ in range(20)]
    wait_until(lambda: len(dying.checks) == 20, 30, "all are with one")
    for _ in range(3):
        heir = pull(name, credit=50, default=None)
        wait_streams(world, name, 2)
        dying.close()
        wait_until(lambda: len(heir.checks) == 20, 20, "all are with the next one")
        dying = heir
    taking = pull(name, credit=50, default="COMMITTED")
    wait_streams(world, name, 2)
    dying.close()
    for tx in ids:
        world.wait_state(tx, CONFIRMED, timeout=20)
    assert {c.check.check_count for c in taking.checks} == {1}


def test_last_instance_dies(world, client, topic, pull):
    """Nobody is left: the rows are free again at once for who comes next, and nothing was counted."""
    name = producer(world, timeout="60s")
    dying = pull(name, default=None)
    tx = prepare(client, topic, name)
    dying.wait(tx)
    dying.half_close()
    assert dying.wait_end() is None
    coming = pull(name, default="COMMITTED")
    view = world.wait_state(tx, CONFIRMED, timeout=20)
    assert view.checks.unknowns == 0 and coming.of(tx)


def test_endpoint_when_no_stream_is_left(world, client, topic, pull):
    endpoint = world.check_endpoint()
    endpoint.reply = verdict("COMMITTED")
    name = producer(world, timeout="60s", endpoints=[endpoint.url("/check")])
    dying = pull(name, default=None)
    wait_streams(world, name, 1)
    tx = prepare(client, topic, name)
    dying.wait(tx)
    assert not endpoint.got(tx), "streams come first"
    dying.close()
    assert world.wait_state(tx, CONFIRMED, timeout=20).origin == CHECK
    assert endpoint.got(tx)


def test_confirm_wins_over_a_check_under_way(world, client, topic, shop, pull):
    puller = pull(shop, default=None)
    tx = prepare(client, topic, shop)
    asked = puller.wait(tx)[0]
    assert client.confirm(tx).origin == RPC
    puller.send([(asked.tag, answer_to(asked.check, "ROLLED_BACK"))])
    marker = prepare(client, topic, shop)
    puller.default = "COMMITTED"
    world.wait_state(marker, CONFIRMED)
    view = client.get(tx)
    assert (view.state, view.origin) == (CONFIRMED, RPC)


def test_only_the_replica_with_the_stream_asks(world, client, topic, shop, pull):
    """Two replicas, the stream at the other one: it is asked, with the first check of each, however often the one
    without a stream looks for due checks."""
    other = world.daemon(world.unique("other")).start()
    puller = pull(shop, to=Client(other.grpc), credit=100, default="COMMITTED")
    wait_streams(world, shop, 1, other)
    ids = [prepare(client, topic, shop) for _ in range(30)]
    for tx in ids:
        world.wait_state(tx, CONFIRMED)
    assert {c.check.check_count for c in puller.checks} == {1} and len(puller.checks) == 30
    assert world.sql("SELECT count(*) FROM check_due WHERE producer = %s AND failures > 0", shop)[0][0] == 0
    other.close()


@pytest.mark.parametrize("first, code, reason, field", [
    ({"producer": "nobody", "credit": 1}, "NOT_FOUND", "PRODUCER_NOT_FOUND", "producer"),
    ({"producer": "", "credit": 1}, "INVALID_ARGUMENT", "INVALID_FIELD", "producer"),
    ({"producer": "shop", "credit": 0}, "INVALID_ARGUMENT", "INVALID_FIELD", "credit"),
    ({"producer": "shop", "credit": 1001}, "INVALID_ARGUMENT", "INVALID_FIELD", "credit"),
])
def test_first_frame(world, client, topic, pull, first, code, reason, field):
    error = error_of(pull(first["producer"], credit=first["credit"]).wait_end())
    assert (error.code, error.reason) == (code, reason) and field in error.fields


def test_another_producer_later(world, client, topic, shop, pull):
    puller = pull(shop)
    wait_streams(world, shop, 1)
    puller.send(producer=shop, credit=1)
    puller.send(producer="shop", credit=1)
    error = error_of(puller.wait_end())
    assert (error.code, error.reason, list(error.fields)) == ("INVALID_ARGUMENT", "INVALID_FIELD", ["producer"])


def test_half_close_without_a_word(client):
    call = client.messages.Checks(iter(()))
    with pytest.raises(Exception) as caught:
        list(call)
    assert error_of(caught.value).reason == "MALFORMED_REQUEST"


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "kill -9"])
def test_replica_goes_away(world, client, topic, pull, kill):
    """Its stream ends, its checks are asked by the other one; the instance opens its stream there."""
    name = producer(world, timeout="3s")
    other = world.daemon(world.unique("other")).start()
    first = pull(name, to=Client(other.grpc), default=None)
    ids = [prepare(client, topic, name) for _ in range(5)]
    for tx in ids:
        first.wait(tx)
    if kill:
        other.kill()
        first.wait_end()
    else:
        other.stop()
        error = error_of(first.wait_end())
        assert (error.code, error.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
    pull(name, default="COMMITTED")
    for tx in ids:
        assert world.wait_state(tx, CONFIRMED, timeout=90).checks.unknowns == 0
