"""The alert hook: who is told, once over all replicas, that a subscription has dead letters or a producer stuck transactions."""

import base64
import pathlib

import pytest
import webhook
from harness.client import admin_pb2, message
from harness.ids import uuid7
from harness.peers import HttpPeer, Reply
from harness.world import metric, subscription
from servers.process import wait_until

SECRET = "whsec_" + base64.b64encode(b"alerts alerts alerts 123").decode()
DIGEST = 1.0


@pytest.fixture
def hook():
    with_ = HttpPeer(Reply(204))
    yield with_
    with_.close()


@pytest.fixture
def world(site, hook):
    """Two replicas that look often and tell `hook`."""
    made = site.world("alerts", {"alerts.url": hook.url("/alert"), "alerts.secret": SECRET, "alerts.digest": f"{DIGEST}s", "alerts.poll": "50ms"})
    try:
        made.start()
        made.second = made.daemon("second").start()
        yield made
    finally:
        made.close()


def told(hook, kind, name):
    return [r.json() for r in hook.requests if name in r.json()["data"].values() and r.json()["type"].startswith(f"txmsg.{kind}.")]


def types(hook, kind, name):
    return [notice["type"].rpartition(".")[2] for notice in told(hook, kind, name)]


def kill_some(world, n=5):
    """A subscription with so many dead letters."""
    sink, topic = world.sink(reply=Reply(410, b"never")), world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink)])
    for _ in range(n):
        world.client.publish([message(topic)], tx=uuid7())
    wait_until(lambda: world.sql("SELECT count(*) FROM dead_letter WHERE topic = %s", topic)[0][0] == n, 20, "all are dead")
    return topic, sink


def log(world):
    return "".join(p.read_text(errors="replace") for p in pathlib.Path(world.directory).rglob("*.log"))


def test_dead_letters_first_digest_resolved(world, hook):
    topic, sink = kill_some(world)
    wait_until(lambda: types(hook, "dead_letters", topic)[:3] == ["first", "digest", "digest"], 30, "it is told, and again while it lasts")
    notices = told(hook, "dead_letters", topic)
    data = notices[1]["data"]
    assert (data["subscription"], data["count"]) == (topic, 5) and "410" in data["lastError"]
    ids = [r.headers["webhook-id"] for r in hook.requests]
    assert len(set(ids)) == len(ids), "each notice came once, from one of the two replicas"
    assert all(webhook.verify(SECRET, r.headers, r.body) for r in hook.requests)
    assert f"alert: subscription {topic} has" in log(world)
    sink.reply = Reply(200)
    request = admin_pb2.RedriveDeadLettersRequest(filter=admin_pb2.DeadLetterFilter(subscription=topic), force=True)
    world.client.admin.RedriveDeadLetters(request, timeout=20)
    wait_until(lambda: types(hook, "dead_letters", topic)[-1] == "resolved", 20, "that it is over is told")
    wait_until(lambda: not world.sql("SELECT 1 FROM alert WHERE object = %s", topic), 20, "and the row is gone")
    assert types(hook, "dead_letters", topic).count("first") == types(hook, "dead_letters", topic).count("resolved") == 1
    assert f"subscription {topic} has no dead letters any more" in log(world)


def test_stuck(world, hook):
    endpoint, producer, topic = world.check_endpoint(), world.unique("p"), world.unique("t")
    world.apply(topics=[topic], producers=[{"name": producer, "check": {
        "endpoints": [endpoint.url("/check")], "initial": "1s", "max_unknowns": 1}}])
    tx = uuid7()
    world.client.prepare([message(topic)], tx=tx, producer=producer, check_after=1)
    first, = wait_until(lambda: told(hook, "stuck", producer)[:1], 30, "it is told")
    assert (first["type"], first["data"]["producer"], first["data"]["count"]) == ("txmsg.stuck.first", producer, 1)
    world.client.confirm(tx)
    wait_until(lambda: types(hook, "stuck", producer)[-1] == "resolved", 30, "that it is over is told")


def test_a_hook_that_fails_is_tried_again_under_the_same_id(world, hook):
    """It is told as soon as the hook works again, once; deliveries go on meanwhile."""
    hook.reply = Reply(500)
    topic, _ = kill_some(world)
    wait_until(lambda: len(told(hook, "dead_letters", topic)) >= 2, 30, "it is tried again")
    tried = {r.headers["webhook-id"] for r in hook.requests}
    assert len(tried) == 1 and set(types(hook, "dead_letters", topic)) == {"first"}
    fine = world.sink()
    other = world.topic(fine=fine)
    tx = uuid7()
    world.client.publish([message(other)], tx=tx)
    fine.wait_for(tx)
    hook.reply = Reply(200)
    wait_until(lambda: "digest" in types(hook, "dead_letters", topic), 30, "it goes on")
    assert sum(metric(d, "txmsg_alerts_total", result="failed") for d in (world.txmsgd, world.second)) >= 2
