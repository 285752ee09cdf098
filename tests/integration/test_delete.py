"""Deleting topics, producers and subscriptions: what is in use stays, what goes is in the audit, and what was open is counted."""

import json
import os
import pty
import select
import subprocess

import pytest
from harness import BUILD
from harness.client import message, refused
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import subscription
from servers.process import wait_until
from servers.txmsgd import clean_environment, ctl_binary
from txmsg.v1 import admin_service_pb2 as pb


def delete(client, kind, name, **more):
    request = getattr(pb, f"Delete{kind}Request")(name=name, **more)
    return getattr(client.admin, f"Delete{kind}")(request, timeout=20)


def audit(client, target, action="topology.delete"):
    entries = client.admin.ListAudit(pb.ListAuditRequest(target=target, action=action), timeout=20).entries
    return [(e.actor, json.loads(e.detail)) for e in entries]


def test_a_topic_goes_only_when_nobody_reads_it(world, client):
    world.apply(topics=["read"], producers=["shop"], subscriptions=[subscription("reader", "read", {"discard": {}})])
    with refused("FAILED_PRECONDITION", "IN_USE", name="read") as caught:
        delete(client, "Topic", "read")
    assert "reader" in str(caught.error)
    with refused("FAILED_PRECONDITION", "IN_USE"):
        delete(client, "Topic", "read", validate_only=True)
    delete(client, "Subscription", "reader")
    delete(client, "Topic", "read", actor="ann")
    assert audit(client, "topic/read") == [("ann", {"before": {}})]
    world.wait_applied()
    with refused("NOT_FOUND", "TOPIC_NOT_FOUND"):
        client.publish([message("read")], tx=uuid7(), producer="shop")


def test_a_producer_goes_only_when_nothing_is_undecided(world, client):
    topic = world.topic()
    world.apply(producers=[{"name": "leaver", "description": "leaves"}])
    tx = client.prepare([message(topic)], tx=uuid7(), producer="leaver", check_after=3600).transaction_id
    with refused("FAILED_PRECONDITION", "IN_USE", name="leaver"):
        delete(client, "Producer", "leaver")
    client.confirm(tx)
    delete(client, "Producer", "leaver", actor="ann")
    assert audit(client, "producer/leaver") == [("ann", {"before": {"description": "leaves"}})]
    with refused("NOT_FOUND", "PRODUCER_NOT_FOUND"):
        client.admin.GetProducer(pb.GetProducerRequest(name="leaver"), timeout=20)


def test_a_producer_with_a_transaction_under_checks_stays(world, client):
    """However old it is: what is undecided and past its first check has a row."""
    topic = world.topic()
    world.apply(producers=["asked"])
    tx = client.prepare([message(topic)], tx=uuid7(), producer="asked", check_after=1).transaction_id
    wait_until(lambda: world.sql("SELECT 1 FROM check_due WHERE tx = %s", tx), 30, "it is due for a check")
    world.sql("UPDATE message SET producer = 'another' WHERE tx = %s", tx) # only the row is left to tell
    with refused("FAILED_PRECONDITION", "IN_USE", name="asked"):
        delete(client, "Producer", "asked")
    world.sql("UPDATE message SET producer = 'asked' WHERE tx = %s", tx)
    client.cancel(tx)
    delete(client, "Producer", "asked")


def test_a_deleted_subscription_discards_what_was_open(world, client):
    sink = world.sink(reply=Reply(500))
    topic = world.unique("t")
    name = f"{topic}-s"
    world.apply(topics=[topic], producers=["shop"],
                subscriptions=[subscription(name, topic, sink, retry={"initial": "1h", "max": "1h"})])

    def deleted():
        return client.admin.GetStats(pb.GetStatsRequest(), timeout=20).deleted.discarded

    before = deleted()
    for _ in range(3):
        client.publish([message(topic)], tx=uuid7(), producer="shop")
    wait_until(lambda: world.sql("SELECT count(*) FROM delivery_due d JOIN subscription s ON s.id = d.sub WHERE name = %s",
                                 name)[0][0] == 3, 30, "three wait for another attempt")
    epoch = delete(client, "Subscription", name, validate_only=True).epoch
    assert client.admin.GetSubscription(pb.GetSubscriptionRequest(name=name), timeout=20).subscription.name == name
    assert delete(client, "Subscription", name, actor="ann").epoch == epoch + 1
    with refused("NOT_FOUND", "SUBSCRIPTION_NOT_FOUND", name=name):
        client.admin.GetSubscription(pb.GetSubscriptionRequest(name=name), timeout=20)
    wait_until(lambda: deleted() == before + 3, 60, "three are discarded")
    (actor, detail), = audit(client, f"subscription/{name}")
    assert actor == "ann" and detail["before"]["topic"] == topic
    world.apply(topics=[topic], subscriptions=[subscription(name, topic, {"discard": {}})]) # the name may be used again
    with refused("NOT_FOUND", "SUBSCRIPTION_NOT_FOUND"):
        delete(client, "Subscription", "never-was")


@pytest.mark.parametrize("kind", ["Topic", "Producer", "Subscription"])
def test_what_is_not_there_and_what_is_not_given(client, kind):
    with refused("NOT_FOUND", f"{kind.upper()}_NOT_FOUND", name="nothing"):
        delete(client, kind, "nothing")
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        delete(client, kind, "")
    assert "name" in caught.error.fields
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        delete(client, kind, "nothing", actor="x" * 256)
    assert "actor" in caught.error.fields


def test_by_command_line_with_yes_only(world, client):
    world.apply(topics=["cli-gone"])
    done = world.ctl.run("delete", "topic", "cli-gone")
    assert done.returncode == 2 and "--yes" in done.stderr
    assert "can be deleted" in world.ctl("delete", "topic", "cli-gone", "--dry-run")
    assert "cli-gone" in world.ctl("topics")
    assert "is deleted" in world.ctl("delete", "topic", "cli-gone", "--yes", "--actor", "bob")
    assert "cli-gone" not in world.ctl("topics")
    assert audit(client, "topic/cli-gone")[0][0] == "bob"
    done = world.ctl.run("delete", "topic", "cli-gone", "--yes")
    assert done.returncode == 1 and "NOT_FOUND TOPIC_NOT_FOUND" in done.stderr


def at_a_terminal(world, answer, *args):
    """txmsgctl with a terminal for input and errors: (exit code, what it showed there)."""
    master, terminal = pty.openpty()
    env = clean_environment({"TXMSG_SERVER": world.txmsgd.grpc})
    with subprocess.Popen([os.fspath(ctl_binary(BUILD)), *args], stdin=terminal, stderr=terminal, stdout=subprocess.DEVNULL,
                          env=env) as process:
        os.close(terminal)
        shown = b""
        while b"[y/N]" not in shown and select.select([master], [], [], 30)[0]:
            shown += os.read(master, 4096)
        os.write(master, answer)
        code = process.wait(30)
    os.close(master)
    return code, shown.decode()


def test_a_person_is_asked(world):
    world.apply(topics=["asked-for"])
    code, shown = at_a_terminal(world, b"n\n", "delete", "topic", "asked-for")
    assert code == 1 and "delete topic asked-for? [y/N]" in shown
    assert "asked-for" in world.ctl("topics")
    code, _ = at_a_terminal(world, b"y\n", "delete", "topic", "asked-for")
    assert code == 0 and "asked-for" not in world.ctl("topics")
