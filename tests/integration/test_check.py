"""Check-back: undecided transactions are asked about, and the answer decides."""

import base64
import threading

import pytest
import webhook
from harness import BUILD
from harness.client import ADMIN, CANCELLED, CHECK, CONFIRMED, PREPARED, RPC, STUCK, message, refused
from harness.ids import uuid7
from harness.peers import Reply, verdict
from servers.process import free_port, wait_until
from servers.txmsgd import Ctl
from txmsg.v1 import admin_service_pb2 as admin_pb2


@pytest.fixture(scope="module")
def endpoint(world):
    return world.check_endpoint(webhook.new_secret())


@pytest.fixture(scope="module")
def sink(world):
    return world.sink()


@pytest.fixture(scope="module")
def topic(world, endpoint, sink):
    world.apply(producers=[producer("shop", endpoint, max_unknowns=2), producer("patient", endpoint, first_after="10s"),
                           {"name": "mute"}])
    topic = world.unique("t")
    world.apply(topics=[topic], subscriptions=[{"name": f"{topic}-http", "topic": topic,
                                                "sink": {"http": {"url": sink.url("/")}}}])
    return topic


def producer(name, *endpoints, **policy):
    urls = [e if isinstance(e, str) else e.url("/check") for e in endpoints]
    secret = next((e.secret for e in endpoints if getattr(e, "secret", None)), None)
    return {"name": name, "check": {"endpoints": urls, "first_after": "1s", "initial": "1s", "factor": 1, "max": "1s",
                                    "timeout": "1s", **({"secret": secret} if secret else {}), **policy}}


def prepare(client, topic, **fields):
    tx = uuid7()
    client.prepare([message(topic, tx.encode())], tx=tx, **fields)
    return tx


def test_committed(world, client, endpoint, sink, topic):
    tx = uuid7()
    endpoint.decide(tx, "COMMITTED")
    client.prepare([message(topic, b"checked", key=b"k", headers={"h": "1"})], tx=tx, business_key="order-7")
    view = world.wait_state(tx, CONFIRMED)
    assert (view.origin, view.business_key) == (CHECK, "order-7")
    assert sink.wait_for(tx)[0].body == b"checked"
    asked = endpoint.got(tx)
    assert len(asked) == 1
    assert asked[0].path == "/check" and asked[0].headers["content-type"].startswith("application/json")
    question = asked[0].json()
    assert (question["transactionId"], question["producer"], question["businessKey"]) == (tx, "shop", "order-7")
    assert question["checkCount"] == 1 and question["preparedTime"].endswith("Z")
    assert [m["topic"] for m in question["messages"]] == [topic]
    assert question["messages"][0]["headers"] == {"h": "1"} and "body" not in question["messages"][0]
    assert endpoint.bad_signatures == 0


def test_rolled_back(world, client, endpoint, sink, topic):
    tx = uuid7()
    endpoint.decide(tx, "ROLLED_BACK")
    client.prepare([message(topic)], tx=tx)
    assert world.wait_state(tx, CANCELLED).origin == CHECK
    marker = client.publish([message(topic)], tx=uuid7()).transaction_id
    sink.wait_for(marker)
    assert not sink.of(tx)
    with refused("FAILED_PRECONDITION", "DECIDED_OTHERWISE", decision="ROLLED_BACK", origin="CHECK"):
        client.confirm(tx)
    assert client.cancel(tx).state == CANCELLED


def test_unknown_then_committed(world, client, endpoint, topic):
    tx = uuid7()
    endpoint.decide(tx, "UNKNOWN", "COMMITTED")
    client.prepare([message(topic)], tx=tx)
    assert world.wait_state(tx, CONFIRMED).origin == CHECK
    assert [r.json()["checkCount"] for r in endpoint.got(tx)] == [1, 2]


def test_unknowns_end_stuck(world, client, endpoint, topic):
    """Two answered UNKNOWNs are this producer's limit; then nobody is asked any more and a late Confirm simply wins."""
    tx = prepare(client, topic)
    view = world.wait_state(tx, STUCK)
    assert (view.checks.unknowns, view.checks.count) == (2, 2)
    assert len(endpoint.got(tx)) == 2
    other = prepare(client, topic)
    world.wait_state(other, STUCK)
    assert len(endpoint.got(tx)) == 2
    assert client.confirm(tx).origin == RPC
    assert client.get(tx).state == CONFIRMED
    assert client.cancel(other).state == CANCELLED


