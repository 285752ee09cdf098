"""Outcome events: a producer hears what became of its messages, as ordinary messages, once for each outcome that was recorded."""

import base64
import threading

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from harness.client import DELIVERY, admin_pb2, message
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import metric, subscription
from servers.process import ServerError, wait_until

DEAD, DELIVERED = DELIVERY["DEAD"], DELIVERY["DELIVERED"]
TWICE = {"initial": "10ms", "max_attempts": 2}


def teller(world, name, delivered=None, dead=None):
    """A producer that hears of its outcomes."""
    return {"name": name, "outcomes": {k: v for k, v in (("delivered", delivered), ("dead", dead)) if v}}


class Place:
    """A producer of its own, its topic, and one topic for both outcomes with a consumer."""

    def __init__(self, world, *sinks, retry=None):
        self.world, self.producer = world, world.unique("shop")
        self.topic, self.outcomes, self.told = world.unique("t"), world.unique("outcomes"), world.sink()
        self.subs = [f"{self.topic}-{i}" for i in range(len(sinks))]
        world.apply(topics=[self.topic, self.outcomes], producers=[teller(world, self.producer, self.outcomes, self.outcomes)],
                    subscriptions=[subscription(name, self.topic, sink, retry) for name, sink in zip(self.subs, sinks)] +
                                  [subscription(self.outcomes, self.outcomes, self.told)])

    def publish(self, *args, tx=None, **more):
        tx = tx or uuid7()
        self.world.client.publish([message(self.topic, *args, **more)], tx=tx, producer=self.producer, business_key=f"order {tx[-4:]}")
        return tx

    def events(self, tx, sub=0):
        """What was told of a delivery: requests, without repeats."""
        got = [r for r in self.told.got() if r.headers.get("txmsg-outcome-id") == f"{tx}.0"
               and r.headers.get("txmsg-outcome-subscription") == self.subs[sub]]
        return list({r.headers["webhook-id"]: r for r in got}.values())

    def wait(self, tx, outcomes, sub=0):
        wait_until(lambda: len(self.events(tx, sub)) >= len(outcomes), 30, f"{tx} has {len(outcomes)} outcomes")
        events = self.events(tx, sub)
        assert [r.headers["txmsg-outcome"] for r in events] == outcomes
        return events

    def stored(self):
        """(outcome, message id, subscription) of each event that was ever published."""
        rows = self.world.sql("SELECT headers::json->>'txmsg-outcome', headers::json->>'txmsg-outcome-id',"
                              " headers::json->>'txmsg-outcome-subscription' FROM message WHERE producer = 'txmsg' AND topic = %s", self.outcomes)
        return sorted(rows)


def test_delivered(world, client):
    sink = world.sink()
    place = Place(world, sink, sink)
    tx = place.publish(b"tea", key=b"k 1")
    event, = place.wait(tx, ["delivered"])
    body = event.json()
    assert body.pop("time").startswith("20") and "T" in event.json()["time"]
    assert body == {"outcome": "delivered", "transactionId": tx, "messageId": f"{tx}.0", "n": 0, "topic": place.topic,
                    "producer": place.producer, "businessKey": f"order {tx[-4:]}", "key": "k 1",
                    "subscription": place.subs[0], "attempts": 1}
    assert event.headers["content-type"] == "application/json" and event.headers["ce-type"] == place.outcomes
    assert event.headers["ce-partitionkey"] == "k%201" and event.headers["txmsg-outcome-topic"] == place.topic
    assert event.headers["ce-subject"] == f"order%20{tx[-4:]}"
    assert place.wait(tx, ["delivered"], sub=1)[0].json()["subscription"] == place.subs[1]
    # It is a transaction like any other, and of its own deliveries nobody is told.
    own = event.headers["webhook-id"].rpartition("-")[0]
    world.wait_delivery(own, place.outcomes, DELIVERED)
    assert client.get(own).producer == "txmsg"
    wait_until(lambda: not world.sql("SELECT 1 FROM outbox"), 10, "the outbox is empty")
    assert place.stored() == sorted(("delivered", f"{tx}.0", name) for name in place.subs)


def test_keys(world):
    """A key that is no printable text goes in base64; a message may have none."""
    place = Place(world, world.sink())
    for key, want in ((b"\xff\x00" * 60, {"keyBase64": base64.b64encode(b"\xff\x00" * 60).decode()}), (b"a\\b", {"keyBase64": "YVxi"}),
                      (b"[x]{y}~ !", {"key": "[x]{y}~ !"}), (b"", {})):
        body = place.wait(place.publish(b"x", key=key), ["delivered"])[0].json()
        assert {k: v for k, v in body.items() if k.startswith("key")} == want


