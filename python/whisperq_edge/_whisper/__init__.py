"""Facts of OpenAI's Whisper. Nothing here reads audio or runs a model.

::

    units         samples, frames, audio tokens and windows, in each other
    dims, shapes  a model's dimensions, ids of special tokens; names and shapes of its tensors
    languages     codes and names, in the order of the language tokens
    types         the types that weights are stored in
    vocabulary    the text tokens of both vocabularies
    mel_filters   the mel filterbank
    tokenizer     text to tokens and back, special tokens
"""
