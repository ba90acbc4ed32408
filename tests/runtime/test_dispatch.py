"""Dispatch: one look-up when hot, the tuned record where there is one, the default where it does not fit."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import msgspec
import pytest
import torch
import torch.nn.functional as F

import gridstone
from gridstone.ir.text import print_spec
from gridstone.kernel_cache.host import device_name, host_target
from gridstone.kernel_cache.make import TOOLCHAINS, default_book
from gridstone.kernel_cache.records import UNRACED, Environment, Proof, Record
from gridstone.kernel_cache.staleness import compiler_release
from gridstone.lower.bucket import problem
from gridstone.lower.schedule import parse_schedule, print_schedule
from gridstone.lower.target import Language, parse_target
from gridstone.runtime.dispatch import DISPATCHER, Dispatcher, tuned_record
from gridstone.runtime.linear_key import our_dtype, parse_key, spec_of
from gridstone.templates.registry import RECIPES, recipe_named
from gridstone.templates.render import recipe_hash
from gridstone.tuner.candidate import Candidates, pairs
from gridstone.tuner.ledger import Ledger
from tests.runtime.reference import assert_linear

N, K = 48, 64


@pytest.fixture(scope="module")
def w():
    return gridstone.quantize(torch.randn(N, K, generator=torch.Generator().manual_seed(0)), "int4", group_size=32)


def x_of(rows, seed=1, dtype=torch.float32):
    return torch.randn(rows, K, generator=torch.Generator().manual_seed(seed)).to(dtype)


def spec_for(w, rows, x=torch.float32):
    key = parse_key(w.call_key("", "exact"))
    return problem(spec_of(key, our_dtype(torch.empty(0, dtype=x)), None, None), rows)


def record(
    w, rows=1, *, recipe="gemm.cpp.gemv", schedule="gemv(prefetch=16384)", target="", status="winner", **changes
):
    """A record as the tuner writes it, with one thing changed."""
    spec = spec_for(w, rows)
    on = target or str(host_target())
    try:
        found = recipe_named(recipe)
        text = print_schedule(parse_schedule(schedule, found.schedule, found.space.default(spec, host_target())))
        stamp = recipe_hash(found)
    except gridstone.GridstoneError:
        text, stamp = schedule, "unknown"
    on_library = on.startswith("library")
    compiler = "" if on_library else dict(TOOLCHAINS[Language.CPP].identity(host_target()))["compiler"]
    environment = Environment(
        "0",
        changes.get("torch", str(torch.__version__)),
        changes.get("compiler", compiler),
        changes.get("device", device_name()),
        "",
        changes.get("threads", torch.get_num_threads()),
        "2026-01-01T00:00:00",
    )
    return Record(
        print_spec(spec), on, recipe, changes.get("recipe_hash", stamp), changes.get("text", text), (1e-6, 1e-6), status, "",  # noqa: E501
        environment, Proof(2, 0.5, 0.5),
    )  # fmt: skip


@dataclass
class Answer:
    """What stands for a search's result."""

    winner: Record


def keep(*records):
    for r in records:
        default_book().put(r.spec, r.environment.device, r.environment.threads, (r,))


def run(w, rows=1):
    x = x_of(rows)
    assert_linear(gridstone.linear(x, w), x, w)
    return DISPATCHER.chosen()[-1]


def test_a_problem_is_bound_once(w, dispatcher, monkeypatch):
    """The hot path is one look-up: breaks when something that varies gets into the key, or is not kept under it."""
    bound = []
    real = Dispatcher._bind
    monkeypatch.setattr(Dispatcher, "_bind", lambda self, slot, *rest: bound.append(slot) or real(self, slot, *rest))
    for _ in range(3):
        for rows in (5, 6, 7, 8):
            for x in (x_of(rows), x_of(rows).reshape(1, rows, K), torch.stack([x_of(rows)] * 2, -1)[..., 0]):
                gridstone.linear(x, w)
                F.linear(x, w)
                x @ w.t()
    assert len(bound) == 1
    for rows in (1, 2, 3, 9, 300, 5000):
        for _ in range(2):
            gridstone.linear(x_of(rows), w)
    assert len(bound) == 7  # buckets 8; 1, 2, 4, 16, 512, 1024
    gridstone.linear(x_of(5, dtype=torch.bfloat16), w)
    gridstone.linear(x_of(5), w, torch.randn(N))
    gridstone.linear(x_of(5), w, activation="relu")
    assert len(bound) == len(set(bound)) == 10


def test_no_rows_do_not_choose_for_two(w, dispatcher):
    """Breaks when an empty batch binds the kernel of one row for the bucket of two."""
    gridstone.linear(torch.randn(0, K), w)
    gridstone.linear(x_of(2), w)
    assert [c.spec.inputs[0].type.shape[0] for c in DISPATCHER.chosen()] == [1, 2]


def test_without_a_record_the_default_runs(w, empty_cache):
    chosen = run(w)
    assert (chosen.recipe, chosen.target, chosen.why) == ("gemm.cpp.gemv", str(host_target()), "default schedule")


def test_a_record_beats_the_default(w, empty_cache):
    keep(record(w))
    chosen = run(w)
    assert chosen.why == "tuned record"
    assert "prefetch=16384" in chosen.schedule
    assert run(w, 2).why == "default schedule"


def test_a_record_that_was_not_raced_says_so(w, empty_cache):
    keep(msgspec.structs.replace(record(w), reason=UNRACED))
    assert run(w).why == "tuned record, not raced: short of time"


def test_a_record_of_a_bucket_serves_all_its_rows(w, empty_cache):
    keep(record(w, 8, recipe="gemm.cpp.direct", schedule="direct(prefetch=2048)"))
    for rows in (5, 6, 8):
        assert "prefetch=2048" in run(w, rows).schedule
    assert len(DISPATCHER.chosen()) == 1


def test_a_record_may_say_that_the_library_is_faster(w, empty_cache):
    keep(record(w, recipe="gemm.library.torch", schedule="torch()", target="library:torch"))
    chosen = run(w)
    assert (chosen.recipe, chosen.why) == ("gemm.library.torch", "tuned record")


def test_a_record_of_another_target_serves_that_target_only(w, empty_cache):
    """Breaks when tuning for a narrower target gives calls for this CPU's widest one a slower kernel."""
    generic = parse_target("cpp:generic")
    keep(record(w), record(w, target=str(generic), device=device_name(generic)))
    assert run(w).target == str(host_target())
    for target in (host_target(), generic):
        assert tuned_record(spec_for(w, 1), torch.get_num_threads(), str(target)).target == str(target)


def test_a_record_put_later_counts_after_clear(w, empty_cache):
    assert run(w).why == "default schedule"
    keep(record(w))
    assert run(w).why == "default schedule"
    DISPATCHER.clear()
    assert run(w).why == "tuned record"


@pytest.mark.parametrize(
    "changes",
    [{"device": "another CPU [avx2]"}, {"threads": 77}, {"status": "loser"}],
    ids=["another device", "other threads", "a loser"],
)
def test_a_record_that_does_not_apply_is_passed_over(w, empty_cache, changes, caplog):
    """No warning: it is what an upgrade or a shared folder looks like."""
    keep(record(w, **changes))
    with caplog.at_level(logging.WARNING, "gridstone"):
        assert run(w).why == "default schedule"
    assert caplog.records == []


TORCH = parse_target("library:torch")
LIBRARY = {"recipe": "gemm.library.torch", "schedule": "torch()", "target": "library:torch"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"recipe_hash": "0123456789abcdef"}, "the recipe gemm.cpp.gemv has changed since it was measured"),
        ({"recipe": "gemm.cpp.retired"}, "there is no recipe gemm.cpp.retired any more"),
        ({"compiler": "c++ (Debian 4.9.2-10) 4.9.2"}, "it was measured with gcc 4, and this is "),
        ({**LIBRARY, "torch": "2.3.1+cpu"}, f"it was measured with torch 2.3.1, and this is torch {torch.__version__.partition('+')[0]}"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_stale_record_is_named_not_used_and_searched_anew(w, empty_cache, changes, why, caplog):
    """What it says of the fastest was true of another compiler, torch or recipe."""
    keep(record(w, **changes))
    with caplog.at_level(logging.WARNING, "gridstone"):
        chosen = run(w)
    assert chosen.recipe == "gemm.cpp.gemv"
    assert chosen.why.startswith(f"default schedule, as the tuned record is stale: {why}")
    assert "tune again" in chosen.why
    assert caplog.records == []
    spec = spec_for(w, 1)
    able = [pair for target in (host_target(), TORCH) for pair in pairs(RECIPES, spec, target)]
    ledger = Ledger(default_book(), spec, torch.get_num_threads(), Candidates(spec, able), able)
    assert ledger.settled(complete=True, budget=60.0) is None
    assert len(ledger.seeds()) == (changes.get("recipe") != "gemm.cpp.retired")


@pytest.mark.parametrize(
    "changes",
    [{"torch": "2.3.1"}, {**LIBRARY, "torch": f"{torch.__version__.partition('+')[0]}+other"}, {"minor": "99"}],
    ids=["a C++ winner and another torch", "another build of this torch", "another patch of this compiler"],
)
def test_a_record_outlives_what_does_not_change_who_is_fastest(w, empty_cache, changes):
    if "minor" in changes:
        release = compiler_release(dict(TOOLCHAINS[Language.CPP].identity(host_target()))["compiler"])
        family, major = release.split()
        changes = {"compiler": f"{'clang version' if family == 'clang' else 'g++ (Other 1)'} {major}.99.1"}
    keep(record(w, **changes))
    assert run(w).why == "tuned record"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "gemv(prefetch=three)"}, "prefetch=three is not an integer"),
        ({"text": "gemv(colour=1)"}, "unknown field 'colour'"),
        ({"text": "no schedule at all"}, "malformed schedule"),
        ({"text": "blocked()"}, "not a schedule of gemv"),
        ({"text": "gemv(k_splits=4)"}, "K is split only where"),
        ({"text": "gemv(dot=int8)"}, "dot is one of"),
        ({"target": "cpp:avx9"}, "unknown target 'cpp:avx9'"),
    ],
)  # fmt: skip
def test_a_broken_record_gives_way_to_the_default_with_a_warning(w, empty_cache, changes, message, caplog):
    """Breaks when one bad record costs the kernel, or the call."""
    keep(record(w, **changes))
    with caplog.at_level(logging.WARNING, "gridstone"):
        chosen = run(w)
        run(w)
    assert chosen.recipe == "gemm.cpp.gemv"
    assert chosen.why.startswith("default schedule, as the tuned record cannot be used")
    assert message in chosen.why
    assert [message in r.getMessage() for r in caplog.records] == [True]


@pytest.mark.parametrize(
    "spoil", [lambda d: d[:50], lambda d: d.replace(b"1.0", b"2.0", 1) + b" ", lambda d: b"{}", lambda d: b""]
)
def test_a_damaged_record_file_is_set_aside(w, empty_cache, spoil):
    keep(record(w))
    (path,) = (empty_cache / "records").rglob("*.json")
    path.write_bytes(spoil(path.read_bytes()))
    assert run(w).why == "default schedule"
    assert not path.exists()
    assert len(list((empty_cache / "quarantine").iterdir())) == 1


def test_a_record_of_another_target_serves_no_call_for_this_one(w, empty_cache):
    keep(record(w, target=str(host_target())))
    layer = gridstone.compile(lambda x: F.linear(x, w), target="cpp:generic", rest="eager")
    assert_linear(layer(x_of(1)), x_of(1), w)
    chosen = DISPATCHER.chosen()[-1]
    assert (chosen.target, chosen.why) == ("cpp:generic", "default schedule")


def test_tune_off_reads_no_records(w, empty_cache):
    keep(record(w))
    layer = gridstone.compile(lambda x: F.linear(x, w), tune="off", rest="eager")
    assert_linear(layer(x_of(1)), x_of(1), w)
    assert DISPATCHER.chosen()[-1].why == "default schedule"


def test_a_kernel_that_does_not_build_falls_back_once_and_says_why(w, empty_cache, monkeypatch, caplog):
    from gridstone.ir.errors import BuildError
    from gridstone.kernel_cache.make import TOOLCHAINS
    from gridstone.lower.target import Language

    asked = []

    def refuse(source, target):
        asked.append(source)
        raise BuildError("planted refusal")

    monkeypatch.setattr(TOOLCHAINS[Language.CPP], "build", refuse, raising=False)
    with caplog.at_level(logging.WARNING, "gridstone"):
        for _ in range(3):
            chosen = run(w)
    assert chosen.recipe == "gemm.library.torch"
    assert "planted refusal" in chosen.why
    assert len(asked) == 1
    assert ["planted refusal" in r.getMessage() for r in caplog.records] == [True]


def test_a_format_that_no_kernel_reads_runs_through_the_library_with_a_reason(dispatcher, caplog):
    odd = gridstone.quantize(torch.randn(N, K), "int3", group_size=32)
    with caplog.at_level(logging.WARNING, "gridstone"):
        run(odd)
        run(odd, 7)
    assert all(c.recipe == "gemm.library.torch" for c in DISPATCHER.chosen())
    assert ["codes of 3 bits" in r.getMessage() for r in caplog.records] == [True]


def test_the_thread_count_is_part_of_the_problem(w, empty_cache, threads):
    threads(1)
    keep(record(w, threads=1))
    assert run(w).why == "tuned record"
    threads(2)
    assert run(w).why == "default schedule"
    threads(1)
    x = x_of(1)
    assert torch.equal(gridstone.linear(x, w), gridstone.linear(x, w))
    assert len(DISPATCHER.chosen()) == 2


