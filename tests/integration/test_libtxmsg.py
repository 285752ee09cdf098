"""libtxmsg against the real service: what each call answers, and that the store agrees."""

import pytest
from harness.client import CANCELLED, CONFIRMED, PREPARED
from harness.drive import Drive
from harness.ids import uuid7

pytestmark = pytest.mark.parametrize("unary", [0, 1], ids=["stream", "unary"])


@pytest.fixture
def drive(world, unary):
    with Drive(world.txmsgd.grpc, unary=unary) as made:
        yield made


def test_prepare_and_confirm(world, drive):
    topic = world.topic(sink={"discard": {}})
    prepared = drive("prepare", "-", topic, "tea", 20000)
    assert (prepared["status"], prepared["state"], prepared["attempts"]) == ("OK", "1", "1")
    tx = prepared["id"]
    view = world.client.get(tx, bodies=True)
    assert view.state == PREPARED and view.producer == "shop"
    message = view.messages[0].message
    assert (message.topic, message.key, message.body, message.content_type, dict(message.headers)) == \
        (topic, b"key", b"tea", "text/plain", {"colour": "green"})
    confirmed = drive("confirm", tx, 20000)
    assert (confirmed["status"], confirmed["state"], confirmed["origin"], confirmed["decided"]) == ("OK", "2", "1", "1")
    again = drive("confirm", tx, 20000)
    assert (again["status"], again["state"], again["id"]) == ("OK", "2", tx)
    world.wait_delivery(tx, f"{topic}-sink", 3)


def test_cancel_and_publish(world, drive):
    topic = world.topic(sink={"discard": {}})
    tx = drive("prepare", "-", topic, "tea", 20000)["id"]
    assert drive("cancel", tx, 20000)["state"] == "3"
    assert world.client.get(tx).state == CANCELLED
    published = drive("publish", "-", topic, "tea", 20000)
    assert (published["status"], published["state"]) == ("OK", "2")
    assert world.client.get(published["id"]).state == CONFIRMED


def test_a_repeat_under_the_same_id_is_the_same(world, drive):
    topic = world.topic(sink={"discard": {}})
    tx = uuid7()
    assert drive("prepare", tx, topic, "tea", 20000)["status"] == "OK"
    assert drive("prepare", tx, topic, "tea", 20000)["status"] == "OK"
    refused = drive("prepare", tx, topic, "coffee", 20000)
    assert (refused["status"], refused["code"], refused["reason"]) == ("REFUSED", "ALREADY_EXISTS", "CONTENT_DIFFERS")
    assert refused["text"]


def test_refusals_say_why(world, drive):
    topic = world.topic(sink={"discard": {}})
    refused = drive("prepare", "-", "no-such-topic", "tea", 20000)
    assert (refused["status"], refused["code"], refused["reason"]) == ("REFUSED", "NOT_FOUND", "TOPIC_NOT_FOUND")
    tx = drive("prepare", "-", topic, "tea", 20000)["id"]
    assert drive("cancel", tx, 20000)["status"] == "OK"
    late = drive("confirm", tx, 20000)
    assert (late["status"], late["reason"], late["state"], late["origin"]) == ("REFUSED", "DECIDED_OTHERWISE", "3", "1")
    assert drive("confirm", uuid7(), 20000)["reason"] == "TRANSACTION_NOT_FOUND"


def test_one_operation_that_is_too_large_harms_no_other(world, drive):
    """It would end the stream for all that are on it."""
    topic = world.topic(sink={"discard": {}})
    refused = drive("prepare", "-", topic, "x" * 1000000, 20000)
    assert refused["status"] == "OK"
    with Drive(world.txmsgd.grpc) as other:
        assert other("threads", 4, 50, topic)["OK"] == "200"


@pytest.mark.parametrize("decision,status,state", [("committed", "OK", CONFIRMED), ("rolled_back", "OK", CANCELLED),
                                                   ("undecided", "UNKNOWN", PREPARED)])
def test_send_in_transaction(world, drive, decision, status, state):
    topic = world.topic(sink={"discard": {}})
    drive.tell("transaction", "-", topic, "tea", decision, 20000)
    executing, ended = drive.hear(), drive.hear()
    assert executing["status"] == "executing"
    assert (ended["status"], ended["id"], ended["executed"]) == (status, executing["id"], "1")
    assert world.client.get(ended["id"]).state == state


