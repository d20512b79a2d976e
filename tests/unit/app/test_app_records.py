# SPDX-License-Identifier: Apache-2.0
"""From the core's events to access log lines and traffic totals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from app_rows import Clock, Closed, peer, tables

from agent.config import AccessLogSettings
from agent.telemetry.access_log import AccessLog, access_fields
from agent.telemetry.connections import ConnectionLedger, ConnectionRecord, Ended, EndedLater
from agent.telemetry.connections import Path as Way
from agent.telemetry.directory import Directory
from agent.telemetry.labels import reason_text
from agent.tunnel.records import EndedTunnelled, closed_record, open_record, traffic_totals
from mesh.reasons import Reason

CURL = "spiffe://cluster.local/ns/shop/sa/curl"
WEB = "spiffe://cluster.local/ns/shop/sa/web"


def directory() -> Directory:
    found = Directory(grace_seconds=60, clock=Clock())
    found.update(tables(peer(1, "curl"), peer(2, "web")))
    return found


def closed(direction: str, **values: Any) -> Any:
    own, other = (1, 2) if direction == "outbound" else (2, 1)
    ends = {"workload_id": own, "peer_workload_id": other, **values}
    return Closed(outbound=direction == "outbound", **ends)


def test_both_sides_name_the_same_ends() -> None:
    for direction in ("outbound", "inbound"):
        record = closed_record(closed(direction), directory(), now=1.0)
        assert record.direction == direction
        assert record.source_workload == "shop/curl"
        assert record.destination_workload == "shop/web"
        assert record.service == "web.shop.svc.cluster.local"
        assert record.path is Way.TUNNEL
        assert record.attested
        assert not record.open
        assert record.reason == "none"


def test_an_open_stream_is_open() -> None:
    record = open_record(
        {
            "direction": "inbound",
            "workload_id": 2,
            "peer_workload_id": 1,
            "service_id": 7,
            "source": "10.0.0.1:4000",
            "destination": "10.0.0.2:8080",
            "original_destination": "",
            "source_identity": CURL,
            "destination_identity": WEB,
            "bytes_sent": 1,
            "bytes_received": 2,
            "age_us": 5,
            "connect_us": 3,
        },
        directory(),
    )
    assert record.open
    assert record.duration_us == 5
    assert record.source_workload == "shop/curl"


def test_unknown_numbers_stay_readable() -> None:
    record = closed_record(
        closed("inbound", peer_workload_id=99, service_id=0, reason=4711), directory(), now=1.0
    )
    assert record.source_workload == ""
    assert record.service == ""
    assert record.reason == "reason-4711"
    assert reason_text(Reason.NO_FLOW_RECORD) == "no-flow-record"


def test_totals_count_the_clients_bytes_alike_at_both_reporters() -> None:
    counter: Any = {
        "service_id": 7,
        "secure": True,
        "opened": 3,
        "closed": 2,
        "bytes_sent": 10,
        "bytes_received": 20,
        "failed": {},
    }
    counter |= {"direction": "outbound", "workload_id": 1, "peer_workload_id": 2}
    out = traffic_totals(counter)
    assert (out.reporter, out.source_id, out.destination_id) == ("source", 1, 2)
    assert (out.client_bytes, out.server_bytes) == (10, 20)
    counter |= {"direction": "inbound", "workload_id": 2, "peer_workload_id": 1}
    into = traffic_totals(counter)
    assert (into.reporter, into.source_id, into.destination_id) == ("destination", 1, 2)
    assert (into.client_bytes, into.server_bytes) == (20, 10)


RECORD = ConnectionRecord(
    path=Way.TUNNEL,
    direction="outbound",
    source="10.0.0.1:4000",
    destination="10.0.0.2:8080",
    source_workload="shop/curl",
    destination_workload="shop/web",
    source_identity=CURL,
    bytes_sent=1,
    duration_us=12_500,
    reason="none",
    ended_at=1_700_000_000.5,
)
FAILED = replace(RECORD, reason="no-svid", detail="no certificate yet")
GOOD, BAD = EndedLater.of(RECORD), EndedLater.of(FAILED)


def access_log(path: Path, clock: Clock, *, log_format: Any = "text", **settings: Any) -> AccessLog:
    return AccessLog(
        AccessLogSettings(path=path, **settings),
        log_format=log_format,
        clock=clock,
        now=clock,
        random=lambda: 0.5,
    )


def lines(path: Path, ended: list[Ended], **settings: Any) -> list[str]:
    log = access_log(path, Clock(), **settings)
    log.write(log.select(ended))
    log.close()
    assert log.dropped == 0
    return path.read_text().splitlines()


def test_a_line_has_ztunnels_fields(tmp_path: Path) -> None:
    texts = lines(tmp_path / "log", [GOOD, BAD], log_format="json")
    good, bad = (json.loads(line) for line in texts)
    assert good["src.workload"] == "curl"
    assert good["src.namespace"] == "shop"
    assert good["src.identity"] == CURL
    assert good["dst.addr"] == "10.0.0.2:8080"
    assert good["duration"] == "12.5ms"
    assert good["time"] == "2023-11-14T22:13:20.500Z"
    assert "error" not in good
    assert bad["level"] == "error"
    assert bad["reason"] == "no-svid"
    assert bad["error"] == "no certificate yet"


def test_a_text_line_is_one_line_whatever_a_peer_wrote(tmp_path: Path) -> None:
    forged = EndedLater.of(replace(FAILED, detail='a\nfake line path="x"'))
    (line,) = lines(tmp_path / "log", [forged])
    assert 'error="a\\nfake line path=\\"x\\""' in line


VARIED = [
    closed("outbound"),
    closed("outbound", source="[fd00::1]:4001", bytes_sent=0, duration_us=2_500_000),
    closed("inbound", bytes_received=5),
    closed("outbound", original_destination="", hbone_address=""),
    closed("outbound", original_destination="10.0.0.2:8080", connect_us=0),
    closed("outbound", trace_id="", service_id=0),
    closed("outbound", peer_workload_id=99, destination_identity="spiffe://a/%s odd=1"),
    closed("outbound", reason=int(Reason.TUNNEL_LOST), detail="reset"),
]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_prepared_line_is_the_line_of_the_record(tmp_path: Path, log_format: str) -> None:
    names = directory()
    tunnelled = [EndedTunnelled(item, names, 1_700_000_000.5) for item in VARIED]
    prepared = lines(tmp_path / "a", [*tunnelled, *tunnelled], log_format=log_format)
    whole = [EndedLater.of(item.make()) for item in tunnelled]
    assert prepared == 2 * lines(tmp_path / "b", list(whole), log_format=log_format)
    assert len(set(prepared)) == len(VARIED)


def test_a_prepared_line_has_the_names_of_now(tmp_path: Path) -> None:
    names = directory()
    log = access_log(tmp_path / "log", Clock())
    for name in ("curl", "renamed"):
        names.update(tables(peer(1, name), peer(2, "web")))
        log.write([EndedTunnelled(closed("outbound"), names, 1.0)])
        assert log._writer.flush(5)
    log.close()
    first, second = (tmp_path / "log").read_text().splitlines()
    assert " src.workload=curl " in first
    assert " src.workload=renamed " in second


def test_sampling_never_loses_a_failure(tmp_path: Path) -> None:
    clock = Clock()
    quiet = access_log(tmp_path / "log", clock, sample=0.4)
    assert quiet.select([GOOD, BAD]) == [BAD]
    assert quiet.dropped == 0
    loud = access_log(tmp_path / "log", clock, sample=0.6)
    assert loud.select([GOOD]) == [GOOD]


def test_the_rate_is_bounded_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    clock = Clock()
    log = access_log(tmp_path / "log", clock, lines_per_second=10)
    assert len(log.select([GOOD] * 25)) == 10
    assert log.dropped == 15
    clock.now += 0.5
    assert len(log.select([GOOD] * 25)) == 5


def test_what_passed_an_original_destination_is_named_only_when_it_differs() -> None:
    assert "dst.original_addr" not in access_fields(
        replace(RECORD, original_destination="10.0.0.2:8080")
    )
    fields = access_fields(replace(RECORD, original_destination="10.96.0.10:80"))
    assert fields["dst.original_addr"] == "10.96.0.10:80"


def test_the_ledger_keeps_the_newest() -> None:
    ledger = ConnectionLedger(kept=3)
    ledger.add(EndedLater.of(replace(RECORD, bytes_sent=n, ended_at=float(n))) for n in range(5))
    ledger.add([EndedLater.of(replace(RECORD, path=Way.PASSTHROUGH, bytes_sent=99, ended_at=3.5))])
    assert [item.make().bytes_sent for item in ledger.recent()] == [4, 99, 3, 2]
    assert [item.make().bytes_sent for item in ledger.recent(1)] == [4]
    assert ledger.total == 6
