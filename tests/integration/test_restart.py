"""txmsgd ends, gently or not, with work under way: what was answered OK is there afterwards and goes on."""

import threading

import grpc
import pytest
from harness import rounds
from harness.client import (CANCELLED, CHECK, CONFIRMED, DELIVERY, PREPARED, Client, error_of, message, prepare_request,
                            publish_request)
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import subscription
from servers.process import wait_until

DELIVERED = DELIVERY["DELIVERED"]
HOW = pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "kill -9"])


@pytest.fixture(scope="module")
def endpoint(world):
    return world.check_endpoint()


@pytest.fixture
def place(world, endpoint):
    """A topic with a sink, a producer with an endpoint."""
    sink = world.sink()
    topic = world.unique("t")
    world.apply(topics=[topic], subscriptions=[subscription(topic, topic, sink)], producers=[
        {"name": "shop", "check": {"endpoints": [endpoint.url("/check")], "first_after": "1s", "initial": "1s", "factor": 1,
                                   "max": "1s", "timeout": "1s", "max_unknowns": 100}}])
    return topic, sink


def test_stops_with_0(world):
    assert world.txmsgd.stop() == 0
    world.txmsgd.start()


@HOW
def test_undecided_and_undelivered_go_on(world, endpoint, place, kill):
    topic, sink = place
    sink.reply = Reply(503)
    ids = {name: uuid7() for name in ("open", "checked", "confirmed", "cancelled", "published")}
    for name in ("open", "checked", "confirmed", "cancelled"):
        world.client.prepare([message(topic, name)], tx=ids[name], check_after=60 if name == "open" else 1)
    world.client.confirm(ids["confirmed"])
    world.client.cancel(ids["cancelled"])
    world.client.publish([message(topic, "published")], tx=ids["published"])
    sink.wait_for(ids["confirmed"])
    endpoint.wait(1, ids["checked"])
    world.txmsgd.restart(kill=kill)
    sink.reply = Reply(200)
    endpoint.decide(ids["checked"], "COMMITTED")
    client = world.client
    assert client.get(ids["open"]).state == PREPARED
    assert client.get(ids["cancelled"]).state == CANCELLED
    for name in ("confirmed", "published"):
        assert world.wait_delivery(ids[name], topic, DELIVERED).state == DELIVERED
    assert world.wait_state(ids["checked"], CONFIRMED, timeout=40).origin == CHECK
    world.wait_delivery(ids["checked"], topic, DELIVERED)
    assert client.confirm(ids["open"]).state == CONFIRMED
    world.wait_delivery(ids["open"], topic, DELIVERED)
    assert {r.headers["webhook-id"][:36] for r in sink.got()} == set(ids.values()) - {ids["cancelled"]}


@HOW
def test_forwarded_from_the_log(world, place, kill):
    """While the sink is down more is confirmed than memory would still hold after a restart: it comes from the log."""
    topic, sink = place
    sink.reply = Reply(503)
    ids = [uuid7() for _ in range(600)]
    for i in range(0, len(ids), 200):
        world.client.batch([publish_request([message(topic, tx.encode() + b"x" * 1000)], tx=tx) for tx in ids[i:i + 200]])
    sink.wait(1)
    world.txmsgd.restart(kill=kill)
    sink.reply = Reply(200)
    wait_until(lambda: {r.headers["webhook-id"][:36] for r in sink.got()} >= set(ids), 60, "all of them")
    for tx in ids[::100]:
        world.wait_delivery(tx, topic, DELIVERED)
    assert all(r.body[:36].decode() == r.headers["webhook-id"][:36] for r in sink.got())


@HOW
def test_every_ok_is_kept_under_load(world, place, kill):
    """Clients publish, repeating what they are unsure of, while the daemon goes away and comes back. Every OK is there
    in the end, and its message reaches the sink."""
    topic, sink = place
    acknowledged, target, stop, lock = set(), {"client": world.client}, threading.Event(), threading.Lock()

    def produce():
        while not stop.is_set():
            tx = uuid7()
            while not stop.is_set():
                try:
                    target["client"].messages.Publish(publish_request([message(topic, tx)], tx=tx), timeout=5)
                except (grpc.RpcError, ValueError):
                    stop.wait(0.02)
                    continue
                with lock:
                    acknowledged.add(tx)
                break

    threads = [threading.Thread(target=produce, daemon=True) for _ in range(8)]
    for t in threads:
        t.start()
    for _ in range(rounds(3)):
        goal = len(acknowledged) + 200
        wait_until(lambda goal=goal: len(acknowledged) >= goal, 40, "clients get on")
        if kill:
            world.txmsgd.kill()
        else:
            assert world.txmsgd.stop() == 0
        world.txmsgd.start()
        target["client"] = world.client
    stop.set()
    for t in threads:
        t.join()
    wait_until(lambda: {r.headers["webhook-id"][:36] for r in sink.got()} >= acknowledged, 60, "every OK is delivered")
    for tx in list(acknowledged)[::50]:
        assert world.client.get(tx).state == CONFIRMED


