"""Replay: confirmed messages are sent to a subscription again, marked, counted apart, at a rate, through the death of replicas."""

import contextlib

import pika
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from harness.client import DELIVERY, Client, admin_pb2, message, refused
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import metric, subscription
from servers.process import wait_until

DELIVERED = DELIVERY["DELIVERED"]
RUNNING, DONE, CANCELLED = (admin_pb2.ReplayState.Value(f"REPLAY_STATE_{s}") for s in ("RUNNING", "DONE", "CANCELLED"))


@pytest.fixture(scope="module")
def world(site):
    made = site.world("replay", {"store.dead_after": "2s"})
    try:
        yield made.start()
    finally:
        made.close()


def now(world):
    """The database's clock."""
    return Timestamp(**dict(zip(("seconds", "nanos"), world.sql(
        "SELECT floor(extract(epoch FROM t))::bigint, (extract(microseconds FROM t)::bigint %% 1000000 * 1000)::int "
        "FROM clock_timestamp() t WHERE %s", True)[0])))


def start(client, name, *ids, **fields):
    request = admin_pb2.StartReplayRequest(subscription=name, transaction_ids=ids, **{"force": True, "rate": 1000, **fields})
    return client.admin.StartReplay(request, timeout=30)


def get(client, replay_id):
    return client.admin.GetReplay(admin_pb2.GetReplayRequest(replay_id=replay_id), timeout=30).replay


def ended(client, replay, state=DONE, timeout=40):
    def reached():
        seen = get(client, replay.replay_id)
        return seen if seen.state == state else None

    return wait_until(reached, timeout, f"the replay is in state {state}")


def again(sink, replay):
    """Ids of the messages that came with the mark of this replay."""
    return sorted(r.headers["webhook-id"] for r in sink.got() if r.headers.get("txmsg-replay") == replay.replay_id)


def names(ids, n=0):
    return sorted(f"{tx}-{n}" for tx in ids)


def publish(client, topic, count=1, **fields):
    return [client.publish([message(topic, f"body {i}", **fields)], tx=uuid7()).transaction_id for i in range(count)]


def delivered(world, name, count):
    """So many are delivered and recorded; a delivery of a replay is none of them."""
    def counted():
        said = world.ctl.json("stats", "--subscription", name)["subscriptions"][0]
        return (int(said.get("delivered", 0)), int(said.get("in_flight", 0)), int(said.get("dead", 0))) == (count, 0, 0)

    wait_until(counted, 30, f"{name} has delivered {count}")


def test_a_time_range(world, client):
    """Exactly what was decided in it, of this subscription; each once, the same bytes, with the replay's id."""
    sink, other = world.sink(), world.sink()
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop", "bakery"], subscriptions=[
        subscription(topic, topic, sink, filter={"headers": {"colour": "blue"}}), subscription(f"{topic}-other", topic, other)])
    blue = {"colour": "blue"}
    before = publish(client, topic, 3, headers=blue)
    first = now(world)
    waiting = client.prepare([message(topic, headers=blue)], tx=uuid7()).transaction_id
    inside = publish(client, topic, 20, headers=blue)
    two = client.publish([message(topic, headers=blue), message(topic), message(topic, headers=blue)], tx=uuid7()).transaction_id
    publish(client, topic, 3, headers={"colour": "red"})
    baker = client.publish([message(topic, headers=blue)], producer="bakery", tx=uuid7()).transaction_id
    cancelled = client.prepare([message(topic, headers=blue)], tx=uuid7()).transaction_id
    client.cancel(cancelled)
    last = now(world)
    client.confirm(waiting)
    after = publish(client, topic, 3, headers=blue)
    for tx in (*before, *inside, two, baker, waiting, *after):
        sink.wait_for(tx)
    count = 3 + 20 + 2 + 1 + 1 + 3
    delivered(world, topic, count)
    expected = sorted([*names([*inside, two, baker]), f"{two}-2"])
    matches = start(client, topic, start_time=first, end_time=last, force=False)
    assert (matches.count, matches.more, matches.HasField("replay"), len(matches.sample)) == (23, False, False, 10)
    assert {s.replace(".", "-") for s in matches.sample} <= set(expected)
    assert world.sql("SELECT count(*) FROM replay")[0][0] == 0 and len(sink.got()) == count
    replay = start(client, topic, start_time=first, end_time=last, reason="lost their disk", actor="ann").replay
    seen = ended(client, replay)
    assert again(sink, replay) == expected
    assert (seen.sent, seen.delivered, seen.failed, seen.skipped) == (23, 23, 0, 0)
    assert (seen.subscription, seen.actor, seen.reason, seen.start_time) == (topic, "ann", "lost their disk", first)
    assert seen.end_time == seen.progress_time == last and seen.done_time.seconds
    assert {r.headers["txmsg-attempt"] for r in sink.got()} == {"1"}
    for r in sink.of(inside[0]):
        assert (r.body, r.headers["ce-id"]) == (b"body 0", f"{inside[0]}.0")
    assert not [r for r in other.got() if "txmsg-replay" in r.headers]
    delivered(world, topic, count)
    one = start(client, topic, start_time=first, end_time=last, producer="bakery").replay
    ended(client, one)
    assert again(sink, one) == names([baker])
    assert metric(world.txmsgd, "txmsg_replayed_total") >= 24
    entries = client.admin.ListAudit(admin_pb2.ListAuditRequest(target=f"replay/{replay.replay_id}"), timeout=20).entries
    assert [(e.action, e.actor, e.reason) for e in entries] == [("replay.start", "ann", "lost their disk")]


