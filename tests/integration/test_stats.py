"""`txmsgctl stats` says what a count over the tables says, through everything that changes a count, and goes on saying
it when what was counted is gone."""

import contextlib
import random
import threading

import grpc
import pytest
from harness import rounds
from harness.client import Client, admin_pb2, message, refused
from harness.ids import uuid7
from harness.peers import HANG, Reply
from harness.world import subscription
from servers.process import ServerError, wait_until

OPTIONS = {"limits.id_past": "3s", "limits.id_future": "1s", "store.partitions_ahead": 14, "store.dead_after": "2s",
           "store.retention": "1h"}
TOTALS = ("prepared", "confirmed", "cancelled", "undecided", "stuck", "tombstones")
COUNTS = ("delivered", "dead", "discarded", "in_flight")
LONG = 90


@pytest.fixture(scope="module")
def world(site):
    made = site.world("stats", OPTIONS, partition_seconds=5)
    try:
        yield made.start()
    finally:
        made.close()


def stats(world, *args):
    said = world.ctl.json("stats", *args)
    totals = {name: int(said.get(name, 0)) for name in TOTALS}
    subs = {s["subscription"]: {name: int(s.get(name, 0)) for name in COUNTS} for s in said.get("subscriptions", [])}
    if "deleted" in said:
        subs[""] = {name: int(said["deleted"].get(name, 0)) for name in COUNTS}
    return totals, subs


def counted(world):
    """The same from the tables: transactions, and for each topic the confirmed messages."""
    (prepared, confirmed, cancelled, undecided, tombstones), = world.sql("""
        SELECT count(*) FILTER (WHERE m.total > 0), count(*) FILTER (WHERE d.verdict = 1),
               count(*) FILTER (WHERE d.verdict = 2 AND m.total > 0), count(*) FILTER (WHERE d.verdict IS NULL),
               count(*) FILTER (WHERE m.total = 0)
        FROM message m LEFT JOIN decision d USING (tx) WHERE m.n = 0""")
    stuck, = world.sql("SELECT count(*) FROM check_due c LEFT JOIN decision d USING (tx) WHERE c.state = 1 AND d.tx IS NULL")[0]
    return dict(zip(TOTALS, (prepared, confirmed, cancelled, undecided, stuck, tombstones)))


def confirmed_messages(world, topic):
    return world.sql("SELECT count(*) FROM message m JOIN decision d USING (tx) WHERE d.verdict = 1 AND m.topic = %s", topic)[0][0]


def letters(world):
    return dict(world.sql("SELECT s.name, count(*) FROM dead_letter d JOIN subscription s ON s.id = d.sub "
                          "WHERE s.state <> 'deleted' GROUP BY 1"))


class Mix:
    """Producers that do everything at once, each also what somebody else does with the same id."""

    def __init__(self, world, topics):
        self.world, self.topics, self.stop = world, topics, threading.Event()
        self.shared, self.done = [uuid7() for _ in range(20)], 0
        self.threads = [threading.Thread(target=self.run, args=(seed,), daemon=True) for seed in range(6)]

    def act(self, client, dice):
        tx = dice.choice(self.shared) if dice.random() < 0.2 else uuid7()
        bodies = [message(dice.choice(self.topics), tx, headers={"colour": dice.choice(("blue", "red"))}) for _ in range(dice.choice((1, 1, 1, 3)))]
        kind = dice.choice(("publish", "confirm", "cancel", "open", "tombstone"))
        if kind == "publish":
            client.publish(bodies, tx=tx)
        elif kind == "tombstone":
            client.cancel(tx, producer="shop")
        else:
            client.prepare(bodies, tx=tx, check_after=1)
            if kind != "open":
                getattr(client, kind)(tx)
            if dice.random() < 0.3: # a repeat, and its contrary
                getattr(client, kind if kind != "open" else "cancel")(tx)
                client.confirm(tx)

    def run(self, seed):
        dice, client, target = random.Random(seed), None, None
        while not self.stop.is_set():
            if target != self.world.txmsgd.grpc:
                if client:
                    client.close()
                target = self.world.txmsgd.grpc
                client = Client(target)
            with contextlib.suppress(grpc.RpcError, ValueError):
                self.act(client, dice)
                self.done += 1
            self.stop.wait(0.002)
        if client:
            client.close()

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for t in self.threads:
            t.join()

    def goes_on(self, n=150):
        goal = self.done + n
        wait_until(lambda: self.done >= goal, LONG, "the mix goes on")