def test_an_executor_that_jumps_out_leaves_it_undecided(world, drive):
    topic = world.topic(sink={"discard": {}})
    drive.tell("transaction", "-", topic, "tea", "jump", 20000)
    tx = drive.hear()["id"]
    assert drive.hear()["status"] == "jumped"
    assert drive("publish", "-", topic, "tea", 20000)["status"] == "OK" # the client is as good as before
    assert world.client.get(tx).state == PREPARED


def test_nothing_is_executed_for_what_is_cancelled_already(world, drive):
    """A check that was answered, or a Cancel, came before the Prepare's repeat."""
    topic = world.topic(sink={"discard": {}})
    tx = uuid7()
    assert drive("cancel", tx, 20000)["status"] == "OK"
    ended = drive("transaction", tx, topic, "tea", "committed", 20000)
    assert (ended["status"], ended["executed"], ended["reason"]) == ("REFUSED", "0", "DECIDED_OTHERWISE")


def test_nothing_is_executed_when_prepare_is_refused(world, drive):
    ended = drive("transaction", "-", "no-such-topic", "tea", "committed", 20000)
    assert (ended["status"], ended["executed"], ended["reason"]) == ("REFUSED", "0", "TOPIC_NOT_FOUND")


def test_many_threads(world, drive):
    topic = world.topic(sink={"discard": {}})
    before = world.sql("SELECT count(*) FROM decision")[0][0]
    assert drive("threads", 8, 100, topic)["OK"] == "800"
    assert world.sql("SELECT count(*) FROM decision")[0][0] == before + 800


@pytest.mark.parametrize("dispatch", [0, 1], ids=["callbacks", "poll"])
def test_asynchronous(world, unary, dispatch):
    """A thousand chains of prepare and confirm, by callbacks on the library's thread and out of a poll loop. In a callback what
    waits is refused."""
    topic = world.topic(sink={"discard": {}})
    with Drive(world.txmsgd.grpc, unary=unary, dispatch=dispatch) as drive:
        assert drive("async", 1000, topic) == {"OK": "1000", "wrong": "0", "text": ""}
        assert drive("flush", 20000)["status"] == "OK"


@pytest.mark.parametrize("dispatch", [0, 1], ids=["callbacks", "poll"])
def test_more_than_may_be_in_flight_is_refused(world, unary, dispatch):
    topic = world.topic(sink={"discard": {}})
    with Drive(world.txmsgd.grpc, unary=unary, dispatch=dispatch, in_flight=16) as drive:
        counts = drive("flood", 5000, topic)
        assert int(counts["OK"]) >= 16 and int(counts["OK"]) + int(counts["ERROR_BUSY"]) == 5000
        assert int(counts["ERROR_BUSY"]) > 0


def test_waiting_calls_wait_for_room(world, unary):
    topic = world.topic(sink={"discard": {}})
    with Drive(world.txmsgd.grpc, unary=unary, in_flight=2) as drive:
        assert drive("threads", 16, 20, topic)["OK"] == "320"


def test_misuse_is_an_answer(world, drive):
    answer = drive("misuse", world.topic(sink={"discard": {}}))
    assert answer["invalid"] == answer["of"] and answer["id"] == ""


def test_a_freed_client_answers(world, drive):
    assert drive("free")["status"] == "OK"
    assert drive("free")["status"] == "ERROR_CLOSED"
    assert drive("confirm", uuid7(), 1000)["status"] == "ERROR_CLOSED"
    closed = drive("batch", "t", f"confirm/{uuid7()}")
    assert closed["status"] == "ERROR_CLOSED" and closed["0"].startswith("ERROR_CLOSED/")
    assert drive("get", uuid7(), 1000)["status"] == "ERROR_CLOSED"
    assert drive("flush", 1000)["status"] == "ERROR_CLOSED"


def test_a_child_is_refused_and_the_parent_goes_on(world, drive):
    topic = world.topic(sink={"discard": {}})
    assert drive("publish", "-", topic, "tea", 20000)["status"] == "OK"
    child = drive("fork")
    assert {child[f] for f in ("confirm", "batch", "get", "flush", "in_flight")} == {"ERROR_FORKED"} and child["free"] == "OK"
    assert drive("publish", "-", topic, "tea", 20000)["status"] == "OK"
