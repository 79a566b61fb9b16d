"""Compile one request in a subprocess, so that a crash or a leak ends with it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gendr_jax.errors import GendrError, UsageError
from gendr_jax.plan import request as request_lib
from gendr_jax.plan import topologies
from gendr_jax.plan.request import Request

# Users set them for their own runs; here they would change what is compiled.
UNWANTED = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "JAX_ENABLE_X64")


def measure_in_subprocess(
    request: Request, *, timeout: float | None = None
) -> dict[str, Any]:
    """The facts of `measure.measure`, or {"error": one line} if the process failed.

    Raises:
        UsageError: the request is invalid.
    """
    topology = topologies.parse(request.topology)
    inherited = {k: v for k, v in os.environ.items() if k not in UNWANTED}
    environment = inherited | topologies.environment(topology)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answer.json"
        environment["TMPDIR"] = folder  # for what the compiler dumps until it is ended
        command = [sys.executable, "-m", "gendr_jax.plan.compile_process", str(out)]
        try:
            completed = subprocess.run(
                command,
                env=environment,
                input=request.to_json(),
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not compiled within {timeout:g} s (--timeout)"}
        if not out.exists():
            return {"error": _failure(completed.returncode, completed.stderr)}
        facts = json.loads(out.read_text())
    if "usage" in facts:
        raise UsageError(facts["usage"])
    return facts


def _failure(status: int, stderr: str) -> str:
    if status == -signal.SIGKILL:
        return "killed, as the system does where this machine's memory is too small"
    lines = (stderr.strip().splitlines() or ["no output"])[-3:]
    return f"exit status {status}: {' '.join(lines)[:500]}"


def main(out: Path) -> None:
    """Read a request from standard input and write its answer to `out`."""
    from gendr_jax.plan.measure import measure

    request = request_lib.from_json(sys.stdin.read())
    try:
        facts = measure(request)
    except GendrError as error:
        facts = {"usage": str(error)}
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(facts))
    partial.replace(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # at full effort the compiler still generates code
