# SPDX-License-Identifier: Apache-2.0
"""A fake host and a session that is logged in to it."""

import pytest

from tests.unit.xapi import fake_xapi
from xenapi_driver.xapi.session import Session
from xenapi_driver.xapi.transport import InProcessTransport


@pytest.fixture
def fake():
    return fake_xapi.FakeXapi()


@pytest.fixture
def session(fake):
    session = Session(lambda: InProcessTransport(fake.handle), "root", "secret", "test")
    session.login()
    fake.calls.clear()
    yield session
    session.logout()
