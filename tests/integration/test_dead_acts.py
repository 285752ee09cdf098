"""What people do with dead letters: redrive and discard, by filter, in pieces, at a rate, together, and counted."""

import threading
import time

import pytest
from harness.client import DELIVERY, Client, admin_pb2, message, refused
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import subscription
from servers.process import wait_until

DEAD, DELIVERED, DISCARDED = DELIVERY["DEAD"], DELIVERY["DELIVERED"], DELIVERY["DISCARDED"]
COUNTS = ("delivered", "dead", "discarded", "in_flight")


@pytest.fixture
def place(world):
    """A topic whose one subscription refuses everything for good."""
    sink = world.sink(reply=Reply(410))
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop", "bank"], subscriptions=[subscription(topic, topic, sink)])
    return topic, sink


def dead(world, topic, n=1, producer="shop", subscriptions=1):
    """So many messages of a topic, dead at each of its subscriptions; answers the ids."""
    ids = [uuid7() for _ in range(n)]
    for tx in ids:
        world.client.publish([message(topic)], tx=tx, producer=producer)
    wait_until(lambda: world.sql("SELECT count(*) FROM dead_letter WHERE tx = ANY (%s::uuid[])", ids)[0][0] == n * subscriptions,
               60, "all are dead")
    return ids


def request_of(act, names=(), force=True, reason="why", rate=0, **filters):
    kind = admin_pb2.DiscardDeadLettersRequest if act == "discard" else admin_pb2.RedriveDeadLettersRequest
    return kind(names=names, filter=None if names else admin_pb2.DeadLetterFilter(**filters), force=force, reason=reason,
                actor="ann", rate=rate)


def do(client, act, *args, **more):
    call = client.admin.DiscardDeadLetters if act == "discard" else client.admin.RedriveDeadLetters
    return call(request_of(act, *args, **more), timeout=20)


def counters(world, name):
    return {s["subscription"]: {c: int(s.get(c, 0)) for c in COUNTS} for s in world.ctl.json("stats")["subscriptions"]}[name]


def stats(world, name):
    """What the counters say of a subscription, and what the tables say; both must be the same. For when nothing is under way."""
    said = counters(world, name)
    (confirmed, letters, discards, open_), = world.sql("""
        SELECT (SELECT count(*) FROM message m JOIN decision d USING (tx) WHERE d.verdict = 1 AND m.topic = s.spec->>'topic'),
               (SELECT count(*) FROM dead_letter x WHERE x.sub = s.id), (SELECT count(*) FROM discarded x WHERE x.sub = s.id),
               (SELECT count(*) FROM delivery_due x WHERE x.sub = s.id)
        FROM subscription s WHERE s.name = %s AND s.state <> 'deleted'""", name)
    assert (said["dead"], said["discarded"]) == (letters, discards)
    assert sum(said.values()) == confirmed and said["in_flight"] >= open_
    return said


def test_discard_by_name(world, client, place):
    topic, sink = place
    tx, kept = dead(world, topic, 2)
    name = f"{topic}/{tx}.0"
    counted = do(client, "discard", [name], force=False)
    assert (counted.count, [s.name for s in counted.sample], stats(world, topic)["dead"]) == (1, [name], 2)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        do(client, "discard", [name], reason="")
    assert do(client, "discard", [name], reason="paid in cash").count == 1
    assert do(client, "discard", [name]).count == 0, "it is gone"
    delivery = world.wait_delivery(tx, topic, DISCARDED)
    assert "410" in delivery.last_error and delivery.attempts == 1
    assert stats(world, topic) == {"delivered": 0, "dead": 1, "discarded": 1, "in_flight": 0}
    assert world.wait_delivery(kept, topic, DEAD)
    (actor, reason, before, after), = world.sql(
        "SELECT actor, reason, before, after FROM audit WHERE act = 'dead.discard' AND object = %s", name)
    assert (actor, reason, before["state"], before["class"], after) == ("ann", "paid in cash", "DEAD", "permanent", {"state": "DISCARDED"})
    entry, = client.admin.ListAudit(admin_pb2.ListAuditRequest(target=name), timeout=30).entries
    assert (entry.action, entry.count) == ("dead.discard", 1)
    assert len(sink.of(tx)) == 1


