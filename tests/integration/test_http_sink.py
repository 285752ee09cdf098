"""HTTP deliveries: what a request looks like, what is taken for an acknowledgement, when it is tried again."""

import json
import re

import pytest
import webhook
from harness.client import DELIVERY, message, publish_request
from harness.ids import uuid7
from harness.peers import GARBAGE, HANG, RESET, Drip, Flood, Reply
from harness.world import subscription
from servers.process import free_port, wait_until

DELIVERED, DEAD, RETRYING = DELIVERY["DELIVERED"], DELIVERY["DEAD"], DELIVERY["RETRYING"]


@pytest.fixture
def sink(world):
    return world.sink()


def publish(client, topic, body=b"body", **fields):
    return client.publish([message(topic, body, **fields)], tx=uuid7()).transaction_id


def test_request(world, client, sink):
    secret = webhook.new_secret()
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, {"http": {"url": sink.url("/in?a=b"), "secret": secret, "headers": {"X-Token": "t0k"}}})])
    tx = uuid7()
    client.publish([message(topic, b"first", content_type="text/plain", key=b"k1", headers={"colour": "blue"}),
                    message(topic, b"\x00\x01")], tx=tx, business_key="order-1")
    first, second = sink.wait_for(tx, 0)[0], sink.wait_for(tx, 1)[0]
    assert (first.path, first.body, second.body) == ("/in?a=b", b"first", b"\x00\x01")
    assert first.headers["webhook-id"] == f"{tx}-0"
    assert webhook.verify(secret, first.headers, first.body) and webhook.verify(secret, second.headers, second.body)
    assert not webhook.verify(secret, first.headers, b"other")
    assert first.headers["content-type"] == "text/plain" and second.headers["content-type"] == "application/octet-stream"
    assert first.headers["x-token"] == "t0k" and first.headers["colour"] == "blue"
    ce = {name: first.headers[f"ce-{name}"] for name in ("specversion", "id", "source", "type", "time")}
    assert (ce["specversion"], ce["id"]) == ("1.0", f"{tx}.0")
    assert ce["source"] and ce["type"] and re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$", ce["time"])


def test_unsigned_without_a_secret(world, client, sink):
    tx = publish(client, world.topic(http=sink))
    assert "webhook-signature" not in sink.wait_for(tx)[0].headers


def test_nothing_before_the_decision(world, client, sink):
    topic = world.topic(http=sink)
    cancelled, open_ = uuid7(), uuid7()
    for tx in (cancelled, open_):
        client.prepare([message(topic)], tx=tx)
    client.cancel(cancelled)
    marker = publish(client, topic)
    sink.wait_for(marker)
    assert not sink.of(cancelled) and not sink.of(open_)
    client.confirm(open_)
    sink.wait_for(open_)


def test_each_subscription_gets_it(world, client):
    one, two = world.sink(), world.sink()
    topic = world.topic(one=one, two=two)
    tx = publish(client, topic)
    assert len(one.wait_for(tx)) == len(two.wait_for(tx)) == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_acknowledged(world, client, sink, status):
    sink.reply = Reply(status, b"" if status == 204 else b"whatever")
    topic = world.topic(http=sink)
    tx = publish(client, topic)
    world.wait_delivery(tx, f"{topic}-http", DELIVERED)
    assert len(sink.of(tx)) == 1


FAILURES = {"301": Reply(301, b"", {"Location": "/moved"}), "400": Reply(400), "404": Reply(404), "429": Reply(429),
            "500": Reply(500, b"oh"), "503": Reply(503), "hang": HANG, "reset": RESET, "garbage": GARBAGE, "drip": Drip(),
            "flood": Flood()}


@pytest.fixture(scope="module")
def failed(world):
    """One subscription for each failure; all messages are under way at once. Each sink fails twice, then accepts."""
    sinks, ids = {}, {}
    for name in FAILURES:
        sinks[name] = world.sink()
    world.apply(topics=[f"fails-{n}" for n in FAILURES], producers=["shop"], subscriptions=[
        subscription(f"fails-{n}", f"fails-{n}", {"http": {"url": sinks[n].url("/hook"), "timeout": "300ms"}})
        for n in FAILURES])
    for name, reply in FAILURES.items():
        ids[name] = uuid7()
        sinks[name].on(f"{ids[name]}-0", reply, reply, Reply(200))
        world.client.publish([message(f"fails-{name}", b"again")], tx=ids[name])
    return sinks, ids


