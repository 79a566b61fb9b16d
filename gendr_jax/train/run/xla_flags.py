"""Presets of compiler options for TPUs: a name in the configuration, no environment.

The options go to one program (`lowered.compile(compiler_options=...)`), so the record
of a run says by a name with which ones its step was compiled. A name ends in a version:
what stands behind it never changes, another set of flags is another name. None is on by
default, since an option that only moves work can still change the order of sums, and
so the last bits of a loss.
"""

import difflib

from gendr_jax.errors import UsageError

Options = dict[str, bool | int]

# Gathers of weights and reductions of gradients run beside the computation.
_OVERLAP: Options = {
    "xla_enable_async_all_gather": True,
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
    "xla_tpu_overlap_compute_collective_tc": True,
    "xla_tpu_enable_latency_hiding_scheduler": True,
}

# Many small reductions over `data` become few, which pays where weights are whole.
_DATA_PARALLEL: Options = {
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
}

PRESETS: dict[str, Options] = {
    "v5e-overlap-1": _OVERLAP,
    "v5e-data-1": {**_OVERLAP, **_DATA_PARALLEL},
    "v5p-overlap-1": _OVERLAP,
    "v5p-data-1": {**_OVERLAP, **_DATA_PARALLEL},
    # Larger fusions, at the price of what is prefetched into the vector memory.
    "v6e-overlap-1": {**_OVERLAP, "xla_tpu_scoped_vmem_limit_kib": 98304},
    "v6e-data-1": {
        **_OVERLAP,
        **_DATA_PARALLEL,
        "xla_tpu_scoped_vmem_limit_kib": 98304,
    },
}


def compiler_options(preset: str) -> Options:
    """The options of a preset for `compile`; of "" none.

    Raises:
        UsageError: there is no such preset.
    """
    if not preset:
        return {}
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f"did you mean {near[0]}" if near else f"there are {', '.join(PRESETS)}"
        raise UsageError(
            f'xla_flags {preset!r} is no preset, {hint}. Give one of them, or "".'
        )
    return dict(PRESETS[preset])
