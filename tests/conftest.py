"""For all tests: one OpenMP thread and no spinning, set before torch is imported, so that results and times are steady."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "agg")
