# SPDX-License-Identifier: Apache-2.0
"""The ini files say what the services need."""

import configparser

import pytest

from demo import configuration
from demo.cloud import MARK, Cloud
from demo.failure import DemoFailure
from demo.host import Host
from demo.layout import Layout
from demo.node import Node
from demo.processes import Processes


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "state", 30000)


def test_written_file_keeps_case_and_percent(tmp_path):
    path = tmp_path / "deep" / "x.conf"
    configuration.write(path, {"DEFAULT": {"aB": "50%"}, "s": {"yes": True}})
    parser = configparser.RawConfigParser()
    parser.optionxform = str
    parser.read(path)
    assert parser.get("s", "aB") == "50%"
    assert parser.get("s", "yes") == "true"


def test_compute_gets_the_driver_and_no_database(layout):
    sections = configuration.nova_compute(
        layout, "threading", {"connection_url": "https://here"}, Node()
    )
    assert sections["DEFAULT"]["compute_driver"] == "xenapi.XenAPIDriver"
    assert sections["DEFAULT"]["concurrency_backend"] == "threading"
    assert sections["xenserver"] == {"connection_url": "https://here"}
    assert not [name for name in sections if "database" in name]


def test_nodes_of_one_cloud_share_nothing_and_have_options_of_their_own(layout):
    node = Node("second", 1, options={"xenserver": {"cache_images": "none"}})
    hosts = [Host(layout, Processes(layout), each) for each in (Node(), node)]
    assert len({host.port for host in hosts}) == 2
    assert len({host.state for host in hosts}) == 2
    first, second = (
        configuration.nova_compute(layout, "auto", {"x": "y"}, host.node)
        for host in hosts
    )
    assert second["xenserver"] == {"x": "y", "cache_images": "none"}
    assert first["xenserver"] == {"x": "y"}
    for name in ("host", "state_path"):
        assert first["DEFAULT"][name] != second["DEFAULT"][name]


def test_every_address_is_on_loopback_with_the_offset(layout):
    sections = configuration.nova(layout)
    assert "@127.0.0.1:35672/" in sections["DEFAULT"]["transport_url"]
    assert sections["placement"]["auth_url"] == "http://127.0.0.1:35000/v3"
    assert "127.0.0.1:33306/nova?" in sections["database"]["connection"]


def test_folder_of_somebody_else_is_not_emptied(layout):
    layout.state.mkdir()
    precious = layout.state / "precious"
    precious.touch()
    with pytest.raises(DemoFailure, match="DEMO_STATE"):
        Cloud(layout, "auto").up(lambda what: None)
    assert precious.exists()
    assert not (layout.state / MARK).exists()