def test_after_retries_and_delays(world, client):
    """Deliveries that end from a row tell as well: after a failure, and after their deliver_at."""
    sink = world.sink(reply=Reply(500))
    place = Place(world, sink, retry={"initial": "10ms"})
    tx = place.publish(b"x")
    wait_until(lambda: len(sink.got()) >= 2, 20, "it fails")
    sink.reply = Reply(200)
    assert place.wait(tx, ["delivered"])[0].json()["attempts"] >= 3
    due = float(world.sql("SELECT extract(epoch FROM clock_timestamp())")[0][0]) + 1
    later = place.publish(b"y", deliver_at=Timestamp(seconds=int(due), nanos=int(due % 1 * 1e9)))
    assert place.wait(later, ["delivered"])[0].json()["attempts"] == 1


def test_dead_and_redriven(world, client):
    sink = world.sink(reply=Reply(500, b"no \xe5\xba\x93"))
    place = Place(world, sink, world.sink(reply=Reply(410)), retry=TWICE)
    tx = place.publish(b"x", key=b"k")
    body = place.wait(tx, ["dead"])[0].json()
    assert {k: body.get(k) for k in ("outcome", "attempts", "errorClass", "subscription", "key")} == {
        "outcome": "dead", "attempts": 2, "errorClass": "status_5xx", "subscription": place.subs[0], "key": "k"}
    assert "500" in body["error"]
    first = place.wait(tx, ["dead"], sub=1)[0].json() # at its first attempt
    assert (first["attempts"], first["errorClass"]) == (1, "permanent")
    redrive = admin_pb2.RedriveDeadLettersRequest(names=[f"{place.subs[0]}/{tx}.0"], force=True)
    client.admin.RedriveDeadLetters(redrive, timeout=20)
    place.wait(tx, ["dead", "dead"])
    sink.reply = Reply(200)
    client.admin.RedriveDeadLetters(redrive, timeout=20)
    place.wait(tx, ["dead", "dead", "delivered"])


@pytest.mark.parametrize("late", [200, 410])
def test_an_end_that_comes_too_late_tells_nothing(world, late):
    """Somebody else has taken the delivery over: what is told is what becomes of it there, once."""
    sink, held = world.sink(), threading.Event()
    place = Place(world, sink, retry={"initial": "10ms", "max_attempts": 5})
    tx = uuid7()
    sink.on(f"{tx}-0", Reply(503), Reply(late, held=held), Reply(200))
    try:
        place.publish(b"x", tx=tx)
        sink.wait_for(tx, count=2)
        world.sql("UPDATE delivery_due SET token = token + 1, due = now() + interval '1 hour' WHERE tx = %s", tx)
        stale = metric(world.txmsgd, "txmsg_stale_deliveries_total")
    finally:
        held.set()
    wait_until(lambda: metric(world.txmsgd, "txmsg_stale_deliveries_total") > stale, 30, "the late end was refused")
    assert not place.events(tx) and not place.stored() and not world.sql("SELECT 1 FROM outbox")
    world.sql("UPDATE delivery_due SET due = now() WHERE tx = %s", tx)
    event, = place.wait(tx, ["delivered"])
    assert event.json()["attempts"] == 2
    wait_until(lambda: not world.sql("SELECT 1 FROM outbox"), 10, "the outbox is empty")
    assert place.stored() == [("delivered", f"{tx}.0", place.subs[0])]


def test_only_what_is_wanted(world):
    """One of both, by producer; an expired or discarded delivery is told to nobody; a filter takes one outcome of one subscription."""
    good, bad, told, dead = world.sink(), world.sink(reply=Reply(410)), world.sink(), world.unique("dead")
    topic, quiet, letters = world.unique("t"), world.unique("quiet"), world.unique("letters")
    world.apply(topics=[topic, dead, letters], producers=[teller(world, f"{topic}-teller", dead=dead), quiet], subscriptions=[
        subscription(f"{topic}-good", topic, good), subscription(f"{topic}-bad", topic, bad, dead_letter_topic=letters),
        subscription(letters, letters, world.sink(reply=Reply(410))),
        subscription(dead, dead, told, filter={"headers": {"txmsg-outcome": "dead", "txmsg-outcome-subscription": f"{topic}-bad"}})])
    silent, loud = uuid7(), uuid7()
    world.client.publish([message(topic)], tx=silent, producer=quiet)
    world.wait_delivery(silent, f"{topic}-bad", DEAD)
    world.client.publish([message(topic)], tx=loud, producer=f"{topic}-teller")
    event = wait_until(lambda: told.got(), 20, "the death is told")[0]
    assert event.headers["txmsg-outcome-id"] == f"{loud}.0"
    # The dead letter of a dead letter's message is of the service itself: no outcome of it either.
    wait_until(lambda: world.sql("SELECT count(*) FROM dead_letter d JOIN subscription s ON s.id = d.sub WHERE s.name = %s", letters)[0][0] == 2, 20,
               "the messages of dead letters died")
    wait_until(lambda: not world.sql("SELECT 1 FROM outbox"), 10, "the outbox is empty")
    rows = world.sql("SELECT headers::json->>'txmsg-outcome-id' FROM message WHERE topic = %s", dead)
    assert rows == [(f"{loud}.0",)]


