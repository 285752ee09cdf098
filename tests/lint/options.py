#!/usr/bin/python3
"""services/txmsgd/OPTIONS.md is what `txmsgd --print-options` prints, so that every option is documented. `--fix` writes it.
The build directory is $TXMSG_BUILD, by default `build`."""

import os
import pathlib
import subprocess
import sys

import tree

PAGE = "services/txmsgd/OPTIONS.md"


def main():
    build = pathlib.Path(os.environ.get("TXMSG_BUILD") or tree.TOP / "build")
    printed = subprocess.run([build / "services/txmsgd/txmsgd", "--print-options"], capture_output=True, text=True,
                             check=True).stdout
    page = tree.TOP / PAGE
    if "--fix" in sys.argv[1:]:
        page.write_text(printed, encoding="utf-8")
    written = page.read_text(encoding="utf-8") if page.exists() else ""
    faults = []
    if written != printed:
        faults.append(f"{PAGE} is not what txmsgd --print-options prints; tests/lint/options.py --fix writes it")
    tree.end(faults, "pages are out of date")


if __name__ == "__main__":
    main()
