"""Compiles every kernel x configuration to a cubin, without a GPU, and prints one JSON line each: what it takes of the chip.

Run as a program, without TRITON_INTERPRET: test_compile.py starts it in a subprocess. Arguments: names of ops (default all).
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CACHES = [("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "fp32"), ("bf16", "i8"), ("bf16", "fp8e4nv")]  # (queries, cache)
FORMS = ["causal", "full", "tree", "ring", "ring full"]
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compile_cubin(kernel, types: dict[str, str], constexprs: dict, sm: int, **options) -> dict:
    """Compile one kernel. types: Triton type of each argument by name, all others are i32; sizes and pointers divisible by 16."""
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constexprs else types.get(n, "i32") for n in names}
    divisible = [i for i, n in enumerate(names) if signature[n].startswith("*") or re.match(r"stride|slots|width", n)]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constexprs.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in divisible},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", sm, 32), options={"enable_fp_fusion": False} | options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = subprocess.run(
            [TOOLS / "cuobjdump", "--dump-resource-usage", cubin.name], check=True, capture_output=True, text=True
        ).stdout
        sass = subprocess.run([TOOLS / "nvdisasm", "-c", cubin.name], check=True, capture_output=True, text=True).stdout
    resources = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    instructions = {name: len(re.findall(rf"\b{name}\b", sass)) for name in ("LDGSTS", "HMMA", "HGMMA", "IMMA", "LDL", "STL")}
    return (
        dict(sm=sm, registers=resources["REG"], stack=resources["STACK"], local=resources["LOCAL"], shared=compiled.metadata.shared)
        | instructions
    )


def attention_variants(sm):
    from wfm_kernels.attention import triton as op

    fp32 = {n: "*fp32" for n in ("k_scale_ptr", "v_scale_ptr", "lse_ptr", "partial_m_ptr", "partial_l_ptr", "partial_acc_ptr")}
    fp32 |= {"lengths_ptr": "*i64", "bits_ptr": "*i64", "counter_ptr": "*i32", "scale_log2": "fp32"}
    # (queries x group, K, form of mask, splits): the causal decode step in every format, then the other forms in bf16
    shapes = [(4, 128, 0, 4), (4, 96, 0, 1), (64, 128, 1, 1)]
    variants = [(q, cache, *shape) for q, cache in CACHES for shape in shapes if cache != "fp8e4nv" or sm >= 89]
    variants += [("bf16", "bf16", *shape) for shape in [(64, 64, 2, 4), (8, 32, 3, 4), (8, 64, 4, 1)]]
    for q, cache, rows, head, form, splits in variants:
        block_m, block_n, block_d, options = op.tile_shape(rows, head, torch.float32 if q == "fp32" else torch.bfloat16)
        constexprs = dict(
            GROUP=4, HEAD=head, BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_D=block_d, FORM=form, QUANTISED=cache in ("i8", "fp8e4nv"),
            LSE=splits == 1, SPLITS=splits, LAST_BLOCK_FOLDS=True, PRECISION="ieee",
        )  # fmt: skip
        types = fp32 | {"q_ptr": f"*{q}", "out_ptr": f"*{q}", "k_ptr": f"*{cache}", "v_ptr": f"*{cache}"}
        yield (
            f"q {q}, kv {cache}, K {head}, M {block_m}, {FORMS[form]}, splits {splits}",
            op.decode_kernel,
            types,
            constexprs,
            options,
        )
    types = fp32 | {"out_ptr": "*bf16"}
    yield "fold", op.fold_kernel, types, dict(GROUP=4, HEAD=128, BLOCK_M=16, BLOCK_D=128, LSE=False), {}


def shared_prefix_variants(sm):
    from wfm_kernels.shared_prefix import triton as op

    types = {"a_ptr": "*bf16", "b_ptr": "*bf16", "out_ptr": "*bf16", "lse_a_ptr": "*fp32", "lse_b_ptr": "*fp32"}
    yield "merge", op.merge_kernel, types, dict(HEAD=128, BLOCK_M=16, BLOCK_D=128), {}


def rms_norm_variants(sm):
    from wfm_kernels.rms_norm import triton as op

    types = {n: "*bf16" for n in ("x_ptr", "residual_ptr", "weight_ptr", "out_ptr", "sum_ptr")} | {"eps": "fp32"}
    yield "residual, D 1024", op.rms_norm_kernel, types, dict(RESIDUAL=True, BLOCK_D=1024), dict(num_warps=2)
    yield "D 4096", op.rms_norm_kernel, types, dict(RESIDUAL=False, BLOCK_D=4096), dict(num_warps=8)


def swiglu_variants(sm):
    from wfm_kernels.swiglu import triton as op

    yield "F block 1024", op.swiglu_kernel, {n: "*bf16" for n in ("gate_ptr", "up_ptr", "out_ptr")}, dict(BLOCK_D=1024), {}


def qk_norm_rope_cache_variants(sm):
    from wfm_kernels.qk_norm_rope_cache import triton as op

    for cache, largest in [("bf16", 0.0), ("i8", 127.0)] + ([("fp8e4nv", 448.0)] if sm >= 89 else []):
        types = {n: "*bf16" for n in ("qkv_ptr", "q_weight_ptr", "k_weight_ptr", "q_ptr")}
        types |= {n: "*fp32" for n in ("cos_ptr", "sin_ptr", "k_scale_ptr", "v_scale_ptr")} | {"eps": "fp32"}
        types |= {"position_ptr": "*i64", "slot_ptr": "*i64", "k_ptr": f"*{cache}", "v_ptr": f"*{cache}"}
        constexprs = dict(HEADS=16, KV_HEADS=8, PAIRS=64, PAIRS_T=22, PAIRS_TH=43, BLOCK_F=64, LARGEST=largest, INTEGER=cache == "i8")
        yield f"cache {cache}, K 128", op.qk_norm_rope_cache_kernel, types, constexprs, dict(num_warps=1)


def sample_variants(sm):
    from wfm_kernels.sample import triton as op

    types = {n: "*fp32" for n in ("logits_ptr", "unguided_ptr", "logprob_ptr")}
    types |= {n: "*i64" for n in ("seed_ptr", "row_ptr", "step_ptr", "token_ptr")}
    types |= {n: "fp32" for n in ("inverse_temperature", "guidance", "top_k", "top_p", "min_p")}
    constexprs = dict(GUIDED=True, GREEDY=False, TOP_K=True, TOP_P=True, BLOCK_V=2048)
    yield "guided, top-k, top-p", op.sample_kernel, types, constexprs, dict(num_warps=8)
    yield "greedy", op.sample_kernel, types, constexprs | dict(GUIDED=False, GREEDY=True, TOP_K=False, TOP_P=False), dict(num_warps=8)


def speculative_variants(sm):
    from wfm_kernels.speculative import triton as op

    types = {n: "*i64" for n in ("draft_ptr", "seed_ptr", "row_ptr", "step_ptr", "tokens_ptr", "count_ptr")} | {
        "q_ptr": "*fp32",
        "p_ptr": "*fp32",
    }
    yield "V block 4096", op.speculative_kernel, types, dict(BLOCK_V=4096), dict(num_warps=8)


def linear_cross_entropy_variants(sm):
    from wfm_kernels.linear_cross_entropy import triton as op

    types = {"logits_ptr": "*bf16", "target_ptr": "*i64", "share_ptr": "*fp32", "loss_ptr": "*fp32", "hit_ptr": "*i1", "z_loss": "fp32"}
    yield "V block 4096", op.cross_entropy_kernel, types, dict(GRADIENT=True, BLOCK_V=4096), dict(num_warps=8)


OPS = {
    "attention": attention_variants,
    "shared_prefix": shared_prefix_variants,
    "rms_norm": rms_norm_variants,
    "swiglu": swiglu_variants,
    "qk_norm_rope_cache": qk_norm_rope_cache_variants,
    "sample": sample_variants,
    "speculative": speculative_variants,
    "linear_cross_entropy": linear_cross_entropy_variants,
}


def main(chosen: list[str]) -> None:
    for op in chosen or OPS:
        for sm in (80, 90):
            for name, kernel, types, constexprs, options in OPS[op](sm):
                print(json.dumps(dict(op=op, variant=name) | compile_cubin(kernel, types, constexprs, sm, **options)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
