"""Laws: what holds of every case that Hypothesis can draw, gathered into subjects.

A case is the name of a law and a line of JSON: `composition {"outer":"(4,6):(6,1)","inner":"(2,3):(1,4)"}`. To read and
to check one takes no Hypothesis, so that a saved case runs anywhere; it draws the cases and shrinks what is wrong.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from gridstone.ir.errors import CacheError, SpecError, nearest
from gridstone.kernel_cache.files import private_folder
from gridstone.kernel_cache.settings import read_settings
from gridstone.proof.fuzz.subject import Event, Failed, Ran, Trying, Wanted

if TYPE_CHECKING:
    from hypothesis import strategies as st

EXAMPLES = 60  # of a law in one exploration
SLOW_S = 10.0  # of processor time; every case is small
SHRINK_S = 40.0  # of looking for simpler cases of one failure
_WIDEST = 400  # characters of an error that are quoted

C = TypeVar("C", bound=msgspec.Struct)
T = TypeVar("T")


class Choose:
    """Random choices, of which a shrunk case has made the simplest: the first, the smallest, the shortest.

    Args:
        draw: What Hypothesis gives to a composite strategy.
    """

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        from hypothesis import assume, strategies  # noqa: PLC0415 - of the extra `dev`, and only drawing needs it

        self._draw, self._assume, self._of = draw, assume, strategies

    def integer(self, least: int, most: int) -> int:
        """Choose an integer from `least` to `most`, both included."""
        return self._draw(self._of.integers(least, most))

    def real(self) -> float:
        """Choose a finite float64."""
        return self._draw(self._of.floats(allow_nan=False, allow_infinity=False))

    def flag(self) -> bool:
        """Choose a truth value."""
        return self._draw(self._of.booleans())

    def one(self, items: Sequence[T]) -> T:
        """Choose one of some items; without any, there is no such case."""
        self.require(bool(items))
        return items[self.integer(0, len(items) - 1)]

    def some(self, least: int, most: int, make: Callable[[], T]) -> list[T]:
        """Make from `least` to `most` items."""
        return [make() for _ in range(self.integer(least, most))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Put items in any order."""
        return list(self._draw(self._of.permutations(items)))

    def text(self, most: int) -> str:
        """Choose any Unicode text of up to `most` characters."""
        return self._draw(self._of.text(max_size=most))

    def content(self, most: int) -> bytes:
        """Choose any bytes, up to `most`."""
        return self._draw(self._of.binary(max_size=most))

    def require(self, holds: bool) -> None:
        """Give up this case unless a condition holds."""
        self._assume(holds)


@dataclass(frozen=True, slots=True)
class Law(Generic[C]):
    """What must hold of every case of one kind.

    Args:
        name: A word: the first of its cases, and its row in tables.
        case: A struct that refuses fields it does not know; what its `__post_init__` refuses is no case.
        draw: (choices, what is wanted) -> a case; a SpecError means that the choices lead to none.
        fault: case -> what is wrong, empty for nothing. Whatever it raises is wrong too.
        examples: Cases of one exploration.
    """

    name: str
    case: type[C]
    draw: Callable[[Choose, Wanted], C]
    fault: Callable[[C], str]
    examples: int = EXAMPLES

    def printed(self, case: C) -> str:
        """Return a case as text: one line of ASCII."""
        return f"{self.name} {json.dumps(msgspec.to_builtins(case), separators=(',', ':'))}"


@dataclass(frozen=True, slots=True)
class LawSubject:
    """A subject that is some laws."""

    name: str
    laws: tuple[Law[Any], ...]

    def missing(self) -> str:
        """Return what drawing cases lacks; running one lacks nothing."""
        return "" if importlib.util.find_spec("hypothesis") else "Hypothesis is not installed: pip install hypothesis"

    def explore(self, seed: int, wanted: Wanted) -> Iterator[Event]:
        """Draw cases of every law in turn and run them; of a law that is broken, yield one simple case."""
        for law in self.laws:
            passed = 0
            for case in drawn(law, seed, wanted):
                yield Trying(case)
                fault = self._outcome(case)
                if fault:
                    yield shrunk(law, seed, wanted, Failed(case, fault), self._outcome)
                    break
                passed += 1
            if passed:
                yield Ran(passed, law.name)

    def problem(self, case: str) -> str:
        """Check one case.

        Raises:
            SpecError: It is no case of these laws.
        """
        name, _, text = case.strip().partition(" ")
        law = {law.name: law for law in self.laws}.get(name)
        if law is None:
            raise SpecError(f"{self.name} has no law {name!r}", nearest(name, [law.name for law in self.laws]))
        try:
            read = msgspec.convert(json.loads(text), type=law.case)
        except (ValueError, RecursionError, SpecError) as error:
            raise SpecError(f"{case!r} is no case of {name}: {error}", f"write {name} {{...}} as printed") from None
        start = time.process_time()
        try:
            fault = law.fault(read)
        except Exception as error:
            return raised(error)
        spent = time.process_time() - start
        return fault or (f"it takes {spent:.0f} s of processor time" if spent > SLOW_S else "")

    def simpler(self, case: str) -> Iterator[str]:
        """Yield nothing: what `explore` fails with is shrunk."""
        return iter(())

    def _outcome(self, case: str) -> str:
        """As `problem`, of a case that was drawn: it must be one."""
        try:
            return self.problem(case)
        except SpecError as error:
            return raised(error)


