"""QuantTensor behaves as the matrix that it stands for, and refuses what would decode it in silence."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import prune

import gridstone
from gridstone.ir.errors import FormatError
from gridstone.runtime.tensors import QuantTensor
from tests.runtime.reference import assert_linear, assert_product

N, K = 48, 64


def weight(seed=0, dtype=torch.float32, fmt="int4", **options):
    generator = torch.Generator().manual_seed(seed)
    return gridstone.quantize(torch.randn(N, K, generator=generator).to(dtype), fmt, **{"group_size": 32, **options})


def rows(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, K, generator=torch.Generator().manual_seed(seed)).to(dtype)


PRODUCTS = {
    "F.linear": lambda x, w: F.linear(x, w),
    "@ .T": lambda x, w: x @ w.T,
    "@ .t()": lambda x, w: x @ w.t(),
    "@ .transpose(0, 1)": lambda x, w: x @ w.transpose(0, 1),
    "@ .transpose(-1, -2)": lambda x, w: x @ w.transpose(-1, -2),
    "@ .mT": lambda x, w: x @ w.mT,
    "@ .permute(1, 0)": lambda x, w: x @ w.permute(1, 0),
    "matmul": lambda x, w: torch.matmul(x, w.t()),
    "F.linear twice transposed": lambda x, w: F.linear(x, w.t().t()),
}
STEPPED = {  # rows that do not follow each other: torch repeats the weight instead of flattening x
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "sliced": lambda x: torch.stack([x, x], dim=2)[:, :, 0],
    "expanded": lambda x: x[:, :1].expand_as(x),
    "k strided": lambda x: torch.stack([x, x], dim=-1)[..., 0],
}


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 1, 3), (1,), (0,), (2, 0)], ids=str)
@pytest.mark.parametrize("spelling", PRODUCTS)
def test_products(spelling, shape):
    """Every way to multiply with the stored weight's transpose, for every rank of x."""
    w, x = weight(), rows(*shape)
    assert_linear(PRODUCTS[spelling](x, w), x, w)


@pytest.mark.parametrize("spelling", PRODUCTS)
@pytest.mark.parametrize("layout", STEPPED)
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5)], ids=str)
def test_products_with_any_layout_of_x(spelling, layout, shape):
    w, x = weight(), STEPPED[layout](rows(*shape))
    assert_linear(PRODUCTS[spelling](x, w), x, w)
    bias = torch.randn(N)
    assert_linear(F.linear(x, w, bias), x, w, bias)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    grad = torch.randn(*shape, N, generator=torch.Generator().manual_seed(4))
    (got,) = torch.autograd.grad(PRODUCTS[spelling](x, w), x, grad)
    assert_product(got.reshape(-1, K), grad.reshape(-1, N), w.dequantize().t().contiguous())


