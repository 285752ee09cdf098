"""txmsgd and txmsgctl of a build directory."""

import json
import os
import pathlib
import re
import signal
import subprocess
import urllib.error
import urllib.request

from .process import Process, ServerError, make_directory, tail, wait_until

LISTENING = re.compile(r"listening grpc=(127\.0\.0\.1):(\d+) http=(127\.0\.0\.1):(\d+)")


def daemon_binary(build):
    return pathlib.Path(build) / "services/txmsgd/txmsgd"


def ctl_binary(build):
    return pathlib.Path(build) / "client/txmsgctl/txmsgctl"


def clean_environment(extra=None):
    """The caller's environment without settings of txmsg."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TXMSG_")}
    return {**env, **(extra or {})}


class Txmsgd:
    """One daemon. `options` are its configuration by dotted names; each start listens on new free ports unless given."""

    def __init__(self, build, directory, dsn, options=None, name="txmsgd"):
        self.build = pathlib.Path(build)
        self.name = name
        self.directory = make_directory(directory)
        self.options = {"dsn": dsn, "grpc.listen": "127.0.0.1:0", "http.listen": "127.0.0.1:0", **(options or {})}
        self.config = self.directory / f"{name}.yaml"
        self.log = self.directory / f"{name}.log"
        self.wrapper = [] # a command that runs the daemon, prlimit for one
        self.process = None
        self.grpc_port = self.http_port = 0

    @property
    def grpc(self):
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http(self):
        return f"http://127.0.0.1:{self.http_port}"

    def start(self, ready=True, timeout=30):
        self.config.write_text(to_yaml(self.options), encoding="utf-8")
        os.chmod(self.config, 0o600)
        begin = self.log.stat().st_size if self.log.exists() else 0
        self.process = Process(self.name, [*self.wrapper, daemon_binary(self.build), "--config", self.config], self.log,
                               env=clean_environment(), cwd=self.directory)

        def listening():
            with open(self.log, encoding="utf-8", errors="replace") as log:
                log.seek(begin)
                return LISTENING.search(log.read())

        found = wait_until(listening, timeout, f"{self.name} says that it listens", alive=self.process.check_alive)
        self.grpc_port, self.http_port = int(found[2]), int(found[4])
        if ready:
            self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout=30):
        wait_until(lambda: self.get("/readyz")[0] == 200, timeout, f"{self.name} is ready ({self.get('/readyz')})",
                   alive=self.process.check_alive)

    def get(self, path):
        """(status, text) of its HTTP port; status 0 when it cannot be reached."""
        try:
            with urllib.request.urlopen(self.http + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError as error:
            return 0, str(error)

    def stop(self, timeout=40):
        """SIGTERM; answers the exit code."""
        code = None
        if self.process:
            code = self.process.stop(timeout)
            self.process = None
        return code

    def kill(self):
        if self.process:
            self.process.kill()
            self.process = None

    def freeze(self):
        self.process.signal(signal.SIGSTOP)

    def thaw(self):
        self.process.signal(signal.SIGCONT)

    def restart(self, kill=False):
        if kill:
            self.kill()
        else:
            self.stop()
        return self.start()

    def close(self):
        """Stops it if it still runs; an end other than a clean one is an error."""
        code = self.stop()
        if code not in (0, None):
            raise ServerError(f"{self.name} ended with {code}; the end of {self.log}:\n{tail(self.log)}")


class Ctl:
    """txmsgctl against one server."""

    def __init__(self, build, server=None, dsn=None):
        self.binary = ctl_binary(build)
        self.server = server
        self.dsn = dsn

    def run(self, *args, stdin=None, timeout=60, env=None):
        """The finished process, whatever its exit code."""
        server = self.server() if callable(self.server) else self.server
        extra = {"TXMSG_SERVER": server} if server else {}
        if self.dsn:
            extra["TXMSG_DSN"] = self.dsn
        source = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run([os.fspath(self.binary), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=timeout, env=clean_environment({**extra, **(env or {})}), check=False,
                              **source)

    def __call__(self, *args, stdin=None):
        """Its output; a failure is an error."""
        done = self.run(*args, stdin=stdin)
        if done.returncode != 0:
            raise ServerError(f"txmsgctl {' '.join(map(str, args))} ended with {done.returncode}: "
                              f"{done.stderr}{done.stdout}")
        return done.stdout

    def json(self, *args, stdin=None):
        return json.loads(self("--json", *args, stdin=stdin))

    def apply(self, topology, *args):
        """Applies a topology given as Python data. Its endpoints are not connected to: peers count what comes."""
        return self("apply", "--no-probe", "-f", "-", *args, stdin=to_yaml(topology))


def to_yaml(value):
    """Python data as YAML. JSON is YAML, and its quoting has no surprises; dotted names at the top become nested ones."""
    nested = {}
    for name, item in value.items():
        place = nested
        *path, last = name.split(".") if isinstance(name, str) else [name]
        for step in path:
            place = place.setdefault(step, {})
        place[last] = item
    return json.dumps(nested, indent=1, ensure_ascii=False) + "\n"
