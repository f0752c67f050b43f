# SPDX-License-Identifier: Apache-2.0
"""Servers that boot from ISO images: their CDs, and what is left when they go."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from unittest import mock

import pytest
from nova import exception as nova_exception
from nova import objects
from nova.network import model as network_model

from tests import breaking, builders
from tests.functional import snapshots

REQUIRED = os.environ.get("REQUIRE_ROOT_PARTS") == "1"
LIBRARY = {"i18n-key": "local-storage-iso"}
# Not a whole number of the blocks that disks are made of.
CD = random.Random(9).randbytes(3 * builders.MIB + 2048)
# Two requests more than a disk that is cached, one of them for the blank disk.
SPAWN_CD_ONE_VIF = 11
DESTROY_CD_ONE_VIF = 6


@pytest.fixture
def library(bare_rig):
    """A rig that is up, whose host has a library for CDs."""
    bare_rig.library = bare_rig.host.create_sr("iso", **LIBRARY)
    bare_rig.start()
    bare_rig.image_id = add_cd(bare_rig, CD)
    return bare_rig


def add_cd(rig, data, **changes):
    kinds = {"disk_format": "iso", "container_format": "bare"}
    return rig.add_image(data, **{**kinds, **changes})


def folder(rig):
    return rig.sim.world.dom0.root / "run/sr-mount" / rig.library


def cds(rig):
    return sorted(folder(rig).glob("*.img"))


def drives(rig, instance):
    """Return the VM's drives by their position, each with its disk's record."""
    (vm,) = rig.host.records("VM", name_label=instance.name)
    found = {}
    for ref in vm["VBDs"]:
        drive = rig.host.record("VBD", ref)
        found[drive["userdevice"]] = drive, rig.host.record("VDI", drive["VDI"])
    return found


def test_a_server_boots_from_the_cd_beside_a_blank_disk(library):
    before = library.sim.inventory()
    instance = builders.instance(library.image_id, root_gb=2)
    library.spawn(instance)
    (vm,) = library.host.records("VM", name_label=instance.name)
    assert vm["power_state"] == "Running"
    assert vm["HVM_boot_params"]["order"] == "dc"
    found = drives(library, instance)
    assert sorted(found) == ["0", "1"]
    (drive, cd), (other, disk) = found["1"], found["0"]
    assert (drive["type"], drive["mode"], drive["bootable"]) == ("CD", "RO", True)
    assert (other["type"], other["mode"]) == ("Disk", "RW")
    assert disk["virtual_size"] == str(2 * builders.GIB)
    assert int(disk["physical_utilisation"]) < builders.MIB, "it is not blank"
    (file,) = cds(library)
    assert file.name == f"{cd['uuid']}.img"
    assert file.read_bytes() == CD
    for one in (cd, disk):
        assert one["name_label"] == instance.name
        assert one["other_config"]["nova_instance_uuid"] == instance.uuid
    cached = f"Glance Image {instance.image_ref}"
    assert library.host.records("VDI", name_label=cached) == []
    library.destroy(instance)
    assert library.sim.inventory() == before
    assert cds(library) == []


def test_a_flavor_without_a_disk_gives_the_cd_alone(library):
    instance = builders.instance(library.image_id, root_gb=0)
    library.spawn(instance)
    assert sorted(drives(library, instance)) == ["1"]


def test_an_image_of_such_a_server_is_that_of_its_disk(library):
    some = snapshots.Snapshots(library)
    with pytest.raises(nova_exception.NovaException, match="no root disk"):
        some.take(some.server())  # of a flavor without a disk
    instance = builders.instance(library.image_id)
    library.spawn(instance)
    instance.auto_disk_config = False
    image = some.take(snapshots.Server(library, instance))
    assert (image.status, image.fields["disk_format"]) == ("active", "vhd")


def test_each_server_has_a_cd_of_its_own(library):
    first, second = (builders.instance(library.image_id) for _ in range(2))
    library.spawn(first)
    library.spawn(second)
    assert len(cds(library)) == 2
    library.destroy(first)
    (left,) = cds(library)
    assert left.name == f"{drives(library, second)['1'][1]['uuid']}.img"


def test_a_cd_that_an_operator_put_in_stays(library):
    instance = builders.instance(library.image_id)
    library.spawn(instance)
    (folder(library) / "tools.iso").write_bytes(bytes(2048))
    library.host.call("SR.scan", library.library)
    (tools,) = library.host.records("VDI", name_label="tools.iso")
    drive, _cd = drives(library, instance)["1"]
    api = library.host.xenapi
    vbd = api.VBD.get_by_uuid(drive["uuid"])
    api.VBD.eject(vbd)
    api.VBD.insert(vbd, api.VDI.get_by_uuid(tools["uuid"]))
    library.destroy(instance)
    assert library.host.records("VDI", name_label="tools.iso") == [
        {**tools, "VBDs": [], "physical_utilisation": tools["physical_utilisation"]}
    ]


def test_a_cd_of_a_build_that_was_killed_goes_at_the_next_start(library):
    instance = builders.instance(library.image_id)
    library.spawn(instance)
    (vm,) = library.host.records("VM", name_label=instance.name)
    library.host.call("VM.hard_shutdown", vm["uuid"])
    library.host.destroy("VM", vm["uuid"])
    assert len(cds(library)) == 1
    instance.host = None

    def known(context, uuid, *more, **others):
        assert uuid == instance.uuid
        return instance

    # Nova's database is the one part that is not here.
    with mock.patch.object(objects.Instance, "get_by_uuid", known):
        restart(library)
    assert cds(library) == []
    assert library.host.records("VDI", name_label=instance.name) == []


@pytest.mark.parametrize("why", ["none", "unmarked", "unplugged"])
def test_without_a_library_nothing_is_fetched(bare_rig, why):
    if why == "unmarked":
        bare_rig.host.create_sr("iso")
    elif why == "unplugged":
        sr = bare_rig.host.create_sr("iso", **LIBRARY)
        (record,) = bare_rig.host.records("SR", uuid=sr)
        bare_rig.host.xenapi.PBD.unplug(record["PBDs"][0])
    bare_rig.start()
    before = bare_rig.sim.inventory()
    instance = builders.instance(add_cd(bare_rig, CD))
    word = "xe pbd-plug" if why == "unplugged" else "local-storage-iso"
    with pytest.raises(nova_exception.NovaException, match=word):
        bare_rig.spawn(instance)
    assert bare_rig.sim.inventory() == before
    assert bare_rig.images.served == 0


def test_a_cd_that_came_in_part_is_not_left(library):
    before = library.sim.inventory()
    image = add_cd(library, CD, size=len(CD) + 5)
    with pytest.raises(nova_exception.NovaException):
        library.spawn(builders.instance(image))
    assert library.sim.inventory() == before
    assert cds(library) == []


def test_what_a_cd_costs(library):
    instance = builders.instance(library.image_id)
    with library.recording() as made:
        library.spawn(instance, active=False)
    assert len(made) <= SPAWN_CD_ONE_VIF, made
    with library.recording() as made:
        library.destroy(instance)
    assert len(made) <= DESTROY_CD_ONE_VIF, made


@pytest.mark.parametrize("name", breaking.TROUBLES)
def test_whatever_call_breaks_no_cd_is_left(library, name):
    trouble = breaking.TROUBLES[name]
    broken = 0
    building = breaking.spawning(library)
    for one in breaking.break_calls(library, building, name, trouble, "VDI|VBD|import"):
        assert one.after == one.before, one
        assert cds(library) == [], one
        broken += one.failed
    assert broken or "error" not in trouble


def test_whatever_step_breaks_no_cd_is_left(library):
    steps = set()
    for one in breaking.break_steps(library, breaking.spawning(library)):
        assert one.failed, one
        assert one.after == one.before, one
        steps.add(one.method)
    assert {"boot-cd", "further-disks"} <= steps


# iPXE


NETCFG = "/netcfg.ipxe"


@pytest.fixture
def ipxe(library, tmp_path):
    """A rig with an image that boots iPXE, and all that it can be told."""
    missing = [name for name in ("genisoimage", "isoinfo") if not shutil.which(name)]
    if missing:
        message = f"MISSING {missing}: no iPXE CD was made"
        pytest.fail(message) if REQUIRED else pytest.skip(message)
    tree = tmp_path / "cd"
    tree.mkdir()
    for name in ("isolinux.bin", "ipxe.krn"):
        (tree / name).write_bytes(random.Random(name).randbytes(40_000))
    image = tmp_path / "ipxe.iso"
    boot = ["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot"]
    boot += ["-boot-load-size", "4", "-boot-info-table"]
    subprocess.run(
        ["genisoimage", "-quiet", "-R", *boot, "-o", str(image), str(tree)], check=True
    )
    library.image_id = add_cd(library, image.read_bytes())
    return library


def told(rig, instance):
    """Return what the server's CD tells iPXE, read by isoinfo."""
    cd = folder(rig) / f"{drives(rig, instance)['1'][1]['uuid']}.img"
    words = ["isoinfo", "-R", "-i", str(cd), "-x", NETCFG]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def ports(label="boot", cidr="192.0.2.0/24"):
    network = network_model.Network(
        id="a-network", bridge="br-int", label=label, mtu=1500,
        subnets=[
            network_model.Subnet(
                cidr="2001:db8::/64", dns=[], ips=[], version=6,
                gateway=network_model.IP("2001:db8::1"),
            ),
            network_model.Subnet(
                cidr=cidr, version=4, ips=[network_model.FixedIP(address="192.0.2.7")],
                gateway=network_model.IP("192.0.2.1"),
                dns=[network_model.IP("192.0.2.53"), network_model.IP("192.0.2.54")],
            ),
        ],
    )  # fmt: skip
    vif = network_model.VIF(
        id="1e1f9b2e-3b5f-4ed7-9c5f-2ad8d0d2bd77", address="fa:16:3e:00:00:01",
        network=network, type="ovs", active=True,
    )  # fmt: skip
    return network_model.NetworkInfo([vif])


