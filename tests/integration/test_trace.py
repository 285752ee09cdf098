"""The trace context of a Prepare is in every delivery: over HTTP and RabbitMQ, at each attempt, and after a redrive."""

import pika
import pytest
from harness.client import DELIVERY, message, prepare_request
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import subscription
from servers.process import wait_until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STATE = "vendor=1,other=2"


@pytest.fixture(scope="module")
def channel(site):
    connection = pika.BlockingConnection(pika.URLParameters(site.rabbit.url()))
    yield connection.channel()
    connection.close()


def prepare(client, topic):
    """Prepared under a trace; what decides later has none, or another one."""
    tx = uuid7()
    client.messages.Prepare(prepare_request([message(topic)], tx=tx), timeout=20,
                            metadata=[("traceparent", PARENT), ("tracestate", STATE)])
    return tx


def test_over_http_at_every_attempt_and_after_a_redrive(world, client):
    sink, topic = world.sink(), world.unique("t")
    name = f"{topic}-s"
    world.apply(topics=[topic], producers=["shop"], subscriptions=[
        subscription(name, topic, sink, retry={"initial": "50ms", "max": "50ms", "max_attempts": 3})])
    tx = prepare(client, topic)
    sink.on(f"{tx}-0", Reply(500), Reply(500), Reply(500), Reply(200))
    client.confirm(tx)
    world.wait_delivery(tx, name, DELIVERY["DEAD"])
    world.ctl("dead", "redrive", f"{name}/{tx}.0", "--reason", "again")
    world.wait_delivery(tx, name, DELIVERY["DELIVERED"])
    requests = sink.of(tx)
    assert len(requests) == 4
    for request in requests:
        assert (request.headers["traceparent"], request.headers["tracestate"]) == (PARENT, STATE)


def test_over_rabbitmq_also_after_a_redrive(world, client, site, channel):
    topic = world.unique("t")
    name = f"{topic}-s"
    world.apply(topics=[topic], producers=["shop"], subscriptions=[
        subscription(name, topic, {"rabbitmq": {"url": site.rabbit.url(), "routing_key": topic}})])
    tx = prepare(client, topic)
    client.confirm(tx)
    world.wait_delivery(tx, name, DELIVERY["DEAD"]) # there is no queue yet
    channel.queue_declare(topic, durable=True)
    world.ctl("dead", "redrive", f"{name}/{tx}.0", "--reason", "the queue is there")

    def got():
        method, properties, _ = channel.basic_get(topic, auto_ack=True)
        return properties if method else None

    headers = wait_until(got, 30, "the message is in the queue").headers
    assert (headers["traceparent"], headers["tracestate"]) == (PARENT, STATE)


def test_what_is_read_back_after_a_restart_has_it_too(world, client):
    sink, topic = world.sink(), world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(f"{topic}-s", topic, sink)])
    tx = prepare(client, topic)
    world.txmsgd.restart(kill=True)
    world.client.confirm(tx)
    request = sink.wait_for(tx)[0]
    assert (request.headers["traceparent"], request.headers["tracestate"]) == (PARENT, STATE)
