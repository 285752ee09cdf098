#!/usr/bin/python3
"""Shell and Python scripts can be read by their interpreters, and what is meant to be run is executable."""

import subprocess

import tree


def main():
    faults = []
    for name in tree.files():
        body = tree.text(name) or ""
        first = body.split("\n", 1)[0]
        if name.suffix == ".sh" or first.startswith("#!") and "sh" in first.rsplit("/", 1)[-1]:
            done = subprocess.run(["bash", "-n", tree.TOP / name], capture_output=True, text=True, check=False)
            faults += done.stderr.splitlines()
        if name.suffix == ".py":
            try:
                compile(body, str(name), "exec")
            except SyntaxError as error:
                faults.append(str(error))
        if first.startswith("#!") and not (tree.TOP / name).stat().st_mode & 0o100:
            faults.append(f"{name}: begins with {first} but is not executable")
    tree.end(faults, "faults")


if __name__ == "__main__":
    main()
