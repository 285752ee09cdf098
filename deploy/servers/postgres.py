"""A private PostgreSQL 15. Local connections go through a socket directory that only its owner (and root) can enter; TCP
needs the password. Everything else is the default of PostgreSQL: synchronous commits and fsync stay on."""

import os
import pathlib
import signal
import tempfile

from .process import Process, ServerError, free_port, make_directory, run, service_user, stored_secret, wait_until

BIN = pathlib.Path("/usr/lib/postgresql/15/bin")


class Postgres:
    def __init__(self, directory, settings=None):
        self.user = service_user("postgres")
        self.directory = make_directory(directory, self.user, 0o700)
        self.data = self.directory / "data"
        self.log = self.directory / "postgres.log"
        self.password = stored_secret(self.directory / "secret")
        self.settings = dict(settings or {})
        self.port = free_port()
        self.process = None
        # A socket's path holds at most 107 bytes, so it does not live under a directory of the user's choice.
        self.sockets = make_directory(tempfile.mkdtemp(prefix="txmsg-pg-", dir="/tmp"), self.user, 0o700)

    def dsn(self, database="postgres", tcp=False, port=None):
        if tcp or port:
            return (f"host=127.0.0.1 port={port or self.port} user=txmsg password={self.password} dbname={database} "
                    "sslmode=disable")
        return f"host={self.sockets} port={self.port} user=txmsg dbname={database}"

    def start(self):
        if not self.data.exists():
            self._init()
        for attempt in range(5):
            try:
                return self._start()
            except ServerError as error:
                if "Address already in use" not in str(error) or attempt == 4:
                    raise
                self.port = free_port() # somebody was faster

    def _init(self):
        password = self.directory / "password"
        password.write_text(self.password + "\n", encoding="ascii")
        if self.user:
            os.chmod(password, 0o644)
        run([BIN / "initdb", "-D", self.data, "-U", "txmsg", "-E", "UTF8", "--no-locale", "--auth-local=trust",
             "--auth-host=scram-sha-256", f"--pwfile={password}", "--no-instructions"], user=self.user,
            cwd=self.directory)
        password.unlink()

    def _start(self):
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.sockets,
                    "logging_collector": "off", "log_line_prefix": "%m [%p] %a ", **self.settings}
        args = [BIN / "postgres", "-D", self.data]
        for name, value in settings.items():
            args += ["-c", f"{name}={value}"]
        self.process = Process("PostgreSQL", args, self.log, user=self.user, cwd=self.directory,
                               stop_signal=signal.SIGINT)
        wait_until(self.ready, 60, "PostgreSQL accepts connections", alive=self.process.check_alive)
        return self

    def ready(self):
        done = Ready(self.sockets, self.port)
        return done.answers()

    def stop(self, how=signal.SIGINT):
        """SIGINT: fast; SIGQUIT: immediate, as after a crash; SIGTERM: waits for clients."""
        if self.process:
            self.process.signal(signal.SIGCONT)
            self.process.signal(how)
            try:
                self.process.wait(60)
            finally:
                self.process.kill()
            self.process = None

    def crash(self):
        self.stop(signal.SIGQUIT)

    def restart(self, how=signal.SIGINT):
        self.stop(how)
        return self.start()

    def close(self):
        self.stop(signal.SIGQUIT)
        for leftover in self.sockets.glob(".s.PGSQL.*"):
            leftover.unlink(missing_ok=True)
        self.sockets.rmdir()

    def psql(self, sql, database="postgres"):
        return run([BIN / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, self.dsn(database)]).strip()

    def create_database(self, name, template=None):
        self.psql(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
        return self.dsn(name)


class Ready:
    """Asks pg_isready over the socket."""

    def __init__(self, sockets, port):
        self.args = [BIN / "pg_isready", "-q", "-h", sockets, "-p", str(port), "-U", "txmsg", "-d", "postgres"]

    def answers(self):
        try:
            run(self.args, timeout=5)
            return True
        except ServerError:
            return False