def test_decided_before_its_check_is_never_asked_about(world, client, endpoint, topic):
    early = [prepare(client, topic) for _ in range(5)]
    for i, tx in enumerate(early):
        (client.confirm if i % 2 else client.cancel)(tx)
    late = prepare(client, topic)
    endpoint.decide(late, "COMMITTED")
    world.wait_state(late, CONFIRMED)
    assert not any(endpoint.got(tx) for tx in early)


def test_first_check_waits_for_its_age(world, client, endpoint, topic):
    """`check_after` of the call beats the policy of the producer, both ways."""
    waits, soon = prepare(client, topic, check_after=60), prepare(client, topic, producer="patient", check_after=1)
    endpoint.decide(soon, "COMMITTED")
    world.wait_state(soon, CONFIRMED)
    asked = endpoint.got(soon)[0]
    view = client.get(soon)
    assert view.decision_time.ToNanoseconds() - view.prepare_time.ToNanoseconds() >= 1_000_000_000
    assert asked and not endpoint.got(waits)
    assert client.get(waits).state == PREPARED
    client.cancel(waits)


def test_producer_without_an_endpoint_stays_undecided(world, client, endpoint, topic):
    mute, other = prepare(client, topic, producer="mute", check_after=1), prepare(client, topic)
    endpoint.decide(other, "UNKNOWN", "COMMITTED")
    world.wait_state(other, CONFIRMED)
    assert client.get(mute).state == PREPARED
    assert client.confirm(mute).state == CONFIRMED


def test_include_body(world, client, endpoint, topic):
    world.apply(producers=[producer("open-book", endpoint, include_body=True)])
    tx = uuid7()
    endpoint.decide(tx, "COMMITTED")
    client.prepare([message(topic, b"text"), message(topic, b"\x00\xff")], tx=tx, producer="open-book")
    world.wait_state(tx, CONFIRMED)
    first, second = endpoint.got(tx)[0].json()["messages"]
    assert first["body"] == "text"
    assert "body" not in second and base64.b64decode(second["bodyBase64"]) == b"\x00\xff"


def test_next_endpoint_when_one_is_down(world, client, topic):
    """The first endpoint refuses connections, the second one breaks: the third is asked."""
    broken, good = world.check_endpoint(), world.check_endpoint()
    broken.reply = Reply(500)
    good.reply = verdict("COMMITTED")
    world.apply(producers=[producer("moving", f"http://127.0.0.1:{free_port()}/check", broken, good)])
    tx = prepare(client, topic, producer="moving")
    assert world.wait_state(tx, CONFIRMED).origin == CHECK
    assert good.got(tx)


def test_confirm_wins_over_a_check_under_way(world, client, endpoint, topic):
    """While the endpoint thinks, the producer confirms: one decision, and the check's answer changes nothing."""
    tx, gate = uuid7(), threading.Event()
    endpoint.on(tx, lambda request: Reply(200, verdict("ROLLED_BACK")(request).body, held=gate))
    client.prepare([message(topic)], tx=tx)
    endpoint.wait(1, tx)
    assert client.confirm(tx).origin == RPC
    gate.set()
    other = prepare(client, topic)
    endpoint.decide(other, "COMMITTED")
    world.wait_state(other, CONFIRMED)
    view = client.get(tx)
    assert (view.state, view.origin) == (CONFIRMED, RPC)


def test_one_slow_producer_delays_no_other(world, client, endpoint, topic):
    slow = world.check_endpoint()
    gate = threading.Event()
    slow.reply = lambda request: Reply(200, b"{}", held=gate)
    world.apply(producers=[producer("slow", slow, timeout="10s", concurrency=2)])
    for _ in range(40):
        prepare(client, topic, producer="slow")
    slow.wait(2)
    tx = prepare(client, topic)
    endpoint.decide(tx, "COMMITTED")
    assert world.wait_state(tx, CONFIRMED, timeout=10).origin == CHECK
    assert len(slow.got()) <= 2, "more checks under way than the producer's concurrency"
    gate.set()


