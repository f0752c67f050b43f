# SPDX-License-Identifier: Apache-2.0
"""The directive ``support-matrix``: tables made of user/support-matrix.yaml."""

from __future__ import annotations

import pathlib

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

WORDS = {
    "complete": "yes",
    "partial": "in part",
    "missing": "not yet",
    "never": "no, and never",
}


def table(rows: list[dict]) -> list[str]:
    """Return the lines of one section's list-table."""
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 6 40 10 44",
        "",
        "   * - #",
        "     - Capability",
        "     - State",
        "     - How a user notices; what shows it",
    ]
    for row in rows:
        shown = [row.get("seen", "")]
        if row.get("note"):
            shown.append(f"({row['note']})")
        shown.extend(f"``{test.split('::')[-1]}``" for test in row.get("tests", ()))
        lines += [
            f"   * - {row['id']}",
            f"     - {row['capability']}",
            f"     - {WORDS[row['state']]}",
            f"     - {' '.join(word for word in shown if word)}",
        ]
    return [*lines, ""]


class SupportMatrix(SphinxDirective):
    """All sections of the file, and a line that counts the states."""

    def run(self) -> list[nodes.Node]:
        path = pathlib.Path(self.env.srcdir, "user", "support-matrix.yaml")
        self.env.note_dependency(str(path))
        sections = yaml.safe_load(path.read_text())
        every = [row for section in sections for row in section["rows"]]
        counts = ", ".join(
            f"{sum(row['state'] == state for row in every)} {word}"
            for state, word in WORDS.items()
        )
        lines = [f"{len(every)} capabilities: {counts}.", ""]
        for section in sections:
            lines += [f".. rubric:: {section['section']}", "", *table(section["rows"])]
        return self.parse_text_to_nodes("\n".join(StringList(lines)))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("support-matrix", SupportMatrix)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
