"""Compile one program and read everything from it that the compiler says."""

import re
import time
from typing import Any

import jax
from jax.sharding import Mesh

from gendr_jax import flops, sharding
from gendr_jax.plan import chips, collectives, hlo, loops, programs
from gendr_jax.plan import topologies as topologies_lib
from gendr_jax.plan.request import Request
from gendr_jax.train.run.xla_flags import compiler_options

# By platform. On a CPU the passes left out are LLVM's: figures are the same.
LOW_EFFORT = {
    "tpu": {"exec_time_optimization_effort": -1.0},
    "cpu": {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
BESIDE = ("host", "replicated")  # among the roles, but no role's device memory
Facts = dict[str, Any]  # JSON values; `measure` names them


def measure(request: Request) -> Facts:
    """The facts of a request, all per device unless their name says otherwise.

    A program that does not fit is an answer: `fits` is False and `compiler_said` holds
    what the compiler reported.

    Raises:
        UsageError: a request that makes no sense.
    """
    topology = topologies_lib.parse(request.topology)
    devices = topologies_lib.devices(topology)
    mesh = sharding.make_mesh(request.mesh, devices)
    chip = _chip(topology, devices[0])
    begun = time.perf_counter()
    built = programs.traced_step(request, mesh)
    counted = [flops.count(part.traced.jaxpr) for part in built.parts]
    total = sum(one.total for one in counted)
    facts: Facts = {
        "devices": len(devices),
        "chips": len(devices) // (chip.devices_per_chip if chip else 1),
        "device_kind": devices[0].device_kind,
        "mesh_axes": dict(mesh.shape),
        "batch_size": built.images,
        "phase_count": built.phases,
        "roles": _roles(built.roles),
        "flops_analytic": total / len(devices),
        "flops_model": _without_recompute(request, mesh, total) / len(devices),
        "trace_s": round(time.perf_counter() - begun, 2),
    }
    begun = time.perf_counter()
    platform = "tpu" if topology.is_tpu else topology.kind
    options = _options(request, platform)
    platforms = ("tpu",) if topology.is_tpu else None
    phases = []
    for part, operated in zip(built.parts, counted, strict=True):
        try:
            lowered = part.traced.lower(lowering_platforms=platforms)
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            refused = {"phase": part.name} | _refused(str(error), facts["roles"])
            return facts | {"compile_s": _since(begun)} | refused
        found = {"name": part.name} | memory(compiled)
        phases.append(found | work(compiled, operated, mesh))
        del compiled, lowered  # gigabytes
    facts |= {"compile_s": _since(begun)} | _together(phases)
    needed = max(facts["peak_bytes"], facts["total_bytes"])
    facts["fits"] = not chip or needed <= chip.hbm_bytes
    return facts | {"phases": phases}


def joined(answers: list[Facts]) -> Facts:
    """The facts of a step from those of its phases, each measured alone."""
    refused = [one for one in answers if "compiler_said" in one]
    if refused:
        return max(refused, key=lambda one: one["peak_bytes"])
    facts = dict(answers[0])
    for name in ("flops_analytic", "flops_model", "trace_s", "compile_s"):
        facts[name] = sum(one[name] for one in answers)
    phases = [phase for one in answers for phase in one["phases"]]
    facts |= _together(phases) | {"phases": phases}
    return facts | {"fits": all(one["fits"] for one in answers)}


def _together(phases: list[Facts]) -> Facts:
    """Programs that run one after the other as one: work adds, memory is the most."""
    largest = max(phases, key=lambda one: one["peak_bytes"])
    facts = {k: v for k, v in largest.items() if k.endswith("_bytes")}
    facts["largest_phase"] = largest["name"]
    work = ("flops", "flops_compiler", "flops_kernels", "flops_loops")
    work += ("hbm_traffic_bytes", "traffic_loops_bytes", "loops_of_unknown_length")
    facts |= {name: sum(one[name] for one in phases) for name in work}
    facts["collectives_by_axis"] = [c for p in phases for c in p["collectives_by_axis"]]
    kinds: dict[str, dict[str, float]] = {}
    for phase in phases:
        for kind, row in phase["collectives"].items():
            old = kinds.setdefault(kind, dict.fromkeys(row, 0))
            kinds[kind] = {name: old[name] + row[name] for name in row}
    return facts | {"collectives": kinds}


def _options(request: Request, platform: str) -> dict[str, Any]:
    """What the compiler is told: the effort, and the preset that training will use."""
    low = LOW_EFFORT.get(platform, {}) if request.effort == "low" else {}
    preset = request.config.get("xla_flags", "") if request.program == "train" else ""
    return low | compiler_options(preset)


def _since(begun: float) -> float:
    return round(time.perf_counter() - begun, 2)


def _chip(topology: topologies_lib.Topology, device: Any) -> chips.Chip | None:
    if topology.is_tpu:
        return chips.TPUS[topology.kind]
    return chips.of_device_kind(device.device_kind)


def _roles(roles: dict[str, Any]) -> dict[str, int]:
    found = {name: programs.bytes_per_device(tree) for name, tree in roles.items()}
    host = sum(programs.bytes_on_host(tree) for tree in roles.values())
    found["host"] = host
    state = [tree for name, tree in roles.items() if name not in ("frozen", "batch")]
    found["replicated"] = programs.replicated_bytes(state)
    return found


def _without_recompute(request: Request, mesh: Mesh, total: float) -> float:
    """Operations of the same program without rematerialisation, all devices."""
    if request.program == "restore" or request.config.get("remat") == "none":
        return total
    plain = programs.traced_step(request, mesh, remat="none")
    return sum(flops.count(part.traced.jaxpr).total for part in plain.parts)


def memory(compiled: Any) -> Facts:
    """Bytes by the compiler; the peak is the larger of its two ways to say it."""
    said = compiled.memory_analysis()
    parts = ("argument", "output", "alias", "temp", "generated_code")
    facts = {f"{p}_bytes": getattr(said, f"{p}_size_in_bytes") for p in parts}
    for part in ("argument", "output", "temp"):
        facts[f"host_{part}_bytes"] = getattr(said, f"host_{part}_size_in_bytes", 0)
    total = sum(facts[f"{p}_bytes"] for p in parts) - 2 * facts["alias_bytes"]
    peak = getattr(said, "peak_memory_in_bytes", 0)
    return facts | {"peak_bytes": peak or total, "total_bytes": total}


def work(compiled: Any, counted: flops.Operations, mesh: Mesh) -> Facts:
    """Operations, bytes moved and bytes sent."""
    cost = compiled.cost_analysis() or {}
    text = compiled.as_text()
    module = hlo.parse(text)
    runs = hlo.runs(module)
    in_loops, moved_in_loops = loops.missed(module, runs)
    in_kernels = (counted.kernels - counted.announced) / mesh.size
    slices = [getattr(d, "slice_index", 0) or 0 for d in mesh.devices.flat]
    found = collectives.find(module, runs, dict(mesh.shape), slices)
    seen, moved = float(cost.get("flops", 0)), float(cost.get("bytes accessed", 0))
    moved += moved_in_loops
    if loops.used(text):
        moved = loops.hbm_traffic(module, runs)
    facts: Facts = {
        "flops": seen + in_kernels + in_loops,
        "flops_compiler": seen,
        "flops_kernels": counted.kernels / mesh.size,
        "flops_loops": in_loops,
        "hbm_traffic_bytes": moved,
        "traffic_loops_bytes": moved_in_loops,
        "collectives": collectives.by_kind(found),
        "collectives_by_axis": [vars(one) | {"axes": list(one.axes)} for one in found],
        "loops_of_unknown_length": runs.unknown,
    }
    seconds = cost.get("optimal_seconds", -1)
    if seconds > 0:  # negative where the compiler has no cost model
        facts["compiler_s"] = float(seconds)
    return facts


def _refused(message: str, roles: dict[str, int]) -> Facts:
    """What is known of a program that the compiler could not place.

    What it calls temporaries holds arguments and results, too (tried with programs
    that have nothing else).
    """
    text = " ".join(message.split())
    found = re.search(r"(?:temporaries \(|Used )([\d.]+)([KMGT]?)", text)
    limit = re.search(r"(?:available HBM \(|Used \S+ of )([\d.]+)([KMGT]?)", text)
    held = sum(size for name, size in roles.items() if name not in BESIDE)
    peak = max(_bytes(found), held)
    facts: Facts = {"argument_bytes": held, "temp_bytes": peak - held}
    facts |= {"fits": False, "peak_bytes": peak, "available_bytes": _bytes(limit)}
    return facts | {"compiler_said": text[:2000]}


def _bytes(match: re.Match | None) -> int:
    return int(float(match[1]) * UNITS[match[2]]) if match else 0
