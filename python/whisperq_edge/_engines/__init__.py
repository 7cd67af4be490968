"""The two engines that transcribe samples.

::

    edge                             our own engine: options, first pass, windows
    core_model, encoder              ``_core`` behind what ``edge`` asks of a model
    longform                         the loop over the windows: where the next begins, which segments an answer holds
    word_times                       when each word was said, by cross-attention
    evidence                         text checked against the voice detector
    ggml, ggml_words                 whisper.cpp, and words out of its tokens
    memory                           what a model takes, and what the process can get
"""