@pytest.mark.parametrize("act", ["redrive", "discard"])
def test_by_each_filter(world, client, place, act):
    """Subscription, topic, producer, class of error, time; without force it counts what force then takes, and no other."""
    topic, sink = place
    other = world.unique("t")
    world.apply(topics=[other], subscriptions=[subscription(f"{other}-a", other, world.sink(reply=Reply(410))),
                                               subscription(f"{other}-b", other, world.sink(reply=Reply(500)), {"initial": "10ms", "max_attempts": 1})])
    for more in ({"topic": topic}, {"topic": topic}, {"topic": topic, "producer": "bank"}, {"topic": other, "subscriptions": 2}):
        dead(world, **more) # one after the other, so that no two died at the same time
    middle, = world.sql("SELECT at FROM dead_letter WHERE topic = %s ORDER BY at OFFSET 1 LIMIT 1", topic)[0]
    sink.reply = Reply(200)
    start = admin_pb2.DeadLetterFilter().start_time
    start.FromDatetime(middle)
    wanted = [(1, {"topic": topic, "producer": "bank"}), (1, {"subscription": f"{other}-b", "error_class": "status_5xx"}),
              (0, {"topic": other, "error_class": "timeout"}), (1, {"subscription": f"{other}-a"}),
              (1, {"topic": topic, "end_time": start}), (1, {"topic": topic, "start_time": start})]
    for count, filters in wanted:
        asked = do(client, act, force=False, **filters)
        assert (asked.count, len(asked.sample), asked.more) == (count, count, False), filters
        assert do(client, act, **filters).count == count, filters
    assert not world.sql("SELECT 1 FROM dead_letter WHERE topic = %s", topic)
    for name in (topic, f"{other}-a", f"{other}-b"):
        wait_until(lambda name=name: counters(world, name), 10, f"{name} is counted")


def test_pieces_at_a_rate(world, client, place):
    """20 a second: three pieces, each with its audit row, and not sooner than the rate allows, over the calls together."""
    topic, sink = place
    dead(world, topic, 50)
    sink.reply = Reply(200)
    began = time.monotonic()
    first = do(client, "redrive", subscription=topic, rate=20)
    assert (first.count, first.more) == (50, False)
    assert time.monotonic() - began >= 2
    sizes = [after["count"] for after, in world.sql("SELECT after FROM audit WHERE act = 'dead.redrive' AND object = %s ORDER BY id", topic)]
    assert sizes == [20, 20, 10]
    entries = client.admin.ListAudit(admin_pb2.ListAuditRequest(action="dead.redrive", target=topic), timeout=30).entries
    assert [e.count for e in entries] == [10, 20, 20], "newest first"
    assert [line.split()[4] for line in world.ctl("audit", "--target", topic).splitlines()] == ["COUNT", "10", "20", "20"] or \
        world.ctl("audit", "--target", topic)
    wait_until(lambda: counters(world, topic)["delivered"] == 50, 30, "all are delivered")
    for rate in (-1, 10001):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
            do(client, "redrive", subscription=topic, rate=rate)


def test_a_long_act_says_that_there_is_more(world, client, place):
    """A call answers in time and tells to go on; who goes on with act_time does not take again what died again."""
    topic, _ = place # it goes on refusing
    dead(world, topic, 40)
    call = client.admin.RedriveDeadLetters(request_of("redrive", subscription=topic, rate=5), timeout=30)
    assert call.more and 5 <= call.count < 40
    again = do(client, "redrive", subscription=topic, rate=1000, end_time=call.act_time)
    assert (call.count + again.count, again.more) == (40, False)
    wait_until(lambda: counters(world, topic)["dead"] == 40, 30, "all died again")
    assert do(client, "redrive", subscription=topic, force=False, end_time=call.act_time).count == 0


