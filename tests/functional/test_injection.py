# SPDX-License-Identifier: Apache-2.0
"""flat_injected: files in the root disk before the first boot, read by debugfs."""

from __future__ import annotations

import json

import pytest
from nova import exception as nova_exception

from tests import breaking, builders
from tests.functional.test_further_disks import content_of, disk_at
from tests.functional.test_root_growth import image, plug_rig, run
from xenapi_driver.steps import programs

__all__ = ["plug_rig"]
KEY = "ssh-ed25519 AAAA someone"


@pytest.fixture(autouse=True)
def injected(plug_rig):
    plug_rig.set_option("flat_injected", True, "DEFAULT")


def spawned(rig, data, **changes):
    values = {"key_data": KEY, "metadata": {"role": "web"}, **changes}
    instance = builders.instance(rig.add_image(data), **values)
    rig.spawn(instance)
    return f"{content_of(rig, disk_at(rig, instance, '0'))}?offset={builders.MIB}"


def ask(place, words):
    return run("debugfs", "-R", words, place)


def test_key_and_metadata_are_there(plug_rig, tmp_path):
    place = spawned(plug_rig, image(tmp_path))
    assert ask(place, "cat /root/.ssh/authorized_keys").splitlines()[-1] == KEY
    assert json.loads(ask(place, "cat /meta.js")) == {"role": "web"}
    modes = {
        path: ask(place, f"stat {path}").partition("Mode:")[2].split()[0]
        for path in ("/root/.ssh", "/root/.ssh/authorized_keys", "/meta.js")
    }
    assert list(modes.values()) == ["0700", "0600", "0644"]
    owner = ask(place, "stat /root/.ssh/authorized_keys").partition("User:")[2]
    assert owner.split()[0] == "0"
    run("e2fsck", "-f", "-n", place)
    assert ask(place, "cat /greeting") == "hello"


def test_keys_that_are_there_stay(plug_rig, tmp_path):
    (tmp_path / "keys").write_text("ssh-rsa BBBB other\n")
    script = ["mkdir /root", "mkdir /root/.ssh", "cd /root/.ssh"]
    script.append(f"write {tmp_path}/keys authorized_keys")
    place = spawned(plug_rig, image(tmp_path, script=script))
    lines = ask(place, "cat /root/.ssh/authorized_keys").splitlines()
    assert (lines[0], lines[-1]) == ("ssh-rsa BBBB other", KEY)


def test_interfaces_of_networks_that_are_injected(plug_rig, tmp_path, monkeypatch):
    text = "auto eth0\niface eth0 inet static\n"
    monkeypatch.setattr(
        "nova.virt.netutils.get_injected_network_template", lambda info: text
    )
    (tmp_path / "old").write_text("auto lo\n" * 1000)
    script = ["mkdir /etc", "mkdir /etc/network", "cd /etc/network"]
    script.append(f"write {tmp_path}/old interfaces")
    place = spawned(plug_rig, image(tmp_path, script=script))
    assert ask(place, "cat /etc/network/interfaces") == text
    run("e2fsck", "-f", "-n", place)


def test_a_guest_with_an_agent_sees_to_itself(plug_rig, tmp_path):
    script = ["mkdir /usr", "mkdir /usr/sbin", "cd /usr/sbin"]
    script.append(f"write {tmp_path}/greeting xe-update-networking")
    place = spawned(plug_rig, image(tmp_path, script=script))
    assert "not found" in run("sh", "-c", f"debugfs -R 'stat /root' '{place}' 2>&1")


def test_with_growth_the_disk_is_plugged_once(plug_rig, tmp_path):
    data = image(tmp_path)
    with plug_rig.recording() as made:
        place = spawned(plug_rig, data, auto_disk_config=True)
    assert made.count("VBD.plug") == 1
    assert KEY in ask(place, "cat /root/.ssh/authorized_keys")
    said = run("dumpe2fs", "-h", place)
    assert "Block count:              1047552" in said


def test_another_file_system_stays_as_it_is(plug_rig, tmp_path, caplog):
    spawned(plug_rig, image(tmp_path, "vfat"))
    assert "without flat_injected: its partition holds vfat" in caplog.text


def test_what_cannot_be_written_fails_the_build(plug_rig, tmp_path):
    """A file where a folder should be."""
    script = [f"write {tmp_path}/greeting root"]
    before = breaking.on_host(plug_rig)
    with pytest.raises(nova_exception.NovaException, match="/root/.ssh could not"):
        spawned(plug_rig, image(tmp_path, script=script))
    assert breaking.on_host(plug_rig) == before


def test_a_link_leads_nowhere_else(plug_rig, tmp_path):
    """A path of the image's is never one of nova-compute's machine."""
    victim = tmp_path / "victim"
    victim.mkdir()
    data = image(tmp_path, script=["mkdir /root", f"symlink /root/.ssh {victim}"])
    with pytest.raises(nova_exception.NovaException, match="debugfs failed"):
        spawned(plug_rig, data)
    assert list(victim.iterdir()) == []


def test_a_program_that_is_missing_is_named(plug_rig, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_PATH", "/nowhere")
    with pytest.raises(nova_exception.NovaException, match="sfdisk, which changes"):
        spawned(plug_rig, image(tmp_path))
