"""deliver_at and expire_at: never early, once, through restart and takeover; what expired is discarded, counted and shown."""

import contextlib
import threading
import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from harness.client import CONFIRMED, DELIVERY, PREPARED, admin_pb2, message, prepare_request, publish_request, refused, result_state
from harness.ids import uuid7
from harness.peers import Reply
from harness.pipeline import Pipe
from harness.system import SANITIZED, memory, room
from harness.world import metric, subscription
from servers.process import wait_until

PENDING, RETRYING, DELIVERED, DISCARDED = (DELIVERY[s] for s in ("PENDING", "RETRYING", "DELIVERED", "DISCARDED"))
COUNTS = ("delivered", "dead", "discarded", "in_flight")
LIMITS = {"forward.spill_limit": 50} # delayed messages must not park a subscription


@pytest.fixture(scope="module")
def world(site):
    made = site.world("delays", {**LIMITS, "workers": 2, "store.dead_after": "2s"})
    try:
        yield made.start()
    finally:
        made.close()


def now(world):
    """The database's clock, which decides."""
    return float(world.sql("SELECT extract(epoch FROM clock_timestamp())")[0][0])


def at(seconds):
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e6) * 1000)


def delayed(topic, due, body=b"body", **more):
    return message(topic, body, deliver_at=at(due), **more)


def due_rows(world, *txs):
    return world.sql("SELECT count(*) FROM delivery_due WHERE tx = ANY (%s::uuid[])", list(txs))[0][0]


def passed(world, moment):
    wait_until(lambda: now(world) > moment, 30, "the moment has passed")


def stats(world, name):
    said = world.ctl.json("stats", "--subscription", name)["subscriptions"][0]
    return {count: int(said.get(count, 0)) for count in COUNTS}


def settled(world, name, **counts):
    """Nothing of the subscription is open any more, and this is what became of it."""
    want = {**dict.fromkeys(COUNTS, 0), **counts}
    wait_until(lambda: stats(world, name) == want, 30, f"{name} counts {want}")


class Watched:
    """A sink that notes the database's clock when something arrives."""

    def __init__(self, world):
        self.sink, self.times, self.offset = world.sink(), {}, None
        before = time.monotonic()
        database = now(world)
        self.offset = database - (before + time.monotonic()) / 2
        self.error = time.monotonic() - before

    def not_before(self, due, *txs):
        for tx in txs:
            for request in self.sink.of(tx):
                assert request.at + self.offset >= due - self.error, f"{tx} came {due - request.at - self.offset:.3f} s early"


def test_every_form_waits_for_its_time(world, client):
    """Prepare and Confirm, Publish, Batch, Pipeline: none comes early, and what is confirmed behind them is not held up."""
    watched = Watched(world)
    topic = world.topic(http=watched.sink)
    due = now(world) + 2.5
    ids = [uuid7() for _ in range(5)]
    client.prepare([delayed(topic, due)], tx=ids[0])
    client.confirm(ids[0])
    client.publish([delayed(topic, due)], tx=ids[1])
    results = client.batch([publish_request([delayed(topic, due)], tx=ids[2]), prepare_request([delayed(topic, due)], tx=ids[3])])
    assert [result_state(r) for r in results] == [CONFIRMED, PREPARED]
    client.confirm(ids[3])
    assert [result_state(r) for r in Pipe(client).run([publish_request([delayed(topic, due)], tx=ids[4])])] == [CONFIRMED]
    marker = client.publish([message(topic)], tx=uuid7()).transaction_id
    watched.sink.wait_for(marker)
    world.wait_delivery(marker, f"{topic}-http", DELIVERED)
    if now(world) < due:
        delivery = world.wait_delivery(ids[0], f"{topic}-http", PENDING)
        assert delivery.attempts == 0
        wait_until(lambda: client.get(ids[0]).messages[0].deliveries[0].next_attempt_time == at(due) or now(world) >= due, 20,
                   "it says when")
    assert client.get(ids[0]).messages[0].message.deliver_at == at(due)
    for tx in ids:
        watched.sink.wait_for(tx)
        world.wait_delivery(tx, f"{topic}-http", DELIVERED)
    watched.not_before(due, *ids)
    assert all(len(watched.sink.of(tx)) == 1 for tx in ids)
    settled(world, f"{topic}-http", delivered=6)


