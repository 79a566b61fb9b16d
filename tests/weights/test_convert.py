"""convert: files of the real libraries, to our folders and back, bit for bit."""

import copy
import functools
import json

import numpy as np
import pytest

from gendr_jax import diffusion
from gendr_jax.errors import InputError, UsageError
from gendr_jax.models.lora import UNET_TARGETS
from gendr_jax.weights import folder
from gendr_jax.weights.convert import Options, convert
from gendr_jax.weights.foreign import config_json, dinov2, dists, ldm, lpips
from gendr_jax.weights.foreign.single_files import Hints
from gendr_jax.weights.gendr_json import read as read_manifest

pytestmark = pytest.mark.torch

EPS = Hints(prediction="eps")
SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {
    "block_out_channels": (64, 128),
    "cross_attention_dim": 1024,
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
}


def fresh(make):
    """Random draws once, a copy to change for each test."""
    made = functools.cache(make)
    return lambda *args, **options: copy.deepcopy(made(*args, **options))


@fresh
def torch_unet(seed=0, **options):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from tests.helpers.torch_parity import randomise

    torch.manual_seed(seed)
    options = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 32,
        "cross_attention_dim": 24,
        "attention_head_dim": (2, 4),
    } | options
    return randomise(diffusers.UNet2DConditionModel(**options), seed)


@fresh
def torch_vae(seed=1, **options):
    diffusers = pytest.importorskip("diffusers")
    from tests.helpers.torch_parity import randomise

    model = diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        **options,
    )
    return randomise(model, seed)


@fresh
def torch_dinov2(seed=2):
    transformers = pytest.importorskip("transformers")
    from tests.helpers.torch_parity import randomise

    config = transformers.Dinov2Config(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=42
    )
    return randomise(transformers.Dinov2Model(config), seed)


MODELS = {"unet": torch_unet, "vae": torch_vae, "dinov2": torch_dinov2}


def parsed(kind, model):
    """Our configuration of a model of theirs, through its config.json."""
    owner = model.config if kind == "dinov2" else model
    return config_json.parse(kind, json.loads(owner.to_json_string()))