def test_counts_what_is_there(world):
    sink, broken = world.sink(), world.sink(reply=Reply(410))
    topics = [world.unique("t") for _ in range(2)]
    short = {"initial": "20ms", "factor": 1, "max": "20ms", "max_attempts": 2}
    world.apply(topics=topics, producers=["shop"], subscriptions=[
        subscription("good", topics[0], sink), subscription("other", topics[1], sink),
        subscription("dies", topics[0], broken, retry=short), subscription("parks", topics[1], world.sink(reply=HANG)),
        subscription("picks", topics[1], world.sink(reply=HANG), filter={"headers": {"colour": "blue"}})])
    with Mix(world, topics) as mix:
        for turn in range(rounds(2)):
            mix.goes_on()
            world.txmsgd.kill()
            world.txmsgd.start()
            mix.goes_on()
            wait_until(lambda: letters(world).get("dies", 0) > 20, LONG, "there are dead letters")
            world.ctl("dead", "redrive", "--subscription", "dies", "--force")
            totals, subs = stats(world) # under way, and still exact
            assert totals["prepared"] == totals["confirmed"] + totals["cancelled"] + totals["undecided"]
            if turn == 0:
                broken.reply = Reply(200)
                world.ctl("dead", "redrive", "--subscription", "dies", "--force")
                mix.goes_on(50)
                broken.reply = Reply(410)
    wait_until(lambda: stats(world)[1]["good"]["in_flight"] == stats(world)[1]["other"]["in_flight"] == 0 ==
               stats(world)[1]["dies"]["in_flight"], LONG, "everything but the parked ones is delivered")
    totals, subs = stats(world)
    assert totals == counted(world)
    assert min(totals[n] for n in TOTALS if n != "stuck") > 0
    for name, topic in (("good", topics[0]), ("dies", topics[0]), ("other", topics[1]), ("parks", topics[1])):
        assert sum(subs[name].values()) == confirmed_messages(world, topic), (name, subs[name])
    assert subs["dies"]["dead"] == letters(world)["dies"] > 0 and subs["dies"]["delivered"] > 0
    assert subs["good"] == {"delivered": confirmed_messages(world, topics[0]), "dead": 0, "discarded": 0, "in_flight": 0}
    blue = world.sql("SELECT count(*) FROM message m JOIN decision d USING (tx) WHERE d.verdict = 1 AND m.topic = %s "
                     "AND m.headers::jsonb->>'colour' = 'blue'", topics[1])[0][0]
    assert sum(subs["picks"].values()) == subs["picks"]["in_flight"] == blue > 0
    assert subs["parks"]["in_flight"] > 0 and subs["parks"]["delivered"] == 0
    assert subs[""] == dict.fromkeys(COUNTS, 0)
    assert stats(world, "--subscription", "dies")[1] == {"dies": subs["dies"]}
    text = world.ctl("stats")
    assert str(totals["prepared"]) in text and "dies" in text and "(deleted)" in text


