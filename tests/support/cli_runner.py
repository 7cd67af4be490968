"""click's test runner with stdout and stderr apart, in every version of click that we support."""

from __future__ import annotations

import inspect

from click.testing import CliRunner

__all__ = ["cli_runner"]


def cli_runner() -> CliRunner:
    """Before 8.2, the last to run on Python 3.9, click mixed the two streams unless it was told not to."""
    if "mix_stderr" in inspect.signature(CliRunner).parameters:
        return CliRunner(mix_stderr=False)
    return CliRunner()
