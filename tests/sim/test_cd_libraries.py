# SPDX-License-Identifier: Apache-2.0
"""SRs of type iso: files that are CDs, also in a folder of dom0's own."""

import pytest

from tests.sim.clients import vdi_record


def library(client, **config):
    host = client.call("host.get_all")[0]
    config = {"location": "nfs.example.org:/isos", **config}
    about = ("isos", "", "iso", "iso", False, {})
    return client.call("SR.create", host, config, "0", *about)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        ({}, "run/sr-mount/{uuid}"),
        ({"iso_path": "/linux/cds"}, "run/sr-mount/{uuid}/linux/cds"),
        ({"location": "/var/opt/isos", "legacy_mode": "true"}, "var/opt/isos"),
    ],
)
def test_a_new_cd_is_a_file_of_its_very_size(local, sim, config, folder):
    sr = library(local, **config)
    folder = folder.format(uuid=local.call("SR.get_uuid", sr))
    vdi = local.call("VDI.create", vdi_record(sr, virtual_size=str(123 * 512)))
    uuid = local.call("VDI.get_uuid", vdi)
    assert files(sim.world.dom0.root / folder) == [f"{uuid}.img"]
    assert local.call("VDI.get_virtual_size", vdi) == str(123 * 512)
    assert not local.call("VDI.get_read_only", vdi)
    # The driver calls all that it finds read only.
    local.call("SR.scan", sr)
    assert local.call("VDI.get_read_only", vdi)
    local.call("VDI.destroy", vdi)
    assert files(sim.world.dom0.root / folder) == []


def test_a_library_outside_of_dom0_is_refused(local):
    with pytest.raises(Exception, match="SR_BACKEND_FAILURE_225"):
        library(local, location="/../../outside", legacy_mode="true")


def test_a_folder_of_dom0s_own_outlives_its_sr(local, sim):
    sr = library(local, location="/var/opt/isos", legacy_mode="true")
    folder = sim.world.dom0.root / "var/opt/isos"
    (folder / "a.iso").write_bytes(bytes(2048))
    local.call("SR.scan", sr)
    (vdi,) = local.call("SR.get_VDIs", sr)
    assert local.call("VDI.get_name_label", vdi) == "a.iso"
    local.call("VDI.destroy", vdi)
    (folder / "readme").write_text("")
    (pbd,) = local.call("SR.get_PBDs", sr)
    local.call("PBD.unplug", pbd)
    local.call("SR.destroy", sr)
    assert files(folder) == ["readme"]
