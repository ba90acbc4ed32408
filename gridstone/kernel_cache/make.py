"""make_kernel: from spec, schedule and target to a loaded kernel, through the cache."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from gridstone.ir.errors import BuildError, LaunchError
from gridstone.ir.spec import Spec
from gridstone.kernel_cache.host import runs_here
from gridstone.kernel_cache.key import Key
from gridstone.kernel_cache.records import RecordBook
from gridstone.kernel_cache.settings import read_settings
from gridstone.kernel_cache.store import Store
from gridstone.kernel_cache.toolchain import Kernel, Toolchain
from gridstone.kernel_cache.toolchain_cpp import CppToolchain
from gridstone.kernel_cache.toolchain_library import LibraryToolchain
from gridstone.lower.schedule import Schedule
from gridstone.lower.target import Language, Target
from gridstone.templates.emit import emit
from gridstone.templates.recipe import Recipe
from gridstone.templates.source import Source

TOOLCHAINS: dict[Language, Toolchain] = {chain.language: chain for chain in (CppToolchain(), LibraryToolchain())}


@cache
def _store(root: Path, limit: int) -> Store:
    return Store(root, limit)


def default_store() -> Store:
    """Return the store that the environment names, one object for each place."""
    settings = read_settings()
    return _store(settings.cache_dir, settings.cache_limit)


@cache
def _book(root: Path) -> RecordBook:
    return RecordBook(root)


def default_book() -> RecordBook:
    """Return the tuning records of the place that the environment names."""
    return _book(read_settings().cache_dir)


def artefact_key(source: Source, target: Target) -> Key:
    """Return the key of the artefact: the emitted text, what compiles it, and for what."""
    facts = (*TOOLCHAINS[source.language].identity(target), ("target", str(target)), ("entry", source.entry))
    return Key(source.language.value, (*facts, ("text", source.text)))


def build(source: Source, target: Target, store: Store | None = None) -> Path:
    """Return the path of the built artefact, from the cache where it is there."""
    chain = TOOLCHAINS[source.language]
    place = store or default_store()
    return place.get_or_build(artefact_key(source, target), lambda: chain.build(source, target), chain.suffix).path


def make_kernel(
    recipe: Recipe[Schedule], spec: Spec, schedule: Schedule, target: Target, store: Store | None = None
) -> Kernel:
    """Lower, render, build and load.

    Args:
        recipe: One of `templates.registry.RECIPES`.
        spec: Its rows may be symbolic; native storages are resolved.
        schedule: Of the recipe's class.
        target: One that this machine runs.
        store: Where artefacts are kept; the default store when omitted.

    Raises:
        ScheduleError: Infeasible schedule.
        BuildError: No compiler, or it refused.
        LaunchError: The target does not run here, or the artefact cannot be loaded.
    """
    if not runs_here(target):
        raise LaunchError(f"{target} does not run on this machine", "run `gridstone doctor` for the targets that do")
    chain = TOOLCHAINS[recipe.language]
    missing = chain.missing()
    if missing:
        raise BuildError(f"nothing can be built for {target}: {missing}", "run `gridstone doctor`")
    source = emit(recipe, spec, schedule, target)
    resolved = spec.with_storage(target.storage)
    path = build(source, target, store) if chain.suffix else Path()
    return Kernel(source, chain.load(path, source, resolved))
