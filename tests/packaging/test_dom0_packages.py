# SPDX-License-Identifier: Apache-2.0
"""Tarball, RPM and supplemental pack are read back with their own tools."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import stat
import subprocess
import tarfile
from importlib import metadata
from xml.etree import ElementTree

import pytest

from tests import command_line
from xenapi_driver.cmd import dom0_build, plugin_tree
from xenapi_driver.dom0 import build, tree

VERSION = metadata.version("xenapi-driver")
REQUIRED = os.environ.get("REQUIRE_ROOT_PARTS") == "1"
TOOLS = ("rpm", "rpmbuild", "rpm2cpio", "cpio", "xorriso", "isoinfo")


def said_by(*argv: object, **kwargs) -> str:
    """Run a tool to a good end; return what it printed."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(*argv: object) -> tuple[int, list[dict[str, str]]]:
    """Run ``xenapi-driver dom0 build``; return its status and its rows."""
    return command_line.run(dom0_build.Build, *argv)


@pytest.fixture(scope="module")
def laid() -> list[tree.Entry]:
    return tree.entries(plugin_tree.find(), VERSION)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, pathlib.Path]:
    """All three packages, by kind."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        message = f"missing: {', '.join(missing)} (tests/packages.txt)"
        if REQUIRED:
            pytest.fail(message)
        pytest.skip(message)
    status, rows = run("--output", tmp_path_factory.mktemp("made") / "new")
    assert status == 0, rows
    return {row["Package"]: pathlib.Path(row["File"]) for row in rows}


def modes(folder: pathlib.Path) -> dict[str, int]:
    """Return path to mode of every file below a folder."""
    return {
        str(file.relative_to(folder)): stat.S_IMODE(file.stat().st_mode)
        for file in folder.rglob("*")
        if file.is_file()
    }


def assert_holds(folder: pathlib.Path, laid: list[tree.Entry]) -> None:
    """The folder holds exactly these files, with content and mode."""
    assert modes(folder) == {entry.path: entry.mode for entry in laid}
    for entry in laid:
        assert (folder / entry.path).read_bytes() == entry.content


def test_the_tarball_is_laid_over_a_root(made, laid, tmp_path):
    said_by("tar", "-xzpf", made["tarball"], "-C", tmp_path)
    assert_holds(tmp_path, laid)


def test_the_tarball_belongs_to_root_and_leaves_shared_folders_alone(made):
    listed = said_by("tar", "--numeric-owner", "-tvzf", made["tarball"]).splitlines()
    assert {line.split()[1] for line in listed} == {"0/0"}
    folders = [line.split()[-1] for line in listed if line.startswith("d")]
    assert folders == [f"{tree.LIBRARY}/"]


def test_a_plugin_from_the_tarball_says_its_release(made, tmp_path):
    with tarfile.open(made["tarball"]) as archive:
        text = archive.extractfile(tree.RELEASE).read()
    assert text.decode() == f"{VERSION}\n"


def test_the_rpm_says_what_it_is(made):
    query = "%{NAME} %{VERSION} %{ARCH} %{PAYLOADCOMPRESSOR} %{FILEDIGESTALGO}"
    said = said_by("rpm", "-qp", "--qf", query, made["rpm"])
    assert said == f"xenapi-dom0-plugins {VERSION} noarch gzip 8"


def test_an_old_rpm_can_read_it(made):
    # rpm 4.11 knows these; a later feature would be refused there.
    known = {"CompressedFileNames", "FileDigests", "PayloadFilesHavePrefix"}
    needs = said_by("rpm", "-qp", "--requires", made["rpm"]).splitlines()
    features = {need[7:].split(")")[0] for need in needs if need.startswith("rpmlib(")}
    assert features <= known
    assert "/usr/bin/python3" in needs


def test_the_rpm_s_files_belong_to_root(made, laid):
    lines = said_by(
        "rpm",
        "-qp",
        "--qf",
        "[%{FILENAMES} %{FILEMODES:octal} "
        "%{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEFLAGS:fflags}|\n]",
        made["rpm"],
    ).splitlines()
    listed = {}
    for line in lines:
        path, mode, owner, flags = line.split(" ")
        assert owner == "root:root", line
        if mode.startswith("10"):
            listed[path.lstrip("/")] = (int(mode, 8) & 0o7777, flags)
    # c: configuration, n: not replaced
    assert listed == {
        entry.path: (entry.mode, "cn|" if entry.config else "|") for entry in laid
    }


def test_the_rpm_s_payload(made, laid, tmp_path):
    payload = subprocess.run(
        ["rpm2cpio", str(made["rpm"])], capture_output=True, check=True
    )
    subprocess.run(
        ["cpio", "-idm", "--quiet"], input=payload.stdout, cwd=tmp_path, check=True
    )
    assert_holds(tmp_path, laid)


def rpm(root: pathlib.Path, *argv: object) -> str:
    """Run rpm on a root with a database of its own."""
    return said_by("rpm", "--dbpath", "/rpmdb", "--root", root, *argv)


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    if os.geteuid() != 0:
        if REQUIRED:
            pytest.fail("rpm --root needs root")
        pytest.skip("missing: root, for rpm --root")
    folder = tmp_path / "root"
    (folder / "rpmdb").mkdir(parents=True)
    return folder


WITHOUT_A_HOST = ("--nodeps", "--noscripts")  # there is no shell in the root


def test_the_rpm_installs_verifies_and_goes(made, laid, root):
    rpm(root, "-i", *WITHOUT_A_HOST, made["rpm"])
    installed = {
        path: mode for path, mode in modes(root).items() if path[:4] in ("etc/", "usr/")
    }
    assert installed == {entry.path: entry.mode for entry in laid}
    assert rpm(root, "-V", *WITHOUT_A_HOST, "xenapi-dom0-plugins") == ""
    rpm(root, "-e", *WITHOUT_A_HOST, "xenapi-dom0-plugins")
    assert not (root / tree.LIBRARY).exists()


@pytest.fixture
def host_root(root) -> pathlib.Path:
    """A root with a shell, and programs that write down what they are asked."""
    busybox = shutil.which("busybox")
    if busybox is None or b"GLIBC_2" in pathlib.Path(busybox).read_bytes():
        pytest.skip("missing: busybox-static, for scripts in a root of their own")
    for folder in ("bin", "usr/bin", "dev", "etc/xapi.d/plugins"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "dev/null").touch()
    for name in ("sh", "rm", "rmdir", "echo"):
        shutil.copy(busybox, root / "bin" / name)
    for name in ("python3", "systemctl"):
        program = root / "usr/bin" / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> /asked\n')
        program.chmod(0o755)
    return root


def test_the_rpm_s_scripts(made, host_root):
    rpm(host_root, "-i", "--nodeps", made["rpm"])
    asked = (host_root / "asked").read_text()
    assert "python3 -B -m xenapi_dom0.preparation\n" in asked
    assert "sys.version_info < (3, 6)" in asked
    (host_root / tree.LIBRARY / "__pycache__").mkdir()
    (host_root / tree.LIBRARY / "__pycache__/a.pyc").write_text("")
    rpm(host_root, "-e", "xenapi-dom0-plugins")
    assert not (host_root / tree.LIBRARY).exists()


def test_the_rpm_refuses_a_host_without_python(made, host_root):
    (host_root / "usr/bin/python3").write_text("#!/bin/sh\nexit 1\n")
    words = ("--dbpath", "/rpmdb", "--root", str(host_root), "-i", "--nodeps")
    done = subprocess.run(
        ["rpm", *words, str(made["rpm"])], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "needs Python 3.6 or later" in done.stdout + done.stderr
    assert not (host_root / tree.LIBRARY).exists()


def test_the_rpm_keeps_what_somebody_else_has_in_the_place_of_a_file(made, laid, root):
    config = [entry.path for entry in laid if entry.config]
    assert config
    for path in config:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("of somebody else\n")
    rpm(root, "-i", *WITHOUT_A_HOST, made["rpm"])
    for path in config:
        assert (root / path).read_text() == "of somebody else\n"
        assert (root / f"{path}.rpmnew").exists()


def test_two_builds_give_the_same_bytes(made, tmp_path):
    status, rows = run("--output", tmp_path)
    assert status == 0
    for row in rows:
        first = made[row["Package"]].read_bytes()
        assert pathlib.Path(row["File"]).read_bytes() == first, row["Package"]


def test_a_given_date_is_every_file_s(made, monkeypatch, tmp_path):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    _, rows = run("--output", tmp_path, "--only", "tarball", "--only", "rpm")
    tar, package = (row["File"] for row in rows)
    with tarfile.open(tar) as archive:
        assert {member.mtime for member in archive} == {1700000000}
    times = said_by("rpm", "-qp", "--qf", "%{BUILDTIME}[ %{FILEMTIMES}]", package)
    assert set(times.split()) == {"1700000000"}


def test_the_pack_s_files(made):
    names = said_by("isoinfo", "-R", "-f", "-i", made["pack"]).split()
    assert sorted(names) == [
        "/XS-PACKAGES",
        "/XS-REPOSITORY",
        "/install.sh",
        f"/{made['rpm'].name}",
    ]
    listed = said_by(
        *("xorriso", "-indev", made["pack"], "-find", "/", "-exec", "lsdl", "--")
    )
    script = next(line for line in listed.splitlines() if "install.sh" in line)
    assert script.startswith("-rwxr-xr-x")
    assert script.split()[2:4] == ["0", "0"]


def unpacked(pack: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    said_by("xorriso", "-osirrox", "on", "-indev", pack, "-extract", "/", folder)
    return folder


def test_the_pack_describes_the_rpm(made, tmp_path):
    folder = unpacked(made["pack"], tmp_path / "pack")
    repository = ElementTree.parse(folder / "XS-REPOSITORY").getroot()
    assert repository.tag == "repository"
    assert repository.get("version") == VERSION
    (package,) = ElementTree.parse(folder / "XS-PACKAGES").getroot()
    content = (folder / package.text).read_bytes()
    assert content == made["rpm"].read_bytes()
    assert package.get("size") == str(len(content))
    assert package.get("md5") == hashlib.md5(content).hexdigest()


def test_the_pack_s_script_installs_once(made, root, tmp_path):
    folder = unpacked(made["pack"], tmp_path / "pack")
    tools = tmp_path / "tools"
    tools.mkdir()
    wrapper = tools / "rpm"
    real = shutil.which("rpm")
    # As on a host, but into a root of its own.
    wrapper.write_text(
        f'#!/bin/sh\nexec {real} --dbpath /rpmdb --root {root} "$@"'
        " $(case $1 in -U) echo --nodeps --noscripts;; esac)\n"
    )
    wrapper.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    said_by(folder / "install.sh", env=environment)
    assert (root / tree.RELEASE).read_text() == f"{VERSION}\n"
    assert "installed already" in said_by(folder / "install.sh", env=environment)


def test_the_tarball_needs_no_tool(monkeypatch, tmp_path):
    monkeypatch.setattr(build.tools.shutil, "which", lambda name: None)
    status, rows = run("--output", tmp_path)
    assert status == 1
    states = {row["Package"]: row["State"] for row in rows}
    assert states == {"tarball": "made", "rpm": "failed", "pack": "failed"}
    assert "rpmbuild is not installed here: install rpm" in rows[1]["File"]
    assert [file.suffix for file in tmp_path.iterdir()] == [".gz"]


def test_without_xorriso_the_rpm_is_there(made, monkeypatch, tmp_path):
    real = shutil.which
    monkeypatch.setattr(
        build.tools.shutil, "which", lambda name: None if "xo" in name else real(name)
    )
    status, rows = run("--output", tmp_path)
    assert status == 1
    assert [row["State"] for row in rows] == ["made", "made", "failed"]
    assert "install xorriso" in rows[2]["File"]


def test_one_kind_only(tmp_path):
    status, rows = run("--output", tmp_path, "--only", "tarball")
    assert status == 0
    assert [row["Package"] for row in rows] == ["tarball"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "packages"
    status, rows = run("--output", output)
    assert status == 1
    assert {row["State"] for row in rows} == {"failed"}
    assert {row["File"] for row in rows} == {f"{output}: Not a directory"}
