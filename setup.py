# SPDX-License-Identifier: Apache-2.0
"""Everything is in setup.cfg but the two things that pbr has no words for."""

import setuptools

setuptools.setup(
    setup_requires=["pbr>=6.1.1"],
    pbr=True,
    # The wheel carries exactly one module below nova/; see xenapi_driver/nova_finder.py.
    package_dir={"nova.virt.xenapi": "shim/nova/virt/xenapi"},
    # pbr takes data files from git's index; this also covers an unpacked archive.
    package_data={"xenapi_driver.sim": ["*.json"]},
)
