"""DTM v1.19.0 on the same PostgreSQL: two-phase messages over HTTP, delivered to bench-sink."""

import os
import shutil
import signal
import subprocess
import urllib.request

from servers.process import Process, ServerError, free_port, wait_until

VERSION = "v1.19.0"
MODULE = "github.com/dtm-labs/dtm"
GO_MOD = f"module peers\n\ngo 1.21\n\nrequire {MODULE} {VERSION}\n"
TOOLS = f'//go:build tools\n\npackage peers\n\nimport _ "{MODULE}/dtmsvr"\n'
CONNECTIONS = 80 # PostgreSQL takes 100; DTM's default of 500 would be refused


class Dtm:
    @staticmethod
    def missing():
        return None if shutil.which("go") else "Go"

    def __init__(self, place, directory):
        self.place, self.directory, self.process = place, directory, None
        self.port = 0

    def build(self):
        """`go install` of it fails: it is built as a dependency."""
        if (self.directory / "dtm").exists():
            return
        (self.directory / "go.mod").write_text(GO_MOD, encoding="ascii")
        (self.directory / "tools.go").write_text(TOOLS, encoding="ascii")
        subprocess.run(["go", "build", "-mod=mod", "-o", "dtm", MODULE], cwd=self.directory, check=True)

    def schema(self):
        """Its own, from the module."""
        found = subprocess.run(["go", "list", "-mod=mod", "-m", "-f", "{{.Dir}}", MODULE], cwd=self.directory, check=True,
                               capture_output=True, text=True).stdout.strip()
        with open(os.path.join(found, "sqls/dtmsvr.storage.postgres.sql"), encoding="utf-8") as file:
            return file.read()

    def start(self):
        self.build()
        postgres = self.place.postgres
        postgres.create_database("dtm")
        postgres.psql(self.schema(), "dtm")
        self.port = free_port()
        home = self.place.base / "dtm"
        home.mkdir()
        config = home / "conf.yml"
        config.write_text(
            f"Store:\n  Driver: postgres\n  Host: 127.0.0.1\n  Port: {postgres.port}\n  User: txmsg\n"
            f"  Password: '{postgres.password}'\n  Db: dtm\n  MaxOpenConns: {CONNECTIONS}\n  MaxIdleConns: {CONNECTIONS}\n"
            f"HttpPort: {self.port}\nGrpcPort: {free_port()}\nJsonRpcPort: {free_port()}\nLogLevel: warn\n",
            encoding="utf-8")
        config.chmod(0o600)
        _, self.sink = self.place.tool("bench-sink")
        self.process = Process("dtm", [self.directory / "dtm", "-c", config], home / "dtm.log", cwd=home)
        wait_until(self.ready, 30, "DTM answers", alive=self.process.check_alive)
        self.rest()

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/dtmsvr/newGid", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def pids(self):
        return [self.process.pid]

    def prepare(self):
        """Each run begins with empty tables: with many rows it gets slower."""
        self.process.signal(signal.SIGCONT)
        self.empty()
        self.place.postgres.psql("CHECKPOINT")

    def empty(self):
        self.place.postgres.psql("TRUNCATE trans_global, trans_branch_op", "dtm")

    def rest(self):
        """What a run has left would be worked on while others are measured, in the same PostgreSQL."""
        self.empty()
        wait_until(self.idle, 30, "DTM has nothing to do")
        self.process.signal(signal.SIGSTOP)

    def idle(self):
        return self.place.postgres.psql("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'dtm' AND state <> 'idle'"
                                        " AND pid <> pg_backend_pid()").strip() == "t"

    def command(self, callers):
        options = self.place.options
        return [options.build / "tests/bench/dtm-load", f"--server=127.0.0.1:{self.port}",
                f"--action=http://127.0.0.1:{self.sink}/ok", f"--callers={callers}", f"--seconds={options.seconds:g}",
                f"--warmup={options.warmup:g}", "--json", "--phases"]

    def close(self):
        if self.process:
            self.process.signal(signal.SIGCONT)
            self.process.stop(10)
            if self.process.popen.returncode not in (0, -15):
                raise ServerError(f"DTM ended with {self.process.popen.returncode}: {self.process.tail()}")
            self.process = None
