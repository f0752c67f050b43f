# SPDX-License-Identifier: Apache-2.0
"""The main job: a real OpenStack on loopback around the driver and the embedded host.

``python -m demo run`` starts the services as released, the embedded XAPI host
and nova-compute with our driver, builds servers through the public APIs, looks
at what is on the host, and leaves nothing behind.
"""
