"""Batch: one result for each operation, in order; a bad one never fails another."""

import pytest
from harness.client import (CANCELLED, CONFIRMED, PREPARED, message, prepare_request, publish_request, refused, result_error,
                            result_state, service_pb2)
from harness.ids import uuid7


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


def confirm(tx, **fields):
    return service_pb2.ConfirmRequest(transaction_id=tx, **fields)


def cancel(tx, **fields):
    return service_pb2.CancelRequest(transaction_id=tx, **fields)


def test_each_has_its_own_result(client, topic):
    known, other, mine = uuid7(), uuid7(), uuid7()
    client.prepare([message(topic)], tx=known)
    client.prepare([message(topic)], tx=other)
    client.cancel(other)
    results = client.batch([
        prepare_request([message(topic)], tx=mine),
        prepare_request([message("no-such-topic")], tx=uuid7()),
        prepare_request([message(topic, key=b"k" * 256)], tx=uuid7()),
        prepare_request([message(topic, b"other")], tx=known),
        confirm(uuid7()),
        confirm(known),
        confirm(other),
        cancel("words"),
        publish_request([message(topic)], tx=uuid7()),
        prepare_request([message(topic)], tx=uuid7(-30 * 3600)),
        cancel(uuid7(), producer="shop"),
    ])
    assert len(results) == 11
    assert result_state(results[0]) == PREPARED
    found = [(i, result_error(r).code, result_error(r).reason) for i, r in enumerate(results)
             if r.WhichOneof("result") == "error"]
    assert found == [
        (1, "NOT_FOUND", "TOPIC_NOT_FOUND"), (2, "INVALID_ARGUMENT", "INVALID_FIELD"),
        (3, "ALREADY_EXISTS", "CONTENT_DIFFERS"), (4, "NOT_FOUND", "TRANSACTION_NOT_FOUND"),
        (6, "FAILED_PRECONDITION", "DECIDED_OTHERWISE"), (7, "INVALID_ARGUMENT", "INVALID_FIELD"),
        (9, "INVALID_ARGUMENT", "ID_TIME_OUT_OF_WINDOW")]
    assert result_state(results[5]) == result_state(results[8]) == CONFIRMED
    assert result_state(results[10]) == CANCELLED
    assert client.get(mine).state == PREPARED


def test_two_on_one_id_run_in_order(client, topic):
    a, b, c, d = (uuid7() for _ in range(4))
    results = client.batch([
        prepare_request([message(topic)], tx=a), confirm(a), confirm(a), cancel(a),
        confirm(b), prepare_request([message(topic)], tx=b), cancel(b), prepare_request([message(topic)], tx=b),
        prepare_request([message(topic)], tx=c), prepare_request([message(topic, b"other")], tx=c), confirm(c),
        cancel(d, producer="shop"), prepare_request([message(topic)], tx=d),
    ])
    shown = [result_state(r) if r.WhichOneof("result") == "status" else result_error(r).reason for r in results]
    assert shown == [
        PREPARED, CONFIRMED, CONFIRMED, "DECIDED_OTHERWISE",
        "TRANSACTION_NOT_FOUND", PREPARED, CANCELLED, CANCELLED,
        PREPARED, "CONTENT_DIFFERS", CONFIRMED,
        CANCELLED, "DECIDED_OTHERWISE"]


def test_a_thousand(client, topic):
    ids = [uuid7() for _ in range(500)]
    results = client.batch([r for tx in ids for r in (prepare_request([message(topic)], tx=tx), confirm(tx))])
    assert [result_state(r) for r in results] == [PREPARED, CONFIRMED] * 500
    assert [r.status.transaction_id for r in results] == [tx for tx in ids for _ in range(2)]


def test_a_thousand_and_every_tenth_bad(client, topic):
    requests = [prepare_request([message("no-such-topic" if i % 10 == 3 else topic)], tx=uuid7()) for i in range(1000)]
    for i, result in enumerate(client.batch(requests)):
        if i % 10 == 3:
            assert result_error(result).reason == "TOPIC_NOT_FOUND"
        else:
            assert result_state(result) == PREPARED


def test_the_same_thousand_twice(client, topic):
    requests = [publish_request([message(topic)], tx=uuid7()) for _ in range(1000)]
    first, second = client.batch(requests), client.batch(requests)
    assert list(first) == list(second)


@pytest.mark.parametrize("count", [0, 1001])
def test_count_out_of_range(client, topic, count):
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.batch([prepare_request([message(topic)], tx=uuid7())] * count)
    assert any(f.startswith("operations") for f in caught.error.fields)


def test_operation_without_content(client, topic):
    request = service_pb2.BatchRequest(operations=[
        service_pb2.Operation(), service_pb2.Operation(publish=publish_request([message(topic)], tx=uuid7()))])
    results = client.messages.Batch(request, timeout=30).results
    assert result_error(results[0]).code == "INVALID_ARGUMENT"
    assert result_state(results[1]) == CONFIRMED


def test_eight_mebibytes(client, topic):
    """Near the receive limit it works; past it the call is refused before anything is stored."""
    ids = [uuid7() for _ in range(9)]
    requests = [prepare_request([message(topic, b"x" * 1_000_000)], tx=tx) for tx in ids]
    assert [result_state(r) for r in client.batch(requests[:8])] == [PREPARED] * 8
    with pytest.raises(Exception) as caught:
        client.batch(requests)
    assert caught.value.code().name == "RESOURCE_EXHAUSTED"
    with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
        client.get(ids[8])
