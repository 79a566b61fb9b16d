"""PyTorch's own files (.bin .ckpt .pt .pth), opened without running what is in them.

They are pickles, and a pickle can run code. So they pass through ``torch.load(...,
weights_only=True)`` alone, which refuses everything but tensors and plain values, and
only their directory does: torch gives shapes and places, the bytes are read here, each
storage against the checksum of its zip entry. Files of before PyTorch 1.6 have neither
places nor checksums and are loaded whole.
"""

import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gendr_jax.errors import InputError, UsageError
from gendr_jax.weights.foreign.tensors import OpenFile, Tensor, read_bytes

# Where training programs put the state dict, the better one first.
STATE_DICTS = ("state_dict", "params_ema", "params", "teacher", "model", "module")
CHUNK = 1 << 24


def open_pickle(path: Path) -> OpenFile:
    """The directory of a pickled checkpoint, checked; no code in it can run.

    Raises:
        InputError: damaged, or in need of more than tensors and plain values.
        UsageError: PyTorch is not installed.
    """
    try:
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError:
        raise UsageError(
            f"{path} is a pickle, which PyTorch reads. "
            "pip install 'gendr_jax[convert]', or save it as safetensors."
        ) from None
    places = _zip_entries(path)
    try:
        # Fake tensors have shapes and no memory: a lying size allocates nothing.
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that torch refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
        fake, metadata = _state_dict(content)
        if not places:
            _bounded(path, fake)
            content = torch.load(path, map_location="cpu", weights_only=True)
            real, _ = _state_dict(content)
            return OpenFile(path, dict(_loaded(real)), metadata)
        checked: set[int] = set()
        tensors = {n: _tensor(path, n, t, places, checked) for n, t in fake.items()}
        return OpenFile(path, tensors, metadata)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # torch, pickle and zip raise many types on damage
        raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> InputError:
    text = " ".join(str(error).split())
    # torch's advice, to trust the file, is not ours; its reason is.
    at = text.lower().find("unsupported ")
    if at >= 0:
        reason = text[at:].partition(" was not an allowed")[0]
        reason = reason.partition(" Check the documentation")[0].rstrip(".")[:200]
        return InputError(
            f"{path} needs more than tensors and plain values ({reason}), which could "
            "run code: it is not loaded. Save its state dict as safetensors where you "
            "trust it."
        )
    text = text.partition("trusted source. ")[2] or text
    return InputError(f"{path} is damaged ({text[:200]}). Download it again.")


def _zip_entries(path: Path) -> dict[int, tuple[int, int]]:
    """{place of the bytes: (size, CRC-32)} of a zip file's entries; {} for none.

    Raises:
        InputError: compressed entries, sizes beyond the file's, a damaged directory.
    """
    try:
        size = path.stat().st_size
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                if file.read(4) == b"PK\x03\x04":
                    raise InputError(f"{path} is a cut zip file. Download it again.")
            return {}
        places = {}
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            entries = archive.infolist()
            packed = [e for e in entries if e.compress_type != zipfile.ZIP_STORED]
            if packed or sum(e.file_size for e in entries) > size:
                raise InputError(
                    f"{path} is {size} bytes and unpacks to "
                    f"{sum(e.file_size for e in entries)}; PyTorch packs nothing. "
                    "Do not trust it."
                )
            for entry in entries:
                file.seek(entry.header_offset)
                head = file.read(30)
                lengths = (int.from_bytes(head[i : i + 2], "little") for i in (26, 28))
                name, extra = lengths
                start = entry.header_offset + 30 + name + extra
                # torch goes by the directory, the offsets below by what stands there.
                if file.read(name) != entry.orig_filename.encode():
                    raise zipfile.BadZipFile(f"{entry.filename} is not at its place")
                places[start] = (entry.file_size, entry.CRC)
        return places
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}). Download it again.") from error


