# SPDX-License-Identifier: Apache-2.0
"""The installation on the host's side, killed before each thing that it does."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest
from xenapi_dom0 import installation, plugin_folder

PLUGINS = "etc/xapi.d/plugins"
CALLS = ("link", "mkdir", "rename", "unlink", "fsync", "chown", "rmdir", "open")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="missing: root, as which the scripts are installed"
)


def release(**contents: str) -> list[installation._File]:
    """Files of a release, by name in the plugins' folder."""
    files = []
    for name, text in contents.items():
        content = text.encode()
        told = {
            "path": f"{PLUGINS}/{name.replace('__', '/')}",
            "mode": 0o755,
            "digest": hashlib.sha256(content).hexdigest(),
            "config": False,
        }
        files.append(installation._File(told, content))
    return files


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XENAPI_DOM0_ROOT", str(tmp_path))
    folder = tmp_path / PLUGINS
    (folder / "theirs/below").mkdir(parents=True)
    (folder / "theirs/below/file").write_text("of somebody else")
    (folder / "echo").write_text("of somebody else")
    return tmp_path


def held_by(root: Path) -> dict[str, str]:
    folder = root / PLUGINS
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in folder.rglob("*")
        if file.is_file()
    }


def killed_before(step: int, files: list[installation._File]) -> bool:
    """Install in a child that kills itself before its ``step``-th call; False: done."""
    child = os.fork()
    if child == 0:
        left = [step]

        def counted(real):
            def call(*args, **kwargs):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        plugin_folder._exchange = counted(plugin_folder._exchange)
        try:
            installation.install(files, False)
        finally:
            os._exit(0)
    _pid, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_each_step_it_leaves_the_old_set_or_the_new_one(root, monkeypatch):
    # It is a process that is killed here, not a machine: the disk may lag behind.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    old = dict(glance="one", gone="one", xenapi_dom0__a="one", xenapi_dom0__old="one")
    new = dict(glance="two", later="two", xenapi_dom0__a="two")
    theirs = held_by(root)
    sets = [
        {**theirs, **{name.replace("__", "/"): text for name, text in one.items()}}
        for one in (old, new)
    ]
    step, seen = 0, []
    killed = True
    while killed:
        installation.install(release(**old), False)
        assert held_by(root) == sets[0]
        killed = killed_before(step, release(**new))
        found = held_by(root)
        assert found in sets, step
        seen.append(sets.index(found))
        step += 1
        # What was killed is carried on, or taken back, by whoever comes next.
        again = installation.install(release(**new), False)
        assert held_by(root) == sets[1], (step, again)
        assert [path.name for path in (root / "etc/xapi.d").iterdir()] == ["plugins"]
    assert step > 30
    assert seen == sorted(seen)  # the old one until one moment, from then the new one
    assert set(seen) == {0, 1}


def test_a_plugin_that_came_meanwhile_is_not_lost(root, monkeypatch):
    real = plugin_folder._exchange

    def exchange(one, other):
        (root / PLUGINS / "newcomer").write_text("of somebody else")
        real(one, other)

    monkeypatch.setattr(plugin_folder, "_exchange", exchange)
    installation.install(release(glance="one"), False)
    assert held_by(root)["newcomer"] == "of somebody else"


def test_a_file_system_that_cannot_exchange_is_told(root, monkeypatch):
    monkeypatch.setattr(plugin_folder, "_RENAME_EXCHANGE", 1 << 30)
    before = held_by(root)
    with pytest.raises(installation.failures.Failure) as caught:
        installation.install(release(glance="one"), False)
    assert caught.value.code == "COMMAND_FAILED"
    assert held_by(root) == before
    assert [path.name for path in (root / "etc/xapi.d").iterdir()] == ["plugins"]


@pytest.mark.parametrize(
    "path",
    [
        "etc/../root/x",
        "/etc/x",
        "etc/./x",
        "root/.ssh/x",
        "etc/.x",
        "etc/x\n",
        "etc//x",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path):
    assert installation._PATH.match(path) is None
