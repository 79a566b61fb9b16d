"""`gendr inspect`: what a weights file, folder or training workdir holds."""

import json
from pathlib import Path
from typing import Any

from gendr_jax.cli.common import Parser


def main(args: list[str]) -> int:
    """Run the command.

    Raises:
        InputError: nothing that is known, or damaged.
    """
    parser = Parser(
        "gendr inspect",
        "Show what a weights file, weights folder or training workdir holds.",
    )
    parser.add_argument(
        "source", metavar="SRC", help="weights file, weights folder or training workdir"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--verify", action="store_true", help="read all arrays and check their hashes"
    )
    parser.add_argument(
        "--variant",
        default="",
        metavar="NAME",
        help="which of several files, such as fp16",
    )
    flags = parser.parse_args(args)
    answer = describe(flags.source, verify=flags.verify, variant=flags.variant)
    print(json.dumps(answer, indent=2) if flags.json else as_text(answer))
    return 0


def describe(source: Path | str, *, verify: bool, variant: str = "") -> dict[str, Any]:
    """The answer as plain JSON values; keys as in the contract.

    Raises:
        InputError: nothing that is known, or damaged.
    """
    from gendr_jax.cli.common import silence_libraries

    silence_libraries()
    from gendr_jax.checkpoints import manager
    from gendr_jax.weights import describe as foreign
    from gendr_jax.weights import folder, one_file
    from gendr_jax.weights.remote_paths import is_remote
    from gendr_jax.weights.resolve import resolve

    if is_remote(source):  # only training runs are read from object stores
        found = manager.describe(source, verify=verify)
        return {"kind": "training", "format": "gendr-checkpoint", "sha256": {}, **found}
    source = resolve(source)
    if folder.is_folder(source) or one_file.is_ours(source):
        return _weights(source, verify)
    if (source / manager.FOLDER).is_dir():
        return _workdir(source, verify)
    return foreign.describe(source, verify=verify, variant=variant)


def as_text(answer: dict[str, Any]) -> str:
    """The answer for people: one line a key, nested keys with dots."""
    lines: list[tuple[str, str]] = []

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{name}.{key}" if name else key, inner)
        else:
            whole = isinstance(value, int) and not isinstance(value, bool)
            lines.append((name, f"{value:,}" if whole else str(value)))

    walk("", answer)
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def _weights(source: Path, verify: bool) -> dict[str, Any]:
    from gendr_jax.weights import folder, gendr_json, one_file

    alone = source.is_file()
    manifest = one_file.manifest(source) if alone else gendr_json.read(source)
    gendr_json.settings(source, manifest)  # refuses what `restore` would refuse
    if verify and alone:
        one_file.read(source)
    elif verify:
        folder.load(source)
    components = manifest["components"]
    networks = {name: c for name, c in components.items() if name != "prompt"}
    dtypes: dict[str, int] = {}
    for component in networks.values():
        for name, count in component["dtypes"].items():
            dtypes[name] = dtypes.get(name, 0) + count
    answer = {
        "kind": manifest["kind"],
        "format": manifest["format"],
        "version": manifest["version"],
        "parameters": sum(c["parameters"] for c in networks.values()),
        "components": {name: c["parameters"] for name, c in components.items()},
        "dtypes": dtypes,
        "config": manifest["configs"],
        "prediction_type": manifest["prediction_type"],
        "t_star": manifest["t_star"],
        "prompt_text": manifest.get("prompt_text", {}),
        "provenance": manifest.get("provenance", {}),
        "sha256": {name: c["sha256"] for name, c in components.items()},
    }
    return answer | ({"verified": True} if verify else {})


def _workdir(source: Path, verify: bool) -> dict[str, Any]:
    from gendr_jax.checkpoints import manager
    from gendr_jax.weights import folder

    found = manager.describe(source, verify=verify)
    exported = source / "weights"
    sha256 = _weights(exported, verify)["sha256"] if folder.is_folder(exported) else {}
    answer = {"kind": "training", "format": "gendr-checkpoint", **found}
    answer["sha256"] = {f"weights/{name}": value for name, value in sha256.items()}
    return answer | ({"verified": True} if verify else {})
