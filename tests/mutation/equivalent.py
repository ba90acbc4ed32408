"""Why some mutants that survive compute the same, each with its reason.

A row says which mutants it speaks of: by kernel, by what stands on the line, by operator, and by what was changed into
what. A reason must hold for each of them: a row names the kernels of which it is true where it is not true of all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """Why mutants are equivalent.

    Args:
        line: Pattern of the line's text, searched in it.
        operators: Which operators; all of them when empty.
        change: Pattern of `before -> after`, searched in it.
        why: The reason, as a sentence that an expert can check.
        kernels: Pattern of the kernel's name, which all of it must match; any kernel when empty.
    """

    line: str
    operators: tuple[str, ...]
    change: str
    why: str
    kernels: str = ""

    def speaks_of(self, kernel: str, line: str, operator: str, change: str) -> bool:
        """Whether it is about a mutant."""
        known = not self.operators or operator in self.operators
        of = not self.kernels or bool(re.fullmatch(self.kernels, kernel))
        return of and known and bool(re.search(self.line, line)) and bool(re.search(self.change, change))


REASONS: tuple[Reason, ...] = (
    # ---- C++ -------------------------------------------------------------------------------------------------------
    Reason(
        r"^memset\(t, 0, sizeof t\);", ("statement", "zero", "constant"), "",
        "the lanes behind `count` are computed and never stored",
    ),
    Reason(
        r"^if \(u >= mine\) u = __atomic_fetch_add", ("statement", "relational"), r"^>= -> >$|^u = ",
        "a thread goes on into blocks of others, which compute them as well: who does it changes no bit",
    ),
    Reason(
        r"fixed\(threads > 1 \? all - all / 4 : all\)", (), "",
        "how many blocks are handed out in advance: every block is computed, and by whom changes no bit",
    ),
    Reason(
        r"^if \(k \+ WORD_K <= K\) \{", ("relational", "condition", "arithmetic"), r"^<= -> <$|-> false$",
        "the way that looks at every k has the same values where all of them are inside",
    ),
    Reason(
        r"WHOLE_SLABS", ("equality", "constant", "condition", "arithmetic"), "",
        "the number of words of a slab is then computed and not known, and is the same: no slab of this kernel is cut",
        r"cpp\.gemv|cpp\.direct generic",
    ),
    Reason(
        r"^constexpr int64_t M_CHUNK = ", (), "",
        "how many row tiles' results lie in cache at a time; all sizes follow from it",
    ),
    Reason(
        r"^const Tile run = t == t0 && !FOLD", ("logical", "condition", "equality", "boolean"), "",
        "each row tile may decode the panel again, and to the same codes",
        r"cpp\.blocked",
    ),
    Reason(
        r"^const Tile run = t == t0", ("logical", "condition", "equality"), "",
        "both tiles compute the same; one of them also prefetches",
        r"cpp\.direct.*",
    ),
    Reason(
        r"^const Tile run = t == t0 && !FOLD", ("logical", "condition", "equality"), "",
        "a folded kernel has one kind of tile: both sides of the choice are the same",
        r"cpp\.blocked folded",
    ),
    Reason(
        r"^constexpr bool FOLD = false", ("boolean",), "",
        "code * scale is rounded to bf16 once, which the exact class allows when a weight is decoded",
        r"cpp\.blocked",
    ),
    Reason(
        r"^for \(int v = 0; v \* LANES < left; \+\+v\)", ("relational",), "",
        "one vector more, of no lanes: nothing is copied",
    ),
    # ---- CUDA ------------------------------------------------------------------------------------------------------
    Reason(
        r"^if \(sizeof\(X\) == 2 && (of\.)?pieces\) \{", ("equality", "condition"), r"^== -> !=$|-> false$",
        "x is copied an element at a time, as where its rows are not aligned: the same values",
    ),
    Reason(
        r"\(row \* \(BLOCK_K / 8\) \+ \(piece \^ \(row & 7\)\)\)", ("mask", "bitwise", "constant"),
        r"^7 -> [36]$|^& -> \|$",
        "another permutation of a row's pieces, for writers and readers alike: only banks conflict",
    ),
    Reason(
        r"^if \(of\.n0 \+ BLOCK_N > PADDED_N\)", ("condition", "relational", "arithmetic"), "",
        "memory that is all copied over is cleared before as well",
    ),
    Reason(
        r"^if \(first \+ s < last\) fetch\(|^if \(step < of\.last\) fetch\(", ("relational", "condition"),
        r"^< -> <=$|-> true$",
        "asks for a stage behind the last one, of which nothing is inside K: it is filled with zeros, and never read",
    ),
    Reason(
        r"^if \(step \+ WARPS_K < last && \(CHUNKS % LOADS|^if \(first \+ warp_k < last && ", (), "",
        "loads codes of a step that is not multiplied; they lie inside the packed weight, before its scales",
    ),
    Reason(
        r"^for \(int i = threadIdx\.x(?: \* 16)?; i < (NOTHING_BYTES / 4|STAGE_GROUPS \* BLOCK_N)", ("accumulate",), "",
        "there are no more elements than threads: the loop runs at most once",
    ),
    Reason(
        r"c\.(bias|residual) \? ", ("zero", "condition"), r"^0\.f -> 1\.f$|-> true$",
        "the operand is part of the spec, so that its pointer is never null",
    ),
    Reason(
        r"ptx::lop3<0xEA>\(q, 0x00", ("mask",), r"^0xEA -> 0x6A$",
        "the masked code and the exponent have no bit in common: `or` and `exclusive or` are the same",
    ),
    Reason(
        r"^ptx::wgmma_wait<0>\(\);", ("barrier",), "",
        "`flush` has waited for all products already",
        r"cuda\.wgmma split",
    ),
    Reason(
        r"^if \(TILES_M % 2\) ptx::ldmatrix_x2", ("condition", "arithmetic"), "",
        "the last eight rows are loaded a second time, to the same registers",
    ),
    # ---- Triton ----------------------------------------------------------------------------------------------------
    Reason(
        r"other=0\.0\)", ("zero",), "",
        "of what a mask leaves out nothing is stored, and beyond K the weight's padding decodes to zero",
    ),
    Reason(
        r"^VECTORS = tl\.constexpr|^pieces = VECTORS and|^if pieces:", (), "",
        "which of two ways loads x: both have the same values, and the one that promises alignment is held to it",
    ),
    Reason(
        r"^if ASM and A == |^elif ASM and A == ", (), "",
        "takes the plain twin of the inline PTX, which computes the same",
    ),
    Reason(
        r"\* 0x10001 \^ -0x7FFF8000", ("bitwise",), r"^\^ -> \|$",
        "the sign bits are clear before they are set",
    ),
    Reason(
        r"^v = tl\.load\(places, mask=\(n < PADDED_N\)", ("mask", "relational"), "",
        "reads on inside the packed weight, for rows beyond N of which no result is stored",
    ),
    Reason(
        r"^g = tl\.minimum\(k // GROUP_K", ("extremum", "arithmetic", "constant"), "",
        "there is one group, and k stays inside it",
        r".* unordered|.* channel",
    ),
)  # fmt: skip


def reason(kernel: str, line: str, operator: str, before: str, after: str) -> str:
    """Return why a mutant is equivalent; empty when nothing is known."""
    change = f"{before} -> {after}"
    return next((found.why for found in REASONS if found.speaks_of(kernel, line, operator, change)), "")
