"""PyTorch's own files (.bin .ckpt .pt .pth), opened without running code in them.

They are pickles, and a pickle can run code. They are only opened by ``torch.load(...,
weights_only=True)``, which refuses everything but tensors and plain values, and with
fake tensors: torch gives shapes and offsets, the bytes are read here, each storage
checked against the CRC of its zip entry. Files older than PyTorch 1.6 have neither
offsets nor checksums and are loaded into memory.
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

# Keys under which training programs save the state dict, preferred ones first; and
# those of its averages.
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
# A checkpoint may name classes of the program that wrote it: each is replaced by an
# inert class. Names in these modules, which can run code, are refused instead.
NEVER = frozenset(
    "builtins __builtin__ os posix nt subprocess sys shutil runpy socket pickle code "
    "codeop ctypes importlib webbrowser operator functools pty platform".split()
)
MAX_INERT_CLASSES = 64


class _Inert:
    """In place of an object of another program's class: accepts all, does nothing."""

    def __new__(cls, *args: Any, **options: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def open_pickle(path: Path) -> OpenFile:
    """The tensors of a pickled checkpoint, not read yet; no code in it can run.

    Raises:
        InputError: damaged, or it needs more than tensors and plain values.
        UsageError: PyTorch is not installed.
    """
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError:
        raise UsageError(
            f"{path} is a pickle, which PyTorch reads. "
            "pip install 'gendr_jax[convert]', or save it as safetensors."
        ) from None
    entries = _zip_entries(path)
    try:
        # Fake tensors have no memory: a forged size allocates nothing.
        with FakeTensorMode():
            groups, unnamed_tensors, metadata = _groups(_unpickled(path))
        state_dict = groups[_chosen(groups)]
        if entries:
            checked: set[int] = set()
            opened = {
                key: {
                    n: _tensor(path, n, t, entries, checked) for n, t in group.items()
                }
                for key, group in groups.items()
                if _is_state(key, group, state_dict)
            }
        else:
            _check_claimed_size(path, groups)
            loaded_groups, _, _ = _groups(_unpickled(path))
            opened = {
                key: dict(_loaded(group))
                for key, group in loaded_groups.items()
                if _is_state(key, group, state_dict)
            }
        file = _directory(path, opened, metadata, groups)
        nameless = (k for k in AVERAGES if f"tensors under {k}" in unnamed_tensors)
        return dataclasses.replace(
            file,
            left_out=file.left_out | unnamed_tensors,
            nameless_averages=next(nameless, ""),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # torch, pickle and zip raise many types on damage
        raise _refused(path, error) from error


def _unpickled(path: Path) -> Any:
    """torch.load of tensors and plain values, with inert classes for all others."""
    import torch

    # torch names one refused class at a time: allow an inert one for it and try again.
    inert_classes: list[tuple[Any, str]] = []
    while True:
        try:
            with warnings.catch_warnings():
                # about pickle protocols that torch refuses
                warnings.simplefilter("ignore")
                with torch.serialization.safe_globals([*inert_classes]):
                    return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            name = _unknown_class(str(error))
            replaced = {refused_name for _, refused_name in inert_classes}
            if name is None or name in replaced or len(replaced) >= MAX_INERT_CLASSES:
                raise
            inert_classes.append((type(name.rpartition(".")[2], (_Inert,), {}), name))


def _unknown_class(message: str) -> str | None:
    """The class that torch refused, if it may be replaced by an inert one."""
    match = re.search(
        r"[Uu]nsupported (?:global|GLOBAL)[^\w]*(?:GLOBAL )?([\w.]+)", message
    )
    name = match.group(1).rstrip(".") if match else ""
    package = name.partition(".")[0]
    # torch's own functions rebuild tensors: one that torch does not allow makes a dtype
    # or a kind of tensor that we cannot read.
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
    opened_keys = {raw, *opened}
    left_out = {
        f"tensors under {key[:40]}": len(group)
        for key, group in groups.items()
        if key not in opened_keys
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
    """The key of the state dict; one of averages only where there is no other."""
    order = [*STATE_DICTS, *AVERAGES]
    present = [k for k in order if groups.get(k)]
    return present[0] if present else next(iter(groups))


def _refused(path: Path, error: Exception) -> InputError:
    text = " ".join(str(error).split())
    # Keep torch's reason, without its advice to load with weights_only=False.
    start = text.lower().find("unsupported ")
    if start >= 0:
        reason = text[start:].partition(" was not an allowed")[0]
        reason = reason.partition(" Check the documentation")[0].rstrip(".")[:200]
        return InputError(
            f"{path} needs more than tensors and plain values ({reason}), which could "
            "run code: it is not loaded. Save its state dict as safetensors where you "
            "trust it."
        )
    text = text.partition("trusted source. ")[2] or text
    return InputError(f"{path} is damaged ({text[:200]}). Download it again.")


def _zip_entries(path: Path) -> dict[int, tuple[int, int]]:
    """{offset of the bytes: (size, CRC-32)} of a zip file's entries; {} if it is none.

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
        entries = {}
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            infos = archive.infolist()
            compressed = [e for e in infos if e.compress_type != zipfile.ZIP_STORED]
            if compressed or sum(e.file_size for e in infos) > size:
                raise InputError(
                    f"{path} is {size} bytes and unpacks to "
                    f"{sum(e.file_size for e in infos)}; PyTorch packs nothing. "
                    "Do not trust it."
                )
            for entry in infos:
                file.seek(entry.header_offset)
                local_header = file.read(30)
                lengths = (
                    int.from_bytes(local_header[i : i + 2], "little") for i in (26, 28)
                )
                name, extra = lengths
                start = entry.header_offset + 30 + name + extra
                # torch reads by the central directory, we by the local headers: where
                # they differ, two programs would read different bytes.
                if file.read(name) != entry.orig_filename.encode():
                    raise zipfile.BadZipFile(f"{entry.filename} has another offset")
                entries[start] = (entry.file_size, entry.CRC)
        return entries
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}). Download it again.") from error


def _groups(
    content: Any,
) -> tuple[dict[str, dict[str, Any]], dict[str, int], dict[str, Any]]:
    """({key: {name: tensor}}, {description: tensors in no such dict}, plain values).

    The key "" is the top level of the file, which must be a state dict itself where no
    key is a known one.
    """
    import torch

    if not isinstance(content, Mapping):
        raise InputError(
            f"it holds a {type(content).__name__}, not a state dict. Save the model's "
            "state_dict()."
        )
    metadata = {k: v for k, v in content.items() if isinstance(v, PLAIN)}
    lists = {k: v for k, v in content.items() if _is_list_of_names(v)}
    groups: dict[str, dict[str, Any]] = {}
    unnamed_tensors: dict[str, int] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and (tensors := _tensors(value)):
            groups[str(key)] = tensors
        elif not isinstance(value, torch.Tensor) and (count := _count_nested(value)):
            unnamed_tensors[f"tensors under {key!s:.40}"] = count
    top_level = _tensors(content)
    known_keys = [k for k in (*STATE_DICTS, *AVERAGES, *NETWORK_KEYS) if groups.get(k)]
    known_keys = [k for k in known_keys if isinstance(content[k], Mapping)]
    states = {k: content[k] for k in known_keys} or {"": content}
    for state in states.values():
        not_tensors = [
            k for k, v in state.items() if not isinstance(v, (torch.Tensor, *PLAIN))
        ]
        not_tensors = [str(k) for k in not_tensors if not _is_list_of_names(state[k])]
        if not _tensors(state) or (known_keys and not_tensors):
            raise InputError(
                f"no state dict: {len(_tensors(state))} tensors, and "
                f"{listed(not_tensors) or 'nothing else'}. Save the model's "
                "state_dict()."
            )
    if not known_keys:
        groups = {"": top_level, **groups}
    elif top_level:
        groups["the top"] = top_level
    return groups, unnamed_tensors, metadata | lists


PLAIN = (int, float, str, bool, type(None))
# Keys of a file with adapters of both networks (adapters/osediff.py).
NETWORK_KEYS = ("state_dict_unet", "state_dict_vae")


def _is_list_of_names(value: Any) -> bool:
    """Whether it is a list of strings, such as the names of adapted modules."""
    return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)


def _tensors(value: Mapping[Any, Any]) -> dict[str, Any]:
    import torch

    return {str(k): v for k, v in value.items() if isinstance(v, torch.Tensor)}


def _count_nested(value: Any) -> int:
    """The number of tensors in a nested value, such as an optimizer's state."""
    import torch

    if isinstance(value, torch.Tensor):
        return 1
    if isinstance(value, Mapping):
        return sum(_count_nested(v) for v in value.values())
    return (
        sum(_count_nested(v) for v in value) if isinstance(value, list | tuple) else 0
    )


def _check_claimed_size(path: Path, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse tensors larger than their file, before it is loaded into memory."""
    tensors = [t for group in groups.values() for t in group.values()]
    storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}
    claimed, size = sum(s.nbytes() for s in storages.values()), path.stat().st_size
    if claimed > size:
        raise InputError(
            f"it is {size} bytes and claims {claimed} bytes of tensors. "
            "Download it again."
        )


def _loaded(group: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    import torch

    for name, tensor in group.items():

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
    entries: Mapping[int, tuple[int, int]],
    checked_offsets: set[int],
) -> Tensor:
    """A lazy tensor in a zip file; storages in ``checked_offsets`` passed their CRC."""
    dtype, storage = _dtype(fake), fake.untyped_storage()
    offset: int = getattr(storage, "_checkpoint_offset", -1)
    size, crc = entries.get(offset, (-1, 0))
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
        if offset not in checked_offsets:
            _check_crc(path, name, offset, size, crc)
            checked_offsets.add(offset)
        if 0 in shape:
            return np.empty(shape, dtype)
        start = offset + first * dtype.itemsize
        if fake.is_contiguous():
            return read_bytes(path, start, dtype, shape)
        flat = read_bytes(path, start, dtype, (last - first + 1,))
        # A transposed or sliced tensor: read its span, then view it with its strides.
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
