"""The dead_letter_topic of a subscription: each death is one message there, through crashes too, and never goes round."""

import pytest
from harness.client import DELIVERY, admin_pb2, message
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import subscription
from servers.process import ServerError, wait_until

DEAD, DELIVERED = DELIVERY["DEAD"], DELIVERY["DELIVERED"]


@pytest.fixture
def place(world):
    """A topic that refuses everything for good, and a consumer of its dead letters."""
    refusing, told = world.sink(reply=Reply(410, b"no \xe5\xba\x93")), world.sink()
    topic, dead = world.unique("t"), world.unique("dead")
    world.apply(topics=[topic, dead], producers=["shop"], subscriptions=[
        subscription(topic, topic, refusing, dead_letter_topic=dead), subscription(dead, dead, told)])
    return topic, dead, refusing, told


def told_of(told, tx):
    return [r for r in told.got() if r.headers.get("txmsg-dead-id") == f"{tx}.0"]


def test_a_dead_letter_is_a_message_there(world, client, place):
    topic, dead, _, told = place
    tx = uuid7()
    client.publish([message(topic, b"\x00body", key=b"k", content_type="text/plain", headers={"colour": "blue"})], tx=tx,
                   business_key="order-1")
    world.wait_delivery(tx, topic, DEAD)
    request, = wait_until(lambda: told_of(told, tx), 20, "the consumer of dead letters has it")
    assert request.body == b"\x00body"
    expected = {"colour": "blue", "content-type": "text/plain", "txmsg-dead-subscription": topic, "txmsg-dead-topic": topic,
                "txmsg-dead-producer": "shop", "txmsg-dead-attempts": "1", "txmsg-dead-class": "permanent"}
    assert {name: request.headers.get(name) for name in expected} == expected
    assert "410" in request.headers["txmsg-dead-error"]
    own = request.headers["webhook-id"].rpartition("-")[0]
    story = world.wait_delivery(own, dead, DELIVERED)
    assert story and client.get(own).producer == "txmsg" and client.get(own).business_key == "order-1"
    wait_until(lambda: not world.sql("SELECT 1 FROM outbox"), 10, "the outbox is empty")
    # It stays a dead letter, to be redriven; one that dies again is another message.
    client.admin.RedriveDeadLetters(admin_pb2.RedriveDeadLettersRequest(names=[f"{topic}/{tx}.0"], force=True), timeout=20)
    wait_until(lambda: len(told_of(told, tx)) == 2, 20, "it is told again")


def test_after_retries(world, client):
    """Also a delivery that dies at a later attempt; one without a dead_letter_topic tells nobody."""
    told, topic, dead = world.sink(), world.unique("t"), world.unique("dead")
    twice = {"initial": "10ms", "max_attempts": 2}
    world.apply(topics=[topic, dead], producers=["shop"], subscriptions=[
        subscription(f"{topic}-a", topic, world.sink(reply=Reply(500)), twice, dead_letter_topic=dead),
        subscription(f"{topic}-b", topic, world.sink(reply=Reply(500)), twice), subscription(dead, dead, told)])
    ids = [uuid7() for _ in range(6)] # fewer than park a subscription
    for tx in ids:
        client.publish([message(topic)], tx=tx)
    for tx in ids:
        world.wait_delivery(tx, f"{topic}-b", DEAD)
        request, = wait_until(lambda tx=tx: told_of(told, tx), 20, "it is told")
        assert (request.headers["txmsg-dead-attempts"], request.headers["txmsg-dead-subscription"]) == ("2", f"{topic}-a")
        assert request.headers["txmsg-dead-class"] == "status_5xx"


def test_once_for_each_death_through_crashes(site):
    """Two replicas die and come back while messages die; every death is one transaction there, and the counters agree."""
    world = site.world("dlt", {"store.dead_after": "1s"}).start()
    try:
        told, topic, dead = world.sink(), world.unique("t"), world.unique("dead")
        world.apply(topics=[topic, dead], producers=["shop"], subscriptions=[
            subscription(topic, topic, world.sink(reply=Reply(410)), dead_letter_topic=dead), subscription(dead, dead, told)])
        second = world.daemon("second").start()
        ids = [uuid7() for _ in range(150)]
        for i, tx in enumerate(ids):
            world.client.publish([message(topic)], tx=tx)
            if i in (50, 100):
                daemon = (second, world.txmsgd)[i == 100]
                daemon.kill()
                daemon.start()
        wait_until(lambda: world.sql("SELECT count(*) FROM dead_letter")[0][0] == len(ids), 60, "all are dead")
        wait_until(lambda: all(told_of(told, tx) for tx in ids), 60, "all are told")
        wait_until(lambda: not world.sql("SELECT 1 FROM outbox"), 30, "the outbox is empty")
        rows = world.sql("SELECT headers::json->>'txmsg-dead-id' FROM message WHERE producer = 'txmsg'")
        assert sorted(r[0] for r in rows) == sorted(f"{tx}.0" for tx in ids)
        said = wait_until(lambda: {s["subscription"]: s for s in world.ctl.json("stats")["subscriptions"]}, 10, "counted")
        wait_until(lambda: int({s["subscription"]: s for s in world.ctl.json("stats")["subscriptions"]}[dead].get("delivered", 0)) == len(ids), 20, "all are delivered")
        assert int(said[topic]["dead"]) == len(ids)
    finally:
        world.close()


def test_rings_are_refused(world):
    a, b, c = (world.unique("t") for _ in range(3))
    sink = {"discard": {}}
    with pytest.raises(ServerError, match="there is no dead_letter_topic"):
        world.apply(topics=[a], subscriptions=[subscription(a, a, sink, dead_letter_topic="nowhere")])
    with pytest.raises(ServerError, match="would come back"):
        world.apply(topics=[a], subscriptions=[subscription(a, a, sink, dead_letter_topic=a)])
    world.apply(topics=[a, b, c], subscriptions=[subscription(a, a, sink, dead_letter_topic=b), subscription(b, b, sink, dead_letter_topic=c)])
    with pytest.raises(ServerError, match="would come back"):
        world.apply(subscriptions=[subscription(c, c, sink, dead_letter_topic=a)])
    with pytest.raises(ServerError, match="is the dead_letter_topic of"):
        world.ctl("delete", "topic", c, "--yes")
