"""What txmsg really sends, given to libtxmsg-consumer: all forms of a delivery come out as what was sent."""

import subprocess

import pika
import pytest
import webhook
from harness import client_program
from harness.client import message
from harness.ids import uuid7
from harness.world import subscription
from servers.process import wait_until

KEY = b"k\x00\xff%"
BODIES = {"application/json": b'{"item" : "tea", "price": 1.10000000000000000001}\n', "text/plain": "Tee für zwei\n".encode(),
          "application/octet-stream": bytes(range(256)), "": b""}


def decode(protocol, headers, body, *secret):
    """(outcome, {part: text}) of the library."""
    def piece(value):
        return f"{len(value)}:".encode() + value

    data = b"".join(piece(name.encode()) + piece(value) for name, value in headers) + piece(b"") + piece(body)
    done = subprocess.run([*client_program("decode"), protocol, *secret], input=data, stdout=subprocess.PIPE, timeout=30,
                          check=True)
    outcome, *lines = done.stdout.decode().splitlines()
    parts = dict(line.split("=", 1) for line in lines)
    for name in ("key", "body"):
        if name in parts:
            parts[name] = bytes.fromhex(parts[name])
    return int(outcome.split()[0]), parts


def of_request(request):
    return [(name.lower(), value.encode("latin-1")) for name, value in request.headers.items()]


def assert_parts(parts, tx, topic, body, content_type, key=KEY):
    assert parts.pop("time").startswith("20")
    assert parts == {"id": f"{tx}.0", "transaction_id": tx, "n": "0", "topic": topic, "producer": "shop",
                     "business_key": "order 7 ä%", "content_type": content_type, "attempt": "1", "key": key, "body": body}


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_http(world, client, mode):
    sink, secret, topic = world.sink(), webhook.new_secret(), world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, {"http": {"url": sink.url("/in"), "secret": secret, "content_mode": mode}})])
    for content_type, body in BODIES.items():
        tx = uuid7()
        client.publish([message(topic, body, content_type=content_type, key=KEY, headers={"colour": "blue"})], tx=tx,
                       business_key="order 7 ä%")
        request = sink.wait_for(tx)[0]
        headers = of_request(request)
        outcome, parts = decode("http", headers, request.body, secret)
        assert outcome == 0
        assert_parts(parts, tx, topic, body, content_type or "application/octet-stream",
                     KEY if mode == "binary" else b"k%00%FF%25")
        assert decode("http", headers, request.body + b" ", secret) == (16, {})
        assert decode("http", headers, request.body, webhook.new_secret()) == (16, {})
        # Signed for one id, and sent again under another: not a new message.
        other = [(n, v.replace(b".0", b".1") if n == "ce-id" else v) for n, v in headers]
        assert decode("http", other, request.body, secret)[0] == (18 if mode == "binary" else 0)


def test_amqp(site, world, client):
    topic = world.unique("t")
    connection = pika.BlockingConnection(pika.URLParameters(site.rabbit.url()))
    channel = connection.channel()
    channel.queue_declare(topic, durable=True)
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, {"rabbitmq": {"url": site.rabbit.url(), "routing_key": topic}})])
    for content_type, body in BODIES.items():
        tx = uuid7()
        client.publish([message(topic, body, content_type=content_type, key=b"k1", headers={"colour": "blue"})], tx=tx,
                       business_key="order 7 ä%")
        _, properties, got = wait_until(lambda: (found := channel.basic_get(topic, auto_ack=True))[0] and found, 20,
                                        "the message arrives")
        headers = [(name, value.encode()) for name, value in properties.headers.items()]
        if properties.content_type:
            headers.append(("content-type", properties.content_type.encode()))
        outcome, parts = decode("amqp", headers, got)
        assert outcome == 0
        assert_parts(parts, tx, topic, body, content_type, b"k1")
    connection.close()
