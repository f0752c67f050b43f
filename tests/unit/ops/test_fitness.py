# SPDX-License-Identifier: Apache-2.0
"""Rules about options alone: what is fine is left alone, secrets are not shown."""

from __future__ import annotations

import pytest

from xenapi_driver.cmd import nova_configuration
from xenapi_driver.ops import fitness

FINE = "connection_url = https://192.0.2.10\nconnection_password =\n"


@pytest.fixture
def found(tmp_path):
    """Return what is wrong with the lines of [xenserver]; the last one counts."""

    def read(*lines: str) -> list[fitness.Problem]:
        file = tmp_path / "nova.conf"
        file.write_text("[xenserver]\n" + FINE + "".join(f"{one}\n" for one in lines))
        return fitness.problems(nova_configuration.read([str(file)]))

    return read


@pytest.mark.parametrize(
    "url",
    [
        "https://192.0.2.10",
        "https://192.0.2.10:8443/",
        "https://xcp1.example.org",
        "https://[2001:db8::1]",
        "https://[2001:db8::1]:443",
        "unix://local",
    ],
)
def test_urls_of_hosts(found, url):
    assert found(f"connection_url = {url}") == []


def test_an_empty_password_is_one(found):
    assert found("connection_password =") == []


def test_a_password_in_the_url_is_not_shown(found):
    [problem] = found("connection_url = https://root:s3cr3t@192.0.2.10")
    assert not problem.fatal
    assert "https://192.0.2.10 " in problem.seen
    assert "s3cr3t" not in str(problem)


def test_what_forbids_a_connection_comes_first(found):
    problems = found("independent_compute = true", "connection_url =")
    assert [problem.blocks for problem in problems] == [True, False]


@pytest.mark.parametrize("port", ["", ":80"])
def test_http_is_unwise_and_no_more(found, port):
    [problem] = found(f"connection_url = http://192.0.2.10{port}")
    assert not problem.fatal
    assert problem.remedy == "set it to https://192.0.2.10"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["connection_insecure = true"], "set connection_fingerprints"),
        (
            ["connection_insecure = true", "connection_ca_file = /ca.pem"],
            "connection_ca_file has no effect: remove it",
        ),
        (
            ["connection_ca_file = /ca.pem", f"connection_fingerprints = {'ab' * 32}"],
            "connection_ca_file has no effect beside",
        ),
    ],
)
def test_ways_to_verify_that_do_not_go_together(found, lines, told):
    [problem] = found(*lines)
    assert not problem.fatal
    assert told in str(problem)
