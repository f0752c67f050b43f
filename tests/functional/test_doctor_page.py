# SPDX-License-Identifier: Apache-2.0
"""The doctor's page shows what the command prints, and explains every check.

``python -m tests.functional.test_doctor_page`` writes the page's sample anew.
"""

from __future__ import annotations

import io
import pathlib
import re
import tempfile

from tests import fixtures
from tests.functional import doctoring
from xenapi_driver.cmd import app, doctor, examination

INSTALL = pathlib.Path(__file__).parents[2] / "doc" / "source" / "install"
SAMPLE = INSTALL / "doctor-sample.txt"
WIDTH = 96

# What differs from run to run, and what stands on the page for it.
CHANGING = (
    (r"/\S*/nova\.conf", "/etc/nova/nova.conf"),
    (r"127\.0\.0\.1:\d+|192\.168\.66\.10", "192.0.2.10"),
    (r"took \d+ ms", "took 24 ms"),
    (r"ends in \d+ days", "ends in 3649 days"),
    (r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}", ":".join(f"{n:02X}" for n in range(160, 192))),
)
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class Settled:
    """Puts what always is the same in the place of what changes."""

    def __init__(self) -> None:
        self._uuids: dict[str, str] = {}

    def _uuid(self, found: re.Match) -> str:
        number = len(self._uuids) + 1
        made = f"{number * 0x11111111:08x}-2222-4333-8444-{number * 0x555555:012x}"
        return self._uuids.setdefault(found[0], made)

    def __call__(self, text: str) -> str:
        for pattern, stands in CHANGING:
            text = re.sub(pattern, stands, text)
        return re.sub(UUID, self._uuid, text)


def printed(path: pathlib.Path, settled: Settled) -> str:
    """Return what the command prints of this configuration, settled."""
    told = doctoring.consult(path)
    rows = [tuple(map(settled, row.values())) for row in told.rows]

    class Settling(doctor.Doctor):
        failed = bool(told.status)

        def take_action(self, parsed_args):
            return doctor.COLUMNS, rows

    application = app.XenapiDriver()
    application.stdout = io.StringIO()
    command = Settling(application, None)
    parser = command.get_parser("xenapi-driver doctor")
    status = command.run(parser.parse_args(["--max-width", str(WIDTH)]))
    table = application.stdout.getvalue()
    return f"$ xenapi-driver doctor\n{table}$ echo $?\n{status}\n"


def sample(folder: pathlib.Path) -> str:
    """Return the page's sample: a host that is fit, and one that is not."""
    rig = fixtures.Rig(folder)
    settled = Settled()
    try:
        server = rig.sim.serve(tls=True)
        rig.set_option("connection_url", server.url)
        rig.set_option("connection_fingerprints", [server.fingerprint])
        rig.set_option("reserved_host_memory_mb", 7231, "DEFAULT")
        fit = printed(rig.nova_conf(), settled)
        rig.host.create_sr("lvm", openstack="disks")
        rig.set_option("sr_matching_filter", "other-config:openstack=disks")
        rig.set_option("torrent_images", "all")
        (rig.plugin_dir / "dom0_plugin_version").unlink()
        return f"{fit}\n{printed(rig.nova_conf(), settled)}"
    finally:
        rig.close()


def test_the_sample_is_what_the_command_prints(tmp_path):
    assert SAMPLE.read_text() == sample(tmp_path), __doc__


def test_the_sample_shows_every_state():
    text = SAMPLE.read_text()
    for state in (examination.OK, examination.WARNING, examination.FAILED):
        assert f"| {state} " in text


def test_every_check_is_explained_in_order():
    text = (INSTALL / "doctor.rst").read_text()
    explained = text.partition("What each check looks at\n")[2]
    terms = re.findall(r"^(\S.*)\n   \S", explained, re.MULTILINE)
    assert tuple(terms) == examination.CHECKS


if __name__ == "__main__":
    fixtures.prepare_nova()
    with tempfile.TemporaryDirectory() as somewhere:
        SAMPLE.write_text(sample(pathlib.Path(somewhere)))
