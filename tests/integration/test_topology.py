"""Topology: applied while the service runs, idempotent, checked as a whole; where a new subscription begins."""

import contextlib
import threading
import time

import pytest
from harness.client import DELIVERY, Client, apply_topology, message, refused
from harness.ids import uuid7
from harness.world import subscription
from servers.process import wait_until
from txmsg.v1 import admin_service_pb2 as admin_pb2
from txmsg.v1 import topology_pb2

CREATE, UPDATE, DELETE = (admin_pb2.ChangeAction.Value(f"CHANGE_ACTION_{a}") for a in ("CREATE", "UPDATE", "DELETE"))
DELIVERED = DELIVERY["DELIVERED"]


def topology(topics=(), producers=(), subscriptions=()):
    return topology_pb2.Topology(
        topics=[topology_pb2.Topic(name=t) for t in topics], producers=[topology_pb2.Producer(name=p) for p in producers],
        subscriptions=subscriptions)


def discard(name, topic, **more):
    sink = topology_pb2.Sink(discard=topology_pb2.DiscardSink())
    return topology_pb2.Subscription(name=name, topic=topic, sink=sink, **more)


def export(client):
    return client.admin.ExportTopology(admin_pb2.ExportTopologyRequest(), timeout=20)


def test_takes_effect_within_two_seconds(client):
    began = time.monotonic()
    apply_topology(client, topology(["quick"], ["quick"], [discard("quick", "quick")]))

    def accepted():
        try:
            return client.publish([message("quick")], tx=uuid7(), producer="quick")
        except Exception as error:
            assert error.code().name == "NOT_FOUND"
            return None

    wait_until(accepted, 10, "the new topic and producer are known")
    assert time.monotonic() - began < 2


def test_says_what_changed_and_is_idempotent(client):
    wanted = topology(["a-1", "a-2"], ["p-1"], [discard("s-1", "a-1")])
    first = apply_topology(client, wanted)
    assert {(c.action, c.name) for c in first.changes} == {(CREATE, n) for n in ("a-1", "a-2", "p-1", "s-1")}
    again = apply_topology(client, wanted)
    assert not again.changes and again.epoch == first.epoch
    wanted.subscriptions[0].retry.max_attempts = 7
    changed = apply_topology(client, wanted)
    assert [(c.action, c.name, list(c.fields)) for c in changed.changes] == [(UPDATE, "s-1", ["retry.max_attempts"])]
    assert changed.epoch > first.epoch


def test_validate_only_changes_nothing(client):
    before = export(client)
    answer = apply_topology(client, topology(["never-made"]), validate_only=True)
    assert [(c.action, c.name) for c in answer.changes] == [(CREATE, "never-made")]
    assert export(client) == before


def test_export_can_be_applied_again(client):
    whole = export(client)
    answer = apply_topology(client, whole.topology, prune=True)
    assert not answer.changes and answer.epoch == whole.epoch


def test_secrets_are_write_only(world, client):
    sink = world.sink()
    secret = "whsec_" + "QUJD" * 8
    world.apply(topics=["secret"], producers=[{"name": "secretive", "check": {
        "endpoints": ["http://127.0.0.1:1/"], "secret": secret}}], subscriptions=[
            subscription("secret-http", "secret", {"http": {"url": sink.url("/"), "secret": secret,
                                                             "headers": {"X-Token": "t0k3n"}}}),
            subscription("secret-amqp", "secret", {"rabbitmq": {"url": "amqp://me:pa55w0rd@127.0.0.1:1/"}})])
    whole = export(client)
    shown = str(whole) + world.ctl("export") + str(world.txmsgd.log.read_text())
    for word in (secret, "QUJDQUJD", "t0k3n", "pa55w0rd"):
        assert word not in shown
    answer = apply_topology(client, whole.topology)
    assert not answer.changes
    tx = client.publish([message("secret")], tx=uuid7(), producer="secretive").transaction_id
    request = sink.wait_for(tx)[0]
    assert request.headers["x-token"] == "t0k3n" and "webhook-signature" in request.headers


