"""Settings of all tests."""

import os

# Two workers of pytest-xdist on two cores, each with tests of small nets: threads beyond one would only wait for each other.
# Torch reads this when it is imported. DAI needs no such setting (tests/acceleration/test_threads.py), other algorithms do.
os.environ.setdefault("OMP_NUM_THREADS", "1")
