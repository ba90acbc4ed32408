"""The process in which Triton is interpreted: what it mends, what it refuses, and that it outlives a bad kernel."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gridstone.ir.dtype import bf16, decode, encode
from gridstone.ir.errors import BuildError, LaunchError
from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from gridstone.proof import interpret
from gridstone.proof.interpret import Interpreter, interpreter
from gridstone.proof.ptx_on_cpu import run_ptx

needs_triton = pytest.mark.skipif(TritonToolchain().missing() is not None, reason="no Triton")

HEAD = """\
import os, time
import triton
import triton.language as tl

@triton.jit
def entry({parameters}, ASM: tl.constexpr):
"""


def run(body, arrays, *, writable=(), grid=(1, 1, 1), seed=0, asm=False, by=None, head=HEAD, values=()):
    """Run a kernel over arrays by name; return what was wrong and the arrays behind it."""
    kinds = {np.dtype(np.uint16): "bfloat16"}
    arguments = [
        {
            "name": name, "dtype": kinds.get(a.dtype, str(a.dtype)), "buffer": at, "first": 0, "count": a.size,
            "writable": name in writable,
        }
        for at, (name, a) in enumerate(arrays.items())
    ]  # fmt: skip
    arguments += [{"value": value} for _, value in values]
    parameters = ", ".join([*arrays, *(name for name, _ in values)])
    text = head.format(parameters=parameters) + "".join(f"    {line}\n" for line in body.strip().splitlines())
    request = {"text": text, "entry": "entry", "arguments": arguments, "grid": list(grid), "seed": seed, "asm": asm}
    problem, left = (by or interpreter()).run(request, [bytearray(a.tobytes()) for a in arrays.values()])
    return problem, {name: np.frombuffer(b, a.dtype) for b, (name, a) in zip(left, arrays.items(), strict=True)}


@needs_triton
def test_casts_to_bfloat16_round_to_nearest_even():
    """The interpreter cuts float32 off, and takes an integer's value for bits."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.standard_normal(60), [np.inf, -np.inf, np.nan, 3.3961e38]]).astype(np.float32)
    body = (
        "i = tl.arange(0, 64)\n"
        "tl.store(y + i, tl.load(x + i).to(tl.bfloat16))\n"
        "tl.store(z + i, (i * 7 - 99).to(tl.bfloat16))"
    )
    out = np.zeros(64, np.uint16)
    problem, left = run(body, {"x": x, "y": out, "z": out}, writable=("y", "z"))
    assert problem == ""
    np.testing.assert_array_equal(decode(bf16, left["y"]), decode(bf16, encode(bf16, x)))
    np.testing.assert_array_equal(decode(bf16, left["z"]), decode(bf16, encode(bf16, np.arange(64) * 7 - 99)))


@needs_triton
def test_casts_from_bfloat16_keep_every_value():
    """The interpreter makes others of subnormal numbers."""
    every = np.arange(1 << 16, dtype=np.uint16)
    body = (
        "i = tl.program_id(0) * 1024 + tl.arange(0, 1024)\n"
        "v = tl.load(x + i)\n"
        "tl.store(y + i, v.to(tl.float32))\n"
        "tl.store(h + i, v.to(tl.float16))\n"
        "tl.store(z + i, v.to(tl.float32).to(tl.bfloat16))"
    )
    arrays = {"x": every, "y": np.zeros(1 << 16, np.float32), "h": np.zeros(1 << 16, np.float16), "z": every * 0}
    problem, left = run(body, arrays, writable=("y", "h", "z"), grid=(64, 1, 1))
    assert problem == ""
    want = decode(bf16, every).astype(np.float32)
    np.testing.assert_array_equal(left["y"], want)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(left["h"], want.astype(np.float16))
    np.testing.assert_array_equal(decode(bf16, left["z"]), decode(bf16, every))


@needs_triton
def test_products_of_bfloat16_are_those_of_its_values():
    """The interpreter multiplies the raw bits."""
    rng = np.random.default_rng(4)
    a, b = (encode(bf16, rng.standard_normal((16, 16))) for _ in range(2))
    body = (
        "i = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]\n"
        "tl.store(y + i, tl.dot(tl.load(a + i), tl.load(b + i)))"
    )
    problem, left = run(body, {"a": a, "b": b, "y": np.zeros((16, 16), np.float32)}, writable=("y",))
    assert problem == ""
    want = decode(bf16, a) @ decode(bf16, b)
    assert np.abs(left["y"].reshape(16, 16) - want).max() < 1e-5 * np.abs(want).max()


