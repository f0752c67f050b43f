# SPDX-License-Identifier: Apache-2.0
"""What xapi gives a plugin and gets back from it."""

import ast
import json
import os
import stat
import uuid
import xmlrpc.client

import pytest

from tests.dom0 import scratch_host

SOURCES = sorted(
    path
    for path in scratch_host.PLUGINS.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".filters"
)
PLUGINS = [path for path in SOURCES if path.parent == scratch_host.PLUGINS]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_file_parses_as_python_3_6(path):
    tree = ast.parse(path.read_text(), str(path), feature_version=(3, 6))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module] if isinstance(node, ast.ImportFrom) else []
        )
    }
    assert imported.isdisjoint({"xenapi_driver", "nova", "six", "__future__"})


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_is_executable_and_names_python_3(path):
    assert stat.S_IMODE(os.stat(path).st_mode) & 0o111 == 0o111
    assert path.read_text().startswith("#!/usr/bin/python3\n")


def test_the_version_is_told(host):
    said = host.call("dom0_plugin_version", "get_version", {})
    assert said["version"] == "3.1"
    assert {"glance.download_vhd", "dom0_plugin_version.get_version"} <= set(
        said["features"]
    )
    assert said["python"].startswith("3.")


@pytest.mark.parametrize("plugin", [path.name for path in PLUGINS])
def test_an_unknown_function_is_told_by_name(host, plugin):
    with pytest.raises(scratch_host.PluginFailed) as caught:
        host.call(plugin, "no_such", {})
    assert caught.value.code == "UNKNOWN_XENAPI_PLUGIN_FUNCTION"
    assert caught.value.params == ["no_such"]


@pytest.mark.parametrize("request_text", ["{", "[]", "7", '"x"', '{"a": 1}'])
def test_a_request_that_is_none_is_a_bad_argument(host, request_text):
    with pytest.raises(scratch_host.PluginFailed) as caught:
        host.call("dom0_plugin_version", "get_version", request_text)
    assert caught.value.code == "BAD_ARGUMENT"


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_a_number_without_a_value_is_no_json(old_host, number):
    with pytest.raises(scratch_host.PluginFailed) as caught:
        old_host.call("xenhost", "set_config", f'{{"key": "k", "value": {number}}}')
    assert [caught.value.code, *caught.value.params] == [
        "BAD_ARGUMENT", "request", "is no JSON",
    ]


def test_nothing_is_compiled_into_the_plugin_folder(host, tmp_path):
    before = set(scratch_host.PLUGINS.rglob("*"))
    host.call("dom0_plugin_version", "get_version", {})
    created = set(scratch_host.PLUGINS.rglob("*")) - before
    # The first file of the library is compiled before it can say no.
    assert {path.name.split(".")[0] for path in created} <= {
        "__pycache__", "__init__"
    }


def test_printing_does_not_break_the_answer(host, tmp_path):
    noisy = tmp_path / "noisy"
    noisy.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(scratch_host.PLUGINS)!r})\n"
        "from xenapi_dom0 import serve\n"
        "def chatter(request):\n"
        "    print('to stdout')\n"
        "    os.system('echo from a child')\n"
        "    return {'said': '<&> \\u4e2d'}\n"
        "serve.run({'chatter': chatter})\n"
    )
    process = host.start_call(str(noisy), "chatter", {})
    out, err = process.communicate(timeout=60)
    assert scratch_host.answer(out) == {"said": "<&> \u4e2d"}
    assert b"from a child" in err


def test_arguments_are_utf_8_whatever_the_locale_is(host, tmp_path):
    text = "caf\u00e9 \u4e2d \U0001f40b"
    echo = tmp_path / "echo"
    echo.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(scratch_host.PLUGINS)!r})\n"
        "from xenapi_dom0 import serve\n"
        "serve.run({'echo': lambda request: request['text']})\n"
    )
    # Raw, not escaped as most JSON is; the plugin's environment has no locale.
    request = json.dumps({"text": text}, ensure_ascii=False)
    process = host.start_call(str(echo), "echo", request)
    out, err = process.communicate(timeout=60)
    assert (scratch_host.answer(out), err) == (text, b"")


