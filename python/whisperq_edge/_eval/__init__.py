"""How well models hear, and whether the differences between them are real: behind ``whisperq-edge eval``.

::

    data         utterances with their texts: manifests, LibriSpeech folders, folders with texts beside the audio
    normalise    openai/whisper's text normalisation, by the package whisper-normalizer
    words        errors of one utterance, confusions, by the package jiwer
    statistics   intervals, tests, verdicts; numpy only
    counts       the same where only total errors are known, as in a table of a paper
    journal      what was heard so far, in a file that survives the process
    worker       a model in a process of its own, which hears one utterance after the other
    run          several models and types on one set, with the journal
    report       the results as data and as rows of tables
    page, plots  the same as one HTML file
"""
