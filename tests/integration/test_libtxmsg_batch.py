"""libtxmsg: many operations in one call, and reading what became of a transaction."""

import pytest
from harness.client import CANCELLED, CONFIRMED, PREPARED
from harness.drive import Drive
from harness.ids import uuid7
from harness.peers import HttpPeer, Reply
from servers.process import wait_until

pytestmark = pytest.mark.parametrize("unary", [0, 1], ids=["stream", "unary"])
DELIVERED, RETRYING = "3", "2"


@pytest.fixture
def drive(world, unary):
    with Drive(world.txmsgd.grpc, unary=unary, timeout=20000) as made:
        yield made


def items(answer):
    """status, id, state and reason of each."""
    return [answer[str(i)].split("/") for i in range(sum(k.isdigit() for k in answer))]


def test_each_operation_has_its_own_result(world, drive):
    """A mix of all kinds; those that are refused fail no other."""
    topic = world.topic(sink={"discard": {}})
    first, second = (drive("prepare", "-", topic, "tea", 20000)["id"] for _ in range(2))
    unknown = uuid7()
    answer = drive("batch", topic, f"confirm/{first}", f"confirm/{unknown}", "publish/-/milk", f"cancel/{second}",
                   "prepare/-/sugar")
    assert answer["status"] == "REFUSED"
    got = items(answer)
    assert [g[0] for g in got] == ["OK", "REFUSED", "OK", "OK", "OK"]
    assert [g[2] for g in got] == ["2", "0", "2", "3", "1"]
    assert got[1][3] == "TRANSACTION_NOT_FOUND"
    assert [g[1] for g in got[:2]] == [first, unknown] and got[3][1] == second
    for tx, state in ((first, CONFIRMED), (got[2][1], CONFIRMED), (second, CANCELLED), (got[4][1], PREPARED)):
        assert world.client.get(tx).state == state


def test_two_on_one_id_are_done_in_their_order(world, drive):
    topic = world.topic(sink={"discard": {}})
    answer = drive("batch", topic, "prepare/-/tea", "confirm/=0", "cancel/=0", "prepare/-/milk", "cancel/=3", "confirm/=3")
    got = items(answer)
    assert [(g[0], g[3]) for g in got] == [("OK", ""), ("OK", ""), ("REFUSED", "DECIDED_OTHERWISE")] * 2
    assert world.client.get(got[0][1]).state == CONFIRMED
    assert world.client.get(got[3][1]).state == CANCELLED


def test_a_repeated_batch_is_the_same(world, drive):
    topic = world.topic(sink={"discard": {}})
    words = [f"publish/{uuid7()}/tea" for _ in range(5)]
    before = world.sql("SELECT count(*) FROM message")[0][0]
    assert drive("batch", topic, *words)["status"] == "OK"
    assert items(drive("batch", topic, *words)) == items(drive("batch", topic, *words))
    assert world.sql("SELECT count(*) FROM message")[0][0] == before + 5


def test_a_thousand_at_once(world, drive):
    topic = world.topic(sink={"discard": {}})
    before = world.sql("SELECT count(*) FROM decision")[0][0]
    assert drive("batches", 3, 1000, topic) == {"status": "OK", "done": "3000", "other": "0", "text": ""}
    assert world.sql("SELECT count(*) FROM decision")[0][0] == before + 3000


def test_more_than_may_be_in_flight_wait_for_room(world, unary):
    topic = world.topic(sink={"discard": {}})
    with Drive(world.txmsgd.grpc, unary=unary, in_flight=3, timeout=60000) as drive:
        assert drive("batches", 2, 200, topic)["done"] == "400"


def test_get(world, drive):
    topic = world.topic(sink={"discard": {}})
    tx = drive("prepare", "-", topic, "tea", 20000)["id"]
    seen = drive("get", tx, 20000)
    assert (seen["status"], seen["id"], seen["state"], seen["decision"], seen["prepared"], seen["decided"]) == \
        ("OK", tx, "1", "0", "1", "0")
    assert (seen["producer"], seen["messages"], seen["topic"], seen["key"], seen["colour"]) == \
        ("shop", "1", topic, "key", "green")
    assert (seen["body"], seen["body_size"], seen["deliveries"]) == ("", "3", "0")
    assert drive("confirm", tx, 20000)["status"] == "OK"
    world.wait_delivery(tx, f"{topic}-sink", 3)
    seen = drive("get", tx, 20000, "bodies")
    assert (seen["state"], seen["origin"], seen["decision"], seen["decided"], seen["body"]) == ("2", "1", "1", "1", "tea")
    assert (seen["deliveries"], seen["delivery0"]) == ("1", f"{topic}-sink/{DELIVERED}/0/0")
    assert drive("get", tx, 20000, "async")["state"] == "2"


def test_get_of_a_delivery_that_fails(world, drive):
    with HttpPeer(Reply(503)) as consumer:
        topic = world.topic(sink={"http": {"url": consumer.url("/hook")}})
        tx = drive("publish", "-", topic, "tea", 20000)["id"]

        def retrying():
            seen = drive("get", tx, 20000)
            return seen if seen["delivery0"].split("/")[1] == RETRYING else None

        seen = wait_until(retrying, 30, "its first attempt has failed")
        attempts, planned = map(int, seen["delivery0"].split("/")[2:])
        assert attempts >= 1 and planned == 1 and "503" in seen["text"]


def test_get_of_what_nobody_knows(world, drive):
    refused = drive("get", uuid7(), 20000)
    assert (refused["status"], refused["reason"], refused["view"]) == ("REFUSED", "TRANSACTION_NOT_FOUND", "0")