def test_ids(world, client):
    """These and no others; what is unknown, undecided, cancelled or of another topic is passed over."""
    sink = world.sink()
    topic = world.topic(http=sink)
    name = f"{topic}-http"
    wanted, others = publish(client, topic, 3), publish(client, topic, 3)
    elsewhere = publish(client, world.topic(), 1)
    undecided, cancelled = (client.prepare([message(topic)], tx=uuid7()).transaction_id for _ in range(2))
    client.cancel(cancelled)
    for tx in (*wanted, *others):
        sink.wait_for(tx)
    ids = [*wanted, wanted[0], *elsewhere, undecided, cancelled, uuid7()]
    assert start(client, name, *ids, force=False).count == 3
    replay = start(client, name, *ids).replay
    seen = ended(client, replay)
    assert again(sink, replay) == names(wanted) and (seen.sent, seen.delivered) == (3, 3)
    assert not seen.HasField("start_time") and not seen.HasField("end_time")
    delivered(world, name, 6)


def test_a_repeat_starts_nothing(world, client):
    sink = world.sink()
    topic = world.topic(http=sink)
    tx, = publish(client, topic)
    sink.wait_for(tx)
    made = uuid7()
    first = start(client, f"{topic}-http", tx, replay_id=made).replay
    assert first.replay_id == made
    ended(client, first)
    assert start(client, f"{topic}-http", tx, replay_id=made).replay.state == DONE
    with refused("ALREADY_EXISTS", "CONTENT_DIFFERS", replay_id=made):
        start(client, f"{topic}-http", uuid7(), replay_id=made)
    marker, = publish(client, topic)
    sink.wait_for(marker)
    assert len(again(sink, first)) == 1
    entries = client.admin.ListAudit(admin_pb2.ListAuditRequest(target=f"replay/{made}"), timeout=20).entries
    assert len(entries) == 1


def test_failures(world, client):
    """Retried by the subscription's policy; what fails for good is counted in the replay and makes no dead letter."""
    sink = world.sink()
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[
        subscription(topic, topic, sink, retry={"initial": "50ms", "factor": 1, "max": "50ms", "max_attempts": 3})])
    good, flaky, gone, bad = publish(client, topic, 4)
    for tx in (good, flaky, gone, bad):
        sink.wait_for(tx)
    delivered(world, topic, 4)
    sink.on(f"{flaky}-0", Reply(500), Reply(200))
    sink.on(f"{gone}-0", Reply(410))
    sink.on(f"{bad}-0", Reply(503))
    replay = start(client, topic, good, flaky, gone, bad).replay
    seen = ended(client, replay)
    assert (seen.sent, seen.delivered, seen.failed, seen.skipped) == (4, 2, 2, 0)
    assert "410" in seen.last_error or "503" in seen.last_error
    tries = again(sink, replay)
    assert [tries.count(f"{tx}-0") for tx in (good, flaky, gone, bad)] == [1, 2, 1, 3]
    delivered(world, topic, 4)
    assert client.get(bad).messages[0].deliveries[0].state == DELIVERED


def test_expired_is_skipped(world, client):
    sink = world.sink()
    topic = world.topic(http=sink)
    soon = now(world)
    soon.seconds += 2
    tx = client.publish([message(topic, expire_at=soon), message(topic)], tx=uuid7()).transaction_id
    for n in (0, 1):
        sink.wait_for(tx, n)
    wait_until(lambda: now(world).ToNanoseconds() > soon.ToNanoseconds(), 20, "it expired")
    replay = start(client, f"{topic}-http", tx).replay
    assert (ended(client, replay).sent, again(sink, replay)) == (1, [f"{tx}-1"])


