"""Write Whisper's two vocabularies as one asset of the package, from the files that openai/whisper ships.

    pip install openai-whisper
    python scripts/make_vocabularies.py python/whisperq_edge/assets/vocabularies.bin

The asset is one zlib stream: the English vocabulary, then the multilingual one. Each has the length of every token in a
byte, then the bytes of all tokens.
"""

from __future__ import annotations

import argparse
import base64
import zlib
from pathlib import Path

NAMES = ("gpt2", "multilingual")


def text_tokens(name: str) -> list[bytes]:
    """Return the text tokens of a vocabulary by id."""
    import whisper

    path = Path(whisper.__file__).parent / "assets" / f"{name}.tiktoken"
    # A line is the token in base64, a space and the id. The last token of the multilingual file is empty.
    pairs = (line.rpartition(b" ") for line in path.read_bytes().splitlines() if line)
    tokens = {int(number): base64.b64decode(token) for token, _, number in pairs}
    return [tokens[i] for i in range(len(tokens))]


def packed(vocabularies: list[list[bytes]]) -> bytes:
    """Return the content of the asset."""
    return zlib.compress(b"".join(bytes(map(len, tokens)) + b"".join(tokens) for tokens in vocabularies), 9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("asset", type=Path, help="the file to write")
    parser.parse_args().asset.write_bytes(packed([text_tokens(name) for name in NAMES]))


if __name__ == "__main__":
    main()
