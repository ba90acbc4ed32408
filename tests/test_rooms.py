"""The rooms: who may import whom, what `import gridstone` loads, and that every docstring's example runs."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import gridstone

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "triton", "optuna", "sklearn", "typer", "rich", "jinja2", "msgspec", "numpy")
PURE = ("gridstone.ir.text", "gridstone.lower.passes", "gridstone.templates.emit", "gridstone.templates.registry")
EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "gridstone").rglob("*.py")
    if "\n    >>> " in path.read_text() or "\n        >>> " in path.read_text()
)


def fresh(code: str) -> str:
    """Run code in a new process and return what it printed."""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_the_import_contracts_hold():
    """A room imports only rooms to its left; everything up to Source is pure."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


def test_importing_gridstone_loads_nothing_heavy():
    """Breaks when the command line starts to wait for torch, or a machine without Triton cannot import."""
    assert fresh(f"import gridstone, sys; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


@pytest.mark.parametrize("module", PURE)
def test_everything_up_to_source_runs_without_torch(module):
    """A laptop without torch emits, inspects and checks kernels."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'triton', 'optuna', 'sklearn', 'msgspec', 'typer', 'rich'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"import {module}; print('ran')"
    )
    assert fresh(code) == "ran"


def test_every_public_name_is_there():
    for name in gridstone.__all__:
        assert getattr(gridstone, name) is not None
    assert set(dir(gridstone)) == set(gridstone.__all__)
    with pytest.raises(AttributeError, match="module 'gridstone' has no attribute 'nonsense'"):
        _ = gridstone.nonsense


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_of_docstrings_run(module):
    """What a docstring shows is what happens."""
    import torch

    given = {"gridstone": gridstone, "torch": torch, "quantize": gridstone.quantize, "linear": gridstone.linear}
    tests = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module), extraglobs=given)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in tests:
        runner.run(test, out=report.append, clear_globs=False)  # Dynamo cleans up in them later
    assert runner.tries > 0
    assert runner.failures == 0, "".join(report)
