"""Bugs planted in what is kept of kernels, and in what becomes of a program: keys, capture, products, gradients."""

from __future__ import annotations

from tests.mutation.plant import Planted

STORE = "tests/kernel_cache/test_store.py::test_"
MAKE = "tests/kernel_cache/test_make.py::test_"
PATTERNS = "tests/runtime/test_patterns.py::test_"
NEAR = f"{PATTERNS}near_misses_are_computed_as_written"
PRODUCTS = "tests/runtime/test_products.py::test_products"
COMPILE = "tests/runtime/test_compile.py::test_"
GRADIENTS = "tests/runtime/test_gradients.py::test_gradients_are_torch_s_on_the_decoded_weight"
QUANT = "tests/runtime/test_quant_tensor.py::test_"


def planted(name: str, klass: str, file: str, old: str, new: str, *tests: str, count: int = 1) -> Planted:
    return Planted(name, klass, "python", file, old, new, tests, count)


KEPT = (
    planted(
        "key: an artefact's text does not count", "cache-key collision", "kernel_cache/make.py",
        'Key(source.language.value, (*facts, ("text", source.text)))',
        'Key(source.language.value, (*facts, ("text", source.origin.spec)))',
        f"{MAKE}the_key_holds_all_that_an_artefact_depends_on",
    ),
    planted(
        "key: a target does not count", "cache-key collision", "kernel_cache/make.py",
        '("target", str(target)), ("entry", source.entry)',
        '("target", source.language.value), ("entry", source.entry)',
        f"{MAKE}the_key_holds_all_that_an_artefact_depends_on",
    ),
    planted(
        "key: the compiler's flags do not count", "cache-key collision", "kernel_cache/toolchain_cpp.py",
        '("flags", " ".join((*FLAGS, *target.flags))),', '("flags", " ".join(FLAGS)),',
        f"{MAKE}the_key_holds_all_that_an_artefact_depends_on",
    ),
    planted(
        "key: the compiler does not count", "cache-key collision", "kernel_cache/toolchain_cpp.py",
        '("compiler", version or "none"),', '("compiler", "c++"),', f"{MAKE}another_compiler_is_another_key",
    ),
    planted(
        "key: values do not count", "cache-key collision", "kernel_cache/key.py", '"fields": dict(self.fields)}',
        '"fields": [name for name, _ in self.fields]}', "tests/kernel_cache/test_key.py",
    ),
    planted(
        "key: the kind does not count", "cache-key collision", "kernel_cache/key.py", '"kind": self.kind, "fields"',
        '"fields"', "tests/kernel_cache/test_key.py",
    ),
    planted(
        "store: a blob is told by its length", "cache-key collision", "kernel_cache/store.py",
        "if len(blob) != entry.size or sha256(blob) != entry.blob:", "if len(blob) != entry.size:",
        f"{STORE}a_blob_with_a_bit_flipped",
    ),
    planted(
        "recipe: what a template includes does not count", "stale record", "templates/render.py",
        "for path, text in sorted(_texts(language, template).items()):",
        "for path, text in [(template, _texts(language, template)[template])]:", "tests/templates/test_render.py",
    ),
    planted(
        "CUDA programs are known by their entry", "cache-key collision", "proof/program.py",
        '(("text", text), ("entry", entry),', '(("entry", entry),', "tests/proof/test_execute.py",
    ),
)  # fmt: skip

