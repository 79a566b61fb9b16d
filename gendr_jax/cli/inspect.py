"""`gendr inspect`: print what a weights file, folder or training workdir contains."""

import json
from pathlib import Path
from typing import Any

from gendr_jax.cli.common import Parser


def main(args: list[str]) -> int:
    """Run the command.

    Raises:
        InputError: an unknown format, or damaged files.
    """
    parser = Parser(
        "gendr inspect",
        "Show what a weights file, weights folder or training workdir contains.",
    )
    parser.add_argument(
        "source", metavar="SRC", help="weights file, weights folder or training workdir"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--verify", action="store_true", help="read all arrays and check their sha256"
    )
    parser.add_argument(
        "--variant",
        default="",
        metavar="NAME",
        help="variant of the files in a component folder, such as fp16",
    )
    flags = parser.parse_args(args)
    description = describe(flags.source, verify=flags.verify, variant=flags.variant)
    print(json.dumps(description, indent=2) if flags.json else as_text(description))
    return 0


def describe(source: Path | str, *, verify: bool, variant: str = "") -> dict[str, Any]:
    """The description as plain JSON values.

    Raises:
        InputError: an unknown format, or damaged files.
    """
    from gendr_jax.cli.common import silence_libraries

    silence_libraries()
    from gendr_jax.checkpoints import manager
    from gendr_jax.weights import describe as foreign
    from gendr_jax.weights import folder, one_file
    from gendr_jax.weights.remote_paths import is_remote
    from gendr_jax.weights.resolve import resolve

    if is_remote(source):  # only training runs are read from object stores
        run = manager.describe(source, verify=verify)
        return {"kind": "training", "format": "gendr-checkpoint", "sha256": {}, **run}
    source = resolve(source)
    if folder.is_folder(source) or one_file.is_ours(source):
        return _weights(source, verify)
    if (source / manager.FOLDER).is_dir():
        return _workdir(source, verify)
    return foreign.describe(source, verify=verify, variant=variant)


def as_text(description: dict[str, Any]) -> str:
    """The description as text: one line a key, nested keys with dots."""
    lines: list[tuple[str, str]] = []

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{name}.{key}" if name else key, inner)
        else:
            is_count = isinstance(value, int) and not isinstance(value, bool)
            lines.append((name, f"{value:,}" if is_count else str(value)))

    walk("", description)
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def _weights(source: Path, verify: bool) -> dict[str, Any]:
    from gendr_jax.weights import folder, gendr_json, one_file

    single_file = source.is_file()
    manifest = one_file.manifest(source) if single_file else gendr_json.read(source)
    gendr_json.settings(source, manifest)  # refuses what `restore` would refuse
    if verify and single_file:
        one_file.read(source)
    elif verify:
        folder.load(source)
    components = manifest["components"]
    networks = {name: c for name, c in components.items() if name != "prompt"}
    dtypes: dict[str, int] = {}
    for component in networks.values():
        for name, count in component["dtypes"].items():
            dtypes[name] = dtypes.get(name, 0) + count
    description = {
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
    return description | ({"verified": True} if verify else {})


def _workdir(source: Path, verify: bool) -> dict[str, Any]:
    from gendr_jax.checkpoints import manager
    from gendr_jax.weights import folder

    run = manager.describe(source, verify=verify)
    exported = source / "weights"
    sha256 = _weights(exported, verify)["sha256"] if folder.is_folder(exported) else {}
    description = {"kind": "training", "format": "gendr-checkpoint", **run}
    description["sha256"] = {f"weights/{name}": v for name, v in sha256.items()}
    return description | ({"verified": True} if verify else {})
