"""Subscriptions at run time: seen one by one and as lists, paused, filtered, slowed down; and who did it."""

import contextlib
import threading

import pytest
from harness.client import DELIVERY, Client, message, refused
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import subscription
from servers.process import ServerError, wait_until
from txmsg.v1 import admin_service_pb2 as admin_pb2
from txmsg.v1 import topology_pb2

DELIVERED, PENDING = DELIVERY["DELIVERED"], DELIVERY["PENDING"]
ACTIVE, PAUSED = (topology_pb2.SubscriptionState.Value(f"SUBSCRIPTION_STATE_{s}") for s in ("ACTIVE", "PAUSED"))


def pause(client, name, **fields):
    return client.admin.PauseSubscription(admin_pb2.PauseSubscriptionRequest(name=name, **fields), timeout=30)


def resume(client, name, **fields):
    return client.admin.ResumeSubscription(admin_pb2.ResumeSubscriptionRequest(name=name, **fields), timeout=30)


def publish(client, topic, **fields):
    return client.publish([message(topic, b"body", **fields)], tx=uuid7()).transaction_id


def test_get_and_list(world, client):
    topic = world.unique("list")
    names = [f"{topic}-{i}" for i in range(5)]
    world.apply(topics=[topic], producers=[{"name": topic, "check": {"secret": "whsec_" + "QUJD" * 8}}],
                subscriptions=[subscription(n, topic, {"discard": {}}) for n in names])
    got = client.admin.GetSubscription(admin_pb2.GetSubscriptionRequest(name=names[2]), timeout=20).subscription
    assert (got.name, got.topic, got.state) == (names[2], topic, ACTIVE) and got.create_time.seconds > 0
    assert client.admin.GetTopic(admin_pb2.GetTopicRequest(name=topic), timeout=20).topic.name == topic
    assert client.admin.GetProducer(admin_pb2.GetProducerRequest(name=topic), timeout=20).producer.check.secret == "***"
    found, token = [], ""
    while True:
        page = client.admin.ListSubscriptions(
            admin_pb2.ListSubscriptionsRequest(topic=topic, page_size=2, page_token=token), timeout=20)
        assert len(page.subscriptions) <= 2
        found += [s.name for s in page.subscriptions]
        token = page.next_page_token
        if not token:
            break
    assert found == names
    assert topic in [t.name for t in client.admin.ListTopics(admin_pb2.ListTopicsRequest(page_size=1000), timeout=20).topics]
    assert topic in [p.name for p in client.admin.ListProducers(admin_pb2.ListProducersRequest(page_size=1000),
                                                                timeout=20).producers]


@pytest.mark.parametrize("method,request_,reason", [
    ("GetTopic", admin_pb2.GetTopicRequest(name="no-such"), "TOPIC_NOT_FOUND"),
    ("GetProducer", admin_pb2.GetProducerRequest(name="no-such"), "PRODUCER_NOT_FOUND"),
    ("GetSubscription", admin_pb2.GetSubscriptionRequest(name="no-such"), "SUBSCRIPTION_NOT_FOUND"),
    ("PauseSubscription", admin_pb2.PauseSubscriptionRequest(name="no-such"), "SUBSCRIPTION_NOT_FOUND"),
    ("ResumeSubscription", admin_pb2.ResumeSubscriptionRequest(name="no-such"), "SUBSCRIPTION_NOT_FOUND")])
def test_unknown_names(client, method, request_, reason):
    with refused("NOT_FOUND", reason, name="no-such"):
        getattr(client.admin, method)(request_, timeout=30)


