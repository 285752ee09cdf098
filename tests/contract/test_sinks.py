"""One contract for all sinks, judged from outside: what is confirmed arrives, byte for byte, at least once and under its
id; what the other side has acknowledged does not come again; what it refuses is kept. Each sink has a receiver below
that knows how to look into its other side."""

import contextlib

import grpc
import pika
import pytest
from harness.client import DELIVERY, message, publish_request
from harness.consumers import ACK, ConsumerServer
from harness.ids import uuid7
from harness.peers import HttpSink, Reply
from harness.world import subscription
from servers.process import wait_until

DELIVERED, DEAD, RETRYING = DELIVERY["DELIVERED"], DELIVERY["DEAD"], DELIVERY["RETRYING"]


class HttpReceiver:
    def __init__(self, site, name):
        self.peer = HttpSink()
        self.name = name

    def sink(self):
        return {"http": {"url": self.peer.url("/hook"), "timeout": "2s"}}

    def received(self):
        """(message id, body, headers) in the order of arrival, of what was acknowledged."""
        return [(r.headers["ce-id"], r.body, r.headers) for r in self.peer.got() if r.path == "/hook"] if self.open else []

    open = True

    def refuse(self):
        self.peer.reply = Reply(503)
        self.open = False

    def accept(self):
        """From now on everything is taken; what was refused does not count as received."""
        with self.peer.lock:
            self.peer.requests.clear()
        self.peer.reply = Reply(200)
        self.open = True

    def close(self):
        self.peer.close()


class RabbitmqReceiver:
    def __init__(self, site, name):
        self.rabbit = site.rabbit
        self.name = name
        self.messages = []
        self.connection = pika.BlockingConnection(pika.URLParameters(self.rabbit.url()))
        self.channel = self.connection.channel()
        self.accept()

    def sink(self):
        return {"rabbitmq": {"url": self.rabbit.url(), "exchange": self.name, "routing_key": self.name, "timeout": "2s"}}

    def received(self):
        while self.open:
            method, properties, body = self.channel.basic_get(self.name, auto_ack=True)
            if not method:
                break
            headers = {k.lower(): v for k, v in (properties.headers or {}).items()}
            if properties.content_type:
                headers["content-type"] = properties.content_type
            self.messages.append((properties.message_id, body, headers))
        return list(self.messages)

    def refuse(self):
        """Without its exchange the broker takes nothing. (Without the queue it would refuse for good.)"""
        self.channel.exchange_delete(self.name)
        self.open = False

    def accept(self):
        self.channel.exchange_declare(self.name, "direct", durable=True)
        self.channel.queue_declare(self.name, durable=True)
        self.channel.queue_bind(self.name, self.name, self.name)
        self.open = True

    def close(self):
        with contextlib.suppress(pika.exceptions.AMQPError):
            self.channel.queue_delete(self.name)
            self.channel.exchange_delete(self.name)
            self.connection.close()


class GrpcReceiver:
    def __init__(self, site, name):
        self.consumer = ConsumerServer(options=[("grpc.max_receive_message_length", 8 << 20)])

    def sink(self):
        return {"grpc": {"endpoints": [self.consumer.url], "timeout": "2s"}}

    def received(self):
        if not self.open:
            return []
        return [(r.message_id, r.message.body, {**r.message.headers, "content-type": r.message.content_type})
                for r, _ in self.consumer.got()]

    open = True

    def refuse(self):
        self.consumer.reply = grpc.StatusCode.UNAVAILABLE
        self.open = False

    def accept(self):
        with self.consumer.lock:
            self.consumer.requests.clear()
        self.consumer.reply = ACK
        self.open = True

    def close(self):
        self.consumer.close()


@pytest.fixture(params=[HttpReceiver, RabbitmqReceiver, GrpcReceiver], ids=["http", "rabbitmq", "grpc"])
def receiver(site, world, request):
    made = request.param(site, world.unique("receiver"))
    yield made
    made.close()


@pytest.fixture
def topic(world, receiver):
    return subscribe(world, receiver)


def subscribe(world, receiver, **more):
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, receiver.sink(), **more)])
    return topic


def arrived(receiver, ids, timeout=60):
    """Waits until all these message ids have come; answers everything that came."""
    return wait_until(lambda: (lambda got: got if set(ids) <= {m for m, _, _ in got} else None)(receiver.received()), timeout,
                      f"{len(ids)} messages have come ({len(receiver.received())} have)", interval=0.05)