@pytest.mark.parametrize("spelling", PRODUCTS)
def test_products_with_a_vector(spelling):
    w, x = weight(), rows()
    assert_linear(PRODUCTS[spelling](x, w).reshape(1, N), x.reshape(1, K), w)
    assert PRODUCTS[spelling](x, w).shape == (N,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mm_and_addmm(dtype):
    w, x, bias = weight(dtype=dtype), rows(5, dtype=dtype), torch.randn(N).to(dtype)
    assert_linear(torch.mm(x, w.t()), x, w)
    assert_linear(torch.addmm(bias, x, w.t()), x, w, bias)
    assert_linear(F.linear(x, w, bias), x, w, bias)


def test_addmm_with_factors_or_a_matrix_is_still_the_sum():
    w, x, bias, matrix = weight(), rows(5), torch.randn(N), torch.randn(5, N)
    decoded = w.dequantize()
    torch.testing.assert_close(torch.addmm(bias, x, w.t(), beta=2, alpha=0.5), 2 * bias + 0.5 * (x @ decoded.t()))
    torch.testing.assert_close(torch.addmm(matrix, x, w.t()), matrix + x @ decoded.t())


def test_products_along_the_other_side():
    """x @ w (not transposed), w @ x and w.t() @ x: decoded, but right."""
    w = weight()
    decoded = w.dequantize()
    g = torch.randn(5, N)
    assert_product(g @ w, g, decoded.t().contiguous())
    assert_product(w @ rows(5).t(), decoded, rows(5))
    assert_product(w.t() @ g.t(), decoded.t().contiguous(), g)
    assert_product(F.linear(g, w.t()), g, decoded.t().contiguous())
    assert (torch.randn(2, 3, N) @ w).shape == (2, 3, K)


def test_two_quantised_matrices_are_not_multiplied():
    w = weight()
    with pytest.raises(FormatError, match=r"two quantised matrices .*dequantize"):
        w @ w.t()


def test_it_looks_like_its_matrix():
    w = weight(dtype=torch.bfloat16)
    assert (w.shape, w.dtype, w.dim(), w.numel(), w.device.type) == ((N, K), torch.bfloat16, 2, N * K, "cpu")
    assert w.t().shape == (K, N)
    assert w.requires_grad is False
    assert w.is_contiguous()
    assert w.packed.dtype == torch.uint8
    assert w.packed.numel() < N * K


def test_repr_names_format_shape_dtype_and_size():
    assert repr(weight()) == "QuantTensor(int4:g32:f32, shape=(48, 64), dtype=torch.float32, 2560 bytes lane16)"
    assert repr(torch.nn.Parameter(weight(), requires_grad=False)).count("int4:g32:f32") == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dequantize(dtype):
    w = weight()
    exact = w.dequantize(torch.float64)
    assert torch.equal(w.dequantize(dtype), exact.to(torch.float32 if dtype != torch.float64 else dtype).to(dtype))
    assert torch.equal(w.t().dequantize(dtype), w.dequantize(dtype).t())
    assert w.dequantize().dtype == w.dtype


@pytest.mark.parametrize("fmt", ["int4", "uint4:zero", "int8", "uint8:zero", "int2", "int3", "int6"])
def test_quantising_errs_by_half_a_step_at_most(fmt):
    """Breaks when rounding, clipping or a zero point is off: within half of a step of the group's own scale."""
    raw = torch.randn(N, K, generator=torch.Generator().manual_seed(3))
    w = gridstone.quantize(raw, fmt, group_size=32)
    step = torch.from_numpy(w.parts().scales).repeat_interleave(32, dim=1)
    error = (w.dequantize(torch.float64) - raw.double()).abs()
    assert (error <= step * 0.5 * (1 + 1e-5)).all()


def test_dtype_moves_change_what_it_stands_for_and_not_its_bits():
    w = weight()
    for moved, dtype in (
        (w.to(torch.bfloat16), torch.bfloat16),
        (w.half(), torch.float16),
        (w.double(), torch.float64),
    ):
        assert isinstance(moved, QuantTensor)
        assert moved.dtype == dtype
        assert torch.equal(moved.packed, w.packed)
    assert w.to("cpu") is w
    assert w.to(torch.float32) is w
    with pytest.raises(FormatError, match=r"cannot stand for torch.int8 .use a floating-point dtype"):
        w.to(torch.int8)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    ("move", "dtype"),
    [
        (lambda t: t.bfloat16(), torch.bfloat16), (lambda t: t.half(), torch.float16),
        (lambda t: t.float(), torch.float32), (lambda t: t.double(), torch.float64),
        (lambda t: t.to(torch.float16), torch.float16), (lambda t: t.to("cpu"), torch.float32),
        (lambda t: t.to("cpu", torch.bfloat16), torch.bfloat16), (lambda t: t.cpu(), torch.float32),
    ],
)  # fmt: skip
def test_moves_in_every_mode_of_a_tensor_and_of_a_module(move, dtype, mode):
    """In inference mode torch hands `to` over whole, where it otherwise takes it apart."""
    layer = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32)
    x = rows(3).to(dtype)
    with mode():
        w, layer = move(weight()), move(layer)
        assert isinstance(w, QuantTensor)
        assert isinstance(layer.weight, QuantTensor)
        assert w.dtype == layer.weight.dtype == dtype
        assert torch.equal(w, weight())
        assert_linear(layer(x), x, layer.weight, layer.bias)
        if dtype != torch.float32:
            assert move(weight().t()).shape == (K, N)
        assert w.to(torch.float16, copy=True).packed.data_ptr() != w.packed.data_ptr()


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, "float32"]
)
def test_it_decodes_to_no_other_dtype(dtype):
    """Integers would hold none of the scales."""
    with pytest.raises(FormatError, match=rf"cannot stand for {dtype} .use a floating-point dtype: float32, bfloat16"):
        weight().dequantize(dtype)


def test_device_moves_move_the_bytes():
    moved = weight().to("meta")
    assert isinstance(moved, QuantTensor)
    assert moved.device.type == moved.packed.device.type == "meta"
    assert moved.shape == (N, K)


