"""Watch: what is true now, then each change, until nothing more can happen; bounded, and shared by those who ask the same."""

import concurrent.futures
import json
import threading

import grpc
from harness.client import (ADMIN, CANCELLED, CONFIRMED, DELIVERY, PREPARED, RPC, STUCK, Client, error_of, message,
                            refused)
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import subscription
from servers.process import wait_until
from txmsg.v1 import admin_service_pb2 as admin_pb2
from txmsg.v1 import message_service_pb2 as pb
from txmsg.v1 import transaction_pb2

OPTIONS = {"watch.streams": 3}
PENDING, RETRYING, DELIVERED, DEAD = (DELIVERY[n] for n in ("PENDING", "RETRYING", "DELIVERED", "DEAD"))


class Watching:
    """A watch in the background: its events so far, and how it ended (None: OK)."""

    def __init__(self, client, tx):
        self.call = client.messages.Watch(pb.WatchRequest(transaction_id=tx), timeout=60)
        self.events, self.error = [], None
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        try:
            for event in self.call:
                self.events.append(event)
        except grpc.RpcError as error:
            self.error = error

    def states(self):
        return [(e.status.state, e.status.origin) for e in self.events if e.HasField("status")]

    def deliveries(self, name):
        return [(e.delivery.delivery.state, e.delivery.delivery.attempts) for e in self.events
                if e.HasField("delivery") and e.delivery.delivery.subscription == name]

    def wait(self, condition, what):
        return wait_until(lambda: condition(self), 30, what)

    def end(self):
        self.thread.join(30)
        assert not self.thread.is_alive(), self.events
        return self.error


def test_from_prepared_to_every_delivery_done(world, client):
    held = threading.Event()
    slow, fails = world.sink(reply=Reply(held=held)), world.sink()
    topic = world.topic(slow=slow, fails=fails, gone={"discard": {}})
    tx = client.prepare([message(topic), message(topic, b"two")], tx=uuid7()).transaction_id
    fails.on(f"{tx}-0", Reply(503), Reply(200))
    fails.on(f"{tx}-1", Reply(410))
    watch = Watching(client, tx)
    watch.wait(lambda w: w.states() == [(PREPARED, 0)], "it is told to be prepared")
    client.confirm(tx)
    watch.wait(lambda w: w.deliveries(f"{topic}-fails")[-1:] and (DEAD, 1) in w.deliveries(f"{topic}-fails"), "one is dead")
    assert watch.thread.is_alive() # one consumer has not answered
    held.set()
    assert watch.end() is None
    assert watch.states() == [(PREPARED, 0), (CONFIRMED, RPC)]
    last = {}
    for e in watch.events:
        assert e.event_time.seconds > 0
        if e.HasField("delivery"):
            last[e.delivery.delivery.subscription, e.delivery.n] = e.delivery.delivery
    assert {key: d.state for key, d in last.items()} == {
        (f"{topic}-slow", 0): DELIVERED, (f"{topic}-slow", 1): DELIVERED, (f"{topic}-gone", 0): DELIVERED,
        (f"{topic}-gone", 1): DELIVERED, (f"{topic}-fails", 0): DELIVERED, (f"{topic}-fails", 1): DEAD}
    assert "410" in last[f"{topic}-fails", 1].last_error


def test_no_event_twice_and_in_an_order_that_can_be(world, client):
    sink = world.sink(reply=Reply(503))
    topic = world.unique("t")
    name = f"{topic}-s"
    world.apply(topics=[topic], producers=["shop"], subscriptions=[
        subscription(name, topic, sink, retry={"initial": "300ms", "max": "300ms", "jitter": 0.01, "max_attempts": 4})])
    watch = Watching(client, client.publish([message(topic)], tx=uuid7()).transaction_id)
    assert watch.end() is None
    seen = watch.deliveries(name)
    assert len(set(seen)) == len(seen) and seen == sorted(seen, key=lambda s: s[1])
    assert seen[-1] == (DEAD, 4) and any(state == RETRYING for state, _ in seen)


def test_a_cancelled_transaction_ends_at_once(world, client):
    topic = world.topic(nowhere={"discard": {}})
    tx = client.prepare([message(topic)], tx=uuid7()).transaction_id
    watch = Watching(client, tx)
    watch.wait(lambda w: w.events, "it is told to be prepared")
    client.cancel(tx)
    assert watch.end() is None and watch.states() == [(PREPARED, 0), (CANCELLED, RPC)]
    after = Watching(client, tx)
    assert after.end() is None and after.states() == [(CANCELLED, RPC)]


def test_stuck_is_a_state_and_no_end(world, client):
    topic = world.topic(nowhere={"discard": {}})
    endpoint = world.check_endpoint()
    world.apply(producers=[{"name": "unsure", "check": {"endpoints": [endpoint.url("/")], "first_after": "1s", "initial": "1s",
                                                        "max_unknowns": 1}}])
    tx = client.prepare([message(topic)], tx=uuid7(), producer="unsure", check_after=1).transaction_id
    endpoint.decide(tx, "UNKNOWN")
    watch = Watching(client, tx)
    watch.wait(lambda w: w.states()[-1:] == [(STUCK, 0)], "it is told to be stuck")
    client.admin.ResolveStuck(admin_pb2.ResolveStuckRequest(
        transaction_id=tx, decision=transaction_pb2.DECISION_COMMITTED, reason="seen", actor="ann"), timeout=20)
    assert watch.end() is None and watch.states() == [(PREPARED, 0), (STUCK, 0), (CONFIRMED, ADMIN)]