def bits(tensors):
    """{name: (dtype, shape, bytes)} of torch tensors."""
    import torch

    return {
        name: (
            str(t.dtype),
            tuple(t.shape),
            t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, t in tensors.items()
    }


def stored(path):
    """The same of the safetensors files in a folder."""
    from safetensors.torch import load_file

    tensors = {}
    for file in path.glob("*.safetensors"):
        tensors |= load_file(file)
    return bits(tensors)


def written(model):
    """The state dict under the names of the library's files.

    transformers 5 calls the layers of DINOv2 otherwise in memory.
    """
    names = {"q_proj": "attention.query", "k_proj": "attention.key"}
    names |= {"v_proj": "attention.value", "o_proj": "output.dense"}
    tensors = {}
    for name, tensor in model.state_dict().items():
        parts = [names.get(part, part) for part in name.split(".")]
        tensors[".".join(parts)] = tensor
    return tensors


def to(model, dtype):
    """The same in a dtype, apart from the model's."""
    import torch

    wanted = getattr(torch, dtype)
    return {n: t.detach().to(wanted, copy=True) for n, t in written(model).items()}


def there_and_back(tmp_path, *sources, **options):
    """(report, our folder, the folder for diffusers made of it)."""
    ours, back = tmp_path / "ours", tmp_path / "back"
    report = convert(sources, ours, Options(**{"hints": EPS, **options}))
    again = convert([ours], back, Options(to="diffusers"))
    assert again["formats"] == ["gendr"]
    assert again["kind"] == report["kind"]
    assert again["parameters"] == report["parameters"]
    names = {p.name for p in tmp_path.iterdir()}
    assert not {n for n in names if n.startswith(".")}, "temporary left"
    return report, ours, back


def spelled(layout, tensors, prefix=""):
    """Torch tensors under the names of a foreign layout, stacked where it stacks."""
    import torch

    parts = {}
    for name, place in layout.items():
        parts.setdefault(place, []).append(tensors[name])
    rows = {}
    for place, (tensor,) in parts.items():
        rows.setdefault((place.name, place.shape), []).append((place.rows, tensor))
    return {
        prefix + name: torch.cat(
            [t for _, t in sorted(found, key=lambda p: p[0] or (0, 0))]
        ).reshape(shape)
        for (name, shape), found in rows.items()
    }


FORMS = {
    "safetensors": ("float32", {}),
    "bin": ("float16", {"safe_serialization": False}),
    "shards": ("bfloat16", {"max_shard_size": "100KB"}),
    "bin-shards": ("float32", {"safe_serialization": False, "max_shard_size": "200KB"}),
    "variant": ("float16", {"variant": "fp16"}),
    "variant-shards": ("float16", {"variant": "fp16", "max_shard_size": "100KB"}),
}


USED = {
    "unet": ("safetensors", "bin-shards", "variant-shards"),
    "vae": tuple(FORMS),
    "dinov2": ("safetensors", "bin", "shards", "variant"),
}


@pytest.mark.parametrize(
    "kind, form", [(kind, form) for kind, forms in USED.items() for form in forms]
)
def test_component_folders_come_back_bit_for_bit(kind, form, tmp_path):
    import torch

    dtype, options = FORMS[form]
    model, source = MODELS[kind](), tmp_path / "source"
    if "variant" in options:
        model.save_pretrained(source)  # another file, not to be taken
        model = MODELS[kind](seed=9)
    model = model.to(getattr(torch, dtype))
    tensors = written(model)
    if kind == "dinov2" and "safe_serialization" in options:
        # transformers 5 writes no pickles any more; older versions wrote this
        model.config.save_pretrained(source)
        torch.save(tensors, source / "pytorch_model.bin")
    else:
        model.save_pretrained(source, **options)
    shards = list(source.glob("*.index*.json"))
    assert len(shards) == ("max_shard_size" in options)
    prediction = "eps" if kind == "unet" else None
    hints = Hints(prediction=prediction, variant=options.get("variant", ""))
    report, ours, back = there_and_back(tmp_path, source, hints=hints)
    assert stored(back / kind) == bits(tensors)
    library = "transformers" if kind == "dinov2" else "diffusers"
    assert report["formats"] == [f"{library} {kind}"]
    manifest = read_manifest(ours)
    (history,) = manifest["provenance"]["converted"]
    assert history["files"] == report["files"]
    assert {f["name"] for f in report["files"]} <= {p.name for p in source.iterdir()}
    assert manifest["kind"] == ("base" if kind == "unet" else kind)
    assert manifest["components"][kind]["dtypes"] == {dtype: report["parameters"][kind]}


# What an LDM file holds beside its networks, and our word for it.
BALLAST = {
    "cond_stage_model.model.ln_final.weight": "text encoder",
    "cond_stage_model.transformer.text_model.embeddings.position_ids": "text encoder",
    "first_stage_model.loss.discriminator.main.0.weight": "discriminator of the "
    "autoencoder's training",
    "model_ema.decay": "counter of the moving average",
    "model_ema.num_updates": "counter of the moving average",
    "scale_factor": "latent scale",
    "betas": "noise schedule",
    "alphas_cumprod": "noise schedule",
    "posterior_mean_coef2": "noise schedule",
}


def ldm_tensors(unet, vae, dtype, averaged=None):
    """A whole LDM checkpoint; ``averaged``: a second UNet, its moving average."""
    import torch

    config = parsed("unet", unet)
    layout = ldm.unet_layout(config)
    tensors = spelled(layout, to(unet, dtype), "model.diffusion_model.")
    if vae is not None:
        layout_vae = ldm.vae_layout(parsed("vae", vae))
        tensors |= spelled(layout_vae, to(vae, dtype), "first_stage_model.")
    if averaged is not None:
        for name, tensor in spelled(layout, to(averaged, dtype)).items():
            tensors["model_ema.diffusion_model" + name.replace(".", "")] = tensor
    ballast = {name: torch.arange(6).reshape(1, 6) for name in BALLAST}
    ballast["model_ema.decay"] = torch.tensor(0.9999)
    ballast["alphas_cumprod"] = torch.tensor(diffusion.ALPHA_BAR)  # it is checked
    return tensors | ballast


def write_ldm(tensors, path):
    import torch
    from safetensors.torch import save_file

    if path.suffix == ".ckpt":
        # as PyTorch Lightning does
        content = {"epoch": 3, "global_step": 875000, "state_dict": tensors}
        torch.save(content | {"pytorch-lightning_version": "1.4.2"}, path)
    else:
        save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    "family, suffix, dtype",
    [
        (SD1, "safetensors", "float32"),
        pytest.param(SD1, "ckpt", "float16", marks=pytest.mark.slow),
        pytest.param(SD2, "safetensors", "bfloat16", marks=pytest.mark.slow),
        pytest.param(SD2, "ckpt", "float32", marks=pytest.mark.slow),
    ],
    ids=["sd1-safetensors-fp32", "sd1-ckpt-fp16", "sd2-safetensors-bf16", "sd2-ckpt"],
)
def test_ldm_checkpoints_come_back_bit_for_bit(family, suffix, dtype, tmp_path):
    unet, vae = torch_unet(**family), torch_vae()
    tensors = ldm_tensors(unet, vae, dtype)
    source = write_ldm(tensors, tmp_path / f"model.{suffix}")
    report, ours, back = there_and_back(tmp_path, source)
    assert report["formats"] == ["LDM checkpoint"]
    assert stored(back / "unet") == bits(to(unet, dtype))
    assert stored(back / "vae") == bits(to(vae, dtype))
    words = list(BALLAST.values())
    assert report["left_out"] == {word: words.count(word) for word in words}
    manifest = read_manifest(ours)
    assert manifest["provenance"]["ema"] is False
    configs = folder.load(ours).configs
    assert configs == {"unet": parsed("unet", unet), "vae": parsed("vae", vae)}


