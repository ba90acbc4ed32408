"""What may be drawn next: a product in one of its spellings, what may be fused with it, what people write around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gridstone.ir.dtype import BY_TORCH
from gridstone.ir.format import parse_format
from gridstone.runtime.fuzz.draft import Draft
from gridstone.runtime.fuzz.nets import NETS
from gridstone.runtime.fuzz.operands import LAYOUTS, VALUES
from gridstone.runtime.fuzz.program import ROWS, Extent, Net, Packed, Plain, Same

OUTPUTS = (1, 32, 32, 33, 64, 64)  # extents of weights: few, for each takes a kernel of its own
ACTIVATIONS = ("relu", "silu", "gelu", "gelu_tanh", "silu_written", "gelu_written", "gelu_tanh_written")
NUMBERS = (0.5, 2.0, -1.0, 0.1, 3.0, 0.0)


def give_tensor(draft: Draft, shape: tuple[Extent, ...], kind: str, grad: bool = True) -> str:
    """Give the program another tensor."""
    backward = draft.program.call.backward
    values = draft.one_of(*VALUES) if draft.chance(0.2) else "normal"
    plain = Plain(
        "",
        kind,
        shape,
        draft.one_of(*LAYOUTS) if draft.chance(0.4) else "compact",
        "normal" if backward and values in ("nan", "inf") else values,
        grad and draft.chance(0.85 if backward else 0.05),
    )
    return draft.give(plain)


def kind_of(draft: Draft, name: str) -> str:
    """Return our name of a value's dtype."""
    return BY_TORCH[str(draft.value(name).dtype).removeprefix("torch.")].name


def other_kind(draft: Draft, kind: str, share: float = 0.06) -> str:
    """Return a dtype, or in a small share of the cases another one."""
    return draft.one_of("f32", "bf16", "f16") if draft.chance(share) else kind


def symbolic(draft: Draft, shape: tuple[int, ...]) -> tuple[Extent, ...]:
    """Return a shape of which one extent is `M` where it could be."""
    at = [i for i, extent in enumerate(shape[:-1]) if extent == draft.program.call.M[0]]
    if draft.program.rows() is None or not at or draft.chance(0.05):
        return shape
    return (*shape[: at[-1]], ROWS, *shape[at[-1] + 1 :])


def give_weight(draft: Draft, n: int, k: int, kind: str) -> str:
    """Give the program a weight, or take one that it has."""
    fitting = [
        one.name for one in draft.program.given if isinstance(one, Packed) and one.shape == (n, k) and one.dtype == kind
    ]
    if fitting and draft.chance(0.4):
        return draft.one_of(*fitting)
    if draft.chance(0.07):
        return give_tensor(draft, (n, k), kind)
    fmt = parse_format(draft.one_of(*draft.formats))
    fmt = fmt if fmt.group > 0 and k % fmt.group == 0 else replace(fmt, group=-1)
    return draft.give(Packed("", str(fmt), (n, k), kind))


def product(draft: Draft) -> None:
    """A linear layer, in one of its spellings."""
    x = draft.pick(lambda v: v.dim() > 0 and 1 < v.shape[-1] <= 64)
    if not x:
        return
    value, kind = draft.value(x), kind_of(draft, x)
    kind = "f32" if draft.mode == "autocast" and draft.chance(0.5) else other_kind(draft, kind, 0.03)
    n, k = draft.one_of(*OUTPUTS), value.shape[-1]
    spelling = draft.one_of(*SPELLINGS)
    if spelling == "stored":
        draft.add(draft.one_of("matmul", "torch_matmul"), x, give_weight(draft, k, 32, kind))
        return
    w = give_weight(draft, n, k, kind)
    bias = give_tensor(draft, (n,), other_kind(draft, kind)) if draft.chance(0.6) else None
    if spelling == "linear":
        draft.add("linear", x, w, *([bias] if bias else []))
    elif spelling == "fused":
        residual = None
        if draft.chance(0.4):
            shape = symbolic(draft, (*value.shape[:-1], n))
            residual = draft.pick(lambda v: v.shape == (*value.shape[:-1], n)) if draft.chance(0.3) else ""
            residual = residual or give_tensor(draft, shape, other_kind(draft, kind))
        activation = draft.one_of(None, "'relu'", "'silu'", "'gelu'", "'gelu_tanh'")
        numerics = "'bf16'" if draft.chance(0.15) else "'exact'"
        draft.add("fused", x, w, bias, residual, activation, numerics)
    elif spelling == "decoded" and any(one.name == w and isinstance(one, Packed) for one in draft.program.given):
        for decoded in draft.add("dequantize", w):
            draft.add("linear", x, decoded, *([bias] if bias else []))
    elif spelling == "einsum":
        draft.add("einsum", x, w)
    elif spelling == "batch" and value.dim() == 3:
        turned = draft.add("t", w)
        wide = turned and draft.add("unsqueeze", *turned, 0)
        wide = wide and draft.add("expand", *wide, [symbolic(draft, tuple(value.shape))[0], k, n])
        if wide and bias and draft.chance(0.5):
            draft.add("baddbmm", bias, x, *wide)
        elif wide:
            draft.add("bmm", x, *wide)
    elif spelling == "left":
        turned = draft.add("mT", x) if value.dim() > 1 else (x,)
        if turned:
            draft.add("mv" if value.dim() == 1 else draft.one_of("matmul", "mm"), w, *turned)
    else:
        turn = draft.one_of(("t",), ("mT",), ("transpose", 0, 1), ("transpose", -1, -2), ("permute", [1, 0]))
        turned = draft.add(turn[0], w, *turn[1:])
        if turned and bias and draft.chance(0.5):
            scales = () if draft.chance(0.7) else (draft.one_of(1, 0.5, 0), draft.one_of(1, 2.0, 0))
            draft.add("addmm", bias, x, *turned, *scales)
        elif turned:
            draft.add(draft.one_of("matmul", "torch_matmul", "mm"), x, *turned)


