"""Retention with partitions of two seconds: what is dead goes, what is alive blocks and is named, late calls are refused,
and nobody who is under way at that moment loses anything."""

import contextlib
import subprocess
import threading
import time
import uuid

import grpc
import psycopg2
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from harness import BUILD, FULL, rounds
from harness.client import CONFIRMED, PREPARED, Client, message, publish_request, refused
from harness.ids import uuid7
from harness.peers import HANG, Reply
from harness.world import subscription
from servers.process import ServerError, wait_until
from servers.txmsgd import Txmsgd, clean_environment, daemon_binary

WIDTH = 2
OPTIONS = {"limits.id_past": "3s", "limits.id_future": "1s", "store.retention": "4s", "store.partitions_ahead": 14,
           "store.dead_after": "2s"}
LONG = 90


@pytest.fixture
def world(site, request):
    """A world of its own for each test: what one leaves undecided would block the next."""
    made = site.world(request.node.name, OPTIONS, partition_seconds=WIDTH)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def place(world):
    sink = world.sink()
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink)])
    return topic, sink


def period(tx):
    return int(tx.replace("-", "")[:12], 16) // 1000 // WIDTH


def tables(world):
    return {name for (name,) in world.sql("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '_p[0-9]+$'")}


def dropped(world, tx):
    return not {f"message_p{period(tx)}", f"decision_p{period(tx)}"} & tables(world)


def wait_dropped(world, tx):
    wait_until(lambda: dropped(world, tx), LONG, f"the partitions of {tx} are dropped")


def blocked(world, reason, name=""):
    """Who blocks, by any replica."""
    series = f'txmsg_retention_blocked{{reason="{reason}",subscription="{name}"}} 1'
    daemons = [d for d in world.closing if isinstance(d, Txmsgd) and d.process]
    return any(series in daemon.get("/metrics")[1] for daemon in daemons)


def wait_blocked(world, reason, name=""):
    wait_until(lambda: blocked(world, reason, name), LONG, f"{reason} {name} blocks")


def old_now(world, tx):
    """The period of an id is past retention by the database's clock."""
    wait_until(lambda: world.sql("SELECT extract(epoch FROM clock_timestamp())")[0][0] > (period(tx) + 1) * WIDTH + 5,
               LONG, "the id is old")


def floor(world):
    return world.sql("SELECT floor::text FROM cfg")[0][0]


def test_dead_goes_and_late_calls_are_refused(world, place):
    topic, sink = place
    confirmed = world.client.publish([message(topic)], tx=uuid7()).transaction_id
    cancelled = world.client.prepare([message(topic)], tx=uuid7()).transaction_id
    world.client.cancel(cancelled)
    sink.wait_for(confirmed)
    for tx in (confirmed, cancelled):
        wait_dropped(world, tx)
    for call in (world.client.confirm, world.client.cancel):
        for tx in (confirmed, cancelled, uuid7(-60)):
            with refused("FAILED_PRECONDITION", "PAST_RETENTION", transaction_id=tx):
                call(tx, producer="shop")
    with refused("FAILED_PRECONDITION", "PAST_RETENTION", transaction_id=confirmed):
        world.client.get(confirmed)


def test_undecided_blocks_until_it_is_decided(world, place):
    topic, sink = place
    tx = world.client.prepare([message(topic)], tx=uuid7(), check_after=60).transaction_id
    wait_blocked(world, "undecided")
    later = world.client.publish([message(topic)], tx=uuid7()).transaction_id
    sink.wait_for(later)
    old_now(world, later)
    assert not dropped(world, tx) and not dropped(world, later)
    assert world.client.get(tx).state == PREPARED
    assert world.client.confirm(tx).state == CONFIRMED
    sink.wait_for(tx)
    wait_dropped(world, later)
    assert dropped(world, tx) and not blocked(world, "undecided")


def test_delayed_message_blocks(world, place):
    """What waits for its deliver_at is alive: its partition stays, the metric names delay and subscription, and it arrives."""
    topic, sink = place
    tx = uuid7()
    due = int(tx.replace("-", "")[:12], 16) / 1000 + 3.5
    world.client.publish([message(topic, deliver_at=Timestamp(seconds=int(due), nanos=int(due % 1 * 1e6) * 1000))], tx=tx)
    # Retention is longer than a delay can be; so that it meets one, this one is put off.
    wait_until(lambda: world.sql("UPDATE delivery_due SET due = due + interval '7 s' WHERE tx = %s RETURNING 1", tx), 20, "it waits")
    wait_blocked(world, "delay", topic)
    assert not dropped(world, tx) and not sink.of(tx)
    sink.wait_for(tx)
    wait_dropped(world, tx)
    assert not blocked(world, "delay", topic)