ODD = {
    "empty": dict(body=b""),
    "every byte": dict(body=bytes(range(256)) * 16),
    "text": dict(body="Grüße, 世界".encode(), content_type="text/plain; charset=utf-8"),
    "large": dict(body=b"\x00" * (1 << 20)),
    "many headers": dict(headers={f"h-{i}": str(i) for i in range(64)}),
    "long header": dict(headers={"long": "v" * 8000}),
    "key": dict(key=b"\x00\xff" * 100),
}


@pytest.mark.parametrize("what", ODD)
def test_byte_for_byte(client, receiver, topic, what):
    fields = {"body": b"body", **ODD[what]}
    tx = client.publish([message(topic, **fields)], tx=uuid7()).transaction_id
    (_, body, headers), = [m for m in arrived(receiver, [f"{tx}.0"]) if m[0] == f"{tx}.0"]
    assert body == fields["body"]
    assert headers.get("content-type") == fields.get("content_type") or "content_type" not in fields
    assert all(headers[name] == value for name, value in fields.get("headers", {}).items())


def test_each_message_of_a_transaction(client, receiver, topic):
    tx = uuid7()
    client.publish([message(topic, str(n)) for n in range(64)], tx=tx)
    got = {m: body for m, body, _ in arrived(receiver, [f"{tx}.{n}" for n in range(64)])}
    assert got == {f"{tx}.{n}": str(n).encode() for n in range(64)}


def test_waits_while_the_other_side_refuses(world, client, receiver, topic):
    receiver.refuse()
    ids = [client.publish([message(topic, f"{i}")], tx=uuid7()).transaction_id for i in range(30)]
    world.wait_delivery(ids[0], topic, RETRYING)
    receiver.accept()
    got = arrived(receiver, [f"{tx}.0" for tx in ids])
    assert {m: b for m, b, _ in got} == {f"{tx}.0": f"{i}".encode() for i, tx in enumerate(ids)}
    for tx in ids:
        world.wait_delivery(tx, topic, DELIVERED)


def test_gives_up_as_told(world, client, receiver):
    topic = subscribe(world, receiver, retry={"initial": "20ms", "factor": 1, "max": "20ms", "max_attempts": 3})
    receiver.refuse()
    tx = client.publish([message(topic)], tx=uuid7()).transaction_id
    delivery = world.wait_delivery(tx, topic, DEAD)
    assert delivery.attempts == 3 and delivery.last_error
    receiver.accept()

    def later_ones():
        """With three attempts so close together the first of them may still meet a connection that is being made anew."""
        client.publish([message(topic)], tx=uuid7())
        return receiver.received()

    got = wait_until(later_ones, 60, "later messages come", interval=0.2)
    assert f"{tx}.0" not in {m for m, _, _ in got}


def test_what_was_delivered_does_not_come_again(world, client, receiver, topic):
    """A gentle restart sends nothing twice."""
    ids = [uuid7() for _ in range(200)]
    client.batch([publish_request([message(topic)], tx=tx) for tx in ids])
    arrived(receiver, [f"{tx}.0" for tx in ids])
    for tx in ids[::20]:
        world.wait_delivery(tx, topic, DELIVERED)
    world.txmsgd.restart()
    marker = world.client.publish([message(topic)], tx=uuid7()).transaction_id
    got = [m for m, _, _ in arrived(receiver, [f"{marker}.0"])]
    assert sorted(got) == sorted([f"{tx}.0" for tx in ids] + [f"{marker}.0"])


def test_topology_changes_while_messages_are_in_flight(world, client, receiver, topic):
    """The sink is closed and made anew again and again; nothing is lost."""
    ids = []
    for i in range(5):
        chunk = [uuid7() for _ in range(100)]
        client.batch([publish_request([message(topic)], tx=tx) for tx in chunk])
        ids += chunk
        world.apply(subscriptions=[subscription(topic, topic, receiver.sink(), concurrency=10 + i)])
    arrived(receiver, [f"{tx}.0" for tx in ids])


def test_one_at_a_time(world, client, receiver):
    topic = subscribe(world, receiver, concurrency=1)
    ids = [uuid7() for _ in range(50)]
    client.batch([publish_request([message(topic)], tx=tx) for tx in ids])
    assert len(arrived(receiver, [f"{tx}.0" for tx in ids])) == len(ids)
