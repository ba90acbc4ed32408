"""Launching GPU kernels: what a driver is asked for, with a stand-in that executes the kernel on this CPU."""

from __future__ import annotations

import ctypes
import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gridstone.ir.errors import LaunchError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache import launch_cuda
from gridstone.kernel_cache.artefact import Artefact
from gridstone.kernel_cache.driver_cuda import CuPyDriver, Zeroed, live_driver
from gridstone.kernel_cache.launch_cuda import bind
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import parse_target
from gridstone.proof.execute import Buffer, Shape, execute
from gridstone.proof.judge import check
from gridstone.proof.operands import draw_operands
from gridstone.proof.program import program
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named
from gridstone.templates.source import ParamKind

TARGET = parse_target("cuda:sm_80")
RECIPE = recipe_named("gemm.cuda.mma")
SCHEDULE = "mma(block_m=8,block_k=64,warps_n=2,warps_k=1,tiles_n=1,stages=2,k_splits={splits},ordered={ordered})"
EVERYTHING = "gemm[x: bf16(M,256), w: uint4:g64:zero(48,256)] + bias + residual"
BARE = "gemm[x: f16(M,256), w: int4:g128(32,256)]"


def emitted(text, splits=1, ordered="true"):
    spec = parse_spec(text).with_storage(TARGET.storage)
    start = RECIPE.space.default(spec, TARGET)
    schedule = parse_schedule(SCHEDULE.format(splits=splits, ordered=ordered), RECIPE.schedule, start)
    return spec, emit(RECIPE, spec, schedule, TARGET)


def artefact_of(source, scratch_pointers=0):
    grid = source.launch.grid
    return Artefact(b"", source.entry, grid.threads, grid.shared_bytes, scratch_pointers)


@dataclasses.dataclass
class Asked:
    """One launch."""

    function: int
    device: int
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    stream: int
    arguments: list[int]


class Recorder:
    """A driver that launches nothing."""

    def __init__(self):
        self.asked, self.loaded, self.on, self.captured, self.kept = [], [], 7, False, []
        self.zeroed = Zeroed(self.zeroes).words

    def zeroes(self, device, stream, count):
        self.kept.append(torch.zeros(count, dtype=torch.int32))
        return self.kept[-1].data_ptr()

    def function(self, artefact, device):
        self.loaded.append(device)
        return 1000 + device

    def stream(self, device):
        return self.on

    def capturing(self, device):
        return self.captured

    def launch(self, *given):
        self.asked.append(Asked(*given))


class Emulator(Recorder):
    """A driver that executes on this CPU what it is asked to launch; it knows how long the memory at an address is."""

    def __init__(self, source):
        super().__init__()
        self.source, self.kernel = source, program(source.text, source.entry)
        self.sizes: dict[int, int] = {}

    def launch(self, function, device, grid, threads, shared_bytes, stream, arguments):
        super().launch(function, device, grid, threads, shared_bytes, stream, arguments)
        facts, tiles = self.source.launch.grid, grid[0] * grid[1]
        given = []
        for param, value in zip(self.source.params, arguments, strict=True):
            match param.kind:
                case ParamKind.PARTS if value:
                    given.append(memory("parts", value, tiles * facts.part_floats * 4, held=not self.ordered))
                case ParamKind.TICKETS if value:
                    given.append(memory("tickets", value, tiles * 4, held=True))
                case ParamKind.POINTER if value:
                    given.append(memory(param.operand, value, self.sizes[value], held=param.operand != "y"))
                case _:
                    given.append(value)
        faults = execute(self.kernel, Shape(grid, (threads, 1, 1), shared_bytes), given)
        assert not faults, "\n".join(map(str, faults))

    @property
    def ordered(self):
        return self.source.launch.deterministic

    def known(self, call):
        """Return the call, with the lengths of its tensors known."""

        def wrapped(*tensors, out):
            for tensor in (*tensors, out):
                last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
                self.sizes[tensor.data_ptr()] = (last + 1) * tensor.element_size()
            return call(*tensors, out=out)

        return wrapped


def memory(name, address, size, held):
    array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return Buffer(name, array, writable=name in ("y", "parts", "tickets"), held=held)


def operands_of(spec, rows):
    return draw_operands(spec.bind(M=rows), 1).tensors


