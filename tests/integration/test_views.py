"""GetTransaction and ListTransactions."""

import concurrent.futures
import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from harness.client import (CANCELLED, CONFIRMED, DELIVERY, PREPARED, message, prepare_request, publish_request, refused)
from harness.ids import uuid7
from harness.peers import Reply


@pytest.fixture(scope="module")
def filled(world):
    """Transactions of two producers and two topics in several states; answers {name: id}."""
    world.apply(topics=["view-a", "view-b"], producers=["shop", "bank"])
    client, ids = world.client, {}

    def add(name, topic, producer="shop", **fields):
        ids[name] = uuid7()
        client.prepare([message(topic)], tx=ids[name], producer=producer, **fields)

    add("open", "view-a", business_key="order-1")
    add("confirmed", "view-a", business_key="order-2")
    add("cancelled", "view-b", business_key="order-2")
    add("bank", "view-b", producer="bank", business_key="order-2")
    client.confirm(ids["confirmed"])
    client.cancel(ids["cancelled"])
    return ids


def listed(client, ids, **filters):
    """The names of what a list answers, in its order, over all pages."""
    names, found, token = {tx: name for name, tx in ids.items()}, [], ""
    while True:
        page = client.list(page_size=2, page_token=token, **filters)
        found += [names[t.transaction_id] for t in page.transactions if t.transaction_id in names]
        token = page.next_page_token
        if not token:
            return found


def test_list_filters(client, filled):
    assert listed(client, filled) == ["bank", "cancelled", "confirmed", "open"]
    assert listed(client, filled, producer="shop") == ["cancelled", "confirmed", "open"]
    assert listed(client, filled, producer="shop", business_key="order-2") == ["cancelled", "confirmed"]
    assert listed(client, filled, topic="view-a") == ["confirmed", "open"]
    assert listed(client, filled, state=PREPARED) == ["bank", "open"]
    assert listed(client, filled, state=CONFIRMED) == ["confirmed"]
    assert listed(client, filled, state=CANCELLED, topic="view-b") == ["cancelled"]
    assert listed(client, filled, producer="nobody") == []


def test_list_by_time(client, filled):
    past, future = Timestamp(seconds=int(time.time()) - 7200), Timestamp(seconds=int(time.time()) + 60)
    assert len(listed(client, filled, start_time=past, end_time=future)) == 4
    assert listed(client, filled, start_time=past, end_time=Timestamp(seconds=past.seconds + 60)) == []
    from_now = Timestamp()
    from_now.FromMilliseconds(int(time.time() * 1000) + 1000)
    assert listed(client, filled, start_time=from_now, end_time=future) == []


def test_list_shows_no_bodies(client, filled):
    for transaction in client.list().transactions:
        assert all(m.message.body == b"" for m in transaction.messages)


def test_list_refuses(client, filled):
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.list(business_key="order-1")
    assert "business_key" in caught.error.fields or "producer" in caught.error.fields
    for token in ("words", "AAAA", "\x7f"):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            client.list(page_token=token)
        assert "page_token" in caught.error.fields
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.list(page_size=-1)
    assert "page_size" in caught.error.fields


def test_token_of_other_filters(client, filled):
    page = client.list(page_size=1)
    assert page.next_page_token
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.list(page_size=1, page_token=page.next_page_token, producer="bank")
    assert "page_token" in caught.error.fields


def test_pages_hold_everything_once(world, client):
    """While other transactions come in, all that were there at the beginning are found, each once."""
    world.apply(topics=["paged"], producers=["pages"])
    ids = [uuid7() for _ in range(300)]
    client.batch([prepare_request([message("paged")], tx=tx, producer="pages") for tx in ids])
    found, token = [], ""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        more = pool.submit(lambda: [client.prepare([message("paged")], tx=uuid7(), producer="pages") for _ in range(50)])
        while True:
            page = client.list(page_size=37, page_token=token, topic="paged", producer="pages")
            found += [t.transaction_id for t in page.transactions]
            token = page.next_page_token
            if not token:
                break
        more.result()
    assert len(found) == len(set(found))
    assert set(ids) <= set(found)