def test_due_delivery_blocks_and_dead_letter_does_not(world, place):
    topic, sink = place
    sink.reply = Reply(503)
    stays = world.unique("stays")
    world.apply(topics=[stays], subscriptions=[subscription(stays, stays, sink, retry={"initial": "200ms", "factor": 1,
                                                                                      "max": "200ms", "max_attempts": 1000})])
    due = world.client.publish([message(stays)], tx=uuid7()).transaction_id
    wait_blocked(world, "due", stays)
    assert world.client.get(due).state == CONFIRMED
    sink.reply = Reply(410)
    wait_dropped(world, due)
    name = f"{stays}/{due}.0"
    assert name in world.ctl("dead", "show", name)
    assert "0 dead letters" in world.ctl("dead", "redrive", name)
    assert name in world.ctl("dead", "show", name)


def test_subscription_without_messages_does_not_block(world, place):
    """Its cursor only reads over what others get; the record of that must come without anything of its own."""
    topic, sink = place
    idle = world.topic(idle=sink)
    tx = world.client.publish([message(topic)], tx=uuid7()).transaction_id
    sink.wait_for(tx)
    wait_dropped(world, tx)
    assert not blocked(world, "cursor", f"{idle}-idle")


def test_every_replica_can_and_one_does(world, place):
    topic, sink = place
    second = world.daemon("second").start()
    world.txmsgd.kill()
    other = Client(second.grpc)
    tx = other.publish([message(topic)], tx=uuid7()).transaction_id
    sink.wait_for(tx)
    wait_dropped(world, tx)
    assert world.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 3 AND granted")[0][0] == 1
    other.close()


def test_starts_only_with_retention_longer_than_the_window(world):
    daemon = world.daemon("wrong", {"store.retention": "3s"})
    with pytest.raises(ServerError, match="store.retention .* must be longer than limits.id_past"):
        daemon.start()
    daemon.process = None


# --- races: somebody is in the middle of a commit, on a connection of the test ---


class Committer:
    """A transaction on an old id that is held open at will, made of the daemon's own statements."""

    def __init__(self, world, topic):
        self.world, self.topic = world, topic
        self.db = psycopg2.connect(world.dsn)
        self.sql = self.db.cursor()
        printed = dict(line.split("\t", 1) for line in subprocess.run(
            [daemon_binary(BUILD), "--print-statements"], capture_output=True, text=True, check=True,
            env=clean_environment()).stdout.splitlines())
        self.sql.execute("PREPARE lane_row AS " + printed["lane_row"].replace("%", "%%"))
        self.db.commit()
        self.lane = world.sql("SELECT max(lane) + 1000 FROM lane")[0][0]

    def header(self):
        """Stores a header in the oldest period that there is; answers the id."""
        def stored():
            oldest = min(int(name.removeprefix("message_p")) for name in tables(self.world) if name.startswith("message_p"))
            tx = uuid7(oldest * WIDTH + 1 - time.time())
            try:
                self.sql.execute("INSERT INTO message (tx, n, total, delay_class, check_after, producer, topic, digest, body) "
                                 "VALUES (%s, 0, 1, 0, 1000, 'shop', %s, '\\x00', 'late')", (tx, self.topic))
            except psycopg2.Error: # just dropped, or about to be
                self.db.rollback()
                return None
            return tx

        return wait_until(stored, LONG, "a header in the oldest period")

    def lane_row(self, tx, conf=False):
        ids = f"ARRAY['{tx}']::uuid[]"
        prep, conf = ("NULL", ids) if conf else (ids, "NULL")
        self.sql.execute(f"EXECUTE lane_row({self.lane}, 1, 'D', 1, '{tx}', 1, {prep}, {conf}, ARRAY[1,0,0,0], NULL, NULL)")

    def commit(self):
        """Commits; the lane is one of a worker that is gone, so that somebody goes on with it."""
        self.sql.execute("INSERT INTO lane (lane, run, state) VALUES (%s, %s, 'sealed')", (self.lane, str(uuid.UUID(int=0))))
        self.db.commit()

    def close(self):
        self.db.close()


@pytest.fixture
def committer(world, place):
    with contextlib.closing(Committer(world, place[0])) as made:
        yield made


def lock_wanted(world):
    return world.sql("SELECT count(*) FROM pg_locks WHERE relation = 'lane_log'::regclass AND mode = 'ShareLock' "
                     "AND NOT granted")[0][0]


def detaching(world, tx):
    return world.sql("SELECT count(*) FROM pg_inherits WHERE inhdetachpending AND inhrelid = to_regclass(%s)",
                     f"message_p{period(tx)}")[0][0]


def test_prepare_that_comes_before_the_floor(world, place, committer):
    """Its lane row is written: retention must wait for it, find it undecided, and take the floor back."""
    topic, sink = place

    def waits():
        tx = committer.header()
        with contextlib.suppress(ServerError, psycopg2.errors.NotNullViolation):
            committer.lane_row(tx)
            wait_until(lambda: lock_wanted(world), 15, "retention waits for the commit")
            return tx
        committer.db.rollback() # the floor was there first
        return None

    tx = wait_until(waits, LONG, "retention waits for the commit")
    committer.commit()
    wait_blocked(world, "undecided")
    wait_until(lambda: floor(world) <= tx, LONG, "the floor is back")
    assert not dropped(world, tx)
    assert world.client.get(tx).state == PREPARED
    assert world.client.confirm(tx).state == CONFIRMED
    sink.wait_for(tx)
    wait_dropped(world, tx)


