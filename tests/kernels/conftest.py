"""Kernel tests run on the GPU where there is one, else in Triton's interpreter.

The interpreter is chosen by an environment variable that triton.jit reads when it decorates, Triton's own library included,
so it is set here, before anything imports triton (torch alone does not, and wfm_kernels does so only on demand). Compile-only
tests need the real compiler: they run in a subprocess without the variable.
"""

import dataclasses
import functools
import os
import sys
from pathlib import Path

import pytest
import torch

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
if str(KERNELS) not in sys.path:
    sys.path.insert(0, str(KERNELS))

if not torch.cuda.is_available():
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("triton was imported before tests/kernels/conftest.py; fix: set TRITON_INTERPRET=1 for the whole pytest run")
    os.environ["TRITON_INTERPRET"] = "1"

# Largest |kernel - reference| allowed on inputs of unit spread, the one table of this package's tests. Outputs are means of V
# (attention) or normed values (the rest), so absolute errors are what a caller sees. The interpreter truncates when it
# casts to bf16 where hardware rounds, hence twice the width there.
TOLERANCE = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 4e-2}


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


needs_gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the interpreter's bf16 is wrong"))


@pytest.fixture(params=[torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=needs_gpu)], ids=str)
def dtype(request) -> torch.dtype:
    """Of the tensors that go into a kernel."""
    return request.param


@pytest.fixture(scope="session", autouse=True)
def interpreter_looks_once():
    """Half of the interpreter's time goes nowhere: whenever a kernel calls a function it looks through all of triton.language for what it
    has to replace, for every array it builds a table of types, and integer results are computed once more in 64 bits for an assertion
    that is off. What was found is kept, and the second computation left out.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    if torch.cuda.is_available() or not hasattr(interpreter, "_LangPatchScope"):  # older versions name these otherwise
        yield
        return
    patch_lang = interpreter._patch_lang

    @functools.cache
    def languages(function):
        return [value for value in function.__globals__.values() if value is tl or value is tl.core]

    def patch_lang_once(function):
        if any(tl.core.is_builtin(language.load) for language in languages(function)):
            return patch_lang(function)
        return interpreter._LangPatchScope()

    np_dtypes, look_up = {}, interpreter._get_np_dtype

    def get_np_dtype(dtype):
        name = dtype.scalar.name  # a block's array has the type of its elements
        if name not in np_dtypes:
            np_dtypes[name] = look_up(dtype)
        return np_dtypes[name]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(interpreter, "_patch_lang", patch_lang_once)
        patched.setattr(interpreter, "_get_np_dtype", get_np_dtype)
        options = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
        patched.setattr(interpreter.interpreter_builder, "options", options)
        yield


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def assert_close():
    """assert_close(got, expected): same shape and dtype, no NaN, within TOLERANCE of the dtype (times `spread` of the values)."""

    def check(got: torch.Tensor, expected: torch.Tensor, spread: float = 1.0) -> None:
        assert got.dtype == expected.dtype and got.shape == expected.shape
        assert not got.isnan().any()
        assert (got.float() - expected.float()).abs().max().item() <= TOLERANCE[got.dtype] * spread

    return check
