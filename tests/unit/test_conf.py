# SPDX-License-Identifier: Apache-2.0
"""Options: what old files say still counts, bad values are refused by name."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from oslo_config import cfg, generator

from xenapi_driver import conf

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The group as the last in-tree driver had it: nothing may get lost.
RETIRED = {
    "agent_path",
    "agent_resetnetwork_timeout",
    "agent_timeout",
    "agent_version_timeout",
    "block_device_creation_timeout",
    "cache_images",
    "check_host",
    "connection_concurrent",
    "connection_password",
    "connection_url",
    "connection_username",
    "console_public_hostname",
    "default_os_type",
    "disable_agent",
    "image_compression_level",
    "image_handler",
    "image_upload_handler",
    "independent_compute",
    "introduce_vdi_retry_wait",
    "ipxe_boot_menu_url",
    "ipxe_mkisofs_cmd",
    "ipxe_network_name",
    "login_timeout",
    "max_kernel_ramdisk_size",
    "num_vbd_unplug_retries",
    "ovs_integration_bridge",
    "running_timeout",
    "sparse_copy",
    "sr_base_path",
    "sr_matching_filter",
    "target_host",
    "target_port",
    "use_agent_default",
    "use_join_force",
    "vhd_coalesce_max_attempts",
    "vhd_coalesce_poll_interval",
}

ICEHOUSE = {
    "xenapi_connection_url": ("connection_url", "http://192.0.2.5"),
    "xenapi_connection_username": ("connection_username", "operator"),
    "xenapi_connection_password": ("connection_password", "secret"),
    "xenapi_login_timeout": ("login_timeout", 25),
    "xenapi_connection_concurrent": ("connection_concurrent", 7),
    "xenapi_check_host": ("check_host", False),
    "sr_matching_filter": ("sr_matching_filter", "other-config:i18n-key=x"),
    "xenapi_sr_base_path": ("sr_base_path", "/sr"),
    "cache_images": ("cache_images", "some"),
    "xenapi_image_compression_level": ("image_compression_level", 3),
    "default_os_type": ("default_os_type", "windows"),
    "block_device_creation_timeout": ("block_device_creation_timeout", 11),
    "max_kernel_ramdisk_size": ("max_kernel_ramdisk_size", 1024),
    "xenapi_sparse_copy": ("sparse_copy", False),
    "xenapi_num_vbd_unplug_retries": ("num_vbd_unplug_retries", 0),
    "xenapi_vhd_coalesce_poll_interval": ("vhd_coalesce_poll_interval", 2.5),
    "xenapi_vhd_coalesce_max_attempts": ("vhd_coalesce_max_attempts", 30),
    "target_host": ("target_host", "192.0.2.6"),
    "target_port": ("target_port", 3261),
    "xenapi_running_timeout": ("running_timeout", 90),
    "agent_timeout": ("agent_timeout", 31),
    "agent_version_timeout": ("agent_version_timeout", 301),
    "agent_resetnetwork_timeout": ("agent_resetnetwork_timeout", 61),
    "xenapi_agent_path": ("agent_path", "usr/bin/agent"),
    "xenapi_disable_agent": ("disable_agent", True),
    "xenapi_use_agent_default": ("use_agent_default", True),
    "xenapi_ovs_integration_bridge": ("ovs_integration_bridge", "xapi1"),
    "xenapi_ipxe_network_name": ("ipxe_network_name", "boot"),
    "xenapi_ipxe_boot_menu_url": ("ipxe_boot_menu_url", "http://192.0.2.7/m"),
    "xenapi_ipxe_mkisofs_cmd": ("ipxe_mkisofs_cmd", "genisoimage"),
    "use_join_force": ("use_join_force", False),
    "console_public_hostname": ("console_public_hostname", "console"),
    "xenapi_vif_driver": ("vif_driver", "nova.virt.xenapi.vif.XenAPIBridgeDriver"),
    "xenapi_torrent_images": ("torrent_images", "none"),
}


@pytest.fixture
def parsed(tmp_path):
    """Return a function from a section's lines to the parsed group."""

    def parse(text: str, section: str = "xenserver") -> cfg.ConfigOpts:
        file = tmp_path / "nova.conf"
        file.write_text(f"[{section}]\n{text}\n")
        parser = cfg.ConfigOpts()
        conf.register_opts(parser)
        parser(["--config-file", str(file)], project="nova")
        return parser

    return parse


