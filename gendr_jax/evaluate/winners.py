"""Which method is best: where it is clearly better than every other one, else none.

On the pictures that all methods have, by the intervals of paired differences. So there
is none of fewer than `statistics.FEWEST` pictures, none among equals, and none of a
metric that says of no way that it is good.
"""

from collections.abc import Mapping, Sequence

from gendr_jax.evaluate import statistics
from gendr_jax.metrics.kinds import Metric

Values = Mapping[str, Mapping[str, float]]  # {picture: {metric: value}}


def winners(
    methods: Mapping[str, Values], metrics: Sequence[Metric]
) -> dict[str, str | None]:
    """{metric: the method that is clearly best, or None}."""
    shared = sorted(set.intersection(*(set(own) for own in methods.values())))
    return {metric.name: _winner(methods, shared, metric) for metric in metrics}


def _winner(
    methods: Mapping[str, Values], shared: list[str], metric: Metric
) -> str | None:
    name = metric.name
    if metric.better == "neither" or len(methods) < 2:
        return None
    if any(name not in own[image] for own in methods.values() for image in shared):
        return None  # means of different pictures do not compete
    for method, own in methods.items():
        others = [values for rival, values in methods.items() if rival != method]
        if all(_is_ahead(own, other, shared, metric) for other in others):
            return method
    return None


def _is_ahead(own: Values, other: Values, shared: list[str], metric: Metric) -> bool:
    mine, theirs = ([v[i][metric.name] for i in shared] for v in (own, other))
    found = statistics.difference(mine, theirs)
    if found is None or found.mean.ci95 is None:
        return False
    low, high = found.mean.ci95
    return low > 0 if metric.better == "higher" else high < 0
