"""Compile the programs of a request and read memory, FLOPs and traffic from each."""

import re
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from gendr_jax import flops, sharding
from gendr_jax.plan import before_codegen, chips, collectives, hlo, loops, programs
from gendr_jax.plan import topologies as topologies_lib
from gendr_jax.plan.request import Request
from gendr_jax.train.run.xla_flags import compiler_options

# Compiler options by platform. On a CPU only passes of LLVM are left out, so the
# figures, which are XLA's, stay the same.
LOW_EFFORT = {
    "tpu": {"exec_time_optimization_effort": -1.0},
    "cpu": {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Keys of the facts' "roles" that are not device memory of a role.
NOT_ROLES = ("host", "replicated")
Facts = dict[str, Any]  # JSON values; `measure` names them


def measure(request: Request) -> Facts:
    """The facts of a request, all per device unless their name says otherwise.

    A program that does not fit is no error: `fits` is False and `compiler_said` holds
    what the compiler reported.

    Raises:
        UsageError: an invalid request.
    """
    topology = topologies_lib.parse(request.topology)
    devices = topologies_lib.devices(topology)
    mesh = sharding.make_mesh(request.mesh, devices)
    chip = _chip(topology, devices[0])
    begun = time.perf_counter()
    step = programs.traced_step(request, mesh)
    operations = [flops.count(program.traced.jaxpr) for program in step.programs]
    total = sum(count.total for count in operations)
    facts: Facts = {
        "devices": len(devices),
        "chips": len(devices) // (chip.devices_per_chip if chip else 1),
        "device_kind": devices[0].device_kind,
        "mesh_axes": dict(mesh.shape),
        "batch_size": step.images,
        "phase_count": step.phases,
        "roles": _roles(step.roles),
        "flops_analytic": total / len(devices),
        "flops_model": _without_recompute(request, mesh, total) / len(devices),
        "trace_s": round(time.perf_counter() - begun, 2),
    }
    begun = time.perf_counter()
    platform = "tpu" if topology.is_tpu else topology.kind
    options = _options(request, platform)
    platforms = ("tpu",) if topology.is_tpu else None
    generate_code = request.effort == "low" or not topology.is_tpu
    phases = []
    for program, counted in zip(step.programs, operations, strict=True):
        try:
            lowered = program.traced.lower(lowering_platforms=platforms)
            measured = of_program(lowered, counted, mesh, options, generate_code)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            refusal = {"phase": program.name} | _out_of_memory(
                str(error), facts["roles"]
            )
            return facts | {"compile_s": _seconds_since(begun)} | refusal
        phases.append({"name": program.name} | measured)
    facts |= {"compile_s": _seconds_since(begun)} | _in_sequence(phases)
    needed = max(facts["peak_bytes"], facts["total_bytes"])
    facts["fits"] = not chip or needed <= chip.hbm_bytes
    return facts | {"phases": phases}


def joined(per_program: list[Facts]) -> Facts:
    """The facts of a step from those of its phases, each measured alone."""
    refused = [program for program in per_program if "compiler_said" in program]
    if refused:
        return max(refused, key=lambda program: program["peak_bytes"])
    facts = dict(per_program[0])
    for name in ("flops_analytic", "flops_model", "trace_s", "compile_s"):
        facts[name] = sum(program[name] for program in per_program)
    phases = [phase for program in per_program for phase in program["phases"]]
    facts |= _in_sequence(phases) | {"phases": phases}
    return facts | {"fits": all(program["fits"] for program in per_program)}


def _in_sequence(phases: list[Facts]) -> Facts:
    """Facts of programs that run one after the other: work adds up, memory does not."""
    largest = max(phases, key=lambda phase: phase["peak_bytes"])
    facts = {k: v for k, v in largest.items() if k.endswith("_bytes")}
    facts["largest_phase"] = largest["name"]
    work = ("flops", "flops_compiler", "flops_kernels", "flops_loops")
    work += ("hbm_traffic_bytes", "traffic_loops_bytes", "loops_of_unknown_length")
    facts |= {name: sum(phase[name] for phase in phases) for name in work}
    facts["collectives_by_axis"] = [c for p in phases for c in p["collectives_by_axis"]]
    kinds: dict[str, dict[str, float]] = {}
    for phase in phases:
        for kind, row in phase["collectives"].items():
            sums = kinds.setdefault(kind, dict.fromkeys(row, 0))
            kinds[kind] = {name: sums[name] + row[name] for name in row}
    return facts | {"collectives": kinds}


def _options(request: Request, platform: str) -> dict[str, Any]:
    """Compiler options: of the effort, and of the preset that training will use."""
    low = LOW_EFFORT.get(platform, {}) if request.effort == "low" else {}
    preset = request.config.get("xla_flags", "") if request.program == "train" else ""
    return low | compiler_options(preset)


def _seconds_since(begun: float) -> float:
    return round(time.perf_counter() - begun, 2)


def _chip(topology: topologies_lib.Topology, device: Any) -> chips.Chip | None:
    if topology.is_tpu:
        return chips.TPUS[topology.kind]
    return chips.of_device_kind(device.device_kind)


def _roles(roles: dict[str, Any]) -> dict[str, int]:
    sizes = {name: programs.bytes_per_device(tree) for name, tree in roles.items()}
    host = sum(programs.bytes_on_host(tree) for tree in roles.values())
    sizes["host"] = host
    state = [tree for name, tree in roles.items() if name not in ("frozen", "batch")]
    sizes["replicated"] = programs.replicated_bytes(state)
    return sizes


def _without_recompute(request: Request, mesh: Mesh, total: float) -> float:
    """Operations of the same program without rematerialisation, all devices."""
    if request.program == "restore" or request.config.get("remat") == "none":
        return total
    plain = programs.traced_step(request, mesh, remat="none")
    return sum(flops.count(program.traced.jaxpr).total for program in plain.programs)


def memory(compiled: Any) -> Facts:
    """Bytes by the compiler's memory analysis; peak_bytes is the sum if it has none."""
    analysis = compiled.memory_analysis()
    kinds = ("argument", "output", "alias", "temp", "generated_code")
    facts = {
        f"{kind}_bytes": getattr(analysis, f"{kind}_size_in_bytes") for kind in kinds
    }
    for kind in ("argument", "output", "temp"):
        facts[f"host_{kind}_bytes"] = getattr(analysis, f"host_{kind}_size_in_bytes", 0)
    total = sum(facts[f"{kind}_bytes"] for kind in kinds) - 2 * facts["alias_bytes"]
    peak = getattr(analysis, "peak_memory_in_bytes", 0)
    return facts | {"peak_bytes": peak or total, "total_bytes": total}


def of_program(
    lowered: Any,
    operations: flops.Operations,
    mesh: Mesh,
    options: Mapping[str, Any],
    generate_code: bool,
) -> Facts:
    """Memory and work of one program, per device.

    Args:
        lowered: from `traced.lower`.
        operations: those of the traced program.
        mesh: its devices.
        options: of the compiler.
        generate_code: compile completely; False ends before code is generated, on TPU
            (`plan/before_codegen.py`: for a process that ends after the answer).

    Raises:
        jax.errors.JaxRuntimeError: the program does not compile or fit.
    """
    if not generate_code:
        decided = before_codegen.decided(lowered, options)
        return decided.memory | work(decided.text, operations, mesh)
    compiled = lowered.compile(compiler_options=dict(options))
    cost = compiled.cost_analysis() or {}
    return memory(compiled) | work(compiled.as_text(), operations, mesh, cost)


def work(
    text: str,
    operations: flops.Operations,
    mesh: Mesh,
    cost: Mapping[str, float] | None = None,
) -> Facts:
    """Operations, bytes moved and bytes sent.

    Args:
        text: the program's optimised HLO.
        operations: those of the traced program.
        mesh: its devices.
        cost: the compiler's own analysis; None counts the products in the text, without
            the operations between them (.6 % of a training step).
    """
    module = hlo.parse(text)
    runs = hlo.runs(module)
    in_loops, moved_in_loops = loops.missed(module, runs)
    in_kernels = (operations.kernels - operations.announced) / mesh.size
    if cost is None:
        in_kernels = operations.kernels / mesh.size
        cost = {"flops": loops.products_once(module, runs)}
    slices = [getattr(d, "slice_index", 0) or 0 for d in mesh.devices.flat]
    collected = collectives.find(module, runs, dict(mesh.shape), slices)
    # XLA counts a loop's body once and Pallas kernels not at all, unless they announce
    # their cost: both are added. With arrays in VMEM its bytes are not HBM traffic.
    flops_compiler = float(cost.get("flops", 0))
    moved = float(cost.get("bytes accessed", 0)) + moved_in_loops
    if loops.has_vector_memory(text) or "bytes accessed" not in cost:
        moved = loops.hbm_traffic(module, runs)
    facts: Facts = {
        "flops": flops_compiler + in_kernels + in_loops,
        "flops_compiler": flops_compiler,
        "flops_kernels": operations.kernels / mesh.size,
        "flops_loops": in_loops,
        "hbm_traffic_bytes": moved,
        "traffic_loops_bytes": moved_in_loops,
        "collectives": collectives.by_kind(collected),
        "collectives_by_axis": [
            vars(collective) | {"axes": list(collective.axes)}
            for collective in collected
        ],
        "loops_of_unknown_length": runs.unknown,
    }
    seconds = cost.get("optimal_seconds", -1)
    if seconds > 0:  # negative where the compiler has no cost model
        facts["compiler_s"] = float(seconds)
    return facts


def _out_of_memory(message: str, roles: dict[str, int]) -> Facts:
    """The facts of a program that ran out of memory, from the compiler's message.

    What it calls temporaries includes arguments and results (tried with programs that
    have nothing else).
    """
    text = " ".join(message.split())
    used = re.search(r"(?:temporaries \(|Used )([\d.]+)([KMGT]?)", text)
    limit = re.search(r"(?:available HBM \(|Used \S+ of )([\d.]+)([KMGT]?)", text)
    arguments = sum(size for name, size in roles.items() if name not in NOT_ROLES)
    peak = max(_bytes(used), arguments)
    facts: Facts = {"argument_bytes": arguments, "temp_bytes": peak - arguments}
    facts |= {"fits": False, "peak_bytes": peak, "available_bytes": _bytes(limit)}
    return facts | {"compiler_said": text[:2000]}


def _bytes(match: re.Match | None) -> int:
    return int(float(match[1]) * UNITS[match[2]]) if match else 0