def boot(rig, instance, network_info):
    meta = builders.image_meta(hw_ipxe_boot=True)
    meta.disk_format, meta.container_format = "iso", "bare"
    rig.driver.spawn(
        rig.context, instance, meta, [], "password", {}, network_info=network_info
    )


def restart(rig, **options):
    for name, value in options.items():
        rig.set_option(name, value)
    rig.driver.cleanup_host("compute1")
    rig.start()


def test_an_ipxe_cd_is_told_the_servers_address(ipxe):
    restart(
        ipxe,
        ipxe_network_name="boot",
        ipxe_boot_menu_url="http://boot.example.org/menu",
    )
    before = ipxe.sim.inventory()
    instance = builders.instance(ipxe.image_id)
    boot(ipxe, instance, ports())
    words = told(ipxe, instance)
    for line in (
        "set net0/ip 192.0.2.7", "set net0/netmask 255.255.255.0",
        "set net0/gateway 192.0.2.1", "set dns 192.0.2.53",
    ):  # fmt: skip
        assert f"{line}\n" in words
    assert "chain http://boot.example.org/menu " in words
    ipxe.destroy(instance)
    assert ipxe.sim.inventory() == before
    assert cds(ipxe) == []


def test_what_an_ipxe_cd_is_not_told_is_asked_at_the_console(ipxe, caplog):
    restart(ipxe, ipxe_network_name="boot")
    instance = builders.instance(ipxe.image_id)
    boot(ipxe, instance, ports("another"))
    words = told(ipxe, instance)
    assert "net0/ip" not in words
    assert "chain" not in words.partition("echo")[0]
    assert "the URL of the boot menu and the network address" in caplog.text


