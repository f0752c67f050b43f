# SPDX-License-Identifier: Apache-2.0
"""What cannot work is told in one clear sentence, under a real nova-compute.

The services run once for all of it. What must end nova-compute is told by its
log, what must end one build by the server's fault; nothing is left behind.
"""

from __future__ import annotations

import gzip
import re
import shutil
import socket
import subprocess
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from demo import actions, configuration, image, leftovers, looks, seeding
from demo.cloud import Cloud
from demo.host import USER
from demo.layout import CHECKOUT, LOOPBACK, PASSWORD
from demo.node import Node
from demo.step import Job
from demo.waiting import until

DAMAGED = {
    "bad-footer-checksum": "0.vhd: the footer's checksum is wrong",
    "bad-bat": "0.vhd: the block bitmap's header is damaged",
}
VERSION_PLUGIN = "dom0_plugin_version"
# As an SR's driver in dom0 words it.
FULL = ("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")
# A password that no other word of a log contains.
WRONG_PASSWORD = "wrong-and-never-to-be-seen"


@pytest.fixture(scope="module")
def cloud(layout):
    """Everything but nova-compute."""
    made = Cloud(layout, "auto")
    try:
        made.up(print)
        made.processes.stop("nova-compute")
        yield made
    finally:
        made.down()


@dataclass(frozen=True)
class Ended:
    """A nova-compute that ran to its end: its exit status and its log."""

    status: int
    log: str

    @property
    def told(self) -> str:
        """What the log tells of the end, without the trace that Nova appends."""
        lines = [line for line in self.log.splitlines() if " CRITICAL " in line]
        assert len(lines) == 1, self.log[-3000:]
        assert "During handling of" not in self.log
        assert "direct cause" not in self.log
        return lines[0].partition("InvalidConfiguration: ")[2]


