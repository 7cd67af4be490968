"""The one place where the version is written; the build reads it and compiles it into both extensions."""

__version__ = "0.1.0"
