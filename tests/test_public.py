"""The public names of `import wfm_ar`: all there, and none of them paid for before it is used."""

import subprocess
import sys

import pytest

import wfm_ar

HEAVY = ("torch", "numpy", "av", "gymnasium", "hydra", "PIL")


def test_the_import_is_quick_and_light():
    script = f"""
import sys, time
begun = time.process_time()  # of the processor: what others compute meanwhile is not ours
import wfm_ar
took = time.process_time() - begun
print(took, [name for name in {HEAVY} if name in sys.modules])
"""
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout for _ in range(3)]
    assert all(run.split(maxsplit=1)[1].strip() == "[]" for run in runs), runs
    assert min(float(run.split()[0]) for run in runs) < 0.05


@pytest.mark.parametrize("name", wfm_ar.__all__)
def test_every_public_name_is_there(name):
    found = getattr(wfm_ar, name)
    assert getattr(wfm_ar, name) is found and name in dir(wfm_ar)
    assert name == "__version__" or found.__name__ == name and found.__doc__


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'wrld'"):
        _ = wfm_ar.wrld