CAPTURED = (
    planted(
        "match: dtypes may differ", "capture of what does not fit", "runtime/match.py",
        "return a.shape == b.shape and a.dtype == b.dtype", "return a.shape == b.shape",
        f"{PATTERNS}a_bias_that_widens_the_result_is_added_by_pytorch",
    ),
    planted(
        "match: shapes may differ", "capture of what does not fit", "runtime/match.py",
        "return a.shape == b.shape and a.dtype == b.dtype", "return a.dtype == b.dtype", NEAR,
    ),
    planted(
        "match: the product may be used elsewhere", "capture of what does not fit", "runtime/match.py",
        "if found is None or not set(graph.users(match.root)) <= found.nodes:", "if found is None:", NEAR,
    ),
    planted(
        "match: constants may differ", "capture of what does not fit", "runtime/match.py",
        "same = want == have and isinstance(want, bool) == isinstance(have, bool)", "same = type(want) is type(have)",
        NEAR,
    ),
    planted(
        "match: operands may change in between", "capture of what does not fit", "runtime/match.py",
        'endswith(("_", MUTATES)) for name in names[names.index(first)',
        'endswith(MUTATES) for name in names[names.index(first)', NEAR,
    ),
    planted(
        "match: a second bias takes the place of the first", "capture of what does not fit", "runtime/match.py",
        'if pattern.role == "bias" and (match.bias is not None or match.activation):',
        'if pattern.role == "bias" and match.activation:', NEAR,
    ),
    planted(
        "match: a bias behind the activation is one before it", "order of the epilogues", "runtime/match.py",
        'if pattern.role == "bias" and (match.bias is not None or match.activation):',
        'if pattern.role == "bias" and match.bias is not None:', NEAR,
    ),
    planted(
        "capture: a transposed weight is taken for a plain one", "transposed operand", "runtime/refusal.py",
        "if match.transposed != weight.transposed:", "if match.transposed and weight.transposed:",
        f"{COMPILE}the_backend_for_the_rest_meets_no_quantised_input", f"{PATTERNS}what_stays_with_pytorch_says_why",
    ),
    planted(
        "capture: dropout in training is the identity", "capture of what does not fit", "runtime/aten.py",
        "and node.args[2] is False", "and len(node.args) > 2", "tests/runtime/test_dropout.py",
    ),
    planted(
        "pattern: gelu by tanh is gelu", "activation of another variant", "runtime/patterns/linear.py",
        'Pattern("gelu_tanh", lambda y: F.gelu(y, approximate="tanh"), _Y),',
        'Pattern("gelu", lambda y: F.gelu(y, approximate="tanh"), _Y),', f"{PATTERNS}spellings_of_an_activation",
    ),
    planted(
        "compile: the residual is lost", "compiled model drops an operand", "runtime/rewrite.py",
        "values[match.residual] if match.residual else None,", "None,",
        f"{PATTERNS}a_residual_is_fused_from_either_side",
    ),
    planted(
        "compile: the bias is lost", "compiled model drops an operand", "runtime/rewrite.py",
        "values[match.bias] if match.bias else None,", "None,", f"{PATTERNS}spellings_of_a_linear_layer",
    ),
    planted(
        "compile: numerics of the program are lost", "compiled model drops an operand", "runtime/rewrite.py",
        "numerics_named(match.numerics) if match.numerics else policy.numerics",
        "numerics_named(match.numerics) if match.numerics else EXACT",
        f"{COMPILE}numerics_are_those_of_products_that_name_none",
    ),
    planted(
        "products: x @ w is x @ w.t()", "transposed operand", "runtime/products.py",
        "return _along_k(x, w) if w.transposed else _along_n(x, w)",
        "return _along_n(x, w) if w.transposed else _along_k(x, w)", PRODUCTS,
    ),
    planted(
        "products: beta is forgotten", "constant folded scalar", "runtime/products.py",
        "(bias if beta == 1 else beta * bias)", "bias", PRODUCTS,
    ),
    planted(
        "products: a factor of zero keeps NaN", "NaN and infinity", "runtime/products.py",
        "return y if beta == 0 else y + (", "return y + (", PRODUCTS,
    ),
    planted(
        "products: an axis of one is a batch", "zero extents", "runtime/products.py",
        "axes = viewed(w.axes, w.n, w.k, w.shape) if is_packed(w) else None",
        "axes = w.axes if is_packed(w) else None", f"{PRODUCTS}_with_a_single_output",
    ),
    planted(
        "views: a transpose changes nothing", "transposed operand", "runtime/views.py",
        "axes[first], axes[second] = axes[second], axes[first]",
        "axes[first], axes[second] = axes[first], axes[second]", f"{QUANT}it_looks_like_its_matrix",
        f"{QUANT}products",
    ),
    planted(
        "copies: formats may differ", "wrong extents", "runtime/copies.py",
        "if both and target.key == source.key and target.axes == source.axes:",
        "if both and target.axes == source.axes:", f"{QUANT}state_of_another_format_is_refused",
    ),
    planted(
        "gradients: the bias's is a mean", "constant folded scalar", "runtime/registration.py",
        "return grad.reshape(-1, grad.shape[-1]).sum(0)", "return grad.reshape(-1, grad.shape[-1]).mean(0)", GRADIENTS,
    ),
    planted(
        "gradients: the activation is taken before the bias", "order of the epilogues", "runtime/registration.py",
        "z = torch.ops.gridstone.qlinear(x, w, bias, None, \"\", ctx.numerics)",
        "z = torch.ops.gridstone.qlinear(x, w, None, None, \"\", ctx.numerics)", GRADIENTS,
    ),
    planted(
        "gradients: gelu_tanh's is gelu's", "activation of another variant", "runtime/registration.py",
        'return aten.gelu_backward(grad, z, approximate="tanh")', "return aten.gelu_backward(grad, z)", GRADIENTS,
    ),
)  # fmt: skip

BUGS = (*KEPT, *CAPTURED)
