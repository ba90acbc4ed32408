"""The program of the process that builds one Triton kernel: JSON on its standard input, a cubin on its output.

Triton reads its environment and keeps its caches in memory, so each build gets a process with a clean environment and a
cache folder that goes with it. No GPU is needed or asked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

WARP = 32
REGISTER_FILE, MOST_REGISTERS = 65536, 255  # 32-bit registers of a multiprocessor, and of a thread
SIZED = 4  # format of an attribute that brings its size
FRAME = 0x11  # EIATTR_FRAME_SIZE, in the section of attributes of the whole cubin
SCRATCH = ("global_scratch_size", "profile_scratch_size")  # bytes that a launch would have to bring
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
    target, options = GPUTarget("cuda", request["arch"], WARP), request["options"]
    made = triton.compile(source, target=target, options=options)
    if frame_bytes(made.asm["cubin"]):
        # The assembler stops at the registers that let one more block run, and spills what is beyond. It may have all.
        most = min(MOST_REGISTERS, REGISTER_FILE // (WARP * made.metadata.num_warps)) & -8
        made = triton.compile(source, target=target, options={**options, "maxnreg": most})
    facts = made.metadata
    entry = next(found for found in _ENTRY.finditer(made.asm["ptx"]) if found[1] == facts.name)
    return {
        "entry": facts.name,
        "threads": WARP * facts.num_warps,
        "shared_bytes": facts.shared,
        "params": entry[2].count(".param"),
        "tensor_columns": getattr(facts, "tmem_size", 0) or 0,
        "scratch_bytes": sum(getattr(facts, name, 0) or 0 for name in SCRATCH),
    }, made.asm["cubin"]


def frame_bytes(cubin: bytes) -> int:
    """Return the bytes of local memory of a kernel's thread: what is spilled, since Triton has no arrays."""
    start, (size, count, names) = int.from_bytes(cubin[40:48], "little"), struct.unpack_from("<HHH", cubin, 58)
    headers = [struct.unpack_from("<IIQQQQ", cubin, start + at * size) for at in range(count)]
    text, found = headers[names][4], 0
    for name, _, _, _, offset, length in headers:
        if not cubin.startswith(b".nv.info\0", text + name):
            continue
        at = offset
        while at < offset + length:  # a format, an attribute, then a size or the value itself
            form, attribute, more = struct.unpack_from("<BBH", cubin, at)
            if attribute == FRAME:
                found = max(found, struct.unpack_from("<II", cubin, at + 4)[1])
            at += 4 + (more if form == SIZED else 0)
    return found


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