@pytest.mark.parametrize("wanted", ["auto", "yes", "no"])
def test_the_averaged_weights_are_a_choice(wanted, tmp_path):
    unet, averaged = torch_unet(**SD1), torch_unet(seed=5, **SD1)
    tensors = ldm_tensors(unet, None, "float32", averaged)
    source = write_ldm(tensors, tmp_path / "model.ckpt")
    hints = Hints(ema=wanted, prediction="v")
    report, ours, back = there_and_back(tmp_path, source, hints=hints)
    chosen = unet if wanted == "no" else averaged
    assert stored(back / "unet") == bits(to(chosen, "float32"))
    other = "averaged weights" if wanted == "no" else "weights without averaging"
    assert report["left_out"][other] == len(unet.state_dict())
    assert read_manifest(ours)["provenance"]["ema"] is (wanted != "no")
    assert read_manifest(ours)["prediction_type"] == "v"


def test_averages_that_are_absent_or_incomplete_are_refused(tmp_path):
    unet = torch_unet(**SD1)
    source = write_ldm(ldm_tensors(unet, None, "float16"), tmp_path / "a.safetensors")
    asked = Options(hints=Hints(ema="yes", prediction="eps"))
    with pytest.raises(InputError, match="holds no averaged weights"):
        convert([source], tmp_path / "new", asked)
    tensors = ldm_tensors(unet, None, "float16", unet)
    del tensors["model_ema.diffusion_modelout2weight"]
    source = write_ldm(tensors, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"averages \d+ of \d+ .*out\.2\.weight"):
        convert([source], tmp_path / "new", Options(hints=EPS))
    assert not (tmp_path / "new").exists()


