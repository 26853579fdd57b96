"""Every number measured from the published implementation is met within its tolerance."""

from __future__ import annotations

import pytest

from tests.parity import CHECKS, run_check


@pytest.mark.parametrize("name", CHECKS)
def test_parity(name: str) -> None:
    rows = run_check(CHECKS[name])
    assert rows
    exceeded = [
        f"{quantity}: {value:.2e} > {tolerance:.0e}" for quantity, value, tolerance in rows if not value <= tolerance
    ]
    assert not exceeded, exceeded
