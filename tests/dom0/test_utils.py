# SPDX-License-Identifier: Apache-2.0
"""Left-overs and broken chains on an SR: found, told, and removed with care."""

import fcntl
import os
import signal
import subprocess
import sys
import uuid

import pytest
from xenapi_dom0 import broken_chains, failures, serve, sr_lock, staging, vhd

from tests.dom0 import golden, killing
from tests.dom0.neighbours import wait_for
from tests.dom0.scratch_host import PluginFailed
from tests.dom0.vhd_files import VhdFile

LABEL = "6c1f3a52-8e0b-4a8f-9a5a-1f0f4f4c8d11"


def put(host, disk):
    """Put a small VHD into the SR; return its UUID."""
    name = str(uuid.uuid4())
    (host.sr / f"{name}.vhd").write_bytes(bytes(disk))
    return name


def put_tree(host):
    """Put a base with two children and a grandchild; return their UUIDs."""
    base = VhdFile(fill=1)
    base_name = put(host, base)
    left = VhdFile(parent=base, parent_name=f"{base_name}.vhd")
    left_name = put(host, left)
    right = VhdFile(parent=base, parent_name=f"{base_name}.vhd")
    right_name = put(host, right)
    leaf = VhdFile(parent=left, parent_name=f"{left_name}.vhd")
    return base_name, left_name, right_name, put(host, leaf)


def broken(host):
    found = host.call("utils", "broken_chains", {"sr_path": host.sr_path})["broken"]
    return {one["uuid"]: (one["reason"], one["descendants"]) for one in found}


def clear(host, uuids, how="delete", remove=True):
    request = {"sr_path": host.sr_path, "vdi_uuids": uuids, "how": how,
               "remove": remove}
    return host.call("utils", "clear_broken_chains", request)["disks"]


def test_whole_chains_are_not_broken(host):
    put_tree(host)
    uuids = [str(uuid.uuid4()) for _ in range(3)]
    for name, disk in zip(("base", "hidden", "empty-64m"), uuids, strict=True):
        (host.sr / f"{disk}.vhd").write_bytes(golden.read(name))
    assert broken(host) == {}


def test_a_chain_without_its_base_is_told_with_all_that_lies_on_it(host):
    base, left, right, leaf = put_tree(host)
    other = put_tree(host)
    (host.sr / f"{base}.vhd").unlink()
    assert broken(host) == {
        left: ("its parent is missing", [leaf]), right: ("its parent is missing", []),
    }
    planned = clear(host, [left], remove=False)
    assert [disk["removed"] for disk in planned] == [False, False]
    assert (host.sr / f"{leaf}.vhd").exists()
    done = clear(host, [left])
    assert [disk["uuid"] for disk in done] == [leaf, left]
    assert [disk["removed"] for disk in done] == [True, True]
    assert host.left() == sorted(f"{name}.vhd" for name in (right, *other))


def test_the_other_ways_to_break(old_host):
    host = old_host
    base = VhdFile()
    base_name = put(host, base)
    stranger = put(host, VhdFile(
        parent=VhdFile(), parent_name=f"{base_name}.vhd"))
    (host.sr / "one.raw").write_bytes(b"")
    on_raw = put(host, VhdFile(
        parent=VhdFile(), parent_name="one.raw"))
    outside = put(host, VhdFile(
        parent=VhdFile(), parent_name="../../../etc/passwd"))
    junk = put(host, b"no disk at all" * 100)
    short = put(host, b"conectix")
    link = str(uuid.uuid4())
    (host.sr / f"{link}.vhd").symlink_to("/etc/passwd")
    first, second = VhdFile(), VhdFile()
    first_name, second_name = str(uuid.uuid4()), str(uuid.uuid4())
    for disk, name, above, above_name in (
        (first, first_name, second, second_name),
        (second, second_name, first, first_name),
    ):
        disk.parent, disk.parent_name = above, f"{above_name}.vhd"
        (host.sr / f"{name}.vhd").write_bytes(bytes(disk))
    found = broken(host)
    assert {name: reason for name, (reason, _on) in found.items()} == {
        stranger: "was not made on the disk that it names as its parent",
        outside: "its parent is missing",
        junk: "has no VHD footer at its start",
        short: "is cut off: there are no 512 bytes at 0",
        link: "is no regular file",
        first_name: "its parents go round in a circle",
        second_name: "its parents go round in a circle",
    }
    assert on_raw not in found and base_name not in found
    gone = clear(host, sorted(found))
    assert {disk["uuid"] for disk in gone if disk["removed"]} == set(found)
    assert os.path.exists("/etc/passwd")
    assert host.left() == sorted([f"{base_name}.vhd", f"{on_raw}.vhd", "one.raw"])


