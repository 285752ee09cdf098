"""txmsgd's own options: strength of sources, mistakes named, exit codes."""

import os
import re
import signal
import subprocess

import pytest
from harness import BUILD, TOP
from servers.process import free_port, wait_until
from servers.txmsgd import clean_environment, daemon_binary, to_yaml


def run(*args, env=None, timeout=30):
    """Runs txmsgd until it ends; it must end by itself."""
    return subprocess.run([daemon_binary(BUILD), *map(str, args)], capture_output=True, text=True, timeout=timeout,
                          env=clean_environment(env), stdin=subprocess.DEVNULL, check=False)


def test_version():
    done = run("--version")
    assert done.returncode == 0 and re.search(r"\d+\.\d+\.\d+", done.stdout)


def test_print_options():
    text = run("--print-options").stdout
    for name in ("dsn", "grpc.listen", "http.listen", "insecure", "lane.queue", "check.poll", "forward.window", "drain"):
        assert f"`{name}`" in text
    assert "127.0.0.1:7400" in text


BAD = {
    "unknown option": ["--grpc.lisen=127.0.0.1:0"],
    "unknown flag": ["--no-such"],
    "bad number": ["--workers=many"],
    "out of range": ["--workers=-1"],
    "bad duration": ["--drain=soon"],
    "bad size": ["--lane.cache=lots"],
    "bad bool": ["--insecure=perhaps"],
    "bad address": ["--grpc.listen=nowhere"],
    "a word": ["please"],
    "no level": ["--log.level=loud"],
    "no room": ["--log.level=info,stor=debug"],
    "no file": ["--config", "/no/such/file.yaml"],
}


@pytest.mark.parametrize("what", BAD)
def test_bad_configuration_is_2(what):
    done = run("--dsn=host=127.0.0.1", *BAD[what])
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() and len(done.stderr.strip().splitlines()) <= 3


def test_dsn_is_required():
    done = run()
    assert done.returncode == 2 and "dsn" in done.stderr


def test_nearest_name_is_suggested():
    assert "grpc.listen" in run("--dsn=x", "--grpc.lisen=127.0.0.1:0").stderr


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
@pytest.mark.parametrize("option", ["grpc.listen", "http.listen"])
def test_beyond_loopback_only_when_told(world, option, address):
    done = run(f"--dsn={world.dsn}", f"--{option}={address}")
    assert done.returncode == 2 and "insecure" in done.stderr


def test_flag_beats_environment_beats_file(world):
    """Three sources name three HTTP ports; the strongest is taken. The secret option can come from a file."""
    file_port, env_port, flag_port = free_port(), free_port(), free_port()
    config = world.directory / "strength.yaml"
    config.write_text(to_yaml({"dsn": "host=127.0.0.1 port=1", "grpc.listen": "127.0.0.1:0",
                               "http.listen": f"127.0.0.1:{file_port}", "workers": 1}), encoding="utf-8")
    dsn = world.directory / "dsn"
    dsn.write_text(world.dsn + "\n", encoding="utf-8")
    env = clean_environment({"TXMSG_HTTP_LISTEN": f"127.0.0.1:{env_port}", "TXMSG_DSN_FILE": str(dsn)})
    for args, port in (([f"--http.listen=127.0.0.1:{flag_port}"], flag_port), ([], env_port)):
        daemon = subprocess.Popen([daemon_binary(BUILD), "--config", config, *args], env=env, stderr=subprocess.PIPE,
                                  stdin=subprocess.DEVNULL, text=True)
        try:
            found = next((m for line in daemon.stderr if (m := re.search(r"listening .*http=127.0.0.1:(\d+)", line))), None)
            assert found and int(found[1]) == port
        finally:
            daemon.terminate()
            daemon.communicate(timeout=60)
        assert daemon.returncode == 0


def test_database_without_schema_is_1(world):
    dsn = world.postgres.create_database(f"{world.name}_bare")
    done = run(f"--dsn={dsn}", "--grpc.listen=127.0.0.1:0", "--http.listen=127.0.0.1:0", timeout=60)
    assert done.returncode == 1
    assert "migrate" in done.stderr


def test_port_in_use_is_1(world):
    done = run(f"--dsn={world.dsn}", f"--grpc.listen={world.txmsgd.grpc}", "--http.listen=127.0.0.1:0", timeout=60)
    assert done.returncode == 1 and str(world.txmsgd.grpc_port) in done.stderr


def test_secrets_are_not_logged(world):
    assert os.path.getsize(world.txmsgd.log) > 0
    done = run("--dsn=host=127.0.0.1 port=1 password=hunter2 user=u", "--grpc.listen=nowhere")
    assert "hunter2" not in done.stderr + done.stdout


def test_check_config(tmp_path):
    """Says what is wrong without starting anything: no database is there."""
    config = tmp_path / "c.yaml"
    config.write_text("dsn: host=127.0.0.1 port=1\nlog: {level: 'info,store=debug'}\n")
    done = run("--config", config, "--check-config")
    assert (done.returncode, done.stderr) == (0, "")
    config.write_text("dsn: host=127.0.0.1 port=1\nlanes: 3\n")
    done = run("--check-config", "--config", config)
    assert done.returncode == 2 and "lanes" in done.stderr and not done.stdout
    config.write_text("dsn: host=127.0.0.1 port=1\nlimits: {body: 4MiB, transaction: 1MiB}\n")
    assert run("--check-config", "--config", config).returncode == 2


