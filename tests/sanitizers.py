"""The sanitizers that the suite runs under, if any: scripts/test_sanitized.py builds for them and says so here."""

from __future__ import annotations

import os

# As for -fsanitize=: "address,undefined,...", "thread", or "" in an ordinary run.
SANITIZERS = os.environ.get("WHISPERQ_SANITIZE", "")

# For the C++ programs that tests compile.
FLAGS = [f"-fsanitize={SANITIZERS}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-g1"]
FLAGS = FLAGS if SANITIZERS else []

# By which limits of time are stretched: every load and store of ours is looked at, at -O1.
SLOWDOWN = 30 if SANITIZERS else 1
