"""XLA compiler options for CPUs.

jaxlib 0.10 hands products, convolutions and reductions to the library YNNPACK. Of the
shapes timed alone (docs/benchmarks.md), its reductions are faster than XLA's own
(Eigen), its products and convolutions slower, three times on maps of 8 x 8 pixels; a
convolution to 3 channels is the exception.
"""

import jax

OPTIONS: dict[str, str | bool] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"
}


def compiled(lowered: jax.stages.Lowered, platform: str) -> jax.stages.Compiled:
    """The program, compiled for devices of this platform ("cpu", "gpu", "tpu")."""
    if platform != "cpu":
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise
        return lowered.compile()  # this jaxlib's XLA does not know the option
