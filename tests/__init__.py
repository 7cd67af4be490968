"""The tests, in a folder for each package of ``whisperq_edge``; ``support`` has what several of them use."""

import os

# Several processes of pytest-xdist share the cores, and threads of OpenMP (torch, numpy's BLAS) wait at full load. This
# is read when these packages are imported, which is later.
os.environ.setdefault("OMP_NUM_THREADS", "1")
