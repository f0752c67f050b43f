# SPDX-License-Identifier: Apache-2.0
"""For every suite: what is missing is skipped loudly, and not at all in CI.

A test that cannot run here skips with a reason that begins with ``missing:`` (a
tool, an interpreter, a right). With ``CI=true`` such a skip fails the run, as CI
has installed everything.
"""

from __future__ import annotations

import os

import pytest

MARK = "missing:"


def _reason(report: pytest.TestReport) -> str:
    """Return why the report's test was skipped."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)


class MissingThings:
    """Collects the skips that CI does not accept."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and _reason(report).startswith(MARK):
            self.reasons[report.nodeid] = _reason(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped and _reason(report).startswith(MARK):
            self.reasons[report.nodeid] = _reason(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.reasons and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        if not self.reasons:
            return
        terminalreporter.section("missing here, and CI=true allows no such skip")
        for nodeid, reason in sorted(self.reasons.items()):
            terminalreporter.write_line(f"{nodeid}: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        config.pluginmanager.register(MissingThings(), "missing-things")