def test_endpoint_that_changes_takes_effect(world, client, endpoint, topic):
    """A producer moves house: the next check goes to the new address."""
    old, new = world.check_endpoint(), world.check_endpoint()
    world.apply(producers=[producer("mover", old, max_unknowns=100)])
    tx = prepare(client, topic, producer="mover")
    old.wait(1, tx)
    world.apply(producers=[producer("mover", new, max_unknowns=100)])
    new.decide(tx, "COMMITTED")
    assert world.wait_state(tx, CONFIRMED).origin == CHECK


class TestStuck:
    """People decide what nobody could answer."""

    @pytest.fixture
    def stuck(self, world, client, topic):
        tx = prepare(client, topic)
        world.wait_state(tx, STUCK)
        return tx

    def listed(self, world):
        wait = world.ctl.json("stuck", "list", "--producer", "shop")
        return str(wait)

    def test_listed(self, world, client, stuck):
        assert stuck in self.listed(world)
        assert stuck in world.ctl("stuck", "list")
        assert stuck in world.ctl("list", "--state", "stuck")
        client.cancel(stuck)
        wait_until(lambda: stuck not in self.listed(world), 10, "a decided transaction leaves the list")

    def test_since_when(self, world, client, topic, stuck):
        """The same time everywhere, that of the check that made it so; none before, and none when it is decided."""
        view = client.get(stuck)
        since = view.checks.stuck_time
        assert since.ToNanoseconds() > 0 and since == view.checks.history[-1].end_time
        assert not view.checks.HasField("next_check_time")
        page = client.admin.ListStuck(admin_pb2.ListStuckRequest(filter={"producer": "shop"}, page_size=1000), timeout=30)
        assert [s.stuck_time for s in page.stuck if s.transaction.transaction_id == stuck] == [since]
        listed = {t.transaction_id: t.checks for t in client.list(producer="shop", page_size=1000).transactions}
        assert listed[stuck].stuck_time == since
        minute = since.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
        assert f"{minute}" in next(line for line in world.ctl("show", stuck).splitlines() if "stuck: 2 checks" in line)
        assert "STUCK SINCE" in world.ctl("stuck", "list") and f"stuck since    {minute}" in world.ctl("get", stuck)
        row = next(line for line in world.ctl("stuck", "list").splitlines() if stuck in line)
        assert minute in row
        waiting = prepare(client, topic, check_after=60)
        assert not client.get(waiting).checks.HasField("stuck_time")
        for tx in (stuck, waiting):
            client.cancel(tx)
        assert not client.get(stuck).checks.HasField("stuck_time")

    @pytest.mark.parametrize("decision, state", [("committed", CONFIRMED), ("rolled_back", CANCELLED)])
    def test_resolved(self, world, client, sink, stuck, decision, state):
        resolve = ("stuck", "resolve", stuck, "--decision", decision, "--reason", "asked the shop", "--actor", "ann")
        world.ctl(*resolve)
        view = client.get(stuck)
        assert (view.state, view.origin, view.actor, view.reason) == (state, ADMIN, "ann", "asked the shop")
        noted = ("ann", f"stuck.resolve {decision.upper()}", "asked the shop", {"state": "STUCK"}, {"state": "CONFIRMED" if state == CONFIRMED else "CANCELLED"})
        world.ctl(*resolve) # the same decision once more is no act
        assert world.sql("SELECT actor, act, reason, before, after FROM audit WHERE object = %s", stuck) == [noted]
        if state == CONFIRMED:
            sink.wait_for(stuck)
        contrary = "rolled_back" if decision == "committed" else "committed"
        done = world.ctl.run("stuck", "resolve", stuck, "--decision", contrary, "--reason", "r", "--actor", "bob")
        assert done.returncode == 1 and "DECIDED_OTHERWISE" in done.stderr
        with refused("FAILED_PRECONDITION", "DECIDED_OTHERWISE", origin="ADMIN"):
            (client.cancel if state == CONFIRMED else client.confirm)(stuck)

    def test_resolved_again_elsewhere(self, world, stuck):
        """A replica that knows nothing of the decision says the same, and writes no second act."""
        resolve = ("stuck", "resolve", stuck, "--decision", "committed", "--reason", "r", "--actor", "ann")
        world.ctl(*resolve)
        second = world.daemon("second").start()
        Ctl(BUILD, server=second.grpc, dsn=world.dsn)(*resolve)
        assert world.sql("SELECT count(*) FROM audit WHERE object = %s", stuck) == [(1,)]
        assert second.stop() == 0

    def test_rechecked_by_id(self, world, client, endpoint, topic, stuck):
        """It is asked about again as if nothing had been answered; what is not STUCK is passed over; the act is in the
        audit log."""
        other = prepare(client, topic, check_after=60)
        endpoint.decide(stuck, "UNKNOWN", "COMMITTED")
        world.ctl("stuck", "recheck", stuck, other, uuid7(), "--reason", "the shop is well again", "--actor", "ann")
        assert world.wait_state(stuck, CONFIRMED).origin == CHECK
        assert world.sql("SELECT actor, reason, before, after FROM audit WHERE act = 'stuck.recheck' AND object = %s", stuck) == [
            ("ann", "the shop is well again", {"state": "STUCK"}, {"state": "PREPARED"})]
        assert not world.sql("SELECT FROM audit WHERE object = %s", other)
        assert client.get(other).state == PREPARED and not endpoint.got(other)
        client.cancel(other)

    def test_rechecked_by_filter(self, world, client, endpoint, topic):
        """Without force only a count and a sample; with it all of the producer, and of nobody else."""
        world.apply(producers=[producer("twin", endpoint, max_unknowns=1)])
        mine = [prepare(client, topic, producer="twin") for _ in range(12)]
        beside = prepare(client, topic)
        for tx in [*mine, beside]:
            world.wait_state(tx, STUCK)
        world.sql("DELETE FROM audit WHERE act = 'stuck.recheck'")
        answer = world.ctl.json("stuck", "recheck", "--producer", "twin")
        assert int(answer["count"]) == 12 and set(answer["sample"]) < set(mine) and len(answer["sample"]) == 10
        assert all(client.get(tx).state == STUCK for tx in mine)
        for tx in mine:
            endpoint.decide(tx, "ROLLED_BACK")
        client.confirm(mine[0])
        world.ctl("stuck", "recheck", "--producer", "twin", "--force", "--actor", "bob")
        for tx in mine[1:]:
            assert world.wait_state(tx, CANCELLED).origin == CHECK
        assert client.get(mine[0]).state == CONFIRMED and client.get(beside).state == STUCK
        assert world.sql("SELECT actor, object, after->>'count' FROM audit WHERE act = 'stuck.recheck'") == [
            ("bob", "twin", "11")]
        entry, = client.admin.ListAudit(admin_pb2.ListAuditRequest(action="stuck.recheck", target="twin"), timeout=30).entries
        assert entry.count == 11
        client.cancel(beside)

    def test_recheck_starts_from_nothing(self, world, client, endpoint, topic, stuck):
        """Two more UNKNOWNs are needed until it is STUCK again."""
        world.ctl("stuck", "recheck", stuck)
        wait_until(lambda: len(endpoint.got(stuck)) == 4, 20, "it was asked about twice more")
        assert world.wait_state(stuck, STUCK).checks.unknowns == 2
        client.cancel(stuck)

    @pytest.mark.parametrize("words", [(), ("--all", "--producer", "shop"), (uuid7(), "--all")])
    def test_recheck_of_what(self, world, words):
        assert world.ctl.run("stuck", "recheck", *words).returncode == 2

    def test_recheck_refuses(self, world, client):
        for fields, field in (({}, "filter"), ({"transaction_ids": ["x"]}, "transaction_ids[0]"),
                              ({"transaction_ids": [uuid7()] * 1001}, "transaction_ids"),
                              ({"transaction_ids": [uuid7()], "reason": "x" * 1025}, "reason")):
            with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
                client.admin.RecheckStuck(admin_pb2.RecheckStuckRequest(**fields), timeout=30)
            assert field in caught.error.fields

    def test_only_stuck_ones(self, world, client, topic):
        tx = prepare(client, topic, check_after=60)
        done = world.ctl.run("stuck", "resolve", tx, "--decision", "committed", "--reason", "r", "--actor", "ann")
        assert done.returncode == 1 and "NOT_STUCK" in done.stderr
        assert client.get(tx).state == PREPARED
        done = world.ctl.run("stuck", "resolve", uuid7(), "--decision", "committed", "--reason", "r", "--actor", "ann")
        assert done.returncode == 1 and "TRANSACTION_NOT_FOUND" in done.stderr
        client.cancel(tx)