def test_a_module_s_moves_reach_the_weight():
    layer = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32).to(torch.bfloat16)
    assert isinstance(layer.weight, QuantTensor)
    assert layer.weight.dtype == torch.bfloat16
    x = rows(3, dtype=torch.bfloat16)
    assert_linear(layer(x).detach(), x, layer.weight, layer.bias.detach())


@pytest.mark.parametrize(
    "copied", [torch.clone, torch.Tensor.detach, copy.deepcopy, copy.copy], ids=["clone", "detach", "deepcopy", "copy"]
)
def test_copies(copied):
    w = weight()
    c = copied(w)
    assert isinstance(c, QuantTensor)
    assert torch.equal(c, w)
    assert (c.packed.data_ptr() == w.packed.data_ptr()) == (copied in (torch.Tensor.detach, copy.copy))


def test_equality_is_of_format_and_bits():
    assert torch.equal(weight(), weight())
    assert not torch.equal(weight(), weight(seed=9))
    assert not torch.equal(weight(), weight(fmt="uint4:zero"))
    assert not torch.equal(weight(), weight().dequantize())


@pytest.mark.parametrize(
    "use",
    [lambda w: w + 1, lambda w: w * w, lambda w: w[0], lambda w: w.sum(), lambda w: torch.cat([w, w]), lambda w: w.zero_(),  # noqa: E501
     lambda w: w.reshape(-1), lambda w: F.embedding(torch.tensor([1]), w)],
)  # fmt: skip
def test_what_would_decode_in_silence_is_refused(use):
    """Breaks when a use makes a float copy that nobody asked for, or returns the matrix as if nothing had happened."""
    with pytest.raises(FormatError, match=r"not defined on a quantised weight .call .dequantize.. first"):
        use(weight())


SAVED = {
    "tensor": lambda: weight(),
    "transposed": lambda: weight().t(),
    "parameter": lambda: torch.nn.Parameter(weight(), requires_grad=False),
    "state": lambda: gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32).state_dict(),
}


@pytest.mark.parametrize("what", SAVED)
def test_save_and_load_with_weights_only(what):
    saved = SAVED[what]()
    stream = io.BytesIO()
    torch.save(saved, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=True)
    pairs = [(saved, loaded)] if what != "state" else [(saved[k], loaded[k]) for k in saved]
    for old, new in pairs:
        assert type(old) is type(new)
        assert torch.equal(old, new)


@pytest.mark.parametrize(
    "order", ["import torch, gridstone", "import gridstone, torch", "import gridstone; import torch.nn"]
)
def test_a_fresh_process_loads_with_weights_only(order, tmp_path):
    """Breaks when the class is known to torch only if the imports happen to come in one order."""
    torch.save({"w": weight()}, tmp_path / "w.pt")
    code = (
        f"{order}\n"
        f"w = torch.load({str(tmp_path / 'w.pt')!r}, weights_only=True)['w']\n"
        "assert type(w).__name__ == 'QuantTensor', type(w)\n"
        f"assert w.dequantize().shape == ({N}, {K})\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr


def test_state_is_assigned_into_a_plain_layer():
    state = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32).state_dict()
    plain = torch.nn.Linear(K, N)
    plain.load_state_dict(state, assign=True)
    assert isinstance(plain.weight, QuantTensor)
    x = rows(3)
    assert_linear(plain(x).detach(), x, plain.weight, plain.bias.detach())


def test_state_is_copied_into_a_quantised_layer():
    source = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32)
    target = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32)
    before = target.weight
    target.load_state_dict(source.state_dict())
    assert target.weight is before
    assert torch.equal(target.weight, source.weight)
    assert target.weight.packed.data_ptr() != source.weight.packed.data_ptr()


def test_state_loaded_into_a_plain_layer_is_refused():
    """torch would decode it in silence: a model that fits on disk and not in memory."""
    state = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32).state_dict()
    plain = torch.nn.Linear(K, N)
    before = plain.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"would decode in silence.*load_state_dict\(..., assign=True\)"):
        plain.load_state_dict(state)
    assert torch.equal(plain.weight, before)


def test_plain_state_loaded_into_a_quantised_layer_is_refused():
    layer = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32)
    with pytest.raises(
        RuntimeError, match=r"a float tensor cannot be copied into a quantised weight.*gridstone.quantize"
    ):
        layer.load_state_dict(torch.nn.Linear(K, N).state_dict())


