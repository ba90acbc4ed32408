"""Programs: straight-line code over named tensors, in a small language of its own that prints on one line.

    x: f32(M,64); w: int4:g32:f32(48,64) f32 | a = linear x w; b = relu a | b a | M=3,5 dynamic=true seed=7

Four parts: what is given, the body, what is returned, and how it is called. An argument is a name, a number, a list
(`[2,-1]`), a word in quotes (`'bf16'`), `-` for none, or `M`: the extent that differs from call to call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

ROWS = "M"
SEPARATOR = " | "
Extent = int | str


@dataclass(frozen=True, slots=True)
class Plain:
    """A plain tensor.

    Args:
        name: Of the value.
        dtype: Our name of its dtype.
        shape: Extents; `M` for the one that differs from call to call.
        layout: One of `operands.LAYOUTS`: where its elements lie.
        values: One of `operands.VALUES`.
        grad: Whether it requires a gradient.
    """

    name: str
    dtype: str
    shape: tuple[Extent, ...]
    layout: str = "compact"
    values: str = "normal"
    grad: bool = False

    def __str__(self) -> str:
        words = [word for word, plain in ((self.layout, "compact"), (self.values, "normal")) if word != plain]
        extents = ",".join(map(str, self.shape))
        return " ".join([f"{self.name}: {self.dtype}({extents})", *words, *(["grad"] if self.grad else [])])


@dataclass(frozen=True, slots=True)
class Packed:
    """A quantised weight.

    Args:
        name: Of the value.
        format: Text form of its format.
        shape: (N, K).
        dtype: Our name of the dtype that it stands for.
    """

    name: str
    format: str
    shape: tuple[int, int]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.format}({self.shape[0]},{self.shape[1]}) {self.dtype}"


@dataclass(frozen=True, slots=True)
class Net:
    """A module in evaluation mode, its linear layers quantised.

    Args:
        name: Of the value.
        kind: One of `nets.NETS`.
        sizes: What that kind takes.
        format: Text form of the format of its weights.
        dtype: Our name of the dtype of its parameters.
        words: Choices among those that the kind knows.
    """

    name: str
    kind: str
    sizes: tuple[int, ...]
    format: str
    dtype: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        sizes = ",".join(map(str, self.sizes))
        return " ".join([f"{self.name}: {self.kind}({sizes}) {self.format} {self.dtype}", *self.words])


@dataclass(frozen=True, slots=True)
class Same:
    """Another name for a tensor that is given already: it is given twice."""

    name: str
    of: str

    def __str__(self) -> str:
        return f"{self.name}: = {self.of}"


Given = Plain | Packed | Net | Same


@dataclass(frozen=True, slots=True)
class Instruction:
    """One call.

    Args:
        names: What its results are called.
        op: One of `ops.OPS`.
        arguments: Each as it is written.
        mode: One of `machine.MODES` that it runs in, empty for the program's own.
    """

    names: tuple[str, ...]
    op: str
    arguments: tuple[str, ...]
    mode: str = ""

    def __str__(self) -> str:
        call = " ".join([", ".join(self.names), "=", self.op, *self.arguments])
        return f"{call} @{self.mode}" if self.mode else call

    @property
    def reads(self) -> tuple[str, ...]:
        """Names among its arguments."""
        return tuple(argument for argument in self.arguments if argument.isidentifier() and argument != ROWS)


@dataclass(frozen=True, slots=True)
class Call:
    """How a program is compiled and called.

    Args:
        M: Values of `M`, one per call, one call after the other.
        by: `gridstone` for `gridstone.compile`, `torch` for `torch.compile(backend="gridstone")`, or `export`.
        rest: Backend for what is left.
        dynamic: `none`, `true` or `false`, as `torch.compile` takes it.
        mode: One of `machine.MODES` around the call, or `plain`.
        numerics: Class of the products that name none.
        target: `auto`, or `library:torch`, which builds no kernels.
        held: Whether weights and modules are free variables of the program, not arguments.
        backward: Whether gradients are computed.
        seed: Of all values.
    """

    M: tuple[int, ...] = (3,)
    by: str = "gridstone"
    rest: str = "eager"
    dynamic: str = "none"
    mode: str = "plain"
    numerics: str = "exact"
    target: str = "auto"
    held: bool = False
    backward: bool = False
    seed: int = 0

    def __str__(self) -> str:
        plain = Call()
        return " ".join(
            f"{f.name}={_written(getattr(self, f.name))}"
            for f in fields(self)
            if f.name == ROWS or getattr(self, f.name) != getattr(plain, f.name)
        )


@dataclass(frozen=True, slots=True)
class Program:
    """A program and how it is called.

    Args:
        given: What it takes, or holds.
        body: In order.
        returns: Names of what it returns.
        call: How it is compiled and called.
    """

    given: tuple[Given, ...]
    body: tuple[Instruction, ...]
    returns: tuple[str, ...]
    call: Call

    def __str__(self) -> str:
        given, body = "; ".join(map(str, self.given)), "; ".join(map(str, self.body))
        return SEPARATOR.join((given, body, " ".join(self.returns), str(self.call)))

    def rows(self) -> tuple[str, int] | None:
        """Return the first tensor that has an extent `M`, and which one that is."""
        return next(self._symbolic(), None)

    def _symbolic(self) -> Iterator[tuple[str, int]]:
        for one in self.given:
            if isinstance(one, Plain) and ROWS in one.shape:
                yield one.name, one.shape.index(ROWS)


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
