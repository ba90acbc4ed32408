"""Targets: names, suggestions, and which one a CPU is given."""

import pytest

from gridstone.ir.errors import SpecError
from gridstone.ir.storage import STORAGES
from gridstone.lower.target import TARGETS, Language, cpp_target, parse_target


def test_every_target_reads_back_what_it_prints():
    for name, target in TARGETS.items():
        assert parse_target(str(target)) is target
        assert str(target) == name


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [("cpp:avx521", "did you mean .*cpp:avx512"), ("avx2", "cpp:avx2"), ("cpp:avx512_bf", "cpp:avx512_bf16"),
     ("opencl:gfx942", "known: cpp:avx512_bf16, .*library:torch"), ("cuda:sm90", "did you mean .*cuda:sm_90"),
     ("", "known: ")],
)  # fmt: skip
def test_an_unknown_target_suggests_the_nearest(text, suggestion):
    with pytest.raises(
        SpecError, match=f"unknown target '{text}' \\({suggestion}" if "known:" in suggestion else suggestion
    ) as e:
        parse_target(text)
    assert repr(text) in str(e.value)


def test_a_cpu_is_given_the_widest_target_whose_features_it_has():
    """Breaks when a CPU is handed code with an instruction that it lacks."""
    rows = [target for target in TARGETS.values() if target.language is Language.CPP]
    everything = frozenset().union(*(row.cpu_flags for row in rows))
    assert cpp_target(everything) is rows[0]
    for row in rows:
        assert cpp_target(row.cpu_flags) is row
    for missing in everything:
        assert missing not in cpp_target(everything - {missing}).cpu_flags
    assert str(cpp_target(frozenset())) == "cpp:generic"


def test_flags_switch_on_exactly_the_features_that_the_cpu_must_have():
    for target in TARGETS.values():
        switched = {flag.removeprefix("-m") for flag in target.flags if "=" not in flag}
        assert {flag.replace("_", "") for flag in target.cpu_flags} == {flag.replace("_", "") for flag in switched}
        assert target.storage in STORAGES
