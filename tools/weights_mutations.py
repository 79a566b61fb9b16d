"""Damaged weights sources for ``tools.fuzz weights``, and outcomes of converting them.

``case`` damages one file of a source of ``weights_samples.py``, ``attempt`` converts
and returns the outcome, ``Pristine`` compares it with that of the undamaged source.
"""

import dataclasses
import hashlib
import io
import json
import pickle
import random
import shutil
import traceback
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from gendr_jax.errors import GendrError
from gendr_jax.weights import convert
from tools.weights_samples import SOURCES, STEM, make

SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pth")

Damage = Callable[[random.Random, bytes], bytes]


def _head(data: bytes) -> int:
    """Where the data of a safetensors file begins; of other files a guess."""
    length = int.from_bytes(data[:8], "little")
    return 8 + length if length < len(data) else min(4096, len(data) // 2)


def _flip(rng: random.Random, data: bytes, start: int, stop: int) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 4))):
        changed[rng.randrange(start, max(stop, start + 1))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _zeroed(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(max(len(data) - 4096, 1))
    stop = min(start + 4096, len(data))
    return data[:start] + bytes(stop - start) + data[stop:]


def _nan(rng: random.Random, data: bytes) -> bytes:
    start = _head(data)
    at = start + 4 * rng.randrange((len(data) - start) // 4)
    return data[:at] + b"\0\0\xc0\x7f" + data[at + 4 :]


BYTES: dict[str, Damage] = {
    "flip head": lambda r, d: _flip(r, d, 0, _head(d)),
    "flip data": lambda r, d: _flip(r, d, _head(d), len(d)),
    "flip tail": lambda r, d: _flip(r, d, max(len(d) - 4096, 0), len(d)),
    "cut": lambda r, d: d[: r.randrange(len(d) + 1)],
    "cut one": lambda r, d: d[:-1],
    "zero 4 KiB": _zeroed,
    "append": lambda r, d: d + r.randbytes(r.randrange(1, 300)),
    "noise": lambda r, d: r.randbytes(min(len(d), 4096)),
    "noise head": lambda r, d: r.randbytes(64) + d[64:],
    "empty": lambda r, d: b"",
    "twice": lambda r, d: d + d,
}


def _entry(edit: Callable[[random.Random, dict, dict], object]) -> Damage:
    """Damage to a safetensors header: ``edit(rng, header, one entry)``."""

    def damage(rng: random.Random, data: bytes) -> bytes:
        start = _head(data)
        header = json.loads(data[8:start])
        names_ = [name for name in header if name != "__metadata__"]
        text = edit(rng, header, header[rng.choice(names_)])
        text = text if isinstance(text, str) else json.dumps(header)
        return len(text).to_bytes(8, "little") + text.encode() + data[start:]

    return damage


def _twice(rng: random.Random, header: dict, entry: dict) -> str:
    name = next(n for n in header if header[n] is entry)
    return json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}"


def _overlap(rng: random.Random, header: dict, entry: dict) -> None:
    entry["data_offsets"] = [0, entry["data_offsets"][1] - entry["data_offsets"][0]]


SHAPES = ([1 << 40], [1 << 62, 4], [-1, 4], [0], [], [2.5], "x", [[4]], None)
OFFSETS = ([0, 1 << 60], [-8, 8], [8, 0], [0], "x", None, [1 << 70, 1 << 71])
TYPES = ("F64", "I32", "F8_E4M3", "U16", "no\nsuch", "", 7, None, "BOOL")
HEADERS: dict[str, Damage] = {
    "shape": _entry(lambda r, h, e: e.update(shape=r.choice(SHAPES))),
    "offsets": _entry(lambda r, h, e: e.update(data_offsets=r.choice(OFFSETS))),
    "overlap": _entry(_overlap),
    "dtype": _entry(lambda r, h, e: e.update(dtype=r.choice(TYPES))),
    "twice in header": _entry(_twice),
    "no entry": _entry(lambda r, h, e: e.clear()),
    "more keys": _entry(lambda r, h, e: e.update(name="x")),
    "metadata": _entry(
        lambda r, h, e: h.update(__metadata__=r.choice((7, {"a": 7}, [], {"a": "b"})))
    ),
    "odd name": _entry(lambda r, h, e: h.update({"a\n\x1b[31m\u202eb": h.pop(max(h))})),
    "deep": _entry(lambda r, h, e: "[" * 100_000),
    "no object": _entry(lambda r, h, e: "[]"),
    "no tensors": _entry(lambda r, h, e: "{}"),
    "length": lambda r, d: (
        r.choice((1 << 63, 1 << 40, 0, 99_999_999)).to_bytes(8, "little") + d[8:]
    ),
    "NaN": _nan,
}


Edit = Callable[[random.Random, dict[str, bytes]], object]


def _rezip(edit: Edit, packed: bool = False) -> Damage:
    """Damage to a zip file's entries, which are then packed by Python's zipfile."""

    def damage(rng: random.Random, data: bytes) -> bytes:
        entries = _entries(data)
        edit(rng, entries)
        stream = io.BytesIO()
        kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        with zipfile.ZipFile(stream, "w", kind) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return stream.getvalue()

    return damage


def _reseal(edit: Edit) -> Damage:
    """Entries changed in place, with correct checksums."""

    def damage(rng: random.Random, data: bytes) -> bytes:
        before, after = _entries(data), _entries(data)
        edit(rng, after)
        for name, original in before.items():
            changed = after[name].ljust(len(original), b"\0")
            data = data.replace(original, changed, 1) if original != changed else data
            crcs = (
                zlib.crc32(content).to_bytes(4, "little")
                for content in (original, changed)
            )
            data = data.replace(*crcs) if original != changed else data
        return data

    return damage


def _entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {e.filename: archive.read(e) for e in archive.infolist()}


def _pickled(entries: dict[str, bytes]) -> str:
    return next(name for name in entries if name.endswith("/data.pkl"))


def _forge(rng: random.Random, entries: dict[str, bytes]) -> None:
    name = _pickled(entries)
    entries[name] = _flip(rng, entries[name], 0, len(entries[name]))


def _random_storage(rng: random.Random, entries: dict[str, bytes]) -> str:
    return rng.choice([name for name in entries if "/data/" in name])


def _swapped(rng: random.Random, data: bytes) -> bytes:
    """Two names in the zip directory exchanged: each now has the other's data."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = [e for e in archive.infolist() if "/data/" in e.filename]
        directory = archive.start_dir
    entry = rng.choice(infos)
    same = [
        e
        for e in infos
        if e.file_size == entry.file_size and len(e.filename) == len(entry.filename)
        if e is not entry
    ] or [entry]
    a, b = entry.filename.encode(), rng.choice(same).filename.encode()
    i, j = data.index(a + b"PK", directory), data.index(b + b"PK", directory)
    changed = bytearray(data)
    changed[i : i + len(a)], changed[j : j + len(b)] = b, a
    return bytes(changed)


def _claimed(rng: random.Random, data: bytes) -> bytes:
    """False sizes in the zip directory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at = archive.start_dir
    size = rng.choice((0, 1, 1 << 20, 0xFFFFFFFF)).to_bytes(4, "little")
    offset = at + rng.choice((20, 24))
    return data[:offset] + size + data[offset + 4 :]


class _Runs:
    """An object whose unpickling runs code."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code of a pickle ran')",)


def _code(rng: random.Random, entries: dict[str, bytes]) -> None:
    entries[_pickled(entries)] = pickle.dumps({"a": _Runs()}, protocol=2)


ZIP: dict[str, Damage] = {
    "forged pickle": _reseal(_forge),
    "code": _reseal(_code),
    "repacked": _rezip(lambda r, e: None),
    "cut storage": _rezip(lambda r, e: e.update({_random_storage(r, e): b"\0" * 4})),
    "lost storage": _rezip(lambda r, e: e.pop(_random_storage(r, e))),
    "lost pickle": _rezip(lambda r, e: e.pop(_pickled(e))),
    "packed": _rezip(lambda r, e: None, packed=True),
    "bomb": _rezip(
        lambda r, e: e.update({_random_storage(r, e): bytes(1 << 26)}), packed=True
    ),
    "NaN storage": _reseal(lambda r, e: _spoil(e, _random_storage(r, e))),
    "swapped entries": _swapped,
    "claimed sizes": _claimed,
}


def _spoil(entries: dict[str, bytes], name: str) -> None:
    entries[name] = entries[name][:-4] + b"\0\0\xc0\x7f"


WILD = (
    *(None, True, 0, -1, 7, 10**9, 10**30, 1e-300, 1e300, float("nan"), float("inf")),
    *("", "x\n\x1b[2J", "../x", [], [0], [10**9] * 4, [[8]], [None, 8], {}, {"a": [1]}),
    *([8] * 3000, "A" * 100_000, "(a+)+$", {"(a+)+$": 4}, "../../../etc/passwd"),
)


def _json(edit: Callable[[random.Random, dict], object]) -> Damage:
    def damage(rng: random.Random, data: bytes) -> bytes:
        content = json.loads(data)
        edit(rng, content)
        return json.dumps(content).encode()

    return damage


def _inner(rng: random.Random, content: dict) -> dict:
    """One of the objects in a JSON object, itself included."""
    objects = [content]
    for json_object in objects:
        objects += [v for v in json_object.values() if isinstance(v, dict) and v]
    return rng.choice(objects)


def _wild(rng: random.Random, content: dict) -> None:
    inner = _inner(rng, content)
    inner[rng.choice(list(inner))] = rng.choice(WILD)


def _lose(rng: random.Random, content: dict) -> None:
    inner = _inner(rng, content)
    del inner[rng.choice(list(inner))]


JSON: dict[str, Damage] = {
    "wild value": _json(_wild),
    "wild value ": _json(_wild),  # twice as often as the others
    "wild value  ": _json(_wild),
    "no key": _json(_lose),
    "new key": _json(lambda r, c: _inner(r, c).update(rank_pattern=r.choice(WILD))),
    "deep JSON": lambda r, d: b"[" * 100_000,
    "number of 5000 digits": lambda r, d: b'{"a": ' + b"9" * 5000 + b"}",
    "no UTF-8": lambda r, d: b"\xff" + d,
    "a list": lambda r, d: b"[]",
}


def damages(file: Path) -> dict[str, Damage]:
    """The kinds of damage that apply to a file, by name."""
    if file.suffix == ".json":
        return JSON | {n: BYTES[n] for n in ("flip head", "cut", "empty", "noise")}
    if file.suffix == ".safetensors":
        return BYTES | HEADERS
    return BYTES | (ZIP if zipfile.is_zipfile(file) else {})


@dataclasses.dataclass(frozen=True)
class Case:
    """One damaged source: its format, the file, the damage, whether it hit weights."""

    source: str
    file: str
    damage: str
    weights: bool
    excused: bool  # no checksum covers it, so that --sha256 alone can see it


def case(number: int, seed: int, pristine: "Pristine", folder: Path) -> Case:
    """Copy a source to ``folder`` and damage one file of it."""
    rng = random.Random(f"{seed} {number}")
    name = list(SOURCES)[number % len(SOURCES)]
    shutil.copytree(pristine.source(name), folder)
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.suffix != ".md"]
    weights = [f for f in files if f.suffix != ".json"]
    texts = [f for f in files if f.suffix == ".json"]
    file = rng.choice(texts if texts and rng.random() < 0.35 else weights)
    applicable = damages(file)
    if file in weights and name in ("diffusers", "sharded"):
        applicable = applicable | dict.fromkeys(("link outside", "no file"))
    if file.name.endswith("index.json"):
        applicable = applicable | dict.fromkeys(("../", "absolute", "absent shard"))
    damage = rng.choice(list(applicable))
    before = file.read_bytes()
    if applicable[damage] is None:
        _paths(damage, file, folder)
    else:
        file.write_bytes(applicable[damage](rng, before))
    after = file.read_bytes() if file.is_file() else b""
    return Case(
        name,
        str(file.relative_to(folder)),
        damage.strip(),
        file in weights and after != before,
        _excused(name, file, damage, before, after),
    )


def _paths(damage: str, file: Path, folder: Path) -> None:
    outside = folder.with_name(f"{folder.name}.outside.safetensors")
    if damage == "no file":
        file.unlink()
    elif damage == "link outside":
        file.rename(outside)
        file.symlink_to(outside)
    else:
        shard = folder / f"{STEM}-0.safetensors"
        shard.rename(outside)
        replacement = {"../": f"../{outside.name}", "absolute": str(outside)}
        text = file.read_text().replace(shard.name, replacement.get(damage, shard.name))
        file.write_text(text)


def _excused(name: str, file: Path, damage: str, before: bytes, after: bytes) -> bool:
    """Whether no checksum covers the data: safetensors, pickles older than 1.6, and zip
    files whose checksums were computed again."""
    if file.suffix == ".safetensors":
        start = _head(before)
        return len(after) == len(before) and after[:start] == before[:start]
    return name == "legacy.pth" or damage == "forged pickle"


# --- outcomes ---


_OURS = "gendr_jax/"


def hashes(folder: Path) -> tuple[str, ...]:
    """sha256 of every weights file below a folder."""
    files = [f for f in folder.rglob("*") if f.suffix in SUFFIXES]
    return tuple(hashlib.sha256(f.read_bytes()).hexdigest() for f in files)


def attempt(
    name: str, folder: Path, output: Path, sha256: tuple[str, ...] = ()
) -> tuple[str, str]:
    """Convert a source: ("refused", why), ("converted", digests), or the fault."""
    source = SOURCES[name]
    options = convert.Options(sha256=sha256, hints=source.hints)
    shutil.rmtree(output, ignore_errors=True)
    try:
        convert.convert([folder / p for p in source.paths], output, options)
    except GendrError as error:
        if output.exists() or "\n" in str(error):
            return "traceback", f"output left, or lines: {str(error)[:300]!r}"
        return "refused", str(error)
    except MemoryError as error:
        return "memory", str(error)
    except BaseException as error:
        ours = [f for f in traceback.extract_tb(error.__traceback__) if _OURS in f[0]]
        position = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return "traceback", f"{position} {type(error).__name__}: {str(error)[:200]}"
    manifest = json.loads((output / "gendr.json").read_text())
    digests = {name: c["sha256"] for name, c in manifest["components"].items()}
    return "converted", json.dumps(digests, sort_keys=True)


Attempt = Callable[..., tuple[str, str]]


class Pristine:
    """The undamaged sources, made and converted lazily.

    ``run`` is ``attempt``, in this process or another one.
    """

    def __init__(self, home: Path, run: Attempt):
        self.folder, self.output, self.run = home / "whole", home / "out", run
        self.digests: dict[str, str] = {}

    def source(self, name: str) -> Path:
        folder = self.folder / name
        if not folder.exists():
            make(name, folder)
        return folder

    def digest(self, name: str) -> str:
        if name not in self.digests:
            folder = self.source(name)
            kind, text = self.run(name, folder, self.output, hashes(folder))
            assert kind == "converted", text
            self.digests[name] = text
        return self.digests[name]

    def judge(self, case: Case, folder: Path) -> tuple[str, bool, str]:
        """(outcome, whether --sha256 let damaged weights pass, message)."""
        kind, text = self.run(case.source, folder, self.output)
        if kind != "converted":
            return kind, False, text
        passed, known = False, hashes(self.source(case.source))
        if case.weights and known:
            again = self.run(case.source, folder, self.output, known)
            passed = again[0] != "refused"
        if text == self.digest(case.source):
            return "identical", passed, text
        return "unseen" if case.excused else "silent", passed, text
