"""libtxmsg when the service dies, is away, overloaded or frozen: each call ends in one of the documented outcomes, and that
one is true."""

import socket

import pytest
from harness.client import CONFIRMED, PREPARED
from harness.drive import Drive
from harness.system import metric
from servers.process import wait_until


@pytest.fixture
def topic(world):
    return world.topic(sink={"discard": {}})


@pytest.fixture
def dead_address():
    """A port on which nobody listens, and nobody will."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{s.getsockname()[1]}"


@pytest.fixture
def fixed(site, request):
    """A world whose daemon comes back on the same port."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    made = site.world(request.node.name[:40], {"grpc.listen": f"127.0.0.1:{port}"})
    try:
        yield made.start()
    finally:
        made.close()


def counts(answer):
    return {k: int(v) for k, v in answer.items() if v.isdigit()}


def test_nobody_there_is_unavailable_and_says_so(dead_address):
    with Drive(dead_address) as drive:
        answer = drive("prepare", "-", "t", "tea", 700)
        assert (answer["status"], answer["attempts"]) == ("UNAVAILABLE", "0")
        assert "onnect" in answer["text"], answer
        assert drive("transaction", "-", "t", "tea", "committed", 300)["executed"] == "0"


def test_a_dead_address_beside_a_live_one(world, topic, dead_address):
    for unary in (0, 1):
        with Drive([dead_address, world.txmsgd.grpc], unary=unary) as drive:
            assert drive("threads", 4, 25, topic)["OK"] == "100"


def test_several_channels_and_a_name(world, topic):
    with Drive(f"dns:///localhost:{world.txmsgd.grpc_port}", channels=3) as drive:
        assert drive("threads", 4, 50, topic)["OK"] == "200"


def test_two_replicas_share_the_work(world, topic):
    second = world.daemon("second").start()
    with Drive([world.txmsgd.grpc, second.grpc]) as drive:
        assert drive("async", 500, topic)["OK"] == "500" # opens both streams
        assert drive("async", 500, topic)["OK"] == "500"
        for daemon in (world.txmsgd, second):
            assert metric(daemon, "txmsg_decisions_total") > 100, "it carried next to nothing"
        second.kill()
        assert drive("threads", 4, 50, topic)["OK"] == "200"


@pytest.mark.parametrize("unary", [0, 1], ids=["stream", "unary"])
def test_killed_in_the_middle_and_back_everything_is_done_once(fixed, unary):
    """kill -9 under load, then a restart within the deadline: repeats under the same id finish all of it."""
    topic = fixed.topic(sink={"discard": {}})
    with Drive(fixed.txmsgd.grpc, unary=unary, timeout=60000) as drive:
        assert drive("publish", "-", topic, "tea", 20000)["status"] == "OK"
        before = fixed.sql("SELECT count(*) FROM decision")[0][0]
        drive.tell("threads", 16, 300, topic)
        wait_until(lambda: fixed.sql("SELECT count(*) FROM decision")[0][0] > before + 300, 30, "some are done")
        fixed.txmsgd.restart(kill=True)
        assert counts(drive.hear()).get("OK") == 4800
        assert fixed.sql("SELECT count(*) FROM decision")[0][0] == before + 4800


def test_killed_for_good_the_outcomes_are_true(fixed):
    """What is sent and never answered is UNKNOWN, what finds nobody is UNAVAILABLE; and of the former each is stored or not."""
    topic = fixed.topic(sink={"discard": {}})
    with Drive(fixed.txmsgd.grpc, timeout=1500) as drive:
        assert drive("publish", "-", topic, "tea", 20000)["status"] == "OK"
        before = fixed.sql("SELECT count(*) FROM message")[0][0]
        drive.tell("flood", 4000, topic)
        wait_until(lambda: fixed.sql("SELECT count(*) FROM message")[0][0] > before + 100, 30, "some are done")
        fixed.txmsgd.kill()
        ended = counts(drive.hear())
        done, unknown = ended.get("OK", 0), ended.get("UNKNOWN", 0)
        assert sum(ended.values()) == 4000 == done + unknown + ended.get("UNAVAILABLE", 0)
        stored = fixed.sql("SELECT count(*) FROM message")[0][0] - before
        assert done <= stored <= done + unknown
        assert drive("publish", "-", topic, "tea", 300)["status"] == "UNAVAILABLE"


def test_killed_between_prepare_and_confirm_it_is_settled_by_check(fixed):
    topic = fixed.topic(sink={"discard": {}})
    with Drive(fixed.txmsgd.grpc) as drive:
        drive.tell("transaction", "-", topic, "tea", "wait", 3000)
        tx = drive.hear()["id"]
        fixed.txmsgd.kill()
        drive.tell("go on")
        ended = drive.hear()
        assert (ended["status"], ended["executed"], ended["id"]) == ("UNKNOWN", "1", tx)
        fixed.txmsgd.start()
        assert fixed.client.get(tx).state == PREPARED
        assert drive("confirm", tx, 20000)["status"] == "OK"
        assert fixed.client.get(tx).state == CONFIRMED


def test_a_frozen_service_is_unknown_and_found_out_later(fixed):
    topic = fixed.topic(sink={"discard": {}})
    with Drive(fixed.txmsgd.grpc) as drive:
        tx = drive("prepare", "-", topic, "tea", 20000)["id"]
        fixed.txmsgd.freeze()
        try:
            answer = drive("confirm", tx, 1500)
            assert drive("get", tx, 700)["status"] == "UNAVAILABLE" # it stores nothing: there is nothing to find out
        finally:
            fixed.txmsgd.thaw()
        assert (answer["status"], answer["code"]) == ("UNKNOWN", "DEADLINE_EXCEEDED")
        assert drive("confirm", tx, 20000)["status"] == "OK"


def test_a_drain_moves_the_work_to_the_other(world, topic):
    second = world.daemon("draining").start()
    with Drive([second.grpc, world.txmsgd.grpc], timeout=60000) as drive:
        assert drive("async", 100, topic)["OK"] == "100"
        before = world.sql("SELECT count(*) FROM decision")[0][0]
        drive.tell("threads", 8, 300, topic)
        wait_until(lambda: world.sql("SELECT count(*) FROM decision")[0][0] > before + 200, 30, "some are done")
        assert second.stop() == 0
        assert counts(drive.hear()).get("OK") == 2400
        assert world.sql("SELECT count(*) FROM decision")[0][0] == before + 2400


def test_overload_is_waited_out(site):
    """A service that takes a handful at a time refuses the rest; they come again after the time it asked for."""
    made = site.world("libtxmsg_overload", {"lane.queue": 16, "lane.batch": 4})
    try:
        made.start()
        topic = made.topic(sink={"discard": {}})
        with Drive(made.txmsgd.grpc, timeout=60000) as drive:
            assert counts(drive("flood", 2000, topic)).get("OK") == 2000
        with Drive(made.txmsgd.grpc, timeout=60000, unary=1) as drive:
            assert counts(drive("flood", 500, topic)).get("OK") == 500
        for unary in (0, 1): # a confirm waits for its prepare, which is repeated
            with Drive(made.txmsgd.grpc, timeout=60000, unary=unary) as drive:
                assert drive("pairs", 400, topic)["status"] == "OK"
    finally:
        made.close()