def test_state_of_another_format_is_refused():
    layer = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32)
    other = gridstone.quantize_model(torch.nn.Linear(K, N), "int8", group_size=32)
    before = layer.weight.packed.clone()
    with pytest.raises(RuntimeError, match="int8:g32"):
        layer.load_state_dict(other.state_dict())
    assert torch.equal(layer.weight.packed, before)


def test_shared_memory_holds_the_bytes():
    """torch would look for the memory of a tensor that has none, and crash."""
    layer = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32)
    assert not layer.weight.is_shared()
    layer.share_memory()
    assert layer.weight.is_shared()
    assert layer.weight.packed.is_shared()
    assert not layer.weight.is_pinned()


def test_data_is_replaced_with_its_bytes_or_not_at_all():
    """Breaks when `.data = ...` changes what torch sees and leaves the packed bytes, which the layer computes with."""
    parameter = torch.nn.Parameter(weight(), requires_grad=False)
    other = weight(seed=9, fmt="int8", dtype=torch.bfloat16)
    parameter.data = other
    assert torch.equal(parameter, other)
    assert parameter.dtype == torch.bfloat16
    x = rows(3, dtype=torch.bfloat16)
    assert_linear(gridstone.linear(x, parameter), x, other)
    with pytest.raises(FormatError, match=r"float tensor cannot be copied .* .quantise it with gridstone.quantize"):
        parameter.data = torch.randn(N, K)
    assert torch.equal(parameter, other)


def test_what_would_read_its_memory_is_refused():
    with pytest.raises(FormatError, match=r"cannot be exported through DLPack .export .packed"):
        torch.from_dlpack(weight())
    with pytest.raises(RuntimeError, match="not supported for tensor subclasses"):
        weight().numpy()


def test_room_for_a_weight():
    """`to_empty`, then loading: how a model that was built on meta gets its weights."""
    layer = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32)
    empty = copy.deepcopy(layer).to("meta").to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty.weight, layer.weight)
    with torch.device("meta"):
        plain = torch.nn.Linear(K, N)
    plain.load_state_dict(layer.state_dict(), assign=True)
    x = rows(3)
    assert_linear(plain(x).detach(), x, layer.weight, layer.bias.detach())


def test_compiled_graphs_are_cached_by_all_but_the_values():
    """Breaks when two weights that need different graphs are taken for each other, or equal ones are not."""
    known = [
        weight(), weight(fmt="int8"), weight(dtype=torch.bfloat16), weight(group_size=64), weight().t(),
        weight().to("meta"), weight().expand(2, N, K),
    ]  # fmt: skip
    hashes = [w._stable_hash_for_caching() for w in known]
    assert len(set(hashes)) == len(known)
    assert hashes[0] == weight(seed=9)._stable_hash_for_caching()


def test_a_quantised_weight_is_not_trained():
    for asked in (weight().requires_grad_(), torch.nn.Parameter(weight())):
        assert asked.requires_grad is False
    with pytest.raises(FormatError, match=r"has no gradient .train the parameters that are not quantised"):
        weight().requires_grad = True
    layer = gridstone.quantize_model(torch.nn.Linear(K, N), "int4", group_size=32)
    assert layer.weight.requires_grad is False
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["bias"]
    assert isinstance(layer.weight, torch.nn.Parameter)


def test_autocast():
    """x is cast as for a plain layer; the packed weight is not touched."""
    w, x = weight(), rows(6)
    with torch.autocast("cpu", torch.bfloat16):
        results = F.linear(x, w), x @ w.t(), gridstone.linear(x, w)
    for y in results:
        assert y.dtype == torch.bfloat16
        assert_linear(y, x.to(torch.bfloat16), w)


def test_inference_mode():
    with torch.inference_mode():
        w, x = weight(), rows(6)
        assert_linear(F.linear(x, w), x, w)
        assert_linear(gridstone.linear(x, w, activation="relu"), x, w, activation="relu")
    w = weight()
    with torch.inference_mode():
        assert_linear(F.linear(x, w), x, w)


def test_quantize_model_keeps_ties_and_skips():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = torch.nn.Linear(K, K), torch.nn.Linear(K, K), torch.nn.Linear(K, N)
            self.b.weight = self.a.weight

    model = gridstone.quantize_model(Tied(), "int4", group_size=32, skip=("he*",))
    assert model.a.weight is model.b.weight
    assert isinstance(model.a.weight, QuantTensor)
    assert not isinstance(model.head.weight, QuantTensor)
    assert gridstone.quantize_model(model, "int8", group_size=32).a.weight.format.startswith("int4")
    with pytest.raises(FormatError, match=r"skip='lm_head' matches no linear layer .layers: a, b, head"):
        gridstone.quantize_model(Tied(), "int4", skip=("lm_head",))