def test_deleted_subscription_discards_what_it_left(world):
    """Deliveries that were open, in rows to retry and behind its cursor, are discarded, once."""
    before = stats(world)[1]
    keep = {"topics": [{"name": t["name"]} for t in world.ctl.json("export")["topology"]["topics"]], "producers": [{"name": "shop"}]}
    kept = [s for s in world.ctl.json("export")["topology"]["subscriptions"] if s["name"] not in ("parks", "dies", "picks")]
    world.ctl.apply({**keep, "subscriptions": kept}, "--prune", "--yes")
    gone = {n: sum(before[s][n] for s in ("parks", "dies", "picks")) for n in COUNTS}
    total = sum(gone.values())
    assert sum(stats(world)[1][""].values()) == total
    wait_until(lambda: stats(world)[1][""]["in_flight"] == 0, LONG, "what it left is settled")
    assert stats(world)[1][""] == {**gone, "discarded": gone["discarded"] + gone["in_flight"], "in_flight": 0}
    assert world.sql("SELECT count(*) FROM delivery_due q JOIN subscription s ON s.id = q.sub WHERE s.settled")[0][0] == 0
    wait_until(lambda: world.sql("SELECT bool_and(settled) FROM subscription WHERE state = 'deleted'")[0][0], LONG, "all of it is noted as settled")
    with refused("NOT_FOUND", "SUBSCRIPTION_NOT_FOUND", name="parks"):
        world.client.admin.GetStats(admin_pb2.GetStatsRequest(subscription="parks"), timeout=30)


def test_outlives_what_it_counted(world):
    """All is decided and delivered, then dropped, lanes included: the counters stay."""
    for (tx,) in world.sql("SELECT m.tx::text FROM message m LEFT JOIN decision d USING (tx) WHERE m.n = 0 AND d.tx IS NULL"):
        world.client.cancel(tx)
    wait_until(lambda: all(s["in_flight"] == 0 for s in stats(world)[1].values()), LONG, "all is delivered")
    totals, subs = stats(world)
    assert totals == counted(world) and totals["undecided"] == 0
    world.txmsgd.stop()
    old = {name for (name,) in world.sql("SELECT relname FROM pg_class WHERE relname ~ '^(message|lane_log)_p[0-9]+$' AND "
                                         "relkind = 'r' AND (pg_relation_size(oid) > 0)")}
    # The new lane must not share a period with those that are to go.
    lanes = world.sql("SELECT max(lane) / 16384 FROM lane")[0][0]
    wait_until(lambda: world.sql("SELECT extract(epoch FROM clock_timestamp() - origin) / 5 FROM cfg")[0][0] > lanes + 1, LONG,
               "the next period")
    world.txmsgd.options["store.retention"] = "4s"
    world.txmsgd.start()

    def left():
        return {name for (name,) in world.sql("SELECT relname FROM pg_class WHERE relname ~ '_p[0-9]+$'")} & old

    try:
        wait_until(lambda: not left(), LONG, "all of it is dropped")
    except ServerError as error:
        raise AssertionError(f"{left()} {world.sql('SELECT lane, lane / 16384, state FROM lane ORDER BY lane')}") from error
    assert stats(world) == (totals, subs)
    assert world.sql("SELECT count(*) FROM lane WHERE state = 'drained'")[0][0] == 0
    assert world.sql("SELECT count(*) FROM stat")[0][0] < 1000


def test_lane_in_use_stays_bounded(world):
    """A lane lives as long as its process: what is rolled up and past retention leaves it from the front."""
    topic = world.unique("t")
    world.apply(topics=[topic], subscriptions=[subscription(topic, topic, {"discard": {}})])

    def ends():
        return world.sql("SELECT min(g.seq), max(g.seq) FROM lane_log g JOIN lane l USING (lane) WHERE l.state = 'open'")[0]

    while (ends()[1] or 0) < 4000:
        for _ in range(100):
            world.client.publish([message(topic)])
    wait_until(lambda: ends()[0] > 1000, LONG, "the front of the lane is gone")
    first, last = ends()
    assert last - first >= 2499
    wait_until(lambda: stats(world)[1][topic]["in_flight"] == 0, LONG, "all is delivered")
    assert stats(world)[1][topic]["delivered"] >= 2000
    before = stats(world)
    world.txmsgd.kill()
    world.txmsgd.start()
    wait_until(lambda: world.sql("SELECT count(*) FROM lane WHERE state = 'sealed'")[0][0] == 0, LONG, "the lane is finished")
    assert stats(world) == before
