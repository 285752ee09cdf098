"""Prepare and Publish: what is stored, what a repeat answers, what is refused."""

import pytest
from harness.client import CONFIRMED, PREPARED, RPC, message, refused
from harness.ids import uuid7
from txmsg.v1 import transaction_pb2


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


def test_prepare_is_undecided(client, topic):
    tx = uuid7()
    status = client.prepare([message(topic)], tx=tx)
    assert (status.transaction_id, status.state) == (tx, PREPARED)
    assert status.origin == transaction_pb2.DECISION_ORIGIN_UNSPECIFIED
    assert status.HasField("prepare_time") and not status.HasField("decision_time")


def test_publish_is_confirmed_at_once(client, topic):
    status = client.publish([message(topic)], tx=uuid7())
    assert (status.state, status.origin) == (CONFIRMED, RPC)
    assert status.decision_time.ToNanoseconds() >= status.prepare_time.ToNanoseconds() > 0


def test_server_makes_an_id(client, topic):
    first, second = (client.prepare([message(topic)]).transaction_id for _ in range(2))
    assert first != second
    assert client.get(first).state == client.get(second).state == PREPARED


def test_id_in_upper_case_is_the_same_id(client, topic):
    tx = uuid7()
    assert client.prepare([message(topic)], tx=tx.upper()).transaction_id == tx
    assert client.confirm(tx).state == CONFIRMED


def full_message(topic, **other):
    return message(topic, **{"body": b"\x00\xff body", "key": b"\x00key", "content_type": "application/json",
                             "headers": {"a": "1", "b": "zwei ü"}, **other})


def test_everything_given_is_kept(client, topic):
    tx = uuid7()
    client.prepare([full_message(topic), message(topic, b"")], tx=tx, business_key="order 17 ü")
    view = client.get(tx, bodies=True)
    assert (view.producer, view.business_key, len(view.messages)) == ("shop", "order 17 ü", 2)
    assert [m.n for m in view.messages] == [0, 1]
    assert view.messages[0].message == full_message(topic)
    assert (view.messages[0].body_size, view.messages[1].body_size) == (7, 0)
    without = client.get(tx).messages[0]
    assert without.message.body == b"" and without.body_size == 7


@pytest.mark.parametrize("call", ["prepare", "publish"])
def test_repeat_agrees(client, topic, call):
    tx = uuid7()
    answers = [getattr(client, call)([full_message(topic)], tx=tx, business_key="k") for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]


def test_repeat_of_prepare_finds_the_decision(client, topic):
    tx = uuid7()
    client.prepare([message(topic)], tx=tx)
    client.confirm(tx)
    status = client.prepare([message(topic)], tx=tx)
    assert (status.state, status.origin) == (CONFIRMED, RPC)


OTHER = {
    "body": lambda t: dict(messages=[full_message(t, body=b"x")]),
    "key": lambda t: dict(messages=[full_message(t, key=b"x")]),
    "header": lambda t: dict(messages=[full_message(t, headers={"a": "1", "b": "2"})]),
    "content type": lambda t: dict(messages=[full_message(t, content_type="text/plain")]),
    "one more": lambda t: dict(messages=[full_message(t), full_message(t)]),
    "business key": lambda t: dict(business_key="other"),
    "producer": lambda t: dict(producer="other"),
}


@pytest.mark.parametrize("what", OTHER)
@pytest.mark.parametrize("call", ["prepare", "publish"])
def test_other_content_is_refused(world, client, topic, call, what):
    if what == "producer":
        world.apply(producers=["other"])
    tx = uuid7()
    same = dict(messages=[full_message(topic)], tx=tx, business_key="k")
    getattr(client, call)(**same)
    with refused("ALREADY_EXISTS", "CONTENT_DIFFERS", transaction_id=tx):
        getattr(client, call)(**{**same, **OTHER[what](topic)})
    assert getattr(client, call)(**same).transaction_id == tx


@pytest.mark.parametrize("call", ["prepare", "publish"])
def test_other_content_leaves_nothing_behind(world, client, topic, call):
    """Not even the messages for which there was room."""
    tx = uuid7()
    client.prepare([message(topic, "first")], tx=tx)
    with refused("ALREADY_EXISTS", "CONTENT_DIFFERS", transaction_id=tx):
        getattr(client, call)([message(topic, "first"), message(topic, "second"), message(topic, "third")], tx=tx)
    assert world.sql("SELECT n, convert_from(body, 'UTF8') FROM message WHERE tx = %s", tx) == [(0, "first")]


def test_headers_in_another_order_are_the_same_content(client, topic):
    tx, names = uuid7(), [f"h{i}" for i in range(20)]
    for order in (names, names[::-1]):
        client.prepare([message(topic, headers={n: n for n in order})], tx=tx)


def test_publish_of_a_prepared_id_confirms_it(client, topic):
    tx = uuid7()
    client.prepare([message(topic)], tx=tx)
    with refused("ALREADY_EXISTS", "CONTENT_DIFFERS", transaction_id=tx):
        client.publish([message(topic, b"other")], tx=tx)
    assert client.get(tx).state == PREPARED
    assert client.publish([message(topic)], tx=tx).state == CONFIRMED


