# SPDX-License-Identifier: Apache-2.0
"""What is generated and committed is what ``proto/`` says, and what Istio's peers speak."""

import subprocess
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from wire.istio.v1.auth import ca_pb2

ROOT = Path(__file__).parents[2]


def test_the_committed_modules_are_the_generated_ones(tmp_path):
    """``make proto`` would change nothing."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools generates the modules")
    subprocess.run([ROOT / "scripts" / "proto", tmp_path], check=True, capture_output=True)
    generated = {p.relative_to(tmp_path): p for p in tmp_path.rglob("*.py*") if p.is_file()}
    assert Path("istio/v1/auth/ca_pb2.py") in generated
    for name, path in generated.items():
        assert path.read_text() == (ROOT / "wire" / name).read_text(), f"run `make proto`: {name}"


def test_every_proto_has_its_module():
    for proto in (ROOT / "proto").rglob("*.proto"):
        name = proto.relative_to(ROOT / "proto").with_suffix("")
        assert (ROOT / "wire" / f"{name}_pb2.py").exists()


def test_the_numbers_are_istios():
    """istio.v1.auth.IstioCertificateService: a change here is a break with istiod."""
    file = FileDescriptorProto()
    ca_pb2.DESCRIPTOR.CopyToProto(file)
    fields = {
        (message.name, field.name): field.number
        for message in file.message_type
        for field in message.field
    }
    assert file.package == "istio.v1.auth"
    assert fields == {
        ("IstioCertificateRequest", "csr"): 1,
        ("IstioCertificateRequest", "validity_duration"): 3,
        ("IstioCertificateRequest", "metadata"): 4,
        ("IstioCertificateResponse", "cert_chain"): 1,
    }
    assert [(s.name, m.name) for s in file.service for m in s.method] == [
        ("IstioCertificateService", "CreateCertificate")
    ]


def test_the_bytes_are_istios():
    """Written by hand from the field numbers: what istiod would receive."""
    request = ca_pb2.IstioCertificateRequest(csr="c", validity_duration=86400)
    request.metadata.update({"ImpersonatedIdentity": "i"})
    entry = b"\x0a\x14ImpersonatedIdentity\x12\x03\x1a\x01i"
    struct = b"\x0a" + bytes([len(entry)]) + entry
    assert request.SerializeToString() == (
        b"\x0a\x01c" + b"\x18\x80\xa3\x05" + b"\x22" + bytes([len(struct)]) + struct
    )
