"""Keys: identity is the content of the fields; the first difference is named; settings refuse what they cannot read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridstone.ir.errors import CacheError
from gridstone.kernel_cache import key as key_module
from gridstone.kernel_cache.key import Entry, Key, first_difference, nearest_key, seal_entry, unseal_entry
from gridstone.kernel_cache.settings import DEFAULT_LIMIT, parse_size, read_settings

KEY = Key("cpp", (("arch", "avx2"), ("flags", "-O3"), ("source", "int a;\nint b;\n")))
NAMES = st.text("abcdefgh", min_size=1, max_size=3)
FIELDS = st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"), max_size=20), max_size=5)


@given(FIELDS, FIELDS)
def test_digests_are_equal_exactly_when_the_fields_are(a: dict[str, str], b: dict[str, str]) -> None:
    one, two = Key("cpp", tuple(a.items())), Key("cpp", tuple(b.items()))
    assert (one.digest == two.digest) == (a == b)
    assert (first_difference(one, two) is None) == (a == b)


@given(FIELDS)
def test_order_of_fields_is_not_identity_and_kind_is(fields: dict[str, str]) -> None:
    key = Key("cpp", tuple(fields.items()))
    assert key.digest == Key("cpp", tuple(reversed(fields.items()))).digest
    assert key.digest != Key("cuda", tuple(fields.items())).digest


def test_moving_text_between_fields_changes_the_digest() -> None:
    assert Key("cpp", (("a", "x"), ("b", ""))).digest != Key("cpp", (("a", ""), ("b", "x"))).digest
    assert Key("cpp", (("a", "x"),)).digest != Key("cpp", (("a", "x"), ("b", ""))).digest


@given(FIELDS, st.binary(max_size=4))
def test_an_entry_survives_its_file(fields: dict[str, str], blob: bytes) -> None:
    key = Key("cpp", tuple(fields.items()))
    entry = Entry(key.kind, key.fields, key_module.sha256(blob), len(blob), ".so")
    kept = unseal_entry(seal_entry(entry), key.digest)
    assert kept == entry
    assert kept.key == key


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("", ()),
        ("../up", ()),
        ("cpp", (("", "x"),)),
        ("cpp", (("a b", "x"),)),
        ("cpp", (("a", "x"), ("a", "y"))),
        ("cpp", (("a", "\ud800"),)),
    ],
)
def test_malformed_keys_are_refused(kind: str, fields: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(CacheError):
        Key(kind, fields)


@pytest.mark.parametrize("suffix", ["so", "/x", ".so/../../x", "..", ".s o", ".SO", ".a.b.c"])
def test_no_entry_can_name_a_path_outside_the_store(suffix: str) -> None:
    with pytest.raises(CacheError, match="suffix"):
        Entry("cpp", (), "0" * 64, 0, suffix)


@pytest.mark.parametrize("blob", ["", "../../etc/passwd", "0" * 63, "A" * 64, "0" * 63 + "\n", "0" * 64 + "\n"])
def test_a_blob_is_named_by_a_hash_and_nothing_else(blob: str) -> None:
    with pytest.raises(CacheError, match="blob"):
        Entry("cpp", (), blob, 0, "")


def test_the_first_difference_follows_the_wanted_order() -> None:
    kept = Key("cpp", (("source", "int a;\nint c;\n"), ("flags", "-O2"), ("arch", "avx2")))
    difference = first_difference(KEY, kept)
    assert difference is not None
    assert str(difference) == "flags: wanted '-O3', kept '-O2'"


def test_long_values_show_their_hash_and_first_differing_line() -> None:
    kept = Key("cpp", (*KEY.fields[:2], ("source", "int a;\nint c;\n")))
    difference = first_difference(KEY, kept)
    assert difference is not None
    assert difference.field == "source"
    assert difference.wanted.startswith("sha256 ")
    assert difference.wanted.endswith(", line 2 'int b;'")
    assert difference.kept.endswith(", line 2 'int c;'")


def test_a_difference_deep_in_a_long_line_is_in_view() -> None:
    one, two = ("x" * 5000 + end + "y" * 5000 for end in ("ONE", "TWO"))
    difference = first_difference(Key("cpp", (("t", one),)), Key("cpp", (("t", two),)))
    assert difference is not None
    assert "ONE" in difference.wanted
    assert "TWO" in difference.kept
    assert len(difference.wanted) < 200


def test_a_text_that_ends_early_and_a_missing_field_are_said_so() -> None:
    short, long = Key("cpp", (("t", "a\nb"),)), Key("cpp", (("t", "a\nb\nc"),))
    difference = first_difference(short, long)
    assert difference is not None
    assert "ends before line 3" in difference.wanted
    assert "line 3 'c'" in difference.kept
    assert (
        str(first_difference(Key("cpp", ()), short)) == f"t: wanted (absent), kept sha256 {_hash('a' + chr(10) + 'b')}"
    )
    other_kind = first_difference(KEY, Key("cuda", KEY.fields))
    assert other_kind is not None
    assert other_kind.field == "kind"


def test_the_nearest_key_has_most_equal_fields_and_the_same_kind() -> None:
    near = Key("cpp", (("arch", "avx2"), ("flags", "-O3"), ("source", "other")))
    far = Key("cpp", (("arch", "avx2"), ("flags", "-O1"), ("source", "other")))
    assert nearest_key(KEY, [far, near, Key("cuda", KEY.fields)]) == near
    assert nearest_key(KEY, [Key("cuda", KEY.fields)]) is None


def _hash(text: str) -> str:
    return key_module.sha256(text.encode())[:12]


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("2GiB", 2 << 30), ("500MB", 500_000_000), (" 1.5 kib ", 1536), ("3b", 3), ("1TB", 10**12)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_byte_and_a_half_is_a_byte() -> None:
    assert parse_size("1.5") == 1


@pytest.mark.parametrize("text", ["0", "-1", "x", "1 PB", "inf", "nan", "1e9", "0.1", "GiB", "١GB"])
def test_a_bad_limit_is_complained_about_and_the_default_holds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks when a typing error in a bound of a cache costs the program."""
    monkeypatch.setenv("GRIDSTONE_CACHE_LIMIT", text)
    settings = read_settings()
    assert settings.cache_limit == DEFAULT_LIMIT
    (complaint,) = map(str, settings.complaints)
    assert all(part in complaint for part in ("GRIDSTONE_CACHE_LIMIT", repr(text), "the limit is 2 GiB", "500MB"))
    monkeypatch.setenv("GRIDSTONE_CACHE_LIMIT", "3MB")
    assert (read_settings().cache_limit, read_settings().complaints) == (3_000_000, ())


