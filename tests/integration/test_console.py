"""txmsgctl for people at a console: events, top, completions, manual pages, exit codes, colours; and the daemon's config words."""

import json
import os
import pty
import re
import select
import shutil
import subprocess

import pytest
from harness import BUILD, TOP
from harness.client import message
from harness.ids import uuid7
from harness.peers import Reply
from harness.world import subscription
from servers.process import wait_until
from servers.txmsgd import clean_environment, ctl_binary, daemon_binary

CTL = os.fspath(ctl_binary(BUILD))


def commands(world):
    """(words, help) of each command, as --help prints them."""
    text = world.ctl("--help")
    return [line.strip() for line in text[:text.index("Options of every")].splitlines()[3:] if line.strip()]


class Follower:
    """txmsgctl events --follow in the background."""

    def __init__(self, world, *args):
        self.file = open(world.directory / "events", "w+", encoding="utf-8") # pylint: disable=consider-using-with
        self.process = subprocess.Popen([CTL, "events", "--follow", *args], stdout=self.file, stderr=subprocess.STDOUT,
                                        env=clean_environment({"TXMSG_SERVER": world.txmsgd.grpc}))

    def lines(self):
        return (self.file.seek(0), self.file.read().splitlines())[1]

    def wait(self, *words):
        return wait_until(lambda: next((l for l in self.lines() if all(w in l for w in words)), None), 30, f"a line with {words}")

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        self.file.close()


def test_events_follow(world, client):
    """Acts of people, deaths, stuck transactions and takeovers, each once."""
    topic = world.unique("t")
    sink, endpoint = world.sink(reply=Reply(410)), world.check_endpoint()
    world.apply(topics=[topic], producers=["shop", {"name": "unsure", "check": {
        "endpoints": [endpoint.url("/")], "first_after": "1s", "initial": "1s", "max_unknowns": 1}}],
        subscriptions=[subscription(f"{topic}-s", topic, sink)])
    follower = Follower(world)
    other = world.daemon("other", {"store.dead_after": "1s"}).start()
    try:
        world.ctl("pause", f"{topic}-s", "--reason", "a look", "--actor", "ann")
        follower.wait("subscription.pause", f"subscription/{topic}-s", "by ann: a look")
        world.ctl("resume", f"{topic}-s")
        tx = client.publish([message(topic)], tx=uuid7()).transaction_id
        follower.wait("dead", f"{topic}-s/{tx}.0", "after 1 attempts")
        stuck = client.prepare([message(topic)], tx=uuid7(), producer="unsure", check_after=1).transaction_id
        endpoint.decide(stuck, "UNKNOWN")
        follower.wait("stuck", stuck, "of unsure")
        other.kill()
        follower.wait("lane.takeover", "lane/", "by txmsgd: the heartbeat of its worker stood still")
        client.cancel(stuck)
        lines = follower.lines()
        assert len(set(lines)) == len(lines)
    finally:
        follower.close()
    past = world.ctl("events", "--since", "1h").splitlines()
    assert any("subscription.pause" in line for line in past) and any(f"{tx}.0" in line for line in past)
    objects = [json.loads(line) for line in world.ctl("--json", "events").splitlines()]
    assert {"time", "kind", "subject", "text"} == set(objects[0]) and [o["time"] for o in objects] == sorted(o["time"] for o in objects)
    assert world.ctl.run("events", "--since", "soon").returncode == 2


def test_events_go_on_when_the_service_was_away(world):
    follower = Follower(world)
    try:
        port = world.txmsgd.grpc_port
        world.txmsgd.stop()
        wait_until(lambda: follower.lines(), 30, "it says that it cannot reach the service")
        assert follower.process.poll() is None
        world.txmsgd.options["grpc.listen"] = f"127.0.0.1:{port}"
        world.txmsgd.start()
        world.ctl.apply({"topics": [{"name": "after-the-break"}]})
        follower.wait("topology.create", "topic/after-the-break")
    finally:
        follower.close()


