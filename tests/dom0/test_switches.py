# SPDX-License-Identifier: Apache-2.0
"""The test bed itself: frames pass where they should, and only there."""

import os

import pytest

from tests.dom0 import switches


@pytest.fixture
def switch(tmp_path):
    with switches.switch(tmp_path / "switch") as one:
        yield one


def test_guests_of_one_bridge_reach_each_other_and_no_others(switch):
    guests = []
    for number, bridge in enumerate(("xapi1", "xapi1", "xapi2"), 1):
        if number != 2:
            switch.add_bridge(bridge)
        guest = switch.guest(f"vif{number}.0", f"02:00:00:00:00:0{number}")
        guest.address(f"10.0.0.{number}/24", f"fd00::{number}/64")
        switch.vsctl("add-port", bridge, f"vif{number}.0")
        guests.append(guest)
    assert guests[0].reaches("10.0.0.2")
    assert guests[0].reaches("fd00::2")
    assert not guests[0].reaches("10.0.0.3", within=0)


def test_ports_are_kept_over_a_restart_and_nothing_is_left(switch):
    switch.add_bridge("xapi1")
    switch.guest("vif1.0", "02:00:00:00:00:01")
    switch.vsctl("add-port", "xapi1", "vif1.0")
    switch.stop_switch()
    switch.start_switch()
    assert switch.vsctl("list-ports", "xapi1") == "vif1.0"
    names = [switch.name] + [guest.name for guest in switch.guests]
    switch.close()
    assert not set(names) & set(os.listdir("/run/netns"))
