# SPDX-License-Identifier: Apache-2.0
"""An independent HBONE peer: Python's ssl (OpenSSL) and h2, nothing of the product.

    python hbone_peer.py serve   CERT_DIR ADDRESS MODE        one JSON object a line on stdout
    python hbone_peer.py connect CERT_DIR ADDRESS SCENARIO    one JSON object on stdout

Modes of the server: echo (an HTTP answer to the first bytes, then the end), silent (never answers
CONNECT), refuse (401), goaway (GOAWAY after the first stream), reset (RST_STREAM after 200).
"""

import json
import socket
import ssl
import sys
import threading
import time

import h2.config
import h2.connection
import h2.errors
import h2.events

PORT = 15008


def context(directory: str, *, server: bool, certificate: bool = True) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(f"{directory}/roots.pem")
    if certificate:
        made.load_cert_chain(f"{directory}/chain.pem", f"{directory}/key.pem")
    made.set_alpn_protocols(["h2"])
    return made


def spiffe_id(connection: ssl.SSLSocket) -> str:
    names = (connection.getpeercert() or {}).get("subjectAltName", ())
    return next((value for kind, value in names if kind == "URI"), "")


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


# ── the server ──


def serve(directory: str, address: str, mode: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, PORT))
    listener.listen(64)
    tls = context(directory, server=True)
    names: dict[int, str | None] = {}
    tls.sni_callback = lambda sock, name, _ctx: names.__setitem__(id(sock), name)
    report(event="listening")
    while True:
        plain, peer = listener.accept()
        threading.Thread(target=_serve_one, args=(tls, plain, peer, mode, names)).start()


def _serve_one(tls, plain, peer, mode, names) -> None:
    try:
        sock = tls.wrap_socket(plain, server_side=True)
    except (ssl.SSLError, OSError) as error:
        report(event="handshake failed", detail=str(error))
        return
    report(
        event="tunnel",
        peer=peer[0],
        identity=spiffe_id(sock),
        alpn=sock.selected_alpn_protocol(),
        version=sock.version(),
        sni=names.get(id(sock)),
    )
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    conn.initiate_connection()
    sock.sendall(conn.data_to_send())
    try:
        while data := sock.recv(65536):
            for event in conn.receive_data(data):
                _answer(conn, event, mode)
            sock.sendall(conn.data_to_send())
            if mode == "goaway" and conn.highest_inbound_stream_id:
                mode = "echo"
    except (OSError, ssl.SSLError) as error:
        report(event="broken", detail=str(error))
    report(event="tunnel closed")