def test_get_unknown(client):
    tx = uuid7()
    with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND", transaction_id=tx):
        client.get(tx)
    for bad in ("", "words"):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
            client.get(bad)


def test_get_shows_deliveries(world, client):
    sink = world.sink()
    topic = world.topic(http=sink, nothing={"discard": {}})
    tx = uuid7()
    client.prepare([message(topic), message(topic)], tx=tx)
    assert all(not m.deliveries for m in client.get(tx).messages)
    client.confirm(tx)
    for n in (0, 1):
        for name in ("http", "nothing"):
            world.wait_delivery(tx, f"{topic}-{name}", DELIVERY["DELIVERED"], n)
    assert [d.subscription for d in client.get(tx).messages[0].deliveries] == [f"{topic}-http", f"{topic}-nothing"]


def test_list_by_business_key_shows_deliveries(world, client):
    """What became of order 17: each transaction with the state of each message at each subscription; a page holds 100 at most."""
    good, bad = world.sink(), world.sink(reply=Reply(410))
    topic, key = world.topic(good=good, bad=bad), f"order {uuid7()}"
    ids = {state: uuid7() for state in (CONFIRMED, CANCELLED, PREPARED)}
    for tx in ids.values():
        client.prepare([message(topic), message(topic)], tx=tx, business_key=key)
    client.confirm(ids[CONFIRMED])
    client.cancel(ids[CANCELLED])
    again = uuid7()
    client.publish([message(topic)], tx=again, business_key=key)
    for tx, n in ((ids[CONFIRMED], 0), (ids[CONFIRMED], 1), (again, 0)):
        world.wait_delivery(tx, f"{topic}-bad", DELIVERY["DEAD"], n)
        world.wait_delivery(tx, f"{topic}-good", DELIVERY["DELIVERED"], n)
    plain = client.list(producer="shop", business_key=key)
    assert len(plain.transactions) == 4 and not any(m.deliveries for t in plain.transactions for m in t.messages)
    found = {t.transaction_id: t for t in client.list(producer="shop", business_key=key, include_deliveries=True).transactions}
    assert {tx: t.state for tx, t in found.items()} == {**{tx: s for s, tx in ids.items()}, again: CONFIRMED}
    ends = [(f"{topic}-bad", DELIVERY["DEAD"], 1), (f"{topic}-good", DELIVERY["DELIVERED"], 0)]
    for tx, t in found.items():
        for m in t.messages:
            assert [(d.subscription, d.state, d.attempts) for d in m.deliveries] == (ends if t.state == CONFIRMED else [])
            assert all("410" in d.last_error for d in m.deliveries if d.state == DELIVERY["DEAD"])
    shown = world.ctl("list", "--producer", "shop", "--business-key", key, "--deliveries")
    assert f"{topic}-bad dead, {topic}-good delivered, {topic}-bad dead, {topic}-good delivered" in shown


def test_pages_with_deliveries_are_smaller(world, client):
    topic, producer = world.topic(nothing={"discard": {}}), world.unique("p")
    world.apply(producers=[producer])
    ids = [uuid7() for _ in range(130)]
    client.batch([publish_request([message(topic)], tx=tx, producer=producer) for tx in ids])
    page = client.list(producer=producer, page_size=1000, include_deliveries=True)
    rest = client.list(producer=producer, page_size=1000, include_deliveries=True, page_token=page.next_page_token)
    assert (len(page.transactions), len(rest.transactions), rest.next_page_token) == (100, 30, "")
    both = [*page.transactions, *rest.transactions]
    assert {t.transaction_id for t in both} == set(ids)
    assert all([d.subscription for d in t.messages[0].deliveries] == [f"{topic}-nothing"] for t in both)
