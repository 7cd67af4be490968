"""The sanitizers that the suite runs under, if any: scripts/test_sanitized.py builds for them and says so here."""

from __future__ import annotations

import os

import pytest

# As for -fsanitize=: "address,undefined,...", "thread", or "" in an ordinary run.
SANITIZERS = os.environ.get("WHISPERQ_SANITIZE", "")

# For the C++ programs that tests compile.
FLAGS = [f"-fsanitize={SANITIZERS}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-g1"]
FLAGS = FLAGS if SANITIZERS else []

# The environment for compilers and what starts them: it is not their faults that the runtime shall find.
TOOLS = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}

# By which limits of time are stretched: every load and store of ours is looked at, at -O1.
SLOWDOWN = 30 if SANITIZERS else 1


def not_with_sanitizers(why: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(bool(SANITIZERS), reason=f"not with sanitizers: {why}")


def not_with_tsan(why: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif("thread" in SANITIZERS.split(","), reason=f"not with TSan: {why}")


# For forks in the midst of other threads' work: glibc frees its allocator's locks in the child, the sanitizers do not.
forks_amid_allocations = not_with_sanitizers("a forked child waits for their allocator's lock, which a thread had")

# Once a process of several threads has forked, TSan ends the child that starts a thread: "dup thread with used id".
no_threads_in_a_child = not_with_tsan("it keeps the parent's threads in its books of a forked child")
