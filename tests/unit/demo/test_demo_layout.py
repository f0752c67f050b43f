# SPDX-License-Identifier: Apache-2.0
"""The state folder, the ports and what the environment says about them."""

import pytest

from demo.layout import CHECKOUT, DEFAULT_OFFSET, PORTS, Layout


def test_default_is_a_folder_of_the_checkout():
    layout = Layout.from_environment({})
    assert layout.state == CHECKOUT / ".demo"
    assert layout.offset == DEFAULT_OFFSET


def test_environment_moves_folder_and_ports(tmp_path):
    environ = {"DEMO_STATE": str(tmp_path), "DEMO_PORT_OFFSET": "20000"}
    layout = Layout.from_environment(environ)
    assert layout.state == tmp_path
    assert layout.auth_url == "http://127.0.0.1:25000/v3"


@pytest.mark.parametrize("offset", ["-1", "60000", "many"])
def test_offset_that_leaves_the_ports_is_refused(offset):
    with pytest.raises(ValueError):
        Layout.from_environment({"DEMO_PORT_OFFSET": offset})


def test_no_port_is_given_twice():
    assert len(set(PORTS.values())) == len(PORTS)
