"""libtxmsg's check listener: what was prepared and not decided is settled by the application's answer, over streams that the
library holds open."""

import itertools

import pytest
from harness.client import CANCELLED, CHECK, CONFIRMED, PREPARED
from harness.drive import Drive
from servers.process import wait_until

serial = itertools.count(1)


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(sink={"discard": {}})


@pytest.fixture
def producer(world):
    """One of its own for each test, so that nobody else's instance answers."""
    name = f"asked-{next(serial)}"
    world.apply(producers=[{"name": name, "check": {"first_after": "1s", "initial": "1s", "include_body": True}}])
    return name


def leave_open(drive, topic):
    drive.tell("transaction", "-", topic, "tea", "undecided", 20000)
    tx = drive.hear()["id"]
    assert drive.hear()["status"] == "UNKNOWN"
    return tx


@pytest.mark.parametrize("decision,state", [("committed", CONFIRMED), ("rolled_back", CANCELLED)])
def test_a_lost_decision_is_settled_by_the_listener(world, topic, producer, decision, state):
    with Drive(world.txmsgd.grpc, producer=producer, check=decision) as drive:
        tx = leave_open(drive, topic)
        assert world.wait_state(tx, state).origin == CHECK
        seen = drive("checked")
        assert {k: seen[k] for k in ("id", "business_key", "count", "messages", "topic", "key", "body", "colour", "age",
                                     "refused", "none")} == \
            {"id": tx, "business_key": "order-1", "count": "1", "messages": "1", "topic": topic, "key": "key",
             "body": "tea", "colour": "green", "age": "1", "refused": "1", "none": "1"}


@pytest.mark.parametrize("decision,state", [("committed", CONFIRMED), ("rolled_back", CANCELLED)])
def test_an_executor_that_jumped_out_is_settled_by_the_listener(world, topic, producer, decision, state):
    """Nothing but the check decides it, whatever the local transaction had come to."""
    with Drive(world.txmsgd.grpc, producer=producer) as drive:
        drive.tell("transaction", "-", topic, "tea", "jump", 20000)
        tx = drive.hear()["id"]
        assert drive.hear()["status"] == "jumped" and world.client.get(tx).state == PREPARED
        with Drive(world.txmsgd.grpc, producer=producer, check=decision):
            assert world.wait_state(tx, state).origin == CHECK


def test_undecided_is_asked_again_and_never_guessed(world, topic, producer):
    with Drive(world.txmsgd.grpc, producer=producer, check="undecided") as drive:
        tx = leave_open(drive, topic)
        wait_until(lambda: int(drive("checked")["checked"]) >= 2, 30, "it was asked twice")
        view = world.client.get(tx)
        assert view.state == PREPARED and view.checks.unknowns >= 1
        assert drive("cancel", tx, 20000)["status"] == "OK"


def test_another_instance_answers_for_one_that_died(world, topic, producer):
    with Drive(world.txmsgd.grpc, producer=producer, check="committed") as heir:
        drive = Drive(world.txmsgd.grpc, producer=producer)
        drive.tell("transaction", "-", topic, "tea", "wait", 20000)
        tx = drive.hear()["id"]
        drive.kill()
        drive.process.stdin.close()
        drive.process.stdout.close()
        # its check_after was that of the producer
        assert world.wait_state(tx, CONFIRMED).origin == CHECK
        assert heir("checked")["id"] == tx


def test_the_stream_is_opened_again(world, topic, producer):
    """A replica that is restarted, and one address on which there is nobody, beside it."""
    second = world.daemon("asking").start()
    with Drive([second.grpc, world.txmsgd.grpc], producer=producer, check="committed", check_threads=4) as drive:
        first = leave_open(drive, topic)
        world.wait_state(first, CONFIRMED)
        second.kill()
        for _ in range(3):
            world.wait_state(leave_open(drive, topic), CONFIRMED)


def test_many_at_once(world, topic, producer):
    """More than the stream's credit are open at a time; each is answered once."""
    with Drive(world.txmsgd.grpc, producer=producer) as silent:
        assert silent("flood", 500, topic)["OK"] == "500"
    with Drive(world.txmsgd.grpc, producer=producer, check="committed", check_threads=4) as drive:
        wait_until(lambda: world.sql("SELECT count(*) FROM decision WHERE producer = %s", producer)[0][0] == 500, 60,
                   "all are decided")
        assert int(drive("checked")["checked"]) >= 500
