# SPDX-License-Identifier: Apache-2.0
"""The embedded host's page names every option, class and path, from the code."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest

from xenapi_driver.sim import extent, options, schema

pytest.importorskip("sphinx", reason="the documentation's tools are not installed")

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "doc" / "source"
_SPEC = importlib.util.spec_from_file_location(
    "embedded_host", SOURCE / "_ext" / "embedded_host.py"
)
page = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(page)


def test_page_has_the_generated_parts():
    text = (SOURCE / "user" / "embedded-host.rst").read_text()
    for name in ("options", "messages", "paths"):
        assert f"\n.. embedded-host-{name}::\n" in text


def test_every_option_is_named_and_explained():
    rows = page.option_rows()
    shown = " ".join(row[0] for row in rows)
    named = [
        option
        for action in options.option_parser()._actions
        for option in action.option_strings
        if option not in ("-h", "--help")
    ]
    assert len(named) > 10
    for option in named:
        assert f"``{option}" in shown
    assert [row[0] for row in rows if not row[1]] == []


def test_every_class_has_a_row_that_adds_up():
    rows = {row[0]: row for row in page.message_rows()}
    assert list(rows) == list(schema.load().classes)
    for cls in extent.extent():
        _, fields, done, refused, absent = rows[cls.name]
        assert fields == str(cls.fields)
        for answer in cls.of("refused"):
            assert f"``{answer.name.partition('.')[2]}``" in refused
            assert answer.code in refused
        assert absent.count("``") == 2 * len(cls.of("absent"))
        by_model = sum(answer.by_model for answer in cls.answers)
        assert (f"{by_model} by the model" in done) == bool(by_model)
