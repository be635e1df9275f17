"""The generated messages are those of control.proto, and old ones are still read."""

from __future__ import annotations

import re
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor

from migrate.transport import control_pb2

PROTO = Path(control_pb2.__file__).with_name("control.proto")
KINDS = {
    "uint64": FieldDescriptor.TYPE_UINT64,
    "uint32": FieldDescriptor.TYPE_UINT32,
    "string": FieldDescriptor.TYPE_STRING,
    "bytes": FieldDescriptor.TYPE_BYTES,
}


def test_the_generated_code_has_every_message_and_field_of_the_proto_file() -> None:
    declared: dict[str, set[tuple[str, str, int]]] = {}
    message = ""
    for line in PROTO.read_text().splitlines():
        if found := re.match(r"message (\w+)", line):
            message = found[1]
            declared[message] = set()
        elif found := re.match(r"\s+(?:repeated )?(\w+) (\w+) = (\d+);", line):
            declared[message].add((found[1], found[2], int(found[3])))
    names = {number: name for name, number in KINDS.items()}
    generated = {
        name: {
            (
                field.message_type.name if field.message_type else names[field.type],
                field.name,
                field.number,
            )
            for field in descriptor.fields
        }
        for name, descriptor in control_pb2.DESCRIPTOR.message_types_by_name.items()
    }
    assert generated == declared


def test_a_message_of_the_first_version_is_read_as_it_was_written() -> None:
    wire = bytes.fromhex("08032a0d0a0361646412065b312c32205d")
    call = control_pb2.Control.FromString(wire)
    assert (call.id, call.call.method, call.call.json) == (3, "add", b"[1,2 ]")


def test_a_body_of_a_later_version_is_no_body_and_no_error() -> None:
    wire = control_pb2.Control(id=1).SerializeToString() + bytes.fromhex("fa3f0568656c6c6f")
    assert control_pb2.Control.FromString(wire).WhichOneof("body") is None
