"""Addresses that are not connected to: of check endpoints and of HTTP consumers. It is an error that says so, never a verdict."""

import pytest
from harness.client import CONFIRMED, DELIVERY, PREPARED, message
from harness.ids import uuid7
from harness.world import subscription
from servers.process import ServerError, wait_until

OPTIONS = {"web.allow": ""}


def undecided(world, client, endpoint):
    topic, name, tx = world.topic(nowhere={"discard": {}}), world.unique("p"), uuid7()
    world.apply(producers=[{"name": name, "check": {"endpoints": [endpoint], "first_after": "1s", "initial": "1s",
                                                    "max": "1s", "max_unknowns": 1, "timeout": "2s"}}])
    client.prepare([message(topic)], tx=tx, producer=name)
    wait_until(lambda: world.sql("SELECT failures FROM check_due WHERE tx = %s", tx)[:1] >= [(2,)], 30, "it was tried twice")
    view = client.get(tx)
    assert (view.state, view.checks.unknowns) == (PREPARED, 0)
    return tx, view.checks.last_error


def test_check_endpoint_on_loopback(world, client):
    endpoint = world.check_endpoint()
    tx, error = undecided(world, client, endpoint.url("/check"))
    assert "address 127.0.0.1 is loopback: not allowed" in error
    assert not endpoint.got()
    assert client.confirm(tx).state == CONFIRMED


@pytest.mark.parametrize("host, what", [("169.254.169.254", "link-local"), ("[fe80::1]", "link-local"),
                                        ("[fd00:ec2::254]", "cloud metadata"), ("0.0.0.0", "of this network"),
                                        ("[::ffff:169.254.169.254]", "link-local"), ("10.1.2.3", "private")])
def test_check_endpoint_elsewhere(world, client, host, what):
    tx, error = undecided(world, client, f"http://{host}:9/check")
    assert what in error and "not allowed" in error
    client.cancel(tx)


def test_http_consumer(world, client):
    sink, topic = world.sink(), world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(topic, topic, sink)])
    tx = client.publish([message(topic)], tx=uuid7()).transaction_id
    delivery = world.wait_delivery(tx, topic, DELIVERY["RETRYING"])
    assert "address 127.0.0.1 is loopback: not allowed" in delivery.last_error
    assert not sink.got()


def test_allowed_by_the_list(site):
    """One network of two; and what is link-local stays closed though the list names it."""
    world = site.world("guard_list", {"web.allow": "127.0.0.0/8, 169.254.0.0/16"}).start()
    try:
        topic, sink = world.unique("t"), world.sink()
        world.apply(topics=[topic], producers=["shop"], subscriptions=[
            subscription(topic, topic, sink), subscription(f"{topic}-far", topic, {"http": {"url": "http://10.9.8.7:9/"}}),
            subscription(f"{topic}-local", topic, {"http": {"url": "http://169.254.1.2:9/"}})])
        tx = world.client.publish([message(topic)], tx=uuid7()).transaction_id
        sink.wait_for(tx)
        assert "private: not allowed" in world.wait_delivery(tx, f"{topic}-far", DELIVERY["RETRYING"]).last_error
        assert "link-local: not allowed" in world.wait_delivery(tx, f"{topic}-local", DELIVERY["RETRYING"]).last_error
    finally:
        world.close()


def test_a_list_that_is_wrong(site):
    world = site.world("guard_wrong", {"web.allow": "10.0.0.0/8, localhost"})
    with pytest.raises(ServerError, match="web.allow: localhost is not a network"):
        world.start()
    world.closing.clear() # it has ended
    world.close()
