# SPDX-License-Identifier: Apache-2.0
"""The way to the first server, typed from its page: host, options, doctor, image.

``xe`` and ``ssh`` are ours and lead to the embedded host; the other commands are
the real ones. What belongs to services of a whole cloud is not typed.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests import builders, fixtures
from tests.functional import doctoring, xe
from xenapi_driver import conf as options
from xenapi_driver.cmd import nova_configuration

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "doc" / "source" / "install" / "first-server.rst"

HOST, COMPUTE, CONTROL = PROMPTS = ("[root@host ~]# ", "$ ", "control$ ")
TYPED = {"SR", "ISO", "xe", "openssl", "tar", "xenapi-driver", "qemu-img"}
# mkdir would make the folder on the machine that runs the tests.
NOT_TYPED = {"mkdir", "ovs-vsctl", "iptables", "service", "pip", "systemctl"}
NOT_TYPED |= {"nova-manage", "openstack"}

SHIM = '#!/bin/sh\nexec "{python}" {program} "$@"\n'
# ssh ... root@HOST COMMAND, with dom0's folder as the root.
SSH = """#!/bin/sh
export XENAPI_DOM0_ROOT="{dom0}"
for command; do :; done
exec /bin/sh -c "$(printf '%s' "$command" | sed 's,/usr/bin/python3,{python},g')"
"""
COMMANDS = """
import sys
from xenapi_driver.cmd import app, doctor, dom0_install
application = app.XenapiDriver()
application.stdout = sys.stdout
kinds = {"doctor": doctor.Doctor, "dom0 install": dom0_install.Install}
words = 2 if sys.argv[1] == "dom0" else 1
command = kinds[" ".join(sys.argv[1:][:words])](application, None)
sys.exit(command.run(command.get_parser("x").parse_args(sys.argv[1:][words:])))
"""


def blocks(language: str) -> list[list[str]]:
    """Return the page's literal blocks of a language, as lines."""
    pattern = rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)"
    found = re.findall(pattern, PAGE.read_text(), re.MULTILINE)
    return [re.sub(r"^   ", "", text, flags=re.M).splitlines() for text in found]


def commands(*prompts: str) -> list[str]:
    """Return what the page says to type at these prompts, in its order."""
    lines = [line for block in blocks("console") for line in block if line]
    assert [line for line in lines if not line.startswith(PROMPTS)] == []
    return [
        line.removeprefix(prompt)
        for line in lines
        for prompt in prompts
        if line.startswith(prompt)
    ]


def first_word(command: str) -> str:
    return re.match(r"[\w-]+", command)[0]


def test_each_command_is_typed_or_not_for_a_reason():
    words = {first_word(command) for command in commands(*PROMPTS)}
    assert words == TYPED | NOT_TYPED


class Operator:
    """Somebody who types what the page says, in one shell."""

    def __init__(self, rig: fixtures.Rig, folder: pathlib.Path) -> None:
        self.rig = rig
        self.folder = folder
        self.server = rig.sim.serve(tls=True)
        self.lines: list[str] = []
        self.nova_conf = folder / "nova.conf"
        plain = rig.host.server.url
        self._add("xe", SHIM, program=f'"{xe.__file__}" {plain} root secret')
        self._add("ssh", SSH, dom0=rig.plugin_dir.parents[2])
        (folder / "commands.py").write_text(COMMANDS)
        self._add("xenapi-driver", SHIM, program=f'"{folder / "commands.py"}"')

    def _add(self, name: str, text: str, **values: object) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(python=sys.executable, **values))
        path.chmod(0o755)

    def settle(self, text: str) -> str:
        """Put in what the page leaves open."""
        for stands, is_here in (
            ("https://HOST", self.server.url),
            ("/etc/nova/nova.conf", str(self.nova_conf)),
            ("/etc/xensource/xapi-ssl.pem", str(self.server.cert_file)),
            ("SECRET", "secret"),
            ("FINGERPRINT", self.server.fingerprint),
        ):
            text = text.replace(stands, is_here)
        return text

    def configure(self) -> None:
        """Write the page's nova.conf; no test runs in the host's VM."""
        [lines] = [block for block in blocks("ini") if "[xenserver]" in block]
        machine = f"compute_vm_uuid = {self.rig.sim.compute_vm_uuid}"
        self.nova_conf.write_text(self.settle("\n".join([*lines, machine, ""])))

    def type(self, prompt: str) -> str:
        """Type what the page says at this prompt, and return the output."""
        typed = [self.settle(c) for c in commands(prompt) if first_word(c) in TYPED]
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", "\n".join(typed)],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def operator(bare_rig, tmp_path):
    shutil.rmtree(bare_rig.plugin_dir)
    bare_rig.plugin_dir.mkdir()
    folder = tmp_path / "operator"
    folder.mkdir()
    return Operator(bare_rig, folder)


def test_the_host_is_prepared(operator):
    printed = operator.type(HOST)
    assert operator.server.fingerprint in printed
    found = operator.rig.host.records("SR", content_type="iso")
    assert "local-storage-iso" in [sr["other_config"].get("i18n-key") for sr in found]
    # The page's two ways to storage, for hosts that were installed in two ways.
    marked = [
        record["type"]
        for record in operator.rig.host.records("SR")
        if record["other_config"].get("openstack") == "disks"
    ]
    assert marked == ["ext", "ext"]


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="missing: qemu-img")
def test_a_server_runs_at_the_end(operator):
    rig = operator.rig
    operator.type(HOST)
    operator.configure()
    told = operator.type(COMPUTE)
    assert "| failed" not in told
    (operator.folder / "disk.img").write_bytes(builders.CONTENT * 4)
    operator.type(CONTROL)
    packed = (operator.folder / "disk.vhd.tgz").read_bytes()

    written = nova_configuration.read([str(operator.nova_conf)])
    for opt in options.ALL_OPTS:
        rig.set_option(opt.dest, written.xenserver[opt.dest])
    rig.start()
    instance = builders.instance(rig.add_image(packed))
    rig.spawn(instance)
    [vm] = rig.host.records("VM", name_label=instance.name)
    assert vm["power_state"] == "Running"
    assert rig.driver.home.sr.other_config["openstack"] == "disks"


def test_the_doctor_sees_that_the_scripts_are_not_there_yet(operator):
    operator.type(HOST)
    operator.configure()
    [row] = doctoring.consult(operator.nova_conf).of("plugins", "failed")
    assert "xenapi-driver dom0 install root@HOST" in row["Remedy"]
    assert "xenapi-driver dom0 install root@HOST" in commands(COMPUTE)
