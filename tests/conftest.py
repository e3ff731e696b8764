"""Each of several pytest-xdist processes computes with one thread, and so do the programs that it starts."""

import os
import sys
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, which is after this


@pytest.fixture(autouse=True)
def imported_files_forgotten() -> Iterator[None]:
    """A file that a test has imported, such as mine.py, is not there for the next one."""
    yield
    if "enas.recipes.files" in sys.modules:
        sys.modules["enas.recipes.files"].forget()
