"""make_kernel: from spec, schedule and target to a loaded kernel, through the cache."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from gridstone.ir.errors import BuildError, LaunchError
from gridstone.ir.spec import Spec
from gridstone.kernel_cache.files import runs_from
from gridstone.kernel_cache.host import runs_here
from gridstone.kernel_cache.key import Entry, Key
from gridstone.kernel_cache.records import RecordBook
from gridstone.kernel_cache.settings import read_settings
from gridstone.kernel_cache.signature import signature_of
from gridstone.kernel_cache.store import Built, Store
from gridstone.kernel_cache.toolchain import Call, Kernel, Toolchain
from gridstone.kernel_cache.toolchain_cpp import CppToolchain
from gridstone.kernel_cache.toolchain_cuda import CudaToolchain
from gridstone.kernel_cache.toolchain_library import LibraryToolchain
from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from gridstone.lower.bucket import generalize
from gridstone.lower.schedule import Schedule
from gridstone.lower.target import Language, Target
from gridstone.templates.emit import emit
from gridstone.templates.recipe import Recipe
from gridstone.templates.source import Source

_LOG = logging.getLogger("gridstone")
TOOLCHAINS: dict[Language, Toolchain] = {
    chain.language: chain for chain in (CppToolchain(), CudaToolchain(), TritonToolchain(), LibraryToolchain())
}


@cache
def _warn_once(text: str) -> None:
    _LOG.warning("%s", text)


@cache
def _store(root: Path, limit: int) -> Store:
    return Store(root, limit)


def default_store() -> Store:
    """Return the store that the environment names, one object for each place."""
    settings = read_settings()
    for complaint in settings.complaints:
        _warn_once(str(complaint))
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
    return _built(source, target, store or default_store()).path


def _built(source: Source, target: Target, store: Store) -> Built:
    chain = TOOLCHAINS[source.language]
    return store.get_or_build(artefact_key(source, target), lambda: chain.build(source, target), chain.suffix)


def verify_cache() -> list[str]:
    """Return what is wrong in the default store, one line each: damaged files, and artefacts that cannot be loaded."""

    def examine(entry: Entry, blob: bytes) -> str:
        chain = next((chain for language, chain in TOOLCHAINS.items() if language.value == entry.kind), None)
        return chain.examine(entry.key, blob) if chain else ""

    return default_store().verify(examine)


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
        BuildError: No compiler, or it refused, or what it makes cannot be loaded.
        LaunchError: The target does not run here, or nothing can be loaded from the cache's folder.
    """
    _require(target, recipe.language)
    return kernel_of(emit(recipe, spec, schedule, target), spec, target, store)


def kernel_of(source: Source, spec: Spec, target: Target, store: Store | None = None) -> Kernel:
    """Build and load emitted source, or a changed text of it.

    Args:
        source: Of one of `templates.registry.RECIPES`.
        spec: What it computes, as it was emitted for.
        target: What it was emitted for: one that this machine runs.
        store: Where artefacts are kept; the default store when omitted.

    Raises:
        BuildError: No compiler, or it refused, or what it makes cannot be loaded.
        LaunchError: The target does not run here, or nothing can be loaded from the cache's folder.
    """
    _require(target, source.language)
    chain = TOOLCHAINS[source.language]
    resolved = spec.with_storage(target.storage)
    call = _loaded(source, target, resolved, store or default_store()) if chain.suffix else None
    signature = signature_of(generalize(resolved), "cuda" if target.sms else "cpu")
    return Kernel(source, call or chain.load(Path(), source, resolved), signature)


def _require(target: Target, language: Language) -> None:
    """Raise unless kernels of a language can be built here and a target runs here."""
    if not runs_here(target):
        raise LaunchError(f"{target} does not run on this machine", "run `gridstone doctor` for the targets that do")
    missing = TOOLCHAINS[language].missing()
    if missing:
        raise BuildError(f"nothing can be built for {target}: {missing}", "run `gridstone doctor`")


def _loaded(source: Source, target: Target, spec: Spec, store: Store) -> Call:
    """Build and load. What the cache held and cannot be loaded is set aside and built once more."""
    chain = TOOLCHAINS[source.language]
    for last in (False, True):
        built = _built(source, target, store)
        try:
            return chain.load(built.path, source, spec)
        except LaunchError as error:
            if not runs_from(built.path):  # nothing is wrong with the artefact
                raise
            store.reject(artefact_key(source, target), error.problem)
            if last or not built.hit:
                maker = dict(chain.identity(target)).get("compiler", chain.language.value)
                raise BuildError(f"what {maker} makes cannot be loaded: {error.problem}", error.remedy) from error
    raise AssertionError("the second failure is raised")