def test_bare_ldm_networks_and_the_scale_that_files_do_not_say(tmp_path):
    """A UNet without prefix, and a FLUX-like autoencoder of 16 channels."""
    unet = torch_unet(**SD1)
    layout = ldm.unet_layout(parsed("unet", unet))
    source = write_ldm(spelled(layout, to(unet, "float16")), tmp_path / "u.safetensors")
    *_, back = there_and_back(tmp_path, source)
    assert stored(back / "unet") == bits(to(unet, "float16"))

    vae = torch_vae(
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    config = parsed("vae", vae)
    tensors = spelled(ldm.vae_layout(config), to(vae, "bfloat16"))
    source = write_ldm(tensors, tmp_path / "ae.safetensors")
    with pytest.raises(UsageError, match="16 channels. Give --scaling-factor"):
        convert([source], tmp_path / "flux", Options())
    (tmp_path / "flux").mkdir()
    hints = Hints(scaling_factor=0.3611, shift_factor=0.1159)
    _, ours, back = there_and_back(tmp_path / "flux", source, hints=hints)
    assert stored(back / "vae") == bits(to(vae, "bfloat16"))
    assert folder.load(ours).configs["vae"] == config


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_dinov2_hub_file_is_the_transformers_folder(dtype, tmp_path):
    import torch

    model = torch_dinov2()
    config = parsed("dinov2", model)
    tensors = spelled(dinov2.layout(config), to(model, dtype))
    assert tensors["blocks.1.attn.qkv.weight"].shape == (384, 128)
    source = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save(tensors, source)
    report, ours, back = there_and_back(tmp_path, source, hints=Hints())
    assert report["formats"] == ["DINOv2 hub file"]
    assert stored(back / "dinov2") == bits(to(model, dtype))
    assert folder.load(ours).configs["dinov2"] == config


def lpips_tensors():
    """{torchvision's name: tensor} of AlexNet's features and LPIPS' heads."""
    import torch

    layout = lpips.layout(lpips.LPIPSConfig("alexnet"), "torchvision")
    generator = torch.Generator().manual_seed(3)
    return {
        place.name: torch.rand(place.shape, generator=generator)
        for place in layout.values()
    }


@pytest.mark.parametrize("spelling", ["torchvision", "lpips"])
def test_lpips_of_both_packages(spelling, tmp_path):
    import torch

    tensors, source = lpips_tensors(), tmp_path / "source"
    source.mkdir()
    heads = {n: t for n, t in tensors.items() if n.startswith("lin")}
    trunk = {n: t for n, t in tensors.items() if n not in heads}
    if spelling == "torchvision":
        other = {"classifier.1.weight": torch.ones(4, 4)}
        torch.save(trunk | other, source / "alexnet-owt-7be5be79.pth")
        torch.save(heads, source / "alex.pth")
    else:
        cuts = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
        whole = dict(heads)
        for name, tensor in trunk.items():
            number = int(name.split(".")[1])
            whole[name.replace("features", f"net.slice{cuts[number]}")] = tensor
        whole |= {n.replace("lin", "lins.", 1): t for n, t in heads.items()}
        whole["scaling_layer.shift"] = torch.ones(1, 3, 1, 1)
        source = source / "lpips.pt"
        torch.save(whole, source)
    report, ours, back = there_and_back(tmp_path, source, hints=Hints())
    assert report["kind"] == "lpips" and report["left_out"]
    assert stored(back / "lpips") == bits(tensors)
    again = convert([back], tmp_path / "again", Options())
    assert again["kind"] == "lpips"
    one, two = (read_manifest(p)["components"] for p in (ours, tmp_path / "again"))
    assert one == two


@pytest.mark.parametrize("spelling", ["torchvision", "dists"])
def test_dists_of_two_files_and_of_one(spelling, tmp_path):
    import torch

    config = dists.DISTSConfig((2, 3, 4, 5, 6))
    layout = dists.layout(config, "torchvision")
    tensors = {place.name: torch.rand(place.shape) for place in layout.values()}
    source = tmp_path / "source"
    source.mkdir()
    if spelling == "torchvision":
        own = {name: tensors[name] for name in ("alpha", "beta")}
        assert own["alpha"].shape == (1, 3 + 20, 1, 1)
        torch.save(own, source / "weights.pt")
        trunk = {n: t for n, t in tensors.items() if n not in own}
        other = {"classifier.6.weight": torch.ones(4, 4)}
        torch.save(trunk | other, source / "vgg16-397923af.pth")
    else:
        whole = {"mean": torch.ones(1, 3, 1, 1), "stage2.4.filter": torch.ones(2, 1)}
        for name, place in dists.layout(config, "dists").items():
            whole[place.name] = tensors[layout[name].name]
        source = source / "dists.pt"
        torch.save(whole, source)
    report, ours, back = there_and_back(tmp_path, source, hints=Hints())
    assert report["kind"] == "dists" and report["left_out"]
    assert stored(back / "dists") == bits(tensors)
    again = convert([back], tmp_path / "again", Options())
    assert again["kind"] == "dists"
    one, two = (read_manifest(p)["components"] for p in (ours, tmp_path / "again"))
    assert one == two


def adapted(unet, rank=3, alpha=5):
    """The UNet as a PeftModel, neither half zero."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(UNET_TARGETS),
        init_lora_weights="gaussian",
    )
    model = peft.get_peft_model(unet, config).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return model


def save_lora(model, path, spelling):
    """The adapters as PEFT, diffusers or kohya's scripts write them; their place."""
    import torch
    from safetensors.torch import load_file, save_file

    model.save_pretrained(path)
    if spelling == "peft":
        return path
    tensors = load_file(path / "adapter_model.safetensors")
    prefix = "base_model.model."
    if spelling == "diffusers":
        settings = json.dumps({"r": 3, "lora_alpha": 5, "bias": "none"})
        tensors = {"unet." + n.removeprefix(prefix): t for n, t in tensors.items()}
        place = path / "diffusers"
        place.mkdir()
        save_file(
            tensors,
            place / "pytorch_lora_weights.safetensors",
            metadata={"format": "pt", "lora_adapter_metadata": settings},
        )
        return place
    kohya = {}
    for name, tensor in tensors.items():
        module, half, _ = name.removeprefix(prefix).rsplit(".", 2)
        stem = "lora_unet_" + module.replace(".", "_")
        down = {"lora_A": "lora_down", "lora_B": "lora_up"}[half]
        kohya |= {f"{stem}.{down}.weight": tensor, f"{stem}.alpha": torch.tensor(5.0)}
    save_file(kohya, path / "kohya.safetensors")
    return path / "kohya.safetensors"


@pytest.mark.parametrize(
    "spelling", ["peft", pytest.param("diffusers", marks=pytest.mark.slow), "kohya"]
)
def test_lora_comes_back_bit_for_bit_beside_its_base(spelling, tmp_path):
    from safetensors.torch import load_file

    unet = torch_unet()
    unet.save_pretrained(tmp_path / "unet")
    plain = bits(unet.state_dict())
    source = save_lora(adapted(unet), tmp_path / "lora", spelling)
    expected = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    report, ours, back = there_and_back(tmp_path, tmp_path / "unet", source)
    assert report["formats"] == ["diffusers unet", f"{spelling} LoRA"]
    assert stored(back / "unet") == plain
    config = folder.load(ours).configs["lora"]
    assert (config.rank, config.alpha) == (3, 5.0)
    got = load_file(back / "pytorch_lora_weights.safetensors")
    prefix = "base_model.model."
    unprefixed = {"unet." + n.removeprefix(prefix): t for n, t in expected.items()}
    assert bits(got) == bits(unprefixed)
    convert([ours], tmp_path / "peft", Options(to="peft"))
    assert stored(tmp_path / "peft") == bits(expected)
    # the folder for diffusers holds all that ours does
    convert([back], tmp_path / "again", Options())
    one, two = (read_manifest(p) for p in (ours, tmp_path / "again"))
    assert one["components"] == two["components"]
    assert one["configs"] == two["configs"]


@pytest.mark.parametrize(
    "spelling",
    ["peft", "diffusers", "kohya", pytest.param("ours", marks=pytest.mark.slow)],
)
def test_merge_is_pefts_own_merge(spelling, tmp_path):
    unet = torch_unet()
    unet.save_pretrained(tmp_path / "unet")
    plain = {n: t.clone() for n, t in unet.state_dict().items()}
    model = adapted(unet)
    written = "peft" if spelling == "ours" else spelling
    sources = [tmp_path / "unet", save_lora(model, tmp_path / "lora", written)]
    if spelling == "ours":
        convert(sources, tmp_path / "both", Options(hints=EPS))
        sources = [tmp_path / "both"]
    report, ours, back = there_and_back(tmp_path, *sources, merge=True)
    assert report["parameters"].keys() == {"unet"}
    assert folder.load(ours).configs.keys() == {"unet"}
    from safetensors.torch import load_file

    got = load_file(back / "unet" / "diffusion_pytorch_model.safetensors")
    expected = model.merge_and_unload().state_dict()
    assert got.keys() == expected.keys()
    changed = 0
    for name, tensor in expected.items():
        limit = 1e-6 * tensor.abs().max()
        assert (got[name] - tensor).abs().max() <= limit, name
        changed += bool((tensor != plain[name]).any())
    assert changed > 20


def test_adapters_alone_are_a_folder_of_their_own(tmp_path):
    source = save_lora(adapted(torch_unet()), tmp_path / "lora", "peft")
    with pytest.raises(UsageError, match="--merge needs the UNet"):
        convert([source], tmp_path / "new", Options(merge=True))
    assert not (tmp_path / "new").exists()


def test_networks_of_several_sources_make_one_folder(tmp_path):
    unet, vae = torch_unet(), torch_vae()
    unet.save_pretrained(tmp_path / "unet")
    vae.save_pretrained(tmp_path / "vae")
    np.savez(tmp_path / "prompt.npz", positive=np.ones((3, 24), np.float32))
    report, ours, back = there_and_back(
        tmp_path, tmp_path / "unet", tmp_path / "vae", prompt=tmp_path / "prompt.npz"
    )
    assert report["kind"] == "restorer"
    assert stored(back / "unet") == bits(unet.state_dict())
    assert stored(back / "vae") == bits(vae.state_dict())
    with pytest.raises(UsageError, match="two sources hold a vae"):
        twice = [tmp_path / "vae", tmp_path / "vae"]
        convert(twice, tmp_path / "new", Options())
