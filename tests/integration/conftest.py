"""What each file of integration tests begins with."""

import pytest

from tests.integration.support import Relay
from tools.local.stack import Stack


@pytest.fixture(scope="module", autouse=True)
def _settled(stack: Stack) -> None:
    """Nothing that other files queued comes in between."""
    Relay(stack).settle()