SPELLINGS = (*("linear",) * 9, *("turned",) * 6, *("fused",) * 5, "stored", "decoded", "einsum", "batch", "left")


def activate(draft: Draft) -> None:
    """An activation, or something like one."""
    x = draft.pick()
    if draft.chance(0.75):
        draft.add(draft.one_of(*ACTIVATIONS), x)
    elif draft.chance(0.5):
        draft.add("clamp", x, draft.one_of(0, 0.0, 0.0, -1.0), *([6.0] if draft.chance(0.3) else []))
    elif draft.chance(0.2):
        draft.add("by_rows", x, draft.one_of(2, 4))
    else:
        draft.add(draft.one_of("tanh", "sigmoid", "neg"), x)


def add_bias(draft: Draft) -> None:
    """A vector is added, or multiplied with."""
    x = draft.pick(lambda v: v.dim() > 0)
    if x:
        bias = give_tensor(draft, (draft.value(x).shape[-1],), other_kind(draft, kind_of(draft, x)))
        draft.add(draft.one_of("plus", "plus", "plus", "add", "times"), *draft.one_of((x, bias), (x, bias), (bias, x)))


def add_residual(draft: Draft) -> None:
    """Something of the same shape, or of one that is repeated to it, is added."""
    x = draft.pick()
    shape = tuple(draft.value(x).shape)
    other = draft.pick(lambda v: tuple(v.shape) == shape) if draft.chance(0.4) else ""
    if not other:
        wanted = symbolic(draft, shape)
        if wanted and draft.chance(0.15):
            at = int(draft.rng.integers(len(wanted)))
            wanted = (*wanted[:at], 1, *wanted[at + 1 :])
        other = give_tensor(draft, wanted, other_kind(draft, kind_of(draft, x)))
    op = draft.one_of("plus", "plus", "plus", "plus", "add", "minus", "times")
    alpha = [draft.one_of(*NUMBERS)] if op == "add" and draft.chance(0.5) else []
    draft.add(op, *draft.one_of((x, other), (other, x)), *alpha)


def scale(draft: Draft) -> None:
    """Arithmetic with a number."""
    x, number = draft.pick(), draft.one_of(*NUMBERS)
    if draft.chance(0.2):
        draft.add("over", x, draft.one_of(2.0, 3.0, -0.1))
    else:
        draft.add(draft.one_of("plus", "minus", "times"), *draft.one_of((x, number), (number, x)))