def test_arguments_are_addresses_rows_and_strides_in_elements():
    """Breaks when a parameter is filled with another operand's, or a stride counts bytes."""
    spec, source = emitted(EVERYTHING)
    driver = Recorder()
    call = bind(artefact_of(source), source, spec, driver)
    x, w, bias, residual = operands_of(spec, 5)
    wide = torch.empty(5, 300, dtype=x.dtype)
    x, out = wide[:, 40:296].copy_(x), torch.empty(5, 50, dtype=x.dtype)[:, 2:]
    assert call(x, w, bias, residual, out=out) is out
    (asked,) = driver.asked
    addresses = [tensor.data_ptr() for tensor in (x, w, bias, residual, out)]
    assert addresses[0] == wide.data_ptr() + 80
    named = dict(zip([(p.kind, p.operand) for p in source.params], asked.arguments, strict=True))
    assert [named[ParamKind.POINTER, name] for name in ("x", "w", "bias", "residual", "y")] == addresses
    assert [named[ParamKind.STRIDE, name] for name in ("x", "residual", "y")] == [300, 48, 50]
    assert named[ParamKind.ROWS, "x"] == 5
    assert named[ParamKind.PARTS, ""] == named[ParamKind.TICKETS, ""] == 0
    grid = source.launch.grid
    assert (asked.grid, asked.threads, asked.shared_bytes) == ((2, 1, 1), grid.threads, grid.shared_bytes)
    assert (asked.stream, asked.function, asked.device) == (7, 999, -1)


def test_absent_operands_and_a_compilers_own_scratch_are_null():
    spec, source = emitted(BARE)
    driver = Recorder()
    bind(artefact_of(source, scratch_pointers=2), source, spec, driver)(*operands_of(spec, 20))
    (asked,) = driver.asked
    assert len(asked.arguments) == len(source.params) + 2
    null = [p.operand for p, value in zip(source.params, asked.arguments, strict=False) if not value]
    assert null == ["bias", "residual", "residual", "", ""]
    assert asked.arguments[-2:] == [0, 0]
    assert asked.grid == (1, 3, 1)


@pytest.mark.parametrize(("splits", "ordered"), [(1, "true"), (2, "true"), (2, "false")])
@pytest.mark.parametrize("text", [EVERYTHING, BARE])
def test_what_is_launched_computes_the_product(text, splits, ordered):
    """All of it together: addresses, strides, scratch and grid, twice on the same scratch and for ragged rows."""
    spec, source = emitted(text, splits, ordered)
    driver = Emulator(source)
    call = driver.known(bind(artefact_of(source), source, spec, driver))
    for rows in (1, 19, 1):
        check(call, spec.bind(M=rows), (rows, rows + 1))
    assert len(driver.asked) == 6
    assert len(driver.kept) == (splits > 1)
    assert not any(words.any() for words in driver.kept), "what a kernel finds zero it leaves zero"


def test_rows_beyond_one_grid_are_cut_into_launches(monkeypatch):
    """A grid has at most 65535 blocks along y; a taller one would be refused."""
    monkeypatch.setattr(launch_cuda, "MOST_BLOCKS", 2)
    spec, source = emitted(EVERYTHING, 2)
    driver = Emulator(source)
    call = bind(artefact_of(source), source, spec, driver)

    def known(*tensors, out):
        for tensor in (*tensors, out):
            rows = tensor.shape[0] if tensor.dim() == 2 else 1
            for first in range(0, rows, 16):
                step = tensor.stride(0) * tensor.element_size() if tensor.dim() == 2 else 0
                left = tensor.numel() * tensor.element_size() - first * step
                driver.sizes[tensor.data_ptr() + first * step] = left
        return call(*tensors, out=out)

    check(known, spec.bind(M=37), (4,))
    rows_at = next(at for at, p in enumerate(source.params) if p.kind is ParamKind.ROWS)
    assert [(asked.grid[1], asked.arguments[rows_at]) for asked in driver.asked] == [(2, 16), (2, 16), (1, 5)]


def test_no_rows_launch_nothing():
    spec, source = emitted(BARE)
    driver = Recorder()
    out = bind(artefact_of(source), source, spec, driver)(*operands_of(spec, 0))
    assert (out.shape, out.dtype) == ((0, 32), torch.float16)
    assert not driver.asked


def test_scratch_is_shared_by_the_kernels_of_a_stream_and_by_nobody_else():
    """Two kernels of one stream follow each other; on two streams they would count on each other's tickets."""
    spec, source = emitted(BARE, 2)
    driver = Recorder()
    tickets_at = next(at for at, p in enumerate(source.params) if p.kind is ParamKind.TICKETS)
    calls = [bind(artefact_of(source), source, spec, driver) for _ in range(2)]
    operands = operands_of(spec, 8)
    for call, stream in zip((*calls, calls[0]), (7, 7, 8), strict=True):
        driver.on = stream
        call(*operands)
    first, second, other = (asked.arguments[tickets_at] for asked in driver.asked)
    assert first == second != other


