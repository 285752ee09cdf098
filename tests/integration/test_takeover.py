"""Whoever takes a dead worker's lane: one of many, with everything that was committed in it, and for long enough."""

import concurrent.futures
import contextlib
import os
import signal

import grpc
import psycopg2
import pytest
from harness import BUILD
from harness.client import Client, message, publish_request
from harness.commits import Commits, waiting
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import POSTGRES, subscription
from servers.postgres import Postgres
from servers.process import wait_until
from servers.txmsgd import Ctl, to_yaml
from txmsg.v1 import admin_service_pb2 as admin_pb2

AGED = """
CREATE FUNCTION aged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.at := NEW.at - interval '1 hour'; RETURN NEW; END $$;
CREATE TRIGGER aged BEFORE INSERT ON lane_log FOR EACH ROW EXECUTE FUNCTION aged();
"""
DEAD_AFTER = {"store.dead_after": "2s"}


@pytest.fixture(scope="module")
def postgres(site):
    """Of its own: one test changes the settings of the whole server."""
    made = Postgres(site.base / "postgres-takeover", POSTGRES).start()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def world(site, postgres):
    made = site.world("takeover", {**DEAD_AFTER, "workers": 3}, postgres=postgres)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(4) as made:
        yield made


def heir(world, name="heir"):
    return world.daemon(name, {"workers": 1}).start()


def lanes_of(world, daemon):
    return [lane for lane, in world.sql("SELECT lane FROM lane JOIN worker USING (run) WHERE host LIKE %s",
                                        f"%:{daemon.process.popen.pid}")]


def test_one_of_many_takes_a_lane(world):
    """Two survivors stand before the same lanes at the same moment: each lane is sealed once."""
    heirs = [heir(world, "heir-1"), heir(world, "heir-2")]
    lanes = lanes_of(world, world.txmsgd)
    assert len(lanes) == 3
    holder = psycopg2.connect(world.dsn)
    try:
        with holder.cursor() as sql:
            sql.execute("SELECT FROM lane WHERE lane = ANY (%s) FOR UPDATE", (lanes,))
        world.txmsgd.kill()
        wait_until(lambda: waiting(world, "txmsg-take") == 2, 40, "both want to take a lane")
        holder.rollback()
    finally:
        holder.close()

    def all_sealed():
        seals = world.sql("SELECT DISTINCT lane FROM lane_log WHERE lane = ANY (%s) AND kind = 'S'", lanes)
        return len(seals) == len(lanes)

    wait_until(all_sealed, 40, "every lane is taken")
    # A lane of which they hear later is taken after all that they wanted to take before.
    late = heir(world, "late")
    after = lanes_of(world, late)
    late.kill()
    lanes += after
    wait_until(all_sealed, 40, "the last lane is taken too")
    seals = world.sql("SELECT lane, count(*) FROM lane_log WHERE lane = ANY (%s) AND kind = 'S' GROUP BY lane", lanes)
    assert dict(seals) == {lane: 1 for lane in lanes}, "a lane was taken twice"
    for daemon in heirs:
        assert daemon.stop() == 0


def test_commit_that_shows_late_is_found(world, postgres, pool):
    """The dead worker's last commit is on the disk, but nobody can see it yet: its server process waits for a standby and
    then stands still. Whoever takes the lane waits for it, and delivers what is in it."""
    sink = world.sink()
    topic = world.topic(here=sink)
    second = heir(world)
    with contextlib.closing(psycopg2.connect(postgres.dsn())) as admin:
        admin.autocommit = True
        sql = admin.cursor()
        sql.execute("SET synchronous_commit = local")
        sql.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        sql.execute("SELECT pg_reload_conf()")
        stopped = None
        try:
            lanes = lanes_of(world, world.txmsgd)
            tx = committed_for_the_standby(world, pool, sql, topic, lanes)
            sql.execute(FOR_THE_STANDBY, ([f"txmsg-lane-{lane}-%" for lane in lanes],))
            stopped = sql.fetchone()[0]
            os.kill(stopped, signal.SIGSTOP)
            world.txmsgd.kill()
        finally:
            sql.execute("ALTER SYSTEM RESET synchronous_standby_names")
            sql.execute("SELECT pg_reload_conf()")
            try:
                if stopped:
                    wait_until(lambda: waiting(world, "txmsg-take", "INSERT INTO lane_log%"), 40, "the seal waits")
            finally:
                if stopped:
                    os.kill(stopped, signal.SIGCONT)
    sink.wait_for(tx)
    assert second.stop() == 0


FOR_THE_STANDBY = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE ANY (%s)"


def committed_for_the_standby(world, pool, sql, topic, lanes):
    """Publishes until a commit waits for the standby: each server process hears of the setting when it pleases."""
    for _ in range(100):
        tx = uuid7()
        call = pool.submit(quiet_publish, world.client, topic, tx)

        def over():
            sql.execute(FOR_THE_STANDBY, ([f"txmsg-lane-{lane}-%" for lane in lanes],))
            return call.done() or sql.rowcount

        wait_until(over, 20, "the commit ends or waits")
        if not call.done():
            return tx
    raise AssertionError("no commit ever waited for the standby")


def quiet_publish(client, topic, tx):
    with contextlib.suppress(grpc.RpcError, ValueError):
        return client.messages.Publish(publish_request([message(topic)], tx=tx), timeout=30)


def test_lane_is_not_drained_under_an_old_configuration(world, pool):
    """A subscription from the beginning is committed in the moment in which a lane is about to be put away: its messages
    are delivered all the same."""
    commits, sink = Commits(world), world.sink()
    topic = world.topic(nowhere={"discard": {}})
    world.sql(AGED) # a lane is put away when its last entry is older than the latest first check
    lanes, sent = lanes_of(world, world.txmsgd), []
    while world.sql("SELECT count(DISTINCT lane) FROM lane_log WHERE lane = ANY (%s) AND conf IS NOT NULL", lanes)[0][0] < len(lanes):
        sent.append(world.client.publish([message(topic)], tx=uuid7()).transaction_id) # whichever lane it is, something is in it
    second = heir(world)
    name = world.unique("late")
    commits.hold(f"subscription/{name}")
    late = subscription(name, topic, sink, start_from="START_FROM_BEGINNING")
    ctl = Ctl(BUILD, server=second.grpc, dsn=world.dsn)
    applied = pool.submit(ctl, "--timeout", "60s", "apply", "-f", "-", stdin=to_yaml({"subscriptions": [late]}))
    commits.wait_held()
    world.txmsgd.kill()
    wait_until(lambda: waiting(world, "txmsg-take", "%FROM cfg FOR SHARE%"), 40, "the heir is about to drain a lane")
    commits.release()
    applied.result(timeout=60)
    for tx in sent:
        sink.wait_for(tx)
    assert second.stop() == 0


def test_dead_sink_does_not_keep_others_from_adopted_lanes(site, postgres):
    """A worker has one place for lanes of the dead. Each of three lanes waits for a dead sink too: so they take turns, and
    another subscription gets what is in all of them."""
    world = site.world("turns", {**DEAD_AFTER, "workers": 1, "store.adopted": 1}, postgres=postgres).start()
    try:
        good, dead = world.sink(), world.sink(reply=Reply(500))
        world.apply(topics=["t"], producers=["shop"], subscriptions=[
            subscription("good", "t", good), subscription("dead", "t", dead, retry={"initial": "1s", "factor": 1, "max": "1s"})])
        waits, daemon = [], world.txmsgd
        with contextlib.closing(Client(daemon.grpc)) as client:
            client.admin.PauseSubscription(admin_pb2.PauseSubscriptionRequest(name="good"), timeout=60)
        for n in range(3):
            with contextlib.closing(Client(daemon.grpc)) as client:
                waits += [client.publish([message("t")], tx=uuid7()).transaction_id for _ in range(30)]
            wait_until(lambda: "dead: parked" in daemon.log.read_text(), 40, "the dead sink's subscription is parked")
            daemon.kill()
            daemon = world.daemon(f"turn-{n}").start()
        with contextlib.closing(Client(daemon.grpc)) as client:
            client.admin.ResumeSubscription(admin_pb2.ResumeSubscriptionRequest(name="good"), timeout=60)
        for tx in waits:
            good.wait_for(tx, timeout=120)
    finally:
        world.close()


def test_lanes_of_other_databases_are_left_alone(site, postgres, world):
    """Lanes have the same numbers in each database of a server: whoever takes one ends the connections of its own database only."""
    other = site.world("takeover_other", DEAD_AFTER, postgres=postgres).start()
    try:
        def connections():
            return other.sql("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'txmsg-lane-%%' ORDER BY 1")

        before = wait_until(connections, 20, "the other daemon has a lane")
        other_lanes = {lane for lane, in other.sql("SELECT lane FROM lane")}
        second = heir(world)
        taken = set(lanes_of(world, world.txmsgd))
        assert taken & other_lanes
        world.txmsgd.kill()
        wait_until(lambda: not lanes_left(world, taken), 30, "its lanes are taken")
        assert connections() == before
        second.stop()
    finally:
        other.close()


def lanes_left(world, lanes):
    """Those of these lanes that are still open."""
    return world.sql("SELECT lane FROM lane WHERE state = 'open' AND lane = ANY (%s)", sorted(lanes))
