"""The test sets of the field: where their pictures are, how many, and their checksums.

A figure can be compared with a published one on the same bytes alone. Sets that can
be had from a public git repository are checked file by file against sets/NAME.sha256,
in the form of `sha256sum -c`, with LR/ and HR/ for the folders. Of the others no
checksum is known to us, and the number of pictures is all that is checked.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gendr_jax import picture_walk
from gendr_jax.errors import UsageError
from gendr_jax.image_io import PICTURE_SUFFIXES

SHOWN = 5  # names in a message


@dataclass(frozen=True)
class TestSet:
    """One line of the table.

    Attributes:
        name: as on the command line, in any case.
        pictures: how many, in each folder.
        truth: whether there are ground truths.
        folders: names that the set's folder has where it comes from; one of them may
            lie in --root, or --root be the folder.
        sha256: of the file sets/NAME.sha256; None: unknown.
        about: the pictures.
        source: where people get them.
    """

    __test__ = False  # for pytest, which collects classes of such names

    name: str
    pictures: int
    truth: bool
    folders: tuple[str, ...]
    sha256: str | None
    about: str
    source: str


ARCHIVE = "StableSR_testsets"  # what the data set of StableSR unpacks to
STABLESR = "the data set Iceclear/StableSR-TestSets on Hugging Face"
TEST_SETS = (
    TestSet(
        "RealSR",
        100,
        True,
        ("RealSRVal_crop128", "benchmark_realsr", "RealSR"),
        "704a0daf993410ab1ec74412d0309aae3597bb6e4fd0fd498936df05d763524d",
        "centre crops, 128x128 to 512x512",
        f"{STABLESR}, or preset/datasets/benchmark_realsr of github.com/cswry/OSEDiff",
    ),
    TestSet(
        "DRealSR",
        93,
        True,
        ("DrealSRVal_crop128", "benchmark_drealsr", "DRealSR", "DrealSR"),
        "c8dfc49fcb0729404609a32fcdb5abf84ecd824bb4b499ad2c5ee7058c70fde7",
        "centre crops, 128x128 to 512x512",
        f"{STABLESR}, or preset/datasets/benchmark_drealsr of github.com/cswry/OSEDiff",
    ),
    TestSet(
        "RealSet80",
        80,
        False,
        ("RealSet80",),
        "76273b849755134c8106375bd445cf0374158e2f01e1f9a08581aaf6f91ec629",
        "real pictures of many sizes, no truths",
        "testdata/RealSet80 of github.com/zsyOAOA/InvSR",
    ),
    TestSet(
        "RealLR200",
        200,
        False,
        ("RealLR200",),
        None,
        "real pictures of many sizes, no truths",
        "the links in the README of github.com/cswry/SeeSR",
    ),
    TestSet(
        "ImageNet-Test",
        3000,
        True,
        ("ImageNet-Test",),
        None,
        "degraded by Real-ESRGAN, x4; papers differ in the size of the crops",
        "the links in the READMEs of github.com/zsyOAOA/InvSR and ResShift",
    ),
    TestSet(
        "DIV2K-val",
        3000,
        True,
        ("DIV2K_V2_val", "DIV2K-val"),
        None,
        "crops degraded by Real-ESRGAN, 128x128 to 512x512",
        STABLESR,
    ),
)
LAYOUTS = (("test_LR", "test_HR"), ("LR", "HR"), ("lq", "gt"), ("test_LR", "gt"))


@dataclass(frozen=True)
class TestSetFolders:
    """The folders of a set, checked; `gt` is None where it has no truths."""

    test_set: TestSet
    lr: Path
    gt: Path | None
    verified: bool


def find(name: str) -> TestSet:
    """The set of that name.

    Raises:
        UsageError: there is none.
    """
    for test_set in TEST_SETS:
        if test_set.name.casefold() == name.casefold():
            return test_set
    known = ", ".join(test_set.name for test_set in TEST_SETS)
    raise UsageError(f"--set {name} is unknown, there are {known}. Choose one.")


def locate(name: str, root: Path) -> TestSetFolders:
    """Find and check the set below `root`.

    Raises:
        UsageError: no such set, no such folder, missing, changed or surplus pictures.
    """
    test_set = find(name)
    lr, gt = _folders(test_set, root)
    kinds = {"LR": lr} | ({"HR": gt} if gt else {})
    present = {kind: _pictures(folder) for kind, folder in kinds.items()}
    if test_set.sha256:
        _check_sums(test_set, present, kinds)
    for kind, found in present.items():
        if len(found) != test_set.pictures:
            raise UsageError(
                f"{kinds[kind]} has {len(found)} pictures, {test_set.name} has "
                f"{test_set.pictures}. Get it from {test_set.source}."
            )
    return TestSetFolders(test_set, lr, gt, test_set.sha256 is not None)


def checksums(test_set: TestSet) -> dict[str, str]:
    """{"LR/name": sha256} of a set whose checksums are known."""
    assert test_set.sha256
    file = resources.files("gendr_jax.evaluate") / "sets"
    text = (file / f"{test_set.name.lower()}.sha256").read_text(encoding="utf-8")
    lines = (line.split("  ", 1) for line in text.splitlines())
    return {name: digest for digest, name in lines}


def _folders(test_set: TestSet, root: Path) -> tuple[Path, Path | None]:
    if not root.is_dir():
        raise UsageError(f"--root {root} is no folder. Name that of {test_set.name}.")
    inside = [root / name for name in test_set.folders]
    places = [root, *inside, root / ARCHIVE / test_set.folders[0]]
    for place in places:
        for low, high in LAYOUTS:
            lr, gt = place / low, place / high
            if lr.is_dir() and (gt.is_dir() or not test_set.truth):
                return lr, gt if test_set.truth else None
    if not test_set.truth:
        for place in reversed(places):
            if place.is_dir() and _pictures(place):
                return place, None
    layout = " or ".join(f"{low}/ and {high}/" for low, high in LAYOUTS[:3])
    wanted = layout if test_set.truth else "pictures"
    raise UsageError(
        f"{root} does not hold {test_set.name}: there must be {wanted}, in it or in "
        f"its folder {test_set.folders[0]}. Get it from {test_set.source}."
    )


def _pictures(folder: Path) -> dict[str, Path]:
    found = picture_walk.walk(folder, PICTURE_SUFFIXES, recursive=False)
    return {name: folder / name for name in found.names}


def _check_sums(
    test_set: TestSet, present: dict[str, dict[str, Path]], kinds: dict[str, Path]
) -> None:
    wanted = checksums(test_set)
    have = {
        f"{k}/{name}": p for k, found in present.items() for name, p in found.items()
    }
    with ThreadPoolExecutor(4) as pool:
        digests = dict(zip(have, pool.map(_digest, have.values()), strict=True))
    wrong = {
        "lacks": [name for name in wanted if name not in have],
        "has more than the set:": [name for name in have if name not in wanted],
        "has other bytes in": [
            name
            for name, digest in digests.items()
            if wanted.get(name, digest) != digest
        ],
    }
    said = [f"{what} {_shown(names)}" for what, names in wrong.items() if names]
    if said:
        where = " and ".join(f"{folder} ({kind})" for kind, folder in kinds.items())
        raise UsageError(
            f"{where} is not {test_set.name}, it {'; '.join(said)}. Get it from "
            f"{test_set.source}; or name the folders with --lr and --gt, unchecked."
        )


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