@needs_triton
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("tl.load(x + tl.arange(0, 16))", "IndexError: a load of byte 32 of x, which has 32, in program (0, 0, 0)"),
        ("tl.load(x - 1)", "a load of byte -4 of x, which has 32"),
        ("i = tl.arange(0, 8)\ntl.load(x + i + 1, mask=i != 3)", "a load of byte 32 of x, which has 32"),
        ("tl.load(x + (1 << 40))", f"a load of byte {4 << 40} of x, which has 32"),
        ("tl.load(tl.full((4,), 64, tl.int64).to(tl.pointer_type(tl.float32)))", "that is not made from any operand's"),
        ("tl.store(y + 2 * tl.arange(0, 8), 0.0)", "a store of byte 32 of y, which has 32"),
        ("tl.store(x, 1.0)", "a store to x, which is only read, in program (0, 0, 0) at line 7: tl.store(x, 1.0)"),
        ("tl.atomic_add(x, 1.0)", "an atomic operation to x, which is only read"),
        ("tl.atomic_cas(y + 8, 0.0, 1.0)", "an atomic operation of byte 32 of y, which has 32"),
        ("tl.load(tl.multiple_of(x + 1, 16))", "ValueError: 4 past a multiple of 16, which the kernel promises"),
        ("y.no_such_method()", "AttributeError"),
        ("return 1 +", "SyntaxError: invalid syntax"),
    ],
)
def test_what_a_gpu_would_not_survive_is_refused_with_its_line(body, message):
    """Twice: what failed to load must not pass for loaded."""
    arrays = {"x": np.zeros(8, np.float32), "y": np.zeros(8, np.float32)}
    for _ in range(2):
        problem, _ = run(body, arrays, writable=("y",))
        assert message in problem


@needs_triton
def test_an_access_to_another_operand_is_outside_of_its_own():
    """Where an address lies is not enough: a kernel that leaves one tensor may well land in the next."""
    arrays = {name: np.zeros(8, np.float32) for name in "xyz"}
    body = (
        "away = (z.to(tl.int64) - x.to(tl.int64)) % (1 << 56)\n"
        "tl.load((x.to(tl.int64) + away).to(tl.pointer_type(tl.float32)))"
    )
    problem, _ = run(body, arrays)
    assert re.search(r"a load of byte -?\d+ of [xy], which has 32", problem)


@needs_triton
def test_a_hint_that_holds_is_taken():
    body = (
        "i = tl.arange(0, 4)[:, None] * 8 + tl.arange(0, 4)[None, :]\n"
        "tl.store(tl.multiple_of(y + i, (1, 16)), tl.load(tl.multiple_of(x + i, (1, 16))))"
    )
    problem, left = run(body, {"x": np.arange(32.0), "y": np.zeros(32)}, writable=("y",))
    assert problem == ""
    assert left["y"].reshape(4, 8)[:, :4].tolist() == np.arange(32.0).reshape(4, 8)[:, :4].tolist()


@needs_triton
def test_a_masked_access_may_point_anywhere():
    body = "i = tl.arange(0, 16)\ntl.store(x + i, tl.load(x + i - 4, mask=(i > 3) & (i < 12), other=1.0), mask=i < 8)"
    problem, left = run(body, {"x": np.arange(8, dtype=np.float32)}, writable=("x",))
    assert (problem, left["x"].tolist()) == ("", [1, 1, 1, 1, 0, 1, 2, 3])


@needs_triton
def test_the_seed_draws_the_order_of_programs():
    body = "tl.store(y + tl.atomic_add(n, 1), tl.program_id(1) * 4 + tl.program_id(2))"

    def order(seed):
        arrays = {"y": np.zeros(8, np.int32), "n": np.zeros(1, np.int32)}
        problem, left = run(body, arrays, writable=("y", "n"), grid=(1, 2, 4), seed=seed)
        assert problem == ""
        assert sorted(left["y"]) == list(range(8))
        return left["y"].tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


@needs_triton
def test_a_kernel_that_kills_or_hangs_the_interpreter_is_an_error_and_the_next_one_runs():
    seven, arrays = "tl.store(y, 7.0)", {"y": np.zeros(1, np.float32)}
    mine = Interpreter(timeout_s=60.0)
    die = HEAD.replace("@triton.jit", "os._exit(41)\n@triton.jit")
    with pytest.raises(LaunchError, match="Triton's interpreter died with 41"):
        run(seven, arrays, writable=("y",), by=mine, head=die)
    assert run(seven, arrays, writable=("y",), by=mine)[1]["y"] == [7.0]

    mine.timeout_s = 0.5
    os.kill(mine._child.pid, signal.SIGSTOP)  # it reads nothing, and a large case does not fit into the pipe
    with pytest.raises(LaunchError, match=r"Triton's interpreter did not answer within 0\.5 s"):
        run(seven, {"y": np.zeros(1 << 20, np.float32)}, writable=("y",), by=mine)
    mine.timeout_s = 60.0
    assert run(seven, arrays, writable=("y",), by=mine)[1]["y"] == [7.0]

    mine.timeout_s = 0.5
    with pytest.raises(LaunchError, match=r"did not answer within 0\.5 s") as raised:
        run("while True:\n    tl.store(y, 7.0)", arrays, writable=("y",), by=mine)
    assert re.search(r'kernel\d+\.py", line [78] in entry', str(raised.value)), "where it was"


