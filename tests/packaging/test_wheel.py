# SPDX-License-Identifier: Apache-2.0
"""The wheel, installed beside Nova in both layouts, is loaded by Nova itself.

Nova and everything it needs come from the environment that runs the tests; what
is tried here is where our own files lie in relation to them. That environment
has the project too, as an editable installation: each process below starts
without it.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from xenapi_driver.dom0 import tree

ROOT = pathlib.Path(__file__).resolve().parents[2]
SITE = pathlib.Path(sysconfig.get_path("purelib"))
SHIM = "nova/virt/xenapi/__init__.py"
PROBE = "usr/lib/systemd/system/probe.d/probe.service"

# Nova's own loader; run with -S, so that no editable installation is seen.
LOAD = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from nova import conf
from oslo_config import cfg
if sys.argv[2] == "os_vif":
    import os_vif
    os_vif.initialize()
from nova.virt import driver
conf.CONF([], project="nova", default_config_files=[])
loaded = driver.load_compute_driver(None, "xenapi.XenAPIDriver")
module = sys.modules["nova.virt.xenapi"]
print(json.dumps([module.__file__, type(loaded).__module__, type(loaded).__name__,
                  sys.modules["xenapi_driver"].__file__]))
"""


def run(*argv: str | pathlib.Path, **kwargs) -> subprocess.CompletedProcess:
    """Run a command to its end; what it printed is shown when it fails."""
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, **kwargs
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> pathlib.Path:
    """The wheel of this tree, built in a copy of it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    unwanted = (".git", ".venv", ".tox", ".demo", "build", "dist", "doc")
    ignore = shutil.ignore_patterns(
        *unwanted, "*.egg-info", "__pycache__", ".*_cache"
    )
    shutil.copytree(ROOT, source, ignore=ignore)
    # What a later release may lay outside of the plugins' folder is carried, too.
    probe = source / "dom0_plugins" / PROBE
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_text("[Unit]\n")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps")
    options = ("--no-build-isolation", "--no-index", "--wheel-dir", folder)
    run(*pip, *options, source, env={**os.environ, "PBR_VERSION": "0.0.1"})
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def names(wheel) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def load(*path: pathlib.Path, initialize: str = "") -> list[str]:
    """Load the driver as nova-compute does, with our files on ``path``."""
    places = json.dumps([str(place) for place in path])
    done = run(sys.executable, "-S", "-c", LOAD, places, initialize)
    return json.loads(done.stdout.splitlines()[-1])


def test_one_file_only_below_nova(names):
    assert [SHIM] == [name for name in names if name.startswith("nova")]


def test_top_level_names(names):
    tops = {name.split("/")[0] for name in names}
    ours = {top for top in tops if not top.startswith("xenapi_driver-")}
    assert {"nova", "xenapi_driver"} == ours


def test_every_module_is_in_the_wheel(names):
    files = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "xenapi_driver").rglob("*")
        if path.suffix in (".py", ".json")
    ]
    assert sorted(set(files) - set(names)) == []


def test_the_scripts_for_dom0_are_data_files_that_can_be_executed(wheel):
    folder = "/data/share/xenapi-driver/dom0_plugins/"
    with zipfile.ZipFile(wheel) as archive:
        carried = {
            info.filename.split(folder)[1]: info.external_attr >> 16
            for info in archive.infolist()
            if folder in info.filename
        }
    made = {tree.RELEASE}
    for entry in tree.entries(ROOT / "dom0_plugins", "1"):
        if not entry.twin_of and entry.path not in made:
            # The documented tar takes the modes as they are.
            executable = bool(carried[entry.path] & stat.S_IXUSR)
            assert executable == (entry.mode == 0o755), entry.path
    assert PROBE in carried
    assert {"packaging/xenapi-dom0-plugins.spec", "README.rst"} <= set(carried)
    assert not [name for name in carried if "__pycache__" in name]


def test_loads_from_the_directory_nova_is_in(wheel, tmp_path):
    # Nova's files are linked, ours are unpacked among them: one site-packages.
    site = tmp_path / "site-packages"
    shutil.copytree(SITE / "nova", site / "nova", copy_function=os.symlink)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    shim, module, name, package = load(site, SITE)
    assert str(site / SHIM) == shim
    assert ("xenapi_driver.driver", "XenAPIDriver") == (module, name)
    assert str(site / "xenapi_driver" / "__init__.py") == package


def test_loads_from_another_directory_than_nova(wheel, tmp_path):
    target = tmp_path / "target"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index")
    run(*pip, "--target", target, wheel)
    shim, module, name, package = load(target, SITE, initialize="os_vif")
    assert str(target / SHIM) == shim
    assert ("xenapi_driver.driver", "XenAPIDriver") == (module, name)
    assert str(target / "xenapi_driver" / "__init__.py") == package
    plugin = target / "share/xenapi-driver/dom0_plugins/etc/xapi.d/plugins/glance"
    assert os.access(plugin, os.X_OK)


def test_without_os_vif_another_directory_is_not_seen(wheel, tmp_path):
    # What makes the finder needed: were this to load, it could go.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    with pytest.raises(AssertionError, match="Unable to load the virtualization"):
        load(tmp_path, SITE)


def test_this_environment_loads_the_driver_too():
    # The installation that `make venv` makes serves the demo's nova-compute.
    done = run(sys.executable, "-c", LOAD, "[]", "", cwd="/")
    assert "XenAPIDriver" == json.loads(done.stdout.splitlines()[-1])[2]
