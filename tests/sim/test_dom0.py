# SPDX-License-Identifier: Apache-2.0
"""The simulated dom0: plugins run as processes, disks become block devices."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import textwrap
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

from xenapi_driver.sim import dom0
from xenapi_driver.sim.storage import block_devices, vhd_store

MIB = 1 << 20
SR = "run/sr-mount/11111111-2222-4333-8444-555555555555"
VDI = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
PREAMBLE = """#!/usr/bin/python3
import json, os, sys, time, xmlrpc.client
(session, args), fn = xmlrpc.client.loads(sys.argv[1])
def answer(value):
    sys.stdout.write(xmlrpc.client.dumps((value,), methodresponse=True))
"""


def _is_alive(pid: str) -> bool:
    try:
        return ") Z " not in Path("/proc", pid, "stat").read_text()
    except OSError:
        return False


class Dom0TestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="sim-dom0-"))
        self.addCleanup(shutil.rmtree, self.dir)
        self.source = self.dir / "plugins"
        self.source.mkdir()

    def script(self, name: str, body: str, mode: int = 0o755) -> None:
        file = self.source / name
        file.write_text(body)
        file.chmod(mode)

    def plugin(self, name: str, body: str) -> None:
        self.script(name, PREAMBLE + textwrap.dedent(body))

    def start(self) -> dom0.Dom0:
        host = dom0.Dom0(self.dir / "root", self.source)
        self.addCleanup(host.close)
        return host

    def error_of(self, host: dom0.Dom0, name: str, args: dict[str, str]) -> list[str]:
        with self.assertRaises(dom0.PluginError) as caught:
            host.call_plugin(name, "fn", "OpaqueRef:s", args)
        return caught.exception.error


class AnswerTest(Dom0TestCase):
    def test_call_carries_function_session_and_arguments(self) -> None:
        self.plugin(
            "echo",
            """
            value = json.dumps([fn, session, args])
            answer({"Status": "Success", "Value": value})
        """,
        )
        value = self.start().call_plugin("echo", "say", "OpaqueRef:s", {"k": "<&>"})
        self.assertEqual('["say", "OpaqueRef:s", {"k": "<&>"}]', value)

    def test_plugin_sees_path_and_root_only(self) -> None:
        self.plugin(
            "env",
            """
            value = json.dumps({k: v for k, v in os.environ.items() if k != "LC_CTYPE"})
            answer({"Status": "Success", "Value": value})
        """,
        )
        host = self.start()
        with mock.patch.dict(os.environ, {"SECRET": "x"}):
            value = host.call_plugin("env", "fn", "s", {})
        self.assertNotIn("SECRET", value)
        self.assertIn('"PATH": "/sbin:/usr/sbin:/bin:/usr/bin"', value)
        self.assertIn(f'"XENAPI_DOM0_ROOT": "{host.root}"', value)

    def test_xapis_socket_is_gone_with_the_host(self) -> None:
        self.plugin("p", 'answer({"Status": "Success", "Value": ""})')
        host = self.start()
        host.call_plugin("p", "fn", "OpaqueRef:s", {})
        link = host.root / "var/lib/xcp/xapi"
        self.assertTrue(link.is_symlink())
        host.close()
        self.assertFalse(link.is_symlink())

    def test_python_of_dom0_runs_it(self) -> None:
        self.plugin(
            "version",
            """
            value = sys.executable
            answer({"Status": "Success", "Value": value})
        """,
        )
        host = self.start()
        self.assertEqual(host.python, host.call_plugin("version", "fn", "s", {}))

    def test_library_beside_the_plugin_is_found(self) -> None:
        (self.source / "lib").mkdir()
        (self.source / "lib/__init__.py").write_text("VALUE = 'from lib'\n")
        self.plugin(
            "p",
            """
            import lib
            answer({"Status": "Success", "Value": lib.VALUE})
        """,
        )
        self.assertEqual("from lib", self.start().call_plugin("p", "fn", "s", {}))

    def test_each_plugin_has_a_twin_with_py(self) -> None:
        self.plugin(
            "p",
            """
            answer({"Status": "Success", "Value": ""})
        """,
        )
        host = self.start()
        self.assertEqual("", host.call_plugin("p.py", "fn", "s", {}))
        self.assertEqual("", host.call_plugin("p", "fn", "s", {}))

    def test_any_executable_is_a_plugin(self) -> None:
        body = """#!/bin/sh
            echo '<methodResponse><params><param><value><struct>'
            echo '<member><name>Status</name><value>Success</value></member>'
            echo '<member><name>Value</name><value>sh</value></member>'
            echo '</struct></value></param></params></methodResponse>'
        """
        self.script("shell", body)
        self.assertEqual("sh", self.start().call_plugin("shell", "fn", "s", {}))


class FailureTest(Dom0TestCase):
    def test_what_is_no_plugin(self) -> None:
        self.script("data", "text", mode=0o644)
        (self.source / "lib").mkdir()
        host = self.start()
        for name in ("none", "data", "lib", "../plugins/data", "", ".", "/bin/true"):
            with self.subTest(name):
                self.assertEqual(
                    ["XENAPI_MISSING_PLUGIN", name], self.error_of(host, name, {})
                )

    def test_failure_of_the_plugin_comes_as_it_is(self) -> None:
        self.plugin(
            "p",
            """
            answer({"Status": "Failure", "ErrorDescription": ["CODE", "why"]})
        """,
        )
        self.assertEqual(["CODE", "why"], self.error_of(self.start(), "p", {}))

    def test_exit_code(self) -> None:
        self.plugin(
            "p",
            """
            print("out")
            sys.stderr.write("err")
            sys.exit(3)
        """,
        )
        self.assertEqual(
            ["XENAPI_PLUGIN_FAILURE", "non-zero exit", "out\n", "err"],
            self.error_of(self.start(), "p", {}),
        )

    def test_signal(self) -> None:
        self.plugin(
            "p",
            """
            os.kill(os.getpid(), 9)
        """,
        )
        error = self.error_of(self.start(), "p", {})
        self.assertEqual(["XENAPI_PLUGIN_FAILURE", "signal: SIGKILL"], error[:2])

    def test_rubbish_on_stdout(self) -> None:
        for output in ("", "hello", "<a>", "<methodResponse>", "\\x00"):
            self.plugin(
                "p",
                f"""
                sys.stdout.write("{output}")
            """,
            )
            with self.subTest(output):
                error = self.error_of(dom0.Dom0(self.dir / "r", self.source), "p", {})
                self.assertEqual(
                    ["XENAPI_PLUGIN_FAILURE", "failed to parse plugin output"],
                    error[:2],
                )

    def test_answers_of_a_wrong_shape(self) -> None:
        wrong_type = ["INTERNAL_ERROR"]
        unexpected = ["XENAPI_PLUGIN_FAILURE", "unexpected XMLRPC result"]
        for value, expected in (
            ("'text'", wrong_type),
            ("{'Status': 'Success', 'Value': 5}", wrong_type),
            ("{'Status': 'Success'}", wrong_type),
            ("{'Status': 'Failure', 'ErrorDescription': []}", unexpected),
            ("{'Status': 'Maybe', 'Value': ''}", unexpected),
        ):
            self.plugin(
                "p",
                f"""
                answer({value})
            """,
            )
            with self.subTest(value):
                error = self.error_of(dom0.Dom0(self.dir / "r", self.source), "p", {})
                self.assertEqual(expected, error[: len(expected)])

    def test_call_longer_than_an_argument_may_be(self) -> None:
        self.plugin(
            "p",
            """
            answer({"Status": "Success", "Value": str(len(args["k"]))})
        """,
        )
        host = self.start()
        size = 120 * 1024
        value = host.call_plugin("p", "fn", "s", {"k": "x" * size})
        self.assertEqual(str(size), value)
        error = self.error_of(host, "p", {"k": "x" * 128 * 1024})
        self.assertEqual("XENAPI_PLUGIN_FAILURE", error[0])
        self.assertIn("too long", error[3])

    def test_interpreter_that_is_not_there(self) -> None:
        self.script("p", "#!/no/such/interpreter\n")
        error = self.error_of(self.start(), "p", {})
        self.assertEqual(["XENAPI_PLUGIN_FAILURE", "non-zero exit"], error[:2])


class ProcessTest(Dom0TestCase):
    def test_close_ends_what_runs_and_its_children(self) -> None:
        self.plugin(
            "p",
            """
            import subprocess
            child = subprocess.Popen(["sleep", "100"])
            with open(args["pid"], "w") as f:
                f.write(str(child.pid))
            time.sleep(100)
        """,
        )
        host, pid_file = self.start(), self.dir / "pid"
        errors: list[list[str]] = []
        thread = threading.Thread(
            target=lambda: errors.append(
                self.error_of(host, "p", {"pid": str(pid_file)})
            )
        )
        thread.start()
        deadline = time.monotonic() + 20
        while not (pid_file.exists() and pid_file.read_text()):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        self.assertEqual(1, host.processes_alive())
        host.close()
        thread.join(20)
        self.assertEqual(0, host.processes_alive())
        self.assertEqual("signal: SIGTERM", errors[0][1])
        # The signal was sent; a grandchild is not ours to wait for.
        while _is_alive(pid_file.read_text()):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        self.assertEqual("task stopped", self.error_of(host, "p", {})[1])

    def test_plugins_run_in_parallel(self) -> None:
        self.plugin(
            "meet",
            """
            mine, other = args["mine"], args["other"]
            open(mine, "w").close()
            for _ in range(1000):
                if os.path.exists(other):
                    answer({"Status": "Success", "Value": "met"})
                    break
                time.sleep(0.02)
        """,
        )
        host, seen = self.start(), []
        a, b = str(self.dir / "a"), str(self.dir / "b")

        def call(mine: str, other: str) -> None:
            args = {"mine": mine, "other": other}
            seen.append(host.call_plugin("meet", "fn", "s", args))

        pairs = [(a, b), (b, a)]
        threads = [threading.Thread(target=call, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(["met", "met"], seen)


class RootTest(Dom0TestCase):
    def test_places_that_a_host_has(self) -> None:
        host = self.start()
        for name in ("run/sr-mount", "var/run/sr-mount", "boot/guest", "etc/xapi.d"):
            self.assertTrue((host.root / name).is_dir(), name)
        self.assertEqual([], host.scratch_files())

    def test_what_is_left_behind(self) -> None:
        host = self.start()
        (host.root / SR / "staging").mkdir(parents=True)
        for name in (
            f"{SR}/{VDI}.vhd",
            "var/log/plugin.log",
            "etc/xapi.d/plugins/__pycache__/x.pyc",
        ):
            (host.root / name).parent.mkdir(exist_ok=True)
            (host.root / name).touch()
        self.assertEqual([f"{SR}/staging/"], host.scratch_files())
        (host.root / SR / "staging" / f"{VDI}.vhd").touch()
        (host.root / "tmp/left").touch()
        self.assertEqual([f"{SR}/staging/{VDI}.vhd", "tmp/left"], host.scratch_files())

    def test_started_again_it_takes_the_plugins_of_now(self) -> None:
        self.plugin("old", "")
        self.start().close()
        (self.source / "old").rename(self.source / "new")
        host = self.start()
        names = sorted(file.name for file in host.plugins.iterdir())
        self.assertEqual(["echo", "echo.py", "new", "new.py"], names)


class PythonTest(Dom0TestCase):
    def test_it_runs_without_our_environment(self) -> None:
        python = dom0.find_dom0_python()
        bare = {"PATH": dom0.PATH}
        subprocess.run([python, "-c", "import ssl"], check=True, env=bare)

    def test_launcher_that_launches_nothing_is_not_taken(self) -> None:
        launcher = self.dir / "python3.6"
        launcher.write_text("#!/bin/sh\nexit 127\n")
        launcher.chmod(0o755)
        with mock.patch.dict(os.environ, {"PATH": str(self.dir)}):
            python = dom0.find_dom0_python()
        self.assertNotEqual(str(launcher), python)


class BlockDeviceTest(Dom0TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.host = self.start()
        self.sr = vhd_store.SrStore(self.host.root / SR, 1 << 30)
        self.sr.create(VDI, 8 * MIB)
        self.sr.write(VDI, 0, b"before")
        self.disk = self.sr.path_of(VDI)

    def attach(self, device: str = "xvdb") -> Path:
        try:
            return self.host.attach_block(self.disk, device, self.dir / "dev")
        except dom0.NoBlockDevices as error:
            raise unittest.SkipTest(str(error)) from None

    def test_content_goes_in_and_changes_come_back(self) -> None:
        leaf, base = VDI.replace("a", "1"), VDI.replace("a", "2")
        self.sr.clone(VDI, leaf, base)
        link = self.attach()
        self.assertTrue(link.is_block_device())
        with open(link, "r+b") as device:
            self.assertEqual(b"before\0", device.read(7))
            device.seek(5 * MIB + 3)
            device.write(b"after")
        self.host.detach_block("xvdb")
        self.assertFalse(os.path.lexists(link))
        self.assertEqual(b"\0after\0", self.sr.read(VDI, 5 * MIB + 2, 7))
        self.assertEqual(b"before", self.sr.read(VDI, 0, 6))
        self.assertEqual(bytes(7), self.sr.read(leaf, 5 * MIB + 2, 7))
        self.assertEqual([], self.host.scratch_files())

    def test_disk_that_was_only_read_stays_the_same_bytes(self) -> None:
        before = self.disk.read_bytes()
        self.attach().read_bytes()
        self.host.detach_block("xvdb")
        self.assertEqual(before, self.disk.read_bytes())

    def test_device_in_use_stays(self) -> None:
        link = self.attach()
        subprocess.run(["mkfs.ext4", "-q", str(link)], check=True)
        point = self.dir / "mnt"
        point.mkdir()
        if subprocess.run(["mount", str(link), str(point)]).returncode:
            self.skipTest("missing: the right to mount")
        try:
            with self.assertRaises(block_devices.DeviceBusy):
                self.host.detach_block("xvdb")
            (point / "file").write_text("text")
        finally:
            subprocess.run(["umount", str(point)], check=True)
        self.host.detach_block("xvdb")
        self.assertFalse(link.exists())

    def test_names_that_cannot_be_used(self) -> None:
        self.attach()
        for name in ("xvdb", "../x", ""):
            with self.subTest(name), self.assertRaises(dom0.NoBlockDevices):
                self.host.attach_block(self.disk, name, self.dir / "dev")
        with self.assertRaises(dom0.NoBlockDevices):
            self.host.detach_block("xvdc")

    def test_disk_that_is_gone_or_broken_meanwhile(self) -> None:
        self.attach()
        self.disk.unlink()
        self.host.detach_block("xvdb")
        self.sr.create(VDI, 8 * MIB)
        self.attach()
        self.disk.write_bytes(b"rubbish")
        with self.assertRaisesRegex(dom0.NoBlockDevices, "lost"):
            self.host.detach_block("xvdb")
        with self.assertRaises(dom0.NoBlockDevices):
            self.host.attach_block(self.disk, "xvdb", self.dir / "dev")
        self.assertEqual([], self.host.scratch_files())

    def test_close_takes_devices_away(self) -> None:
        link = self.attach()
        loop = link.resolve()
        self.host.close()
        self.assertFalse(os.path.lexists(link))
        self.assertFalse(Path("/sys/block", loop.name, "loop/backing_file").exists())

    def test_without_root_it_says_what_is_missing(self) -> None:
        with (
            mock.patch("os.geteuid", return_value=1000),
            self.assertRaisesRegex(dom0.NoBlockDevices, "need root"),
        ):
            self.host.attach_block(self.disk, "xvdb", self.dir / "dev")
