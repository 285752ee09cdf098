"""What a check endpoint may answer instead of a verdict. None of it decides anything or counts as UNKNOWN; when the
endpoint has come to its senses, its answer decides."""

import json

import pytest
from harness.client import CHECK, CONFIRMED, PREPARED, message
from harness.ids import uuid7
from harness.peers import GARBAGE, HANG, RESET, Drip, Flood, Raw, Reply, verdict
from servers.process import wait_until


def answer(status, **body):
    return lambda request: Reply(status, json.dumps({"transactionId": request.json()["transactionId"], **body}).encode(),
                                 {"Content-Type": "application/json"})


def redirect(request):
    return Reply(307, b"", {"Location": f"/elsewhere?{request.json()['transactionId']}"})


NOT_VERDICTS = {
    "404": answer(404, decision="ROLLED_BACK"),
    "400": answer(400, decision="ROLLED_BACK"),
    "500": answer(500, decision="COMMITTED"),
    "503": Reply(503),
    "201": answer(201, decision="COMMITTED"),
    "204": Reply(204),
    "redirect": redirect,
    "HTML": Reply(200, b"<html><body>ROLLED_BACK</body></html>", {"Content-Type": "text/html"}),
    "empty": Reply(200, b""),
    "an array": Reply(200, b'[{"decision": "COMMITTED"}]'),
    "cut JSON": Reply(200, b'{"transactionId": "'),
    "two documents": lambda r: Reply(200, verdict("COMMITTED")(r).body * 2),
    "other id": Reply(200, json.dumps({"transactionId": uuid7(), "decision": "COMMITTED"}).encode()),
    "no id": Reply(200, b'{"decision": "COMMITTED"}'),
    "no decision": answer(200),
    "unknown word": answer(200, decision="MAYBE"),
    "lower case": answer(200, decision="committed"),
    "a number": answer(200, decision=1),
    "a list": answer(200, decision=["COMMITTED"]),
    "null": answer(200, decision=None),
    "said twice": lambda r: Reply(200, b'{"transactionId": "%s", "decision": "COMMITTED", "decision": "ROLLED_BACK"}'
                                  % r.json()["transactionId"].encode()),
    "bodies nobody wanted": answer(200, decision="COMMITTED", bodies=[{"n": 0, "body": "aGE="}]),
    "garbage": GARBAGE,
    "reset": RESET,
    "cut body": Raw(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"transactionId"'),
    "hang": HANG,
    "drip": Drip(),
    "flood": Flood(),
    "100 KiB": lambda r: Reply(200, b'{"pad": "%s", ' % (b"x" * 102400) + verdict("COMMITTED")(r).body[1:]),
}
ASKED = 3


@pytest.fixture(scope="module")
def asked(world):
    """For each of these answers a producer with an endpoint that gives it; one transaction each, all at once. The
    limit of UNKNOWNs is lower than the number of times that they are asked."""
    endpoints = {name: world.check_endpoint() for name in NOT_VERDICTS}
    policy = {"first_after": "1s", "initial": "1s", "factor": 1, "max": "1s", "timeout": "300ms", "max_unknowns": ASKED - 1}
    world.apply(topics=["checked"], producers=[
        {"name": f"p{i}", "check": {"endpoints": [endpoints[name].url("/check")], **policy}}
        for i, name in enumerate(NOT_VERDICTS)])
    ids = {}
    for i, (name, reply) in enumerate(NOT_VERDICTS.items()):
        ids[name] = uuid7()
        endpoints[name].reply = reply
        world.client.prepare([message("checked")], tx=ids[name], producer=f"p{i}")
    return endpoints, ids


@pytest.mark.parametrize("what", NOT_VERDICTS)
def test_is_no_verdict(world, client, asked, what):
    endpoints, ids = asked
    endpoint, tx = endpoints[what], ids[what]
    endpoint.wait(ASKED, tx, timeout=40)
    assert not any(r.path.startswith("/elsewhere") for r in endpoint.got()), "a redirect was followed"

    def counted():
        view = client.get(tx)
        return view if view.checks.count >= ASKED - 1 else None

    view = wait_until(counted, 20, "the checks are counted")
    assert view.state == PREPARED
    assert view.checks.unknowns == 0 and view.checks.last_error
    endpoint.reply = verdict("COMMITTED")
    assert world.wait_state(tx, CONFIRMED, timeout=40).origin == CHECK


SPACES = b' \n{ "extra": {"a": [1]},\t"transactionId" : "%s", "decision":"COMMITTED", "note": "ok" } \n'


@pytest.mark.parametrize("reply", [
    lambda r: Reply(200, SPACES % r.json()["transactionId"].encode()),
    lambda r: Reply(200, verdict("COMMITTED")(r).body, {"Content-Type": "application/json; charset=utf-8"}),
    lambda r: Reply(200, verdict("COMMITTED")(r).body),
], ids=["white space and more members", "with a charset", "no content type"])
def test_is_a_verdict(world, client, reply):
    """The other side: what a careless but honest endpoint may write."""
    endpoint = world.check_endpoint()
    endpoint.reply = reply
    name = world.unique("honest")
    world.apply(topics=["checked"], producers=[{"name": name, "check": {"endpoints": [endpoint.url("/c")],
                                                                          "first_after": "1s", "initial": "1s"}}])
    tx = uuid7()
    client.prepare([message("checked")], tx=tx, producer=name)
    assert world.wait_state(tx, CONFIRMED).origin == CHECK