def reshape(draft: Draft) -> None:
    """Another shape of the same elements, or some of them."""
    x = draft.pick(lambda v: v.dim() > 0)
    if not x:
        return
    shape = draft.value(x).shape
    last, dims = shape[-1], len(shape)
    axis = int(draft.rng.integers(-dims, dims))
    half = max(last // 2, 1)
    rows = symbolic(draft, tuple(shape))[0]
    draft.add(*draft.one_of(
        ("reshape", x, [-1, last]), ("view", x, [-1, last]), ("reshape", x, [-1]), ("flatten", x, 0, -1),
        ("flatten", x, 0, -2), ("view", x, [rows, -1]), ("reshape", x, [rows, -1, 1]), ("unflatten", x, -1, [2, -1]),
        ("transpose", x, 0, -1), ("transpose", x, axis, -1), ("mT", x), ("permute", x, list(range(dims))[::-1]),
        ("narrow", x, -1, half // 2, half), ("rows", x, 0, 1), ("rows", x, 1, 3), ("columns", x, 0, half),
        ("columns", x, 1, last, 2), ("select", x, axis, 0), ("unsqueeze", x, axis), ("squeeze", x, axis),
        ("expand", x, [2, *(-1 for _ in shape)]), ("contiguous", x), ("clone", x), ("detach", x),
        ("dropout", x, 0.5),
    ))  # fmt: skip


def take_apart(draft: Draft) -> None:
    """Parts of a tensor."""
    x = draft.pick(lambda v: v.dim() > 0 and v.shape[-1] % 2 == 0 and v.shape[-1] > 0)
    if x and draft.chance(0.5):
        draft.add("chunk", x, 2, -1, results=2)
    elif x:
        half = draft.value(x).shape[-1] // 2
        draft.add("split", x, [half, draft.value(x).shape[-1] - half], -1, results=2)


def join(draft: Draft) -> None:
    """Several tensors become one."""
    x = draft.pick(lambda v: v.dim() > 0)
    if x:
        shape = draft.value(x).shape
        others = [draft.pick(lambda v: v.shape == shape) for _ in range(int(draft.rng.integers(1, 3)))]
        draft.add(draft.one_of("cat", "stack"), draft.one_of(0, -1), x, *others)


def convert(draft: Draft) -> None:
    """Another dtype."""
    x = draft.pick()
    draft.add(*draft.one_of(
        ("to", x, "'f32'"), ("to", x, "'bf16'"), ("to", x, "'f16'"), ("to_float", x), ("to_half", x),
        ("type_as", x, draft.pick()),
    ))  # fmt: skip


def normalise(draft: Draft) -> None:
    """Something along an axis."""
    x = draft.pick(lambda v: v.dim() > 0)
    if not x:
        return
    choice = draft.one_of("softmax", "softmax", "layer_norm", "layer_norm", "sum", "mean")
    if choice != "layer_norm":
        draft.add(choice, x, draft.one_of(-1, -1, 0))
        return
    n, kind = draft.value(x).shape[-1], kind_of(draft, x)
    operands = [give_tensor(draft, (n,), kind) for _ in range(draft.one_of(0, 1, 2))]
    draft.add("layer_norm", x, *operands)


def change(draft: Draft) -> None:
    """A change in place, of a result or of an input."""
    x = draft.pick(lambda v: not v.is_leaf or not v.requires_grad)
    if not x:
        return
    value = draft.value(x)
    same = draft.pick(lambda v: v.shape == value.shape)
    number = draft.one_of(*NUMBERS)
    half = max(value.shape[-1] // 2, 1) if value.dim() else 1
    draft.add(*draft.one_of(
        ("relu_", x), ("relu_", x), ("silu_", x), ("clamp_", x, 0.0), ("add_", x, number), ("add_", x, same),
        ("iadd", x, same), ("iadd", x, same), ("iadd", x, number), ("mul_", x, number), ("copy_", x, same),
        ("set_columns", x, 0, half, number), ("add_out", x, same, draft.pick(lambda v: v.shape == value.shape)),
    ))  # fmt: skip


def call_net(draft: Draft) -> None:
    """A module is called."""
    x = draft.pick(lambda v: v.dim() in (2, 3) and v.shape[-1] in (32, 64))
    if not x:
        return
    kind, width = kind_of(draft, x), draft.value(x).shape[-1]
    name = draft.one_of(*NETS)
    if name == "encoder" and "autocast" in (draft.mode, draft.program.call.mode):
        return  # autocast does not reach a quantised one: it computes, and gives, float32
    if name == "head":
        x = draft.give(Plain("", "i64", draft.one_of((ROWS,), (2, ROWS), (3,))))
    hidden, out, heads = draft.one_of(32, 64), draft.one_of(*OUTPUTS), draft.one_of(1, 2, 4)
    sizes = {
        "mlp": (width, hidden, out), "residual": (width, hidden), "twice": (width,), "head": (16, width),
        "attention": (width, heads), "encoder": (width, heads, hidden),
    }[name]  # fmt: skip
    fmt = parse_format(draft.one_of(*draft.formats))
    fmt = fmt if fmt.group > 0 and 32 % fmt.group == 0 else replace(fmt, group=-1)
    if not fmt.zero and (fmt.code.low == 0 or fmt.code.high == 0):
        return  # its weights have both signs
    words = tuple(word for word in NETS[name].words if draft.chance(0.3))
    net = draft.give(Net("", name, sizes, str(fmt), kind, words))
    draft.add("attend" if name == "attention" else "call", net, x, results=2 if name == "attention" else 1)


def switch(draft: Draft) -> None:
    """From here on another mode."""
    draft.mode = draft.one_of("", "", "no_grad", "autocast", "enable_grad", "inference" if draft.chance(0.3) else "")
    if draft.program.call.by == "export":
        draft.mode = ""


def give_again(draft: Draft) -> None:
    """A tensor is given twice, by two names."""
    names = [one.name for one in draft.program.given if isinstance(one, Plain) and one.dtype != "i64"]
    draft.give(Same("", draft.one_of(*names)))


_WEIGHTED: tuple[tuple[int, Callable[[Draft], None]], ...] = (
    (20, product), (16, activate), (9, add_bias), (14, add_residual), (7, scale), (14, reshape), (4, take_apart),
    (4, join), (5, convert), (6, normalise), (8, change), (3, call_net), (4, switch), (1, give_again),
)  # fmt: skip
ACTIONS = tuple(action for _, action in _WEIGHTED)
SHARES = [weight / sum(weight for weight, _ in _WEIGHTED) for weight, _ in _WEIGHTED]