def _answer(conn, event, mode) -> None:
    if isinstance(event, h2.events.RequestReceived):
        headers = [(str(_text(k)), str(_text(v))) for k, v in event.headers]
        report(event="request", stream=event.stream_id, headers=headers)
        if mode == "refuse":
            conn.send_headers(event.stream_id, [(":status", "401")], end_stream=True)
        elif mode != "silent":
            conn.send_headers(event.stream_id, [(":status", "200")])
        if mode == "reset":
            conn.reset_stream(event.stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        if mode == "goaway":
            conn.send_data(event.stream_id, b"HTTP/1.0 200 OK\r\n\r\nlast\n", end_stream=True)
            conn.close_connection(last_stream_id=event.stream_id)
    elif isinstance(event, h2.events.DataReceived):
        conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if mode == "echo" and event.data:
            body = b"HTTP/1.0 200 OK\r\n\r\nfar\n"
            report(event="data", stream=event.stream_id, size=len(event.data))
            conn.send_data(event.stream_id, body, end_stream=True)
    elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
        report(event=type(event).__name__, stream=event.stream_id)
    elif isinstance(event, h2.events.RemoteSettingsChanged):
        changed = {int(key): item.new_value for key, item in event.changed_settings.items()}
        report(event="settings", values=changed)


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else value


# ── the client ──


class Client:
    """One HBONE connection, driven step by step."""

    def __init__(self, directory: str, address: str, *, certificate: bool = True) -> None:
        plain = socket.create_connection((address, PORT), timeout=5)
        tls = context(directory, server=False, certificate=certificate)
        self.sock = tls.wrap_socket(plain, server_hostname=None)
        self.identity = spiffe_id(self.sock)
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.conn.initiate_connection()
        self.status: dict[int, str] = {}
        self.body: dict[int, bytes] = {}
        self.ended: dict[int, str] = {}
        self.settings: dict[int, int] = {}
        self.pings = 0
        self.goaway = False
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.conn.data_to_send())

    def open(self, headers: list[tuple[str, str]], *, end: bool = False) -> int:
        stream = self.conn.get_next_available_stream_id()
        self.conn.send_headers(stream, headers, end_stream=end)
        self.flush()
        return stream

    def connect(self, authority: str) -> int:
        return self.open([(":method", "CONNECT"), (":authority", authority)])

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        while data:
            room = min(
                self.conn.local_flow_control_window(stream), self.conn.max_outbound_frame_size
            )
            if room <= 0:
                self.pump()
                continue
            self.conn.send_data(stream, data[:room])
            data = data[room:]
            self.flush()
        if end:
            self.conn.end_stream(stream)
            self.flush()

    def pump(self) -> bool:
        """Take what comes once; False at the connection's end."""
        data = self.sock.recv(65536)
        for event in self.conn.receive_data(data) if data else ():
            self._take(event)
        self.flush()
        return bool(data)

    def _take(self, event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            fields = {_text(k): _text(v) for k, v in event.headers}
            self.status[event.stream_id] = fields[":status"]
        elif isinstance(event, h2.events.DataReceived):
            self.body[event.stream_id] = self.body.get(event.stream_id, b"") + event.data
            self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.setdefault(event.stream_id, "end")
        elif isinstance(event, h2.events.StreamReset):
            self.ended[event.stream_id] = f"reset {int(event.error_code)}"
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            for key, item in event.changed_settings.items():
                self.settings[int(key)] = item.new_value
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = True

    def until(self, done, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        self.sock.settimeout(seconds)
        while not done():
            if time.monotonic() > deadline or not self.pump():
                return


GET = b"GET /whoami HTTP/1.0\r\n\r\n"


def _facts(client: Client, stream: int) -> dict[str, object]:
    body = client.body.get(stream, b"")
    return {
        "identity": client.identity,
        "status": client.status.get(stream, ""),
        "ended": client.ended.get(stream, ""),
        "body": body[-2000:].decode(errors="replace"),
        "size": len(body),
        "settings": client.settings,
        "goaway": client.goaway,
    }


def get(directory: str, address: str) -> dict[str, object]:
    """CONNECT, ask the web server, read to the end."""
    client = Client(directory, address)
    host = f"[{address}]" if ":" in address else address
    return _ask(client, client.connect(f"{host}:8080"))


def _ask(client: Client, stream: int) -> dict[str, object]:
    """Ask the web server, if the CONNECT is answered with 200."""
    client.until(lambda: stream in client.status)
    if client.status.get(stream) == "200":
        client.send(stream, GET)
    client.until(lambda: stream in client.ended)
    return _facts(client, stream)


def many(directory: str, address: str) -> dict[str, object]:
    """Fifty streams at once on one connection."""
    client = Client(directory, address)
    streams = [client.connect(f"{address}:8080") for _ in range(50)]
    for stream in streams:
        client.until(lambda stream=stream: stream in client.status)
        client.send(stream, GET)
    client.until(lambda: all(stream in client.ended for stream in streams))
    statuses = [client.status.get(stream) for stream in streams]
    whole = [b'"pod"' in client.body.get(stream, b"") for stream in streams]
    return {**_facts(client, streams[0]), "statuses": statuses, "whole": sum(whole)}


def wrong_authority(directory: str, address: str) -> dict[str, object]:
    """Name another address than the one dialled."""
    client = Client(directory, address)
    stream = client.connect("10.81.2.11:8080")
    client.until(lambda: stream in client.ended)
    return _facts(client, stream)


def malformed_authority(directory: str, address: str) -> dict[str, object]:
    """Leave out the port."""
    client = Client(directory, address)
    stream = client.connect(address)
    client.until(lambda: stream in client.ended)
    return _facts(client, stream)


def not_connect(directory: str, address: str) -> dict[str, object]:
    """A plain request instead of CONNECT."""
    client = Client(directory, address)
    headers = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")]
    stream = client.open(headers, end=True)
    client.until(lambda: stream in client.ended)
    return _facts(client, stream)


def closed_port(directory: str, address: str) -> dict[str, object]:
    """Ask for a port where no application listens."""
    client = Client(directory, address)
    stream = client.connect(f"{address}:9")
    client.until(lambda: stream in client.ended)
    return _facts(client, stream)


def ping(directory: str, address: str) -> dict[str, object]:
    """A PING must be answered."""
    client = Client(directory, address)
    client.conn.ping(b"nodemesh")
    client.flush()
    client.until(lambda: client.pings > 0)
    return {**_facts(client, 1), "pings": client.pings}


def no_certificate(directory: str, address: str) -> dict[str, object]:
    """Without a client certificate nothing may be served."""
    client = Client(directory, address, certificate=False)
    stream = client.connect(f"{address}:8080")
    client.until(lambda: stream in client.status, seconds=5)
    return _facts(client, stream)


def forged_headers(directory: str, address: str) -> dict[str, object]:
    """Say in every header that could say so that it is another who asks: one of the host .10."""
    client = Client(directory, address)
    other = "10.81.1.10"
    headers = [
        (":method", "CONNECT"),
        (":authority", f"{address}:8080"),
        ("forwarded", f'for={other};by={other};proto=http;host="{address}"'),
        ("x-forwarded-for", other),
        ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/client"),
        ("baggage", "k8s.namespace.name=shop,service.name=client"),
    ]
    return _ask(client, client.open(headers))


SCENARIOS = {
    "get": get,
    "forged-headers": forged_headers,
    "many": many,
    "wrong-authority": wrong_authority,
    "malformed-authority": malformed_authority,
    "not-connect": not_connect,
    "closed-port": closed_port,
    "ping": ping,
    "no-certificate": no_certificate,
}


def main(verb: str, directory: str, address: str, what: str) -> None:
    if verb == "serve":
        serve(directory, address, what)
        return
    try:
        report(**SCENARIOS[what](directory, address))
    except (OSError, ssl.SSLError) as error:
        report(error=f"{type(error).__name__}: {error}", status="")


if __name__ == "__main__":
    main(*sys.argv[1:])
