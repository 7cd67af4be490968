"""The edge engine on the real base encoder and real speech: no type is more than 5 % worse than in the ggml engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPTS = ROOT / "scripts"
TEN_SECONDS = 500  # audio tokens; ggml takes a quarter of the time of a whole window for them


@pytest.mark.data
def test_no_type_is_worse_than_in_the_ggml_engine(
    speech_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import measure_encoder

    clips = measure_encoder.choose_clips(speech_data)[0][:1]
    isas = measure_encoder.available_isas() or ["scalar"]
    found = measure_encoder.errors_by_type(speech_data, clips, tmp_path, isas, audio_ctx=TEN_SECONDS)
    sys.modules.pop("measure_encoder")
    for type_name, errors in found.items():
        for isa, error in errors.items():
            assert error <= 1.05 * errors["ggml"], (type_name, isa, error, errors["ggml"])
