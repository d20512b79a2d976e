# SPDX-License-Identifier: Apache-2.0
"""Directory, series, metrics page: names come and go, series never run backwards."""

from ipaddress import ip_address
from pathlib import Path

from app_rows import Clock, peer, tables

from agent.telemetry.directory import Directory
from agent.telemetry.labels import TCP_LABELS, response_flag
from agent.telemetry.metrics import HELP, Figure, Figures, MetricsPage
from agent.telemetry.traffic import SeriesBook, TrafficTotals
from mesh.reasons import Reason
from mesh.tables import Tables, WorkloadId


def totals(source: int, destination: int, **values: object) -> TrafficTotals:
    return TrafficTotals(
        reporter="source",
        source_id=source,
        destination_id=destination,
        service_id=7,
        secure=True,
        **values,  # type: ignore[arg-type]
    )


def test_a_gone_workload_keeps_its_name_for_the_grace_and_no_longer() -> None:
    clock = Clock()
    directory = Directory(grace_seconds=60, clock=clock)
    directory.update(tables(peer(1, "curl"), peer(2, "web")))
    directory.update(tables(peer(2, "web")))
    named = directory.workload(1)
    assert named is not None
    assert named.text == "shop/curl"
    clock.now += 59
    assert directory.expire() == []
    clock.now += 2
    assert directory.expire() == [1]
    assert directory.workload(1) is None
    assert directory.workload(2) is not None


def test_a_workload_that_comes_back_within_the_grace_stays() -> None:
    clock = Clock()
    directory = Directory(grace_seconds=60, clock=clock)
    directory.update(tables(peer(1, "curl")))
    directory.update(tables())
    clock.now += 30
    directory.update(tables(peer(1, "curl")))
    clock.now += 60
    assert directory.expire() == []
    assert not directory.is_gone(WorkloadId(1))


def test_a_gone_service_keeps_its_name_for_the_grace_and_no_longer() -> None:
    clock = Clock()
    directory = Directory(grace_seconds=60, clock=clock)
    directory.update(tables())
    directory.update(Tables())
    clock.now += 59
    directory.expire()
    assert directory.service_hostname(7) == "web.shop.svc.cluster.local"
    clock.now += 2
    directory.expire()
    assert directory.service_hostname(7) == ""
    directory.update(tables())
    assert directory.service_hostname(7) == "web.shop.svc.cluster.local"


def test_an_address_names_only_who_has_it_now() -> None:
    directory = Directory(grace_seconds=60, clock=Clock())
    directory.update(tables(peer(1, "curl")))
    assert directory.at_address(ip_address("10.0.0.1")) == 1
    directory.update(tables())
    assert directory.at_address(ip_address("10.0.0.1")) == 0


def book_samples(book: SeriesBook) -> dict[tuple[str, str], int]:
    place = TCP_LABELS.index("source_workload")
    flag = TCP_LABELS.index("response_flags")
    return {
        (sample.metric, f"{sample.labels[place]} {sample.labels[flag]}"): sample.value
        for sample in book.samples()
    }


def test_series_sum_by_labels_and_failures_split_by_flag() -> None:
    known = tables(peer(1, "curl"), peer(2, "web"))
    book = SeriesBook()
    book.observe(
        [
            totals(
                1,
                2,
                opened=5,
                closed=4,
                client_bytes=10,
                server_bytes=20,
                failed={Reason.CONNECT_DENIED: 2, Reason.POLICY_DENY: 1, Reason.TUNNEL_LOST: 3},
            )
        ],
        peers=known.peers,
        services=known.services,
    )
    samples = book_samples(book)
    assert samples["opened", "curl -"] == 5
    assert samples["received_bytes", "curl -"] == 10
    assert samples["sent_bytes", "curl -"] == 20
    assert samples["failed", "curl DENY"] == 3
    assert samples["failed", "curl TUNNEL_LOST"] == 3


def test_a_series_shared_by_two_workloads_never_runs_backwards() -> None:
    twin = peer(3, "curl")
    known = tables(peer(1, "curl"), peer(2, "web"), twin)
    book = SeriesBook()
    both = [totals(1, 2, opened=5), totals(3, 2, opened=7)]
    book.observe(both, peers=known.peers, services=known.services)
    assert book_samples(book)["opened", "curl -"] == 12
    book.forget([1])
    assert book_samples(book)["opened", "curl -"] == 12
    book.observe([totals(3, 2, opened=8)], peers=known.peers, services=known.services)
    assert book_samples(book)["opened", "curl -"] == 13
    book.forget([3])
    assert book_samples(book) == {}
    assert len(book) == 0


def test_a_count_that_began_anew_goes_on_from_where_it_was() -> None:
    known = tables(peer(1, "curl"), peer(2, "web"))
    book = SeriesBook()
    for opened in (5, 2, 3):
        book.observe([totals(1, 2, opened=opened)], peers=known.peers, services=known.services)
    assert book_samples(book)["opened", "curl -"] == 8


def test_parts_of_one_key_are_summed() -> None:
    known = tables(peer(1, "curl"), peer(2, "web"))
    book = SeriesBook()
    parts = [totals(1, 2, opened=5), totals(1, 2, failed={Reason.NO_ENDPOINT: 2})]
    book.observe(parts, peers=known.peers, services=known.services)
    samples = book_samples(book)
    assert samples["opened", "curl -"] == 5
    assert samples["failed", "curl NO_ENDPOINT"] == 2


def test_flags_are_ztunnels_where_ztunnel_has_one() -> None:
    assert response_flag(Reason.NONE) == "-"
    assert response_flag(Reason.PEER_IDENTITY_MISMATCH) == "IDENTITY_ERROR"
    assert response_flag(Reason.UPSTREAM_CONNECT_TIMEOUT) == "NETWORK_POLICY"
    assert response_flag(Reason.IDLE_TIMEOUT) == "IDLE_TIMEOUT"
    assert response_flag(9999) == "unknown"


def test_the_page_shows_both_kinds_of_metric_and_speaks_openmetrics() -> None:
    known = tables(peer(1, "curl"), peer(2, "web"))
    book = SeriesBook()
    book.observe([totals(1, 2, opened=5)], peers=known.peers, services=known.services)
    page = MetricsPage()
    page.update(
        Figures(
            traffic=list(book.samples()),
            figures=[
                Figure("tunnels", 3),
                Figure("capture_refused", 2, (("reason", "no-flow-record"),), "counter"),
            ],
        )
    )
    body, kind = page.render("text/plain")
    text = body.decode()
    assert kind.startswith("text/plain")
    assert "nodemesh_tunnels 3.0" in text
    assert 'nodemesh_capture_refused_total{reason="no-flow-record"} 2.0' in text
    line = next(x for x in text.splitlines() if x.startswith("istio_tcp_connections_opened_total{"))
    assert 'source_principal="spiffe://cluster.local/ns/shop/sa/curl"' in line
    assert 'destination_service="web.shop.svc.cluster.local"' in line
    assert 'connection_security_policy="mutual_tls"' in line
    assert line.endswith(" 5.0")
    body, kind = page.render("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_every_metric_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "observability.md").read_text()
    for name, meaning in HELP.items():
        assert any(
            line.startswith((f"| `nodemesh_{name}`", f"| `nodemesh_{name}_total`"))
            and line.endswith(f"| {meaning} |")
            for line in text.splitlines()
        ), name
