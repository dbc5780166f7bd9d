"""The world of fakes of the unit tests; the deployed stack comes from `tests/conftest.py`."""

from tests.unit.conftest import logged, world

__all__ = ["logged", "world"]