def test_a_captured_call_has_scratch_of_its_own():
    """A graph may run beside the stream that it was captured on, and its memory is the graph's."""
    spec, source = emitted(BARE, 2, "false")
    driver = Recorder()
    call = bind(artefact_of(source), source, spec, driver)
    operands = operands_of(spec, 8)
    driver.captured = True
    call(*operands)
    assert not driver.kept
    driver.captured = False
    call(*operands)
    assert len(driver.kept) == 1


def test_scratch_beyond_what_a_stream_keeps_is_made_for_the_call(monkeypatch):
    """Sums of a large output that are added as they come would be kept for ever, and doubled."""
    spec, source = emitted(BARE, 2, "false")
    driver = Recorder()
    call = bind(artefact_of(source), source, spec, driver)
    monkeypatch.setattr(launch_cuda, "MOST_KEPT", 256)
    call(*operands_of(spec, 8))
    assert len(driver.kept) == 0
    monkeypatch.setattr(launch_cuda, "MOST_KEPT", 1 << 20)
    call(*operands_of(spec, 8))
    assert len(driver.kept) == 1
    tickets_at = next(at for at, p in enumerate(source.params) if p.kind is ParamKind.TICKETS)
    assert all(asked.arguments[tickets_at] for asked in driver.asked)


def test_zeroed_words_grow_and_are_kept():
    sizes = []
    zeroed = Zeroed(lambda device, stream, count: sizes.append((device, stream, count)) or len(sizes))
    assert [zeroed.words(0, 1, count) for count in (10, 4096, 5000, 10)] == [1, 1, 2, 2]
    assert [zeroed.words(*place, 10) for place in ((0, 2), (1, 1), (0, 1))] == [3, 4, 2]
    assert sizes == [(0, 1, 4096), (0, 1, 8192), (0, 2, 4096), (1, 1, 4096)]


def test_rows_that_are_not_contiguous_are_copied_first():
    spec, source = emitted(BARE)
    driver = Emulator(source)
    call = bind(artefact_of(source), source, spec, driver)
    x, w = operands_of(spec, 4)
    out = torch.empty(4, 32, dtype=x.dtype)
    driver.sizes[w.data_ptr()], driver.sizes[out.data_ptr()] = w.numel(), out.numel() * 2
    copies = []
    real = torch.Tensor.contiguous

    def contiguous(tensor):
        copy = real(tensor)
        copies.append(copy)
        driver.sizes[copy.data_ptr()] = copy.numel() * 2
        return copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "contiguous", contiguous)
        call(x.t().contiguous().t(), w, out=out)
    want = out.clone()
    driver.sizes[x.data_ptr()] = x.numel() * 2
    assert torch.equal(call(x, w, out=out), want)


def test_a_packed_weight_at_an_odd_place_is_refused():
    """A kernel that reads 16 bytes there takes the GPU's whole context with it."""
    spec, source = emitted(BARE)
    driver = Recorder()
    call = bind(artefact_of(source), source, spec, driver)
    x, w = operands_of(spec, 1)
    shifted = torch.empty(w.numel() + 32, dtype=torch.uint8)
    at = (-shifted.data_ptr()) % 16 + 4
    with pytest.raises(LaunchError, match=r"w lies 4 bytes behind a multiple of 16.*\(clone it\)"):
        call(x, shifted[at : at + w.numel()])
    assert not driver.asked


def test_an_op_without_a_launcher_is_refused():
    _, source = emitted(BARE)
    spec = parse_spec("attention[q: f16(1,2,8,64), k: f16(1,2,8,64), v: f16(1,2,8,64)]")
    with pytest.raises(LaunchError, match=r"no launcher for attention on a GPU \(add it to kernel_cache/launch_cuda"):
        bind(artefact_of(source), source, spec, Recorder())


