# SPDX-License-Identifier: Apache-2.0
"""What the simulated host answers, message by message, as its own code has it.

    python -m xenapi_driver.sim.extent            one line a class
    python -m xenapi_driver.sim.extent VM pool    every message of these classes

Nothing here is written by hand: a message is *implemented* where a class module has a
handler for it or the model says all of it (a getter, a setter, get_all_records...),
*refused* where a rule of :mod:`xenapi_driver.sim.absent` names the error of a host that
lacks the feature, *absent* where the answer is NOT_IMPLEMENTED, and *removed* where
hosts have not had it for long, either.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from xenapi_driver.sim import absent, catalogue, schema
from xenapi_driver.sim.dispatch import plain_setter
from xenapi_driver.sim.doors import exchange, handlers
from xenapi_driver.sim.messages import HANDLERS
from xenapi_driver.sim.schema import Message, Schema

KINDS = ("implemented", "refused", "absent", "removed")


@dataclass(frozen=True)
class Answer:
    """How a message is answered.

    :ivar name: wire name, such as ``VM.start``
    :ivar kind: one of KINDS
    :ivar by_model: it follows from the model alone, as a getter does
    :ivar code: the error, "" where it is implemented
    """

    name: str
    kind: str
    by_model: bool = False
    code: str = ""


@dataclass(frozen=True)
class Extent:
    """One class: how many fields its records have, and all its messages."""

    name: str
    fields: int
    answers: tuple[Answer, ...]

    def of(self, kind: str) -> list[Answer]:
        """Return the messages of a kind."""
        return [answer for answer in self.answers if answer.kind == kind]


def _answer(model: Schema, message: Message) -> Answer:
    name = message.wire_name
    if message.removed:
        return Answer(name, "removed", code="MESSAGE_REMOVED")
    if name in HANDLERS:
        return Answer(name, "implemented")
    if message.kind != "custom" or plain_setter(model, message) is not None:
        return Answer(name, "implemented", by_model=True)
    code = absent.refusal(message, ()).code
    kind = "absent" if code == "NOT_IMPLEMENTED" else "refused"
    return Answer(name, kind, code=code)


def extent() -> list[Extent]:
    """Return what is answered, class by class in the model's order.

    :raises RuntimeError: the class modules were not found
    """
    if not catalogue.MODULES:
        raise RuntimeError("The classes of the simulator were not found.")
    model = schema.load()
    return [
        Extent(
            name,
            sum(about.flag != "internal" for about in cls.fields.values()),
            tuple(_answer(model, message) for message in cls.messages.values()),
        )
        for name, cls in model.classes.items()
    ]


def paths() -> list[str]:
    """Return method and path of every HTTP handler, such as ``GET /export``."""
    handlers.load()
    return exchange.paths()


def totals(classes: Iterable[Extent]) -> dict[str, int]:
    """Return how many messages there are of each kind."""
    counts = dict.fromkeys(KINDS, 0)
    for cls in classes:
        for answer in cls.answers:
            counts[answer.kind] += 1
    return counts


def main(names: list[str]) -> int:
    """Print the classes, or the messages of those that are named."""
    classes = extent()
    unknown = set(names) - {cls.name for cls in classes}
    if unknown:
        print(f"no such class: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    for cls in classes:
        if cls.name in names:
            for answer in cls.answers:
                print(f"{answer.name:50} {answer.kind:12} {answer.code}".rstrip())
        elif not names:
            counts = totals([cls])
            words = (f"{counts[kind]:4} {kind}" for kind in KINDS)
            print(f"{cls.name:24} {cls.fields:3} fields {' '.join(words)}")
    if not names:
        print(", ".join(f"{n} {kind}" for kind, n in totals(classes).items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
