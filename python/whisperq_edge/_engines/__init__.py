"""The two engines that transcribe samples.

::

    face                             the protocols: an engine, and what ours asks of native code
    edge                             our own engine, put together of the next four
    call                             the parts of one call share this: model, audio, clock, whether to stop
    first_pass, language, windows    the whole audio; the language; windows decoded, checked, decoded again
    core_model, encoder              ``_core`` behind what ``face`` asks of a model
    longform                         the loop over the windows: where the next begins, which segments an answer holds
    word_times                       when each word was said, by cross-attention
    evidence                         text checked against the voice detector
    ggml, ggml_words                 whisper.cpp, and words out of its tokens
    memory                           what a model takes, and what the process can get
"""
