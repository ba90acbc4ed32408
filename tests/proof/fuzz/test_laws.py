"""Laws as subjects: they draw the same cases again, find nothing wrong here, and find what is planted."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gridstone.ir import storage
from gridstone.ir.errors import SpecError
from gridstone.ir.format import Format
from gridstone.ir.layout import Layout, Swizzle, complement, composition, flatten, make_layout, modes
from gridstone.ir.storage import moves, pack
from gridstone.kernel_cache import records
from gridstone.kernel_cache.key import Key, sha256, unseal
from gridstone.kernel_cache.store import Store, _Kept
from gridstone.lower.schedule import parse_schedule
from gridstone.proof.fuzz import algebra, damage, hypothesis_law, packing, texts
from gridstone.proof.fuzz.hypothesis_law import LawSubject, drawn
from gridstone.proof.fuzz.laws import LAWS
from gridstone.proof.fuzz.subject import Failed, Ran, Subject, Trying, Wanted, subject_named

FEW = 15  # examples of a law


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Hypothesis keeps goes away with the test."""
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def law_subject(name: str, *laws: str, examples: int = FEW) -> LawSubject:
    """A subject with some of its laws, all of them if none is named."""
    subject = subject_named(name, LAWS)
    assert isinstance(subject, LawSubject)
    kept = [law for law in subject.laws if law.name in laws or not laws]
    assert len(kept) == len(laws) or not laws
    return LawSubject(name, tuple(dataclasses.replace(law, examples=examples) for law in kept))


@pytest.mark.parametrize("name", [subject.name for subject in LAWS])
class TestEverySubject:
    def test_it_runs_every_law_and_finds_nothing_wrong(self, name: str) -> None:
        subject = law_subject(name)
        events = list(subject.explore(3, Wanted()))
        assert [event for event in events if isinstance(event, Failed)] == []
        ran = {event.row: event.cases for event in events if isinstance(event, Ran)}
        assert list(ran) == [law.name for law in subject.laws]
        assert min(ran.values()) > FEW // 3
        tried = [event.case for event in events if isinstance(event, Trying)]
        assert len(tried) == sum(ran.values())
        again = [case for law in subject.laws for case in drawn(law, 3, Wanted())]
        assert tried == again, "the same seed draws other cases"
        assert tried != [case for law in subject.laws for case in drawn(law, 4, Wanted())]

    def test_a_case_is_a_line_that_needs_no_hypothesis(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        subject = law_subject(name, examples=2)
        cases = [case for law in subject.laws for case in drawn(law, 5, Wanted())]
        for module in [module for module in sys.modules if module.partition(".")[0] == "hypothesis"]:
            monkeypatch.setitem(sys.modules, module, None)
        for case in cases:
            assert case.isascii()
            assert len(case.splitlines()) == 1
            assert subject.problem(case) == subject.problem(f"  {case}\n") == ""
            assert list(subject.simpler(case)) == []

    def test_what_is_no_case_is_refused(self, name: str) -> None:
        subject = law_subject(name)
        for law in subject.laws:
            for rest in ("", "{", "{}", "[]", "7", '"x"', '{"nothing":1}', "[" * 10_000, "9" * 9999, "{}x", "\ud800"):
                with pytest.raises(SpecError, match=f"is no case of {law.name}"):
                    subject.problem(f"{law.name} {rest}")
        for text in ("", "nothing {}", "{}"):
            with pytest.raises(SpecError, match="has no law"):
                subject.problem(text)

    def test_it_says_what_it_lacks(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        subject = law_subject(name)
        assert subject.missing() == ""
        monkeypatch.setattr(hypothesis_law.importlib.util, "find_spec", lambda name: None)
        assert "pip install hypothesis" in subject.missing()


def test_every_subject_and_every_law_has_a_name_of_its_own() -> None:
    rows = [law.name for subject in LAWS if isinstance(subject, LawSubject) for law in subject.laws]
    assert len(set(rows)) == len(rows)
    names = [subject.name for subject in LAWS]
    assert names == ["text", "layout", "packing", "entries"]


@pytest.mark.slow
@pytest.mark.parametrize("subject", LAWS, ids=lambda subject: subject.name)
def test_thousands_of_cases_are_right(subject: Subject) -> None:
    for seed in range(100, 106):
        assert [event for event in subject.explore(seed, Wanted()) if isinstance(event, Failed)] == []


def test_what_is_wanted_restricts_what_is_drawn() -> None:
    packed, printed = (law_subject(*names).laws[0] for names in (("packing", "moves"), ("text", "spec")))
    for wanted in (Wanted(formats=("int3",)), Wanted(formats=("int3:g32:bf16:zero", "int3:channel"))):
        cases = drawn(packed, 1, wanted)
        assert cases
        assert all(wanted.takes_format(json.loads(case.partition(" ")[2])["format"]) for case in cases)
        specs = drawn(printed, 1, wanted)
        assert specs
        assert all('"code":"int3"' in case for case in specs)
    assert all('"op":"spmm"' in case for case in drawn(printed, 1, Wanted(ops=("spmm",))))
    assert drawn(packed, 1, Wanted(formats=("nf4",))) == ()
    assert list(law_subject("packing", "moves").explore(1, Wanted(formats=("nf4",)))) == []
    schedules = law_subject("text", "schedule").laws[0]
    assert all('"recipe":"gemm.cuda.' in case for case in drawn(schedules, 1, Wanted(targets=("cuda:sm_90",))))


# Planted faults -------------------------------------------------------------------------------------------------------


def drops_zero(patch: pytest.MonkeyPatch) -> None:
    name = Format.name
    assert isinstance(name, property)
    patch.setattr(Format, "name", property(lambda fmt: name.fget(fmt).removesuffix(":zero")))


def reads_no_true(patch: pytest.MonkeyPatch) -> None:
    def wrong(text, kind, default):
        return parse_schedule(text.replace("=true", "=false"), kind, default)

    patch.setattr(texts, "parse_schedule", wrong)


def refusal_raises(patch: pytest.MonkeyPatch) -> None:
    """What makes the message of an error fails itself."""

    def wrong(name, known):
        raise KeyError(name)

    patch.setattr("gridstone.lower.target.nearest", wrong)


def off_by_one(patch: pytest.MonkeyPatch) -> None:
    def wrong(outer, inner):
        right = composition(outer, inner)
        if not isinstance(right, Layout):
            return right
        *parts, last = modes(flatten(right)) or (Layout(1),)
        return make_layout(*parts, Layout(last.shape, flatten(last.stride)[0] + 1))

    patch.setattr(algebra, "composition", wrong)


def short_complement(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(algebra, "complement", lambda layout, cotarget=None: complement(layout))


def swizzle_adds(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Swizzle, index: int) -> int:
        return index + ((index & self.source) >> self.shift if self.shift > 0 else (index & self.source) << -self.shift)

    patch.setattr(Swizzle, "__call__", wrong)


def shifts_a_nibble(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(packing, "pack", lambda place, parts: pack(place, parts) << np.uint8(4))


def pads_with_nothing(patch: pytest.MonkeyPatch) -> None:
    padded = storage._padded
    patch.setattr(storage, "_padded", lambda values, rows, columns, fill: padded(values, rows, columns, 0))


def moves_too_few(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(packing, "moves", lambda field, columns: moves(field, columns)[:-1])


def takes_any_dtype(patch: pytest.MonkeyPatch) -> None:
    def check(place, parts):
        if parts.codes.shape != (place.n, place.k):
            raise SpecError("another shape")

    patch.setattr(storage, "_check", check)


def joins_fields(patch: pytest.MonkeyPatch) -> None:
    """("a", "bc") and ("ab", "c") are one key."""
    joined = property(lambda key: sha256(f"{key.kind}{''.join(sorted(map(''.join, key.fields)))}".encode()))
    patch.setattr(Key, "digest", joined)


def reader_raises(patch: pytest.MonkeyPatch) -> None:
    def wrong(kind, content):
        if not content.startswith(b'{"kind":'):
            raise KeyError("kind")
        return unseal(kind, content)

    patch.setattr(records, "unseal", wrong)


def migration_raises(patch: pytest.MonkeyPatch) -> None:
    """The guard around migrations gone."""

    def wrong(content, schema, name):
        book = records.msgspec.json.decode(unseal("records", content)[1])
        return records.msgspec.convert(book | {"threads": int(book["threads"])}, type=records._Book)

    patch.setattr(records, "_decode", wrong)


def trusts_blobs(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Store, path: Path):
        content = path.read_bytes() if path.exists() else None
        if content is None:
            return None
        from gridstone.kernel_cache.key import unseal_entry

        entry = unseal_entry(content, path.stem)
        place = self._blob_path(entry)
        return _Kept(entry, place, place.read_bytes())

    patch.setattr(Store, "_open", wrong)


# subject, law, fault, what the problem says, and what of the case nothing simpler would have
Planted = tuple[str, str, Callable[[pytest.MonkeyPatch], None], str, str]
PLANTED: list[Planted] = [
    ("text", "format", drops_zero, "reads as another", r'\{"code":"int1","group":-1,"zero":true\}'),
    ("text", "spec", drops_zero, "reads as another", r'"zero":true\}\}\]\}$'),
    ("text", "schedule", reads_no_true, "reads as another", r"^[^=]*:true[^=]*$"),
    ("text", "damaged", refusal_raises, "KeyError", r'"parser":"target","head":"[^"]{0,20}"\}'),
    ("layout", "composition", off_by_one, " after ", r'"layout":"[^"]{1,12}","by":"[^"]{1,12}"'),
    ("layout", "complement", short_complement, "what both cover is", r'"layout":"[^"]{1,12}"'),
    ("layout", "swizzle", swizzle_adds, "the swizzle", r'"bits":1,"base":0,"shift":-?[12],'),
    ("packing", "round", shifts_a_nibble, "dense: its ", r'"n":1,"k":1,"seed":0'),
    ("packing", "padding", pads_with_nothing, "the padding at", r'"n":1,"k":1,"seed":0'),
    ("packing", "moves", moves_too_few, "a move does not go where", r'"n":1,"k":1,"seed":0'),
    ("packing", "refusal", takes_any_dtype, "are packed", r'"n":1,"k":1,"seed":0'),
    ("entries", "key", joins_fields, "have one digest", r'"one":\[\["\w*","[^"]*"\]\]'),
    ("entries", "records", reader_raises, "KeyError", r'"edits":\[\[[^]]*\]\]\}'),
    ("entries", "sealed_records", migration_raises, "Error", r'"schema":[12],'),
    ("entries", "store", trusts_blobs, "a damaged entry is ", r'"blobs":\[0\],"damage":\[\[\d,[^,]*\]\]'),
]


@pytest.mark.parametrize("planted", PLANTED, ids=[f"{law}-{plant.__name__}" for _, law, plant, _, _ in PLANTED])
def test_a_planted_fault_is_found_and_shrunk(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    name, law, plant, told, simple = planted
    subject = law_subject(name, law, examples=80)
    with monkeypatch.context() as patch:
        plant(patch)
        events = list(subject.explore(2, Wanted()))
        (failed,) = (event for event in events if isinstance(event, Failed))
        assert told in failed.problem
        assert re.search(simple, failed.case), f"it could be simpler: {failed.case}"
        assert subject.problem(failed.case) == failed.problem
    assert subject.problem(failed.case) == "", "the case is wrong without the fault, too"


def test_without_time_to_shrink_it_a_failure_is_reported_as_it_was_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hypothesis_law, "SHRINK_S", 0.0)
    shifts_a_nibble(monkeypatch)
    *before, failed = law_subject("packing", "round").explore(7, Wanted())
    assert isinstance(failed, Failed)
    assert Trying(failed.case) in before


def test_damage_does_not_change_what_damage_is_made_of() -> None:
    """An empty list put into one text and changed there would come changed into all that follow, and grow for ever."""
    before = json.dumps(damage._JUNK)
    chance = random.Random(1)
    choose = SimpleNamespace(integer=chance.randint, one=chance.choice)
    for _ in range(500):
        json.dumps(damage.twisted(choose, {"a": [[1, 2], {"b": []}], "c": {}}))  # type: ignore[arg-type]
    assert json.dumps(damage._JUNK) == before


def test_a_case_that_takes_long_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypothesis_law, "SLOW_S", -1.0)
    assert "s of processor time" in law_subject("layout").problem('coalesce {"layout":"4:1"}')


def test_nothing_is_written_but_in_the_cache(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever searches should not find Hypothesis's tables among their own files, nor lose a setting of theirs."""
    from hypothesis.configuration import storage_directory

    monkeypatch.chdir(tmp_path)
    before = storage_directory(intent_to_write=False).home_directory
    shifts_a_nibble(monkeypatch)
    assert list(law_subject("packing", "round").explore(7, Wanted()))
    assert (own_cache / "fuzz" / "hypothesis").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert storage_directory(intent_to_write=False).home_directory == before


def test_a_cache_that_cannot_be_written_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", str(tmp_path / "file"))
    assert any(isinstance(event, Ran) for event in law_subject("layout", "coalesce").explore(1, Wanted()))
