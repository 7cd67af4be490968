"""``python -m whisperq_edge`` is the command ``whisperq-edge``."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="whisperq-edge")
