"""libtxmsg: bodies that are born inside the local transaction, declared with Prepare and brought by whoever decides."""

import pytest
from harness.client import CHECK, CONFIRMED, PREPARED
from harness.drive import Drive
from harness.ids import uuid7
from servers.process import wait_until

LATER = "later:"


@pytest.fixture(scope="module")
def sink(world):
    return world.sink()


@pytest.fixture(scope="module")
def topic(world, sink):
    return world.topic(http={"http": {"url": sink.url("/")}})


@pytest.fixture(params=[0, 1], ids=["stream", "unary"])
def drive(world, request):
    with Drive(world.txmsgd.grpc, unary=request.param) as made:
        yield made


@pytest.fixture
def producer(world):
    name = world.unique("p")
    world.apply(producers=[{"name": name, "check": {"first_after": "1s", "initial": "1s", "factor": 1, "max": "1s"}}])
    return name


def delivered(sink, tx):
    return sink.wait_for(tx)[0].body.decode()


def test_confirm_brings_the_body(sink, topic, drive):
    tx = drive("prepare", "-", topic, LATER, 20000)["id"]
    confirmed = drive("confirm", tx, 20000, "0=tea")
    assert (confirmed["status"], confirmed["state"]) == ("OK", "2")
    assert delivered(sink, tx) == "tea"
    assert drive("confirm", tx, 20000, "0=tea")["status"] == "OK"
    other = drive("confirm", tx, 20000, "0=coffee")
    assert (other["status"], other["reason"]) == ("REFUSED", "CONTENT_DIFFERS")


@pytest.mark.parametrize("given", [[], ["1=tea"], ["0=tea", "1=milk"]], ids=["none", "another", "too-many"])
def test_other_bodies_than_were_declared_decide_nothing(world, topic, drive, given):
    tx = drive("prepare", "-", topic, LATER, 20000)["id"]
    refused = drive("confirm", tx, 20000, *given)
    assert (refused["status"], refused["code"], refused["reason"]) == ("REFUSED", "INVALID_ARGUMENT", "BODIES_MISMATCH")
    assert world.client.get(tx).state == PREPARED
    assert drive("confirm", tx, 20000, "0=tea")["status"] == "OK"


def test_a_body_that_was_not_declared_is_refused(world, topic, drive):
    tx = drive("prepare", "-", topic, "tea", 20000)["id"]
    refused = drive("confirm", tx, 20000, "0=milk")
    assert (refused["status"], refused["reason"]) == ("REFUSED", "BODIES_MISMATCH") and refused["text"]
    assert world.client.get(tx).state == PREPARED


def test_the_executor_completes_it(sink, topic, drive):
    drive.tell("transaction", "-", topic, LATER, "complete", 20000)
    tx = drive.hear()["id"]
    ended = drive.hear()
    assert (ended["status"], ended["state"], ended["executed"]) == ("OK", "2", "1")
    assert delivered(sink, tx) == tx
    # What it left in the options is that of another transaction.
    assert drive("transaction", "-", topic, LATER, "complete", 20000)["status"] == "ERROR_INVALID"
    assert drive("clear")["status"] == "OK"
    drive.tell("transaction", "-", topic, LATER, "complete", 20000)
    assert (drive.hear()["status"], drive.hear()["status"]) == ("executing", "OK")


@pytest.mark.parametrize("body,decision", [(LATER, "misplace"), (LATER, "committed"), ("tea", "complete")],
                         ids=["another", "none", "not-declared"])
def test_an_executor_that_completes_wrongly_leaves_it_undecided(world, topic, drive, body, decision):
    drive.tell("transaction", "-", topic, body, decision, 20000)
    tx = drive.hear()["id"]
    ended = drive.hear()
    assert (ended["status"], ended["reason"], ended["executed"]) == ("REFUSED", "BODIES_MISMATCH", "1")
    assert world.client.get(tx).state == PREPARED


def test_the_check_listener_completes_it(world, sink, topic, producer):
    with Drive(world.txmsgd.grpc, producer=producer, check="complete") as drive:
        tx = drive("prepare", uuid7(), topic, LATER, 20000)["id"]
        assert world.wait_state(tx, CONFIRMED).origin == CHECK
        assert delivered(sink, tx) == "body-0"
        plain = drive("prepare", uuid7(), topic, "tea", 20000)["id"]
        assert world.wait_state(plain, CONFIRMED).origin == CHECK
        assert delivered(sink, plain) == "tea"


def test_committed_without_the_body_is_no_answer(world, topic, producer):
    with Drive(world.txmsgd.grpc, producer=producer, check="committed") as drive:
        tx = drive("prepare", uuid7(), topic, LATER, 20000)["id"]
        wait_until(lambda: "bodies" in world.client.get(tx).checks.last_error, 30, "the answer was refused")
        view = world.client.get(tx)
        assert view.state == PREPARED and view.checks.unknowns == 0
        assert drive("cancel", tx, 20000)["status"] == "OK"