def raised(error: BaseException) -> str:
    """Return an exception as a problem: its type, what it says in one line, and the place that raised it."""
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" (raised in {Path(frame.filename).name}, {frame.name})" for frame in place)
    return said[:_WIDEST] + where


def drawn(law: Law[Any], seed: int, wanted: Wanted) -> tuple[str, ...]:
    """Return the cases of a law that a seed draws, each once; none where nothing that is wanted fits.

    Args:
        law: What draws them.
        seed: Of the choices.
        wanted: What it is restricted to.
    """
    cases: dict[str, None] = {}
    _search(law, seed, wanted, cases.setdefault)
    return tuple(cases)


def shrunk(law: Law[Any], seed: int, wanted: Wanted, first: Failed, outcome: Callable[[str], str]) -> Failed:
    """Return a failure among the cases that a seed draws, made as simple as `SHRINK_S` allows.

    Args:
        law, seed, wanted: As they were for `drawn`, so that the same cases are met.
        first: The failure that was met there.
        outcome: case -> what is wrong with it.
    """
    found, end = [first], time.monotonic() + SHRINK_S

    def check(case: str) -> None:
        late = time.monotonic() > end and case != found[-1].case  # then nothing simpler is looked for
        fault = "" if late else outcome(case)
        if fault:
            found.append(Failed(case, fault))
            raise _Wrong

    _search(law, seed, wanted, check)
    return found[-1]


class _Wrong(Exception):
    """What Hypothesis is told of a failure. One type and one place: it shrinks whatever is wrong."""


def _search(law: Law[Any], seed: int, wanted: Wanted, meet: Callable[[str], object]) -> None:
    """Let Hypothesis draw cases and meet each; it shrinks one at which `_Wrong` is raised.

    It keeps no failures: a seed meets them again, and a database would make what it draws depend on what was found.

    Args:
        law, seed, wanted: What is drawn.
        meet: Is given every case.
    """
    import hypothesis  # noqa: PLC0415 - as above
    from hypothesis import errors  # noqa: PLC0415
    from hypothesis import strategies as st  # noqa: PLC0415

    def cases(draw: Callable[[st.SearchStrategy[Any]], Any]) -> str:
        try:
            return law.printed(law.draw(Choose(draw), wanted))
        except SpecError:  # such as a case that is too large
            return hypothesis.reject()

    def check(case: str) -> None:
        meet(case)

    quiet = hypothesis.settings(
        max_examples=law.examples,
        database=None,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        derandomize=False,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),  # pyright: ignore[reportArgumentType]
        verbosity=hypothesis.Verbosity.quiet,
        report_multiple_bugs=False,
        print_blob=False,
    )
    test = hypothesis.seed(seed)(quiet(hypothesis.given(st.composite(cases)())(check)))
    # Flaky: the search was cut short. Unsatisfiable: nothing that is wanted fits.
    with _storage(_home()), contextlib.suppress(_Wrong, errors.Flaky, errors.Unsatisfiable):
        test()


def _home() -> Path:
    """Return the folder in which Hypothesis may keep things: in the kernel cache, or one that is gone afterwards."""
    try:
        cache = read_settings().cache_dir
        home = cache / "fuzz" / "hypothesis"
        for folder in (cache, home.parent, home):  # each with the cache's mode
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (CacheError, OSError):
        return private_folder(None)
    return home


@contextlib.contextmanager
def _storage(home: Path) -> Iterator[None]:
    """Let Hypothesis keep its tables in a folder, and not beside whatever its user works on."""
    from hypothesis.configuration import set_hypothesis_home_dir, storage_directory  # noqa: PLC0415 - as above

    before = storage_directory(intent_to_write=False)
    set_hypothesis_home_dir(home)
    try:
        yield
    finally:
        set_hypothesis_home_dir(getattr(before, "home_directory", str(before)))
