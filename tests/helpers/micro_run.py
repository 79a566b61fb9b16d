"""`tools/micro_run.py` with the settings of `tiny_stages.py`."""

from pathlib import Path
from typing import Any

from tests.helpers import tiny_stages
from tools import micro_run


def prepare(folder: Path, stage: str = "vae", **changes: Any) -> Path:
    """Write `STAGE.py` and photographs under `folder`; the path of the configuration.

    `changes` are settings as in a configuration file, whole sections at a time.
    """
    settings = {**tiny_stages.COMMON, **tiny_stages.OWN[stage]}
    del settings["log"]  # those of a run that is started again and again
    return micro_run.prepare(folder, stage, settings | changes)
