"""RabbitMQ deliveries: confirmed, persistent, mandatory."""

import contextlib

import pika
import pytest
from harness.client import DELIVERY, message, publish_request
from harness.ids import uuid7
from harness.peers import Proxy
from harness.world import subscription
from servers.process import wait_until

DEAD, DELIVERED, RETRYING = DELIVERY["DEAD"], DELIVERY["DELIVERED"], DELIVERY["RETRYING"]


class Broker:
    """A channel of the test's own, opened anew when the broker went away."""

    def __init__(self, rabbit):
        self.rabbit = rabbit
        self.connection = self.channel = None
        self.open()

    def open(self):
        self.connection = pika.BlockingConnection(pika.URLParameters(self.rabbit.url()))
        self.channel = self.connection.channel()

    def queue(self, name):
        self.channel.queue_declare(name, durable=True)
        return name

    def get(self, queue, timeout=20):
        """The next message, as (properties, body), acknowledged."""
        def one():
            method, properties, body = self.channel.basic_get(queue, auto_ack=True)
            return (properties, body) if method else None

        return wait_until(one, timeout, f"a message in {queue}")

    def drain(self, queue, count, timeout=60):
        return [self.get(queue, timeout) for _ in range(count)]

    def count(self, queue):
        return self.channel.queue_declare(queue, passive=True).method.message_count

    def close(self):
        with contextlib.suppress(pika.exceptions.AMQPError):
            self.connection.close()


@pytest.fixture(scope="module")
def broker(site):
    made = Broker(site.rabbit)
    yield made
    made.close()


def subscribe(world, url, **sink):
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"],
                subscriptions=[subscription(topic, topic, {"rabbitmq": {"url": url, "timeout": "2s", **sink}})])
    return topic


def test_delivery(site, world, client, broker):
    queue = broker.queue("delivery")
    topic = subscribe(world, site.rabbit.url(), routing_key=queue)
    tx = uuid7()
    client.publish([message(topic, b"\x00body", key=b"k1", content_type="text/plain", headers={"colour": "blue"})], tx=tx,
                   business_key="order-1")
    properties, body = broker.get(queue)
    assert (body, properties.message_id, properties.content_type) == (b"\x00body", f"{tx}.0", "text/plain")
    assert properties.delivery_mode == 2
    assert properties.headers["colour"] == "blue"
    world.wait_delivery(tx, topic, DELIVERED)


def test_exchange_and_the_topic_as_routing_key(site, world, client, broker):
    broker.channel.exchange_declare("events", "topic", durable=True)
    queue = broker.queue("events-queue")
    topic = subscribe(world, site.rabbit.url(), exchange="events")
    broker.channel.queue_bind(queue, "events", topic)
    tx = client.publish([message(topic)], tx=uuid7()).transaction_id
    assert broker.get(queue)[0].message_id == f"{tx}.0"


@pytest.mark.parametrize("path", ["", "/", "/%2F"])
def test_default_virtual_host(site, world, client, broker, path):
    queue = broker.queue("virtual-host")
    tx = client.publish([message(subscribe(world, site.rabbit.url() + path, routing_key=queue))], tx=uuid7()).transaction_id
    assert broker.get(queue)[0].message_id == f"{tx}.0"


def test_unroutable_is_a_dead_letter(site, world, client, broker):
    """The broker confirms what it cannot route; `mandatory` tells, and nobody waits for a queue that may never come."""
    topic = subscribe(world, site.rabbit.url(), routing_key="comes-later")
    tx = client.publish([message(topic)], tx=uuid7()).transaction_id
    delivery = world.wait_delivery(tx, topic, DEAD)
    assert delivery.attempts == 1 and "NO_ROUTE" in delivery.last_error
    queue = broker.queue("comes-later")
    world.ctl("dead", "redrive", f"{topic}/{tx}.0")
    assert broker.get(queue)[0].message_id == f"{tx}.0"
    world.wait_delivery(tx, topic, DELIVERED)


