"""gRPC deliveries: what a request looks like, what the answers mean, when it is tried again and where."""

import threading
import time

import grpc
import pytest
from harness.client import CONFIRMED, DELIVERY, duration, message, publish_request
from harness.consumers import ACK, ConsumerServer, reject, retry
from harness.ids import uuid7
from harness.peers import Proxy
from harness.world import metric, subscription
from servers.process import free_port, wait_until
from servers.txmsgd import to_yaml
from txmsg.v1 import consumer_service_pb2 as pb2

DELIVERED, DEAD, RETRYING = DELIVERY["DELIVERED"], DELIVERY["DEAD"], DELIVERY["RETRYING"]
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def serve():
    servers = []

    def made(**fields):
        servers.append(ConsumerServer(**fields))
        return servers[-1]

    yield made
    for server in servers:
        server.close()


def subscribe(world, *endpoints, sink=None, **more):
    topic = world.unique("t")
    urls = [e if isinstance(e, str) else e.url for e in endpoints]
    world.apply(topics=[topic], producers=["shop"],
                subscriptions=[subscription(topic, topic, {"grpc": {"endpoints": urls, "timeout": "2s", **(sink or {})}}, **more)])
    return topic


def publish(client, topic, body=b"body", **fields):
    return client.publish([message(topic, body, **fields)], tx=uuid7()).transaction_id


def duplicates(world):
    return metric(world.txmsgd, "txmsg_possible_duplicates_total")


def test_request(world, client, serve):
    consumer = serve()
    topic = subscribe(world, consumer)
    tx, before = uuid7(), time.time()
    request = publish_request([message(topic, b"first", content_type="text/plain", key=b"\x00k", headers={"colour": "blue"}),
                               message(topic, b"\x00\x01")], tx=tx, business_key="order-1")
    client.messages.Publish(request, timeout=10, metadata=[("traceparent", TRACE), ("tracestate", "vendor=1")])
    first, second = consumer.wait_for(tx, 0)[0], consumer.wait_for(tx, 1)[0]
    assert (first.message_id, first.transaction_id, first.n) == (f"{tx}.0", tx, 0)
    assert (first.subscription, first.producer, first.business_key) == (topic, "shop", "order-1")
    m = first.message
    assert (m.topic, m.key, m.body, m.content_type, dict(m.headers)) == (topic, b"\x00k", b"first", "text/plain", {"colour": "blue"})
    assert (second.n, second.message.body, second.message.content_type) == (1, b"\x00\x01", "")
    assert (first.attempt, first.possible_duplicate, first.replay_id, first.order) == (1, False, "", 0)
    assert abs(first.prepare_time.ToSeconds() - before) < 60 and abs(first.decision_time.ToSeconds() - before) < 60
    metadata = [m for r, m in consumer.got() if r.message_id == f"{tx}.0"][0]
    assert (metadata["traceparent"], metadata["tracestate"]) == (TRACE, "vendor=1")
    assert [d.state for d in (world.wait_delivery(tx, topic, DELIVERED, n=n) for n in (0, 1))] == [DELIVERED] * 2


def test_nothing_before_the_decision(world, client, serve):
    consumer = serve()
    topic = subscribe(world, consumer)
    cancelled, confirmed = uuid7(), uuid7()
    for tx in (cancelled, confirmed):
        client.prepare([message(topic)], tx=tx)
    client.cancel(cancelled)
    consumer.wait_for(publish(client, topic))
    assert not consumer.of(cancelled) and not consumer.of(confirmed)
    assert client.confirm(confirmed).state == CONFIRMED
    consumer.wait_for(confirmed)


