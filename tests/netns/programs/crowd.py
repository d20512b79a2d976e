# SPDX-License-Identifier: Apache-2.0
"""Very many connections at once, with little cost for each. Standard library only.

python crowd.py serve PORT …                        echoes, on every port given
python crowd.py open  COUNT ADDRESS PORT …          opens COUNT, uses each twice, closes all
python crowd.py press SECONDS ADDRESS PORT …        opens all it can get and keeps them so long
"""

import json
import resource
import select
import socket
import sys
import time

BATCH = 256


def allow_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(ports: list[int]) -> None:
    poll = select.epoll()
    listeners, clients = {}, {}
    for port in ports:
        listener = socket.create_server(("0.0.0.0", port), backlog=4096)
        listener.setblocking(False)
        listeners[listener.fileno()] = listener
        poll.register(listener, select.EPOLLIN)
    print(json.dumps({"event": "listening"}), flush=True)
    while True:
        for number, _ in poll.poll():
            if listener := listeners.get(number):
                try:
                    while True:
                        client, _ = listener.accept()
                        clients[client.fileno()] = client
                        poll.register(client, select.EPOLLIN)
                except BlockingIOError:
                    continue
            else:
                client = clients[number]
                try:
                    data = client.recv(64)
                    if data:
                        client.sendall(data)
                        continue
                except OSError:
                    pass
                poll.unregister(client)
                del clients[number]
                client.close()


def open_many(count: int, address: str, ports: list[int]) -> dict[str, object]:
    began = time.monotonic()
    kept: list[socket.socket] = []
    wrong: list[str] = []
    while len(kept) + len(wrong) < count:
        batch = []
        for index in range(min(BATCH, count - len(kept) - len(wrong))):
            sock = socket.socket()
            sock.settimeout(20)
            try:
                sock.connect((address, ports[(len(kept) + index) % len(ports)]))
                sock.sendall(b"one!")
                batch.append(sock)
            except OSError as error:
                wrong.append(repr(error))
        for sock in batch:
            (kept if answered(sock, b"one!", wrong) else []).append(sock)
        if len(wrong) > 50:
            break
    opened = time.monotonic() - began
    for sock in kept:
        sock.sendall(b"two!")
    for sock in kept:
        answered(sock, b"two!", wrong)
    report = {"open": len(kept), "wrong": len(wrong), "first_wrong": wrong[:2], "seconds": opened}
    for sock in kept:
        sock.close()
    return report


def press(seconds: float, address: str, ports: list[int]) -> dict[str, object]:
    """Refusals stop nothing; a line is printed when the first one comes."""
    until = time.monotonic() + seconds
    kept: list[socket.socket] = []
    wrong: list[str] = []
    while time.monotonic() < until:
        sock = socket.socket()
        sock.settimeout(5)
        refused_before = bool(wrong)
        try:
            sock.connect((address, ports[len(kept) % len(ports)]))
            sock.sendall(b"one!")
            if answered(sock, b"one!", wrong):
                kept.append(sock)
        except OSError as error:
            wrong.append(repr(error))
        if wrong and not refused_before:
            print(
                json.dumps({"event": "refused", "open": len(kept), "first": wrong[0]}), flush=True
            )
    return {"event": "done", "open": len(kept), "refused": len(wrong)}


def answered(sock: socket.socket, wanted: bytes, wrong: list[str]) -> bool:
    try:
        said = sock.recv(4, socket.MSG_WAITALL)
    except OSError as error:
        wrong.append(repr(error))
        return False
    if said != wanted:
        wrong.append(repr(said))
    return said == wanted


if __name__ == "__main__":
    allow_files()
    if sys.argv[1] == "serve":
        serve([int(port) for port in sys.argv[2:]])
    elif sys.argv[1] == "press":
        seconds, address, *ports = sys.argv[2:]
        print(json.dumps(press(float(seconds), address, [int(port) for port in ports])))
    else:
        count, address, *ports = sys.argv[2:]
        print(json.dumps(open_many(int(count), address, [int(port) for port in ports])))
