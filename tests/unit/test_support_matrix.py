# SPDX-License-Identifier: Apache-2.0
"""The support matrix says nothing that no test shows."""

from __future__ import annotations

import ast
import pathlib

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
MATRIX = ROOT / "doc" / "source" / "user" / "support-matrix.yaml"
ROWS = [row for part in yaml.safe_load(MATRIX.read_text()) for row in part["rows"]]


def test_ids_are_unique():
    ids = [row["id"] for row in ROWS]
    assert sorted(set(ids)) == ids


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["id"]))
def test_row_is_whole(row):
    assert row["state"] in ("complete", "partial", "missing", "never")
    assert row["priority"] in ("mandatory", "compatibility", "later", "never")
    assert (row["priority"] == "never") == (row["state"] == "never")
    if row["state"] == "complete":
        assert row.get("tests"), "complete is what a test shows"
    if row["state"] == "partial":
        assert row.get("note"), "partial says what is missing"


@pytest.mark.parametrize(
    "test", sorted({test for row in ROWS for test in row.get("tests", ())})
)
def test_named_test_exists(test):
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in set(names(tree))


def names(tree):
    """Give the names of classes and functions, those in classes as pytest does."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}::{name}" for name in names(node))
