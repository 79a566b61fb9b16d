"""PyTorch's own files (.bin .ckpt .pt .pth), opened without running what is in them.

They are pickles, and a pickle can run code. So they pass through ``torch.load(...,
weights_only=True)`` alone, which refuses everything but tensors and plain values, and
only their directory does: torch gives shapes and places, the bytes are read here, each
storage against the checksum of its zip entry. Files of before PyTorch 1.6 have neither
places nor checksums and are loaded whole.
"""

import dataclasses
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gendr_jax.errors import InputError, UsageError, listed
from gendr_jax.weights.foreign.tensors import OpenFile, Tensor, read_bytes

# Where training programs put the state dict, the better one first; then its average.
STATE_DICTS = (
    "state_dict",
    "params",
    "teacher",
    "model",
    "module",
    "model_state_dict",
    "net",
    "unet",
    "vae",
)
AVERAGES = (
    "state_dict_ema",
    "params_ema",
    "ema",
    "ema_state_dict",
    "model_ema",
    "ema_model",
    "model_ema_state_dict",
)
CHUNK = 1 << 24
# Classes that a file may name for the program that wrote it: each becomes an inert
# stand-in. What these modules offer is no record of a training run: it is refused.
NEVER = frozenset(
    "builtins __builtin__ os posix nt subprocess sys shutil runpy socket pickle code "
    "codeop ctypes importlib webbrowser operator functools pty platform".split()
)
MOST_STAND_INS = 64