@pytest.mark.parametrize("what", FAILURES)
def test_tried_again(world, client, failed, what):
    sinks, ids = failed
    delivery = world.wait_delivery(ids[what], f"fails-{what}", DELIVERED)
    requests = sinks[what].of(ids[what])
    assert len(requests) == 3 and {r.body for r in requests} == {b"again"}
    assert len({r.headers["webhook-id"] for r in requests}) == 1
    assert not any(r.path == "/moved" for r in requests)
    assert delivery.state == DELIVERED


def test_connection_refused_then_back(world, client):
    topic, port = world.unique("t"), free_port()
    world.apply(topics=[topic], producers=["shop"],
                subscriptions=[subscription(topic, topic, {"http": {"url": f"http://127.0.0.1:{port}/"}})])
    tx = publish(client, topic)
    delivery = world.wait_delivery(tx, topic, RETRYING)
    assert delivery.attempts >= 1 and delivery.last_error
    sink = world.sink()
    world.apply(subscriptions=[subscription(topic, topic, sink)])
    sink.wait_for(tx)
    world.wait_delivery(tx, topic, DELIVERED)


def test_gone_is_never_tried_again(world, client, sink):
    """410 says that the consumer wants no more of it: a dead letter at once."""
    sink.reply = Reply(410)
    topic = world.topic(http=sink)
    tx = publish(client, topic)
    delivery = world.wait_delivery(tx, f"{topic}-http", DEAD)
    assert delivery.attempts == 1 and "410" in delivery.last_error
    assert len(sink.of(tx)) == 1


def test_attempts_are_exhausted(world, client, sink):
    sink.reply = Reply(500)
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, sink, retry={"initial": "20ms", "factor": 1, "max": "20ms", "max_attempts": 4})])
    tx = publish(client, topic)
    delivery = world.wait_delivery(tx, topic, DEAD)
    assert delivery.attempts == 4 and "500" in delivery.last_error
    assert len(sink.of(tx)) == 4


def test_age_is_exhausted(world, client, sink):
    sink.reply = Reply(500)
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, sink, retry={"initial": "100ms", "factor": 1, "max": "200ms", "max_attempts": 1000, "max_age": "1s"})])
    tx = publish(client, topic)
    delivery = world.wait_delivery(tx, topic, DEAD)
    assert 1 < delivery.attempts < 1000
    assert len(sink.of(tx)) == delivery.attempts


def test_body_success_mode(world, client, sink):
    """Only 2xx with the word `success`, in any case, acknowledges."""
    topic, tx = world.unique("t"), uuid7()
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, {"http": {"url": sink.url("/"), "ack_mode": "HTTP_ACK_MODE_BODY_SUCCESS"}})])
    no = [Reply(200, b""), Reply(200, b"FAIL"), Reply(500, b"success"), Reply(200, b"SUCCESS or not")]
    sink.on(f"{tx}-0", *no, Reply(202, b" Success\r\n"))
    client.publish([message(topic)], tx=tx)
    world.wait_delivery(tx, topic, DELIVERED)
    assert len(sink.of(tx)) == len(no) + 1


def test_json_field_mode(world, client, sink):
    """Only 2xx with the declared value in the declared place acknowledges."""
    topic, tx = world.unique("t"), uuid7()
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, {"http": {
        "url": sink.url("/"), "ack_mode": "HTTP_ACK_MODE_JSON_FIELD", "ack_field": "result.code", "ack_value": "0"}})])
    no = [Reply(200, b""), Reply(200, b'{"result": {"code": 7}}'), Reply(500, b'{"result": {"code": 0}}')]
    sink.on(f"{tx}-0", *no, Reply(200, b'{"result": {"code": 0}}'))
    client.publish([message(topic)], tx=tx)
    world.wait_delivery(tx, topic, DELIVERED)
    assert len(sink.of(tx)) == len(no) + 1


def test_declared_statuses_are_never_tried_again(world, client, sink):
    topic, refused, failed = world.unique("t"), uuid7(), uuid7()
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, {"http": {
        "url": sink.url("/"), "reject_statuses": [400, 422]}})])
    sink.on(f"{refused}-0", Reply(422, b"no such order"))
    sink.on(f"{failed}-0", Reply(421), Reply(200))
    for tx in (refused, failed):
        client.publish([message(topic)], tx=tx)
    delivery = world.wait_delivery(refused, topic, DEAD)
    assert delivery.attempts == 1 and "422: no such order" in delivery.last_error
    world.wait_delivery(failed, topic, DELIVERED)