def test_repeats(world, client):
    """A repeat changes nothing and doubles nothing; the times are part of the content."""
    sink = world.sink()
    topic = world.topic(http=sink)
    due, tx = now(world) + 1.5, uuid7()
    for _ in range(3):
        assert client.prepare([delayed(topic, due, expire_at=at(due + 60))], tx=tx).state == PREPARED
    for other in (delayed(topic, due + 1, expire_at=at(due + 60)), delayed(topic, due, expire_at=at(due + 61)), delayed(topic, due),
                  message(topic)):
        with refused("ALREADY_EXISTS", "CONTENT_DIFFERS"):
            client.prepare([other], tx=tx)
    for _ in range(3):
        assert client.confirm(tx).state == CONFIRMED
        assert client.publish([delayed(topic, due, expire_at=at(due + 60))], tx=tx).state == CONFIRMED
    sink.wait_for(tx)
    for _ in range(3):
        assert client.confirm(tx).state == CONFIRMED
    settled(world, f"{topic}-http", delivered=1)
    assert len(sink.of(tx)) == 1 and due_rows(world, tx) == 0


def test_an_expired_repeat_gets_the_same_answer(world, client):
    topic = world.topic(nowhere={"discard": {}})
    expire, tx = now(world) + 0.5, uuid7()
    first = client.publish([message(topic, expire_at=at(expire))], tx=tx)
    passed(world, expire)
    again = client.publish([message(topic, expire_at=at(expire))], tx=tx)
    assert again == first


def test_a_time_that_is_past_delays_nothing(world, client):
    """Sent at once; so is one of the year 1970."""
    sink = world.sink()
    topic = world.topic(http=sink)
    for seconds in (1, 86400, 0):
        tx = client.publish([delayed(topic, now(world) - seconds)], tx=uuid7()).transaction_id
        sink.wait_for(tx)
        world.wait_delivery(tx, f"{topic}-http", DELIVERED)
        assert len(sink.of(tx)) == 1
    tx = client.publish([delayed(topic, 0)], tx=uuid7()).transaction_id
    sink.wait_for(tx)


def test_messages_of_one_transaction_go_their_own_ways(world, client):
    watched = Watched(world)
    topic = world.topic(http=watched.sink)
    due, tx = now(world) + 1.5, uuid7()
    client.publish([message(topic), delayed(topic, due), message(topic)], tx=tx)
    for n in (0, 2, 1):
        watched.sink.wait_for(tx, n)
    arrived = {n: watched.sink.of(tx, n)[0].at for n in range(3)}
    assert max(arrived[0], arrived[2]) < arrived[1] and arrived[1] + watched.offset >= due - watched.error
    settled(world, f"{topic}-http", delivered=3)


def test_a_subscription_from_now_gets_none_of_before(world, client):
    """What was confirmed before a subscription began is not for it, delayed or not; one from the beginning gets it, in time."""
    sink, late, watched = world.sink(), world.sink(), Watched(world)
    topic = world.topic(http=sink)
    due = now(world) + 3
    tx = client.publish([delayed(topic, due)], tx=uuid7()).transaction_id
    wait_until(lambda: due_rows(world, tx) == 1, 20, "it waits")
    world.apply(subscriptions=[subscription(f"{topic}-late", topic, late),
                               subscription(f"{topic}-all", topic, watched.sink, start_from="START_FROM_BEGINNING")])
    marker = client.publish([delayed(topic, due)], tx=uuid7()).transaction_id
    for one in (sink, late, watched.sink):
        one.wait_for(marker)
    for one in (sink, watched.sink):
        one.wait_for(tx)
    watched.not_before(due, tx, marker)
    settled(world, f"{topic}-late", delivered=1)
    settled(world, f"{topic}-all", delivered=2)
    assert not late.of(tx)


def test_pause_holds_what_comes_due(world, client):
    sink = world.sink()
    topic = world.topic(http=sink)
    name = f"{topic}-http"
    due = now(world) + 1.5
    before = client.publish([delayed(topic, due)], tx=uuid7()).transaction_id
    wait_until(lambda: due_rows(world, before) == 1, 20, "it waits")
    client.admin.PauseSubscription(admin_pb2.PauseSubscriptionRequest(name=name), timeout=30)
    behind = client.publish([delayed(topic, due)], tx=uuid7()).transaction_id
    passed(world, due + 0.3)
    assert not sink.got() and due_rows(world, behind) == 0
    client.admin.ResumeSubscription(admin_pb2.ResumeSubscriptionRequest(name=name), timeout=30)
    for tx in (before, behind):
        sink.wait_for(tx)
    settled(world, name, delivered=2)
    assert len(sink.got()) == 2


