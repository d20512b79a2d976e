# SPDX-License-Identifier: Apache-2.0
"""What the programs print, read."""

import json

import pytest

from bench.crowd import workload_rows
from bench.parse import (
    Bulk,
    Latency,
    ParseError,
    parse_cpu_ticks,
    parse_iperf3,
    parse_latency,
    parse_rss_bytes,
    parse_wrk,
)

WRK = """\
Running 4s test @ http://10.81.2.10:8080/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   766.10us    1.02ms  21.94ms   93.12%
    Req/Sec    57.93k     6.21k   68.03k    75.00%
  Latency Distribution
     50%  766.00us
     75%    1.10ms
     90%    1.61ms
     99%    5.26ms
  230928 requests in 4.00s, 48.45MB read
Requests/sec:  57732.11
Transfer/sec:     12.11MB
"""


def test_wrk() -> None:
    seen = parse_wrk(WRK)
    assert (seen.per_second, seen.total, seen.failed) == (57732.11, 230928, 0)
    assert (seen.p50_us, seen.p99_us) == (766.0, pytest.approx(5260))


def test_wrk_times_of_every_unit() -> None:
    seen = parse_wrk(WRK.replace("766.00us", "1.20s").replace("5.26ms", "1.50m"))
    assert (seen.p50_us, seen.p99_us) == (1_200_000, 90_000_000)


def test_wrk_counts_what_failed() -> None:
    errors = "  Socket errors: connect 1, read 20, write 300, timeout 4000\n"
    assert parse_wrk(WRK + errors).failed == 4321
    assert parse_wrk(WRK + errors + "  Non-2xx or 3xx responses: 5\n").failed == 4326


@pytest.mark.parametrize(
    "text", ["", "unable to connect to 10.0.0.1:80", WRK.replace("230928 req", "0 req")]
)
def test_wrk_without_figures(text: str) -> None:
    with pytest.raises(ParseError, match="wrk"):
        parse_wrk(text)


def test_iperf3() -> None:
    text = json.dumps({"end": {"sum_received": {"bytes": 1.5e9, "bits_per_second": 12e9}}})
    assert parse_iperf3(text) == Bulk(bits_per_second=12e9, received_bytes=1.5e9)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"end": {}, "error": "unable to connect to server"}',
        '{"end": {"sum_received": {"bytes": 0, "bits_per_second": 0}}}',
        "[]",
    ],
)
def test_iperf3_that_failed(text: str) -> None:
    with pytest.raises(ParseError, match="iperf3"):
        parse_iperf3(text)


def test_latency() -> None:
    assert parse_latency('{"p50_us": 71.5, "p99_us": 200, "count": 9}\n') == Latency(71.5, 200)
    with pytest.raises(ParseError, match="ended in the middle"):
        parse_latency("the connection ended in the middle of an answer")


def test_cpu_of_a_process_whose_name_is_awkward() -> None:
    stat = "42 (a ) b (c)) S 1 42 42 0 -1 4194560 700 0 0 0 123 45 6 7 20 0 3 0 9 1 2"
    assert parse_cpu_ticks(stat) == 168
    with pytest.raises(ParseError):
        parse_cpu_ticks("")


def test_rss() -> None:
    assert parse_rss_bytes("VmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\nRssAnon:\t 7 kB\n") == 1_024_000
    with pytest.raises(ParseError):
        parse_rss_bytes("Name:\tkthreadd\n")


def test_workload_rows_of_the_metrics() -> None:
    text = (
        "# HELP nodemesh_map_entries Entries of a kernel map.\n"
        'nodemesh_map_entries{map="workloads"} 20016.0\n'
        'nodemesh_map_entries{map="traffic"} 7.0\n'
    )
    assert workload_rows(text) == 20016
    assert workload_rows("") == 0
