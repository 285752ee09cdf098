"""Somebody else took a check or a delivery over while it was under way: its late end changes nothing."""

import threading

import pytest
from harness.client import PREPARED, message
from harness.ids import uuid7
from harness.peers import Reply, verdict
from harness.world import subscription
from servers.process import wait_until


@pytest.fixture
def held():
    event = threading.Event()
    yield event
    event.set()


def taken_over(world, table, tx):
    """As if a replica had claimed the row after this one's lease; answers the row's new state."""
    rows = world.sql(f"UPDATE {table} SET token = token + 1, due = now() + '1 hour' WHERE tx = %s RETURNING *", tx)
    assert len(rows) == 1
    return rows


@pytest.mark.parametrize("late", [200, 503, 410])
def test_late_end_of_a_delivery(world, client, held, late):
    sink, topic = world.sink(), world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[
        subscription(topic, topic, {"http": {"url": sink.url("/hook"), "timeout": "30s"}})])
    tx = uuid7()
    sink.on(f"{tx}-0", Reply(503), Reply(late, held=held))
    client.publish([message(topic)], tx=tx)
    sink.wait_for(tx, count=2)
    before = stale(world)
    row = taken_over(world, "delivery_due", tx)
    held.set()
    wait_until(lambda: stale(world) > before or world.sql("SELECT * FROM delivery_due WHERE tx = %s", tx) != row, 30,
               "the late end is in the store")
    assert world.sql("SELECT * FROM delivery_due WHERE tx = %s", tx) == row, "a stale token changed a delivery"
    assert not world.sql("SELECT 1 FROM dead_letter WHERE tx = %s", tx)
    assert stale(world) == before + 1


def stale(world):
    return metric(world, "txmsg_stale_deliveries_total")


def metric(world, name):
    """A metric's value; 0 if it is not there yet."""
    for line in world.txmsgd.get("/metrics")[1].splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    return 0


def test_late_end_of_a_check(world, client, held):
    endpoint, topic, producer = world.check_endpoint(), world.unique("t"), world.unique("p")
    world.apply(topics=[topic], producers=[{"name": producer, "check": {
        "endpoints": [endpoint.url("/check")], "first_after": "1s", "timeout": "30s", "max_unknowns": 1}}])
    tx = uuid7()

    def late(request):
        reply = verdict("UNKNOWN")(request)
        reply.held = held
        return reply

    endpoint.on(tx, late)
    client.prepare([message(topic)], tx=tx, producer=producer)
    endpoint.wait(1, tx)
    row = taken_over(world, "check_due", tx)
    held.set()
    counted = f'txmsg_checks_total{{producer="{producer}",result="unknown"}}'
    wait_until(lambda: metric(world, counted), 30, "the late answer is counted")
    client.publish([message(topic)], tx=uuid7(), producer=producer) # the commit that carries the check's end
    assert world.sql("SELECT * FROM check_due WHERE tx = %s", tx) == row, "a stale token changed a check"
    assert client.get(tx).state == PREPARED
