"""Bytes that no honest client sends. Everything is refused by name, nothing is stored, and the service goes on."""

import grpc
import pytest
from harness.client import (CONFIRMED, error_of, message, prepare_request, publish_request, refused, result_state, service_pb2)
from harness.ids import uuid7

PREPARE = "/txmsg.v1.MessageService/Prepare"
BATCH = "/txmsg.v1.MessageService/Batch"
LIST = "/txmsg.v1.MessageService/ListTransactions"


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


@pytest.fixture(autouse=True)
def goes_on(client, topic):
    yield
    assert client.publish([message(topic)], tx=uuid7()).state == CONFIRMED


def field(number, data):
    """A length-delimited field."""
    assert number < 16 and len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def refused_bytes(client, path, data):
    with pytest.raises(grpc.RpcError) as caught:
        client.raw(path, data)
    error = error_of(caught.value)
    assert error.code == "INVALID_ARGUMENT", error
    return error


GARBAGE = {
    "truncated": b"\x0a\x7f" + b"x",
    "endless varint": b"\x08" + b"\xff" * 11,
    "field number 0": b"\x02\x00",
    "group": b"\x0b\x0c",
    "wire type 7": b"\x0f",
    "random": bytes(range(255, 0, -1)),
    "string as varint": b"\x08\x01",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_no_protobuf(client, what):
    refused_bytes(client, PREPARE, GARBAGE[what])


TEXT = {"a NUL": b"sh\x00op", "latin-1": b"caf\xe9", "overlong": b"\xc0\xaf", "surrogate": b"\xed\xa0\x80",
        "cut short": b"\xe2\x82", "beyond Unicode": b"\xf4\x90\x80\x80"}


@pytest.mark.parametrize("what", TEXT)
@pytest.mark.parametrize("place", ["transaction_id", "producer", "business_key", "messages[0].topic",
                                   "messages[0].headers"])
def test_bad_text(client, topic, place, what):
    good = prepare_request([message(topic)], tx=uuid7()).SerializeToString()
    bad = {"transaction_id": field(1, TEXT[what]), "producer": field(2, TEXT[what]), "business_key": field(4, TEXT[what]),
           "messages[0].topic": field(3, field(1, TEXT[what])),
           "messages[0].headers": field(3, field(1, topic.encode()) + field(5, field(1, b"h") + field(2, TEXT[what])))}
    data = bad[place] if place.startswith("messages") else good + bad[place]
    error = refused_bytes(client, PREPARE, data)
    assert any(f.split("[")[0].split(".")[0] == place.split("[")[0] for f in error.fields), error.fields


def test_any_byte_may_be_in_a_body_or_key(client, topic):
    every, tx = bytes(range(256)) * 4, uuid7()
    client.publish([message(topic, every, key=every[:255])], tx=tx)
    stored = client.get(tx, bodies=True).messages[0].message
    assert (stored.body, stored.key) == (every, every[:255])


def test_unknown_enum(client):
    refused_bytes(client, LIST, bytes([6 << 3, 99]))


def test_unknown_fields_are_ignored(client, topic):
    """A newer client may say more than this server knows."""
    tx = uuid7()
    data = publish_request([message(topic)], tx=tx).SerializeToString() + field(15, b"from the future")
    client.raw("/txmsg.v1.MessageService/Publish", data)
    assert client.get(tx).state == CONFIRMED


def test_bad_text_in_one_operation_names_it(client, topic):
    """A request that is not valid protobuf text is refused as a whole: no operation of it was looked at."""
    good = service_pb2.BatchRequest(operations=[service_pb2.Operation(publish=publish_request([message(topic)], tx=uuid7()))])
    data = good.SerializeToString() + field(1, field(1, field(2, b"\xff")))
    error = refused_bytes(client, BATCH, data)
    assert any(f.startswith("operations[1]") for f in error.fields), error.fields
    assert result_state(client.batch([good.operations[0].publish])[0]) == CONFIRMED


def test_request_over_the_receive_limit(client, topic):
    with pytest.raises(grpc.RpcError) as caught:
        client.raw(PREPARE, field(2, b"shop") + b"\x1a" + b"\xff\xff\xff\x07" + b"x" * (16 << 20))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("path", ["/txmsg.v1.MessageService/NoSuchMethod", "/txmsg.v1.NoSuchService/Prepare", "/x"])
def test_unimplemented(client, path):
    with pytest.raises(grpc.RpcError) as caught:
        client.raw(path, b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_empty_request(client):
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        client.messages.Prepare(service_pb2.PrepareRequest(), timeout=30)


def test_calls_that_are_given_up(client, topic):
    """Clients that go away in the middle leave nothing behind but perhaps their transaction."""
    ids = [uuid7() for _ in range(50)]
    for tx in ids:
        client.messages.Publish.future(publish_request([message(topic)], tx=tx), timeout=30).cancel()
    for tx in ids:
        assert client.publish([message(topic)], tx=tx).state == CONFIRMED
