# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the lab. Each message is a sentence for the person who ran the command."""

__all__ = ["CommandError", "LabError", "MissingError"]


class LabError(Exception):
    """The lab could not do what was asked."""


class MissingError(LabError):
    """The machine lacks something that the lab needs: root, a kernel feature, a program."""


class CommandError(LabError):
    """A program that the lab ran failed."""

    def __init__(self, argv: list[str], status: int, output: str) -> None:
        self.argv = argv
        self.status = status
        self.output = output
        said = output.strip() or "(no output)"
        super().__init__(f"`{' '.join(argv)}` ended with status {status}: {said}")