def test_two_python_threads_bind_and_call_at_once(w, dispatcher):
    """First calls race for the same bindings; then each thread's results are its own."""
    wrong, barrier = [], threading.Barrier(2)
    inputs = [[x_of(rows, seed=100 * who + rows) for rows in (1, 3, 9, 30, 70)] for who in range(2)]

    def work(who):
        try:
            barrier.wait()
            for at in range(60):
                x = inputs[who][at % 5]
                assert_linear(gridstone.linear(x, w) if at % 2 else F.linear(x, w), x, w)
        except BaseException as error:
            wrong.append(error)

    both = [threading.Thread(target=work, args=(who,)) for who in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert wrong == []


def test_a_slow_build_of_one_problem_holds_up_no_other(w, empty_cache, monkeypatch):
    """The first build waits until a call of another problem, made by another Python thread, has gone through."""
    slow, free, real = threading.Event(), threading.Event(), TOOLCHAINS[Language.CPP].build
    first, passed = [], []

    def build(source, target):
        if not first:
            first.append(source)
            slow.set()
            passed.append(free.wait(60))
        return real(source, target)

    monkeypatch.setattr(TOOLCHAINS[Language.CPP], "build", build, raising=False)
    one = threading.Thread(target=gridstone.linear, args=(x_of(1), w))
    one.start()
    assert slow.wait(60)
    assert_linear(gridstone.linear(x_of(9), w), x_of(9), w)
    free.set()
    one.join()
    assert passed == [True]
    assert len(DISPATCHER.chosen()) == 2


def test_a_problem_is_built_by_one_of_the_threads_that_ask(w, empty_cache, monkeypatch):
    asked, barrier, real = [], threading.Barrier(4), TOOLCHAINS[Language.CPP].build
    monkeypatch.setattr(
        TOOLCHAINS[Language.CPP], "build", lambda *given: asked.append(1) or real(*given), raising=False
    )

    def work():
        barrier.wait()
        gridstone.linear(x_of(1), w)

    all_four = [threading.Thread(target=work) for _ in range(4)]
    for thread in all_four:
        thread.start()
    for thread in all_four:
        thread.join()
    assert (len(asked), len(DISPATCHER.chosen())) == (1, 1)


def test_searches_wait_for_each_other(w, empty_cache, monkeypatch):
    """Two at once would time each other; a call that does not search goes through meanwhile."""
    busy, most, started, done = [], [], threading.Event(), threading.Event()

    def search(spec, *args, **kwargs):
        busy.append(spec)
        most.append(len(busy))
        started.set()
        done.wait(60)
        busy.pop()
        return Answer(record(w))

    monkeypatch.setattr("gridstone.tuner.job.tune", search)
    key = f"{w.key}||exact|now|auto"
    both = [
        threading.Thread(target=torch.ops.gridstone.linear, args=(x_of(rows), w.packed, None, None, key))
        for rows in (1, 9)
    ]
    for thread in both:
        thread.start()
    assert started.wait(60)
    assert_linear(gridstone.linear(x_of(30), w), x_of(30), w)
    done.set()
    for thread in both:
        thread.join()
    assert most == [1, 1]


def test_a_search_that_cannot_be_had_costs_no_call(w, empty_cache, monkeypatch, caplog):
    def search(*args, **kwargs):
        raise gridstone.GridstoneError("the problem cannot be measured here")

    monkeypatch.setattr("gridstone.tuner.job.tune", search)
    with caplog.at_level(logging.WARNING, "gridstone"):
        y = torch.ops.gridstone.linear(x_of(1), w.packed, None, None, f"{w.key}||exact|now|auto")
    assert_linear(y, x_of(1), w)
    assert [
        "could not be tuned: gridstone: the problem cannot be measured" in r.getMessage() for r in caplog.records
    ] == [True]
    assert "no record could be had" in DISPATCHER.chosen()[-1].why


def test_what_is_bound_while_records_change_is_forgotten(w, empty_cache, monkeypatch):
    """Breaks when a call that looked for a record before `clear` leaves what it found behind for every later call."""
    real = Dispatcher._load

    def load(self, *given):
        chosen = real(self, *given)
        if not self.cleared:
            self.cleared = True
            keep(record(w))
            self.clear()
        return chosen

    dispatcher = Dispatcher()
    dispatcher.cleared = False
    monkeypatch.setattr(Dispatcher, "_load", load)
    dispatcher.linear(x_of(1), w.packed, None, None, w.call_key("", "exact"))
    assert dispatcher.chosen() == ()
    dispatcher.linear(x_of(1), w.packed, None, None, w.call_key("", "exact"))
    assert dispatcher.chosen()[0].why == "tuned record"


def test_targets_by_name_run_here(w, dispatcher):
    for name in ("cpp:generic", "library:torch"):
        layer = gridstone.compile(lambda x: F.linear(x, w), target=name, rest="eager")
        assert_linear(layer(x_of(6)), x_of(6), w)
        assert DISPATCHER.chosen()[-1].target == name
    assert parse_target("cpp:generic").cpu_flags == frozenset()
