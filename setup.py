# SPDX-License-Identifier: Apache-2.0
"""Everything is in setup.cfg but what pbr has no words for: the packages."""

import setuptools

setuptools.setup(
    setup_requires=["pbr>=6.1.1"],
    pbr=True,
    # The wheel carries exactly one module below nova/: see the docstring of
    # xenapi_driver/nova_finder.py.
    packages=[
        *setuptools.find_packages(include=["xenapi_driver", "xenapi_driver.*"]),
        "nova.virt.xenapi",
    ],
    package_dir={"nova.virt.xenapi": "shim/nova/virt/xenapi"},
    # pbr takes the other files from git's index; an unpacked archive has none.
    package_data={"xenapi_driver": ["sim/*.json", "sim/plugins/*"]},
)
