from __future__ import annotations

import pytest

PROGRAM = """
import torch, gridstone

print("a program may print")
w = gridstone.quantize(torch.randn(64, 128), "int4", group_size=32)
plain = torch.randn(8, 64)

def program(x):
    return torch.nn.functional.linear(torch.relu(x @ w.t()), plain)

def example_inputs():
    return torch.randn(3, 128)

class Twice(torch.nn.Module):
    def forward(self, x):
        return program(x) * 2
"""


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "program_to_explain.py"
    path.write_text(PROGRAM)
    return path


def test_a_function_of_a_file_is_explained_on_its_example_inputs(run, place):
    ran = run("explain", f"{place}:program", "--sources", "--json")
    assert ran.status == 0, ran.err
    (matched,) = ran.json["matched"]
    assert matched["rows"] == 3
    assert "+ relu" in matched["spec"]
    (fallback,) = ran.json["fallbacks"]
    assert "plain" in fallback["reason"]
    assert len(ran.json["sources"]) == 1
    assert "a program may print" in ran.err, "what it prints is not a result"


def test_shapes_on_the_command_line_take_their_place(run, place):
    ran = run("explain", f"{place}:Twice", "--shape", "5x128")
    assert ran.status == 0, ran.err
    assert "1 matched" in ran.out
    assert "M=5" in ran.out


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (":progarm", (), "did you mean program"),
        (":program", ("--inputs", "nothing"), "has no nothing()"),
        (":program", ("--shape", "five"), "is not a shape"),
        (":program", ("--shape", "\uff14x128"), "is not a shape"),
        (":program", ("--shape", "9999999999x9999999999"), "cannot be allocated"),
        ("", (), "names no function"),
        ("x:program", (), "cannot be imported"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_a_way_out(run, place, name, options, message):
    ran = run("explain", f"{place}{name}", *options)
    assert ran.status == 2
    assert message in ran.err