BAD = {
    "topic name": (topology(["No"]), "topics[0].name"),
    "producer name": (topology(producers=["a b"]), "producers[0].name"),
    "no topic": (topology(subscriptions=[discard("s", "")]), "subscriptions[0].topic"),
    "unknown topic": (topology(subscriptions=[discard("s", "nowhere")]), "subscriptions[0].topic"),
    "no sink": (topology(["t"], subscriptions=[topology_pb2.Subscription(name="s", topic="t")]), "subscriptions[0].sink"),
    "sink without a URL": (topology(["t"], subscriptions=[topology_pb2.Subscription(
        name="s", topic="t", sink=topology_pb2.Sink(http=topology_pb2.HttpSink()))]), "subscriptions[0].sink"),
    "file URL": (topology(["t"], subscriptions=[topology_pb2.Subscription(
        name="s", topic="t", sink=topology_pb2.Sink(http=topology_pb2.HttpSink(url="file:///etc/passwd")))]),
        "subscriptions[0].sink"),
    "attempts": (topology(["t"], subscriptions=[discard("s", "t", retry=topology_pb2.RetryPolicy(max_attempts=5000))]),
                 "subscriptions[0].retry"),
    "concurrency": (topology(["t"], subscriptions=[discard("s", "t", concurrency=-1)]), "subscriptions[0].concurrency"),
    "twice": (topology(["t", "t"]), "topics[1]"),
    "secret": (topology_pb2.Topology(producers=[topology_pb2.Producer(name="p", check=topology_pb2.CheckPolicy(
        endpoints=["http://127.0.0.1/"], secret="not a secret"))]), "producers[0].check"),
    # what a later version will take is refused by name, not ignored
    "ordering": (topology(["t"], subscriptions=[discard("s", "t", ordering=topology_pb2.ORDERING_KEY)]), "subscriptions[0].ordering"),
    "filter": (topology(["t"], subscriptions=[discard("s", "t", filter=topology_pb2.MessageFilter(
        headers={f"h{i}": "" for i in range(17)}))]), "subscriptions[0].filter.headers"),
    "kafka": (topology(["t"], subscriptions=[topology_pb2.Subscription(name="s", topic="t", sink=topology_pb2.Sink(
        kafka=topology_pb2.KafkaSink(bootstrap_servers=["127.0.0.1:9092"])))]), "subscriptions[0].sink"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_topology_is_refused_whole(client, what):
    before = export(client)
    wrong, field = BAD[what]
    wrong = topology_pb2.Topology.FromString(wrong.SerializeToString())
    wrong.topics.add(name="came-along")
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        apply_topology(client, wrong)
    assert any(name.startswith(field) for name in caught.error.fields), caught.error.fields
    assert "not a secret" not in str(caught.error)
    assert export(client) == before


def test_topic_of_a_subscription_is_fixed(client):
    apply_topology(client, topology(["f-1", "f-2"], [], [discard("fixed", "f-1")]))
    with refused("FAILED_PRECONDITION", "IMMUTABLE_FIELD", name="fixed", field="topic"):
        apply_topology(client, topology([], [], [discard("fixed", "f-2")]))


def test_prune(world, client):
    """What is not in the file goes; a topic that is still read stays until its reader goes too."""
    whole = export(client).topology
    apply_topology(client, topology(["going"], ["leaving"], [discard("going-sub", "going")]))
    answer = apply_topology(client, whole, prune=True)
    assert {(c.action, c.name) for c in answer.changes} == {(DELETE, n) for n in ("going", "leaving", "going-sub")}
    world.wait_applied()
    with refused("NOT_FOUND", "TOPIC_NOT_FOUND"):
        client.publish([message("going")], tx=uuid7(), producer="quick")


def test_dry_run_and_prune_by_command_line(world, client):
    before = export(client)
    names = {"topics": [{"name": t.name} for t in before.topology.topics]}
    planned = world.ctl.apply({**names, "topics": [*names["topics"], {"name": "dry"}]}, "--dry-run")
    assert "dry" in planned
    assert export(client) == before


def test_new_subscription_from_now(world, client):
    """It gets what is confirmed after it was created, and nothing older; also what was prepared before."""
    world.apply(topics=["from-now"], producers=["shop"])
    old = [client.publish([message("from-now")], tx=uuid7()).transaction_id for _ in range(20)]
    open_ = uuid7()
    client.prepare([message("from-now")], tx=open_)
    sink = world.sink()
    world.apply(subscriptions=[subscription("late", "from-now", sink)])
    client.confirm(open_)
    sink.wait_for(open_)
    new = client.publish([message("from-now")], tx=uuid7()).transaction_id
    sink.wait_for(new)
    assert not any(sink.of(tx) for tx in old)


def test_new_subscription_from_the_beginning(world, client):
    world.apply(topics=["from-start"], producers=["shop"])
    old = [client.publish([message("from-start", str(i))], tx=uuid7()).transaction_id for i in range(50)]
    cancelled = uuid7()
    client.prepare([message("from-start")], tx=cancelled)
    client.cancel(cancelled)
    sink = world.sink()
    world.apply(subscriptions=[subscription("historian", "from-start", sink, start_from="START_FROM_BEGINNING")])
    for i, tx in enumerate(old):
        assert sink.wait_for(tx)[0].body == str(i).encode()
    new = client.publish([message("from-start")], tx=uuid7()).transaction_id
    sink.wait_for(new)
    assert not sink.of(cancelled)
    assert len(sink.got()) == len(old) + 1


def test_from_now_counts_lanes_that_were_put_away(world, client):
    """Lanes that everybody has finished come back for a subscription from the beginning; one from now, made before that,
    still gets nothing of them."""
    world.apply(topics=["put-away"], producers=["shop"])
    old = client.publish([message("put-away")], tx=uuid7()).transaction_id
    world.txmsgd.stop()
    world.sql("UPDATE lane SET state = 'drained'")
    world.txmsgd.start()
    now, beginning = world.sink(), world.sink()
    world.apply(subscriptions=[subscription("put-away-now", "put-away", now)])
    world.apply(subscriptions=[subscription("put-away-all", "put-away", beginning, start_from="START_FROM_BEGINNING")])
    beginning.wait_for(old)
    new = world.client.publish([message("put-away")], tx=uuid7()).transaction_id
    for sink in (now, beginning):
        sink.wait_for(new)
    world.wait_delivery(old, "put-away-all", DELIVERED)
    assert not now.of(old), "sent from a lane that was put away"


def test_from_now_survives_its_worker(world, client):
    """The worker dies before it has recorded anything for a new subscription: whoever goes on begins where it began."""
    world.apply(topics=["short-lived"], producers=["shop"])
    old = [world.client.publish([message("short-lived")], tx=uuid7()).transaction_id for _ in range(5)]
    sink = world.sink()
    world.apply(subscriptions=[subscription("short-lived", "short-lived", sink)])
    world.txmsgd.restart(kill=True)
    lanes = world.sql("SELECT DISTINCT lane FROM decision WHERE tx = ANY (%s::uuid[])", old)
    new = world.client.publish([message("short-lived")], tx=uuid7()).transaction_id
    sink.wait_for(new)
    wait_until(lambda: world.sql("SELECT 1 FROM lane_log WHERE lane = %s AND kind = 'P'", lanes[0][0]), 30,
               "the dead worker's lane has been walked")
    assert {r.headers["webhook-id"][:36] for r in sink.got()} == {new}, "from now began earlier"


def test_deleted_subscription_gets_nothing_more(world, client):
    sink, other = world.sink(), world.sink()
    topic = world.topic(one=sink, two=other)
    client.publish([message(topic)], tx=uuid7())
    sink.wait(1)
    rest = export(client).topology
    gone = [s for s in rest.subscriptions if s.name == f"{topic}-one"]
    rest.subscriptions.remove(gone[0])
    apply_topology(client, rest, prune=True)
    world.wait_applied()
    tx = client.publish([message(topic)], tx=uuid7()).transaction_id
    other.wait_for(tx)
    assert not sink.of(tx)
    assert [d.subscription for d in client.get(tx).messages[0].deliveries] == [f"{topic}-two"]


def test_second_daemon_hears_of_it(world, client):
    """A change made at one replica holds at the other within two seconds as well."""
    second = world.daemon("second").start()
    other = Client(second.grpc)
    try:
        world.apply(topics=["heard"], producers=["shop"])

        def known():
            try:
                return other.publish([message("heard")], tx=uuid7())
            except Exception as error:
                assert error.code().name == "NOT_FOUND"
                return None

        wait_until(known, 2, "the second daemon knows the topic")
    finally:
        other.close()
        second.stop()


def test_changes_under_load(world, client):
    """Two replicas take messages without a break while the subscription gets other URLs, is paused and resumed: each message arrives, and nothing that was
    published two seconds after a change is sent the old way, by either replica."""
    second = world.daemon("under-load").start()
    sink, topic, stopping = world.sink(), world.unique("load"), threading.Event()
    published = {}  # id: when it was answered

    def change(path):
        world.ctl.apply({"topics": [{"name": topic}], "producers": [{"name": "shop"}],
                         "subscriptions": [subscription(topic, topic, {"http": {"url": sink.url(path)}}, retry={"initial": "100ms"})]})
        return time.monotonic()

    def publish(target):
        with contextlib.closing(Client(target)) as mine:
            while not stopping.wait(0.005):
                tx = mine.publish([message(topic)], tx=uuid7()).transaction_id
                published[tx] = time.monotonic()

    def arrived(path, after):
        """Messages of both replicas that were published two seconds after the change."""
        seen = {r.headers["ce-id"].split(".")[0] for r in sink.got() if r.path == path}
        return len([tx for tx in list(published) if published[tx] > after + 2 and tx in seen]) > 20

    changes = [change("/0")]
    world.wait_applied()
    threads = [threading.Thread(target=publish, args=(target,)) for target in (world.txmsgd.grpc, second.grpc)]
    for thread in threads:
        thread.start()
    try:
        for i in range(1, 4):
            wait_until(lambda i=i: arrived(f"/{i - 1}", changes[i - 1]), 60, f"change {i - 1} holds")
            changes.append(change(f"/{i}"))
        wait_until(lambda: arrived("/3", changes[3]), 60, "the last change holds")
        world.ctl("pause", topic)
        held = len(sink.got())
        waiting = len(published)
        wait_until(lambda: len(published) > waiting + 50, 60, "messages are taken in while it is paused")
        assert len(sink.got()) <= held + 20, "what was under way when it was paused may end"
        world.ctl("resume", topic)
    finally:
        stopping.set()
        for thread in threads:
            thread.join(60)
    for tx in published:
        sink.wait_for(tx, timeout=60)
    for request in sink.got():
        i, tx = int(request.path[1:]), request.headers["ce-id"].split(".")[0]
        assert i == 3 or published[tx] < changes[i + 1] + 2, f"sent to {request.path} {published[tx] - changes[i + 1]:.1f} s after it had changed"
    wait_until(lambda: (lambda s: (int(s.get("delivered", 0)), int(s.get("in_flight", 0)), int(s.get("dead", 0))) == (len(published), 0, 0))(
        world.ctl.json("stats", "--subscription", topic)["subscriptions"][0]), 30, "the counters say so, too")
    second.stop()