def test_once_for_each_through_crashes(site):
    """Two replicas are killed while they deliver: every delivery that was recorded has its event, once, and the counters agree."""
    world = site.world("outcomes", {"store.dead_after": "1s", "workers": 2}).start()
    try:
        place = Place(world, world.sink(), world.sink(reply=lambda r: Reply(500) if r.headers["webhook-id"][-3] in "0123456789" else Reply(200)),
                      retry={"initial": "20ms", "max_attempts": 2})
        second = world.daemon("second").start()
        ids = []
        for i in range(300):
            ids.append(place.publish(b"x"))
            if i in (80, 160, 240):
                daemon = (second, world.txmsgd)[i == 160]
                daemon.kill()
                daemon.start()

        def stats():
            return {s["subscription"]: s for s in world.ctl.json("stats")["subscriptions"]}

        def ended():
            found = [stats()[name] for name in place.subs]
            return all(int(s.get("delivered", 0)) + int(s.get("dead", 0)) == len(ids) for s in found)

        wait_until(ended, 120, "every delivery has ended", interval=0.2)
        wait_until(lambda: not world.sql("SELECT 1 FROM outbox"), 60, "the outbox is empty")
        events = place.stored()
        assert len(events) == len(set(events)), "no outcome was told twice"
        for name in place.subs:
            told = {outcome: {i for o, i, s in events if (o, s) == (outcome, name)} for outcome in ("delivered", "dead")}
            counted = stats()[name]
            assert (len(told["delivered"]), len(told["dead"])) == (int(counted.get("delivered", 0)), int(counted.get("dead", 0)))
            assert told["delivered"] | told["dead"] == {f"{tx}.0" for tx in ids} and not told["delivered"] & told["dead"]
        assert any(o == "dead" for o, _, _ in events)
        dead = {f"{tx}.{n}" for tx, n in world.sql("SELECT tx, n FROM dead_letter")}
        assert {i for o, i, _ in events if o == "dead"} == dead
        wait_until(lambda: int(stats()[place.outcomes].get("delivered", 0)) == len(events), 60, "all events are delivered",
                   interval=0.2)
    finally:
        world.close()


def test_topology(world):
    topic, producer = world.unique("o"), world.unique("p")
    with pytest.raises(ServerError, match="there is no topic of outcomes.delivered"):
        world.apply(producers=[teller(world, producer, delivered="nowhere")])
    with pytest.raises(ServerError, match="is the service itself"):
        world.apply(topics=[topic], producers=[teller(world, "txmsg", dead=topic)])
    with pytest.raises(ServerError, match="later"):
        world.apply(topics=[topic], producers=[{"name": producer, "outcomes": {"later": topic}}])
    world.apply(topics=[topic], producers=[teller(world, producer, delivered=topic, dead=topic)])
    exported = next(p for p in world.ctl.json("export")["topology"]["producers"] if p["name"] == producer)
    assert exported["outcomes"] == {"delivered": topic, "dead": topic}
    change = world.ctl.run("diff", "-f", "-", stdin=f"producers: [{{name: {producer}, outcomes: {{dead: {topic}}}}}]")
    assert change.returncode == 5 and f'outcomes.delivered: "{topic}" -> (none)' in change.stdout, change.stdout
    with pytest.raises(ServerError, match="gets outcomes of producer"):
        world.ctl("delete", "topic", topic, "--yes")
    world.apply(producers=[producer])
    world.ctl("delete", "topic", topic, "--yes")


def test_late(world):
    """Rows that wait for long are seen: it is said, and said again when they are published."""
    topic = world.unique("t")
    world.apply(topics=[topic], subscriptions=[subscription(topic, topic, {"discard": {}})])
    world.sql("INSERT INTO outbox (id, due, topic, headers, body) SELECT overlay(overlay(gen_random_uuid()::text PLACING substr(t.ms, 1, 8) || '-' ||"
              " substr(t.ms, 9) FROM 1 FOR 13) PLACING '7' FROM 15 FOR 1)::uuid, now() - interval '1 min', %s, '{}', '{}' FROM generate_series(1, 700),"
              " (SELECT lpad(to_hex((extract(epoch FROM now()) * 1000)::int8), 12, '0') AS ms) t", topic)
    log = world.txmsgd.log
    wait_until(lambda: "are published late" in log.read_text() and "in time again" in log.read_text(), 20, "it is said")
    wait_until(lambda: not world.sql("SELECT 1 FROM outbox"), 20, "the outbox is empty")
    wait_until(lambda: metric(world.txmsgd, "txmsg_outbox_oldest_seconds") == 0, 10, "nothing waits")
    assert metric(world.txmsgd, "txmsg_outbox_published_total") >= 700
