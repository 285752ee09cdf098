"""PostgreSQL comes back without commits that it had acknowledged, as after a failover to a standby that lagged: a copy of its files
from before is put in place under a running daemon."""

import shutil
import subprocess

import pytest
from harness.client import CONFIRMED, DELIVERY, PREPARED, message, publish_request, refused
from harness.ids import uuid7
from harness.world import POSTGRES, metric, subscription
from servers.postgres import Postgres
from servers.process import wait_until

DELIVERED = DELIVERY["DELIVERED"]


@pytest.fixture(scope="module")
def world(site):
    postgres = Postgres(site.base / "postgres-lost", POSTGRES).start()
    made = site.world("lost", postgres=postgres)
    made.start()
    try:
        yield made
    finally:
        made.close()
        postgres.close()


def copy_of(postgres):
    return postgres.data.with_name("copy")


def keep_copy(postgres):
    """What a standby would have got so far. Started again, the original goes on."""
    postgres.stop()
    subprocess.run(["cp", "-a", postgres.data, copy_of(postgres)], check=True)
    postgres.start()


def promote_copy(postgres):
    postgres.crash()
    shutil.rmtree(postgres.data)
    copy_of(postgres).rename(postgres.data)
    postgres.start()


def log_of(daemon):
    return daemon.log.read_text(encoding="utf-8", errors="replace")


def ready(world):
    wait_until(lambda: world.txmsgd.get("/readyz")[0] == 200, 60, "the daemon serves again")


def test_nothing_lost_no_alarm(world):
    topic = world.topic(nowhere={"discard": {}})
    for how in ("stop", "crash"):
        tx = world.client.publish([message(topic)], tx=uuid7()).transaction_id
        getattr(world.postgres, how)()
        world.postgres.start()
        ready(world)
        assert world.client.get(tx).state == CONFIRMED
    assert metric(world.txmsgd, "txmsg_lost_commits_total") == 0
    assert "LOST ACKNOWLEDGED" not in log_of(world.txmsgd)


@pytest.mark.parametrize("lane_kept", [True, False], ids=["end of the lane", "whole lane"])
def test_alarm_and_new_lane(world, lane_kept):
    """The daemon says what is lost, seals what is left, and goes on in a new lane; what was stored before goes on."""
    sink = world.sink()
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink)])
    open_ = world.client.prepare([message(topic, "open")], tx=uuid7(), check_after=600).transaction_id
    if not lane_kept:
        world.txmsgd.stop()
    lost_before = metric(world.txmsgd, "txmsg_lost_commits_total") if lane_kept else 0
    keep_copy(world.postgres)
    world.txmsgd.start() if not lane_kept else ready(world)
    lane = world.sql("SELECT max(lane) FROM lane")[0][0]
    lost = [uuid7() for _ in range(20)]
    for tx in lost[:10]:
        world.client.publish([message(topic, tx)], tx=tx)
    world.client.batch([publish_request([message(topic, tx)], tx=tx) for tx in lost[10:]])
    prepared = world.client.prepare([message(topic)], tx=uuid7(), check_after=600).transaction_id
    for tx in lost:
        sink.wait_for(tx)
    promote_copy(world.postgres)
    wait_until(lambda: "LOST ACKNOWLEDGED" in log_of(world.txmsgd), 60, "the daemon notices")
    ready(world)
    world.wait_applied()
    log = log_of(world.txmsgd)
    assert all(f"{tx} CONFIRMED" in log for tx in lost) and f"{prepared} PREPARED" in log
    assert open_ not in log, "what is stored is not lost"
    assert metric(world.txmsgd, "txmsg_lost_commits_total") > lost_before
    assert metric(world.txmsgd, "txmsg_lost_operations_total") >= len(lost) + 1
    with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
        world.client.get(lost[0])
    assert world.client.get(open_).state == PREPARED
    assert world.client.confirm(open_).state == CONFIRMED
    world.wait_delivery(open_, topic, DELIVERED)
    again = world.client.publish([message(topic, lost[0])], tx=lost[0]).transaction_id # its producer repeats it
    world.wait_delivery(again, topic, DELIVERED)
    if lane_kept:
        assert world.sql("SELECT state FROM lane WHERE lane = %s", lane)[0][0] == "sealed", "the open one is still to be watched"
    assert not world.sql("SELECT g.lane FROM lane_log g LEFT JOIN lane USING (lane) WHERE lane.lane IS NULL"), \
        "entries of a lane that nobody knows"
