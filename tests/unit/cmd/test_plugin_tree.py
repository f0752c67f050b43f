# SPDX-License-Identifier: Apache-2.0
"""The scripts for dom0 are found, in a source tree as in an installation."""

from __future__ import annotations

import pytest

from xenapi_driver.cmd import plugin_tree


def test_the_source_tree_has_them():
    assert (plugin_tree.plugins() / "glance").is_file()


# What pip installed is below "data", a distribution's package below the prefix: in
# Debian's own Python these are /usr/local and /usr.
@pytest.mark.parametrize("place", ["data", "prefix"])
def test_an_installation_has_them_below(place, monkeypatch, tmp_path):
    monkeypatch.setattr(plugin_tree, "_ROOT", tmp_path / "site-packages")
    monkeypatch.setattr(plugin_tree.sys, "prefix", str(tmp_path / "prefix"))
    paths = {"data": str(tmp_path / "data")}
    monkeypatch.setattr(plugin_tree.sysconfig, "get_path", paths.__getitem__)
    installed = tmp_path / place / "share" / "xenapi-driver" / "dom0_plugins"
    (installed / plugin_tree.PLUGIN_FOLDER).mkdir(parents=True)
    assert installed == plugin_tree.find()


def test_an_error_names_every_place(monkeypatch, tmp_path):
    places = [tmp_path / "one", tmp_path / "two"]
    monkeypatch.setattr(plugin_tree, "candidates", lambda: places)
    with pytest.raises(plugin_tree.TreeMissing, match=r"one, .*two"):
        plugin_tree.find()
