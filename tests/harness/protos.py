"""Generated client code, made by grpcio-tools once per session, before the test modules are read."""

import atexit
import shutil
import sys
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc
import importlib.resources

from . import TOP

PROTO = TOP / "proto"


def _protoc(*args):
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    code = protoc.main(["protoc", f"--proto_path={PROTO}", f"--proto_path={well_known}", *map(str, args)])
    if code != 0:
        raise RuntimeError(f"protoc ended with {code}")


def generate():
    """Makes `txmsg.v1` importable. google.rpc comes from googleapis-common-protos, so the copies in proto/ are held
    against the originals by every test that reads error details."""
    target = tempfile.mkdtemp(prefix="txmsg-stubs-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    _protoc(f"--python_out={target}", f"--grpc_python_out={target}", *sorted((PROTO / "txmsg/v1").glob("*.proto")))
    sys.path.insert(0, target)


def descriptor_set():
    """The FileDescriptorSet of everything under proto/, with imports."""
    with tempfile.NamedTemporaryFile(suffix=".protoset") as out:
        _protoc(f"--descriptor_set_out={out.name}", "--include_imports", *sorted(PROTO.rglob("*.proto")))
        return descriptor_pb2.FileDescriptorSet.FromString(out.read())


def private_messages():
    """Message classes by full name in a pool of their own, for protos whose Python modules would collide (grpc.*)."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_set().file:
        pool.Add(file)
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
