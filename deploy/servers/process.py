"""A child process that ends when its parent ends, and small helpers around starting servers."""

import contextlib
import ctypes
import os
import pathlib
import pwd
import random
import secrets
import signal
import socket
import subprocess
import tempfile
import time

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


class ServerError(Exception):
    """A server did not start, or did not do what it was asked; the text is for people."""


def wait_until(condition, timeout, what, interval=0.02, alive=None):
    """Polls `condition` until it answers something true, and answers that. `alive` may raise to end the wait early."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if alive:
            alive()
        if time.monotonic() >= deadline:
            raise ServerError(f"not within {timeout:g} s: {what}")
        time.sleep(interval)


def free_port():
    """A free TCP port of the loopback address, below the range that the system gives away: nobody else gets it before its server is
    started, or while that is started again."""
    while True:
        port = random.SystemRandom().randrange(12000, 32000)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                s.bind(("127.0.0.1", port))
                return port


def service_user(name):
    """The account a server must run under: `name` when root starts it, else the caller's (None)."""
    return name if os.geteuid() == 0 else None


def make_directory(path, user=None, mode=0o755):
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    if user:
        account = pwd.getpwnam(user)
        os.chown(path, account.pw_uid, account.pw_gid)
    path.chmod(mode)
    return path


def stored_secret(path, length=18):
    """A password that stays the same when a data directory is used again."""
    path = pathlib.Path(path)
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_urlsafe(length), encoding="ascii")
    return path.read_text(encoding="ascii")


def base_directory(wanted=None):
    """The directory under which servers keep their data. Servers that root starts run under accounts of their own, which
    must be able to walk there: a home directory is often closed to them."""
    if wanted is None:
        path = pathlib.Path(tempfile.mkdtemp(prefix="txmsg-", dir="/var/tmp"))
        path.chmod(0o755)
        return path
    path = pathlib.Path(wanted).resolve()
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        for step in (path, *path.parents):
            if not step.stat().st_mode & 0o001:
                raise ServerError(f"the database account cannot enter {step}; choose a directory under /var/tmp")
    return path


def tail(log, lines=25):
    """The last lines of a log file."""
    with contextlib.suppress(OSError):
        return "\n".join(pathlib.Path(log).read_text(errors="replace").splitlines()[-lines:])
    return ""


class Process:
    """One child process with its output in a log file. `stop` asks and then insists; the kernel sends `stop_signal` if
    this program dies first."""

    def __init__(self, name, args, log, user=None, env=None, cwd="/", stop_signal=signal.SIGTERM):
        self.name = name
        self.log = pathlib.Path(log)
        self.stop_signal = stop_signal
        account = {}
        if user:
            entry = pwd.getpwnam(user)
            account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        with open(self.log, "ab") as out:
            self.popen = subprocess.Popen(
                [os.fspath(a) for a in args], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=cwd,
                start_new_session=True, preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, stop_signal), **account)

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def check_alive(self):
        if not self.alive():
            raise ServerError(f"{self.name} ended with {self.popen.returncode}; the end of {self.log}:\n{self.tail()}")

    def tail(self):
        return tail(self.log)

    def signal(self, number):
        if self.alive():
            self.popen.send_signal(number)

    def wait(self, timeout):
        return self.popen.wait(timeout)

    def stop(self, timeout=30):
        """Answers the exit code; SIGKILL after `timeout`."""
        self.signal(signal.SIGCONT)
        self.signal(self.stop_signal)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.popen.wait(30)


def run(args, user=None, env=None, timeout=120, cwd="/"):
    """Runs a command to its end under `user`; a failure is an error with its output."""
    account = {}
    if user:
        entry = pwd.getpwnam(user)
        account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    done = subprocess.run([os.fspath(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=env, cwd=cwd, timeout=timeout, text=True, check=False, **account)
    if done.returncode != 0:
        raise ServerError(f"{os.path.basename(os.fspath(args[0]))} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout
