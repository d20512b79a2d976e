# SPDX-License-Identifier: Apache-2.0
"""The ends of request/response, of open connections and of dials; the standard library only.

peer.py serve PORT                       echo on every address, one epoll loop
peer.py ask ADDRESS PORT SECONDS         128 bytes there and back, one at a time; JSON
peer.py dial ADDRESS PORT                connect over and over; a line when the answer changes
peer.py hold ADDRESS PORT COUNT          open so many, prove each, print "open", wait for EOF
"""

import json
import select
import socket
import struct
import sys
import time

__all__ = ["main"]

MESSAGE = b"x" * 128
"""As small as an RPC header, so that the path is measured and not the copying."""
PATIENCE_SECONDS = 10
WARMUP_SECONDS = 0.2


def serve(port: int) -> None:
    """Echo for ever."""
    listener = socket.create_server(("", port), backlog=4096)
    listener.settimeout(0)
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    open_ones: dict[int, socket.socket] = {}
    while True:
        for number, _ in epoll.poll():
            if number == listener.fileno():
                accepted, _ = listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                open_ones[accepted.fileno()] = accepted
                epoll.register(accepted.fileno(), select.EPOLLIN)
            elif not _echo(open_ones[number]):
                open_ones.pop(number).close()


def _echo(connection: socket.socket) -> bool:
    """Send back what has come; False at the end of the connection."""
    try:
        data = connection.recv(65536)
        connection.sendall(data)
    except OSError:
        return False
    return bool(data)


def _exchange(connection: socket.socket) -> None:
    connection.sendall(MESSAGE)
    missing = len(MESSAGE)
    while missing:
        got = len(connection.recv(4096))
        if not got:
            raise SystemExit("the connection ended in the middle of an answer")
        missing -= got


def _dial(address: str, port: int) -> socket.socket:
    connection = socket.create_connection((address, port), timeout=PATIENCE_SECONDS)
    connection.settimeout(None)
    # Python's own timeout would poll before each recv; the kernel's costs nothing.
    patience = struct.pack("@ll", PATIENCE_SECONDS, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(address: str, port: int, seconds: float) -> None:
    """Ask for so long over one connection; print the percentiles."""
    taken: list[int] = []
    with _dial(address, port) as connection:
        began = time.monotonic()
        counted_from, end = began + WARMUP_SECONDS, began + WARMUP_SECONDS + seconds
        while (now := time.monotonic()) < end:
            start = time.perf_counter_ns()
            _exchange(connection)
            if now >= counted_from:
                taken.append(time.perf_counter_ns() - start)
    taken.sort()
    middle, high = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
    print(json.dumps({"p50_us": middle / 1e3, "p99_us": high / 1e3, "count": len(taken)}))


def hold(address: str, port: int, count: int) -> None:
    """Hold so many connections open, each of which has carried a message there and back."""
    connections = [_dial(address, port) for _ in range(count)]
    for connection in connections:
        _exchange(connection)
    print("open", flush=True)
    sys.stdin.read()


def dial(address: str, port: int) -> None:
    """Connect a thousand times a second, for ever; print CLOCK_MONOTONIC in ns and the answer."""
    before = ""
    while True:
        try:
            socket.create_connection((address, port), PATIENCE_SECONDS).close()
            answer = "open"
        except OSError:
            answer = "refused"
        if answer != before:
            print(time.monotonic_ns(), answer, flush=True)
            before = answer
        time.sleep(0.001)


def main(arguments: list[str]) -> None:
    """Run one of the four."""
    match arguments:
        case ["serve", port]:
            serve(int(port))
        case ["ask", address, port, seconds]:
            ask(address, int(port), float(seconds))
        case ["dial", address, port]:
            dial(address, int(port))
        case ["hold", address, port, count]:
            hold(address, int(port), int(count))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
