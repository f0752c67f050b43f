# SPDX-License-Identifier: Apache-2.0
"""Short builders of what tests need: images, and Nova's objects."""

from __future__ import annotations

import hashlib
import io
import itertools
import pathlib
import subprocess
import tarfile
import uuid

from nova import context as nova_context
from nova import objects
from nova.network import model as network_model

from tests.dom0.glance_server import Image

GIB = 2**30
MIB = 2**20
_ids = itertools.count(1)

CONTENT = bytes(range(256)) * 4096  # 1 MiB that is not zero anywhere for long


def vhd_bytes(folder: pathlib.Path, size: int = 16 * MIB) -> bytes:
    """Return a dynamic VHD of ``size`` bytes that begins with ``CONTENT``."""
    raw, vhd = folder / "disk.raw", folder / "disk.vhd"
    with open(raw, "wb") as out:
        out.write(CONTENT)
        out.truncate(size)
    convert_to_vhd(raw, vhd)
    return vhd.read_bytes()


def convert_to_vhd(raw: pathlib.Path, vhd: pathlib.Path) -> None:
    """Make a dynamic VHD of a raw disk."""
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "vpc"]
        + ["-o", "subformat=dynamic,force_size=on", str(raw), str(vhd)],
        check=True,
    )


def vhd_tarball(vhd: bytes, name: str = "0.vhd") -> bytes:
    """Return the image as Glance stores it: a gzipped tar with one VHD."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        member = tarfile.TarInfo(name)
        member.size = len(vhd)
        tar.addfile(member, io.BytesIO(vhd))
    return out.getvalue()


def image_record(image_id: str, data: bytes, **changes: object) -> dict:
    """Return what Nova's image API tells of an image."""
    record = {
        "id": image_id,
        "name": "tiny",
        "status": "active",
        "disk_format": "vhd",
        "container_format": "ovf",
        "size": len(data),
        "checksum": hashlib.md5(data).hexdigest(),
        "min_ram": 0,
        "min_disk": 0,
        "properties": {
            "os_hash_algo": "sha512",
            "os_hash_value": hashlib.sha512(data).hexdigest(),
        },
    }
    record.update(changes)
    return record


def uploaded_record(image: Image) -> dict:
    """Return what Nova's image API tells of an image that was uploaded."""
    record = image_record(image.identity, image.data, status=image.status)
    for name, value in image.fields.items():
        if name in record:
            record[name] = value
        else:
            record["properties"][name] = value
    return record


def instance(image_id: str, **changes: object) -> objects.Instance:
    """Return a Nova instance that no database knows."""
    flavor = objects.Flavor(
        id=1,
        name="small",
        flavorid="1",
        memory_mb=256,
        vcpus=1,
        root_gb=changes.pop("root_gb", 1),
        ephemeral_gb=changes.pop("ephemeral_gb", 0),
        swap=changes.pop("swap", 0),
        vcpu_weight=None,
        extra_specs={},
    )
    values = {
        "id": next(_ids),
        "uuid": str(uuid.uuid4()),
        "display_name": "server",
        "hostname": "server",
        "project_id": "project",
        "user_id": "user",
        "image_ref": image_id,
        "flavor": flavor,
        "os_type": "linux",
        "config_drive": "",
        "launched_at": None,
        "metadata": {},
        "system_metadata": {},
        "pci_devices": objects.PciDeviceList(objects=[]),
        "trusted_certs": None,
        "auto_disk_config": False,
    }
    values.update(changes)
    return objects.Instance(**values)


def image_meta(**properties: object) -> objects.ImageMeta:
    """Return the metadata of an image with ``properties``."""
    return objects.ImageMeta.from_dict({"properties": properties})


def network_info(count: int = 1, active: bool = True) -> network_model.NetworkInfo:
    """Return ``count`` ports on one Neutron network."""
    network = network_model.Network(
        id=str(uuid.uuid4()), bridge="br-int", label="net", subnets=[], mtu=1450
    )
    return network_model.NetworkInfo(
        [
            network_model.VIF(
                id=str(uuid.uuid4()),
                address=f"fa:16:3e:00:00:{number:02x}",
                network=network,
                type="ovs",
                active=active,
            )
            for number in range(count)
        ]
    )


def request_context() -> nova_context.RequestContext:
    """Return a context with a token."""
    return nova_context.RequestContext("user", "project", auth_token="a-token")
