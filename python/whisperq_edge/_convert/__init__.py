"""A Whisper model file in, a small one out. No model is run here: a process of its own does that (``probe``).

::

    convert                  ``convert_model``: all of the below in order
    readers/                 a file or folder -> Source
    plan, sensitivity        which type each tensor gets, and why
    writer, read_back        Source + plan -> ggml file; the file as the disk gives it back, while it is written
    probe, proof, report     the cost of the conversion
"""