@pytest.fixture
def cupy(monkeypatch):
    """CuPy's bindings as recorders, and a torch that believes in two GPUs."""
    seen = SimpleNamespace(launched=[], loaded=[], attributes=[], entered=[], zeroed=[], current=0)

    def launch(*given):
        function, *rest, places, extra = given
        count = 3
        pointers = (ctypes.c_void_p * count).from_address(places)
        values = [ctypes.c_int64.from_address(pointers[i]).value for i in range(count)]
        seen.launched.append((function, tuple(rest), values, extra))
        if function == 13:
            raise RuntimeError("CUDA_ERROR_INVALID_VALUE")

    class Guard:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            self.before, seen.current = seen.current, self.device

        def __exit__(self, *error):
            seen.current = self.before

    driver = SimpleNamespace(
        moduleLoadData=lambda cubin: seen.loaded.append((cubin, seen.current)) or 5,
        moduleGetFunction=lambda module, name: (module, name) and 50 + seen.current,
        funcSetAttribute=lambda *given: seen.attributes.append(given),
        launchKernel=launch,
    )
    runtime = SimpleNamespace(
        setDevice=seen.entered.append,
        malloc=lambda size: seen.zeroed.append(("malloc", size, seen.current)) or 4096,
        memsetAsync=lambda *given: seen.zeroed.append(given),
    )
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.api.driver", driver)
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.api.runtime", runtime)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 70 + device, raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: seen.current)
    monkeypatch.setattr(torch.cuda, "device", Guard)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
    seen.driver, seen.runtime = driver, runtime
    return seen


def test_the_driver_is_given_one_pointer_for_each_argument_of_eight_bytes(cupy):
    """The driver reads as many bytes as a parameter has, so 32-bit parameters are served too."""
    driver = CuPyDriver()
    driver.launch(50, 0, (3, 2, 1), 128, 4096, 70, [1 << 40, 5, 0])
    assert cupy.launched == [(50, (3, 2, 1, 128, 1, 1, 4096, 70), [1 << 40, 5, 0], 0)]
    assert driver.stream(1) == 71


def test_a_function_is_loaded_on_its_own_device_with_its_shared_memory_allowed(cupy):
    driver = CuPyDriver()
    artefact = Artefact(b"code", "gs_gemm", 128, 100_000)
    assert [driver.function(artefact, device) for device in (0, 1)] == [50, 51]
    assert cupy.loaded == [(b"code", 0), (b"code", 1)]
    assert cupy.attributes == [(50, 8, 100_000), (51, 8, 100_000)]
    assert cupy.current == 0
    driver.launch(51, 1, (1, 1, 1), 128, 0, 71, [1, 2, 3])
    assert cupy.entered == [0, 1], "each context is made current to a thread once"
    assert cupy.current == 0


def test_zeroed_memory_is_the_drivers_own(cupy):
    """Torch's would lie in a pool that CUDA graph trees roll back."""
    driver = CuPyDriver()
    assert driver.zeroed(1, 71, 100) == driver.zeroed(1, 71, 200) == 4096
    assert cupy.zeroed == [("malloc", 16384, 1), (4096, 0, 16384, 71)]


def test_what_the_driver_refuses_is_a_launch_error(cupy):
    driver = CuPyDriver()
    need = r"a grid of \(1, 1, 1\) with 128 threads and 0 bytes of shared memory was refused: CUDA_ERROR_INVALID_VALUE"
    with pytest.raises(LaunchError, match=need + r" \(choose another schedule; an error of memory is an"):
        driver.launch(13, 0, (1, 1, 1), 128, 0, 70, [1, 2, 3])

    def refuse(*given):
        raise RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU")

    cupy.driver.moduleLoadData = refuse
    with pytest.raises(LaunchError, match=r"gs_gemm with 128 threads and 64 bytes of shared memory.*on GPU 0: CUDA_E"):
        driver.function(Artefact(b"code", "gs_gemm", 128, 64), 0)

    def exhausted(size):
        raise RuntimeError("cudaErrorMemoryAllocation")

    cupy.runtime.malloc = exhausted
    with pytest.raises(LaunchError, match=r"no 16384 bytes of scratch on GPU 0: cudaErrorMem.*\(free memory there, or"):
        driver.zeroed(0, 70, 100)


def test_operands_on_the_cpu_never_reach_a_gpus_kernel(cupy):
    """Torch takes device -1 for the current one, and the kernel would read addresses that are not the GPU's."""
    spec, source = emitted(BARE)
    call = bind(artefact_of(source), source, spec, CuPyDriver())
    with pytest.raises(LaunchError, match=r"operands on the CPU were given to a kernel of a GPU \(move them"):
        call(*operands_of(spec, 1))
    assert not cupy.loaded
    assert not cupy.launched


def test_a_capture_is_that_of_the_operands_device(cupy, monkeypatch):
    """A graph is captured on GPU 1 while GPU 0 is current."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: cupy.current == 1)
    driver = CuPyDriver()
    assert [driver.capturing(device) for device in (0, 1)] == [False, True]
    assert cupy.current == 0


def test_without_cupy_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.api.driver", None)
    live_driver.cache_clear()
    with pytest.raises(LaunchError, match=r"cannot be launched without CuPy.*pip install 'gridstone\[cuda13\]'"):
        live_driver()
