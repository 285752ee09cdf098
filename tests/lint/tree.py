"""The files of the project, for the lints: what git tracks or would track, or all there is where git is not at hand."""

import os
import pathlib
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
CORPUS = ("tests", "fuzz", "corpus") # bytes, whatever they look like
IGNORED = {".git", ".venv", "__pycache__", ".pytest_cache"}


def _tracked():
    try:
        listed = subprocess.run(["git", "-C", TOP, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                                capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return [pathlib.Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]


def files(*suffixes):
    """Paths of regular files with one of these suffixes (all, if none is given), relative to the top."""
    names = _tracked()
    if names is None:
        names = [p.relative_to(TOP) for p in TOP.rglob("*") if not IGNORED & set(p.relative_to(TOP).parts)
                 and not p.relative_to(TOP).parts[0].startswith("build")]
    return sorted(n for n in set(names) if (TOP / n).is_file() and n.parts[:3] != CORPUS
                  and (not suffixes or n.suffix in suffixes))


def text(name):
    """The text of a file, None if it is not text."""
    try:
        return (TOP / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def end(faults, what):
    """Says what was found and ends."""
    for fault in faults:
        print(fault)
    if faults:
        print(f"{len(faults)} {what}")
    sys.exit(1 if faults else 0)