def test_top_once(world, client):
    topic = world.topic(s={"discard": {}})
    for _ in range(5):
        client.publish([message(topic)], tx=uuid7())
    text = world.ctl("top", "--once", "--interval", "100ms")
    head, values = text.splitlines()[:2]
    assert head.split() == ["PREPARED/S", "CONFIRMED/S", "CANCELLED/S", "UNDECIDED", "STUCK", "OLDEST", "UNDECIDED", "TIME"]
    assert re.match(r"\d+\.\d +\d+\.\d +\d+\.\d +\d+ +\d+ ", values)
    row, = (line for line in text.splitlines() if line.startswith(f"{topic}-s "))
    assert re.fullmatch(rf"{topic}-s +\d+\.\d +0\.0 +\d+ +0 +(-|\d+ s)", row) and "\x1b" not in text
    for bad in (["--interval", "10ms"], ["--interval", "soon"], ["--json"]):
        assert world.ctl.run("top", "--once", *bad).returncode == 2


def at_terminal(world, env, *args):
    """What txmsgctl prints to a terminal."""
    master, terminal = pty.openpty()
    done = subprocess.run([CTL, *args], stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.STDOUT, timeout=60, check=True,
                          env=clean_environment({"TXMSG_SERVER": world.txmsgd.grpc, "TERM": "xterm", "NO_COLOR": "", **env}))
    assert done.returncode == 0
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError: # how a terminal says that the other end has gone
        pass
    os.close(master)
    return shown.decode().replace("\r\n", "\n")


def test_no_color(world, client):
    topic = world.unique("t")
    world.apply(topics=[topic], producers=["shop"], subscriptions=[subscription(f"{topic}-s", topic, world.sink(reply=Reply(410)))])
    tx = client.publish([message(topic)], tx=uuid7()).transaction_id
    wait_until(lambda: tx in world.ctl("dead", "list"), 30, "it is dead")
    args = ("top", "--once", "--interval", "100ms")
    assert "\x1b[31m1\x1b[0m" in at_terminal(world, {}, *args)
    assert "\x1b" not in at_terminal(world, {"NO_COLOR": "1"}, *args)
    assert "\x1b" not in at_terminal(world, {"TERM": "dumb"}, *args)


def complete(script, *words):
    """What bash offers for the last word."""
    text = (f'source {script}\nCOMP_WORDS=(txmsgctl {" ".join(repr(w) for w in words)})\nCOMP_CWORD={len(words)}\n'
            '_txmsgctl\nprintf "%s\\n" "${COMPREPLY[@]}"\n')
    done = subprocess.run(["bash", "--norc", "-eu", "-c", text], capture_output=True, text=True, timeout=60, check=True)
    assert not done.stderr
    return set(done.stdout.split())


