"""Compiles every kernel x configuration to a cubin, without a GPU, and prints one JSON line each: what it takes of the chip.

Run as a program, without TRITON_INTERPRET: test_compile.py starts it in subprocesses. Arguments: names of ops and targets, 80 or 90
(default all).
"""

import itertools
import json
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CACHES = [("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "fp32"), ("bf16", "i8"), ("bf16", "fp8e4nv")]  # (queries, cache)
TORCH = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
HEADS = [128, 96, 64, 32, 256]
FORMS = ["causal", "full", "tree", "ring", "ring full", "slots"]
INSTRUCTIONS = ("LDGSTS", "HMMA", "HGMMA", "IMMA", "LDL", "STL")
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compile_cubin(kernel, types: dict[str, str], constexprs: dict, sm: int, divisible: str = r"stride|slots|width", **options):
    """(what it takes of the chip, cubin) of one kernel. types: Triton type of each argument by name, all others are i32.

    divisible: pattern of the names of sizes that are divisible by 16, as pointers always are.
    """
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constexprs else types.get(n, "i32") for n in names}
    by_16 = [i for i, n in enumerate(names) if signature[n].startswith("*") or re.match(divisible, n)]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constexprs.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in by_16},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", sm, 32), options={"enable_fp_fusion": False} | options)
    cubin = compiled.asm["cubin"]
    usage = run_tool("cuobjdump", "--dump-resource-usage", data=cubin)
    resources = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    row = dict(sm=sm, registers=resources["REG"], stack=resources["STACK"], local=resources["LOCAL"], shared=compiled.metadata.shared)
    return row, cubin


def count_instructions(cubins: list[bytes], sm: int) -> list[dict[str, int]]:
    """How often each of INSTRUCTIONS is in each cubin.

    The disassembler takes half a second to start, so it is started once, with the code of all cubins behind one another.
    """
    code = [machine_code(cubin) for cubin in cubins]
    ends = list(itertools.accumulate(len(each) for each in code))
    counts, here = [dict.fromkeys(INSTRUCTIONS, 0) for _ in cubins], 0
    sass = run_tool("nvdisasm", "-ndf", "-b", {80: "SM80", 90: "SM90a"}[sm], data=b"".join(code))
    lines = re.findall(r"^ +/\*([0-9a-f]+)\*/ +(?:@!?\w+ +)?(\w+)", sass, re.MULTILINE)
    assert len(lines) * 16 == ends[-1], f"{len(lines)} instructions of 16 bytes are not {ends[-1]} bytes of code"
    for address, name in lines:
        while int(address, 16) >= ends[here]:
            here += 1
        if name in counts[here]:
            counts[here][name] += 1
    return counts


def machine_code(cubin: bytes) -> bytes:
    """The sections of code of a cubin, which is a 64-bit ELF file."""
    (table,), (size, number, names) = struct.unpack_from("<Q", cubin, 40), struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(number)]  # name, type, flags, address, offset, size
    start = sections[names][4]
    return b"".join(cubin[s[4] : s[4] + s[5]] for s in sections if cubin.startswith(b".text.", start + s[0]))


def run_tool(tool: str, *options: str, data: bytes) -> str:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return subprocess.run([TOOLS / tool, *options, file.name], check=True, capture_output=True, text=True).stdout


def fold_sizes(rows: int, head: int, block_d: int, num_warps: int) -> dict:
    from wfm_kernels.attention import partials

    return dict(zip(("FOLD_M", "AT_ONCE"), partials.fold_shape(rows, head, block_d, num_warps), strict=True))


