"""Trains `nano.en`, the small real Whisper model that ships with whisperq-edge. See README.md beside this file."""