@pytest.fixture
def refused(cloud, tmp_path):
    """Start nova-compute with other options, for good: it has to end by itself."""

    def run(**changes: object) -> Ended:
        options = {**cloud.host.options(), **changes}
        path = tmp_path / "nova-compute.conf"
        configuration.write(
            path, configuration.nova_compute(cloud.layout, "auto", options, Node())
        )
        program = cloud.layout.program("nova-compute")
        done = subprocess.run(
            [program, "--config-file", path],
            env=cloud.processes.environment(),
            cwd=cloud.layout.state,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return Ended(done.returncode, done.stdout)

    before = cloud.host.admin("inventory")
    yield run
    assert cloud.host.admin("inventory") == before


def assert_told(ended: Ended, sentence: str, password: str = PASSWORD) -> None:
    """nova-compute failed, its log has the one sentence and not the secret."""
    assert ended.status != 0
    assert ended.told == sentence, ended.log[:3000]
    # The demo's password is also the first word of options such as secret_uuid.
    assert not re.search(rf"\b{re.escape(password)}\b", ended.log)


# What nova-compute does not start with


def test_wrong_password(refused):
    assert_told(
        refused(connection_password=WRONG_PASSWORD),
        f"The XAPI host does not accept user '{USER}' with the password given: "
        "check [xenserver] connection_username and connection_password.",
        WRONG_PASSWORD,
    )


def test_wrong_fingerprint(cloud, refused):
    wrong = ":".join(["00"] * 32)
    seen = cloud.host.options()["connection_fingerprints"]
    ended = refused(connection_fingerprints=wrong)
    begin, _, end = ended.told.partition(f"its SHA-256 fingerprint is {seen}: ")
    assert begin.startswith(f"The certificate of the XAPI host at {cloud.host.url} ")
    assert end.startswith("compare that with the host's own and set it as [xenserver]")
    assert_told(ended, ended.told)


def test_unreachable_host(refused):
    # Bound, and not listened on: nobody else can answer there meanwhile.
    with socket.socket() as nobody:
        nobody.bind((LOOPBACK, 0))
        url = f"https://{LOOPBACK}:{nobody.getsockname()[1]}"
        assert_told(
            refused(connection_url=url),
            f"The XAPI host at {url} cannot be reached (Connection refused): check "
            "that [xenserver] connection_url names the host, that it is up and that "
            "no firewall is between.",
        )


def test_sr_that_does_not_exist(refused):
    matching = "other-config:i18n-key=nowhere"
    assert_told(
        refused(sr_matching_filter=matching),
        f"No SR on this host matches sr_matching_filter = {matching}: set "
        "sr_matching_filter to default-sr:true or to other-config:<key>=<value> of "
        "an SR that is plugged on this host.",
    )


@pytest.fixture
def lvm(cloud):
    """An SR of type lvm, and the option that chooses it."""
    (host,) = cloud.host.call("host.get_all")
    place = {"device": "/dev/sdb"}
    sr = cloud.host.call(
        *("SR.create", host, place, "0", "thick", "", "lvm", "", False, {})
    )
    cloud.host.call("SR.set_other_config", sr, {"kind": "thick"})
    return cloud.host.call("SR.get_uuid", sr), "other-config:kind=thick"


def test_handler_that_cannot_serve_the_sr(lvm, refused):
    uuid, matching = lvm
    assert_told(
        refused(sr_matching_filter=matching, image_handler="direct_vhd"),
        f"SR {uuid} (thick) is of type lvm, and image_handler = direct_vhd needs a "
        "file-based one (ext, nfs): set image_handler = vdi_remote_stream, which "
        "serves any SR, or choose an SR of type ext or nfs with sr_matching_filter.",
    )


def test_handler_that_plugs_disks_where_none_can_be(refused):
    ended = refused(
        image_handler="vdi_local_dev", independent_compute=True, check_host=False
    )
    begin, _, remedy = ended.told.partition(": ")
    assert begin == (
        "[xenserver] independent_compute and image_handler = vdi_local_dev contradict "
        "each other"
    )
    assert "vdi_remote_stream" in remedy
    assert ended.status


@pytest.fixture
def version_plugin(cloud, tmp_path):
    """The plugin in dom0 that tells their version, for a test to change."""
    plugins = cloud.host.state / "dom0" / "etc" / "xapi.d" / "plugins"
    kept = shutil.copytree(plugins, tmp_path / "plugins")
    yield plugins / VERSION_PLUGIN
    shutil.rmtree(plugins)
    shutil.copytree(kept, plugins)


def test_plugins_missing(version_plugin, refused):
    shutil.rmtree(version_plugin.parent)
    version_plugin.parent.mkdir()
    assert_told(
        refused(),
        f"The dom0 plugin '{VERSION_PLUGIN}' is not installed on the host: "
        "install those of this release (version 3.1) with xenapi-driver dom0 install "
        "root@HOST.",
    )


def test_plugins_too_old(version_plugin, refused):
    script = version_plugin.read_text()
    version_plugin.write_text(script.replace('VERSION = "3.1"', 'VERSION = "2.1"'))
    assert_told(
        refused(),
        "The host's dom0 plugins have version 2.1, but version 3.1 or a later one of "
        "the same series is needed: replace its /etc/xapi.d/plugins by xenapi-driver "
        "dom0 install root@HOST.",
    )


# What a single build does not survive


@pytest.fixture(scope="module")
def job(cloud):
    """nova-compute as it should be, and an image, a flavor and a network."""
    cloud.services.start_compute(Node())
    with seeding.connect(cloud.layout) as api:
        made = Job(cloud, api)
        actions.upload_image(made)
        actions.create_surroundings(made)
        log = made.log()
        until(lambda: log.read_text().count("Manages host") == 2, "compute", log, 60)
        made.before = cloud.host.admin("inventory")
        yield made


def build_to_fail(job: Job, name: str) -> str:
    """Have a server built that must end in ERROR; its fault's message.

    Placement must hold nothing for it, before the server is deleted.
    """
    server = job.api.compute.create_server(
        name=name,
        image_id=job.image_id,
        flavor_id=job.flavor_id,
        networks=[{"uuid": job.network_id}],
    )
    job.servers[name] = server.id

    def ended() -> bool:
        server = job.api.compute.get_server(job.servers[name])
        assert server.status in ("BUILD", "ERROR")
        return server.status == "ERROR" and server.task_state is None

    until(ended, f"{name} in ERROR", job.log(), 60)
    fault = job.api.compute.get_server(server.id).fault
    # Nova deletes it a moment after it has set the status.
    until(lambda: not looks.allocation(job, name), "no allocation", job.log(), 15)
    return fault["message"]


def assert_nothing_left(job: Job, cached: set[str]) -> None:
    """The host is as before, with and without the record of the server in Nova."""
    log = job.cloud.host.log

    def clean() -> bool:
        after = job.cloud.host.admin("inventory")
        return not leftovers.differences(job.before, after, cached)

    until(clean, "the host as before", log, 15)
    for name in list(job.servers):
        actions.delete(name)(job)
        del job.servers[name]
    until(clean, "the host as before, the server deleted", log, 15)
    assert PASSWORD not in re.findall(r"\w+", job.log().read_text())


def damaged_image(job: Job, name: str, folder: Path) -> str:
    """Upload an image whose VHD is damaged; its id."""
    vhd = folder / "0.vhd"
    packed = CHECKOUT / "tests" / "data" / "vhd" / f"{name}.vhd.gz"
    vhd.write_bytes(gzip.decompress(packed.read_bytes()))
    image = folder / "image.tar.gz"
    with tarfile.open(image, "w:gz") as archive:
        archive.add(vhd, arcname="0.vhd")
    return job.api.image.create_image(
        name=name,
        filename=str(image),
        disk_format="vhd",
        container_format="ovf",
        properties={"vm_mode": "hvm", "os_type": "linux"},
        wait=True,
    ).id


@pytest.mark.parametrize(("name", "damage"), DAMAGED.items(), ids=DAMAGED)
def test_damaged_image(job, name, damage, tmp_path):
    image_id = damaged_image(job, name, tmp_path)
    fault = build_to_fail(replace(job, image_id=image_id), name)
    assert fault.endswith(f"Image {image_id} is damaged: {damage}")
    assert_nothing_left(job, set())


def test_image_larger_than_the_flavor(job, tmp_path):
    """A qcow2 image says what it becomes, before a byte of it is fetched."""
    disk = tmp_path / "large.qcow2"
    image.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "2G"])
    image_id = job.api.image.create_image(
        name="large",
        filename=str(disk),
        disk_format="qcow2",
        container_format="bare",
        wait=True,
    ).id
    fault = build_to_fail(replace(job, image_id=image_id), "large")
    assert fault.endswith(
        f"Image {image_id} has a disk of {2 << 30} bytes, more than the flavor's "
        f"{1 << 30} bytes: use a flavor with a larger disk."
    )
    assert_nothing_left(job, set())


def test_full_sr(job):
    job.cloud.host.break_next("VDI.clone", *FULL)
    fault = build_to_fail(job, "full")
    assert fault == (
        "Insufficient compute resources: VDI.clone failed: the SR has no room left "
        "(There is insufficient space)."
    )
    cached = leftovers.cache_of(job.cloud.host.disks(), job.image_id)
    assert_nothing_left(job, cached)