def test_settings_are_read_at_each_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GRIDSTONE_CACHE_DIR", "GRIDSTONE_CACHE_LIMIT", "GRIDSTONE_CXX", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    settings = read_settings()
    assert settings.cache_dir.is_absolute()
    assert settings.cache_dir.is_relative_to(tmp_path)
    assert settings.cache_dir.name == "gridstone"
    assert (settings.cache_limit, settings.compiler) == (DEFAULT_LIMIT, None)
    monkeypatch.setenv("CXX", "ccache g++")
    monkeypatch.setenv("GRIDSTONE_CACHE_DIR", "~/elsewhere")
    assert read_settings().compiler == "ccache g++"
    assert read_settings().cache_dir == tmp_path / "elsewhere"
    monkeypatch.setenv("GRIDSTONE_CXX", "clang++-18")
    assert read_settings().compiler == "clang++-18"


@pytest.mark.parametrize(
    ("name", "value"), [("GRIDSTONE_CXX", "'unclosed"), ("CXX", 'a "b'), ("GRIDSTONE_CACHE_DIR", "~no_such_user_/x")]
)
def test_bad_settings_name_variable_and_value(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRIDSTONE_CXX", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(CacheError) as caught:
        read_settings()
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


def test_these_files_need_no_torch_and_only_settings_reads_the_environment() -> None:
    folder = Path(key_module.__file__).parent
    for name in ("settings", "key", "store", "records", "__init__"):
        text = (folder / f"{name}.py").read_text()
        imported = {
            part.split(".")[0]
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for part in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        }
        assert not imported & {"torch", "pickle", "numpy"}, name
        assert name == "settings" or ("os.environ" not in text and "getenv" not in text), name