def test_a_pipe_in_place_of_a_disk_is_told_and_not_waited_for(old_host):
    pipe = str(uuid.uuid4())
    os.mkfifo(old_host.sr / f"{pipe}.vhd")
    assert broken(old_host) == {pipe: ("is no regular file", [])}
    request = {"sr_path": old_host.sr_path, "vdi_uuids": [str(uuid.uuid4())],
               "uuid_stack": [pipe]}
    with pytest.raises(PluginFailed) as caught:
        old_host.call("workarounds", "safe_copy_vdis", request)
    assert caught.value.code == "IMAGE_CORRUPT"


def test_a_parent_of_any_name_is_looked_for(old_host):
    strange = [
        put(old_host, VhdFile(parent=VhdFile(), parent_name=name))
        for name in ("\u20ac.vhd", "file://%00.vhd")
    ]
    assert broken(old_host) == dict.fromkeys(strange, ("its parent is missing", []))


def test_a_disk_that_is_deleted_meanwhile_is_not_told(
    tmp_path, monkeypatch
):
    base = VhdFile()
    for disk in (base, VhdFile(parent=base, parent_name="x.vhd")):
        (tmp_path / f"{uuid.uuid4()}.vhd").write_bytes(bytes(disk))
    peek = vhd.peek

    def last_look(path):
        try:
            return peek(path)
        finally:
            os.unlink(path)

    monkeypatch.setattr(vhd, "peek", last_look)
    assert broken_chains.find(str(tmp_path)) == []


def test_a_chain_that_is_too_long_for_the_host_is_told(old_host):
    above, name = VhdFile(), None
    names = []
    for _ in range(32):
        below = VhdFile(parent=above if name else None, parent_name=f"{name}.vhd")
        name = put(old_host, below)
        names.append(name)
        above = below
    assert {one: reason for one, (reason, _on) in broken(old_host).items()} == {
        one: "its chain is longer than 30 disks" for one in names[30:]
    }


def test_moved_aside_it_can_be_brought_back(old_host):
    base, left, right, leaf = put_tree(old_host)
    (old_host.sr / f"{base}.vhd").unlink()
    before = (old_host.sr / f"{leaf}.vhd").read_bytes()
    clear(old_host, [left, right], how="move")
    assert broken(old_host) == {}
    aside = old_host.sr / ".xenapi-broken"
    assert {path.stem for path in aside.iterdir()} == {left, right, leaf}
    assert (aside / f"{leaf}.vhd").read_bytes() == before