def test_age_and_attempts_count_from_the_time(world, client):
    """A delayed message that fails has all its attempts, and the age of what is undelivered begins with its time."""
    sink = world.sink()
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, sink, retry={"initial": "50ms", "factor": 1, "max": "50ms", "max_age": "1s", "max_attempts": 1000})])
    due, tx = now(world) + 2, uuid7()
    sink.on(f"{tx}-0", Reply(500), Reply(500), Reply(200))
    client.publish([delayed(topic, due)], tx=tx)
    wait_until(lambda: due_rows(world, tx) == 1 or now(world) >= due, 20, "it waits")
    said = world.ctl.json("stats", "--subscription", topic)["subscriptions"][0]
    assert now(world) >= due or "oldest_undelivered" not in said, said
    sink.wait_for(tx, count=3)
    settled(world, topic, delivered=1)


def test_many_due_at_once(world, client):
    """More than may be in flight, and more than the limit of failed ones that parks a cursor: each comes once, and at no moment
    are more under way than the subscription allows."""
    sink = world.sink()
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink, concurrency=8)])
    due = now(world) + 3
    ids = [uuid7() for _ in range(600)]
    for i in range(0, len(ids), 200):
        client.batch([publish_request([delayed(topic, due)], tx=tx) for tx in ids[i:i + 200]])
    marker = client.publish([message(topic)], tx=uuid7()).transaction_id
    sink.wait_for(marker)
    settled(world, topic, delivered=601)
    got = [r.headers["webhook-id"] for r in sink.got()]
    assert sorted(got) == sorted(f"{tx}-0" for tx in [*ids, marker])
    assert metric(world.txmsgd, "txmsg_stale_deliveries_total") == 0


STORM = {"count": 100000, "ahead": 120 if SANITIZED else 30, "rate": 200, "concurrency": 8}


def test_hundred_thousand_due_at_once_are_no_storm(world, client):
    """None is early, then they come at the subscription's rate and within its concurrency, as the endpoint counts; the daemon's memory does not know
    how many wait; and a subscription beside is served as if there were none."""
    watched, beside, released = Watched(world), world.sink(), threading.Event()
    watched.sink.reply = Reply(200, held=released)
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[
        subscription(topic, topic, {"http": {"url": watched.sink.url("/"), "timeout": "2m"}}, concurrency=STORM["concurrency"], rate=STORM["rate"])])
    other = world.topic(http=beside)
    before = memory(world.txmsgd.process.pid)[0]
    due = now(world) + STORM["ahead"]
    for _ in range(STORM["count"] // 2500):
        requests = [publish_request([delayed(topic, due, b"") for _ in range(50)], tx=uuid7()) for _ in range(50)]
        assert all(result_state(r) == CONFIRMED for r in client.batch(requests))
    wait_until(lambda: world.sql("SELECT count(*) FROM delivery_due d JOIN subscription s ON s.id = d.sub WHERE s.name = %s", topic)[0][0] == STORM["count"],
               STORM["ahead"], "all of them wait")
    assert now(world) < due and not watched.sink.got(), "they come due together"
    wait_until(watched.sink.got, STORM["ahead"] + 60, "it has begun")
    for _ in range(5):
        tx = client.publish([message(other)], tx=uuid7()).transaction_id
        beside.wait_for(tx, timeout=10)
    assert len(watched.sink.got()) <= 2 * STORM["concurrency"], "of two workers, while the first have no answer"
    begun = time.monotonic()
    released.set()
    wait_until(lambda: len(watched.sink.got()) > 10 * STORM["rate"], 120, "ten seconds' worth")
    times = [r.at for r in watched.sink.got()]
    assert min(times) + watched.offset >= due - watched.error
    times = [t for t in times if t > begun]
    seconds = max(times) - min(times)
    assert len(times) <= STORM["rate"] * (seconds + 1) + 20, f"{len(times)} in {seconds:.1f} s"
    grown = memory(world.txmsgd.process.pid)[0] - before
    assert grown < room(160), f"{grown >> 20} MiB more"
    world.ctl("delete", "subscription", topic, "--yes")


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_another_replica_delivers(world, client, end):
    """The replica that took them in dies, or goes; nobody else has heard of them but by the database."""
    watched = Watched(world)
    topic = world.topic(http=watched.sink)
    first = world.daemon(f"first-{end}").start()
    with contextlib.closing(type(client)(first.grpc)) as there:
        world.wait_applied()
        due = now(world) + 4
        ids = [there.publish([delayed(topic, due)], tx=uuid7()).transaction_id for _ in range(30)]
    getattr(first, end)()
    for tx in ids:
        watched.sink.wait_for(tx)
    watched.not_before(due, *ids)
    settled(world, f"{topic}-http", delivered=30)
    assert len(watched.sink.got()) == 30


def test_restart(site):
    """All replicas end; the time comes and goes with nobody there."""
    world = site.world("delays-restart", {"store.dead_after": "2s"}).start()
    try:
        sink = world.sink()
        topic = world.topic(http=sink)
        due = now(world) + 2
        early = world.client.publish([delayed(topic, due)], tx=uuid7()).transaction_id
        late = world.client.publish([delayed(topic, due + 4)], tx=uuid7()).transaction_id
        expires = world.client.publish([delayed(topic, due, expire_at=at(due + 0.2))], tx=uuid7()).transaction_id
        world.txmsgd.kill()
        passed(world, due + 0.5)
        world.txmsgd.start()
        for tx in (early, late):
            sink.wait_for(tx)
        world.wait_delivery(expires, f"{topic}-http", DISCARDED)
        settled(world, f"{topic}-http", delivered=2, discarded=1)
        assert len(sink.got()) == 2
    finally:
        world.close()


# --- expire_at ---


def test_expired_before_the_first_attempt(world, client):
    """Held up by a pause until its time is over: discarded for that subscription, counted and shown; the other one got it."""
    sink, other = world.sink(), world.sink()
    topic = world.topic(http=sink, other=other)
    name = f"{topic}-http"
    client.admin.PauseSubscription(admin_pb2.PauseSubscriptionRequest(name=name), timeout=30)
    expire = now(world) + 1.5
    tx = client.publish([message(topic, expire_at=at(expire)), message(topic)], tx=uuid7()).transaction_id
    other.wait_for(tx)
    passed(world, expire)
    client.admin.ResumeSubscription(admin_pb2.ResumeSubscriptionRequest(name=name), timeout=30)
    sink.wait_for(tx, 1)
    delivery = world.wait_delivery(tx, name, DISCARDED)
    assert (delivery.attempts, delivery.last_error) == (0, "expired")
    world.wait_delivery(tx, f"{topic}-other", DELIVERED)
    assert not sink.of(tx, 0)
    settled(world, name, delivered=1, discarded=1)
    settled(world, f"{topic}-other", delivered=2)
    assert "discarded" in world.ctl("get", tx)


def test_expired_at_a_retry(world, client):
    """Its next attempt would be in ten minutes; it is discarded when it expires."""
    sink = world.sink()
    sink.reply = Reply(503)
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(
        topic, topic, sink, retry={"initial": "600s", "factor": 1, "max": "600s"})])
    expire = now(world) + 2
    tx = client.publish([message(topic, expire_at=at(expire))], tx=uuid7()).transaction_id
    world.wait_delivery(tx, topic, RETRYING)
    delivery = world.wait_delivery(tx, topic, DISCARDED)
    assert now(world) >= expire
    assert delivery.attempts == len(sink.of(tx)) == 1 and "503" in delivery.last_error
    settled(world, topic, discarded=1)
    assert due_rows(world, tx) == 0


