"""The retention floor: what lies below it is about to be dropped, so nothing is decided there any more."""

import pytest
from harness.client import CONFIRMED, PREPARED, message, refused, result_error, result_state, service_pb2
from harness.ids import uuid7

HOUR = 3600


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


def test_late_decisions_are_refused(world, client, topic):
    """Alone and beside others in one group commit, which go through."""
    old, kept = [uuid7(-HOUR) for _ in range(3)], [uuid7() for _ in range(3)]
    for tx in (*old, *kept):
        client.prepare([message(topic)], tx=tx)
    world.sql("UPDATE cfg SET floor = %s, epoch = epoch + 1", uuid7(-HOUR // 2))
    with refused("FAILED_PRECONDITION", "PAST_RETENTION"):
        client.confirm(old[0])
    with refused("FAILED_PRECONDITION", "PAST_RETENTION"):
        client.cancel(old[1])
    results = client.batch([service_pb2.ConfirmRequest(transaction_id=tx) for tx in (kept[0], old[2], kept[1], kept[2])])
    assert result_error(results.pop(1)).reason == "PAST_RETENTION"
    assert {result_state(r) for r in results} == {CONFIRMED}
    assert not world.sql("SELECT 1 FROM decision WHERE tx = ANY (%s::uuid[])", old)
    assert {client.get(tx).state for tx in old} == {PREPARED}
