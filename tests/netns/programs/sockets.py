# SPDX-License-Identifier: Apache-2.0
"""Ways in which applications open a connection. Standard library only; run inside a pod.

    python sockets.py VARIANT ADDRESS PORT [OWN_ADDRESS]

Asks the lab's web server on the connection and prints a JSON list, an object for each connection:
peer (getpeername), local (getsockname), answer (the server's).
"""

import ctypes
import errno
import json
import select
import socket
import struct
import sys

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
FASTOPEN_CONNECT = 30
IPPROTO_MPTCP = 262
CLOSED = 9


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def make(address: str, protocol: int = 0) -> socket.socket:
    sock = socket.socket(family(address), TCP, protocol)
    sock.settimeout(10)
    return sock


def ask(sock: socket.socket, *, sent: bool = False) -> dict[str, object]:
    """Ask the web server, say what each end sees."""
    if not sent:
        sock.sendall(b"GET /whoami HTTP/1.0\r\n\r\n")
    peer, local = sock.getpeername()[:2], sock.getsockname()[:2]
    data = b""
    while more := sock.recv(65536):
        data += more
    sock.close()
    answer = json.loads(data.partition(b"\r\n\r\n")[2])
    return {"peer": peer, "local": local, "answer": answer}


def plain(address: str, port: int, _own: str) -> list:
    sock = make(address)
    sock.connect((address, port))
    return [ask(sock)]


def mapped(address: str, port: int, _own: str) -> list:
    """An IPv6 socket that dials ::ffff:a.b.c.d."""
    sock = make("::")
    sock.connect((f"::ffff:{address}", port))
    return [ask(sock)]


def nonblocking(address: str, port: int, _own: str) -> list:
    sock = make(address)
    sock.setblocking(False)
    if sock.connect_ex((address, port)) not in (0, errno.EINPROGRESS):
        raise SystemExit("connect was refused at once")
    select.select([], [sock], [], 10)
    if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise SystemExit(f"connect failed with {errno.errorcode[error]}")
    sock.setblocking(True)
    return [ask(sock)]


def retried(address: str, port: int, own: str) -> list:
    """One socket: first refused (a closed port of our own), then connected."""
    sock = make(address)
    sock.settimeout(None)
    first = sock.connect_ex((own, CLOSED))
    if first != errno.ECONNREFUSED:
        raise SystemExit(f"the closed port gave {first}")
    sock.connect((address, port))
    return [ask(sock)]


def unspecified(address: str, port: int, _own: str) -> list:
    """Connect, disconnect by AF_UNSPEC, connect again: the second peer counts."""
    sock = make(address)
    sock.connect((address, port))
    libc_disconnect(sock)
    sock.connect((address, port))
    return [ask(sock)]


def libc_disconnect(sock: socket.socket) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = struct.pack("H14x", socket.AF_UNSPEC)
    if libc.connect(sock.fileno(), nothing, len(nothing)) != 0:
        raise OSError(ctypes.get_errno(), "connect(AF_UNSPEC)")


def bound_address(address: str, port: int, own: str) -> list:
    sock = make(address)
    sock.bind((own, 0))
    sock.connect((address, port))
    return [ask(sock)]


def bound_device(address: str, port: int, _own: str) -> list:
    sock = make(address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    sock.connect((address, port))
    return [ask(sock)]


def same_port(address: str, port: int, own: str) -> list:
    """Two open connections with one source port, to two destinations. PORT and the VIP's 80."""
    first = make(address)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    first.bind((own, 0))
    number = first.getsockname()[1]
    first.connect((address, port))
    other = "fd81:2::13" if ":" in address else "10.81.2.13"
    # Captured sockets of one source port must take different capture ports, chosen by chance.
    for _ in range(30):
        second = make(address)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        second.bind((own, number))
        status = second.connect_ex((other, port))
        if status == 0:
            return [ask(sock) for sock in (first, second)]
        if status != errno.EADDRNOTAVAIL:
            raise OSError(status, "connect")
        second.close()
    raise SystemExit("the second destination never had room")


def both_families(address: str, port: int, _own: str) -> list:
    """One source port, used by a v4 and a v6 connection at once."""
    four = make("0.0.0.0")
    four.bind(("0.0.0.0", 0))
    number = four.getsockname()[1]
    six = make("::")
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.bind(("::", number))
    four.connect((address, port))
    six.connect(("fd81:2::11", port))
    return [ask(four), ask(six)]


def fast_open(address: str, port: int, _own: str) -> list:
    """sendto(MSG_FASTOPEN) instead of connect."""
    sock = make(address)
    sock.settimeout(None)
    sock.sendto(b"GET /whoami HTTP/1.0\r\n\r\n", socket.MSG_FASTOPEN, (address, port))
    return [ask(sock, sent=True)]


def fast_open_connect(address: str, port: int, _own: str) -> list:
    sock = make(address)
    sock.setsockopt(socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1)
    sock.connect((address, port))
    return [ask(sock)]


def multipath(address: str, port: int, _own: str) -> list:
    try:
        sock = make(address, IPPROTO_MPTCP)
    except OSError as error:
        raise SystemExit(f"no MPTCP: {error}") from error
    sock.connect((address, port))
    return [ask(sock)]


def connected_udp(address: str, port: int, _own: str) -> list:
    """A connected UDP socket; the echo answers."""
    sock = socket.socket(family(address), UDP)
    sock.settimeout(2)
    sock.connect((address, port))
    sock.send(b"hello\n")
    return [{"peer": sock.getpeername()[:2], "local": sock.getsockname()[:2],
             "answer": sock.recv(2000).decode().split()}]  # fmt: skip


VARIANTS = {
    "plain": plain,
    "mapped": mapped,
    "nonblocking": nonblocking,
    "retried": retried,
    "unspecified": unspecified,
    "bound-address": bound_address,
    "bound-device": bound_device,
    "same-port": same_port,
    "both-families": both_families,
    "fast-open": fast_open,
    "fast-open-connect": fast_open_connect,
    "multipath": multipath,
    "connected-udp": connected_udp,
}

if __name__ == "__main__":
    own_address = sys.argv[4] if len(sys.argv) > 4 else ""
    print(json.dumps(VARIANTS[sys.argv[1]](sys.argv[2], int(sys.argv[3]), own_address)))
