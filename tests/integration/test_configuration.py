"""txmsgd's own options: strength of sources, mistakes named, exit codes."""

import os
import re
import subprocess

import pytest
from harness import BUILD
from servers.process import free_port
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
