#!/usr/bin/python3
"""C files are formatted as .clang-format says. `--fix` writes the format into the files."""

import subprocess
import sys

import tree


def main():
    names = [str(n) for n in tree.files(".c", ".h")]
    fix = "--fix" in sys.argv[1:]
    faults = []
    for i in range(0, len(names), 50):
        done = subprocess.run(["clang-format-14", *(["-i"] if fix else ["--dry-run", "-Werror"]), *names[i:i + 50]],
                              cwd=tree.TOP, capture_output=True, text=True, check=False)
        faults += [line for line in done.stderr.splitlines() if ": error: " in line]
    tree.end(faults, "places are not formatted; tests/lint/format.py --fix does it")


if __name__ == "__main__":
    main()
