# SPDX-License-Identifier: Apache-2.0
"""Sphinx settings."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "_ext"))

project = "xenapi-driver"
copyright = "the xenapi-driver contributors"
extensions = [
    "embedded_host",
    "oslo_config.sphinxext",
    "sphinx.ext.autodoc",
    "support_matrix",
]
exclude_patterns: list[str] = []
html_theme = "alabaster"
html_theme_options = {
    "description": "Nova on XCP-ng and XenServer",
    "page_width": "1100px",
    "sidebar_width": "220px",
}
html_static_path: list[str] = []
pygments_style = "sphinx"