def test_pause_and_rate(world, client):
    """While the subscription is paused the replay waits; then it goes out at its own rate."""
    sink = world.sink()
    topic = world.topic(http=sink)
    name = f"{topic}-http"
    ids = publish(client, topic, 45)
    for tx in ids:
        sink.wait_for(tx)
    client.admin.PauseSubscription(admin_pb2.PauseSubscriptionRequest(name=name), timeout=30)
    held = start(client, name, *ids[:5]).replay
    wait_until(lambda: get(client, held.replay_id).sent == 5, 20, "they are handed over")
    assert get(client, held.replay_id).state == RUNNING and not again(sink, held)
    client.admin.ResumeSubscription(admin_pb2.ResumeSubscriptionRequest(name=name), timeout=30)
    ended(client, held)
    replay = start(client, name, *ids, rate=20).replay
    assert ended(client, replay).delivered == 45
    at = sorted(r.at for r in sink.got() if r.headers.get("txmsg-replay") == replay.replay_id)
    assert len(at) == 45 and at[-1] - at[0] >= 44 / 20 * 0.9, "faster than the declared rate"


def test_cancel(world, client):
    """What was sent is sent, the rest stays away."""
    sink = world.sink()
    topic = world.topic(http=sink)
    ids = publish(client, topic, 40)
    for tx in ids:
        sink.wait_for(tx)
    replay = start(client, f"{topic}-http", *ids, rate=2).replay
    wait_until(lambda: again(sink, replay), 20, "it has begun")
    cancel = admin_pb2.CancelReplayRequest(replay_id=replay.replay_id, reason="wrong day", actor="bob")
    assert client.admin.CancelReplay(cancel, timeout=30).replay.state == CANCELLED
    sent = len(again(sink, replay))
    assert client.admin.CancelReplay(cancel, timeout=30).replay.state == CANCELLED
    assert world.sql("SELECT count(*) FROM replay_due WHERE replay = %s", replay.replay_id)[0][0] == 0
    other = start(client, f"{topic}-http", *ids[:3]).replay
    ended(client, other)
    assert len(again(sink, replay)) <= sent + 1 < 40
    entries = client.admin.ListAudit(admin_pb2.ListAuditRequest(target=f"replay/{replay.replay_id}"), timeout=20).entries
    assert [(e.action, e.actor, e.reason) for e in entries] == [("replay.cancel", "bob", "wrong day"), ("replay.start", "rpc", "")]
    assert entries[0].detail == '{"after": {"state": "CANCELLED"}, "before": {"state": "RUNNING"}}'
    with refused("NOT_FOUND", "REPLAY_NOT_FOUND"):
        client.admin.CancelReplay(admin_pb2.CancelReplayRequest(replay_id=uuid7()), timeout=30)


def test_a_deleted_subscription_ends_it(world, client):
    sink = world.sink()
    topic = world.topic(http=sink)
    ids = publish(client, topic, 10)
    for tx in ids:
        sink.wait_for(tx)
    replay = start(client, f"{topic}-http", *ids, rate=1).replay
    client.admin.DeleteSubscription(admin_pb2.DeleteSubscriptionRequest(name=f"{topic}-http"), timeout=30)
    ended(client, replay, CANCELLED)
    assert world.sql("SELECT count(*) FROM replay_due WHERE replay = %s", replay.replay_id)[0][0] == 0


def test_replicas_die(world, client):
    """Messages of several lanes, some of dead replicas; the replica that was asked to replay is killed in the middle."""
    sink = world.sink()
    topic = world.topic(http=sink)
    first, ids = now(world), publish(client, topic, 60)
    for number in range(2):
        gone = world.daemon(f"gone-{number}").start()
        world.wait_applied()
        with contextlib.closing(Client(gone.grpc)) as there:
            ids += publish(there, topic, 20)
        gone.kill() if number else gone.stop()
    for tx in ids:
        sink.wait_for(tx)
    delivered(world, f"{topic}-http", 100)
    runner = world.daemon("runner").start()
    with contextlib.closing(Client(runner.grpc)) as there:
        world.wait_applied()
        replay = start(there, f"{topic}-http", start_time=first, rate=20).replay
    wait_until(lambda: len(again(sink, replay)) > 10, 20, "it runs")
    runner.kill()
    seen = ended(client, replay)
    assert set(again(sink, replay)) == set(names(ids))
    assert (seen.sent, seen.delivered, seen.failed, seen.skipped) == (100, 100, 0, 0)
    delivered(world, f"{topic}-http", 100)


