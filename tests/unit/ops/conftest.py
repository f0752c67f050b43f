# SPDX-License-Identifier: Apache-2.0
"""An embedded host and a session of the XAPI layer on it."""

import pytest

from tests import embedded


@pytest.fixture
def session(sim):
    with embedded.session(embedded.inside(sim)) as session:
        yield session