def test_no_option_of_the_retired_driver_is_lost():
    assert RETIRED <= {opt.dest for opt in conf.ALL_OPTS}


def test_no_option_is_listed_twice():
    names = [opt.dest for opt in conf.ALL_OPTS]
    assert sorted(set(names)) == sorted(names)


def test_registering_twice_is_fine(parsed):
    conf.register_opts(parsed(""))


@pytest.mark.parametrize("name", sorted(ICEHOUSE))
def test_an_icehouse_name_in_default_counts(parsed, name):
    dest, value = ICEHOUSE[name]
    assert value == parsed(f"{name} = {value}", "DEFAULT").xenserver[dest]


def test_defaults_are_those_of_the_retired_driver(parsed):
    xenserver = parsed("").xenserver
    assert "root" == xenserver.connection_username
    assert "default-sr:true" == xenserver.sr_matching_filter
    assert (5, 10) == (xenserver.connection_concurrent, xenserver.login_timeout)
    assert (5.0, 20) == (
        xenserver.vhd_coalesce_poll_interval,
        xenserver.vhd_coalesce_max_attempts,
    )
    assert "direct_vhd" == xenserver.image_handler
    assert xenserver.check_host and not xenserver.connection_insecure


@pytest.mark.parametrize(
    "line",
    [
        "cache_images = sometimes",
        "image_handler = torrent",
        "image_upload_handler = my.own.Store",
        "image_compression_level = 10",
        "image_compression_level = 0",
        "connection_concurrent = 0",
        "login_timeout = -1",
        "target_port = 70000",
        "connection_fingerprints = 12:34",
        "compute_vm_uuid = dom0",
        "block_device_creation_timeout = 0",
    ],
)
def test_a_bad_value_is_refused(parsed, line):
    option = line.split()[0]
    with pytest.raises(ValueError, match=option):
        _ = parsed(line).xenserver[option]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("nova.virt.xenapi.image.glance.GlanceStore", "direct_vhd"),
        ("nova.virt.xenapi.imageupload.glance.GlanceStore", "direct_vhd"),
        ("nova.virt.xenapi.image.vdi_through_dev.VdiThroughDevStore", "vdi_local_dev"),
        ("vdi_remote_stream", "vdi_remote_stream"),
        ("", ""),
    ],
)
def test_old_class_paths_name_an_upload_handler(parsed, given, meant):
    read = parsed(f"image_upload_handler = {given}")
    assert meant == read.xenserver.image_upload_handler


def test_fingerprints_with_and_without_colons(parsed):
    plain, pairs = "ab" * 32, ":".join(["AB"] * 32)
    read = parsed(f"connection_fingerprints = {plain},{pairs}").xenserver
    assert [plain, pairs] == read.connection_fingerprints


def test_the_password_is_not_printed():
    secret = {opt.dest for opt in conf.ALL_OPTS if opt.secret}
    assert {"connection_password"} == secret


def test_options_without_effect_are_named(parsed):
    read = parsed("torrent_images = all\nvif_driver = x\nconnection_url = http://h")
    assert ["torrent_images", "vif_driver"] == sorted(conf.warn_of_ignored(read))


def test_every_option_says_what_it_does():
    short = [opt.dest for opt in conf.ALL_OPTS if len((opt.help or "").strip()) < 14]
    assert not short


def test_times_say_their_unit():
    timed = [o for o in conf.ALL_OPTS if o.dest.endswith(("timeout", "wait"))]
    assert not [opt.dest for opt in timed if "seconds" not in opt.help]


def test_the_sample_is_in_step(tmp_path):
    settings = ROOT / "etc" / "xenapi-driver-config-generator.conf"
    fresh = tmp_path / "sample"
    # A process of its own: the generator has global state.
    subprocess.run(
        [sys.executable, "-c", _GENERATE, "--config-file", str(settings)]
        + ["--output-file", str(fresh)],
        check=True,
        cwd=ROOT,
    )
    kept = ROOT / "etc" / "xenapi-driver.conf.sample"
    assert kept.read_text() == fresh.read_text(), "run `make config`"


_GENERATE = f"from {generator.__name__} import main; main()"