class _Inert:
    """An object of another program's class: takes anything, keeps and does nothing."""

    def __new__(cls, *args: Any, **options: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def open_pickle(path: Path) -> OpenFile:
    """The directory of a pickled checkpoint, checked; no code in it can run.

    Raises:
        InputError: damaged, or in need of more than tensors and plain values.
        UsageError: PyTorch is not installed.
    """
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError:
        raise UsageError(
            f"{path} is a pickle, which PyTorch reads. "
            "pip install 'gendr_jax[convert]', or save it as safetensors."
        ) from None
    places = _zip_entries(path)
    try:
        # Fake tensors have shapes and no memory: a lying size allocates nothing.
        with FakeTensorMode():
            groups, others, metadata = _groups(_unpickled(path))
        fake = groups[_chosen(groups)]
        if places:
            checked: set[int] = set()
            opened = {
                key: {n: _tensor(path, n, t, places, checked) for n, t in group.items()}
                for key, group in groups.items()
                if _is_state(key, group, fake)
            }
        else:
            _bounded(path, groups)
            real, _, _ = _groups(_unpickled(path))
            opened = {
                key: dict(_loaded(group))
                for key, group in real.items()
                if _is_state(key, group, fake)
            }
        file = _directory(path, opened, metadata, groups)
        unnamed = (k for k in AVERAGES if f"tensors under {k}" in others)
        return dataclasses.replace(
            file,
            left_out=file.left_out | others,
            nameless_averages=next(unnamed, ""),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # torch, pickle and zip raise many types on damage
        raise _refused(path, error) from error


def _unpickled(path: Path) -> Any:
    """torch.load of tensors and plain values, with stand-ins for other classes."""
    import torch

    stand_ins: list[tuple[Any, str]] = []
    while True:
        try:
            with warnings.catch_warnings():
                # of pickle protocols that torch refuses
                warnings.simplefilter("ignore")
                with torch.serialization.safe_globals([*stand_ins]):
                    return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            name = _unknown_class(str(error))
            known = {said for _, said in stand_ins}
            if name is None or name in known or len(known) >= MOST_STAND_INS:
                raise
            stand_ins.append((type(name.rpartition(".")[2], (_Inert,), {}), name))


def _unknown_class(message: str) -> str | None:
    """The class that torch refused by name, where a stand-in for it may be made."""
    said = re.search(
        r"[Uu]nsupported (?:global|GLOBAL)[^\w]*(?:GLOBAL )?([\w.]+)", message
    )
    name = said.group(1).rstrip(".") if said else ""
    package = name.partition(".")[0]
    # torch's own functions rebuild tensors: one that is not allowed is a dtype or a
    # tensor that we could not read.
    if "." not in name or package in NEVER or name.startswith("torch._utils"):
        return None
    return name


def _is_state(key: str, group: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    return group is chosen or key in AVERAGES or key.startswith("state_dict") or not key


def _directory(
    path: Path,
    opened: dict[str, dict[str, Tensor]],
    metadata: dict[str, Any],
    groups: Mapping[str, Mapping[str, Any]],
) -> OpenFile:
    raw = _chosen(groups)
    averages = next((opened[k] for k in AVERAGES if k in opened), {})
    used = {raw, *opened}
    left_out = {
        f"tensors under {key[:40]}": len(group)
        for key, group in groups.items()
        if key not in used
    }
    return OpenFile(
        path,
        opened[raw],
        metadata,
        averages,
        averages_alone=raw in AVERAGES,
        groups=opened,
        left_out=left_out,
    )


def _chosen(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """The key of the state dict; averages only where nothing else is there."""
    order = [*STATE_DICTS, *AVERAGES]
    inner = [k for k in order if groups.get(k)]
    return inner[0] if inner else next(iter(groups))


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


def _groups(
    content: Any,
) -> tuple[dict[str, dict[str, Any]], dict[str, int], dict[str, Any]]:
    """({key: {name: tensor}}, {what: tensors in no such dict}, plain values).

    The key "" is the top of the file. Where no state dict is known by its key, the top
    has to be one.
    """
    import torch

    if not isinstance(content, Mapping):
        raise InputError(
            f"it holds a {type(content).__name__}, not a state dict. Save the model's "
            "state_dict()."
        )
    metadata = {k: v for k, v in content.items() if isinstance(v, PLAIN)}
    lists = {k: v for k, v in content.items() if _names(v)}
    groups: dict[str, dict[str, Any]] = {}
    others: dict[str, int] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and (found := _tensors(value)):
            groups[str(key)] = found
        elif not isinstance(value, torch.Tensor) and (count := _nested(value)):
            others[f"tensors under {key!s:.40}"] = count
    top = _tensors(content)
    known = [k for k in (*STATE_DICTS, *AVERAGES, *PARTS) if groups.get(k)]
    known = [k for k in known if isinstance(content[k], Mapping)]
    states = {k: content[k] for k in known} or {"": content}
    for state in states.values():
        strange = [
            k for k, v in state.items() if not isinstance(v, (torch.Tensor, *PLAIN))
        ]
        strange = [str(k) for k in strange if not _names(state[k])]
        if not _tensors(state) or (known and strange):
            raise InputError(
                f"no state dict: {len(_tensors(state))} tensors, and "
                f"{listed(strange) or 'nothing else'}. Save the model's state_dict()."
            )
    if not known:
        groups = {"": top, **groups}
    elif top:
        groups["the top"] = top
    return groups, others, metadata | lists


PLAIN = (int, float, str, bool, type(None))
PARTS = ("state_dict_unet", "state_dict_vae")  # of one file with adapters for both


def _names(value: Any) -> bool:
    """A list of words, such as the modules that adapters sit on."""
    return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)


def _tensors(value: Mapping[Any, Any]) -> dict[str, Any]:
    import torch

    return {str(k): v for k, v in value.items() if isinstance(v, torch.Tensor)}


def _nested(value: Any) -> int:
    """How many tensors are anywhere in a value, such as an optimizer's state."""
    import torch

    if isinstance(value, torch.Tensor):
        return 1
    if isinstance(value, Mapping):
        return sum(_nested(v) for v in value.values())
    return sum(_nested(v) for v in value) if isinstance(value, list | tuple) else 0


def _bounded(path: Path, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Before a file is loaded into memory: its tensors cannot be larger than itself."""
    fake = [t for group in groups.values() for t in group.values()]
    storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in fake}
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
    offset: int = getattr(storage, "_checkpoint_offset", -1)
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
        return np.dtype(getattr(ml_dtypes, name, name))
    except TypeError:
        raise InputError(
            f"dtype {name} is not supported. Save float32, float16 or bfloat16."
        ) from None