def test_expiry_never_decides(world, client):
    sink = world.sink()
    topic = world.topic(http=sink)
    expire, tx = now(world) + 1, uuid7()
    client.prepare([message(topic, expire_at=at(expire))], tx=tx, check_after=3600)
    passed(world, expire + 0.2)
    assert client.get(tx).state == PREPARED
    assert client.confirm(tx).state == CONFIRMED
    world.wait_delivery(tx, f"{topic}-http", DISCARDED)
    marker = client.publish([message(topic, expire_at=at(now(world) + 60))], tx=uuid7()).transaction_id
    sink.wait_for(marker)
    assert len(sink.got()) == 1
    settled(world, f"{topic}-http", delivered=1, discarded=1)


BAD = {
    "expired before it began": (lambda base: {"expire_at": at(base - 1)}, "expire_at"),
    "expired in the last century": (lambda base: {"expire_at": Timestamp(seconds=-1)}, "expire_at"),
    "expires before it is delivered": (lambda base: {"deliver_at": at(base + 60), "expire_at": at(base + 60)}, "expire_at"),
    "later than the retention": (lambda base: {"deliver_at": at(base + 8 * 86400)}, "deliver_at"),
    "no time": (lambda base: {"deliver_at": Timestamp(seconds=int(base), nanos=-5)}, "deliver_at"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("call", ["prepare", "publish"])
def test_times_that_are_refused(world, client, call, what):
    topic = world.topic()
    fields, field = BAD[what]
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        getattr(client, call)([message(topic), message(topic, **fields(time.time()))], tx=uuid7())
    assert list(caught.error.fields) == [f"messages[1].{field}"]


def test_command_line(world):
    sink = world.sink()
    topic = world.topic(http=sink)
    said = world.ctl.json("publish", "--producer", "shop", "--topic", topic, "--body", "x", "--deliver-at", "1s", "--expire-at", "1h")
    tx = said["status"]["transaction_id"]
    shown = world.ctl("get", tx)
    assert "deliver at" in shown and "expires at" in shown
    sink.wait_for(tx)
    settled(world, f"{topic}-http", delivered=1)
