"""Benchmarks of the ops beside their rivals: registry.py (what), rivals.py (against whom), timing.py (how), record.py (the results)."""

from wfm_kernels.benchmark.record import about_machine, file_name, table
from wfm_kernels.benchmark.registry import cases, dtype_of
from wfm_kernels.benchmark.timing import measure

__all__ = ["about_machine", "cases", "dtype_of", "file_name", "measure", "table"]
