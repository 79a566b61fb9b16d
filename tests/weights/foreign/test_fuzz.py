"""Damaged and hostile weights files: refused, harmless, or seen by their sha256."""

import io
import itertools
import logging
import os
import pickle
import resource
import shutil
import zipfile
from collections import Counter

import pytest

from gendr_jax.errors import InputError
from gendr_jax.weights import convert
from gendr_jax.weights.foreign.open_file import open_file
from tools import weights_mutations as fuzz
from tools import weights_samples

pytest.importorskip("torch")
pytestmark = pytest.mark.torch
CASES = 40


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return fuzz.Pristine(tmp_path_factory.mktemp("weights"), fuzz.attempt)


@pytest.mark.slow
def test_a_sample_of_damages(pristine, tmp_path):
    """The tool `python -m tools.fuzz weights` runs more, each in a limited process."""
    logging.disable()
    classes = Counter()
    try:
        for number in [*range(CASES), *without_checksum(pristine, tmp_path / "p")]:
            folder = tmp_path / str(number) / "source"
            case = fuzz.case(number, 5, pristine, folder)
            kind, passed, said = pristine.judge(case, folder)
            assert kind in ("refused", "identical", "unseen"), f"{case}: {said}"
            assert not passed, f"{case}: passed in spite of --sha256"
            classes[kind] += 1
            shutil.rmtree(folder.parent)
    finally:
        logging.disable(logging.NOTSET)
    # Damage that does no damage would prove nothing.
    assert classes["refused"] > CASES // 2 and classes["unseen"]


def without_checksum(pristine, home, count=3):
    """Numbers of cases beyond the sample whose flipped bits no checksum covers."""
    found = []
    for number in itertools.count(CASES):
        case = fuzz.case(number, 5, pristine, home / str(number))
        if case.excused and case.weights and case.damage == "flip data":
            found.append(number)
            if len(found) == count:
                shutil.rmtree(home)
                return found


class Marks:
    """A pickle that makes a folder where it is unpickled by Python itself."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".pth"])
def test_no_code_of_a_pickle_runs(tmp_path, suffix, zipped):
    import torch

    mark, file = tmp_path / "ran", tmp_path / f"a{suffix}"
    state = {"state_dict": {"a": torch.ones(3)}, "hook": Marks(str(mark))}
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="could run code: it is not loaded") as error:
        convert.convert([file], tmp_path / "out", convert.Options())
    assert "\n" not in str(error.value)
    assert not mark.exists() and not (tmp_path / "out").exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # the file does what it says


def test_a_bare_pickle_does_not_run(tmp_path):
    mark, file = tmp_path / "ran", tmp_path / "a.pt"
    file.write_bytes(pickle.dumps({"a": Marks(str(mark))}, protocol=2))
    with pytest.raises(InputError, match="could run code|damaged"):
        open_file(file)
    assert not mark.exists()


def test_a_zip_bomb_takes_no_memory(pristine, tmp_path):
    """A gigabyte in a file of a megabyte, and no room for a quarter of it."""
    whole = (pristine.source("dinov2.pth") / "a.pth").read_bytes()
    file = tmp_path / "a.pth"
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for entry in old.infolist():
            with new.open(entry.filename, "w", force_zip64=True) as stream:
                stream.write(old.read(entry))
                for _ in range(1024 if entry.filename.endswith("/data/0") else 0):
                    stream.write(bytes(1 << 20))
    assert file.stat().st_size < 16 << 20
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), limits[1]))
    try:
        with pytest.raises(InputError, match="unpacks to 1[0-9]{9}; PyTorch packs"):
            open_file(file)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_lying_shapes_take_no_memory(pristine, tmp_path):
    """The pickle of a legacy file claims a storage of 2^28 numbers and has 64."""
    import torch

    file = tmp_path / "a.pth"
    storage = {"a": torch.full((77777,), 1.0)}
    torch.save(storage, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    number = (77777).to_bytes(4, "little")
    assert number in content
    file.write_bytes(content.replace(number, (1 << 28).to_bytes(4, "little")))
    with pytest.raises(InputError, match=r"claims \d+ bytes of tensors|damaged"):
        open_file(file)


def test_links_out_of_a_folder_are_refused_and_those_of_the_hub_followed(tmp_path):
    """The Hub's cache: snapshots/<hash>/<file> -> ../../blobs/<sha256>."""
    model = tmp_path / "models--a--b"
    snapshot, blobs = model / "snapshots" / "0f", model / "blobs"
    weights_samples.make("sharded", snapshot)
    shard = snapshot / f"{weights_samples.STEM}-0.safetensors"
    outside, blob = tmp_path / "outside.safetensors", blobs / "5a"
    shutil.move(shard, outside)
    shard.symlink_to(outside)
    options = convert.Options(hints=weights_samples.SOURCES["sharded"].hints)
    with pytest.raises(InputError, match=r"outside\.safetensors, outside of"):
        convert.convert([snapshot], tmp_path / "out", options)
    blobs.mkdir()
    with pytest.raises(InputError, match=r"outside\.safetensors, outside of"):
        convert.convert([snapshot], tmp_path / "out", options)
    shutil.move(outside, blob)
    shard.unlink()
    shard.symlink_to("../../blobs/5a")
    report = convert.convert([snapshot], tmp_path / "out", options)
    assert report["formats"] == ["diffusers unet"]


@pytest.mark.parametrize("name", ["../outside.safetensors", "absolute", "gone.st"])
def test_an_index_cannot_lead_out_of_its_folder(tmp_path, name):
    folder = tmp_path / "unet"
    weights_samples.make("sharded", folder)
    shard = f"{weights_samples.STEM}-1.safetensors"
    shutil.copy(folder / shard, tmp_path / "outside.safetensors")
    name = str(tmp_path / "outside.safetensors") if name == "absolute" else name
    index = folder / f"{weights_samples.STEM}.safetensors.index.json"
    index.write_text(index.read_text().replace(shard, name))
    with pytest.raises(InputError, match="outside of|lacks gone.st"):
        convert.load([folder], convert.Options())


def test_names_that_steer_a_terminal_are_refused(tmp_path):
    from safetensors.numpy import save_file

    array = weights_samples.np.ones(3, "float32")
    save_file({"a\n\x1b[31mb": array}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"has a tensor 'a\\n\\x1b\[31mb'"):
        open_file(tmp_path / "a.safetensors")


def test_entries_that_stand_elsewhere_are_refused(pristine, tmp_path):
    """torch follows the directory of a zip file, our reading the places in it."""
    whole = (pristine.source("dinov2.pth") / "a.pth").read_bytes()
    file = tmp_path / "a.pth"
    file.write_bytes(fuzz.ZIP["swapped entries"](fuzz.random.Random(0), whole))
    assert file.read_bytes() != whole
    with pytest.raises(InputError, match="has another offset"):
        open_file(file)


def test_repacked_zip_files_say_what_to_do(pristine, tmp_path):
    whole = (pristine.source("dinov2.pth") / "a.pth").read_bytes()
    file = tmp_path / "a.pth"
    file.write_bytes(fuzz.ZIP["repacked"](fuzz.random.Random(0), whole))
    with pytest.raises(InputError, match="another program packed the file"):
        open_file(file)
