"""Benchmarks of the ops: registry.py (what), rivals.py (against whom), timing.py (how), record.py (results), goals.py (the bars)."""

from wfm_kernels.benchmark.goals import goals_table
from wfm_kernels.benchmark.record import about_machine, file_name, table
from wfm_kernels.benchmark.registry import case_name, cases, dtype_of
from wfm_kernels.benchmark.timing import measure

__all__ = ["about_machine", "case_name", "cases", "dtype_of", "file_name", "goals_table", "measure", "table"]