def test_retry_then_ack(world, client, serve):
    """The second attempt is known as such, has the same bytes, and what was refused is no possible duplicate in the count."""
    consumer, before = serve(), duplicates(world)
    topic, tx = subscribe(world, consumer), uuid7()
    consumer.script[f"{tx}.0"] = [retry("Grüße, not now"), ACK]
    client.publish([message(topic, b"again")], tx=tx)
    one, two = consumer.wait_for(tx, count=2)
    assert (one.attempt, one.possible_duplicate, two.attempt, two.possible_duplicate) == (1, False, 2, True)
    assert one.message == two.message and one.decision_time.seconds and not two.HasField("decision_time")
    assert world.wait_delivery(tx, topic, DELIVERED).last_error in ("", "not now: Grüße, not now")
    assert duplicates(world) == before


def test_retry_after_is_waited_for(world, client, serve):
    """The policy alone would try again at once; a wish of an hour holds it, and others go on."""
    consumer = serve()
    topic, tx = subscribe(world, consumer, retry={"initial": "10ms", "factor": 1, "max": "10ms"}), uuid7()
    consumer.script[f"{tx}.0"] = [retry("later", duration(3600))]
    client.publish([message(topic)], tx=tx)
    delivery = world.wait_delivery(tx, topic, RETRYING)
    assert delivery.last_error == "not now: later"
    assert delivery.next_attempt_time.ToSeconds() - time.time() > 3000
    world.wait_delivery(publish(client, topic), topic, DELIVERED)
    assert len(consumer.of(tx)) == 1


def test_reject_is_a_dead_letter_with_its_reason(world, client, serve):
    consumer = serve()
    topic, tx = subscribe(world, consumer), uuid7()
    consumer.script[f"{tx}.0"] = [reject("no such item: " + "x" * 1000)]
    client.publish([message(topic)], tx=tx)
    delivery = world.wait_delivery(tx, topic, DEAD)
    assert delivery.attempts == 1 and delivery.last_error.startswith("rejected: no such item: xxx")
    assert world.sql("SELECT class FROM dead_letter WHERE tx = %s", tx) == [("permanent",)]
    assert world.ctl("dead", "show", f"{topic}/{tx}.0")
    world.ctl("dead", "redrive", f"{topic}/{tx}.0", "--reason", "mended")
    again = consumer.wait_for(tx, count=2)[1]
    assert again.possible_duplicate
    world.wait_delivery(tx, topic, DELIVERED)


# What it is, what the error says, and whether somebody may have taken the message.
FAILURES = {
    "unspecified": (pb2.DeliverResponse(), "no outcome", True),
    "garbage": (b"<html>", "not the expected message", True),
    "no text": (b"\x1a\x02\xff\xff", "not the expected message", True),
    "too large": (b"\x1a\x80\x80\x10" + b"x" * (1 << 18), "RESOURCE_EXHAUSTED", True),
    "internal": (grpc.StatusCode.INTERNAL, "gRPC INTERNAL: told to fail", True),
    "unknown": (grpc.StatusCode.UNKNOWN, "gRPC UNKNOWN: told to fail", True),
    "unavailable": (grpc.StatusCode.UNAVAILABLE, "gRPC UNAVAILABLE: told to fail", True),
    "not found": (grpc.StatusCode.NOT_FOUND, "gRPC NOT_FOUND: told to fail", False),
    "late": (threading.Event(), "gRPC DEADLINE_EXCEEDED", True),
}


@pytest.mark.parametrize("what", FAILURES)
def test_anything_else_is_tried_again(world, client, serve, what):
    reply, error, unknown = FAILURES[what]
    consumer, before = serve(), duplicates(world)
    topic, tx = subscribe(world, consumer, sink={"timeout": "300ms"}, retry={"intervals": ["1s"] * 3}), uuid7()
    consumer.script[f"{tx}.0"] = [reply, ACK]
    client.publish([message(topic)], tx=tx)
    assert error in world.wait_delivery(tx, topic, RETRYING).last_error
    assert duplicates(world) - before == (1 if unknown else 0)
    assert consumer.wait_for(tx, count=2)[1].possible_duplicate
    world.wait_delivery(tx, topic, DELIVERED)


