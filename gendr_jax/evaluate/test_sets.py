"""Published test sets: their folders, numbers of pictures and checksums.

Figures are comparable with published ones only for the same bytes. Sets in public git
repositories are checked file by file against sets/NAME.sha256, in the format of
`sha256sum -c`, with LR/ and HR/ as folders. For the others no checksums are known, and
only the number of pictures is checked.
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
    """One test set.

    Attributes:
        name: as on the command line, in any case.
        pictures: how many, in each folder.
        truth: whether there are ground truths.
        folders: published names of the set's folder, which may be in --root, or be
            --root itself.
        sha256: of the file sets/NAME.sha256; None: unknown.
        about: description of the pictures.
        source: where to download them.
    """

    __test__ = False  # for pytest, which collects classes of such names

    name: str
    pictures: int
    truth: bool
    folders: tuple[str, ...]
    sha256: str | None
    about: str
    source: str


ARCHIVE = "StableSR_testsets"  # the folder of StableSR's archive
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
    raise UsageError(f"--set {name} is unknown. Choose one of {known}.")


def locate(name: str, root: Path) -> TestSetFolders:
    """Find and check the set below `root`.

    Raises:
        UsageError: no such set, no such folder, missing, changed or surplus pictures.
    """
    test_set = find(name)
    lr, gt = _folders(test_set, root)
    folders = {"LR": lr} | ({"HR": gt} if gt else {})
    pictures_by_subset = {
        subset: _pictures(folder) for subset, folder in folders.items()
    }
    if test_set.sha256:
        _check_sums(test_set, pictures_by_subset, folders)
    for subset, pictures in pictures_by_subset.items():
        if len(pictures) != test_set.pictures:
            raise UsageError(
                f"{folders[subset]} has {len(pictures)} pictures, {test_set.name} has "
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
        raise UsageError(
            f"--root {root} is not a folder. Give that of {test_set.name}."
        )
    named = [root / name for name in test_set.folders]
    candidates = [root, *named, root / ARCHIVE / test_set.folders[0]]
    for candidate in candidates:
        for low, high in LAYOUTS:
            lr, gt = candidate / low, candidate / high
            if lr.is_dir() and (gt.is_dir() or not test_set.truth):
                return lr, gt if test_set.truth else None
    if not test_set.truth:
        for candidate in reversed(candidates):
            if candidate.is_dir() and _pictures(candidate):
                return candidate, None
    layout = " or ".join(f"{low}/ and {high}/" for low, high in LAYOUTS[:3])
    required = layout if test_set.truth else "pictures"
    raise UsageError(
        f"{root} does not contain {test_set.name}: it needs {required}, in it or in "
        f"its folder {test_set.folders[0]}. Get it from {test_set.source}."
    )


def _pictures(folder: Path) -> dict[str, Path]:
    walked = picture_walk.walk(folder, PICTURE_SUFFIXES, recursive=False)
    return {name: folder / name for name in walked.names}


def _check_sums(
    test_set: TestSet,
    pictures_by_subset: dict[str, dict[str, Path]],
    folders: dict[str, Path],
) -> None:
    expected = checksums(test_set)
    actual = {
        f"{k}/{name}": p
        for k, pictures in pictures_by_subset.items()
        for name, p in pictures.items()
    }
    with ThreadPoolExecutor(4) as pool:
        digests = dict(zip(actual, pool.map(_digest, actual.values()), strict=True))
    problems = {
        "lacks": [name for name in expected if name not in actual],
        "has more than the set:": [name for name in actual if name not in expected],
        "has other bytes in": [
            name
            for name, digest in digests.items()
            if expected.get(name, digest) != digest
        ],
    }
    differences = [
        f"{problem} {_shown(names)}" for problem, names in problems.items() if names
    ]
    if differences:
        location = " and ".join(
            f"{folder} ({subset})" for subset, folder in folders.items()
        )
        raise UsageError(
            f"{location} is not {test_set.name}, it {'; '.join(differences)}. Get it "
            f"from {test_set.source}; or give the folders with --lr and --gt, "
            "unchecked."
        )


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
