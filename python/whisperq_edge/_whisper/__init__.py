"""Facts of OpenAI's Whisper. Nothing here reads audio or runs a model.

::

    languages     codes and names, in the order of the language tokens
    types         the types that weights are stored in
    vocabulary    the text tokens of both vocabularies, and the mel filterbank
    tokenizer     text to tokens and back, special tokens
"""
