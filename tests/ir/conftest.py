"""So that a law that fails shows its values, as a test does."""

import pytest

pytest.register_assert_rewrite("tests.ir.layout_laws")