def test_pause_holds_and_resume_delivers(world, client):
    """Nothing is started while a subscription is paused, also not what waits for a retry; nothing is lost."""
    held, other = world.sink(), world.sink()
    topic = world.topic(held=held, other=other)
    name = f"{topic}-held"
    retried = uuid7()
    held.on(f"{retried}-0", *[500] * 3)
    first = publish(client, topic)
    held.wait_for(first)
    assert pause(client, name, reason="maintenance", actor="ops").subscription.state == PAUSED
    assert pause(client, name).subscription.state == PAUSED
    seen = len(held.got())
    ids = [publish(client, topic) for _ in range(20)]
    for tx in ids:
        other.wait_for(tx)
    assert len(held.got()) == seen, "a paused subscription delivered"
    assert world.wait_delivery(ids[0], name, PENDING).attempts == 0
    listed = client.admin.ListSubscriptions(admin_pb2.ListSubscriptionsRequest(topic=topic), timeout=20).subscriptions
    assert {s.name: s.state for s in listed} == {name: PAUSED, f"{topic}-other": ACTIVE}
    # Applying the same file again does not resume it.
    world.apply(subscriptions=[subscription(name, topic, held)])
    assert client.admin.GetSubscription(admin_pb2.GetSubscriptionRequest(name=name), timeout=20).subscription.state == PAUSED
    assert resume(client, name).subscription.state == ACTIVE
    for tx in ids:
        held.wait_for(tx)
        world.wait_delivery(tx, name, DELIVERED)
    entries = client.admin.ListAudit(admin_pb2.ListAuditRequest(target=f"subscription/{name}"), timeout=20).entries
    assert [(e.action, e.actor, e.reason) for e in entries if e.action.startswith("subscription.")] == [
        ("subscription.resume", "rpc", ""), ("subscription.pause", "ops", "maintenance")]


def test_filter(world, client):
    """A message is taken if it has every header with exactly that value; what is left out is no delivery."""
    sink = world.sink()
    topic = world.unique("filter")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, sink, filter={"headers": {"colour": "blue", "size": "1"}})])
    others = [publish(client, topic, headers=h) for h in
              ({}, {"colour": "blue"}, {"colour": "red", "size": "1"}, {"Colour": "blue", "size": "1"})]
    wanted = publish(client, topic, headers={"colour": "blue", "size": "1", "more": "x"})
    sink.wait_for(wanted)
    world.wait_delivery(wanted, topic, DELIVERED)
    assert {r.headers["webhook-id"] for r in sink.got()} == {f"{wanted}-0"}
    for tx in others:
        assert not client.get(tx).messages[0].deliveries
    world.apply(subscriptions=[subscription(topic, topic, sink)])
    again = publish(client, topic)
    sink.wait_for(again)


def test_rate(world, client):
    """Attempts go out at the declared rate; they do not pile up."""
    sink = world.sink()
    topic = world.unique("rate")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink, rate=20)])
    ids = [publish(client, topic) for _ in range(40)]
    for tx in ids:
        sink.wait_for(tx)
    at = sorted(r.at for r in sink.got())
    assert len(at) == 40
    assert at[-1] - at[0] >= (40 - 3) / 20 * 0.9, "faster than the declared rate"


def test_rate_is_shared_by_replicas(world, client):
    """What two replicas send comes to the declared rate, not to twice of it."""
    second, sink, topic = world.daemon("rate-second").start(), world.sink(), world.unique("rate")
    try:
        world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink, rate=20)])
        with contextlib.closing(Client(second.grpc)) as there:
            ids = [publish(c, topic) for _ in range(60) for c in (client, there)]
        for tx in ids:
            sink.wait_for(tx, timeout=60)
        at = sorted(r.at for r in sink.got())
        assert len(at) == 120
        assert at[-1] - at[0] >= (120 - 26) / 20 * 0.9, "a second's worth is for what was sent before they knew of each other"
    finally:
        second.close()


def test_command_line(world, client):
    topic = world.topic(out={"discard": {}})
    name = f"{topic}-out"
    assert topic in world.ctl("topics") and "shop" in world.ctl("producers")
    assert "active" in world.ctl("subscriptions", "--topic", topic)
    assert world.ctl.json("subscriptions", name)["subscription"]["topic"] == topic
    assert "paused" in world.ctl("pause", name, "--reason", "a drill", "--actor", "ann")
    assert "paused" in world.ctl("subscriptions", "--topic", topic)
    assert "delivers again" in world.ctl("resume", name)
    audit = world.ctl("audit", "--target", f"subscription/{name}", "--by", "ann")
    assert "subscription.pause" in audit and "a drill" in audit and "resume" not in audit
    assert world.sql("SELECT before, after FROM audit WHERE object = %s AND act LIKE 'subscription.%%' ORDER BY id", f"subscription/{name}") == [
        ({"state": "active"}, {"state": "paused"}), ({"state": "paused"}, {"state": "active"})]
    assert world.ctl.run("pause", "no-such").returncode == 1


