# SPDX-License-Identifier: Apache-2.0
"""What the demo says when something is not as it must be."""

from __future__ import annotations

from pathlib import Path


class DemoFailure(Exception):
    """A step did not show what it must show.

    :ivar expected: what should have been seen, a phrase
    :ivar seen: what was seen instead
    :ivar log: the file that a reader should open first, or None
    :ivar step: the step of the job; filled in by whoever runs the steps
    """

    def __init__(self, expected: str, seen: object, log: Path | None = None) -> None:
        super().__init__(f"expected {expected}; seen: {seen}")
        self.expected = expected
        self.seen = str(seen)
        self.log = log
        self.step: str | None = None


def expect(truth: object, expected: str, seen: object, log: Path | None = None) -> None:
    """Go on only when ``truth`` holds.

    :raises DemoFailure: it does not
    """
    if not truth:
        raise DemoFailure(expected, seen, log)
