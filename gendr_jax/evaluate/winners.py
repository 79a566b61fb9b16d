"""The best method of each metric: significantly better than every other one, or none.

By the intervals of paired differences on the pictures that all methods have. There is
none for fewer than `statistics.FEWEST` pictures, or for a metric without a better
direction.
"""

from collections.abc import Mapping, Sequence

from gendr_jax.evaluate import statistics
from gendr_jax.metrics.kinds import Metric

Values = Mapping[str, Mapping[str, float]]  # {picture: {metric: value}}


def winners(
    methods: Mapping[str, Values], metrics: Sequence[Metric]
) -> dict[str, str | None]:
    """{metric: the significantly best method, or None}."""
    shared = sorted(set.intersection(*(set(own) for own in methods.values())))
    return {metric.name: _winner(methods, shared, metric) for metric in metrics}


def _winner(
    methods: Mapping[str, Values], shared: list[str], metric: Metric
) -> str | None:
    name = metric.name
    if metric.better == "neither" or len(methods) < 2:
        return None
    if any(name not in own[image] for own in methods.values() for image in shared):
        return None  # means over different pictures are not comparable
    for method, own in methods.items():
        others = [values for rival, values in methods.items() if rival != method]
        if all(_is_ahead(own, other, shared, metric) for other in others):
            return method
    return None


def _is_ahead(own: Values, other: Values, shared: list[str], metric: Metric) -> bool:
    mine, theirs = ([v[i][metric.name] for i in shared] for v in (own, other))
    difference = statistics.difference(mine, theirs)
    if difference is None or difference.mean.ci95 is None:
        return False
    low, high = difference.mean.ci95
    return low > 0 if metric.better == "higher" else high < 0
