"""A planted bug: one edit of one source file, which the checks that it names must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("cpp", "triton", "cuda", "python")
PACKAGE = "gridstone"
# Tests that compare texts, or look for one: they notice any edit of a template and say nothing of what it computes.
TEXTUAL = (
    "test_golden",
    "test_planted_",
    "test_mutation",
    "test_the_check_finds_planted_faults",
    "test_an_access_past_the_end_of_an_operand_is_reported",
    "test_the_ptx_that_is_checked",
    "test_one_text_takes_any_number_of_rows",
    "tests/mutation/",
    "tests/cli/test_emit",
    "tests/test_rooms",
)
# Files whose own correctness the kernel cache depends on: a warm cache could hide what they do wrong.
KEEPERS = ("kernel_cache/key.py", "kernel_cache/store.py", "kernel_cache/files.py", "kernel_cache/make.py",
           "kernel_cache/toolchain", "proof/program.py")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Planted:
    """A bug.

    Args:
        name: Unique, in words.
        klass: The kind of mistake, a key of `planted.PROMISED`.
        language: One of `LANGUAGES`: of the kernels that it is in, or `python` for what no kernel contains.
        file: Of the package, below `gridstone/`.
        old, new: What is replaced and by what.
        tests: Ids of the quick tests that are to notice it, most telling first. Fuzzing comes after them.
        count: How often `old` occurs; all of them are replaced.
        needs: A target that must run on this machine for the bug to matter; empty for any machine.
    """

    name: str
    klass: str
    language: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    count: int = 1
    needs: str = ""

    @property
    def path(self) -> Path:
        """The file, from the top of a tree on."""
        return Path(PACKAGE) / self.file

    @property
    def wants_empty_cache(self) -> bool:
        """Whether a warm kernel cache could hide it."""
        return self.file.startswith(KEEPERS)

    def problem(self, tree: Path) -> str:
        """Return why it cannot be planted in a tree; empty when it can."""
        path = tree / self.path
        if not path.is_file():
            return f"{self.path} is gone"
        found = path.read_text().count(self.old)
        return "" if found == self.count else f"{found} times, not {self.count}, in {self.path}: {self.old!r}"

    def plant(self, tree: Path) -> None:
        """Edit a tree."""
        problem = self.problem(tree)
        if problem:
            raise ValueError(f"{self.name}: {problem}")
        path = tree / self.path
        path.write_text(path.read_text().replace(self.old, self.new))
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()  # known by time and size alone


def is_textual(test: str) -> bool:
    """Whether a test notices edits of a text, whatever they do."""
    return any(part in test for part in TEXTUAL)