def test_what_was_done_stays_done(world, client, place):
    """The caller goes away in the middle: the pieces that were done are done, audited and counted; the rest is as it was."""
    topic, sink = place
    dead(world, topic, 30)
    call = client.admin.DiscardDeadLetters.future(request_of("discard", subscription=topic, rate=10), timeout=20)
    done = lambda: world.sql("SELECT coalesce(sum((after->>'count')::int), 0) FROM audit WHERE act = 'dead.discard' AND object = %s", topic)[0][0]
    wait_until(lambda: done() >= 10, 20, "a piece is done")
    call.cancel()
    world.txmsgd.kill()
    world.txmsgd.start()
    wait_until(lambda: counters(world, topic), 20, "it is back")
    said = stats(world, topic)
    assert said["discarded"] == done() and said["dead"] == 30 - said["discarded"]
    assert 10 <= said["discarded"] < 30


def test_two_replicas_share_the_work(world, place):
    """Redrive and discard of the same letters through two replicas at once: each letter goes once, and the counters know where."""
    topic, sink = place
    second = world.daemon("second").start()
    clients = [Client(world.txmsgd.grpc), Client(second.grpc)]
    try:
        ids = dead(world, topic, 120)
        sink.reply = Reply(200)
        counts = {}

        def run(i, act):
            counts[i, act] = 0
            for _ in range(40):
                answer = do(clients[i], act, subscription=topic, rate=7)
                counts[i, act] += answer.count
                if not answer.more and not world.sql("SELECT 1 FROM dead_letter x JOIN subscription s ON s.id = x.sub WHERE s.name = %s LIMIT 1", topic):
                    return

        threads = [threading.Thread(target=run, args=(i, act)) for i, act in ((0, "redrive"), (1, "redrive"), (0, "discard"), (1, "discard"))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        redriven, discarded = counts[0, "redrive"] + counts[1, "redrive"], counts[0, "discard"] + counts[1, "discard"]
        assert redriven + discarded == len(ids) and redriven and discarded, counts
        wait_until(lambda: counters(world, topic)["in_flight"] == 0, 30, "all is delivered")
        assert stats(world, topic) == {"delivered": redriven, "dead": 0, "discarded": discarded, "in_flight": 0}
        assert sum(len(sink.of(tx)) == 2 for tx in ids) == redriven
    finally:
        for client in clients:
            client.close()
        second.close()


def test_letters_of_a_deleted_subscription_can_be_discarded(world, client, place):
    topic, _ = place
    dead(world, topic, 2)
    world.ctl("delete", "subscription", topic, "--yes")
    assert do(client, "redrive", topic=topic).count == 0
    assert do(client, "discard", topic=topic).count == 2
    assert not world.sql("SELECT 1 FROM dead_letter WHERE topic = %s", topic)


def test_by_command_line(world, place):
    topic, sink = place
    ids = dead(world, topic, 25)
    said = world.ctl("dead", "discard", "--subscription", topic, "--error-class", "permanent", "--since", "1h")
    assert "25 dead letters match" in said and any(tx in said for tx in ids)
    assert stats(world, topic)["dead"] == 25
    world.ctl("dead", "discard", f"{topic}/{ids[0]}.0", "--reason", "one")
    sink.reply = Reply(200)
    result = world.ctl.run("dead", "redrive", "--subscription", topic, "--force", "--rate", "3", "--reason", "back")
    assert result.returncode == 0 and "24 dead letters are delivered again" in result.stdout
    assert "delivered again, going on" in result.stderr, "it says how far it is"
    wait_until(lambda: counters(world, topic) == {"delivered": 24, "dead": 0, "discarded": 1, "in_flight": 0}, 20, "all is settled")
    assert world.ctl.run("dead", "discard", "--force", "--reason", "x").returncode == 2, "no filter and no name is no wish"
    assert world.ctl.run("dead", "redrive", "--all", "--rate", "many").returncode == 2
