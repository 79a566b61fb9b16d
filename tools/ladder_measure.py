"""Figures of students on pairs of pictures, for ladder.py; kept beside each run."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from ladder_pictures import Pictures, enlarged, pairs, recoded, side_by_side

from gendr_jax.metrics.kinds import Opened, Settings
from gendr_jax.metrics.table import open_metrics
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.weights import folder

Make = Callable[[Pictures, Pictures], Pictures]
Scores = dict[str, list[float]]  # {"set metric": a figure a picture}


@dataclasses.dataclass(frozen=True)
class Measure:
    """Pairs {set: (LR, HR)} and metrics."""

    pairs: dict[str, tuple[Pictures, Pictures]]
    metrics: list[Opened]
    side: int
    what: list[str]  # everything that the figures depend on, besides the weights

    @classmethod
    def open(cls, options: argparse.Namespace) -> "Measure":
        named = [text.partition("=")[::2] for text in options.pairs]
        sets = {
            name: pairs(Path(where), options.side, options.most)
            for name, where in named
        }
        metrics = open_metrics(options.metrics, Settings(niqe=options.niqe))
        what = [*options.pairs, f"middle {options.side}", f"most {options.most}"]
        what += [f"{m.metric.name}: {m.protocol}" for m in metrics]
        return cls(sets, metrics, options.side, what)

    def references(self, base: Path) -> dict[str, Scores]:
        """Enlargement, the base in one step; of the truth, autoencoder and itself."""
        weights = dataclasses.replace(folder.load(base), kind="restorer")
        return {
            "bicubic": self.of(lambda low, high: [enlarged(x) for x in low]),
            "base": self.of(restoring(Restorer(weights, dtype="float32", batch=4))),
            "autoencoder": self.of(lambda low, high: recoded(weights, high)),
            "photograph": self.of(lambda low, high: high),
        }

    def run(self, workdir: Path) -> Scores:
        """Of the weights of a finished run; read where they were measured before."""
        kept = workdir / "scores.json"
        if kept.exists():
            found = json.loads(kept.read_text())
            if found["what"] == self.what:
                return found["scores"]
        restorer = Restorer.from_pretrained(workdir / "weights", "float32", batch=4)
        scores = self.of(restoring(restorer))
        kept.write_text(json.dumps({"what": self.what, "scores": scores}))
        return scores

    def of(self, make: Make) -> Scores:
        """Figures of what `make` makes of a set's LR and HR."""
        scores: Scores = {}
        for name, (low, high) in self.pairs.items():
            results = make(low, high)
            second = {"nothing": None, "gt": high, "lr": low}
            for opened in self.metrics:
                # A small picture has too few blocks for a covariance of its own.
                pooled = opened.metric.name == "niqe" and self.side
                shown = [side_by_side(results)] if pooled else results
                figures = opened.measure(shown, second[opened.metric.against])
                scores[f"{name} {opened.metric.name}"] = [float(x) for x in figures]
        return scores


def restoring(restorer: Restorer) -> Make:
    return lambda low, high: restorer(low)