@pytest.mark.parametrize("call", ["prepare", "publish"])
def test_unknown_names(client, topic, call):
    with refused("NOT_FOUND", "TOPIC_NOT_FOUND", name="no-such-topic"):
        getattr(client, call)([message(topic), message("no-such-topic")], tx=uuid7())
    with refused("NOT_FOUND", "PRODUCER_NOT_FOUND", name="no-such-producer"):
        getattr(client, call)([message(topic)], tx=uuid7(), producer="no-such-producer")


BAD_IDS = {"words": "not an id", "short": "0192f7a0-7b1e-7000-8000", "version 4": "6a2f41a3-c54c-4ce8-8c2d-0d7b8c1f2a3b",
           "nil": "00000000-0000-0000-0000-000000000000", "braces": "{0192f7a0-7b1e-7000-8000-000000000000}",
           "trailing": None}


@pytest.mark.parametrize("which", BAD_IDS)
@pytest.mark.parametrize("call", ["prepare", "publish"])
def test_ids_that_are_no_uuid7(client, topic, call, which):
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        getattr(client, call)([message(topic)], tx=BAD_IDS[which] or uuid7() + "0")
    assert "transaction_id" in caught.error.fields


@pytest.mark.parametrize("shift", [-25 * 3600, 6 * 60], ids=["a day ago", "minutes ahead"])
@pytest.mark.parametrize("call", ["prepare", "publish"])
def test_ids_outside_the_window(client, topic, call, shift):
    tx = uuid7(shift)
    with refused("INVALID_ARGUMENT", "ID_TIME_OUT_OF_WINDOW", transaction_id=tx) as caught:
        getattr(client, call)([message(topic)], tx=tx)
    assert "transaction_id" in caught.error.fields


@pytest.mark.parametrize("shift", [-23 * 3600, 4 * 60], ids=["hours ago", "minutes ahead"])
def test_ids_inside_the_window(client, topic, shift):
    tx = uuid7(shift)
    assert client.prepare([message(topic)], tx=tx).state == PREPARED
    assert client.confirm(tx).state == CONFIRMED


BAD = {
    "no messages": (lambda t: dict(messages=[]), "messages"),
    "65 messages": (lambda t: dict(messages=[message(t)] * 65), "messages"),
    "no topic": (lambda t: dict(messages=[message(t), message("")]), "messages[1].topic"),
    "topic with a slash": (lambda t: dict(messages=[message("a/b")]), "messages[0].topic"),
    "no producer": (lambda t: dict(producer=""), "producer"),
    "producer in capitals": (lambda t: dict(producer="Shop"), "producer"),
    "body over 1 MiB": (lambda t: dict(messages=[message(t, b"x" * (1 << 20) + b"y")]), "messages[0].body"),
    "over 4 MiB together": (lambda t: dict(messages=[message(t, b"x" * (1 << 20))] * 4 + [message(t, b"x")]), "messages"),
    "key of 256 bytes": (lambda t: dict(messages=[message(t, key=b"k" * 256)]), "messages[0].key"),
    "content type of 256 bytes": (lambda t: dict(messages=[message(t, content_type="c" * 256)]),
                                  "messages[0].content_type"),
    "65 headers": (lambda t: dict(messages=[message(t, headers={f"h{i}": "" for i in range(65)})]), "messages[0].headers"),
    "headers of 17 KiB": (lambda t: dict(messages=[message(t, headers={"h": "v" * 17408})]), "messages[0].headers"),
    "empty header name": (lambda t: dict(messages=[message(t, headers={"": "v"})]), "messages[0].headers"),
    "reserved header": (lambda t: dict(messages=[message(t, headers={"txmsg-id": "v"})]), "messages[0].headers"),
    "line break in a header": (lambda t: dict(messages=[message(t, headers={"h": "a\r\nb: c"})]), "messages[0].headers"),
    "business key of 256 bytes": (lambda t: dict(business_key="b" * 256), "business_key"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("call", ["prepare", "publish"])
def test_beyond_the_limits(client, topic, call, what):
    change, field = BAD[what]
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        getattr(client, call)(**{"messages": [message(topic)], "tx": uuid7(), **change(topic)})
    assert any(name.startswith(field) for name in caught.error.fields), caught.error.fields


@pytest.mark.parametrize("seconds", [-1, 0.5, 90000])
def test_check_after_out_of_range(client, topic, seconds):
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.prepare([message(topic)], tx=uuid7(), check_after=seconds)
    assert "check_after" in caught.error.fields


def test_at_the_limits(client, topic):
    """The largest transaction that is allowed: 64 messages, 4 MiB, 64 headers, keys and names of full length."""
    tx = uuid7()
    messages = [message(topic, b"x" * ((1 << 20) - 20000), key=b"k" * 255, content_type="c" * 255,
                        headers={f"h{i}": "v" * 200 for i in range(64)})] * 3
    messages += [message(topic, b"")] * 61
    client.prepare(messages, tx=tx, business_key="b" * 255, check_after=86400)
    assert len(client.get(tx).messages) == 64
    assert client.confirm(tx).state == CONFIRMED


def test_refusal_stores_nothing(client, topic):
    tx = uuid7()
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        client.prepare([message(topic), message(topic, key=b"k" * 256)], tx=tx)
    with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND", transaction_id=tx):
        client.get(tx)
    assert client.prepare([message(topic)], tx=tx).state == PREPARED
