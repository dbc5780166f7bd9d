"""The fixtures of the unit tests, and the deployed stack where a contract runs on both."""

from tests.integration.conftest import stack
from tests.unit.conftest import logged, world

__all__ = ["logged", "stack", "world"]
