"""The program of a process in which Triton's interpreter runs one kernel on sparse memory of many gigabytes.

It reads a request of `gridstone.proof.triton_on_cpu.serve` as JSON from stdin, in which `memory` says of each buffer
its size, and the pieces that are not zero. It writes what was wrong, and the pieces of the buffers that were asked for.
"""

from __future__ import annotations

import json
import mmap
import sys
import tempfile
from pathlib import Path

import numpy as np
from triton.runtime import interpreter

from gridstone.proof.triton_on_cpu import mend, problem_of, serve
from tests.templates.sparse import FLAGS


def main() -> None:
    request = json.load(sys.stdin)
    memory = []
    for buffer in request["memory"]:
        memory.append(mmap.mmap(-1, buffer["size"], flags=FLAGS))
        for at, piece in buffer["pieces"]:
            memory[-1][at : at + len(piece) // 2] = bytes.fromhex(piece)
    mend()
    np.seterr(all="ignore")
    interpreter.GridExecutor._restore_args_dev = lambda *given: None  # a copy of everything onto itself
    problem = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            serve(request, memory, {}, Path(folder))
        except Exception as error:  # the parent says whose it is
            problem = problem_of(error)
    found = [memory[at][start : start + size].hex() for at, start, size in request["wanted"]]
    json.dump({"problem": problem, "found": found}, sys.stdout)


if __name__ == "__main__":
    main()
