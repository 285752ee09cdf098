"""Dead letters: kept with their message, shown, redriven by name or in bulk."""

import pytest
from harness.client import DELIVERY, admin_pb2, message, refused
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import subscription
from servers.process import wait_until

DEAD, DELIVERED = DELIVERY["DEAD"], DELIVERY["DELIVERED"]
HEADERS = {"colour": "blue"}


@pytest.fixture
def place(world):
    """A topic whose one subscription refuses everything for good."""
    sink = world.sink(reply=Reply(410))
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink)])
    return topic, sink


@pytest.fixture
def dead(world, client, place):
    topic, _ = place
    tx = uuid7()
    client.publish([message(topic, b"\x00dead", key=b"k", content_type="text/plain", headers=HEADERS)], tx=tx,
                   business_key="order-1")
    world.wait_delivery(tx, topic, DEAD)
    return tx


def letters(client, **filters):
    request = admin_pb2.ListDeadLettersRequest(filter=admin_pb2.DeadLetterFilter(**filters), page_size=1000)
    return client.admin.ListDeadLetters(request, timeout=20).dead_letters


def test_kept_with_its_message(client, place, dead):
    topic, _ = place
    letter, = letters(client, subscription=topic)
    assert letter.name == f"{topic}/{dead}.0"
    assert (letter.subscription, letter.transaction_id, letter.n, letter.producer) == (topic, dead, 0, "shop")
    assert (letter.attempts, letter.body_size, letter.message.body) == (1, 5, b"")
    assert "410" in letter.last_error and letter.HasField("dead_time")
    assert dict(letter.message.headers) == HEADERS and letter.message.key == b"k"
    full = client.admin.GetDeadLetter(admin_pb2.GetDeadLetterRequest(name=letter.name, include_body=True), timeout=20)
    assert full.dead_letter.message.body == b"\x00dead"
    assert letters(client, topic=topic)[0].name == letter.name
    assert not letters(client, topic=topic, producer="bank")


def test_unknown_names(client):
    for name in (f"nobody/{uuid7()}.0", f"t-1/{uuid7()}.0"):
        with refused("NOT_FOUND", "DEAD_LETTER_NOT_FOUND", name=name):
            client.admin.GetDeadLetter(admin_pb2.GetDeadLetterRequest(name=name), timeout=20)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        client.admin.GetDeadLetter(admin_pb2.GetDeadLetterRequest(name="words"), timeout=20)


def test_redrive_by_name(world, client, place, dead):
    topic, sink = place
    name = f"{topic}/{dead}.0"
    request = dict(names=[name], reason="fixed", actor="ann")
    counted = client.admin.RedriveDeadLetters(admin_pb2.RedriveDeadLettersRequest(**request), timeout=20)
    assert (counted.count, [s.name for s in counted.sample]) == (1, [name])
    assert letters(client, subscription=topic), "without force nothing changes"
    sink.reply = Reply(200)
    done = client.admin.RedriveDeadLetters(admin_pb2.RedriveDeadLettersRequest(force=True, **request), timeout=20)
    assert done.count == 1
    again = sink.wait_for(dead, count=2)[-1]
    assert (again.body, again.headers["colour"], again.headers["webhook-id"]) == (b"\x00dead", "blue", f"{dead}-0")
    world.wait_delivery(dead, topic, DELIVERED)
    assert not letters(client, subscription=topic)
    gone = client.admin.RedriveDeadLetters(admin_pb2.RedriveDeadLettersRequest(force=True, **request), timeout=20)
    assert gone.count == 0


def test_redrive_that_fails_again_is_dead_again(world, client, place, dead):
    topic, sink = place
    client.admin.RedriveDeadLetters(admin_pb2.RedriveDeadLettersRequest(names=[f"{topic}/{dead}.0"], force=True), timeout=20)
    sink.wait_for(dead, count=2)
    wait_until(lambda: letters(client, subscription=topic), 20, "it is a dead letter again")


def test_redrive_needs_a_choice(client):
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        client.admin.RedriveDeadLetters(admin_pb2.RedriveDeadLettersRequest(force=True), timeout=20)


def test_by_command_line(world, client, place):
    topic, sink = place
    ids = [uuid7() for _ in range(25)]
    for tx in ids:
        client.publish([message(topic, tx.encode())], tx=tx)
    wait_until(lambda: len(letters(client, subscription=topic)) == len(ids), 20, "all are dead")
    table = world.ctl("dead", "list", "--subscription", topic)
    assert all(f"{topic}/{tx}.0" in table for tx in ids)
    assert ids[0] in world.ctl("dead", "show", f"{topic}/{ids[0]}.0")
    sink.reply = Reply(200)
    world.ctl("dead", "redrive", "--subscription", topic)
    assert len(letters(client, subscription=topic)) == len(ids), "without --force it only counts"
    world.ctl("dead", "redrive", f"{topic}/{ids[0]}.0", "--reason", "one", "--force")
    sink.wait_for(ids[0], count=2)
    world.ctl("dead", "redrive", "--subscription", topic, "--force", "--reason", "the rest")
    for tx in ids:
        sink.wait_for(tx, count=2)
    wait_until(lambda: not letters(client, subscription=topic), 20, "none is left")
    assert all(len(sink.of(tx)) == 2 for tx in ids)


def test_pages(client, place):
    topic, _ = place
    ids = [uuid7() for _ in range(25)]
    for tx in ids:
        client.publish([message(topic)], tx=tx)
    wait_until(lambda: len(letters(client, subscription=topic)) == len(ids), 20, "all are dead")
    found, token = [], ""
    while True:
        page = client.admin.ListDeadLetters(admin_pb2.ListDeadLettersRequest(
            page_size=7, page_token=token, filter=admin_pb2.DeadLetterFilter(subscription=topic)), timeout=20)
        found += page.dead_letters
        token = page.next_page_token
        if not token:
            break
    assert sorted(x.transaction_id for x in found) == sorted(ids)
    times = [x.dead_time.ToNanoseconds() for x in found]
    assert times == sorted(times, reverse=True)
