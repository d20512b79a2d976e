# SPDX-License-Identifier: Apache-2.0
"""The command: `python -m bench [--quick] [--only SCENARIO …]`."""

import argparse
import json
import resource
import signal
import sys
from pathlib import Path
from types import FrameType

from bench.machine import describe_machine
from bench.report import markdown
from bench.run import FULL, QUICK, TITLES, Effort, Outcome, bench
from bench.scenarios import SCENARIOS
from lab.errors import LabError
from lab.screen import Screen

RESULTS = Path(__file__).resolve().with_name("results.json")
LAB = "nmb"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Side by side figures.")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--quick", action="store_true", help="shorter and fewer runs: 3 minutes")
    parser.add_argument("--only", nargs="+", choices=names, metavar="SCENARIO", default=names,
                        help=f"some of: {', '.join(names)}")  # fmt: skip
    parser.add_argument("--lab", default=LAB, help="the lab's name (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="JSON file to write (default: %(default)s)"
    )
    return parser.parse_args(argv)


def _raise_file_limit() -> None:
    """Let every program that is started hold the open connections of its scenario."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _report(screen: Screen, outcome: Outcome, machine: list[str], effort: Effort) -> None:
    screen.say()
    for line in machine:
        screen.say(line)
    screen.say(
        f"Medians of {effort.rounds} runs of {effort.seconds} s each, the systems in turns; "
        "CPU is the proxy's whole process."
    )
    screen.say()
    screen.say(markdown(outcome.results, TITLES))
    for failure in outcome.failures:
        screen.bad(failure)


def main(argv: list[str] | None = None) -> int:
    """Measure, write results.json, print the table; 1 if anything could not be measured."""
    args = _arguments(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    _raise_file_limit()
    screen, effort = Screen(), QUICK if args.quick else FULL
    chosen = [scenario for scenario in SCENARIOS if scenario.name in args.only]
    try:
        machine = describe_machine()
        screen.title(f"No mesh, Envoy and nodemesh: about {_minutes(effort, len(chosen))} minutes")
        outcome = bench(args.lab, effort, chosen, screen)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything made was removed", file=sys.stderr)
        return 130
    args.output.write_text(json.dumps(outcome.results.as_json(), indent=1) + "\n")
    _report(screen, outcome, machine, effort)
    screen.say()
    screen.say(f"Every run is in {args.output}; bench/README.md says how to read this.")
    return 1 if outcome.failures else 0


def _minutes(effort: Effort, scenarios: int, systems: int = 3) -> int:
    """Estimate how long it takes: the runs, a little around each, and a quarter minute besides."""
    run = effort.rounds * (effort.seconds + 0.3) + effort.warmup_seconds + 0.3
    return max(1, round((scenarios * systems * run + 15) / 60))


if __name__ == "__main__":
    sys.exit(main())
