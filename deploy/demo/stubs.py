"""Python code for the public contract, made from proto/ with Debian's protoc when it is needed."""

import pathlib
import subprocess
import sys

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


def generate(target):
    """Writes the modules below `target`; answers it."""
    target = pathlib.Path(target)
    target.mkdir(parents=True, exist_ok=True)
    files = [*sorted((PROTO / "txmsg/v1").glob("*.proto")), PROTO / "google/rpc/status.proto"]
    subprocess.run(["/usr/bin/protoc", f"--proto_path={PROTO}", "--proto_path=/usr/include", f"--python_out={target}",
                    f"--grpc_python_out={target}", "--plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin",
                    *[str(f) for f in files]], check=True)
    return target


def load(target):
    """Makes the generated modules importable, `google.rpc` among the installed ones of `google` too."""
    import google

    target = pathlib.Path(target)
    sys.path.insert(0, str(target))
    if str(target / "google") not in google.__path__:
        google.__path__.append(str(target / "google"))
