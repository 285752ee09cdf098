"""The whole story of a transaction: checks with what came of them, the decision, each attempt to deliver; and finding it."""

import re

from harness.client import CONFIRMED, DELIVERY, STUCK, message
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import subscription
from servers.process import wait_until


def unsure(world, name, **policy):
    """A producer whose checks come at once, and its endpoint."""
    endpoint = world.check_endpoint()
    world.apply(producers=[{"name": name, "check": {"endpoints": [endpoint.url("/")], "first_after": "1s", "initial": "1s",
                                                    "max": "1s", "jitter": 0.01, **policy}}])
    return endpoint


def test_checks_without_a_verdict_are_told(world, client):
    topic = world.topic(nowhere={"discard": {}})
    endpoint = unsure(world, "story")
    tx = uuid7()
    endpoint.decide(tx, "UNKNOWN", "MAYBE", "COMMITTED")
    client.prepare([message(topic)], tx=tx, producer="story", check_after=1)
    checks = world.wait_state(tx, CONFIRMED, 40).checks
    assert [(c.check, c.unknowns) for c in checks.history] == [(1, 1), (2, 1)]
    assert checks.history[0].error == "answered UNKNOWN" and "UNKNOWN" not in checks.history[1].error
    assert 0 < checks.history[0].end_time.ToNanoseconds() < checks.history[1].end_time.ToNanoseconds()
    assert (checks.count, checks.unknowns) in ((2, 1), (3, 1)) # its row may be gone already
    lines = world.ctl("show", tx).splitlines()
    assert lines[0] == f"{tx} confirmed"
    told = [line[25:] for line in lines[1:]]
    assert told[0].startswith("prepared by story, 1 messages") and told[1] == "check 1: answered UNKNOWN"
    assert told[2].startswith("check 2: ") and told[3].startswith("committed by check")
    assert all(re.match(r"20\d\d-\d\d-\d\d \d\d:", line) for line in lines[1:5])


def test_of_many_equal_checks_the_first_ten_are_kept(world, client):
    topic = world.topic()
    endpoint = unsure(world, "silent", initial="1h", max="1h")
    endpoint.reply = Reply(503)
    tx = client.prepare([message(topic)], tx=uuid7(), producer="silent", check_after=1).transaction_id
    wait_until(lambda: client.get(tx).checks.history, 30, "the first check has ended")
    world.sql("UPDATE check_due SET tries = 9 WHERE tx = %s", tx)

    def asked(tries):
        world.sql("UPDATE check_due SET due = now() WHERE tx = %s AND due > now() + interval '10 minutes'", tx) # not while it is asked
        return client.get(tx).checks.count >= tries

    wait_until(lambda: asked(14), 60, "the 13th has ended")
    kept = [c.check for c in client.get(tx).checks.history]
    assert 1 in kept and max(kept) == 10, kept
    endpoint.reply = Reply(200, b"<html>")
    wait_until(lambda: asked(0) is False or client.get(tx).checks.history[-1].check > 10, 60, "another answer is kept")
    client.cancel(tx)


def test_stuck_decided_by_a_person(world, client):
    topic = world.topic()
    endpoint = unsure(world, "stucker", max_unknowns=2)
    tx = uuid7()
    endpoint.decide(tx, "UNKNOWN")
    client.prepare([message(topic)], tx=tx, producer="stucker", check_after=1)
    world.wait_state(tx, STUCK, 40)
    world.ctl("stuck", "resolve", tx, "--decision", "rolled_back", "--reason", "seen in the books", "--actor", "ann")
    told = world.ctl("show", tx)
    assert "check 1: answered UNKNOWN" in told and "check 2: answered UNKNOWN" in told
    assert "rolled_back by admin ann: seen in the books" in told and told.startswith(f"{tx} cancelled\n")


def test_every_attempt_is_told(world, client):
    sink = world.sink()
    topic = world.topic(a=sink)
    tx = uuid7()
    sink.on(f"{tx}-0", Reply(503, b"out of\norder"), Reply(429, b"slower"), Reply(200))
    client.publish([message(topic, b"x"), message(topic, b"y")], tx=tx)
    delivery = world.wait_delivery(tx, f"{topic}-a", DELIVERY["DELIVERED"])
    assert [(a.attempt, a.error_class, a.status) for a in delivery.history] == [
        (1, "status_5xx", 503), (2, "status_4xx", 429), (3, "ok", 200)]
    assert "out of" in delivery.history[0].response and delivery.history[0].worker and delivery.history[0].latency_ms >= 0
    world.wait_delivery(tx, f"{topic}-a", DELIVERY["DELIVERED"], n=1)
    told = world.ctl("show", tx)
    assert re.search(rf"message 0 to {topic}-a: attempt 1 status_5xx 503 after \d+ ms: .*\\[out of.order\\]".replace("\\\\", "\\"), told)
    assert f"message 0 to {topic}-a: attempt 3 ok 200 after " in told
    assert f"message 1 to {topic}-a is delivered" in told and "message 1 to" not in told[:told.index("attempt 3")]


def test_the_next_attempt_is_told(world, client):
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        f"{topic}-s", topic, world.sink(reply=Reply(500)), retry={"initial": "1h", "max": "1h", "jitter": 0.01})])
    tx = client.publish([message(topic)], tx=uuid7()).transaction_id
    world.wait_delivery(tx, f"{topic}-s", DELIVERY["RETRYING"])
    last = world.ctl("show", tx).splitlines()[-1]
    assert last.endswith(f"message 0 to {topic}-s: retrying, next attempt") and last.startswith("20")
    assert world.ctl.run("show", uuid7()).returncode == 1 and world.ctl.run("show").returncode == 2


def test_found_by_business_key_topic_state_and_time(world, client):
    topic = world.topic(nowhere={"discard": {}})
    other = world.topic()
    found = client.publish([message(topic)], tx=uuid7(), business_key="order 7").transaction_id
    client.publish([message(other)], tx=uuid7(), business_key="order 8")
    client.prepare([message(topic)], tx=uuid7(), business_key="order 7 too")
    for filters in (["--producer", "shop", "--business-key", "order 7"], ["--topic", topic, "--state", "confirmed"],
                    ["--producer", "shop", "--business-key", "order 7", "--topic", topic, "--state", "confirmed", "--since", "10m"]):
        rows = world.ctl("list", *filters).splitlines()[1:]
        assert [row.split()[0] for row in rows] == [found], filters
    assert len(world.ctl("list", "--topic", topic, "--until", "10m", "--since", "1h").splitlines()) == 1


def test_rows_of_checks_go_with_retention(world):
    """The same statement as for attempts: what is older than store.retention, a piece at a time."""
    world.sql("INSERT INTO check_attempt (tx, tries, unknowns, at, error) VALUES (%s, 1, 1, now() - interval '8 days', 'old')", uuid7())
    world.sql("INSERT INTO check_attempt (tx, tries, unknowns, at, error) VALUES (%s, 1, 1, now() - interval '6 days', 'young')", uuid7())
    wait_until(lambda: not world.sql("SELECT 1 FROM check_attempt WHERE error = 'old'"), 90, "the old row is gone")
    assert world.sql("SELECT 1 FROM check_attempt WHERE error = 'young'")
