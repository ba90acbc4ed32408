"""Every product that a plain (N, K) matrix takes part in, as torch spells it: right, or refused with a remedy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import gridstone
from gridstone.ir.errors import FormatError, SpecError
from gridstone.runtime.tensors import QuantTensor

N, K = 48, 64


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


W = gridstone.quantize(draw(N, K, seed=0), "int4", group_size=32)
NAN = float("nan")
PRODUCTS = {
    "w @ vector": lambda w: w @ draw(K),
    "vector @ w": lambda w: draw(N) @ w,
    "w.t() @ vector": lambda w: w.t() @ draw(N),
    "mv": lambda w: torch.mv(w, draw(K)),
    "addmv": lambda w: torch.addmv(draw(N), w, draw(K), beta=2, alpha=0.5),
    "3-D @ w": lambda w: draw(2, 5, N) @ w,
    "w @ 3-D": lambda w: w @ draw(2, K, 5),
    "w.t() @ 4-D": lambda w: w.t() @ draw(2, 3, N, 5),
    "3-D @ a batch of one": lambda w: draw(2, 5, K) @ w.t().unsqueeze(0),
    "bmm": lambda w: torch.bmm(draw(2, 5, K), w.t().expand(2, K, N)),
    "bmm, w first": lambda w: torch.bmm(w.expand(2, N, K), draw(2, K, 5)),
    "bmm, transposed batch": lambda w: torch.bmm(draw(2, 5, K), w.expand(2, N, K).transpose(1, 2)),
    "baddbmm": lambda w: torch.baddbmm(draw(2, 5, N), draw(2, 5, K), w.mT.expand(2, K, N), beta=2, alpha=0.5),
    "einsum": lambda w: torch.einsum("bk,nk->bn", draw(5, K), w),
    "einsum, w first": lambda w: torch.einsum("nk,bk->nb", w, draw(5, K)),
    "einsum, 3-D": lambda w: torch.einsum("bsk,nk->bns", draw(2, 5, K), w),
    "einsum, vector": lambda w: torch.einsum("nk,k->n", w, draw(K)),
    "einsum, along n": lambda w: torch.einsum("bn,nk->bk", draw(5, N), w),
    "einsum, letters swapped": lambda w: torch.einsum("bk,kn->bn", draw(5, K), w.t()),
    "tensordot": lambda w: torch.tensordot(draw(5, K), w, dims=([1], [1])),
    "inner": lambda w: torch.inner(draw(5, K), w),
    "multi_dot": lambda w: torch.linalg.multi_dot([draw(5, K), w.t(), draw(N, 3)]),
    "addmm": lambda w: torch.addmm(draw(N), draw(5, K), w.t()),
    "addmm, matrix and factors": lambda w: torch.addmm(draw(5, N), draw(5, K), w.t(), beta=2, alpha=3),
    "addmm, column": lambda w: torch.addmm(draw(5, 1), draw(5, K), w.t()),
    "addmm, one": lambda w: torch.addmm(draw(1), draw(5, K), w.t()),
    "addmm, no bias": lambda w: torch.addmm(torch.full((N,), NAN), draw(5, K), w.t(), beta=0),
    "addmm, no product": lambda w: torch.addmm(draw(N), torch.full((5, K), NAN), w.t(), alpha=0),
    "linear, bias of a row": lambda w: F.linear(draw(5, K), w, draw(1, N)),
    "linear, bias of a matrix": lambda w: F.linear(draw(5, K), w, draw(5, N)),
    "linear, bias of one": lambda w: F.linear(draw(5, K), w, draw(1)),
    "linear, transposed": lambda w: F.linear(draw(5, N), w.t(), draw(K)),
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("product", PRODUCTS)
def test_products(product, mode):
    with mode():
        got, want = PRODUCTS[product](W), PRODUCTS[product](W.dequantize())
    assert not isinstance(got, QuantTensor)
    assert got.is_contiguous() == want.is_contiguous()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-5)


def test_products_with_a_single_output():
    """N=1, as of a scoring head: an axis of extent 1 could be taken for a batch."""
    k = 64
    w = gridstone.quantize(draw(1, k), "int8", group_size=-1)
    for product in (
        lambda w: draw(5, k) @ w.t(),
        lambda w: draw(2, 5, k).transpose(0, 1) @ w.t(),
        lambda w: torch.einsum("bk,nk->bn", draw(5, k), w),
        lambda w: torch.einsum("nk,k->n", w, draw(k)),
        lambda w: w @ draw(2, k, 3),
        lambda w: torch.bmm(draw(1, 5, k), w.t().unsqueeze(0)),
        lambda w: torch.bmm(draw(1, 5, k), w.unsqueeze(1).mT),
    ):
        torch.testing.assert_close(product(w), product(w.dequantize()))


VIEWS = {
    "t": lambda w: w.t(),
    "mT": lambda w: w.mT,
    "movedim": lambda w: w.movedim(0, 1),
    "expand": lambda w: w.expand(3, N, K),
    "expand twice": lambda w: w.expand(1, N, K).expand(2, 3, -1, -1),
    "expand, transposed": lambda w: w.expand(3, N, K).transpose(1, 2),
    "transpose, expanded": lambda w: w.t().expand(3, K, N),
    "batch moved": lambda w: w.expand(3, N, K).permute(1, 0, 2),
    "unsqueeze": lambda w: w.unsqueeze(-1),
    "unsqueeze, squeeze": lambda w: w.unsqueeze(0).unsqueeze(2).squeeze(),
    "squeeze of nothing": lambda w: w.squeeze(0),
    "view": lambda w: w.view(-1, 1, K),
    "view of a batch": lambda w: w.expand(2, 3, N, K).reshape(6, N, K),
    "split batch": lambda w: w.expand(6, N, K).view(2, -1, N, K),
    "[None]": lambda w: w[None],
    "reshape": lambda w: w.reshape(N, K),
    "contiguous": lambda w: w.t().contiguous(),
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("view", VIEWS)
def test_views_decode_to_the_view_of_the_matrix(view, mode):
    with mode():
        got = VIEWS[view](W)
    assert isinstance(got, QuantTensor)
    assert got.packed.data_ptr() == W.packed.data_ptr() or view == "contiguous"
    want = VIEWS[view](W.dequantize())
    assert got.shape == want.shape
    assert torch.equal(got.dequantize(), want)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "use",
    [
        lambda w: w.view(4, 12, K), lambda w: w.view(K, N), lambda w: w.expand(3, N, K).reshape(3 * N, K),
        lambda w: w.flatten(), lambda w: torch.bmm(draw(N, 1, K), w.unsqueeze(-1)),
        lambda w: torch.einsum("bk,nk->bnk", draw(5, K), w), lambda w: torch.einsum("bk,nk->b", draw(5, K), w),
        lambda w: w * 2, lambda w: F.conv1d(draw(1, K, 3), w.unsqueeze(-1)),
    ],
)  # fmt: skip
def test_what_is_no_product_with_the_matrix_is_refused(use, mode):
    with mode(), pytest.raises(FormatError, match=r"not defined on a quantised weight .call .dequantize.. first"):
        use(W)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_shapes_that_do_not_fit_are_refused(mode):
    for call, message in (
        (lambda: torch.bmm(draw(3, 5, K), W.t().expand(2, K, N)), "a batch of 3 cannot be multiplied with one of 2"),
        (lambda: draw(5, K) @ W, r"x of \(5, 64\) cannot be multiplied with a weight of N=48 .check the last extent"),
        (lambda: torch.mm(draw(2, 5, K), W.t()), r"\(2, 5, 64\) and \(64, 48\): both must be matrices .use @"),
        (lambda: gridstone.linear(draw(5, K), W.expand(3, N, K)), r"a view of a quantised matrix, \(3, 48, 64\)"),
    ):
        with mode(), pytest.raises(SpecError, match=message):
            call()
    with mode(), pytest.raises(RuntimeError, match="must match the existing size"):
        torch.addmm(draw(4, N), draw(5, K), W.t())


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_dtypes_that_differ_are_refused_as_in_torch(mode):
    """torch raises for a plain weight; a program that runs only because it is quantised would break when it is not."""
    x, bias = draw(5, K).bfloat16(), draw(N)
    for call in (
        lambda: F.linear(x, W), lambda: x @ W.t(), lambda: torch.mm(x, W.t()), lambda: torch.mv(W, x[0]),
        lambda: torch.addmm(bias.bfloat16(), x, W.t()), lambda: x[:, :N] @ W, lambda: W @ x.t(),
    ):  # fmt: skip
        with mode(), pytest.raises(SpecError, match=r"x is torch.bfloat16, .* stands for torch.float32 .call .to\(x"):
            call()
    for call in (lambda: F.linear(x, W.to(x.dtype), bias), lambda: torch.addmm(bias, x, W.t().to(x.dtype))):
        with mode(), pytest.raises(SpecError, match=r"torch.float32 cannot be added to a product of torch.bfloat16"):
            call()
    with mode():
        assert gridstone.linear(x, W).dtype == F.linear(x, W.to(x.dtype)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_integers_are_refused_along_either_side(dtype):
    """Breaks when the weight is decoded to the other operand's dtype: most of its values would become zero."""
    for call in (lambda: torch.ones(5, N).to(dtype) @ W, lambda: W @ torch.ones(K, 5).to(dtype)):
        with pytest.raises(SpecError, match=r"floating-point activations.*cast x"):
            call()


@pytest.mark.parametrize("rest", ["eager", "aot_eager"])
def test_a_view_as_the_input_of_a_compiled_function(rest):
    """Packed bytes have no batch: decoding them in its place would give a product of another shape."""
    compiled = gridstone.compile(lambda x, w: x @ w, rest=rest)
    x = draw(5, K)
    got = compiled(x, W.t().unsqueeze(0))
    torch.testing.assert_close(got, x @ W.t().dequantize().unsqueeze(0), rtol=1e-5, atol=2e-5)
