"""The configuration files: full size as documented, tiny ones that run."""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pytest

import configs as configs_folder
from gendr_jax import nets
from gendr_jax.cli import configs, quickstart_training
from gendr_jax.errors import UsageError
from gendr_jax.models.dinov2 import DINOv2
from gendr_jax.models.heads import (
    DiscriminatorHead,
    DiscriminatorHeadConfig,
    PatchDiscriminator,
    RepaProjector,
    RepaProjectorConfig,
)
from gendr_jax.models.unet import UNet
from gendr_jax.models.vae import VAE
from gendr_jax.train import defaults
from gendr_jax.train import settings as settings_lib
from gendr_jax.train.stages import build, size_checks
from gendr_jax.train.typed import typed
from tests.helpers.tiny_stages import OWN, PARTS, fewer_passes, one_device

FULL = {"vae16": "vae", "base": "base", "distill": "distill"}
TINY = {"tiny_vae": "vae", "tiny_base": "base", "tiny_distill": "distill"}
SMALL = {"small_vae": "vae", "small_base": "base", "small_distill": "distill"}
PIXELS = {"adc": "adc", "pix": "pix", "tiny_adc": "adc", "tiny_pix": "pix"}
PIXELS |= {"small_adc": "adc", "small_pix": "pix"}
LADDER = {"tiny_ladder": "distill"}
SETTINGS = settings_lib.STAGES
quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)


def read(name):
    return importlib.import_module(f"configs.{name}").get_config()


def settings(name):
    return typed(SETTINGS[(FULL | TINY | SMALL | LADDER | PIXELS)[name]], read(name))


def size(model, config, **kw):
    return nets.count(nets.build(model, config, **kw).abstract)


@pytest.mark.parametrize("name", [*FULL, *TINY, *SMALL, *LADDER])
def test_every_file_is_a_valid_configuration_of_its_stage(name):
    s = settings(name)
    assert s.stage == (FULL | TINY | SMALL | LADDER | PIXELS)[name]
    size_checks.check(s, one_device())
    build.run_settings(s)
    # Full-size crops and batches suit meshes of eight and more.
    if name in FULL:
        assert s.batch_size % 8 == 0 and s.dtype == "bfloat16"
        assert s.remat == ("block" if name == "vae16" else "none")


FILES = sorted(path.stem for path in Path(configs_folder.__path__[0]).glob("*.py"))


def restated(changes, default, prefix=""):
    """Names of the settings that `changes` gives the value that they have anyway."""
    for name, value in changes.items():
        own = getattr(default, name)
        if isinstance(value, Mapping):
            yield from restated(value, own, f"{prefix}{name}.")
        elif value == own:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_states_differences_from_the_defaults_only(name, monkeypatch):
    calls, config = [], defaults.config

    def recorded(stage, changes):
        calls.append((stage, changes))
        return config(stage, changes)

    monkeypatch.setattr(defaults, "config", recorded)
    read(name)
    ((stage, changes),) = calls
    assert changes
    assert list(restated(changes, SETTINGS[stage]())) == []


def test_a_restated_default_is_seen():
    default = SETTINGS["distill"]()
    changes = {"steps": 1, "optim": {"fake": {"lr": default.optim.fake.lr, "eps": 9}}}
    assert list(restated(changes, default)) == ["optim.fake.lr"]


@pytest.mark.parametrize("name", FULL)
def test_a_full_size_file_changes_what_a_run_decides_and_nothing_else(name):
    run = {"steps", "batch_size", "data", "checkpoint", "log", "init"}
    run |= {"adversarial_start"} if name == "vae16" else set()
    run |= {"optim", "optim_discriminator"} if name == "vae16" else set()
    made, default = settings(name), SETTINGS[FULL[name]]()
    for field in vars(default):
        if field not in run:
            assert getattr(made, field) == getattr(default, field), field


@pytest.mark.parametrize("name", [*FULL, *TINY, *SMALL, *LADDER])
def test_every_setting_of_a_stage_is_in_its_file_for_overrides(name):
    def names(one, prefix=""):
        for field in dataclasses.fields(one):
            value = getattr(one, field.name)
            if dataclasses.is_dataclass(value):
                yield from names(value, f"{prefix}{field.name}.")
            else:
                yield f"{prefix}{field.name}"

    made = read(name)
    known = set(configs._names(made))
    assert known >= set(names(settings(name)))


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("--config.sharding.rules=(('mid', 'fsdp'),)", "sharding.rules", None),
        ("--config.sharding.rules=()", "sharding.rules", ()),
        ("--config.vae.block_out_channels=(8, 16)", "vae.block_out_channels", (8, 16)),
        ("--config.unet.heads=4", "unet.heads", (4,)),
        ("--config.lora.targets=('conv',)", "lora.targets", ("conv",)),
        ("--config.optim.fake.eps=1e-6", "optim.fake.eps", 1e-6),
        ("--config.optim.real.b2=1", "optim.real.b2", 1.0),
        ("--noconfig.vae.quant_conv", "vae.quant_conv", False),
        ("--config.xla_flags=x", "xla_flags", "x"),
    ],
)
def test_overrides_of_what_the_file_leaves_at_its_default(override, field, value):
    args = ["--config", "configs/tiny_distill.py", override]
    _, made = configs.parse(args, lambda _: None)
    for name in field.split("."):
        made = made[name]
    assert made == (value if value is not None else (("mid", "fsdp"),))


