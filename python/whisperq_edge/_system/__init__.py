"""The operating system and this CPU. Nothing here knows what Whisper is.

::

    native        the two extensions, what they were built for, and the files of the package
    self_test     which kernels to trust on this CPU
    process       a Python module run in a process of its own, and how such a process ends
    folders       where things are kept between processes
    files, locks  files that appear whole or not at all; locks between processes and threads
    progress      the bar on a terminal
    matplotlib    matplotlib, loaded when a picture is asked for
"""
