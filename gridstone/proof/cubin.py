"""What a compiler made of a GPU kernel, read off its machine code without a GPU: registers, spills, memory, occupancy,
and the instructions that decide its speed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gridstone.ir.errors import BuildError
from gridstone.kernel_cache.artefact import Artefact
from gridstone.lower.occupancy import RESERVED, Occupancy, arch_number, occupancy
from gridstone.lower.target import Target
from gridstone.proof.disassembler import REMEDY, Disassembler, as_file, run, tools_for
from gridstone.templates.requirement import Requirement, matches

_MMA, _WGMMA = ("HMMA", "IMMA", "BMMA", "DMMA", "QMMA", "OMMA"), ("HGMMA", "IGMMA", "QGMMA")
TENSOR_CORES = (*_MMA, *_WGMMA, "UTCHMMA", "UTCQMMA", "UTCIMMA")
# What a report lists, in this order; whatever else a kernel has is in its counts.
TELLING = {
    "tensor cores": TENSOR_CORES,
    "asynchronous copies": ("LDGSTS", "UBLKCP", "UTMALDG"),
    "global memory": ("LDG", "STG", "RED", "REDG", "ATOM", "ATOMG"),
    "shared memory": ("LDSM", "LDS", "STS", "ATOMS"),
    "spills": ("LDL", "STL"),
    "decoding": ("LOP3", "PRMT", "HFMA2", "HADD2", "HMUL2", "I2F", "I2FP", "F2FP"),
    "float32": ("FFMA", "FADD", "FMUL"),
    "barriers": ("BAR", "SYNCS", "DEPBAR", "WARPGROUP", "SHFL"),
}
_WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}  # bytes; 4 where no modifier says it
_ADDRESS, _PREDICATE = r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?", r"(?:@!?U?P[T\d]+\s+)?"
_INSTRUCTION = re.compile(_ADDRESS + _PREDICATE + r"([A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Report:
    """What a kernel needs and what it is made of.

    Args:
        entry, target: Of the kernel.
        registers: Of a thread.
        stack: Bytes of a thread's frame in local memory.
        threads: Of a block.
        static_shared, dynamic_shared: Bytes of shared memory of a block, without what the system reserves.
        occupancy: What a multiprocessor holds.
        instructions: (full opcode, how many), sorted.
    """

    entry: str
    target: str
    registers: int
    stack: int
    threads: int
    static_shared: int
    dynamic_shared: int
    occupancy: Occupancy
    instructions: tuple[tuple[str, int], ...]

    @property
    def spills(self) -> int:
        """Loads from and stores to local memory."""
        return self.count("LDL", "STL")

    @property
    def tensor_cores(self) -> int:
        """Instructions of the tensor cores."""
        return self.count(*TENSOR_CORES)

    def count(self, *patterns: str) -> int:
        """Return how many instructions are any of these, each an opcode with modifiers that it must have."""
        return sum(n for opcode, n in self.instructions if any(matches(opcode, pattern) for pattern in patterns))

    def widths(self, opcode: str) -> dict[int, int]:
        """Return how many instructions of an opcode move how many bytes a thread, widest first."""
        found: Counter[int] = Counter()
        for full, times in self.instructions:
            if matches(full, opcode):
                found[_width(full)] += times
        return dict(sorted(found.items(), reverse=True))

    def json(self) -> dict[str, object]:
        """Return everything as plain JSON values."""
        return {
            "entry": self.entry,
            "target": self.target,
            "registers": self.registers,
            "stack": self.stack,
            "spills": self.spills,
            "threads": self.threads,
            "static_shared": self.static_shared,
            "dynamic_shared": self.dynamic_shared,
            "blocks_per_multiprocessor": self.occupancy.blocks,
            "occupancy": round(self.occupancy.share, 4),
            "bound_by": self.occupancy.bound_by,
            "tensor_cores": self.tensor_cores,
            "instructions": dict(self.instructions),
        }

    def __str__(self) -> str:
        spilled = f"{self.spills} accesses to local memory" if self.spills else "none spilled"
        held = self.occupancy
        rows = [
            ("registers", f"{self.registers} of a thread, {spilled}, a stack of {self.stack} bytes"),
            ("shared memory", f"{self.dynamic_shared} bytes dynamic, {self.static_shared} static"),
            ("occupancy", f"{held.blocks} blocks of {self.threads} threads: {held.share:.0%} of the warps, "
                          f"bound by {held.bound_by}"),
            *((title, self._listed(opcodes)) for title, opcodes in TELLING.items()),
        ]  # fmt: skip
        lines = [f"{self.entry} for {self.target}, {sum(n for _, n in self.instructions)} instructions"]
        return "\n".join(lines + [f"  {title:<20} {text}" for title, text in rows if text])

    def _listed(self, opcodes: Sequence[str]) -> str:
        parts: list[str] = []
        for opcode in opcodes:
            times = self.count(opcode)
            if not times:
                continue
            if opcode.startswith(("LDG", "STG", "LDS", "STS", "LDL", "STL")) and opcode != "LDSM":
                sizes = ", ".join(f"{n} of {width} bytes" for width, n in self.widths(opcode).items())
                parts.append(f"{opcode} {sizes}")
            else:
                parts.append(f"{opcode} {times}")
        return "; ".join(parts)


def _width(opcode: str) -> int:
    """Return the bytes that a thread moves with a load or store; the size of a line in its hints is no width."""
    return next((_WIDTHS[part] for part in opcode.split(".")[1:] if part in _WIDTHS), 4)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a kernel needs, which is quick to find out.

    Args:
        registers: Of a thread.
        stack: Bytes of a thread's frame; a kernel without one spills nothing.
        static_shared: Bytes, without what the system reserves.
    """

    registers: int
    stack: int
    static_shared: int


