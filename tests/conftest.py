"""Each of several pytest-xdist processes computes with one thread, and so do the programs that it starts."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, which is after this
