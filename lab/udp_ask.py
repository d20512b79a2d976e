# SPDX-License-Identifier: Apache-2.0
"""Send one UDP datagram from an unconnected socket, print who answered. Run by path, inside a pod.

    python udp_ask.py ADDRESS PORT TEXT

Prints one JSON object; status 1 if nothing came back within two seconds.
"""

import json
import socket
import sys
import time


def ask(address: str, port: int, text: str) -> dict[str, object]:
    """Send ``text``; return the answer, its source, our port and the time it took."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        began = time.perf_counter()
        sock.sendto(f"{text}\n".encode(), (address, port))
        answer, peer = sock.recvfrom(65536)
        total = time.perf_counter() - began
        return {
            "answer": answer.decode().strip(),
            "peer_ip": peer[0],
            "peer_port": peer[1],
            "local_port": sock.getsockname()[1],
            "total": total,
        }


if __name__ == "__main__":
    try:
        print(json.dumps(ask(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
    except OSError as error:
        sys.exit(f"no answer from {sys.argv[1]}:{sys.argv[2]}: {error}")
