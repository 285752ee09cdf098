"""What the kernel has counted: CPU time and memory of processes, the time of a durable write."""

import os
import pathlib
import re
import statistics
import tempfile
import time

TICK = os.sysconf("SC_CLK_TCK")


def _fields(pid):
    """Of /proc/PID/stat, behind the name; None when it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return text.rsplit(")", 1)[1].split()
    except OSError:
        return None


def process_ticks(pid):
    """(CPU ticks of a process, of its ended children); zeros when it is gone."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])) if fields else (0, 0)


def tree_ticks(pid):
    """CPU ticks of a process and of its children, also of those that have ended and were waited for."""
    total = sum(process_ticks(pid))
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _fields(entry)
            if fields and int(fields[1]) == pid:
                total += int(fields[11]) + int(fields[12])
    return total


def machine_ticks():
    """(busy, idle) of all cores; waiting for the disk counts as idle."""
    v = [int(x) for x in pathlib.Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
    return v[0] + v[1] + v[2] + v[5] + v[6] + v[7], v[3] + v[4]


def resident(pid):
    """Resident memory of a process in MiB; 0 when it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        return int(re.search(r"^VmRSS:\s+(\d+) kB", text, re.M)[1]) / 1024
    except (OSError, TypeError):
        return 0.0


def sync_time(directory):
    """Median time of fdatasync after appending 8 KiB, in ms: what one commit cannot be faster than."""
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            os.write(file.fileno(), b"\0" * 8192)
            begin = time.monotonic()
            os.fdatasync(file.fileno())
            times.append(time.monotonic() - begin)
    return statistics.median(times) * 1e3