def test_quantize_model_takes_one_name_to_skip():
    """A string is a sequence of strings: each letter would be taken for a pattern."""
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(K, N), "h": torch.nn.Linear(K, N)})
    gridstone.quantize_model(model, "int4", group_size=32, skip="head")
    assert [isinstance(layer.weight, QuantTensor) for layer in model.values()] == [False, True]


def test_quantize_model_refuses_what_has_no_weight_of_its_own():
    normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(K, N))
    for module, message in (
        (torch.randn(N, K), "a Tensor is not a module .gridstone.quantize takes a single weight"),
        (torch.nn.Sequential(normed), r"layer 0: its weight is computed from .* .call .*remove_parametrizations first"),
        (torch.nn.Sequential(torch.nn.LazyLinear(N)), "layer 0: its weight has no shape yet .run the model once first"),
    ):
        with pytest.raises(FormatError, match=message):
            gridstone.quantize_model(module, "int4", group_size=32)


@pytest.mark.parametrize(
    ("undo", "wrap"),
    [
        ("remove_weight_norm", torch.nn.utils.weight_norm),
        ("remove_spectral_norm", torch.nn.utils.spectral_norm),
        ("prune.remove", lambda layer: prune.random_unstructured(layer, "weight", 0.5)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_quantize_model_names_what_undoes_a_computed_weight(undo, wrap):
    with pytest.raises(FormatError, match=rf"call torch.nn.utils.{undo} first"):
        gridstone.quantize_model(torch.nn.Sequential(wrap(torch.nn.Linear(K, N))), "int4", group_size=32)


def test_quantize_model_says_what_stays_tied_to_nothing():
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(N, K), "head": torch.nn.Linear(K, N)})
    model["head"].weight = model["embed"].weight
    with pytest.warns(UserWarning, match=r"embed.weight shares the weight of layer head and keeps it in float"):
        gridstone.quantize_model(model, "int4", group_size=32)
    assert isinstance(model["head"].weight, QuantTensor)
    assert not isinstance(model["embed"].weight, QuantTensor)


def test_quantize_model_of_a_compiled_module_takes_the_names_inside():
    model = torch.nn.Sequential(torch.nn.Linear(K, N), torch.nn.Linear(K, N))
    gridstone.quantize_model(gridstone.compile(model), "int4", group_size=32, skip="0")
    assert [isinstance(layer.weight, QuantTensor) for layer in model] == [False, True]


def test_quantize_model_names_the_layer_that_does_not_fit():
    model = torch.nn.Sequential(torch.nn.Linear(64, 40), torch.nn.Linear(40, 8))
    with pytest.raises(FormatError, match=r"layer 1: K=40 is not a multiple of the group size 64"):
        gridstone.quantize_model(model, "int4", group_size=64)
    assert not isinstance(model[0].weight, QuantTensor), "all or none"


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("int4", "int4:g32:bf16"),
        ("int4:f32", "int4:g32:f32"),
        ("uint4:zero:f32", "uint4:g32:f32:zero"),
        ("int4:g32", "int4:g32"),
    ],
)
def test_a_format_without_its_group_takes_the_group_size(asked, got):
    assert weight(dtype=torch.bfloat16, fmt=asked).format == got


def test_a_decoded_weight_is_quantised_to_itself():
    """Breaks when a scale is rounded more than once: every round trip would then lose a little."""
    w = weight(fmt="int4:f32")
    assert torch.equal(gridstone.quantize(w.dequantize(), "int4:f32", group_size=32), w)


@pytest.mark.parametrize("fmt", ["int4:g32:f32", "uint4:g32:f32:zero", "int8:g32:f32:zero", "uint2:g32:f32:zero"])
def test_weights_near_the_end_of_float32(fmt):
    """Breaks when the distance between the largest and the smallest weight overflows though its scale does not."""
    raw = torch.linspace(-1, 1, 64)[torch.arange(64).view(32, 2).t().flatten()].repeat(8, 1) * 2.5e38
    w = gridstone.quantize(raw, fmt)
    step = torch.from_numpy(w.parts().scales).repeat_interleave(32, dim=1)
    assert ((w.dequantize(torch.float64) - raw.double()).abs() <= step * 0.5 * (1 + 1e-5)).all()
    assert torch.isfinite(w.dequantize()).all()