@pytest.mark.parametrize("secret", ["whsec_", "whsec_no base64!", "whsec_c2hvcnQ=", "MDEyMzQ1Njc4OWFiY2RlZg=="])
def test_secret_that_signs_nothing_is_refused_at_once(tmp_path, secret):
    """Of alerts: at the start and by --check-config, not at the first notice; the text does not quote it."""
    config = tmp_path / "c.yaml"
    config.write_text(f"dsn: host=127.0.0.1 port=1\nalerts: {{url: 'http://127.0.0.1:1/', secret: '{secret}'}}\n")
    for words in (["--check-config"], []):
        done = run("--config", config, *words)
        assert done.returncode == 2 and "alerts.secret must be" in done.stderr and (secret == "whsec_" or secret not in done.stderr)
    config.write_text("dsn: host=127.0.0.1 port=1\nalerts: {secret: 'whsec_MDEyMzQ1Njc4OWFiY2RlZg=='}\n")
    assert run("--config", config, "--check-config").returncode == 0


def test_show_config(tmp_path):
    """Each value with its source; a secret is masked wherever it comes from."""
    config, secret = tmp_path / "c.yaml", tmp_path / "dsn"
    config.write_text("workers: 2\nlane: {queue: 100}\n")
    secret.write_text("host=h password=hunter2\n")
    done = run("--show-config", "--config", config, "--drain=7s",
               env={"TXMSG_DSN_FILE": str(secret), "TXMSG_WORKERS": "3", "TXMSG_LOG_LEVEL": "warn"})
    assert done.returncode == 0 and "hunter2" not in done.stdout + done.stderr
    shown = dict(line.split(" = ", 1) for line in done.stdout.splitlines())
    for name, value in {"dsn": "***  (environment)", "workers": "3  (environment)", "lane.queue": "100  (file)",
                        "drain": "7s  (command line)", "log.level": "warn  (environment)", "lane.batch": "440  (default)"}.items():
        assert shown[name] == value
    assert set(shown) == set(re.findall(r"^\| `([^`]+)`", run("--print-options").stdout, re.M))
    done = run("--show-config")
    assert done.returncode == 2 and "dsn" in done.stderr and "workers = 1" in done.stdout


@pytest.fixture
def second(world):
    daemon = world.daemon(world.unique("second"))
    yield daemon.start()
    assert daemon.stop() == 0


def hang_up(daemon, **options):
    """Writes the file anew, sends SIGHUP, and answers what the log says until the daemon is done with it."""
    for name, value in options.items():
        daemon.options[name.replace("__", ".")] = value
    daemon.config.write_text(to_yaml(daemon.options), encoding="utf-8")
    begin = daemon.log.stat().st_size

    def said():
        text = daemon.log.read_bytes()[begin:].decode(errors="replace")
        return text if "read again" in text or "not reloaded" in text else None

    daemon.process.signal(signal.SIGHUP)
    return wait_until(said, 30, f"{daemon.name} has looked at its configuration", alive=daemon.process.check_alive)


def cut_lanes(world):
    """Ends the connections of all lanes, and waits until they are there again."""
    def lanes():
        return {pid for (pid,) in world.sql("SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
                                            "AND application_name LIKE 'txmsg-lane-%%'")}

    before = lanes()
    assert len(before) >= 2
    world.sql("SELECT pg_terminate_backend(pid) FROM unnest(%s) pid", list(before))
    wait_until(lambda: not lanes() & before and len(lanes()) == len(before), 60, "the lanes are connected again")


def test_reload_log_levels(world, second):
    """What a room warns of is heard or not, as its level of the moment says."""
    lost = b" warn  store: lane "
    assert "log.level has a new value" in hang_up(second, log__level="error,txmsgd=info")
    begin = second.log.stat().st_size
    cut_lanes(world)
    assert "log.level has a new value" in hang_up(second, log__level="error,txmsgd=info,store=warn")
    assert lost not in second.log.read_bytes()[begin:]

    def speaks():
        cut_lanes(world)  # again and again: a lane may just be between two connections
        return lost in second.log.read_bytes()[begin:]

    wait_until(speaks, 60, "store speaks", interval=0.2)
    assert b" info  store:" not in second.log.read_bytes()[begin:]
    assert "log.level" not in hang_up(second), "nothing is new"


def test_reload_names_what_waits_for_a_start(second):
    said = hang_up(second, workers=2, drain="4s", dsn="host=127.0.0.1 password=hunter2")
    assert "workers has changed and cannot be reloaded" in said and "dsn has changed" in said
    assert "drain has a new value" in said and "hunter2" not in said
    assert "has changed" in hang_up(second), "it is named as long as it differs"
    assert second.get("/readyz")[0] == 200


@pytest.mark.parametrize("options", [{"log__level": "loud"}, {"lanes": 3}, {"drain": "soon"}])
def test_reload_of_a_mistake_changes_nothing(second, options):
    said = hang_up(second, **{"log__level": "error", **options})
    assert " error txmsgd: the configuration is not reloaded: " in said and "new value" not in said
    for name in options:
        del second.options[name.replace("__", ".")]
    second.options["log.level"] = "info"
    assert "read again" in hang_up(second), "it still speaks at info, and goes on"


def test_every_room_that_logs_has_a_level():
    used = {room for file in (TOP / "services").rglob("*.[ch]") if file.name != "log.h"
            for room in re.findall(r"LOG_(?:ERROR|WARN|INFO|DEBUG)\(\"([^\"]+)\"", file.read_text())}
    assert len(used) > 5
    for room in used:
        assert run("--dsn=x", "--check-config", f"--log.level=info,{room}=debug").returncode == 0, room
