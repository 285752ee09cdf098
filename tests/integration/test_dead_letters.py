"""Dead letters: kept with their message, shown, redriven by name or in bulk."""

import socket

import pytest
from harness.client import DELIVERY, admin_pb2, message, refused
from harness.ids import uuid7
from harness.peers import GARBAGE, HANG, Reply
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


def history(client, letter):
    request = admin_pb2.GetDeadLetterRequest(name=letter)
    return client.admin.GetDeadLetter(request, timeout=20).dead_letter.history


def test_history_is_whole(world, client):
    """Every attempt with its time, class, status, latency, words and worker; kept with the letter, not with the message."""
    sink, topic, tx = world.sink(), world.unique("t"), uuid7()
    answers = [Reply(503, b"busy \xe5\xba\x93\n\x1b[31m"), HANG, Reply(410, b"never" + b"\xe5\xba\x93" * 400)]
    sink.on(f"{tx}-0", *answers)
    world.apply(topics=[topic], producers=["shop"], subscriptions=[
        subscription(topic, topic, {"http": {"url": sink.url("/hook"), "timeout": "400ms"}})])
    client.publish([message(topic)], tx=tx)
    world.wait_delivery(tx, topic, DEAD)
    world.sql("DELETE FROM attempt WHERE tx = %s", tx)
    first, second, third = history(client, f"{topic}/{tx}.0")
    assert [(a.attempt, a.error_class, a.status) for a in (first, second, third)] == [
        (1, "status_5xx", 503), (2, "timeout", 0), (3, "permanent", 410)]
    assert (first.response, second.response) == ("busy 库  [31m", "")
    assert third.response == "never" + "库" * ((512 - 5) // 3)
    assert "503" in first.error and second.error and second.latency_ms >= 350
    assert [a.end_time.ToNanoseconds() for a in (first, second, third)] == sorted(a.end_time.ToNanoseconds() for a in (first, second, third))
    assert all(world.sql("SELECT 1 FROM lane WHERE run::text = %s", a.worker) for a in (first, second, third))
    letter, = letters(client, subscription=topic)
    assert (letter.error_class, len(letter.history)) == ("permanent", 0), "lists are short"
    shown = world.ctl("dead", "show", letter.name)
    assert "status_5xx" in shown and "timeout" in shown and "busy 库" in shown


def test_history_goes_on_after_a_redrive(world, client, place, dead):
    topic, sink = place
    client.admin.RedriveDeadLetters(admin_pb2.RedriveDeadLettersRequest(names=[f"{topic}/{dead}.0"], force=True), timeout=20)
    sink.wait_for(dead, count=2)
    wait_until(lambda: letters(client, subscription=topic), 20, "it is a dead letter again")
    assert [(a.attempt, a.error_class) for a in history(client, f"{topic}/{dead}.0")] == [(1, "permanent")] * 2


def test_success_is_recorded_after_failures_only(world, client):
    """What succeeds at once leaves no row; what succeeds later, also after a redrive, ends its story."""
    sink, topic = world.sink(), world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink)])
    at_once, later, redriven = uuid7(), uuid7(), uuid7()
    answers = {later: [Reply(500), Reply(200, b"at last")], redriven: [Reply(410), Reply(204)]}
    for tx, replies in answers.items():
        sink.on(f"{tx}-0", *replies)
    for tx in (at_once, later, redriven):
        client.publish([message(topic)], tx=tx)
    world.wait_delivery(redriven, topic, DEAD)
    client.admin.RedriveDeadLetters(admin_pb2.RedriveDeadLettersRequest(names=[f"{topic}/{redriven}.0"], force=True), timeout=20)
    for tx in (at_once, later, redriven):
        delivery = world.wait_delivery(tx, topic, DELIVERED)
    assert (delivery.attempts, "410" in delivery.last_error) == (2, True)
    rows = {tx: world.sql("SELECT attempt, class, status, response FROM attempt WHERE tx = %s ORDER BY at", tx) for tx in (at_once, later, redriven)}
    assert rows[at_once] == []
    assert rows[later] == [(1, "status_5xx", 500, None), (2, "ok", 200, "at last")]
    assert rows[redriven] == [(1, "permanent", 410, None), (1, "ok", 204, None)]


def test_class_of_each_failure(world, client):
    """The last attempt's failure is a word that lists can be filtered by."""
    sink = world.sink()
    replies = {"timeout": HANG, "broken": GARBAGE, "status_3xx": Reply(302), "status_4xx": Reply(404),
               "status_5xx": Reply(503), "permanent": Reply(410), "not_acknowledged": Reply(200, b"no")}
    topic, once = world.unique("t"), {"initial": "10ms", "max_attempts": 1}
    subs = []
    sink.reply = lambda request: replies[request.path[1:]]
    for name in replies:
        subs.append(subscription(f"{topic}-{name}", topic, {"http": {
            "url": sink.url(f"/{name}"), "timeout": "300ms", "ackMode": "HTTP_ACK_MODE_BODY_SUCCESS"}}, once))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0)) # nobody listens here
        subs.append(subscription(f"{topic}-unreachable", topic, {"http": {
            "url": f"http://127.0.0.1:{free.getsockname()[1]}/", "timeout": "300ms"}}, once))
        world.apply(topics=[topic], producers=["shop"], subscriptions=subs)
        client.publish([message(topic)])
        wait_until(lambda: len(letters(client, topic=topic)) == len(subs), 30, "all have given up")
    for letter in letters(client, topic=topic):
        assert letter.subscription == f"{topic}-{letter.error_class}"
        assert [x.name for x in letters(client, topic=topic, error_class=letter.error_class)] == [letter.name]
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        letters(client, error_class="bad_luck")
