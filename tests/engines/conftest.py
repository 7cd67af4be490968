from __future__ import annotations

import pytest
from whisperq_edge._engines import first_pass

from tests.support.scripted_windows import NumberedMel


@pytest.fixture
def numbered_mel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the spectrogram whose first row counts its frames in place of that of the audio."""
    monkeypatch.setattr(first_pass, "WindowMel", NumberedMel)
