# SPDX-License-Identifier: Apache-2.0
"""A stranger at port 15008: `python -m bench.soak.hostile SEED ADDRESS …`. Standard library only.

Garbage, half-open connections, a TLS client without a certificate, plain HTTP/2; bounded to a few
connections and seconds. Prints nothing: what counts is that nobody else notices.
"""

import contextlib
import random
import socket
import ssl
import sys
import time

HBONE_PORT = 15008


def poke(rng: random.Random, address: str) -> None:
    """Do one bad thing."""
    way = rng.choice(("garbage", "silence", "tls", "http2", "reset"))
    with contextlib.suppress(OSError), socket.create_connection((address, HBONE_PORT), 2) as sock:
        if way == "garbage":
            sock.sendall(rng.randbytes(rng.randrange(1, 20000)))
        elif way == "silence":
            sock.sendall(b"\x16\x03\x01\x02\x00")
            time.sleep(rng.random())
        elif way == "http2":
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(200))
        elif way == "tls":
            _without_certificate(sock)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _without_certificate(sock: socket.socket) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(ssl.SSLError), context.wrap_socket(sock) as tls:
        tls.sendall(bytes(100))
        tls.recv(100)


if __name__ == "__main__":
    chosen = random.Random(int(sys.argv[1]))
    for _ in range(30):
        poke(chosen, chosen.choice(sys.argv[2:]))