def test_without_the_program_in_dom0_the_server_boots_anyway(ipxe, caplog, tmp_path):
    restart(ipxe, ipxe_network_name="boot", ipxe_mkisofs_cmd="xorrisofs")
    # A dom0 without it: the plugin looks in its own folders.
    path = ipxe.plugin_dir / "xenapi_dom0/ipxe_cd.py"
    text = path.read_text()
    path.write_text(text.replace("commands.find(maker)", "commands.find('no-such')"))
    instance = builders.instance(ipxe.image_id)
    boot(ipxe, instance, ports())
    (vm,) = ipxe.host.records("VM", name_label=instance.name)
    assert vm["power_state"] == "Running"
    assert "dom0 does not have" in caplog.text


def test_a_cd_that_boots_no_ipxe_is_refused(library):
    before = library.sim.inventory()
    with pytest.raises(nova_exception.NovaException, match="hw_ipxe_boot"):
        boot(library, builders.instance(library.image_id), ports())
    assert library.sim.inventory() == before
    assert cds(library) == []


def test_the_library_may_be_a_folder_of_the_servers_sr(ipxe):
    """As an operator makes it who follows the documentation."""
    api = ipxe.host.xenapi
    api.SR.set_other_config(api.SR.get_by_uuid(ipxe.library), {})
    home = ipxe.driver.home
    place = {"location": f"/run/sr-mount/{home.sr_uuid}/iso", "legacy_mode": "true"}
    about = ("0", "isos", "", "iso", "iso", False, {})
    sr = api.SR.create(api.host.get_all()[0], place, *about)
    api.SR.set_other_config(sr, LIBRARY)
    restart(ipxe, ipxe_network_name="boot")
    instance = builders.instance(ipxe.image_id)
    boot(ipxe, instance, ports())
    (cd,) = (ipxe.sim.sr_path / "iso").glob("*.img")
    words = ["isoinfo", "-R", "-i", str(cd), "-x", NETCFG]
    words = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "set net0/ip 192.0.2.7\n" in words
    ipxe.destroy(instance)
    assert list((ipxe.sim.sr_path / "iso").iterdir()) == []
