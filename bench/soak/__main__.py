# SPDX-License-Identifier: Apache-2.0
"""The command: `python -m bench.soak [--minutes M] [--seed N]`."""

import argparse
import json
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from bench.soak.report import as_report, show
from bench.soak.run import Settings, soak
from lab.errors import LabError
from lab.host import check_machine
from lab.screen import Screen

RESULTS = Path(__file__).resolve().with_name("results.json")
SHORT_MINUTES = 1.0
LONG_MINUTES = 10.0
"""From here on it is worth waiting five minutes for idle tunnels to end."""


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description="Mixed load with faults; docs/soak.md."
    )
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="of load (default: %(default)s)"
    )
    parser.add_argument("--short", action="store_true", help="as CI runs it: a minute of load")
    parser.add_argument("--seed", type=int, help="of load and faults (default: a new one)")
    parser.add_argument("--lab", default="nmsoak", help="the lab's name (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="JSON file to write (default: %(default)s)"
    )
    return parser.parse_args(argv)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Soak, print the summary, write the JSON; 1 if anything is not as it should be."""
    args = _arguments(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    minutes = SHORT_MINUTES if args.short else args.minutes
    settings = Settings(
        lab=args.lab,
        seconds=minutes * 60,
        seed=args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 20),
        gap_seconds=2.0 if args.short else 6.0,
        logs=args.output.with_suffix(".logs"),
        wait_for_idle=minutes >= LONG_MINUTES,
    )
    screen = Screen()
    screen.title(f"{minutes:g} minutes of load, SEED={settings.seed}")
    began = time.monotonic()
    try:
        check_machine(("ip", "nsenter", "ss", "tc", "curl", "bpftool"))
        outcome = soak(settings, screen)
    except LabError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("soak: interrupted; everything made was removed", file=sys.stderr)
        return 130
    show(screen, outcome)
    args.output.write_text(json.dumps(as_report(settings, outcome), indent=1) + "\n")
    screen.say(f"  {time.monotonic() - began:.0f} s in all; everything is in {args.output}")
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
