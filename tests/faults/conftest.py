"""The workers of the crash matrix, and its table at the end of a run."""

import logging
from collections.abc import Iterator

import pytest

from tests.conftest import SUMMARY
from tests.faults.lab import Lab
from tests.faults.matrix import Matrix, open_workers
from tests.faults.site import open_site
from tests.faults.wire import no_waiting
from tools.local.paths import LOCAL
from tools.local.stack import Stack

TABLE = LOCAL / "crash-matrix.txt"


@pytest.fixture(scope="session")
def matrix(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Matrix]:
    """Everything that was run; written down at the end, and printed by `tests/conftest.py`."""
    with open_workers(stack, tmp_path_factory.mktemp("matrix")) as workers:
        matrix = Matrix(workers, is_full=pytestconfig.getoption("every_case"))
        yield matrix
    matrix.write(TABLE)
    SUMMARY.write_text("\n".join(matrix.summary()) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def _open_lab(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_site(stack, tmp_path_factory.mktemp("lab"), "here") as site:
        lab = Lab(site)
        yield lab
        lab.close()


@pytest.fixture
def lab(_open_lab: Lab) -> Iterator[Lab]:
    """A lab in this process, where the relay can be sabotaged."""
    logging.disable()  # thousands of faults on purpose
    with no_waiting():
        yield _open_lab
    logging.disable(logging.NOTSET)
