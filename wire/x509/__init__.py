# SPDX-License-Identifier: Apache-2.0
"""Keys, certificate requests and certificates: the doorway to ``cryptography``.

Other packages hold these values and never the library's own. Nothing here reads a file, a clock or
the network; a private key shows itself in no ``repr``. Everything refused is an :class:`X509Error`.
"""

from wire.x509.certificate import Certificate, parse_certificates
from wire.x509.chain import verify_chain
from wire.x509.errors import X509Error
from wire.x509.keys import Curve, PrivateKey
from wire.x509.request import CertificateRequest, build_request
from wire.x509.sign import Issuer, leaf_profile, make_root, server_profile

__all__ = [
    "Certificate",
    "CertificateRequest",
    "Curve",
    "Issuer",
    "PrivateKey",
    "X509Error",
    "build_request",
    "leaf_profile",
    "make_root",
    "parse_certificates",
    "server_profile",
    "verify_chain",
]