def test_other_replica_takes_over(world, endpoint, place):
    """A daemon dies for good; the other one delivers and checks what it left, within seconds."""
    topic, sink = place
    second = world.daemon("heir").start()
    try:
        sink.reply = Reply(503)
        confirmed, open_ = [uuid7() for _ in range(50)], uuid7()
        world.client.batch([publish_request([message(topic)], tx=tx) for tx in confirmed])
        world.client.prepare([message(topic)], tx=open_, check_after=2)
        endpoint.decide(open_, "COMMITTED")
        sink.wait(1)
        world.txmsgd.kill()
        sink.reply = Reply(200)
        everything = {*confirmed, open_}
        wait_until(lambda: {r.headers["webhook-id"][:36] for r in sink.got()} >= everything, 40, "the heir delivers all")
        other = Client(second.grpc)
        assert {other.get(tx).state for tx in everything} == {CONFIRMED}
        other.close()
    finally:
        second.stop()
        world.txmsgd.start()


def test_lane_of_the_dead_is_drained(world, endpoint, place):
    """A worker adopts a bounded number of lanes, so those of the dead must not be held for long: not for delay classes
    that they do not have."""
    topic, sink = place
    world.txmsgd.restart()
    [(lane,)] = world.sql("SELECT lane FROM lane WHERE state = 'open'")
    tx = world.client.prepare([message(topic)], tx=uuid7(), check_after=1).transaction_id
    world.client.publish([message(topic)], tx=uuid7())
    endpoint.decide(tx, "COMMITTED")
    world.txmsgd.restart(kill=True)
    sink.wait_for(tx)
    wait_until(lambda: world.sql("SELECT state FROM lane WHERE lane = %s", lane)[0][0] == "drained", 40, "the lane is drained")


def test_frozen_replica_wakes_up_harmless(world, place):
    """A daemon is frozen, loses its lane, and wakes up: it notices, takes a new lane, and serves on. Nothing is lost,
    nothing of its old answers changes."""
    topic, sink = place
    second = world.daemon("warm").start()
    other = Client(second.grpc)
    try:
        before = world.client.publish([message(topic)], tx=uuid7()).transaction_id
        sink.wait_for(before)
        lanes = dict(world.sql("SELECT lane, state FROM lane WHERE state = 'open'"))
        world.txmsgd.freeze()

        def sealed():
            rows = dict(world.sql("SELECT lane, state FROM lane"))
            return any(rows[lane] != "open" for lane in lanes)

        wait_until(sealed, 30, "the other daemon takes the lane")
        during = other.publish([message(topic)], tx=uuid7()).transaction_id
        sink.wait_for(during)
        world.txmsgd.thaw()

        def serves():
            try:
                return world.client.publish([message(topic)], tx=uuid7()).transaction_id
            except grpc.RpcError as error:
                assert error_of(error).code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
                return None

        after = wait_until(serves, 30, "the daemon serves again")
        sink.wait_for(after)
        assert {other.get(tx).state for tx in (before, during, after)} == {CONFIRMED}
    finally:
        world.txmsgd.thaw()
        other.close()
        second.stop()


def test_drain_answers_what_is_open(world, place):
    """Calls under way when SIGTERM comes are answered; later ones are refused or find no listener."""
    topic, _ = place
    client = world.client
    futures = [client.messages.Prepare.future(prepare_request([message(topic)], tx=uuid7()), timeout=20) for _ in range(500)]
    assert world.txmsgd.stop() == 0
    outcomes = {"OK": 0}
    ids = []
    for future in futures:
        try:
            ids.append(future.result().status.transaction_id)
            outcomes["OK"] += 1
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    world.txmsgd.start()
    assert all(world.client.get(tx).state == PREPARED for tx in ids)
