"""Presets of XLA compiler options for TPUs, by name in the configuration.

The options are passed to one program (`lowered.compile(compiler_options=...)`), not by
XLA_FLAGS, so run.json names those that the step was compiled with. A name ends in a
version: its options never change, other options get another name. None is on by
default: even an option that only schedules differently may change the order of sums,
and so the last bits of a loss.
"""

import difflib

from gendr_jax.errors import UsageError

Options = dict[str, bool | int]

# Gathers of weights and reductions of gradients overlap with the computation.
_OVERLAP: Options = {
    "xla_enable_async_all_gather": True,
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
    "xla_tpu_overlap_compute_collective_tc": True,
    "xla_tpu_enable_latency_hiding_scheduler": True,
}

# Many small all-reduces over `data` become few; of use where weights are replicated.
_DATA_PARALLEL: Options = {
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
}

PRESETS: dict[str, Options] = {
    "v5e-overlap-1": _OVERLAP,
    "v5e-data-1": {**_OVERLAP, **_DATA_PARALLEL},
    "v5p-overlap-1": _OVERLAP,
    "v5p-data-1": {**_OVERLAP, **_DATA_PARALLEL},
    # Larger fusions, with less vector memory left for prefetching.
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