def test_exchange_that_is_not_there(site, world, client, broker):
    topic = subscribe(world, site.rabbit.url(), exchange="created-later", routing_key="x")
    good_queue = broker.queue("beside")
    good = subscribe(world, site.rabbit.url(), routing_key=good_queue)
    tx = client.publish([message(topic)], tx=uuid7()).transaction_id
    world.wait_delivery(tx, topic, RETRYING)
    client.publish([message(good)], tx=uuid7())
    broker.get(good_queue)
    broker.channel.exchange_declare("created-later", "direct", durable=True)
    queue = broker.queue("after-all")
    broker.channel.queue_bind(queue, "created-later", "x")
    assert broker.get(queue)[0].message_id == f"{tx}.0"


def test_wrong_password(site, world, client, broker):
    queue = broker.queue("password")
    url = f"amqp://{site.rabbit.login}:wrong@127.0.0.1:{site.rabbit.port}/"
    topic = subscribe(world, url, routing_key=queue)
    tx = client.publish([message(topic)], tx=uuid7()).transaction_id
    delivery = world.wait_delivery(tx, topic, RETRYING)
    assert "wrong" not in delivery.last_error
    world.apply(subscriptions=[subscription(topic, topic, {"rabbitmq": {"url": site.rabbit.url(), "routing_key": queue}})])
    assert broker.get(queue)[0].message_id == f"{tx}.0"


def test_many(site, world, client, broker):
    queue = broker.queue("many")
    topic = subscribe(world, site.rabbit.url(), routing_key=queue)
    ids = [uuid7() for _ in range(2000)]
    for i in range(0, len(ids), 500):
        client.batch([publish_request([message(topic, tx.encode())], tx=tx) for tx in ids[i:i + 500]])
    wait_until(lambda: broker.count(queue) >= len(ids), 60, "all messages in the queue", interval=0.2)
    got = broker.drain(queue, len(ids))
    assert sorted(p.message_id for p, _ in got) == sorted(f"{tx}.0" for tx in ids)
    assert broker.count(queue) == 0


def test_connection_cut_in_the_middle(site, world, client, broker):
    """Nothing is lost; what was sent and not confirmed may come twice, under the same id and with the same bytes."""
    queue = broker.queue("cut")
    proxy = Proxy(site.rabbit.port)
    topic = subscribe(world, site.rabbit.url(proxy.port), routing_key=queue)
    ids = [uuid7() for _ in range(1000)]
    for i in range(0, len(ids), 100):
        client.batch([publish_request([message(topic, tx.encode())], tx=tx) for tx in ids[i:i + 100]])
        proxy.cut(refuse=i % 200 == 0)
    proxy.mend()
    seen = {}

    def all_seen():
        method, properties, body = broker.channel.basic_get(queue, auto_ack=True)
        if method:
            assert seen.setdefault(properties.message_id, body) == body
        return len(seen) == len(ids)

    wait_until(all_seen, 60, "every message at least once", interval=0)
    assert {key.split(".")[0] for key in seen} == set(ids)
    proxy.close()


def test_broker_restart(site, world, client, broker):
    queue = broker.queue("restart")
    topic = subscribe(world, site.rabbit.url(), routing_key=queue)
    before = client.publish([message(topic)], tx=uuid7()).transaction_id
    world.wait_delivery(before, topic, DELIVERED)
    site.rabbit.stop()
    during = [client.publish([message(topic)], tx=uuid7()).transaction_id for _ in range(20)]
    world.wait_delivery(during[0], topic, RETRYING)
    site.rabbit.start()
    broker.open()
    got = {properties.message_id for properties, _ in broker.drain(queue, 21)}
    assert got == {f"{tx}.0" for tx in [before, *during]}
    for tx in during:
        world.wait_delivery(tx, topic, DELIVERED)
