"""scheduler_config.json: Stable Diffusion's noise schedule is taken, others refused.

All networks are trained and run on one schedule (``diffusion.py``). Fields that change
it are compared, fields of a sampler are recorded for exporting, unknown fields refused.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gendr_jax import diffusion
from gendr_jax.errors import InputError, listed
from gendr_jax.weights.foreign.component_folder import read_json
from gendr_jax.weights.foreign.tensors import Tensor

PREDICTIONS: dict[str, Literal["eps", "v"]] = {
    "epsilon": "eps",
    "v_prediction": "v",
}
TRAINED = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": diffusion.NUM_TIMESTEPS,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": None,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
}
SAMPLING = frozenset(
    "_class_name _diffusers_version prediction_type timestep_spacing steps_offset "
    "set_alpha_to_one clip_sample clip_sample_range thresholding sample_max_value "
    "dynamic_thresholding_ratio variance_type variance_range skip_prk_steps "
    "interpolation_type use_karras_sigmas use_exponential_sigmas use_beta_sigmas "
    "use_lu_lambdas sigma_min sigma_max timestep_type final_sigmas_type algorithm_type "
    "solver_order solver_type solver_p disable_corrector predict_x0 lower_order_final "
    "euler_at_final lambda_min_clipped flow_shift time_shift_type "
    "original_inference_steps timestep_scaling gamma eta noise_sampler_seed "
    "use_noise_sampler clip_sample_range set_alpha_to_zero shift_terminal "
    "_use_default_values".split()
)
LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
SCALED_BY_DEFAULT = ("LCMScheduler", "TCDScheduler")
REMEDY = "Use a model of Stable Diffusion's schedule, or train it to that first."


@dataclass(frozen=True)
class Schedule:
    """A pipeline's prediction type, and its scheduler_config.json for exporting."""

    prediction: Literal["eps", "v"]
    recorded: dict[str, Any]


def read(pipeline: Path) -> Schedule | None:
    """The schedule in a pipeline's ``scheduler/``; None where there is none.

    Raises:
        InputError: another noise schedule, or an unknown field.
    """
    file = pipeline / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return None
    config = read_json(file)
    name = str(config.get("_class_name", ""))
    if (
        name.startswith("FlowMatch")
        or config.get("prediction_type") == "flow_prediction"
    ):
        raise InputError(
            f"{file} is of flow matching ({name}), expected the noise schedule of "
            f"Stable Diffusion. {REMEDY}"
        )
    # diffusers' defaults of absent fields are not Stable Diffusion's values.
    trained = ({} if name in SCALED_BY_DEFAULT else LINEAR) | config
    differences = [
        f"{field} {trained[field]!r:.60} (expected {expected!r})"
        for field, expected in TRAINED.items()
        if field in trained and not _same(trained[field], expected)
    ]
    differences += [
        f"{field} {value!r:.60} (unknown)"
        for field, value in config.items()
        if field not in SAMPLING and field not in TRAINED and value not in (None, False)
    ]
    if differences:
        raise InputError(
            f"{file} has another noise schedule: {listed(differences)}. {REMEDY}"
        )
    # diffusers' own default, where the key is absent
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in PREDICTIONS:
        raise InputError(
            f"{file} has prediction_type {prediction!r:.60}, known are "
            f"{list(PREDICTIONS)}. Use a model that predicts one of them."
        )
    return Schedule(PREDICTIONS[prediction], config)


def _same(value: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(value, int | float):
        return math.isclose(value, expected, rel_tol=1e-6)
    return value == expected or (expected in (None, False) and not value)


def check_table(alphas_cumprod: Tensor, where: str) -> None:
    """Compare the table of alpha_bar in an LDM file with ours.

    Raises:
        InputError: the model was trained on another noise schedule.
    """
    theirs = alphas_cumprod.read().astype(np.float64)
    ours = diffusion.ALPHA_BAR
    if theirs.shape != ours.shape or np.abs(theirs - ours).max() > 2e-3:
        last = float(theirs.reshape(-1)[-1]) if theirs.size else math.nan
        raise InputError(
            f"{where} has alphas_cumprod of {theirs.size} steps that ends in "
            f"{last:.4g}, Stable Diffusion's of {ours.size} ends in {ours[-1]:.4g}: "
            f"another noise schedule. {REMEDY}"
        )