def test_completion_in_bash(world, tmp_path):
    script = tmp_path / "completion"
    script.write_text(world.ctl("completion", "bash"))
    first = complete(script, "")
    assert {line.split()[0] for line in commands(world)} <= first
    assert complete(script, "de") == {"dead", "delete"} & first | {w for w in first if w.startswith("de")}
    assert {"list", "show", "redrive"} <= complete(script, "dead", "")
    assert {"topic", "producer", "subscription"} <= complete(script, "delete", "")
    assert {"--producer", "--state", "--json", "--server"} <= complete(script, "list", "--")
    assert complete(script, "--server", "x:1", "dead", "li") == {"list"}
    assert complete(script, "list", "--limit", "5", "--prod") == {"--producer"}
    assert complete(script, "list", "--producer", "") == set()
    (tmp_path / "topology.yaml").write_text("")
    assert complete(script, "apply", "-f", f"{tmp_path}/topo") == {f"{tmp_path}/topology.yaml"}


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not there")
def test_completion_in_zsh(world, tmp_path):
    """A person at a terminal: what the tab key makes of a line."""
    (tmp_path / "_txmsgctl").write_text(world.ctl("completion", "zsh"))
    (tmp_path / "topology.yaml").write_text("")
    (tmp_path / ".zshrc").write_text(
        f"fpath=({tmp_path} $fpath)\nautoload -U compinit && compinit -D -u\nunsetopt BEEP PROMPT_SP\nPS1='ready> '\n"
        "bindkey -e\ntxmsgctl() { print -r -- \"said: $*.\" }\n")
    master, terminal = pty.openpty()
    shell = subprocess.Popen(["zsh", "-i"], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, cwd=tmp_path,
                             env=clean_environment({"ZDOTDIR": str(tmp_path), "HOME": str(tmp_path), "TERM": "dumb"}))
    os.close(terminal)
    shown = b""

    def until(text):
        nonlocal shown
        while text not in shown:
            assert select.select([master], [], [], 60)[0], f"no {text} in {shown}"
            shown += os.read(master, 65536)
        _, shown = shown.split(text, 1)

    try:
        for typed, meant in (("txmsgctl stuck reso", "stuck resolve"), ("txmsgctl comple", "completion"), ("txmsgctl list --busin", "list --business-key"),
                             ("txmsgctl delete subscr", "delete subscription"), ("txmsgctl --server x:1 dead li", "--server x:1 dead list"),
                             ("txmsgctl apply -f topo", "apply -f topology.yaml")):
            until(b"ready> ")
            os.write(master, f"{typed}\t\r".encode())
            until(f"said: {meant}".encode())
    finally:
        os.close(master) # the end of its terminal is the end of it
        shell.wait(60)


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not there")
def test_completion_in_fish(world, tmp_path):
    script = tmp_path / "txmsgctl.fish"
    script.write_text(world.ctl("completion", "fish"))
    (tmp_path / "topology.yaml").write_text("")

    def offered(line):
        done = subprocess.run(["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"], capture_output=True, text=True, timeout=60,
                              check=True, cwd=tmp_path, env=clean_environment({"HOME": str(tmp_path)}))
        assert not done.stderr
        return {row.split("\t")[0] for row in done.stdout.splitlines()}

    assert {line.split()[0] for line in commands(world)} <= offered("txmsgctl ")
    assert {"list", "show", "redrive"} <= offered("txmsgctl dead ") and "list" not in offered("txmsgctl ")  - {"list"}
    assert {"--producer", "--state", "--json", "--server"} <= offered("txmsgctl list --")
    assert "topology.yaml" in offered("txmsgctl apply -f topo")
    assert offered("txmsgctl list --producer ") == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_every_command_and_option(world, shell):
    text = world.ctl("completion", shell)
    for line in commands(world):
        assert line.split()[0] in text
    for option in ("business-key", "interval", "dry-run"):
        assert option in text
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=text, text=True, capture_output=True, timeout=60, check=False).returncode == 0
    assert world.ctl.run("completion", "tcsh").returncode == 2


def warnings_of(page):
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    return done.stderr


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not there")
def test_manual_pages(world):
    page = world.ctl("man")
    assert not warnings_of(page)
    for line in commands(world):
        assert line.split("  ")[0].split(" [")[0].replace("-", "\\-").split(" | ")[0] in page
    daemon = subprocess.run([daemon_binary(BUILD), "--print-man"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert not warnings_of(daemon)
    options = (TOP / "services/txmsgd/OPTIONS.md").read_text(encoding="utf-8")
    for name in re.findall(r"^\| `([a-z_.]+)` ", options, re.M):
        assert f".B \\-\\-{name}\n" in daemon
    for name, text in (("client/txmsgctl/txmsgctl.1", page), ("services/txmsgd/txmsgd.8", daemon)):
        assert (BUILD / name).read_text(encoding="utf-8") == text # what meson installs


def test_exit_codes_are_those_of_the_page(world):
    page = (TOP / "client/README.md").read_text(encoding="utf-8")
    table = page[page.index("## Exit codes"):page.index("## Schema")]
    help_text = world.ctl("--help")
    assert re.findall(r"^\| (\d) \|", table, re.M) == re.findall(r"^  (\d)  ", help_text, re.M) == list("012345")


def test_config_words_of_the_daemon(world, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("dsn: host=h password=sw0rdfish\nworkers: 2\n")
    env = clean_environment({"TXMSG_DRAIN": "7s"})

    def run(*args):
        return subprocess.run([daemon_binary(BUILD), *map(str, args)], capture_output=True, text=True, timeout=60, env=env, check=False)

    done = run("config", "check", "--config", config)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout
    done = run("config", "show", "--config", config, "--log.level=debug")
    lines = dict(line.split(" = ", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0 and "sw0rdfish" not in done.stdout
    assert lines["dsn"].endswith("(file)") and lines["workers"].startswith("2 ") and lines["workers"].endswith("(file)")
    assert lines["drain"].startswith("7s") and lines["drain"].endswith("(environment)")
    assert lines["log.level"].endswith("(command line)") and lines["lane.batch"].endswith("(default)")
    assert run("config", "check", "--config", config, "--workers=0").returncode == 2
    assert run("config", "what").returncode == 2
