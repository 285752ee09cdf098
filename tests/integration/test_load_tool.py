"""The load tool says what it did: each of its ways to send, compared with what is stored. What it measures is not tested."""

import json
import subprocess
import time

import pytest
from harness import BUILD
from harness.peers import Proxy
from servers.process import Process, wait_until

COUNT = 600
PAIRS = {
    "calls": ["--callers=20"],
    "stream": ["--callers=20", "--stream"],
    "streams": ["--callers=21", "--stream", "--streams=4", "--channels=3"],
    "credit": ["--callers=300", "--stream"], # more than the stream may have open
}
OPTIONS = {"pipeline.credit": 64}


@pytest.fixture
def producer(world):
    name = world.unique("p")
    world.apply(topics=["load"], producers=[name])
    return name


def command(server, producer, *options):
    return [BUILD / "tests/bench/txmsg-bench", f"--server={server}", f"--producer={producer}", "--topic=load", "--json",
            "--warmup=0", *options]


def load(world, producer, *options, code=0):
    """The report of the tool, which must end with this code."""
    done = subprocess.run(command(world.txmsgd.grpc, producer, *options), capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def start(world, server, producer, *options):
    """The tool, running, and where its report will be."""
    log = world.directory / f"load-{producer}.log"
    return Process("txmsg-bench", command(server, producer, *options), log), log


def report_in(log):
    return next(json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))


def stored(world, producer):
    """Transactions of a producer: (all, committed, rolled back, undecided)."""
    return world.sql(
        "SELECT count(*), count(*) FILTER (WHERE verdict = 1), count(*) FILTER (WHERE verdict = 2), "
        "count(*) FILTER (WHERE verdict IS NULL) FROM message LEFT JOIN decision USING (tx) "
        "WHERE message.producer = %s", producer)[0]


def answered(total):
    return (total["prepared"] + total["published"], total["confirmed"] + total["published"], total["cancelled"],
            total["undecided"])


@pytest.mark.parametrize("way", PAIRS)
def test_what_was_answered_is_stored(world, producer, way):
    report = load(world, producer, *PAIRS[way], f"--count={COUNT}")
    total = report["total"]
    assert stored(world, producer) == answered(total)
    assert COUNT <= total["prepared"] == total["confirmed"] and report["messages"] >= COUNT
    assert total["repeats"] == total["cancelled"] == total["undecided"] == 0 and report["errors"] == {}


@pytest.mark.parametrize("way", ["calls", "stream"])
def test_fates(world, producer, way):
    report = load(world, producer, *PAIRS[way], f"--count={COUNT}", "--undecided=30", "--cancelled=30",
                  "--duplicated=30")
    total = report["total"]
    assert stored(world, producer) == answered(total)
    assert total["prepared"] == total["undecided"] + total["cancelled"] + total["confirmed"]
    for some in ("undecided", "cancelled", "confirmed", "repeats"):
        assert 0.15 * COUNT < total[some] < 0.8 * total["prepared"], total
    assert 0 < total["undecided_commit"] < total["undecided"]


@pytest.mark.parametrize("way", ["calls", "stream"])
def test_every_call_twice(world, producer, way):
    total = load(world, producer, *PAIRS[way], f"--count={COUNT}", "--duplicated=100")["total"]
    assert stored(world, producer) == answered(total)
    assert total["repeats"] == total["prepared"] + total["confirmed"]


@pytest.mark.parametrize("options", [["--batch=50", "--callers=4"], ["--batch=50", "--callers=4", "--publish"],
                                     ["--publish"], ["--publish", "--stream"]], ids=" ".join)
def test_other_operations(world, producer, options):
    total = load(world, producer, *options, f"--count={COUNT}")["total"]
    assert stored(world, producer) == answered(total)
    assert total["published" if "--publish" in options else "confirmed"] >= COUNT


@pytest.mark.parametrize("way", ["calls", "stream"])
def test_a_schedule_that_can_be_kept(world, producer, way):
    report = load(world, producer, *PAIRS[way], "--seconds=1", "--rate=20")
    assert stored(world, producer) == answered(report["total"])
    assert abs(report["arrived"] - 20 * report["seconds"]) <= 1
    assert 1 <= report["total"]["prepared"] <= report["arrived"] + 1


@pytest.mark.parametrize("way", [["--callers=1"], ["--callers=8", "--stream"]], ids=" ".join)
def test_a_schedule_that_is_too_fast(world, producer, way):
    """What waits is counted, and so is its time: half of all has waited for about half of the run."""
    report = load(world, producer, *way, "--seconds=1", "--rate=100000")
    assert stored(world, producer) == answered(report["total"])
    assert abs(report["arrived"] - 100000 * report["seconds"]) <= 101 # the time is in whole milliseconds
    assert report["arrived"] / 2 < report["unbegun"] <= report["queue_max"] <= report["queued"] <= report["arrived"]
    assert 0.25 < report["latency_ms"]["p50"] / 1e3 / report["seconds"] < 0.75


def test_a_pause_of_the_service_is_seen_by_all_that_were_due(world, producer):
    """Not only by the few that were under way: 50 a second for 2 seconds have waited for 1 second on average."""
    tool, log = start(world, world.txmsgd.grpc, producer, "--callers=4", "--rate=50", "--seconds=600")
    try:
        wait_until(lambda: stored(world, producer)[1] > 10, 60, "the load has begun")
        world.txmsgd.freeze()
        begin = time.monotonic()
        wait_until(lambda: time.monotonic() - begin >= 2, 10, "the pause is over")
        world.txmsgd.thaw()
        paused = time.monotonic() - begin
        before = stored(world, producer)[1]
        wait_until(lambda: stored(world, producer)[1] >= before + 50 * paused, 60, "what was due is done")
    finally:
        code = tool.stop(60)
    report = report_in(log)
    assert code == 0 and stored(world, producer) == answered(report["total"])
    assert report["queued"] >= 50 * paused - 10
    assert report["latency_ms"]["mean"] / 1e3 * report["messages"] > 50 * paused * paused / 2 * 0.8


@pytest.mark.parametrize("way", ["calls", "stream"])
def test_errors_are_counted(world, producer, way):
    report = load(world, producer, *PAIRS[way], "--seconds=0.5", "--topic=nothere", code=1)
    assert list(report["errors"]) == ["NOT_FOUND"] and report["messages"] == 0
    assert stored(world, producer) == (0, 0, 0, 0)


def test_streams_that_break_are_opened_anew(world, producer):
    """What was answered is stored, and the load goes on."""
    proxy = Proxy(world.txmsgd.grpc_port)
    tool, log = start(world, f"127.0.0.1:{proxy.port}", producer, "--callers=20", "--stream", "--streams=2",
                      "--seconds=600")
    try:
        wait_until(lambda: stored(world, producer)[1] > 100, 60, "the load has begun")
        proxy.cut(refuse=False)
        before = stored(world, producer)[1]
        wait_until(lambda: stored(world, producer)[1] > before + 100, 60, "the load goes on", alive=tool.check_alive)
    finally:
        code = tool.stop(60)
        proxy.close()
    assert code == 1, log.read_text()
    report = report_in(log)
    all_of_them, committed, _, _ = stored(world, producer)
    assert all_of_them >= report["total"]["prepared"] and committed >= report["total"]["confirmed"]
    assert list(report["errors"]) == ["UNAVAILABLE"] and not report["stalled"]
