# SPDX-License-Identifier: Apache-2.0
"""Directives that read the embedded host's own code.

``embedded-host-options``: what its parser takes; ``embedded-host-messages``: what it
implements, refuses and lacks; ``embedded-host-paths``: its HTTP handlers.
"""

from __future__ import annotations

import argparse

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from xenapi_driver.sim import extent, options


def _row(*cells: str) -> list[str]:
    first, *rest = cells
    return [f"   * - {first}", *(f"     - {cell}" for cell in rest)]


def _table(widths: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (header, *rows):
        lines += _row(*row)
    return "\n".join([*lines, ""])


def option_rows() -> list[tuple[str, ...]]:
    """Return option, meaning and default of everything that the parser takes."""
    rows = []
    for action in options.option_parser()._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
        default = action.default
        shown = f"``{default}``" if default not in (None, False, "") else ""
        names = ", ".join(f"``{name}{value}``" for name in action.option_strings)
        rows.append((names, action.help or "", shown))
    return rows


def _short(answers: list[extent.Answer]) -> str:
    """Return names without their class, in a list that may break."""
    return ", ".join(f"``{answer.name.partition('.')[2]}``" for answer in answers)


def _refused(cls: extent.Extent) -> str:
    codes: dict[str, list[extent.Answer]] = {}
    for answer in cls.of("refused"):
        codes.setdefault(answer.code, []).append(answer)
    return "; ".join(f"{code}: {_short(found)}" for code, found in codes.items())


def message_rows() -> list[tuple[str, ...]]:
    """Return class, fields, and messages by how they are answered."""
    rows = []
    for cls in extent.extent():
        implemented = cls.of("implemented")
        own = _short([answer for answer in implemented if not answer.by_model])
        derived = sum(answer.by_model for answer in implemented)
        told = f"{derived} by the model" if derived else ""
        done = "; ".join(text for text in (told, own) if text)
        rows.append(
            (cls.name, str(cls.fields), done, _refused(cls), _short(cls.of("absent")))
        )
    return rows


class Options(SphinxDirective):
    """The command's options."""

    def run(self) -> list[nodes.Node]:
        header = ("Option", "Meaning", "Default")
        text = _table("30 50 20", header, option_rows())
        return self.parse_text_to_nodes(text)


class Messages(SphinxDirective):
    """Every class and its messages, and a line that counts them."""

    def run(self) -> list[nodes.Node]:
        counts = extent.totals(extent.extent())
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        header = ("Class", "Fields", "Implemented", "Refused, with", "Absent")
        text = _table("12 6 42 22 18", header, message_rows())
        every = sum(counts.values())
        return self.parse_text_to_nodes(f"{every} messages: {told}.\n\n{text}")


class Paths(SphinxDirective):
    """The HTTP handlers."""

    def run(self) -> list[nodes.Node]:
        names = [f"``{name}``" for name in ("POST /", "POST /jsonrpc", *extent.paths())]
        return self.parse_text_to_nodes(", ".join(dict.fromkeys(names)) + ".")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("embedded-host-options", Options)
    app.add_directive("embedded-host-messages", Messages)
    app.add_directive("embedded-host-paths", Paths)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
