# SPDX-License-Identifier: Apache-2.0
"""Nova's objects, as nova-compute has them."""

from __future__ import annotations

import pytest

from tests import fixtures


@pytest.fixture(autouse=True, scope="package")
def nova_objects():
    fixtures.prepare_nova()
