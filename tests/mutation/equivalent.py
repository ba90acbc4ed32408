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
        r"^if \(u >= mine\) u = __atomic_fetch_add", ("statement", "relational", "condition"),
        r"^>= -> >$|^u = |-> false$",
        "a thread goes on into blocks of others, which compute them as well: who does it changes no bit",
    ),
    Reason(
        r"fixed\(threads > 1 \? all - all / 4 : all\)", (), "",
        "how many blocks are handed out in advance: every block is computed, and by whom changes no bit",
    ),
    Reason(
        r"^if \(k \+ WORD_K > K\) \{", (), r"^> -> >=$|-> true$",
        "the way that looks at every k has the same values where all of them are inside",
    ),
    Reason(
        r"WHOLE_SLABS", ("equality", "constant", "condition", "arithmetic", "statement"), "",
        "the number of words of a slab is then computed and not known, and is the same",
    ),
    Reason(
        r"^constexpr int64_t M_CHUNK = ", (), "",
        "how many row tiles' results lie in cache at a time; all sizes follow from it",
    ),
    Reason(
        r"^const Tile run = t == t0", ("condition",), r"-> true$",
        "each row tile decodes the panel again, to the same codes",
        r"cpp\.blocked",
    ),
    Reason(
        r"^const Tile run = t == t0", ("logical", "condition", "equality"), "",
        "both tiles compute the same; one of them also prefetches",
        r"cpp\.direct.*",
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
    Reason(
        r"return k < size \? |^return k < size", ("zero", "constant"), r"^0\.f -> 1\.f$|^0u -> 1u$",
        "behind K every weight decodes to zero, whatever it is multiplied by",
    ),
    Reason(
        r"constexpr bool STEP_IS<", ("boolean",), r"true -> false",
        "x is packed although it could be read as it is: the same values",
    ),
    Reason(
        r"^const int count = words - i0 < PART \?", ("extremum",), "",
        "a part that runs on is written over by the parts behind it, which have their own scales",
    ),
    Reason(
        r"panel\[\(\(i0 \+ i\) \* STEPS \+ t\) \* NV \+ v\]", ("relational",), r"^< -> <=$",
        "one step more: the next word's are written over it, and behind the last lies what keeps threads apart",
    ),
    Reason(
        r"splat\(-0x1\.7f7d1cp-20f\)", ("negation",), "",
        "moves an activation by millionths, below the bound of a sum of hundreds of terms before it; "
        "tests/templates/test_activations.py holds the exponential to its own contract",
    ),
    Reason(
        r"^for \(int64_t u = work \* t / count", ("arithmetic",), r"^/ -> %$",
        "some of x is packed by several threads, to the same values",
    ),
    Reason(
        r"^INLINE int64_t pages|^constexpr int64_t (APART|THREAD_BYTES|RESULT_BYTES|PANEL_BYTES) |"
        r"^INLINE int64_t packed_bytes|^return \(as_is \? 0 : PACKED_BYTES\)|"
        r"^return packed_bytes\(m\) \+ threads|^scratch = \(uint8_t\*\)pages|^uint8_t\* mine = scratch",
        ("constant", "negation", "statement", "index", "zero", "arithmetic", "bitwise"), "",
        "where in scratch the pieces begin: four pages lie between them, more than they are moved by",
    ),
    Reason(
        r"bias\[v\] = count <= 0 \?|bias\[v\] = vf\{\};|^const vf r = vf\{\};|bias\[v\], vf\{\}\)",
        ("zero", "relational"), "",
        "of lanes behind N, which are never stored, or of an operand that the spec does not have",
    ),
    Reason(
        r"^if \(left >= BLOCK_N\)", ("relational",), r"^>= -> >$",
        "the way for blocks that N cuts gives a whole block the same",
    ),
    Reason(
        r"^INLINE vf at_(most|least)\(", ("relational",), "",
        "chooses between equal values",
    ),
    Reason(
        r"^if \(FROM == DECODE_AND_KEEP\) w\[", ("equality",), "",
        "keeps decoded weights in a panel that nobody reads",
        r"cpp\.direct.*",
    ),
    Reason(
        r"^const vu normal = \(m - 0x38000000u", ("shift",), r"^13 -> 1[24]$",
        "ties go up and not to even: half a step of float16 either way",
        r"cpp\.direct generic",
    ),
    Reason(
        r"^Operand\* w = panel \+ v0;", ("index",), "",
        "the panel lies an element further on, for who writes it and who reads it",
    ),
    Reason(
        r"^if \(\(u & 0x7fffffffu\) > 0x7f800000u\)", ("mask", "condition"), r"-> 0x3FFFFFFFu$|-> false$",
        "x is bf16 here: a NaN that was widened from it keeps its bits when it is rounded",
        r"cpp\.blocked",
    ),
    Reason(
        r"^return \{group \+ k % GROUP_K / WORD_K \* WORD_BYTES", ("arithmetic",), "",
        "parts begin where groups do: what is multiplied is 0",
        r"cpp\.blocked folded",
    ),
    Reason(
        r"^for \(int64_t t = t0; t < t1; \+\+t\)", ("relational",), "",
        "one row tile more: its results lie behind the others, in scratch of the thread's own, and nobody reads them",
    ),
    Reason(
        r"^for \(int64_t t0 = 0; t0 < rows\.tiles", ("relational",), "",
        "one chunk more, of no row tiles",
    ),
    Reason(
        r"^for \(int64_t s = s0; s < s1; \+\+s\)", ("relational",), "",
        "the slab behind the last one has no words",
        r"cpp\.gemv",
    ),
    Reason(
        r"\(as_is \? 0 : PACKED_BYTES\)", ("condition", "zero", "constant"), "",
        "sums of parts of K lie there, and K is in one part",
        r"cpp\.gemv",
    ),
    Reason(
        r"^if constexpr \(R <= M_R\)", ("condition", "relational"), r"-> true$",
        "tiles of heights that no call has are compiled as well",
    ),
    # ---- CUDA ------------------------------------------------------------------------------------------------------
    Reason(
        r"^if \(sizeof\(X\) == 2 && (of\.)?pieces\) \{", ("equality", "condition"), r"^== -> !=$|-> false$",
        "x is copied an element at a time, as where its rows are not aligned: the same values",
    ),
    Reason(
        r"\(row \* \(BLOCK_K / 8\) \+ \(piece \^ \(row & 7\)\)\)", ("mask", "bitwise", "constant"),
        r"^7 -> [368]$|^& -> \|$",
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
        r"^for \(int i = threadIdx\.x(?: \* 16)?; i < (NOTHING_BYTES / 4|STAGE_GROUPS \* BLOCK_N)",
        ("accumulate", "constant", "arithmetic"), "",
        "there are no more elements than threads: the loop runs at most once",
    ),
    Reason(
        r"ptx::lop3<0xEA>\(", ("mask",), r"^0xEA -> 0x6A$",
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
    Reason(
        r"^for \(int i = t; i < BLOCK_M \* \(BLOCK_K / 8\)", ("accumulate",), "",
        "there are no more pieces than threads: the loop runs at most once",
        r"cuda\.mma.*",
    ),
    Reason(
        r"0x64646464u", ("mask", "constant"), r"0x64646464u -> 0x[0-9A-F]{2}646464u|0x64646464u -> 0x2464",
        "`prmt` takes the lowest byte of it alone",
    ),
    Reason(
        r"^if \(CHUNKS % 2\) ptx::wgmma_wait", ("condition", "arithmetic", "constant"), "",
        "waits for a product earlier than it has to",
    ),
    Reason(
        r"^ptx::cp_async_wait<0>\(\);", ("barrier", "constant"), "",
        "every copy that brings anything has been waited for: the groups that are left are empty",
        r"cuda\.(mma|wgmma).*",
    ),
    Reason(
        r"^if \(t == 0\) (tickets\[tile\] = 0;|before = )", ("constant",), r"^0 -> 1$",
        "another thread of the same block does it",
    ),
    Reason(
        r"^if \(PADDED_K % BLOCK_K != 0 && ", ("equality", "condition", "constant", "arithmetic"), "",
        "chunks behind the last one are multiplied too: x is zero there, and codes decode to finite values",
    ),
    Reason(
        r"k < K \? min\(K - k, 8\) : 0", ("relational",), r"^< -> <=$",
        "at k = K nothing is left either",
    ),
    Reason(
        r"^if \(token < BLOCK_M\) sums\[", ("relational", "condition"), r"^< -> <=$|-> true$",
        "tokens behind the block's: one warp takes all of K, so that nobody reads what lies behind its sums",
        r"cuda\.gemv split",
    ),
    Reason(
        r"^constexpr int NOTHING_BYTES = ", ("equality", "constant", "condition"), "",
        "what tokens beyond the block's are multiplied with: their results are not stored",
    ),
    Reason(
        r"^if \(GROUPED && \(in_warp \+ 16\) % FLUSH_K == 0\)", ("condition",), r"-> true$",
        "sums are multiplied with their group's scale more often than groups end: the same scale",
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
    Reason(
        r"^GROUP_K, GROUPS = tl\.constexpr\(32\)", ("constant",), r"^32 -> 31$",
        "steps begin at multiples of 64, of which 31 and 32 go into these K equally often",
        r"triton\.(small|large)",
    ),
    Reason(
        r"^k = first \* BLOCK_K|^first, last = split \* STEPS // SPLITS", ("arithmetic",), "",
        "there is one split, which begins at 0",
        r"triton\.large.*",
    ),
    Reason(
        r"^for _ in tl\.range\(first, last|^STEPS = tl\.constexpr", ("index", "constant"), "",
        "a step behind the last one, of which nothing is inside: it adds zeros",
    ),
    Reason(
        r"^FINISH_M = tl\.constexpr|^if ROWS > FINISH_M", ("extremum", "relational", "constant"), "",
        "how many rows are finished at once",
    ),
    Reason(
        r"^GROUPED = tl\.constexpr\(GROUPS > 1\)", ("relational",), "",
        "one scale a row, multiplied step by step instead of at the end",
        r".* channel|.* unordered",
    ),
)  # fmt: skip


def reason(kernel: str, line: str, operator: str, before: str, after: str) -> str:
    """Return why a mutant is equivalent; empty when nothing is known."""
    change = f"{before} -> {after}"
    return next((found.why for found in REASONS if found.speaks_of(kernel, line, operator, change)), "")