def attention_variants(sm):
    """Each pair of a format, a head size and a form of mask, with every tile, number of splits and way to fold among them."""
    from wfm_kernels.attention import partials
    from wfm_kernels.attention import triton as op

    fp32 = {n: "*fp32" for n in ("k_scale_ptr", "v_scale_ptr", "lse_ptr", "partial_m_ptr", "partial_l_ptr", "partial_acc_ptr")} | {
        n: "*fp32" for n in ("past_m_ptr", "past_l_ptr", "past_acc_ptr")
    }
    fp32 |= {"lengths_ptr": "*i64", "past_length_ptr": "*i64", "counter_ptr": "*i32", "scale_log2": "fp32"}
    for i, (q, cache) in enumerate(CACHES):
        for j, head in enumerate(HEADS):
            if cache == "fp8e4nv" and sm < 89:
                continue
            rows, splits = (4, 32, 64)[(i + 2 * j) % 3], (1, 4)[(i + j // 2) % 2]
            quantised, alike = cache in ("i8", "fp8e4nv"), (i + j) % 3 != 1
            block_m, block_n, block_d, options = op.tile_shape(rows, head, getattr(torch, TORCH[q]), quantised, alike)
            for form in [(i + j) % 5] + [FORMS.index("slots")] * (i == j):
                constexprs = dict(
                    GROUP=4, HEAD=head, BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_D=block_d, FORM=form, QUANTISED=quantised, ALIKE=alike,
                    LSE=j % 2 == 0, PAST_M=64 if (i + j) % 4 == 0 else 0, SPLITS=splits, LAST_BLOCK_FOLDS=(i + j) % 3 != 0,
                    PRECISION="ieee", PARTIALS=FORMS[form] == "full" and j % 2 == 1,
                    **fold_sizes(rows, head, block_d, options["num_warps"]),
                )  # fmt: skip
                types = fp32 | {"bits_ptr": "*i1" if FORMS[form] == "slots" else "*i64"}
                types |= {"q_ptr": f"*{q}", "out_ptr": f"*{q}", "k_ptr": f"*{cache}", "v_ptr": f"*{cache}"}
                name = f"q {q}, kv {cache}, K {head}, M {block_m}, {FORMS[form]}, splits {splits}"
                yield name, op.decode_kernel, types, constexprs, options
    for block_n, stages, past in ((32, 4, 64), (64, 5, 0)):  # of benchmarks/choices.py
        constexprs = dict(
            GROUP=4, HEAD=128, BLOCK_M=16, BLOCK_N=block_n, BLOCK_D=128, FORM=0, QUANTISED=False, ALIKE=True, LSE=False, PAST_M=past,
            SPLITS=1 if past else 8, LAST_BLOCK_FOLDS=True, PRECISION="ieee", PARTIALS=False, **fold_sizes(4, 128, 128, 4),
        )  # fmt: skip
        types = fp32 | {"bits_ptr": "*i64"} | {f"{name}_ptr": "*bf16" for name in ("q", "k", "v", "out")}
        options = dict(num_warps=4, num_stages=stages, maxnreg=128 if past else 168)
        yield f"choice: {block_n} keys, {stages} stages", op.decode_kernel, types, constexprs, options
    for q, head, rows, lse in (("bf16", 128, 64, False), ("fp32", 96, 16, True), ("fp16", 256, 32, True)):
        constexprs = dict(GROUP=4, HEAD=head, BLOCK_M=rows, BLOCK_D=triton.next_power_of_2(head), LSE=lse, PAST_M=64 if lse else 0)
        warps = 4 if (q, rows) == ("bf16", 64) else 8
        constexprs |= fold_sizes(rows, head, constexprs["BLOCK_D"], warps)
        yield (
            f"fold, {q}, K {head}, M {rows}",
            partials.fold_kernel,
            fp32 | {"out_ptr": f"*{q}"},
            constexprs,
            dict(num_warps=warps, maxnreg=255),
        )


def rms_norm_variants(sm):
    from wfm_kernels.rms_norm import triton as op

    for dtype, width, residual in (("bf16", 1024, True), ("bf16", 4096, False), ("fp16", 256, True), ("fp32", op.MAX_WIDTH, True)):
        types = {n: f"*{dtype}" for n in ("x_ptr", "residual_ptr", "weight_ptr", "out_ptr", "sum_ptr")} | {"eps": "fp32"}
        name = f"{dtype}, D {width}{', residual' if residual else ''}"
        yield name, op.rms_norm_kernel, types, dict(RESIDUAL=residual, BLOCK_D=width), dict(num_warps=op.warps(width))


def swiglu_variants(sm):
    from wfm_kernels.swiglu import triton as op

    for dtype in ("bf16", "fp16", "fp32"):
        types = {n: f"*{dtype}" for n in ("gate_ptr", "up_ptr", "out_ptr")}
        yield f"{dtype}, F block 1024", op.swiglu_kernel, types, dict(BLOCK_D=1024), dict(num_warps=4)


def qk_norm_rope_cache_variants(sm):
    from wfm_kernels.qk_norm_rope_cache import triton as op

    for (x, cache), head in zip(CACHES, (128, 96, 32, 64, 256), strict=True):
        if cache == "fp8e4nv" and sm < 89:
            continue
        types = {n: f"*{x}" for n in ("qkv_ptr", "q_weight_ptr", "k_weight_ptr", "q_ptr")}
        types |= {n: "*fp32" for n in ("cos_ptr", "sin_ptr", "k_scale_ptr", "v_scale_ptr")} | {"eps": "fp32"}
        types |= {"position_ptr": "*i64", "slot_ptr": "*i64", "k_ptr": f"*{cache}", "v_ptr": f"*{cache}"}
        pairs, largest = head // 2, {"i8": 127.0, "fp8e4nv": 448.0}.get(cache, 0.0)
        constexprs = dict(HEADS=16, KV_HEADS=8, PAIRS=pairs, PAIRS_T=pairs // 2, PAIRS_TH=pairs * 3 // 4)
        constexprs |= dict(BLOCK_F=triton.next_power_of_2(pairs), LARGEST=largest, INTEGER=cache == "i8")
        yield f"{x}, cache {cache}, K {head}", op.qk_norm_rope_cache_kernel, types, constexprs, dict(num_warps=1)


def sample_variants(sm):
    """Plain bf16 with a vocabulary divisible by 16, as of a large model, through every kernel and set of filters; the other formats,
    half of them guided and with an odd vocabulary, through every kernel, with filters by turns."""
    from wfm_kernels.sample import triton as op

    fixed = {n: "*i64" for n in ("seed_ptr", "row_ptr", "step_ptr", "token_ptr")} | {n: "*i32" for n in ("few_id_ptr", "number_ptr")}
    fixed |= {n: "*fp32" for n in ("logprob_ptr", "few_score_ptr", "segment_ptr")} | {"histogram_ptr": "*i32"}
    fixed |= {n: "fp32" for n in ("inverse_temperature", "guidance", "top_k", "top_p", "min_p")}
    names, ways = ("GUIDED", "GREEDY", "TOP_K", "TOP_P"), ["GREEDY", "TOP_K", "TOP_P", "TOP_K TOP_P"]
    segments = dict(BLOCK_V=op.TILE, BINS=op.BINS)
    few = dict(BLOCK_V=op.TILE, BLOCK_C=op.CANDIDATES, BLOCK_S=16)
    for i, (dtype, guided) in enumerate(itertools.product(("bf16", "fp16", "fp32"), (False, True))):
        types, options = fixed | {"logits_ptr": f"*{dtype}", "unguided_ptr": f"*{dtype}"}, dict(op.OPTIONS)
        options["divisible"] = "(?!)" if guided else "stride|vocabulary|segments"
        form = f"{dtype}{' guided, odd V' if guided else ''}"
        yield f"histogram, {form}", op.histogram_kernel, types, dict(segments, GUIDED=guided), options
        for mass in (False, True) if i == 0 else (i % 4 < 2,):
            constexprs = few | segments | dict(GUIDED=guided, MASS=mass, AT_ONCE=op.AT_ONCE)
            yield f"candidates by {'mass' if mass else 'number'}, {form}", op.candidates_kernel, types, constexprs, options
        for way in ways if i == 0 else ways[i % 4 :][:1]:
            constexprs = {n: n in way.split() or n == "GUIDED" and guided for n in names}
            yield f"draw {way.lower()}, {form}", op.draw_kernel, types, few | constexprs | dict(NARROW=op.NARROW), options
        for way in ["", "TOP_K TOP_P"] if i == 0 else (ways + [""])[(i + 1) % 5 :][:1]:
            constexprs = {n: n in way.split() or n == "GUIDED" and guided for n in names} | dict(BLOCK_V=op.TILE, WHOLE=True)
            yield f"{way.lower() or 'all'}, {form}, V at most 4096", op.sample_kernel, types, constexprs, options
        if i in (0, 5):
            constexprs = {n: n == "GUIDED" and guided for n in names} | dict(BLOCK_V=op.TILE, WHOLE=False)
            yield f"all, {form}", op.sample_kernel, types, constexprs, options


def linear_cross_entropy_variants(sm):
    from wfm_kernels.linear_cross_entropy import triton as op

    fixed = {"target_ptr": "*i64", "share_ptr": "*fp32", "loss_ptr": "*fp32", "hit_ptr": "*i1", "z_loss": "fp32"}
    for dtype, gradient in (("bf16", True), ("fp16", True), ("fp32", True), ("bf16", False)):
        constexprs = dict(GRADIENT=gradient, BLOCK_V=op.WIDE)
        name = f"{dtype}, V block {op.WIDE}{', gradient' if gradient else ''}"
        yield name, op.cross_entropy_kernel, fixed | {"logits_ptr": f"*{dtype}"}, constexprs, dict(num_warps=op.WARPS)
    types = fixed | {"logits_ptr": "*bf16"}  # of benchmarks/choices.py
    yield "choice: 32 warps, V block 8192", op.cross_entropy_kernel, types, dict(GRADIENT=True, BLOCK_V=8192), dict(num_warps=32)


OPS = {
    "attention": attention_variants,
    "rms_norm": rms_norm_variants,
    "swiglu": swiglu_variants,
    "qk_norm_rope_cache": qk_norm_rope_cache_variants,
    "sample": sample_variants,
    "linear_cross_entropy": linear_cross_entropy_variants,
}


def main(chosen: list[str]) -> None:
    targets = [int(each) for each in chosen if each.isdigit()] or [80, 90]
    for sm in targets:
        rows, cubins = [], []
        for op in [each for each in chosen if not each.isdigit()] or OPS:
            for name, kernel, types, constexprs, options in OPS[op](sm):
                row, cubin = compile_cubin(kernel, types, constexprs, sm, **options)
                rows.append(dict(op=op, variant=name) | row)
                cubins.append(cubin)
        for row, counts in zip(rows, count_instructions(cubins, sm), strict=True):
            print(json.dumps(row | counts))


if __name__ == "__main__":
    main(sys.argv[1:])
