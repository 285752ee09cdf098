"""The public contract: what is served is what proto/ says, and every language's tools can read it."""

import re

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from harness import TOP, protos

SERVED = set(re.findall(r"^\| `(txmsg\.v1\.\w+)` \| (.*?) \|$", (TOP / "proto/README.md").read_text(encoding="utf-8"), re.M))


@pytest.fixture(scope="module")
def files():
    return {f.name: f for f in protos.descriptor_set().file}


def methods(files):
    return {f"{f.package}.{s.name}/{m.name}": m for f in files.values() if f.package == "txmsg.v1"
            for s in f.service for m in s.method}


def served():
    return {f"{service}/{name.strip()}" for service, names in SERVED for name in names.split(",")}


def test_readme_names_methods_that_are_there(files):
    assert served() <= set(methods(files)) and len(served()) >= 14


def test_what_is_said_to_be_served_is(client, files):
    """An empty request may be refused, but it is understood; everything else is UNIMPLEMENTED."""
    for path, method in methods(files).items():
        if path.startswith(("txmsg.v1.CheckService", "txmsg.v1.ConsumerService")):
            continue # served by applications
        with pytest.raises(grpc.RpcError) as caught:
            client.raw(f"/{path}", b"\xff")
        assert (caught.value.code() != grpc.StatusCode.UNIMPLEMENTED) == (path in served()), path


def test_reflection_serves_these_very_files(client, files):
    database = ProtoReflectionDescriptorDatabase(client.channel)
    for name, wanted in files.items():
        if name.startswith(("txmsg/", "google/rpc/status")):
            got = database.FindFileByName(name)
            got.ClearField("source_code_info")
            assert got == wanted, name


def test_names_follow_the_style(files):
    """AIP and buf: upper camel messages, lower snake fields, enum values with the name of their enum, a zero value."""
    faults = []
    for file in files.values():
        if file.package != "txmsg.v1":
            continue
        for message in file.message_type:
            faults += [f"{message.name}.{f.name}" for f in message.field if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", f.name)]
        for enum in [*file.enum_type, *(e for m in file.message_type for e in m.enum_type)]:
            prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
            faults += [v.name for v in enum.value if not v.name.startswith(prefix)]
            faults += [f"{enum.name} has no zero" for v in enum.value[:1] if v.number != 0 or not v.name.endswith("_UNSPECIFIED")]
        for service in file.service:
            faults += [f"{service.name}.{m.name}" for m in service.method
                       if not m.input_type.endswith(f".{m.name}Request") or not m.output_type.endswith(f".{m.name}Response")]
    assert not faults


def test_no_number_is_used_twice_or_reserved(files):
    for file in files.values():
        for message in file.message_type:
            reserved = {n for r in message.reserved_range for n in range(r.start, r.end)}
            numbers = [f.number for f in message.field]
            assert len(numbers) == len(set(numbers)) and not reserved & set(numbers), message.name
