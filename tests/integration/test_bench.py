"""tests/bench/run at a tiny scale: each long figure does what it says and counts right. What it measures is not tested."""

import json
import pathlib
import re
import socket
import subprocess
import sys

import pytest
from harness import BUILD
from servers.process import Process, wait_until

RUN = pathlib.Path(__file__).resolve().parents[1] / "bench/run"
SCALE = {"seconds": 0.3, "warmup": 0.1, "runs": 1, "minutes": 0.1, "width": 2, "history": 3000, "backlog": 700,
         "recover": 400, "phase": 0.5, "rate": 200, "sample": 0.1}
NAMES = ["two_replicas", "history_10m", "recovery", "recovery_pull", "forward_http", "isolation", "dead_backlog",
         "backlog_drain", "held_snapshot", "life_steady"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "report.json"
    scale = [f"--{name}={n}" for name, n in SCALE.items()]
    done = subprocess.run([sys.executable, "-B", RUN, "--no-build", f"--build={BUILD}", f"--json={out}", *scale, *NAMES],
                          capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in NAMES:
        assert re.search(rf"^{name} ", done.stdout, re.M), done.stdout
    return json.loads(out.read_text())


@pytest.fixture
def once(report, request):
    name = request.node.name.removeprefix("test_")
    return report["figures"][name]["runs"][0]


def test_what_was_answered_was_stored_and_delivered(report):
    assert set(report["check"]) == {"replicas", "empty", "history", "recovery", "pull", "http", "isolation", "dead", "backlog",
                                    "held", "life"}
    for check in report["check"].values():
        assert check["ok"] and check["prepared"] > 0


def test_life_steady(once):
    assert once["partitions_dropped"] > 0 and once["rows_left"] < once["total"]["prepared"]
    assert len(once["accepted_per_part"]) == len(once["delivered_per_part"]) == 10 and min(once["accepted_per_part"]) > 0
    assert abs(sum(once["accepted_per_part"]) * once["part_seconds"] / once["total"]["confirmed"] - 1) < 0.2
    assert 1024 < once["values"]["wal_bytes"]["value"] < 10000


def test_held_snapshot(once):
    assert once["held_seconds"] >= 60 * SCALE["minutes"] and once["values"]["dead_tuples"]["value"] == 0


def test_history_10m(report):
    assert report["check"]["history"]["prepared"] > 0
    assert report["figures"]["history_10m"]["runs"][0]["messages_before"] == SCALE["history"]


def test_recovery(report, once):
    assert SCALE["recover"] <= once["messages"] == report["check"]["recovery"]["decided_by_checks"]
    assert report["check"]["recovery"]["unexpected_checks"] == 0


def test_recovery_pull(report, once):
    assert SCALE["recover"] <= once["messages"] == report["check"]["pull"]["decided_by_checks"]
    assert report["check"]["pull"]["unexpected_checks"] == 0


def test_forward_http(once):
    assert once["tries"][0]["rate"] == 0 and once["per_second"] >= 0.98 * once["accepted_per_second"] > 0


def test_isolation(once):
    assert list(once["phases"]) == ["alone", "hole", "slow", "flap", "drip"]
    for name, phase in once["phases"].items():
        assert phase["per_second"] > 0 and (name == "alone" or phase["bad_requests"] > 0), name


def test_dead_backlog(once):
    assert once["requests"] >= SCALE["backlog"] and 0 < once["connections_max"] <= 256


def test_backlog_drain(once):
    assert once["delivered_per_second"] * once["drain_seconds"] > 0.8 * SCALE["backlog"]


# --- bench-sink

@pytest.fixture
def sink(tmp_path):
    log = tmp_path / "sink.log"
    process = Process("bench-sink", [BUILD / "tests/bench/bench-sink", "--slow=50ms", "--drip=20ms", "--flap=1h"], log)
    found = wait_until(lambda: re.search(r"listening (\d+)", log.read_text()), 10, "it listens", alive=process.check_alive)
    yield int(found[1])
    assert process.stop(10) == 0


def request(path, body=b"", name=b"Content-Length"):
    return b"POST /" + path + b" HTTP/1.1\r\nHost: x\r\n" + name + b": %d\r\n\r\n" % len(body) + body


def answers(connection, wanted):
    """Status codes of so many answers without a body."""
    text = b""
    while text.count(b"\r\n\r\n") < wanted:
        got = connection.recv(65536)
        assert got, text
        text += got
    return [int(part.split(b" ")[1]) for part in text.split(b"\r\n\r\n")[:wanted]]


def counts(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as c:
        c.sendall(b"GET /counts HTTP/1.1\r\n\r\n")
        text = b""
        while not text.endswith(b"}}"):
            text += c.recv(65536)
    return json.loads(text.split(b"\r\n\r\n", 1)[1])


def test_sink_finds_requests_however_they_come(sink):
    """In pieces, several at once, with and without a body that looks like a head."""
    stream = request(b"ok", b"a\r\n\r\nb") + request(b"ok", b"", b"content-LENGTH") + request(b"slow", b"x" * 100000)
    with socket.create_connection(("127.0.0.1", sink), timeout=10) as c:
        for size in (1, 7, len(stream)):
            for at in range(0, min(len(stream), 400), size):
                c.sendall(stream[at:at + size] if at + size < 400 else stream[at:])
            assert answers(c, 3) == [200] * 3
    assert counts(sink)["ok"]["requests"] == 6 and counts(sink)["slow"]["requests"] == 3


def test_sink_counts_connections(sink):
    with socket.create_connection(("127.0.0.1", sink), timeout=10) as a, \
            socket.create_connection(("127.0.0.1", sink), timeout=10) as b:
        for c in (a, b, a):
            c.sendall(request(b"flap"))
            assert answers(c, 1) == [200]
        b.sendall(request(b"nowhere"))
        assert answers(b, 1) == [404]
        assert counts(sink)["flap"] == {"requests": 3, "connections": 1, "connections_max": 2}


def test_sink_that_drips_does_not_end(sink):
    with socket.create_connection(("127.0.0.1", sink), timeout=10) as c:
        c.sendall(request(b"drip"))
        assert answers(c, 1) == [200]
        assert [c.recv(1) for _ in range(3)] == [b"."] * 3