def test_prepare_that_comes_behind_the_floor(world, committer):
    """Its header is stored, its lane row not: the row must be refused, because the partition is on its way out."""
    tx = committer.header()
    wait_until(lambda: detaching(world, tx), LONG, "retention waits for the reader of the partition")
    with pytest.raises(psycopg2.errors.NotNullViolation):
        committer.lane_row(tx)
    committer.db.rollback()
    wait_dropped(world, tx)
    with refused("FAILED_PRECONDITION", "PAST_RETENTION"):
        world.client.confirm(tx)


def test_late_confirm_that_comes_behind_the_floor(world, place, committer):
    """The same with a decision: whoever confirms under a floor that rose meanwhile is refused."""
    topic, sink = place
    tx = committer.header()
    committer.sql.execute("INSERT INTO decision (tx, verdict, origin, producer, lane, seq, at) VALUES (%s, 1, 1, 'shop', %s, 1, "
                          "now())", (tx, committer.lane))
    wait_until(lambda: detaching(world, tx), LONG, "retention waits for the writer of the partition")
    with pytest.raises(psycopg2.errors.NotNullViolation):
        committer.lane_row(tx, conf=True)
    committer.db.rollback()
    wait_dropped(world, tx)
    assert not [r for r in sink.got() if tx in r.headers["webhook-id"]]


def test_takeover_and_a_late_confirm(world, place):
    """A dead replica's lane that nobody could take yet holds up retention; what it had confirmed is delivered first."""
    topic, sink = place
    sink.reply = HANG
    confirmed = [world.client.publish([message(topic)], tx=uuid7()).transaction_id for _ in range(5)]
    late = world.client.prepare([message(topic)], tx=uuid7(), check_after=60).transaction_id
    sink.wait(1)
    db = psycopg2.connect(world.dsn)
    with contextlib.closing(db), db.cursor() as sql:
        sql.execute("SELECT lane FROM lane WHERE state = 'open' FOR UPDATE")
        world.txmsgd.kill()
        sink.reply = Reply(200)
        second = world.daemon("heir").start()
        other = Client(second.grpc)
        wait_blocked(world, "cursor", topic)
        old_now(world, late)
        assert other.confirm(late).state == CONFIRMED
        sink.wait_for(late)
        assert not any(dropped(world, tx) for tx in [*confirmed, late])
    for tx in confirmed:
        sink.wait_for(tx, timeout=LONG)
    for tx in [*confirmed, late]:
        wait_dropped(world, tx)
    with refused("FAILED_PRECONDITION", "PAST_RETENTION"):
        other.confirm(late)
    other.close()


# --- for a while ---


@pytest.mark.skipif(not FULL, reason="two minutes: with --full")
def test_goes_on_under_load(world, place):
    """Producers go on while partitions go: nothing is lost, what is delivered goes, an undecided transaction holds its
    period and what is younger, and a daemon that dies in between changes nothing of that."""
    topic, sink = place
    stop, lock = threading.Event(), threading.Lock()
    sent, target = [], {"client": world.client}

    def produce():
        while not stop.is_set():
            tx = uuid7()
            with contextlib.suppress(grpc.RpcError, ValueError):
                target["client"].messages.Publish(publish_request([message(topic)], tx=tx), timeout=5)
                with lock:
                    sent.append(tx)
            stop.wait(0.01)

    threads = [threading.Thread(target=produce, daemon=True) for _ in range(4)]
    for t in threads:
        t.start()
    try:
        for _ in range(rounds(1)):
            first = wait_until(lambda: sent[-1:], LONG, "producers get on")[0]
            wait_dropped(world, first)
            open_ = target["client"].prepare([message(topic)], tx=uuid7(), check_after=60).transaction_id
            wait_blocked(world, "undecided")
            world.txmsgd.kill()
            world.txmsgd.start()
            target["client"] = world.client
            wait_blocked(world, "undecided")
            younger = wait_until(lambda seen=len(sent): sent[seen:seen + 1], LONG, "producers get on")[0]
            old_now(world, younger)
            assert not dropped(world, open_) and not dropped(world, younger)
            assert world.client.confirm(open_).state == CONFIRMED
            sent.append(open_)
            wait_dropped(world, younger)
    finally:
        stop.set()
        for t in threads:
            t.join()
    wanted = {f"{tx}-0" for tx in sent}
    wait_until(lambda: wanted <= {sink.key(r) for r in sink.got()}, LONG, "all are delivered")
    wait_dropped(world, sent[-1])
    assert world.sql("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '_p[0-9]+$'")[0][0] < 3 * 25
