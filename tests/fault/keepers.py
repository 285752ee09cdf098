"""One long-lived thread for each server under attack: it takes orders, records what it does, and brings its server back when
it ends. (A child process is told to end when the *thread* that started it does; so these threads live as long as the run.)"""

import contextlib
import queue
import threading
import time

import psycopg2
from servers.process import ServerError, wait_until

ORDERLY = 1 # the exit code of a daemon that could not start: it says why and wants to be started again


class Keeper(threading.Thread):
    """Takes one order after the other; between them it looks after its server (`watch`)."""

    def __init__(self, name, history):
        super().__init__(name=name, daemon=True)
        self.history = history
        self.orders = queue.SimpleQueue()
        self.broken = None
        self.ordered = self.done = 0 # the one is written by the runner alone, the other by this thread alone
        self.mending = False
        self.held = False

    @property
    def busy(self):
        return self.ordered != self.done or self.mending

    def order(self, what, **how):
        self.ordered += 1
        self.orders.put((what, how))

    def run(self):
        while True:
            try:
                what, how = self.orders.get(timeout=0.05)
            except queue.Empty:
                if not self.held:
                    self._carry_out("watch", {})
                continue
            self._carry_out(what, how)
            self.done += 1

    def _carry_out(self, what, how):
        try:
            getattr(self, what)(**how)
        except Exception as error: # the runner reads it; nothing may end this thread
            self.broken = f"{self.name}: {what}: {error}"
            self.history.fact("broken", who=self.name, error=self.broken)

    def rest(self, seconds):
        """Waits for the pleasure of the schedule: how long a server is away or frozen is part of the fault."""
        threading.Event().wait(seconds)

    @contextlib.contextmanager
    def recorded(self, f, **fields):
        op = self.history.invoke(f, who=self.name, **fields)
        more = {}
        yield more
        self.history.end(op, "ok", **more)

    def watch(self):
        pass

    def hold(self):
        """From now on it leaves its server alone."""
        self.held = True


class Replica(Keeper):
    def __init__(self, daemon, history):
        super().__init__(daemon.name, history)
        self.daemon = daemon

    def up(self):
        """Starts it until it listens; it may give up while there is no database, and then says so."""
        deadline = time.monotonic() + 120
        while True:
            try:
                self.daemon.start(ready=False, timeout=60)
                self.history.fact("started", who=self.name, pid=self.daemon.process.pid)
                return
            except ServerError as error:
                if self.daemon.process.alive() or self.daemon.process.popen.returncode != ORDERLY or time.monotonic() > deadline:
                    raise ServerError(f"does not start: {error}") from None
                self.rest(0.2)

    def kill(self, down):
        if not self.daemon.process:
            return
        with self.recorded("kill"):
            self.daemon.kill()
        self.rest(down)
        self.up()

    def terminate(self):
        if not self.daemon.process:
            return
        with self.recorded("terminate") as end:
            end["code"] = self.daemon.stop(60)
        self.up()

    def freeze(self, seconds):
        if not self.daemon.process:
            return
        with self.recorded("freeze"):
            self.daemon.freeze()
            self.rest(seconds)
            self.daemon.thaw()

    def stop(self):
        if self.daemon.process:
            self.history.fact("stopped", who=self.name, code=self.daemon.stop(60))

    def watch(self):
        process = self.daemon.process
        if process and not process.alive():
            self.history.fact("died", who=self.name, code=process.popen.returncode)
            self.mending = True
            self.daemon.process = None
            self.up()
            self.mending = False


class Database(Keeper):
    """`mount`: where its file system is mounted, if it has one of its own."""

    def __init__(self, postgres, database, history, mount=None):
        super().__init__("postgres", history)
        self.postgres, self.database, self.mount = postgres, database, mount

    def crash(self, down):
        with self.recorded("crash"):
            self.postgres.crash()
            self.history.fact("down", who=self.name)
            self.rest(down)
            self.start_it()

    def start_it(self):
        wait_until(self.comes_up, 120, "PostgreSQL starts again", interval=0.2)

    def comes_up(self):
        self.history.fact("coming up", who=self.name)
        try:
            return self.postgres.start()
        except ServerError as error:
            self.postgres.process = None
            self.history.fact("refused to start", who=self.name, error=str(error)[-500:])
            return None

    def backends(self, share):
        """Ends the backends of daemons: `lane` those that commit, `all`, or one of them."""
        which = {"all": "true", "lane": "application_name ~ 'lane'", "one": "true"}[share]
        with self.recorded("backends", share=share) as end:
            try:
                with contextlib.closing(psycopg2.connect(self.postgres.dsn(self.database), connect_timeout=5)) as db:
                    db.autocommit = True
                    with db.cursor() as cursor:
                        cursor.execute(
                            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE datname = %s "
                            f"AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND {which} "
                            f"ORDER BY random() LIMIT {1 if share == 'one' else 1000}) x", (self.database,))
                        end["ended"] = cursor.fetchone()[0]
            except psycopg2.Error as error:
                end.update(ended=0, error=type(error).__name__)

    def fill(self, seconds):
        """No room is left for a while. PostgreSQL may stop itself over this (a WAL file that cannot be made): then it is
        started again once there is room, as its supervisor would do."""
        with self.recorded("full") as end:
            self.mount.fill()
            self.rest(seconds)
            self.mount.free()
            end["stopped"] = not self.postgres.process.alive()
            self.watch()

    def watch(self):
        process = self.postgres.process
        if process and not process.alive():
            self.history.fact("ended", who=self.name, code=process.popen.returncode)
            self.mending = True
            self.postgres.process = None
            self.start_it()
            self.mending = False


class Broker(Keeper):
    def __init__(self, rabbit, history):
        super().__init__("rabbitmq", history)
        self.rabbit = rabbit

    def restart(self, crash):
        with self.recorded("rabbit", crash=crash):
            self.rabbit.stop(kill=crash)
            self.rabbit.start()
