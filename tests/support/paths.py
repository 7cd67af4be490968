"""Where the parts of the checkout are that tests read."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DATA", "ROOT", "TESTS"]

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
DATA = TESTS / "data"
