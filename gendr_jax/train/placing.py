"""Where the arrays of a stage live, from its settings.

What lives here: settings to a `Placement`, and the gathering that steps are given.
What does not: the rules themselves (`sharding/rules.py`).
"""

from collections.abc import Iterator

from jax.sharding import Mesh

from gendr_jax import sharding
from gendr_jax.nets import Params
from gendr_jax.sharding import Placement
from gendr_jax.train.settings import Common, DistillSettings, VAESettings


def placement(settings: Common, mesh: Mesh) -> Placement:
    """Where every array of the stage lives."""
    rules = settings.sharding
    return Placement(mesh, rules.rules, rules.min_size, tuple(on_host(settings)))


def on_host(settings: Common) -> Iterator[str]:
    """Patterns of the paths of moments that live in the host's memory."""
    if isinstance(settings, DistillSettings):
        roles = {
            "generator": settings.optim.generator,
            "fake": settings.optim.fake,
            "real": settings.optim.real,
            "disc": settings.optim.discriminator,
        }
    elif isinstance(settings, VAESettings):
        roles = {"vae": settings.optim, "disc": settings.optim_discriminator}
    else:
        roles = {"base": settings.optim}
    for name, adam in roles.items():
        if adam.memory != "device":
            yield f"^{name}/opt/"


def whole(params: Params, where: str, *, placement: Placement, dtype: str) -> Params:
    """Weights in the compute dtype, whole on every device; call inside jit.

    ``where``: their path in the state or in the frozen weights.
    """
    return sharding.gather(params, placement.tree(params, where), dtype)
