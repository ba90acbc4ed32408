"""What the documents say about the code, as far as a machine can tell: examples run, and files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TREES = ("gridstone", "bench", "tests", "docs", "examples")
NAMED = re.compile(r"`([\w/]+(?:\.\w+)*\.(?:py|h|j2|md|txt|json|toml))`|\]\(([\w./-]+)\)")


@pytest.fixture(scope="module")
def files():
    found = [path for tree in TREES for path in (ROOT / tree).rglob("*") if path.is_file()]
    return ["/" + path.relative_to(ROOT).as_posix() for path in [*found, *ROOT.glob("*.*"), ROOT / "LICENSE"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page, files):
    for code, link in NAMED.findall(page.read_text()):
        if link:
            assert (page.parent / link).exists(), link
        else:
            assert any(path.endswith("/" + code) for path in files), code


def test_the_example_of_the_readme_runs(empty_cache, capsys):
    """With sixteenths of the weights."""
    block = re.search(r"```python\n(import torch\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    text = block[1].replace("14336", "896").replace("4096", "256")
    assert (text.count("896"), text.count("256")) == (2, 3)
    made: dict[str, object] = {}
    exec(compile(text, "README.md", "exec"), made)
    assert tuple(made["y"].shape) == (4, 256)
    assert tuple(made["up"].shape) == (4, 896)
    assert "2 matched, 0 left to PyTorch" in capsys.readouterr().out