def test_what_is_not_there(world, client):
    with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
        list(client.messages.Watch(pb.WatchRequest(transaction_id=uuid7()), timeout=20))
    with refused("FAILED_PRECONDITION", "PAST_RETENTION"):
        world.sql("UPDATE cfg SET floor = '00000000-0001-7000-8000-000000000000'")
        list(client.messages.Watch(pb.WatchRequest(transaction_id="00000000-0000-7000-8000-000000000000"), timeout=20))
    for bad in ("", "no id"):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
            list(client.messages.Watch(pb.WatchRequest(transaction_id=bad), timeout=20))


def test_more_than_the_bound_are_refused_and_those_who_leave_make_room(world, client):
    topic = world.topic(nowhere={"discard": {}})
    tx = client.prepare([message(topic)], tx=uuid7()).transaction_id
    watches = [Watching(client, tx) for _ in range(3)]
    for watch in watches:
        watch.wait(lambda w: w.events, "it has begun")
    with refused("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS"):
        list(client.messages.Watch(pb.WatchRequest(transaction_id=tx), timeout=20))
    watches[0].call.cancel()
    watches[0].end()

    def begins():
        again = Watching(client, tx)
        wait_until(lambda: again.events or again.error, 20, "it begins, or is refused")
        return again if again.events else None

    watches[0] = wait_until(begins, 20, "there is room again")
    client.confirm(tx)
    assert all(watch.end() is None and watch.states() == [(PREPARED, 0), (CONFIRMED, RPC)] for watch in watches)


def looks(world):
    return sum(row[0] for row in world.sql(
        "SELECT calls FROM pg_stat_statements WHERE query LIKE 'WITH p AS MATERIALIZED (SELECT d.lane%'"
        " AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"))


def test_one_look_serves_all_who_watch_the_same(world, client):
    """Looks for a transaction come five times a second, however many watch it."""
    world.sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    topic = world.topic(nowhere={"discard": {}})
    tx = client.prepare([message(topic)], tx=uuid7()).transaction_id
    watches = [Watching(client, tx) for _ in range(3)]
    for watch in watches:
        watch.wait(lambda w: w.events, "it has begun")
    before = looks(world)
    began = watches[0].events[0].event_time.ToNanoseconds()
    wait_until(lambda: looks(world) >= before + 5, 30, "five looks more")
    client.confirm(tx)
    for watch in watches:
        watch.end()
    seconds = (watches[0].events[-1].event_time.ToNanoseconds() - began) / 1e9
    assert looks(world) - before <= seconds * 5 + 5


def test_the_end_of_a_replica_ends_watches_and_another_goes_on(world, client):
    topic = world.topic(nowhere={"discard": {}})
    tx = client.prepare([message(topic)], tx=uuid7()).transaction_id
    other = world.daemon("other").start()
    second = Client(other.grpc)
    try:
        watch = Watching(second, tx)
        watch.wait(lambda w: w.events, "it has begun")
        assert other.stop() == 0
        watch.end()
        error = error_of(watch.error)
        assert (error.code, error.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
    finally:
        second.close()
    again = Watching(client, tx)
    client.confirm(tx)
    assert again.end() is None and again.states()[-1] == (CONFIRMED, RPC)


def test_by_command_line(world, client):
    topic = world.topic(s={"discard": {}})
    tx = client.publish([message(topic)], tx=uuid7()).transaction_id
    lines = world.ctl("watch", tx).splitlines()
    assert "confirmed by rpc" in lines[0] and lines[-1].endswith(f"message 0 to {topic}-s is delivered")
    objects = [json.loads(line) for line in world.ctl("--json", "watch", tx).splitlines()]
    assert objects[0]["status"]["transaction_id"] == tx
    assert objects[-1]["delivery"]["delivery"]["state"] == "DELIVERY_STATE_DELIVERED"
    done = world.ctl.run("watch", uuid7())
    assert done.returncode == 1 and "NOT_FOUND TRANSACTION_NOT_FOUND" in done.stderr
    waits = client.prepare([message(topic)], tx=uuid7()).transaction_id
    done = world.ctl.run("watch", waits, "--timeout", "1s")
    assert done.returncode == 4 and "prepared" in done.stdout
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(world.ctl.run, "watch", waits)
        client.confirm(waits)
        assert running.result(30).returncode == 0
    assert world.ctl.run("watch").returncode == 2


def test_a_watch_without_a_request(client):
    """Half-closed without a message: said so, not hung."""
    call = client.channel.stream_stream("/txmsg.v1.MessageService/Watch")(iter(()), timeout=20)
    with refused("INVALID_ARGUMENT", "MALFORMED_REQUEST"):
        list(call)