def test_server_without_the_service(world, client, serve):
    """Surely nobody has it; it is tried again, not given up: the consumer is perhaps just being deployed."""
    other, before = serve(service="txmsg.v1.Other"), duplicates(world)
    topic = subscribe(world, other)
    tx = publish(client, topic)
    assert "gRPC UNIMPLEMENTED" in world.wait_delivery(tx, topic, RETRYING).last_error
    assert duplicates(world) == before


def test_nobody_listens_then_somebody_does(world, client, serve):
    port, before = free_port(), duplicates(world)
    topic = subscribe(world, f"grpc://127.0.0.1:{port}")
    tx = publish(client, topic)
    assert "gRPC UNAVAILABLE" in world.wait_delivery(tx, topic, RETRYING).last_error
    assert duplicates(world) == before
    consumer = serve(port=port)
    consumer.wait_for(tx, timeout=60)
    world.wait_delivery(tx, topic, DELIVERED)


def test_dead_endpoint_gives_way_within_the_attempt(world, client, serve):
    consumer, before = serve(), duplicates(world)
    topic = subscribe(world, f"grpc://127.0.0.1:{free_port()}", f"grpc://127.0.0.1:{free_port()}", consumer)
    ids = [publish(client, topic, str(i)) for i in range(20)]
    for tx in ids:
        assert world.wait_delivery(tx, topic, DELIVERED).attempts <= 1
        assert [r.attempt for r in consumer.of(tx)] == [1]
    assert duplicates(world) == before


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED])
def test_endpoint_that_refuses_gives_way_with_the_next_attempt(world, client, serve, code):
    bad, good = serve(), serve()
    bad.reply = code
    topic = subscribe(world, bad, good)
    tx = publish(client, topic)
    world.wait_delivery(tx, topic, DELIVERED)
    assert [r.attempt for r in bad.of(tx)] == [1] and [r.attempt for r in good.of(tx)] == [2]
    later = publish(client, topic)
    world.wait_delivery(later, topic, DELIVERED)
    assert not bad.of(later) and len(good.of(later)) == 1


@pytest.fixture
def proxied(serve):
    consumer = serve()
    proxy = Proxy(consumer.port)
    yield consumer, proxy
    proxy.close()


def test_server_that_goes_away_while_it_works(world, client, serve, proxied):
    """The call was cut: nobody knows, so it is counted, and comes again under the same id."""
    (consumer, proxy), other, before = proxied, serve(), duplicates(world)
    topic, tx = subscribe(world, f"grpc://127.0.0.1:{proxy.port}", other), uuid7()
    consumer.script[f"{tx}.0"] = [threading.Event()]
    client.publish([message(topic)], tx=tx)
    consumer.wait_for(tx)
    proxy.open = False
    proxy.cut()
    again = other.wait_for(tx)[0]
    assert again.possible_duplicate and again.attempt >= 2
    world.wait_delivery(tx, topic, DELIVERED)
    assert duplicates(world) > before


def test_one_connection_for_all(world, client, serve):
    """Calls share one connection, and no more are under way than the subscription allows in each worker."""
    consumer = serve(threads=64)
    topic, gate = subscribe(world, consumer, concurrency=5), threading.Event()
    ids = [uuid7() for _ in range(200)]
    for tx in ids[:20]:
        consumer.script[f"{tx}.0"] = [gate]
    client.batch([publish_request([message(topic)], tx=tx) for tx in ids])
    wait_until(lambda: consumer.now >= 5, 30, "calls are under way")
    gate.set()
    for tx in ids:
        consumer.wait_for(tx)
    workers = world.sql("SELECT count(*) FROM lane WHERE state = 'open'")[0][0]
    assert 5 <= consumer.most <= 5 * workers
    assert len(consumer.peers) == 1, consumer.peers