class TestKept:
    """Nothing goes that somebody needs, nor what carries it."""

    @pytest.fixture
    def chain(self, old_host):
        """A broken disk and one on it."""
        base, left, _right, leaf = put_tree(old_host)
        api = old_host.api.xenapi
        api.SR.scan(api.SR.get_by_uuid(old_host.sr_uuid))
        (old_host.sr / f"{base}.vhd").unlink()
        return left, leaf

    def kept(self, host, chain):
        """Return why the two are kept; both must be."""
        left, leaf = chain
        told = {disk["uuid"]: disk for disk in clear(host, [left])}
        assert (host.sr / f"{left}.vhd").exists() and (host.sr / f"{leaf}.vhd").exists()
        assert not told[left]["removed"] and not told[leaf]["removed"]
        assert told[left]["kept"] == "a disk on it is kept"
        return told[leaf]["kept"]

    def test_what_a_process_has_open(self, old_host, chain):
        with open(old_host.sr / f"{chain[1]}.vhd", "rb"):
            assert "open" in self.kept(old_host, chain)

    def test_what_the_storage_manager_locks(self, old_host, chain):
        folder = old_host.root / "var/lock/sm" / chain[1]
        folder.mkdir(parents=True)
        with open(folder / "vdi", "w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            assert "storage manager" in self.kept(old_host, chain)

    def test_the_disk_of_a_vm(self, old_host, chain):
        api = old_host.api.xenapi
        template = api.VM.get_by_name_label("Other install media")[0]
        machine = api.VM.clone(template, "its disk is broken")
        api.VBD.create({
            "VM": machine, "VDI": api.VDI.get_by_uuid(chain[1]), "userdevice": "0",
            "bootable": True, "mode": "RW", "type": "Disk", "empty": False,
            "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {},
        })
        assert api.VM.get_uuid(machine) in self.kept(old_host, chain)

    @pytest.mark.parametrize("name", ["sr", "gc_active"])
    def test_nothing_goes_while_the_sr_is_worked_on(
        self, old_host, chain, name, monkeypatch
    ):
        monkeypatch.setenv("XENAPI_DOM0_ROOT", str(old_host.root))
        monkeypatch.setattr(sr_lock, "IMPATIENT", 0.2)
        folder = old_host.root / "var/lock/sm" / old_host.sr_uuid
        folder.mkdir(parents=True, exist_ok=True)
        code = (
            "import fcntl, sys\nlock = open(sys.argv[1], 'w')\n"
            "fcntl.lockf(lock, fcntl.LOCK_EX)\nprint(flush=True); sys.stdin.read()\n"
        )
        manager = subprocess.Popen(
            [sys.executable, "-c", code, str(folder / name)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        manager.stdout.readline()
        request = {"sr_path": old_host.sr_path, "vdi_uuids": [chain[0]],
                   "how": "delete", "remove": True}
        with pytest.raises(failures.Failure) as caught:
            killing.plugin("utils").clear_broken_chains(serve.Request(request))
        manager.communicate(b"")
        assert caught.value.code == "BUSY"
        assert (old_host.sr / f"{chain[1]}.vhd").exists()

    def test_what_is_not_broken(self, old_host):
        whole = put_tree(old_host)
        for name in (*whole, str(uuid.uuid4())):
            with pytest.raises(PluginFailed) as caught:
                clear(old_host, [name])
            assert caught.value.params[0] == "vdi_uuids"
        assert len(old_host.left()) == 4


class TestLeftOvers:
    def told(self, host, **changes):
        request = {"sr_path": host.sr_path, **changes}
        found = host.call("utils", "left_overs", request)["folders"]
        return {one["path"]: one for one in found}

    @pytest.fixture
    def killed(self, old_host):
        """Return the name of a folder on the SR whose call was killed."""
        pid = os.fork()
        if pid == 0:
            with staging.folder(str(old_host.sr)) as folder:
                with open(os.path.join(folder, "member-0"), "w") as out:
                    out.write("half a disk")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        (name,) = (path.name for path in old_host.sr.glob(".xenapi-staging*"))
        return name

    def test_a_killed_call_and_old_arrivals(self, old_host, killed):
        images = old_host.root / "images"
        for name in (f"instance{LABEL}", f"instance{LABEL}_ephemeral_1", "instanceX",
                     "mine", ".xenapi-removing.x1"):
            (images / name).mkdir()
            (images / name / "0.vhd").write_bytes(b"x" * 5000)
        old = images / f"instance{LABEL}_ephemeral_1"
        for path in (old / "0.vhd", old):
            os.utime(path, (1, 1))
        wanted = {
            f"{old_host.sr_path}/{killed}", f"/images/{old.name}",
            "/images/.xenapi-removing.x1",
        }
        found = self.told(old_host)
        assert set(found) == wanted
        assert not any(one["removed"] or one["kept"] for one in found.values())
        assert found[f"/images/{old.name}"]["bytes"] >= 5000
        assert old.exists()
        found = self.told(old_host, remove=True)
        assert set(found) == wanted
        assert all(one["removed"] for one in found.values())
        assert old_host.left() == []
        assert {path.name for path in images.iterdir()} == {
            f"instance{LABEL}", "instanceX", "mine"
        }
        assert self.told(old_host, remove=True) == {}
        assert set(self.told(old_host, older_than=0)) == {f"/images/instance{LABEL}"}

    def test_what_lives_is_no_left_over(self, old_host):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from xenapi_dom0 import locks, staging\n"
            "with staging.folder(sys.argv[2]), locks.held('chain', sys.argv[3]):\n"
            "    print(flush=True); sys.stdin.read()\n"
        )
        folder = old_host.root / "images" / f"instance{LABEL}"
        folder.mkdir()
        os.utime(folder, (1, 1))
        call = subprocess.Popen(
            [sys.executable, "-c", code, str(old_host.dom0.plugins), str(old_host.sr),
             LABEL],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=old_host.environment(),
        )
        call.stdout.readline()
        try:
            found = self.told(old_host, remove=True)
            assert list(found) == [f"/images/instance{LABEL}"]
            assert not found[f"/images/instance{LABEL}"]["removed"]
            assert "chain" in found[f"/images/instance{LABEL}"]["kept"]
            assert folder.exists() and len(old_host.left()) == 2
        finally:
            call.communicate(b"")
        wait_for(lambda: self.told(old_host, remove=True) or True)
        assert not folder.exists()

    def test_another_hosts_folder_is_told_and_kept(self, old_host):
        name = ".xenapi-staging.other-host.abc123"
        (old_host.sr / name).mkdir()
        (one,) = self.told(old_host, remove=True).values()
        assert "another host" in one["kept"] and not one["removed"]
        assert (old_host.sr / name).exists()


BAD = {
    "sr_path": ["/etc", None, 7, "/run/sr-mount/../../etc"],
    "vdi_uuids": [[], None, ["x"], ["../" + LABEL], [LABEL, LABEL], [LABEL + "\n"]],
    "how": ["shred", None, 1], "remove": ["yes", 1], "other": [1],
}


def test_each_bad_argument_is_refused_by_its_name(old_host, monkeypatch):
    monkeypatch.setenv("XENAPI_DOM0_ROOT", str(old_host.root))
    clear_chains = killing.plugin("utils").clear_broken_chains
    for name, values in BAD.items():
        for value in values:
            request = {"sr_path": old_host.sr_path, "vdi_uuids": [LABEL],
                       "how": "delete", "remove": True, name: value}
            with pytest.raises(failures.Failure) as caught:
                clear_chains(serve.Request(request))
            assert ("BAD_ARGUMENT", name) == (
                caught.value.code, caught.value.params[0]
            ), value