def read_resources(artefact: Artefact, target: Target) -> Resources:
    """Return what a kernel needs.

    Raises:
        BuildError: There are no tools here that read it.
    """
    tools = tools_for(artefact.cubin)
    with as_file(artefact.cubin) as path:
        return _resources(tools, path, artefact.entry, target)


def read_report(artefact: Artefact, target: Target) -> Report:
    """Return what a kernel needs and is made of.

    Args:
        artefact: As a GPU's toolchain built it.
        target: What it was built for.

    Raises:
        BuildError: There are no tools here that read it, or they found no instructions.
    """
    tools = tools_for(artefact.cubin)
    with as_file(artefact.cubin) as path:
        needs = _resources(tools, path, artefact.entry, target)
        text = run([str(tools.nvdisasm), "--print-code", "--no-dataflow", path])
    counts = Counter(found[1] for found in _INSTRUCTION.finditer(text))
    if not counts:
        raise BuildError(f"{tools.nvdisasm} found no instructions in {artefact.entry}", REMEDY)
    held = occupancy(target, artefact.threads, needs.registers, needs.static_shared + artefact.shared_bytes)
    return Report(
        artefact.entry,
        str(target),
        needs.registers,
        needs.stack,
        artefact.threads,
        needs.static_shared,
        artefact.shared_bytes,
        held,
        tuple(sorted(counts.items())),
    )


def read_drawback(artefact: Artefact, target: Target) -> str:
    """Return why a kernel is not worth measuring, as the end of a sentence; empty where nothing shows, or can be read.

    Only a kernel with a stack is disassembled: the others spill nothing.
    """
    try:
        needs = read_resources(artefact, target)
        shared = needs.static_shared + artefact.shared_bytes
        if not occupancy(target, artefact.threads, needs.registers, shared).blocks:
            return f"fits no multiprocessor: {needs.registers} registers, {shared} bytes of shared memory a block"
        spills = read_report(artefact, target).spills if needs.stack else 0
    except BuildError:  # no tools: its time will show what it is worth
        return ""
    return f"spills registers: {spills} accesses to local memory" if spills else ""


def _resources(tools: Disassembler, path: str, entry: str, target: Target) -> Resources:
    text = run([str(tools.cuobjdump), "-res-usage", path])
    found = re.search(rf"Function {re.escape(entry)}:\s*\n\s*(.*)", text)
    if found is None:
        raise BuildError(f"{tools.cuobjdump} finds no kernel {entry!r}", REMEDY)
    sizes = {name: int(value) for name, value in re.findall(r"([A-Z]+):(\d+)", found[1])}
    reserved = RESERVED if arch_number(target) >= 90 else 0  # from there on the tool counts it in
    return Resources(sizes["REG"], sizes["STACK"], max(0, sizes["SHARED"] - reserved))


def broken_promises(report: Report, promises: Sequence[Requirement]) -> tuple[str, ...]:
    """Return what a recipe promises of its machine code and a kernel does not keep, with what was found."""
    counts: Mapping[str, int] = dict(report.instructions)
    return tuple(
        f"{promise.name}: {promise.count(counts)} of {', '.join(promise.instructions)}"
        for promise in promises
        if not promise.holds(counts)
    )