def test_a_defect_is_told_as_the_hosts_own_library_tells_it(host, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(scratch_host.PLUGINS)!r})\n"
        "from xenapi_dom0 import serve\n"
        "serve.run({'boom': lambda request: 1 / 0})\n"
    )
    process = host.start_call(str(broken), "boom", {})
    out, _err = process.communicate(timeout=60)
    with pytest.raises(scratch_host.PluginFailed) as caught:
        scratch_host.answer(out)
    assert caught.value.code == "XENAPI_PLUGIN_FAILURE"
    assert caught.value.params[:2] == ["boom", "ZeroDivisionError"]


def test_a_call_without_a_struct_of_arguments_is_refused(host):
    process = host.start(
        "glance", xmlrpc.client.dumps(("OpaqueRef:session",), "download_vhd")
    )
    out, _err = process.communicate(timeout=60)
    with pytest.raises(scratch_host.PluginFailed) as caught:
        scratch_host.answer(out)
    assert caught.value.code == "BAD_ARGUMENT"


BAD = {
    "image_id": ["../etc", "", None, 7, str(uuid.uuid4()).upper()],
    "urls": [
        *([url] for url in (
            "file:///etc/passwd", "ftp://127.0.0.1/x", "http:///x", "http://u:p@h/x",
            "http://h/x y", "http://h/\r\nX: y", "http://h:99999/", "", None,
        )),
        [], None, "http://h/x", ["http://h/x"] * 17, ["http://h/x", "ftp://h/x"],
    ],
    "attempts": [0, -1, "3", 1.5, True, 101],
    "schemes": [[], "http", ["ftp"], [1], [[]], {"http": 1}],
    "headers": [
        None, [], {"X": 1}, {"X": None}, {"X": "a\r\nY: b"}, {"X Y": "a"},
        {"Host": "other"}, {"Content-Length": "1"}, {"": "a"}, {"X": "a" * 20000},
    ],
    "sr_path": [
        "/etc", "/run/sr-mount", "/run/sr-mount/..", "run/sr-mount/x", None,
        "/run/sr-mount/" + str(uuid.uuid4()),
        "/run/sr-mount/" + str(uuid.uuid4()) + "/../../../etc",
    ],
    "uuid_stack": [
        [], None, "x", [7], ["../../x"], [str(uuid.uuid4())] * 2,
        [str(uuid.uuid4()) for _ in range(17)], [str(uuid.uuid4()) + "\n"],
    ],
    "checksum": [
        "x", {"algo": "md4", "value": "0"}, {"algo": "md5", "value": "0"},
        {"algo": "md5"}, {"algo": ["md5"], "value": "0"}, {},
    ],
    "verify": [
        None, {"insecure": "yes"}, {"ca_file": "relative"}, {"ca_file": 1},
        {"ca_file": "/no/such/file"}, {"ca_file": "/x\0y"}, {"ca_file": "/\u20ac"},
        {"ca_file": "/\ud800"},
    ],
    "max_bytes": [0, -1, "5", 1.5, True],
    "unknown": [1],
}


def test_each_bad_argument_is_refused_by_its_name(host, download):
    for name, values in BAD.items():
        for value in values:
            request = download(**{name: value})
            with pytest.raises(scratch_host.PluginFailed) as caught:
                host.call("glance", "download_vhd", request)
            assert ("BAD_ARGUMENT", name) == (
                caught.value.code, caught.value.params[0]
            ), value
            assert "secret-token" not in str(caught.value.params)
    assert host.left() == []


def test_an_sr_that_is_a_link_out_of_the_mounts_is_refused(host, download, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    linked = str(uuid.uuid4())
    (host.sr.parent / linked).symlink_to(outside)
    with pytest.raises(scratch_host.PluginFailed) as caught:
        host.call(
            "glance", "download_vhd", download(sr_path="/run/sr-mount/" + linked)
        )
    assert caught.value.params == ["sr_path", "leads out of /run/sr-mount"]
