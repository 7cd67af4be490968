"""Fuzzing of every reader of ``whisperq-edge convert``; README.md says how."""
