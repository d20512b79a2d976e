# SPDX-License-Identifier: Apache-2.0
"""Medians, ratios and what is printed of them."""

import pytest

from bench.report import AIMS, Aim, format_figure, markdown
from bench.run import TITLES
from bench.stats import METRICS, Measurement, Results, add_excess, collect


def results(*rows: tuple[str, str, str, tuple[float, ...]]) -> Results:
    return Results(Measurement(s, system, metric, "u", runs) for s, system, metric, runs in rows)


def test_collect_keeps_every_run_in_order() -> None:
    rate, cpu = ("requests", "/s"), ("CPU, client", "us/request")
    got = collect("r", "envoy", [{rate: 3.0, cpu: 1.0}, {rate: 1.0}, {rate: 2.0, cpu: 5.0}])
    assert [(m.metric, m.unit, m.runs) for m in got] == [
        ("requests", "/s", (3.0, 1.0, 2.0)),
        ("CPU, client", "us/request", (1.0, 5.0)),
    ]
    assert got[0].median == 2.0


def test_collect_of_no_run_is_nothing() -> None:
    assert collect("r", "envoy", []) == []


def test_json_is_the_documented_record() -> None:
    found = results(("bulk-1", "nodemesh", "throughput", (1.0, 10.123456789, 4.0))).as_json()
    assert found == [
        {
            "scenario": "bulk-1",
            "system": "nodemesh",
            "metric": "throughput",
            "unit": "u",
            "median": 4.0,
            "runs": [1.0, 10.123, 4.0],
        }
    ]


def test_measuring_twice_is_refused() -> None:
    found = results(("a", "direct", "p50", (1.0,)))
    with pytest.raises(ValueError, match="twice"):
        found.add(Measurement("a", "direct", "p50", "u", (2.0,)))


def test_ratio_is_of_medians_and_none_without_a_base() -> None:
    found = results(
        ("a", "nodemesh", "p50", (3.0, 3.0, 99.0)),
        ("a", "envoy", "p50", (2.0, 1.0, 50.0)),
        ("a", "direct", "p50", (0.0,)),
    )
    assert found.ratio("a", "p50", "envoy") == 1.5
    assert found.ratio("a", "p50", "direct") is None
    assert found.ratio("b", "p50", "envoy") is None


def test_excess_is_taken_round_by_round() -> None:
    found = results(
        ("rr", "direct", "p50", (10.0, 50.0, 12.0)),
        ("rr", "envoy", "p50", (30.0, 71.0, 34.0)),
        ("rr", "nodemesh", "p50", (20.0, 58.0)),
    )
    add_excess(found, "rr", "p50", "us")
    assert found.runs("rr", "p50 over direct", "envoy") == (20.0, 21.0, 22.0)
    # One round failed: nobody knows which direct run was beside which.
    assert found.runs("rr", "p50 over direct", "nodemesh") == ()
    assert found.runs("rr", "p50 over direct", "direct") == ()


def test_lines_group_scenarios_and_order_metrics() -> None:
    found = results(
        ("b", "direct", "p99", (1.0,)),
        ("a", "direct", "p50", (1.0,)),
        ("b", "nodemesh", "requests", (1.0,)),
    )
    assert [line[:2] for line in found.lines()] == [("b", "requests"), ("b", "p99"), ("a", "p50")]


@pytest.mark.parametrize(
    ("ratio", "reached"), [(2.5, True), (2.0, True), (1.9, False), (None, None)]
)
def test_aim_at_least(ratio: float | None, reached: bool | None) -> None:
    rows = [("s", "envoy", "m", (100.0,))]
    if ratio is not None:
        rows.append(("s", "nodemesh", "m", (100 * ratio,)))
    assert Aim(2, at_least=True).judge(results(*rows), "s", "m") is reached


def test_aim_at_most_and_of_the_figure_itself() -> None:
    found = results(("s", "direct", "m", (10.0,)), ("s", "nodemesh", "m", (10.4,)))
    assert Aim(1.05, against="direct").judge(found, "s", "m") is True
    assert Aim(1.03, against="direct").judge(found, "s", "m") is False
    assert Aim(10, against="").judge(found, "s", "m") is False
    assert str(Aim(10, against="")) == "≤ 10"
    assert str(Aim(2, at_least=True)) == "≥ 2 x envoy"


def test_aims_name_scenarios_and_metrics_that_exist() -> None:
    assert {scenario for scenario, _ in AIMS} <= set(TITLES)
    assert {metric for _, metric in AIMS} <= set(METRICS)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.2031, "0.20"), (12.34, "12.3"), (-5.0, "-5.00"), (217.4, "217"),
     (110432.7, "110,433")],
)  # fmt: skip
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert format_figure(value) == text


def test_table() -> None:
    found = results(
        ("bulk-1", "direct", "throughput", (60.0,)),
        ("bulk-1", "envoy", "throughput", (12.0,)),
        ("bulk-1", "envoy", "CPU, client", (0.4,)),
        ("bulk-1", "nodemesh", "throughput", (24.0,)),
        ("bulk-1", "nodemesh", "CPU, client", (0.3,)),
        ("bulk-1", "nodemesh", "CPU, server", (0.001,)),
        ("bulk-1", "nodemesh", "failed", (0.0,)),
    )
    assert markdown(found, {"bulk-1": "bulk"}).splitlines() == [
        "| scenario |  | unit | direct | envoy | nodemesh | x envoy | x direct | aim |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
        "| bulk | throughput | u | 60.0 | 12.0 | 24.0 | 2.00 | 0.40 | ≥ 1.3 x envoy: reached |",
        "|  | CPU, client | u | - | 0.40 | 0.30 | 0.75 | - | ≤ 0.7 x envoy: **missed** |",
    ]


def test_failures_are_shown_where_there_are_any() -> None:
    found = results(
        ("s", "envoy", "failed", (3.0,)),
        ("s", "nodemesh", "failed", (0.0,)),
    )
    assert (
        markdown(found, {}).splitlines()[2] == "| s | failed | u | - | 3.00 | 0.00 | 0.00 | - |  |"
    )