def test_more_than_a_page(world, client):
    """More entries than a step looks at, and more messages than it hands over; all of them, each once."""
    sink = world.sink()
    topic = world.topic(http=sink, nowhere={"discard": {}})
    first = now(world)
    ids = publish(client, topic, 300)
    for tx in ids[-3:]:
        sink.wait_for(tx)
    assert start(client, f"{topic}-http", start_time=first, force=False).count == 300
    replay = start(client, f"{topic}-http", start_time=first, rate=70).replay
    assert ended(client, replay).sent == 300
    assert again(sink, replay) == names(ids)


BAD = {
    "no range": (dict(), "start_time"),
    "both": (dict(transaction_ids=[uuid7()], start_time=Timestamp(seconds=1)), "transaction_ids"),
    "past retention": (dict(start_time=Timestamp(seconds=1000)), "start_time"),
    "ahead": (dict(start_time=Timestamp(seconds=9000000000)), "start_time"),
    "no id": (dict(transaction_ids=[uuid7(), "x"]), "transaction_ids[1]"),
    "too many": (dict(transaction_ids=[uuid7()] * 1001), "transaction_ids"),
    "rate": (dict(transaction_ids=[uuid7()], rate=1001), "rate"),
    "negative rate": (dict(transaction_ids=[uuid7()], rate=-1), "rate"),
    "replay id": (dict(transaction_ids=[uuid7()], replay_id="mine"), "replay_id"),
    "reason": (dict(transaction_ids=[uuid7()], reason="x" * 1025), "reason"),
}


@pytest.mark.parametrize("what", BAD)
def test_requests_that_are_refused(client, what):
    fields, field = BAD[what]
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.admin.StartReplay(admin_pb2.StartReplayRequest(subscription="any", force=True, **fields), timeout=30)
    assert list(caught.error.fields) == [field]


@pytest.mark.parametrize("force", [False, True])
def test_unknown_subscription(client, force):
    with refused("NOT_FOUND", "SUBSCRIPTION_NOT_FOUND", name="nobody"):
        start(client, "nobody", uuid7(), force=force)
    with refused("NOT_FOUND", "REPLAY_NOT_FOUND"):
        get(client, uuid7())


def test_list(world, client):
    topic = world.topic(nowhere={"discard": {}})
    tx, = publish(client, topic)
    made = [start(client, f"{topic}-nowhere", tx).replay.replay_id for _ in range(5)]
    found, token = [], ""
    while True:
        page = client.admin.ListReplays(admin_pb2.ListReplaysRequest(subscription=f"{topic}-nowhere", page_size=2, page_token=token),
                                        timeout=20)
        found += [r.replay_id for r in page.replays]
        token = page.next_page_token
        if not token:
            break
    assert found == made[::-1]
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        client.admin.ListReplays(admin_pb2.ListReplaysRequest(page_token="x"), timeout=20)


def test_rabbitmq_carries_the_mark(site, world, client):
    queue = f"{world.name}-replay"
    connection = pika.BlockingConnection(pika.URLParameters(site.rabbit.url()))
    with contextlib.closing(connection):
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)

        def get():
            return wait_until(lambda: (lambda got: got if got[0] else None)(channel.basic_get(queue, auto_ack=True)), 20, "a message")[1]

        topic = world.topic(rabbit={"rabbitmq": {"url": site.rabbit.url(), "routing_key": queue}})
        tx, = publish(client, topic)
        assert "txmsg-replay" not in get().headers
        replay = start(client, f"{topic}-rabbit", tx).replay
        again_there = get()
        assert (again_there.message_id, again_there.headers["txmsg-replay"]) == (f"{tx}.0", replay.replay_id)
        ended(client, replay)


def test_command_line(world):
    sink = world.sink()
    topic = world.topic(http=sink)
    name = f"{topic}-http"
    tx = world.ctl.json("publish", "--producer", "shop", "--topic", topic, "--body", "x")["status"]["transaction_id"]
    sink.wait_for(tx)
    said = world.ctl("replay", "start", "--subscription", name, "--since", "1h")
    assert "1 messages match" in said and f"{tx}.0" in said and "--force" in said
    made = uuid7()
    assert made in world.ctl("replay", "start", "--subscription", name, tx, "--force", "--id", made, "--reason", "why", "--rate", "10")
    wait_until(lambda: "done" in world.ctl("replay", "get", made), 20, "it is done")
    assert made in world.ctl("replay", "list", "--subscription", name)
    assert "done" in world.ctl("replay", "cancel", made)
    assert len(sink.of(tx)) == 2