@needs_triton
def test_two_threads_take_turns():
    found = {}

    def store(value):
        found[value] = run(f"tl.store(y, {value}.0)", {"y": np.zeros(1, np.float32)}, writable=("y",))[1]["y"][0]

    threads = [threading.Thread(target=store, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {value: float(value) for value in range(4)}


ORPHAN = """
from tests.proof.test_interpret import *
mine, head = Interpreter(), HEAD.replace("@triton.jit", "print('begun', flush=True)\\n@triton.jit")
case = ("while True: pass", {"y": np.zeros(1)})
threading.Thread(target=run, args=case, kwargs={"by": mine, "head": head}, daemon=True).start()
while mine._said is None or not os.fstat(mine._said.fileno()).st_size:
    time.sleep(0.1)
print(mine._child.pid, flush=True)
os._exit(0)
"""


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_a_kernel_that_never_ends_does_not_outlive_its_parent():
    ended = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, check=True)
    state, end = Path(f"/proc/{int(ended.stdout)}/stat"), time.monotonic() + 60
    while state.exists() and " Z " not in state.read_text():
        assert time.monotonic() < end, "it lives on"
        time.sleep(0.1)


def test_without_triton_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(interpret.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"no triton \(install gridstone\[triton\]\)"):
        Interpreter().run({}, [])


# ---- inline PTX ------------------------------------------------------------------------------------------------------


def ptx(instruction, *inputs):
    """The result of one instruction on words."""
    names = ", ".join(f"${at + 1}" for at in range(len(inputs)))
    (result,) = run_ptx(f"{{ {instruction} $0, {names}; }}", "=r" + ",r" * len(inputs), [np.array([i]) for i in inputs])
    return int(result[0])


def halves(to, low, high):
    bits = encode(to, [low, high]).view(np.uint16)
    return int(bits[0]) | int(bits[1]) << 16


def test_instructions_do_what_the_isa_says():
    """Values worked out by hand from the PTX ISA's tables, also where kernels do not go."""
    from gridstone.ir.dtype import f16

    assert ptx("lop3.b32", 0b1100, 0b1010, 0b0001, 0xEA) == 0b1001  # (a & b) | c
    assert ptx("lop3.b32", 0xF0F0F0F0, 0xCCCCCCCC, 0xAAAAAAAA, 0x96) == 0xF0F0F0F0 ^ 0xCCCCCCCC ^ 0xAAAAAAAA
    assert ptx("prmt.b32", 0x33221100, 0x77665544, 0x7052) == 0x77005522
    assert ptx("shr.u32", 0x80000000, 28) == 8
    assert ptx("sub.rn.f16x2", halves(f16, 1031.0, 2.0), halves(f16, 1024.0, 0.5)) == halves(f16, 7.0, 1.5)
    assert ptx("fma.rn.f16x2", halves(f16, 3.0, 1.0), halves(f16, 0.5, 2.0), halves(f16, 1.0, -2.0)) == halves(
        f16, 2.5, 0.0
    )
    assert ptx("fma.rn.bf16x2", halves(bf16, 3.0, 135.0), halves(bf16, 1.0, 1.0), halves(bf16, 1.0, -128.0)) == halves(
        bf16, 4.0, 7.0
    )
    one, two = (int(np.float32(v).view(np.uint32)) for v in (1.5, 2.0))
    assert ptx("sub.rn.f32", one, two) == int(np.float32(-0.5).view(np.uint32))
    assert ptx("cvt.rn.bf16x2.f32", one, two) == halves(bf16, 2.0, 1.5)  # the first operand lands above


def test_ptx_that_is_not_known_is_refused():
    """A NumPy run must never pass over what it does not know."""
    word = [np.array([1])]
    with pytest.raises(NotImplementedError, match=r"PTX instruction bfe\.u32"):
        run_ptx("{ bfe.u32 $0, $1, 0, 4; }", "=r,r", word)
    with pytest.raises(NameError, match="register r0 is read before it is written"):
        run_ptx("{ .reg .b32 r0; mov.b32 $0, r0; }", "=r,r", word)
    with pytest.raises(NotImplementedError, match="prmt with a selector"):
        run_ptx("{ prmt.b32 $0, $1, $1, 0x8000; }", "=r,r", word)
