# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver dom0 install`` over a real sshd, into a scratch dom0."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import time
from importlib import metadata

import pytest

from xenapi_driver.cmd import dom0_install, plugin_tree
from xenapi_driver.dom0 import install as install_on_host
from xenapi_driver.dom0 import ssh, tree

VERSION = metadata.version("xenapi-driver")
HOST = "root@127.0.0.1"
HOOK = "etc/xapi.d/vif-hotplug"
SETTINGS = "etc/xenapi-dom0/probe.conf"
UNIT = "usr/lib/systemd/system/probe.service"


@pytest.fixture
def scripts(tmp_path, monkeypatch) -> pathlib.Path:
    """A copy of the scripts, with a file of each kind outside of the plugins."""
    folder = tmp_path / "scripts"
    shutil.copytree(
        plugin_tree.find(), folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    for path, content in {
        HOOK: "#!/bin/sh\n# xenapi-driver\n",
        SETTINGS: "# xenapi-driver\nlevel = 1\n",
        UNIT: "# xenapi-driver\n[Unit]\n",
    }.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    monkeypatch.setattr(plugin_tree, "find", lambda: folder)
    return folder


@pytest.fixture
def install_over_ssh(reached, ordered, scripts):
    """Run the command on the host; return its status, and what to state."""

    def run(*argv: object) -> tuple[int, dict[str, tuple[str, str]]]:
        words = argv or (HOST, *reached.options())
        status, rows = ordered(dom0_install.Install, *words)
        return status, {row["What"]: (row["State"], row["Remark"]) for row in rows}

    return run


@pytest.fixture
def install(install_over_ssh, reached, monkeypatch):
    """The same without the login: what sshd would start is started here."""

    def argv(where: ssh.Target) -> list[str]:
        return [
            "env",
            f"SSH_ORIGINAL_COMMAND={ssh.COMMAND}",
            f"{reached.folder}/forced",
        ]

    monkeypatch.setattr(ssh.Target, "argv", argv)
    return install_over_ssh


def laid_on(root: pathlib.Path) -> dict[str, tuple[bytes, int]]:
    """Return content and mode of what is below the root's etc and usr."""
    return {
        str(file.relative_to(root)): (
            file.read_bytes(),
            stat.S_IMODE(file.stat().st_mode),
        )
        for top in ("etc", "usr")
        for file in (root / top).rglob("*")
        if file.is_file()
        and not file.is_symlink()
        # Python's own, of the plugin that was asked for its version
        and file.parent.name != "__pycache__"
    }


def wanted(scripts: pathlib.Path) -> dict[str, tuple[bytes, int]]:
    return {
        entry.path: (entry.content, entry.mode)
        for entry in tree.entries(scripts, VERSION)
    }


def states(told) -> dict[str, str]:
    return {what: state for what, (state, _remark) in told.items()}


def test_a_host_without_plugins(reached, install_over_ssh, scripts):
    others = laid_on(reached.root)
    status, told = install_over_ssh()
    assert status == 0, told
    assert laid_on(reached.root) == {**others, **wanted(scripts)}
    assert (reached.root / "etc/xapi.d/plugins/alias").is_symlink()
    outside = [path for path in wanted(scripts) if "/plugins/" not in path]
    assert {HOOK, SETTINGS, UNIT} <= set(outside)
    assert states(told) == {
        "/etc/xapi.d/plugins": "new",
        **{f"/{path}": "new" for path in outside},
        "answer over ssh": "ok",
        "answer over XAPI": "not checked",
    }
    assert f"package {VERSION}" in told["answer over ssh"][1]


def test_again_is_harmless_and_says_so(reached, install):
    install()
    before = laid_on(reached.root)
    folder = reached.root / "etc/xapi.d/plugins"
    inode = folder.stat().st_ino
    status, told = install()
    assert status == 0
    assert {told[what][0] for what in told if "answer" not in what} == {"unchanged"}
    assert laid_on(reached.root) == before
    assert folder.stat().st_ino == inode


def test_a_dry_run_changes_nothing(reached, install):
    before = laid_on(reached.root)
    status, told = install(HOST, *reached.options(), "--dry-run")
    assert status == 0
    assert {state for state, _ in told.values()} == {"would be new"}
    assert laid_on(reached.root) == before
    assert not (reached.root / "var").exists()


def test_a_later_release(reached, install, scripts):
    plugins = scripts / "etc/xapi.d/plugins"
    (plugins / "former").write_text("#!/usr/bin/python3\n")
    (plugins / "xenapi_dom0/former.py").write_text("")
    install()
    (plugins / "former").unlink()
    (plugins / "xenapi_dom0/former.py").unlink()
    (plugins / "later").write_text("#!/usr/bin/python3\n")
    (scripts / SETTINGS).write_text("# xenapi-driver\nlevel = 2\n")
    (scripts / UNIT).unlink()
    others = {
        path: found
        for path, found in laid_on(reached.root).items()
        if path.endswith(("echo", "updater.py", "inventory"))
    }
    status, told = install()
    assert status == 0
    assert laid_on(reached.root) == {**others, **wanted(scripts)}
    assert told["/etc/xapi.d/plugins/former"][0] == "removed"
    assert told["/etc/xapi.d/plugins/former.py"][0] == "removed"
    assert told[f"/{SETTINGS}"][0] == "updated"
    assert told[f"/{UNIT}"][0] == "removed"


def test_what_the_operator_changed_stays(reached, install, scripts):
    install()
    place = reached.root / SETTINGS
    place.write_text("# xenapi-driver\nlevel = 7\n")
    (scripts / SETTINGS).write_text("# xenapi-driver\nlevel = 2\n")
    _, told = install()
    assert told[f"/{SETTINGS}"][0] == "kept"
    assert "level = 7" in place.read_text()
    assert "level = 2" in place.with_name("probe.conf.rpmnew").read_text()
    _, told = install()
    assert told[f"/{SETTINGS}"][0] == "kept"


def test_a_hook_of_somebody_else_stays(reached, install):
    hook = reached.root / HOOK
    hook.write_text("#!/bin/sh\n# another product's\n")
    status, told = install()
    assert status == 0
    assert told[f"/{HOOK}"][0] == "kept"
    assert "belongs to somebody else" in told[f"/{HOOK}"][1]
    assert "another product's" in hook.read_text()
    # From theirs ours can be called.
    assert "xenapi-driver" in hook.with_name("vif-hotplug.rpmnew").read_text()


def test_systemd_is_told_of_units(reached, install, scripts):
    said = reached.root / "said"
    systemctl = reached.root / "usr/bin/systemctl"
    systemctl.parent.mkdir(parents=True)
    systemctl.write_text(f'#!/bin/sh\necho "$*" >> {said}\n')
    systemctl.chmod(0o755)
    _, told = install()
    assert told["probe.service"] == ("enabled", "as our preset says")
    assert said.read_text().splitlines()[0] == "daemon-reload"
    assert "preset probe.service\n" in said.read_text()
    assert "--no-block start probe.service\n" in said.read_text()
    said.unlink()
    install()
    assert not said.exists()
    # A later release restarts what runs; whether it is enabled is the operator's.
    (scripts / UNIT).write_text("# xenapi-driver\n[Unit]\nDescription=later\n")
    install()
    assert "try-restart probe.service" in said.read_text()
    assert "preset" not in said.read_text()


def test_a_unit_never_runs_a_hook_of_somebody_else(reached, install, scripts):
    said = reached.root / "said"
    systemctl = reached.root / "usr/bin/systemctl"
    systemctl.parent.mkdir(parents=True)
    systemctl.write_text(f'#!/bin/sh\necho "$*" >> {said}\n')
    systemctl.chmod(0o755)
    (reached.root / HOOK).write_text("#!/bin/sh\n# another product's\n")
    (scripts / UNIT).write_text(f"# xenapi-driver\n[Service]\nExecStart=/{HOOK} x\n")
    _, told = install()
    assert told["probe.service"][0] == "kept"
    assert "preset probe.service" not in said.read_text()


def test_a_link_in_the_place_of_the_hook_is_not_followed(reached, install, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (reached.root / HOOK).symlink_to(victim)
    _, told = install()
    assert victim.read_text() == "precious"
    assert told[f"/{HOOK}"][0] == "kept"


def test_plugins_of_the_retired_driver_give_way(reached, install, scripts):
    plugins = reached.root / "etc/xapi.d/plugins"
    (plugins / "glance").write_text("#!/usr/bin/env python\nimport pickle\n")
    (plugins / "xenapi_dom0").mkdir()
    (plugins / "xenapi_dom0/old.py").write_text("")
    _, told = install()
    assert told["/etc/xapi.d/plugins"][0] == "updated"
    assert not (plugins / "xenapi_dom0/old.py").exists()
    assert (plugins / "glance").read_bytes() == (
        scripts / "etc/xapi.d/plugins/glance"
    ).read_bytes()


def test_lost_modes_are_mended(reached, install):
    install()
    plugin = reached.root / "etc/xapi.d/plugins/glance"
    plugin.chmod(0o644)
    _, told = install()
    assert told["/etc/xapi.d/plugins"][0] == "updated"
    assert stat.S_IMODE(plugin.stat().st_mode) == 0o755


def test_what_a_killed_installation_left_is_removed(reached, install):
    beside = reached.root / "etc/xapi.d/.plugins.xenapi-driver.x"
    beside.mkdir()
    (beside / "glance").write_text("half")
    install()
    assert not beside.exists()


def test_no_host_with_xapi(reached, install):
    shutil.rmtree(reached.root / "etc/xapi.d")
    status, told = install()
    assert status == 1
    assert "no host with XAPI" in told["plugins"][1]
    assert not (reached.root / "etc/xapi.d").exists()


def test_no_python_is_told_in_one_sentence(reached, install):
    reached.run_under("/usr/bin/no-such-python")
    status, told = install()
    assert status == 1
    state, remark = told["plugins"]
    assert state == "failed"
    assert "has no /usr/bin/python3, and the plugins need Python 3.6" in remark


def test_an_old_python_is_told_in_one_sentence(reached, install, tmp_path):
    # One that says it is older, under any command.
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nprintf 3.4\nexit 96\n")
    old.chmod(0o755)
    reached.run_under(str(old))
    status, told = install()
    assert status == 1
    assert "has Python 3.4 only" in told["plugins"][1]
    assert "XCP-ng 8.3 or XenServer 8" in told["plugins"][1]


def test_a_wrong_key(reached, install_over_ssh):
    before = laid_on(reached.root)
    status, told = install_over_ssh(HOST, *reached.options(reached.stranger))
    assert status == 1
    assert "Permission denied" in told["plugins"][1]
    assert laid_on(reached.root) == before
    assert reached.commands() == []


def test_an_unknown_host_is_not_trusted(reached, install_over_ssh):
    reached.known.write_text("")
    status, told = install_over_ssh()
    assert status == 1
    assert "Host key verification failed" in told["plugins"][1]
    assert reached.commands() == []


def test_nobody_listens(reached, install_over_ssh):
    reached.close()
    status, told = install_over_ssh()
    assert status == 1
    assert "Connection refused" in told["plugins"][1]


def test_no_ssh_here(reached, install_over_ssh, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    status, told = install_over_ssh()
    assert status == 1
    assert "install openssh-client" in told["plugins"][1]


@pytest.mark.parametrize(
    "given",
    ["-oProxyCommand=id", "root@-oProxyCommand=id", "a b", "root@a;id", "x@y@z", "@h"],
)
def test_a_host_s_name_is_no_option_and_no_command(reached, install, given):
    if given.startswith("-"):
        with pytest.raises(ssh.BadTarget):
            ssh.target(given)
        return
    status, told = install(given, *reached.options())
    assert status == 1
    assert "no USER@HOST" in told["plugins"][1]


def test_one_command_for_every_host(reached, install_over_ssh):
    install_over_ssh()
    (reached.root / HOOK).write_text("other\n")
    install_over_ssh(HOST, *reached.options(), "--dry-run")
    first, second = reached.commands()
    assert first == second == ssh.COMMAND.removeprefix("if ! test") + "\n"


def test_several_hosts_each_get_theirs(reached, ordered, scripts):
    status, rows = ordered(
        dom0_install.Install, HOST, "root@127.0.0.9", *reached.options()
    )
    assert status == 1
    assert {row["Host"] for row in rows} == {HOST, "root@127.0.0.9"}
    assert (reached.root / tree.RELEASE).exists()


def test_a_report_from_a_chatty_login(reached, install_over_ssh):
    forced = reached.folder / "forced"
    forced.write_text(forced.read_text().replace("export", "echo Welcome\nexport"))
    status, told = install_over_ssh()
    assert status == 1
    assert "no login script" in told["plugins"][1]
    assert (reached.root / tree.RELEASE).exists()


def test_a_connection_that_breaks_off_changes_nothing(reached, scripts):
    laid = tree.entries(scripts, VERSION)
    library = ssh.carried(laid)
    request = install_on_host._request(laid, dry_run=False)
    head = f"{len(library)} {install_on_host.MODULE}\n".encode()
    before = laid_on(reached.root)
    for share in (0.02, 0.5, 0.999):
        sent = head + library + request[: int(len(request) * share)]
        done = subprocess.run(
            [f"{reached.folder}/forced"],
            input=sent,
            capture_output=True,
            env={**os.environ, "SSH_ORIGINAL_COMMAND": ssh.COMMAND},
        )
        code, *params = json.loads(done.stdout)["failure"]
        assert code == "BAD_ARGUMENT"
        assert "whole" in params[1]
        assert laid_on(reached.root) == before


def test_a_killed_installation_leaves_one_set(reached, install, scripts):
    """Killed at whatever moment: all old plugins or all new ones, and a repeat ends."""
    install()
    old = of_plugins(laid_on(reached.root))
    for plugin in (scripts / "etc/xapi.d/plugins").rglob("*"):
        if plugin.is_file() and plugin.parent.name != "__pycache__":
            plugin.write_text(plugin.read_text() + "# later\n")
    others = {path for path in old if path not in wanted(scripts)}
    new = {
        **{path: old[path] for path in others},
        **of_plugins(wanted(scripts)),
    }
    laid = tree.entries(scripts, VERSION)
    library = ssh.carried(laid)
    head = f"{len(library)} {install_on_host.MODULE}\n".encode()
    sent = head + library + install_on_host._request(laid, dry_run=False)
    delay, found = 0.0, old
    while found == old:
        process = subprocess.Popen(
            [f"{reached.folder}/forced"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "SSH_ORIGINAL_COMMAND": ssh.COMMAND},
            start_new_session=True,
        )
        process.stdin.write(sent)
        process.stdin.flush()
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        found = of_plugins(laid_on(reached.root))
        assert found in (old, new), delay
        assert delay < 60, "an installation never came to its end"
        delay = 1.3 * delay + 0.03
    status, _ = install()
    assert status == 0
    assert of_plugins(laid_on(reached.root)) == new
    beside = (reached.root / "etc/xapi.d").glob(".plugins*")
    assert list(beside) == []


def of_plugins(laid: dict[str, tuple[bytes, int]]) -> dict[str, tuple[bytes, int]]:
    return {
        path: found
        for path, found in laid.items()
        if path.startswith("etc/xapi.d/plugins/")
    }
