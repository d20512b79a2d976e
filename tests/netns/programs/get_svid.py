# SPDX-License-Identifier: Apache-2.0
"""Get a certificate from the authority over gRPC, as any client of Istio's service would.

    python get_svid.py ADDRESS ANCHOR TOKEN_FILE SPIFFE_ID DIRECTORY

Writes key.pem, chain.pem and roots.pem. Run on a node of the lab.
"""

import sys
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wire.istio.v1.auth.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse


def main(address: str, anchor: str, token_file: str, identity: str, directory: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    request = IstioCertificateRequest(
        csr=csr.public_bytes(serialization.Encoding.PEM).decode(), validity_duration=3600
    )
    request.metadata.update({"ImpersonatedIdentity": identity})
    credentials = grpc.ssl_channel_credentials(Path(anchor).read_bytes())
    with grpc.secure_channel(address, credentials) as channel:
        call = channel.unary_unary(
            "/istio.v1.auth.IstioCertificateService/CreateCertificate",
            request_serializer=IstioCertificateRequest.SerializeToString,
            response_deserializer=IstioCertificateResponse.FromString,
        )
        token = Path(token_file).read_text().strip()
        answer = call(request, metadata=(("authorization", f"Bearer {token}"),), timeout=10)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    *chain, root = answer.cert_chain
    (folder / "chain.pem").write_text("".join(chain))
    (folder / "roots.pem").write_text(root)


if __name__ == "__main__":
    main(*sys.argv[1:])
