"""Numbers as people write them."""

from __future__ import annotations

import pytest

from splat.text import counted, mib_held, mib_needed


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 chunks"), (1, "1 chunk"), (2, "2 chunks"), (1234, "1,234 chunks")]
)
def test_what_is_counted_agrees_with_its_number(count: int, said: str) -> None:
    assert counted(count, "chunks") == said


@pytest.mark.parametrize("count", [0, 1, 104_857, 104_858, 5_600_000, 5 << 20, (5 << 20) + 1])
def test_what_is_said_to_be_needed_is_enough(count: int) -> None:
    needed, held = (
        float(text.removesuffix(" MiB")) for text in (mib_needed(count), mib_held(count))
    )
    assert held * 2**20 <= count <= needed * 2**20
    assert needed - held < 0.15


def test_a_budget_that_is_too_small_never_reads_like_what_is_needed() -> None:
    least = 5_600_000
    assert (mib_held(least - 1), mib_needed(least)) == ("5.3 MiB", "5.4 MiB")