def test_hanging_consumer_delays_nobody_else(world, client, serve):
    hanging, other = serve(threads=2), serve()
    hanging.reply = threading.Event()
    stuck, topic = subscribe(world, hanging, sink={"timeout": "30s"}), subscribe(world, other)
    for _ in range(300):
        publish(client, stuck)
    wait_until(lambda: hanging.now, 30, "it hangs")
    ids = [publish(client, topic) for _ in range(20)]
    for tx in ids:
        world.wait_delivery(tx, topic, DELIVERED)
    assert hanging.now
    world.apply(subscriptions=[subscription(stuck, stuck, {"discard": {}})])  # closed with calls under way


def test_large_messages_are_bounded_in_flight(world, client, serve):
    """50 of a megabyte: more than a sink holds at once, and all of them come."""
    consumer = serve(threads=4, options=[("grpc.max_receive_message_length", 8 << 20)])
    topic = subscribe(world, consumer, sink={"timeout": "30s"})
    ids = [publish(client, topic, bytes([i]) * (1 << 20)) for i in range(50)]
    for i, tx in enumerate(ids):
        world.wait_delivery(tx, topic, DELIVERED, timeout=60)
        assert {r.message.body for r in consumer.of(tx)} == {bytes([i]) * (1 << 20)}


def test_restart_with_calls_under_way(world, client, serve):
    """What was not answered comes again; the daemon ends in order meanwhile."""
    consumer, gate = serve(threads=64), threading.Event()
    topic = subscribe(world, consumer, sink={"timeout": "60s"})
    ids = [uuid7() for _ in range(30)]
    for tx in ids:
        consumer.script[f"{tx}.0"] = [gate]
    client.batch([publish_request([message(topic)], tx=tx) for tx in ids])
    wait_until(lambda: consumer.now == 30, 30, "all are under way")
    world.txmsgd.restart()
    gate.set()
    for tx in ids:
        assert consumer.wait_for(tx, count=2, timeout=60)[-1].possible_duplicate
        world.wait_delivery(tx, topic, DELIVERED)


@pytest.mark.parametrize("sink, error", [
    ({}, "sink.grpc.endpoints is required"),
    ({"endpoints": []}, "sink.grpc.endpoints is required"),
    ({"endpoints": ["http://a:1"]}, "sink.grpc.endpoints[0] must begin with grpc://"),
    ({"endpoints": ["grpc://a:1", "grpc://b"]}, "sink.grpc.endpoints[1] needs a port"),
    ({"endpoints": [f"grpc://a:{i + 1}" for i in range(9)]}, "sink.grpc.endpoints are 9, the limit is 8"),
    ({"endpoints": ["grpc://a:1"], "timeout": "1ms"}, "sink.grpc.timeout is 0.001s, the limit is 100ms..10m"),
    ({"endpoints": ["grpc://a:1"], "tls": True}, "sink.grpc.tls is not supported by this version"),
    ({"endpoints": ["grpc://a:1"], "token": "t0k"}, "sink.grpc.token is not supported by this version"),
])
def test_bad_configuration(world, sink, error):
    topic = world.unique("t")
    topology = {"topics": [{"name": topic}], "subscriptions": [subscription(topic, topic, {"grpc": sink})]}
    done = world.ctl.run("apply", "-f", "-", stdin=to_yaml(topology))
    assert done.returncode == 1 and error in done.stderr, done.stderr


def test_shown_and_exported(world, serve):
    topic = subscribe(world, "grpc://127.0.0.1:1", "grpc://127.0.0.1:2")
    row = next(line for line in world.ctl("subscriptions").splitlines() if line.startswith(f"{topic} "))
    assert row.endswith("grpc grpc://127.0.0.1:1, ...")
    shown, = [s for s in world.ctl.json("export")["topology"]["subscriptions"] if s["name"] == topic]
    assert shown["sink"] == {"grpc": {"endpoints": ["grpc://127.0.0.1:1", "grpc://127.0.0.1:2"], "timeout": "2s"}}
