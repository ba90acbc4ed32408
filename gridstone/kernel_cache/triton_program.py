"""The program of the process that builds one Triton kernel: JSON on its standard input, a cubin on its output.

Triton reads its environment and keeps its caches in memory, so each build gets a process with a clean environment and a
cache folder that goes with it. No GPU is needed or asked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

WARP = 32
_ENTRY = re.compile(r"\.visible \.entry (\w+)\(([^)]*)\)")


def build(request: dict[str, Any], folder: Path) -> tuple[dict[str, Any], bytes]:
    """Compile a text.

    Args:
        request: `text`, `entry`, `arch` (a number such as 90), `options` of Triton, and `aligned`: the positions of
            parameters that are addresses divisible by 16.
        folder: Where the text may lie; its path does not get into the cubin.

    Returns:
        What a launcher must know, and the cubin.
    """
    import triton  # noqa: PLC0415 - after the environment is clean
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    path = folder / "kernel.py"  # Triton reads the source of a function from its file
    path.write_text(request["text"])
    spec = importlib.util.spec_from_file_location("kernel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, request["entry"])
    types = {param.name: "constexpr" if param.is_constexpr else param.annotation for param in function.params}
    fixed = {param.name: param.default for param in function.params if param.is_constexpr}
    source = ASTSource(function, types, fixed, {(at,): [["tt.divisibility", 16]] for at in request["aligned"]})
    made = triton.compile(source, target=GPUTarget("cuda", request["arch"], WARP), options=request["options"])
    facts = made.metadata
    entry = next(found for found in _ENTRY.finditer(made.asm["ptx"]) if found[1] == facts.name)
    return {
        "entry": facts.name,
        "threads": WARP * facts.num_warps,
        "shared_bytes": facts.shared,
        "params": entry[2].count(".param"),
        "global_scratch": getattr(facts, "global_scratch_size", 0) or 0,
    }, made.asm["cubin"]


def main() -> None:
    """Answer one request."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed is no reply
    request = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="gridstone-triton-") as folder:
        os.environ["TRITON_CACHE_DIR"] = str(Path(folder, "cache"))
        facts, cubin = build(request, Path(folder))
    replies.write(json.dumps(facts).encode() + b"\n" + cubin)
    replies.close()


if __name__ == "__main__":
    main()
