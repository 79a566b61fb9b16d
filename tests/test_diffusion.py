"""Schedule, conversions, guidance, the one-step prediction and the DDIM sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import diffusion
from gendr_jax.errors import UsageError

SHAPE = (3, 4, 5, 2)
TYPES = ("eps", "v", "x0")
SD21 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DIFFUSERS_NAMES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def arrays(count, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(SHAPE).astype(dtype) for _ in range(count)]


def test_schedule_has_the_published_values():
    table = {0: 0.99915, 20: 0.98131, 353: 0.50148, 354: 0.49982, 499: 0.27767}
    table |= {625: 0.13777, 799: 0.03719, 979: 0.005913, 999: 0.004660}
    for t, alpha_bar in table.items():
        # last printed digit of method.md section 1
        assert abs(diffusion.ALPHA_BAR[t] - alpha_bar) < (6e-6 if t < 900 else 6e-7)
    nearest = np.argmin(np.abs(diffusion.ALPHA_BAR - 0.5))
    assert nearest == diffusion.T_STAR == 354


def test_alpha_sigma_shapes_dtypes_and_unit_power():
    t_b = jnp.array([0, 354, 999])
    a, sigma = diffusion.alpha_sigma(t_b, 4)
    assert a.shape == sigma.shape == (3, 1, 1, 1) and a.dtype == jnp.float32
    np.testing.assert_allclose(a**2 + sigma**2, 1.0, rtol=1e-6)
    np.testing.assert_allclose((sigma / a).ravel(), [0.02917, 1.0004, 14.61], rtol=1e-3)
    with jax.enable_x64(True):
        assert diffusion.alpha_sigma(t_b, 4)[0].dtype == jnp.float64


@pytest.mark.torch
def test_schedule_and_noising_equal_diffusers():
    torch = pytest.importorskip("torch")
    schedulers = pytest.importorskip("diffusers")
    theirs = schedulers.DDPMScheduler(**SD21)
    np.testing.assert_allclose(
        diffusion.ALPHA_BAR, theirs.alphas_cumprod.numpy(), rtol=2e-5
    )
    z, eps = arrays(2)
    t = np.array([0, 354, 999])
    reference = theirs.add_noise(*map(torch.from_numpy, (z, eps, t)))
    np.testing.assert_allclose(diffusion.add_noise(z, eps, t), reference, atol=2e-5)
    velocity = theirs.get_velocity(*map(torch.from_numpy, (z, eps, t)))
    ours = diffusion.prediction_target(z, eps, t, "v")
    np.testing.assert_allclose(ours, velocity, atol=2e-5)


@pytest.mark.torch
@pytest.mark.parametrize("kind", TYPES)
def test_conversions_equal_diffusers(kind):
    torch = pytest.importorskip("torch")
    schedulers = pytest.importorskip("diffusers")
    theirs = schedulers.DDIMScheduler(
        **SD21, clip_sample=False, prediction_type=DIFFUSERS_NAMES[kind]
    )
    theirs.set_timesteps(10)
    out, z_t = arrays(2, seed=1)
    for t in (20, 354, 979):
        t_b = np.full(SHAPE[0], t)
        step = theirs.step(torch.from_numpy(out), t, torch.from_numpy(z_t))
        x0 = diffusion.to_x0(out, z_t, t_b, kind)
        np.testing.assert_allclose(x0, step.pred_original_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", TYPES)
def test_conversions_recover_what_was_mixed(kind):
    with jax.enable_x64(True):
        z, eps = map(jnp.asarray, arrays(2, seed=2, dtype=np.float64))
        t_b = jnp.array([20, 354, 979])
        z_t = diffusion.add_noise(z, eps, t_b)
        out = diffusion.prediction_target(z, eps, t_b, kind)
        a, sigma = diffusion.alpha_sigma(t_b, 4)

        def close(ours, truth):
            assert ours.dtype == jnp.float64
            np.testing.assert_allclose(ours, truth, atol=1e-12)

        close(diffusion.to_x0(out, z_t, t_b, kind), z)
        close(diffusion.to_eps(out, z_t, t_b, kind), eps)
        close(diffusion.to_v(out, z_t, t_b, kind), a * eps - sigma * z)
        score = (a * z - z_t) / sigma**2
        close(diffusion.to_score(out, z_t, t_b, kind), score)


def test_bfloat16_outputs_are_converted_in_float32():
    z, eps = arrays(2, seed=3)
    t_b = jnp.array([979, 979, 979])
    z_t = diffusion.add_noise(z, eps, t_b)
    out = jnp.asarray(eps, jnp.bfloat16)
    x0 = diffusion.to_x0(out, z_t, t_b, "eps")
    assert x0.dtype == jnp.float32
    exact = diffusion.to_x0(out.astype(jnp.float32), z_t, t_b, "eps")
    np.testing.assert_array_equal(x0, exact)


def test_guidance():
    uncond, cond = map(jnp.asarray, arrays(2, seed=4))
    np.testing.assert_array_equal(diffusion.cfg(uncond, cond, 1.0), cond)
    np.testing.assert_allclose(diffusion.cfg(uncond, cond, 0.0), uncond, atol=1e-6)
    guided = diffusion.cfg(uncond, cond, 7.5)
    np.testing.assert_allclose(guided, uncond + 7.5 * (cond - uncond), atol=1e-5)


def test_one_step_is_the_conversion_at_alpha_bar_one_half():
    with jax.enable_x64(True):
        z_l, out = map(jnp.asarray, arrays(2, seed=5, dtype=np.float64))
        half = 0.5**0.5
        x0 = (z_l - half * out) / half
        np.testing.assert_allclose(diffusion.one_step(z_l, out, "eps"), x0, atol=1e-14)
        x0 = half * z_l - half * out
        np.testing.assert_allclose(diffusion.one_step(z_l, out, "v"), x0, atol=1e-14)
        # not alpha_bar[354]: the tabulated value would differ visibly from this
        t_b = jnp.full(SHAPE[0], diffusion.T_STAR)
        tabulated = diffusion.to_x0(out, z_l, t_b, "eps")
        gap = jnp.abs(tabulated - diffusion.one_step(z_l, out, "eps")).max()
        assert 1e-5 < gap < 5e-3


def toy_output(z_t, t, xp):
    return xp.sin(3 * z_t) + 0.1 * z_t - t


@pytest.mark.torch
@pytest.mark.parametrize("kind", ("eps", "v"))
@pytest.mark.parametrize(
    "spacing, steps, settings",
    [
        ("trailing", 10, {"timestep_spacing": "trailing", "set_alpha_to_one": True}),
        ("trailing", 1, {"timestep_spacing": "trailing", "set_alpha_to_one": True}),
        ("leading", 10, {"steps_offset": 1, "set_alpha_to_one": False}),
        ("leading", 7, {"steps_offset": 1, "set_alpha_to_one": False}),
    ],
)
def test_ddim_equals_diffusers(kind, spacing, steps, settings):
    torch = pytest.importorskip("torch")
    schedulers = pytest.importorskip("diffusers")
    theirs = schedulers.DDIMScheduler(
        **SD21, clip_sample=False, prediction_type=DIFFUSERS_NAMES[kind], **settings
    )
    theirs.set_timesteps(steps)
    (z_T,) = arrays(1, seed=6)
    z = torch.from_numpy(z_T)
    for t in theirs.timesteps:
        z = theirs.step(toy_output(z, t / 1000, torch), t, z).prev_sample

    def predict(z_t, t_b):
        return toy_output(z_t, t_b.reshape(-1, 1, 1, 1) / 1000, jnp)

    ours = jax.jit(lambda z: diffusion.ddim(predict, z, steps, kind, spacing))(z_T)
    scale = float(z.abs().max())
    np.testing.assert_allclose(ours, z, atol=1e-4 * scale)


@pytest.mark.parametrize("steps", (1, 3, 7, 30))
def test_ddim_with_the_exact_denoiser_reaches_the_data(steps):
    """Data = one point: every step stays on its ray, whatever the spacing."""
    with jax.enable_x64(True):
        point, z_T = map(jnp.asarray, arrays(2, seed=7, dtype=np.float64))

        def predict(z_t, t_b):
            a, sigma = diffusion.alpha_sigma(t_b, 4)
            return (z_t - a * point) / sigma

        z_0 = diffusion.ddim(predict, z_T, steps, "eps")
        np.testing.assert_allclose(z_0, point, atol=1e-12)


def test_errors_name_the_value_and_the_remedy():
    z, out = arrays(2)
    t_b = jnp.array([1, 2, 3])
    with pytest.raises(UsageError, match="'epsilon'.*'eps'"):
        diffusion.to_x0(out, z, t_b, "epsilon")
    with pytest.raises(UsageError, match="'epsilon'"):
        diffusion.prediction_target(z, out, t_b, "epsilon")
    with pytest.raises(UsageError, match="'epsilon'"):
        diffusion.one_step(z, out, "epsilon")
    for steps, spacing in ((0, "trailing"), (1001, "trailing"), (1000, "leading")):
        with pytest.raises(UsageError, match=f"{steps} steps"):
            diffusion.ddim_timesteps(steps, spacing)
    with pytest.raises(UsageError, match="'linspace'"):
        diffusion.ddim_timesteps(10, "linspace")