def test_audit_pages(client, world):
    topic = world.unique("audited")
    for i in range(4):
        world.apply(topics=[{"name": topic, "description": str(i)}])
    found, token = [], ""
    while True:
        page = client.admin.ListAudit(admin_pb2.ListAuditRequest(target=f"topic/{topic}", page_size=3, page_token=token),
                                      timeout=20)
        found += [e.action for e in page.entries]
        token = page.next_page_token
        if not token:
            break
    assert found == ["topology.update"] * 3 + ["topology.create"]
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        client.admin.ListAudit(admin_pb2.ListAuditRequest(page_token="x"), timeout=20)


def test_breaker_by_policy(world, client):
    """Two failures in a row park it instead of sixteen: the others wait untried until a probe has succeeded."""
    sink, topic = world.sink(), world.unique("breaker")
    sink.reply = Reply(500)
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, {"http": {"url": sink.url("/")}}, retry={"initial": "1h", "max": "1h"}, concurrency=1,
        breaker={"failures": 2, "open": "1h", "max_open": "1h"})])
    ids = [publish(client, topic) for _ in range(20)]
    workers = world.sql("SELECT count(*) FROM worker")[0][0]
    wait_until(lambda: f"subscription {topic}: parked after 2 failures" in world.txmsgd.log.read_text(), 20, "it is parked")
    marker = world.topic(nowhere={"discard": {}})
    world.wait_delivery(publish(client, marker), f"{marker}-nowhere", DELIVERED)
    assert len(sink.got()) <= 2 * workers
    sink.reply = Reply(200)
    world.apply(subscriptions=[subscription(
        topic, topic, {"http": {"url": sink.url("/changed")}}, retry={"initial": "1h", "max": "1h"}, concurrency=1)])
    wait_until(lambda: len({r.headers["ce-id"] for r in sink.got() if r.path == "/changed"}) >= len(ids) - 2 * workers, 30,
               "those that were not tried are delivered when the sink is another one")


def test_breaker_tries_one_at_a_time(world, client):
    """While its one try has no answer nothing else is sent, however long that takes; then, with a success, all of it."""
    sink, topic, answered, lock = world.sink(), world.unique("half-open"), threading.Event(), threading.Lock()
    sink.reply = Reply(500)
    under_way = most = 0

    def hold(request):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        assert answered.wait(120)
        with lock:
            under_way -= 1
        return Reply(200)

    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, {"http": {"url": sink.url("/"), "timeout": "2m"}}, retry={"initial": "1h", "max": "1h"}, concurrency=16,
        breaker={"failures": 2, "open": "500ms", "max_open": "500ms"})])
    workers = world.sql("SELECT count(*) FROM worker")[0][0]
    for _ in range(4 * workers):
        publish(client, topic)
    wait_until(lambda: f"subscription {topic}: parked after 2 failures" in world.txmsgd.log.read_text(), 20, "it is parked")
    sink.reply = hold
    ids = [publish(client, topic) for _ in range(20 * workers)]
    wait_until(lambda: under_way, 30, "it is tried")
    until = world.sql("SELECT clock_timestamp() + interval '2 s'")[0][0] # four times as long as until a try
    wait_until(lambda: world.sql("SELECT clock_timestamp() > %s", until)[0][0], 60, "time passes")
    marker = world.topic(nowhere={"discard": {}})
    world.wait_delivery(publish(client, marker), f"{marker}-nowhere", DELIVERED)
    assert most <= workers, "each worker has one try"
    answered.set()
    for tx in ids:
        sink.wait_for(tx)


def test_breaker_beyond_limits(world):
    with pytest.raises(ServerError, match="breaker.max_open is 1s, less than open, which is 2s"):
        world.apply(topics=["b"], subscriptions=[subscription("b", "b", {"discard": {}},
                                                              breaker={"open": "2s", "max_open": "1s"})])
