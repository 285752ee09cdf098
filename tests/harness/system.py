"""What /proc and the kernel tell of a daemon, and what can be done to it from outside."""

import ctypes
import os
import pathlib
import re
import socket

_libc = ctypes.CDLL(None, use_errno=True)
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438 # the same numbers on every architecture


def metric(daemon, name, **labels):
    """The sum of a metric's series with these labels; 0 when there is none."""
    total = 0.0
    for line in daemon.get("/metrics")[1].splitlines():
        found = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
        if found and all(f'{k}="{v}"' in (found[1] or "") for k, v in labels.items()):
            total += float(found[2])
    return total


SANITIZED = "ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ


def room(mib):
    """Bytes that a daemon may grow by: a sanitizer keeps what was freed for a while, or a shadow of all."""
    return (mib << 20) * (5 if SANITIZED else 1)


def memory(pid):
    """(now, at most) resident bytes of a process."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return tuple(int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024 for name in ("VmRSS", "VmHWM"))


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def sockets_of(pid):
    """Copies of all stream sockets of a process, as (its descriptor, socket)."""
    pidfd = _libc.syscall(_PIDFD_OPEN, pid, 0)
    if pidfd < 0:
        raise OSError(ctypes.get_errno(), "pidfd_open")
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                    continue
            except FileNotFoundError:
                continue
            fd = _libc.syscall(_PIDFD_GETFD, pidfd, int(name), 0)
            if fd >= 0:
                yield int(name), socket.socket(fileno=fd)
    finally:
        os.close(pidfd)


def break_listener(pid, port):
    """The listening sockets of this port listen no more, without their process being told."""
    broken = 0
    for _, s in sockets_of(pid):
        with s:
            if s.family in (socket.AF_INET, socket.AF_INET6) and s.getsockname()[1] == port \
                    and s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                s.shutdown(socket.SHUT_RDWR)
                broken += 1
    assert broken, f"no socket of process {pid} listens on {port}"