def test_structured_mode(world, client, sink):
    secret = webhook.new_secret()
    topic, tx = world.unique("t"), uuid7()
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, {"http": {
        "url": sink.url("/"), "content_mode": "HTTP_CONTENT_MODE_STRUCTURED", "secret": secret}})])
    client.publish([message(topic, b'{"total": 12}', content_type="application/json", headers={"colour": "blue"}),
                    message(topic, b"\x00")], tx=tx, business_key="order-1")
    first, second = sink.wait_for(tx, 0)[0], sink.wait_for(tx, 1)[0]
    event = json.loads(first.body)
    assert (event["id"], event["type"], event["subject"], event["data"]) == (f"{tx}.0", topic, "order-1", {"total": 12})
    assert json.loads(second.body)["data_base64"] == "AA=="
    assert first.headers["content-type"] == "application/cloudevents+json" and first.headers["colour"] == "blue"
    assert not [name for name in first.headers if name.startswith("ce-")]
    assert webhook.verify(secret, first.headers, first.body)


def test_secret_rotation(world, client, sink):
    """While both secrets are declared, a consumer with either of them verifies the request."""
    old, new = webhook.new_secret(), webhook.new_secret()
    topic = world.unique("t")

    def declare(**secrets):
        world.apply(topics=[topic], producers=["shop"],
                    subscriptions=[subscription(topic, topic, {"http": {"url": sink.url("/"), **secrets}})])

    def verified():
        request = sink.wait_for(publish(client, topic))[0]
        return [webhook.verify(secret, request.headers, request.body) for secret in (old, new)]

    for declared, expected in [({"secret": old}, [True, False]), ({"secret": new, "previous_secret": old}, [True, True]),
                               ({"secret": new}, [False, True])]:
        declare(**declared)
        wait_until(lambda: verified() == expected, 10, f"requests signed as declared: {declared}")
    declare(secret=new, previous_secret=old)
    exported = json.dumps(world.ctl.json("export"))
    assert old not in exported and new not in exported


def test_intervals(world, client, sink):
    """Explicit intervals: as many repeats as there are, then a dead letter."""
    sink.reply = Reply(500)
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"],
                subscriptions=[subscription(topic, topic, sink, retry={"intervals": ["50ms", "10ms", "400ms"]})])
    tx = publish(client, topic)
    assert world.wait_delivery(tx, topic, DEAD).attempts == 4
    at = [r.at for r in sink.of(tx)]
    assert len(at) == 4 and at[1] - at[0] >= 0.05 and at[3] - at[2] >= 0.4


def test_retry_after_is_kept(world, client, sink):
    topic, tx = world.unique("t"), uuid7()
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, sink, retry={"initial": "10ms", "factor": 1, "max": "5s"})])
    sink.on(f"{tx}-0", Reply(503, b"", {"Retry-After": "2"}), Reply(200))
    client.publish([message(topic)], tx=tx)
    first, second = sink.wait_for(tx, count=2)
    assert second.at - first.at >= 1.5


def test_one_bad_sink_delays_no_other(world, client):
    """A consumer that never answers holds its own messages, nobody else's."""
    stuck, good = world.sink(reply=HANG), world.sink()
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[
        subscription(f"{topic}-stuck", topic, {"http": {"url": stuck.url("/"), "timeout": "20s"}}, concurrency=4),
        subscription(f"{topic}-good", topic, good)])
    ids = [publish(client, topic) for _ in range(200)]
    wait_until(lambda: len({r.headers["webhook-id"] for r in good.got()}) == len(ids), 20, "the good sink has all")
    assert len(stuck.got()) <= 4, "more deliveries in flight than the subscription's concurrency"
    world.apply(subscriptions=[subscription(f"{topic}-stuck", topic, {"discard": {}})])


def test_many_arrive_exactly_once_when_nothing_fails(world, client, sink):
    topic = world.topic(http=sink)
    ids = [uuid7() for _ in range(2000)]
    for i in range(0, len(ids), 500):
        client.batch([publish_request([message(topic, tx.encode())], tx=tx) for tx in ids[i:i + 500]])
    wait_until(lambda: len(sink.got()) >= len(ids), 60, "all deliveries")
    assert sorted(r.headers["webhook-id"] for r in sink.got()) == sorted(f"{tx}-0" for tx in ids)
    assert all(r.headers["webhook-id"][:36].encode() == r.body for r in sink.got())


def test_message_of_one_mebibyte(world, client, sink):
    tx = publish(client, world.topic(http=sink), b"x" * (1 << 20))
    assert len(sink.wait_for(tx)[0].body) == 1 << 20