def test_sizes_of_the_networks_are_the_published_ones():
    """From abstract shapes; nothing is allocated."""
    vae, base, distill = (settings(name) for name in FULL)
    assert size(VAE, vae.vae) == 57_266_643
    assert vae.vae.factor == 8 and vae.vae == base.vae == distill.vae
    assert base.unet == distill.unet
    assert size(DINOv2, base.alignment.dino) == 86_580_480
    shapes = RepaProjectorConfig(
        base.unet.block_out_channels[0],
        base.alignment.hidden,
        base.alignment.dino.hidden_size,
    )
    assert size(RepaProjector, shapes) == 6_427_392
    adapted = nets.build(UNet, distill.unet, lora=distill.lora).abstract
    frozen, adapters = nets.split_lora(adapted)
    assert nets.count(frozen) == 865_979_856
    # 258 modules; 64.9 M as counted in the specification, 4.06 M at rank 4.
    assert len(nets.flatten(adapters)) == 2 * 258
    assert round(nets.count(adapters) / 1e6, 1) == 64.9


@pytest.mark.parametrize("name", TINY)
def test_tiny_networks_are_tiny(name):
    s = settings(name)
    total = size(VAE, s.vae)
    if s.stage == "vae":
        total += size(PatchDiscriminator, s.discriminator)
    else:
        total += size(UNet, s.unet) + size(DINOv2, s.alignment.dino)
    if s.stage == "distill":
        width = s.unet.block_out_channels[-1]
        head = DiscriminatorHeadConfig(width, s.discriminator_width, s.unet.norm_groups)
        total += size(DiscriminatorHead, head)
    assert total < 8_000_000


@pytest.mark.parametrize("names", [TINY, SMALL])
def test_tiny_stages_fit_each_other(names):
    vae, base, distill = (settings(name) for name in names)
    assert vae.vae == base.vae == distill.vae
    assert base.unet == distill.unet and base.alignment == distill.alignment
    assert base.prediction == distill.prediction


@pytest.mark.parametrize("name", ["base", "distill"])
def test_full_size_needs_weights_to_start_from(name, tmp_path):
    made = read(name)
    with pytest.raises(UsageError, match=r"config\.init\.vae is empty") as caught:
        build.setup(made, one_device())
    assert "init.random=True" in str(caught.value)


def test_full_size_needs_photographs():
    with pytest.raises(UsageError, match=r"config\.data\.path is empty"):
        build.setup(read("vae16"), one_device())


@pytest.mark.parametrize(
    "name",
    ["tiny_vae"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("tiny_base", "tiny_distill")
    ],
)
def test_a_tiny_file_sets_up_on_photographs_in_memory(name):
    """The file's own wiring, with widths smaller still."""
    pytest.importorskip("skimage")
    made = read(name)
    networks = OWN["vae"] if name == "tiny_vae" else PARTS
    for part in ("vae", "unet", "alignment", "discriminator"):
        if part in made and part in networks:
            made[part].update(networks[part])
    made.data.crop = 16
    made.batch_size = 2
    with jax.default_prng_impl("unsafe_rbg"):
        setup = build.setup(made, one_device())
    assert setup.settings.steps == made.steps
    rows = next(setup.batches(0))
    assert rows["hq"].shape == (2, 16, 16, 3) and np.std(rows["hq"]) > 0
    key = jax.random.key(0)
    state = jax.eval_shape(setup.stage.init, key, setup.stage.start)
    new, metrics = jax.eval_shape(
        setup.stage.step, state, setup.stage.frozen, rows, key
    )
    assert jax.tree.structure(new) == jax.tree.structure(state)
    same = jax.tree.map(
        lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), new, state
    )
    assert all(jax.tree.leaves(same))
    assert all(m.shape == () for m in metrics.values()) and metrics
    columns = jax.eval_shape(setup.stage.sample, state, setup.stage.frozen, rows, key)
    assert {c.shape for c in columns.values()} == {(2, 16, 16, 3)}


@pytest.mark.parametrize("name", PIXELS)
def test_students_without_an_autoencoder_stand_on_the_grid_of_its_latents(name):
    s = settings(name)
    assert s.stage == PIXELS[name] and s.factor == s.vae.factor
    assert s.unet.in_channels == s.unet.out_channels == s.vae.latent_channels
    assert s.weights.adversarial == 0.05  # the paper's
    if s.stage == "pix":
        assert (s.weights.perceptual, s.weights.fourier) == (1.0, 0.1)
    size_checks.check(s, one_device())


def test_quickstart_trains_the_tiny_files_with_changes_only(tmp_path):
    """Every change is one: a value that the tiny file has already is not repeated."""
    for stage, config in quickstart_training.configs(tmp_path).items():
        size_checks.check(typed(SETTINGS[stage], config), one_device())
        tiny = typed(SETTINGS[stage], read(f"tiny_{stage}"))
        assert not list(restated(quickstart_training.CHANGES[stage], tiny))
        assert config["vae"] == read("tiny_vae").vae.to_dict()


@pytest.mark.parametrize("flag", [["--config", "tiny_vae"], ["--config=tiny_vae"]])
def test_a_shipped_configuration_is_named_without_its_path(tmp_path, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    args = [*flag, "--config.steps=3"]
    config = configs.parse(args, lambda _: None)[1]
    assert config.to_dict() == {**read("tiny_vae").to_dict(), "steps": 3}
    assert configs.files_of(args) == [configs.SHIPPED / "tiny_vae.py"]
    # A file of that name in the current folder is what the user means.
    (tmp_path / "tiny_vae").write_text("nothing")
    with pytest.raises(UsageError, match="name 'nothing' is not defined"):
        configs.parse(args, lambda _: None)