def _state_dict(content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """({name: tensor}, plain values beside it) of what a file holds."""
    import torch

    def tensors(value: Any) -> dict[str, Any]:
        named = value.items() if isinstance(value, Mapping) else ()
        return {str(k): v for k, v in named if isinstance(v, torch.Tensor)}

    if not isinstance(content, Mapping):
        raise InputError(
            f"it holds a {type(content).__name__}, not a state dict. Save the model's "
            "state_dict()."
        )
    plain = {k: v for k, v in content.items() if isinstance(v, int | float | str)}
    inner = [k for k in STATE_DICTS if tensors(content.get(k))]
    chosen = content[inner[0]] if inner else content
    found = tensors(chosen)
    strange = [k for k, v in chosen.items() if not isinstance(v, torch.Tensor)]
    strange = [k for k in strange if not isinstance(chosen[k], int | float | str)]
    if not found or (inner and strange):
        raise InputError(
            f"no state dict: {len(found)} tensors, and {strange[:5]} are none. Save "
            "the model's state_dict()."
        )
    return found, plain


def _bounded(path: Path, fake: Mapping[str, Any]) -> None:
    """Before a file is loaded whole: its tensors cannot be larger than itself."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in fake.values()}
    claimed, size = sum(s.nbytes() for s in storages.values()), path.stat().st_size
    if claimed > size:
        raise InputError(
            f"it is {size} bytes and claims {claimed} bytes of tensors. "
            "Download it again."
        )


def _loaded(real: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    import torch

    for name, tensor in real.items():

        def read(tensor: Any = tensor) -> np.ndarray:
            tensor = tensor.detach().contiguous()
            if tensor.dtype == torch.bfloat16:
                return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
            return tensor.numpy().copy()

        yield name, Tensor(name, _dtype(tensor), tuple(tensor.shape), read)


def _tensor(
    path: Path,
    name: str,
    fake: Any,
    places: Mapping[int, tuple[int, int]],
    checked: set[int],
) -> Tensor:
    """A lazy tensor at its place in the zip file; ``checked``: storages seen whole."""
    dtype, storage = _dtype(fake), fake.untyped_storage()
    offset = getattr(storage, "_checkpoint_offset", None)
    size, crc = places.get(offset, (-1, 0))
    shape, strides = tuple(fake.shape), fake.stride()
    first = fake.storage_offset()
    last = first + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if size < 0:
        raise InputError(
            f"{path}: {name} is not where torch.save puts it; another program packed "
            "the file. Load it and save it again with PyTorch."
        )
    if size != storage.nbytes() or (last + 1) * dtype.itemsize > size:
        raise InputError(
            f"{name} lies outside its storage of {size} bytes. Download it again."
        )

    def read() -> np.ndarray:
        if offset not in checked:
            _check_crc(path, name, offset, size, crc)
            checked.add(offset)
        if 0 in shape:
            return np.empty(shape, dtype)
        start = offset + first * dtype.itemsize
        if fake.is_contiguous():
            return read_bytes(path, start, dtype, shape)
        flat = read_bytes(path, start, dtype, (last - first + 1,))
        steps = [s * dtype.itemsize for s in strides]
        view = np.lib.stride_tricks.as_strided(flat, shape, steps)
        return np.ascontiguousarray(view)

    return Tensor(name, dtype, shape, read)


def _check_crc(path: Path, name: str, offset: int, size: int, crc: int) -> None:
    actual = 0
    with path.open("rb") as file:
        file.seek(offset)
        for start in range(0, size, CHUNK):
            actual = zlib.crc32(file.read(min(CHUNK, size - start)), actual)
    if actual != crc:
        raise InputError(
            f"{path}: {name} has checksum {actual:08x}, the file says {crc:08x}: it "
            "is damaged. Download it again."
        )


def _dtype(tensor: Any) -> np.dtype:
    name = str(tensor.dtype).removeprefix("torch.")
    try:
        return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    except TypeError:
        raise InputError(
            f"dtype {name} is not supported. Save float32, float16 or bfloat16."
        ) from None
