"""The operating system and this CPU. Nothing here knows what Whisper is.

::

    native        the two extensions, what they were built for, and the files of the package
    self_test     which kernels to trust on this CPU
    worker        a module of ours in a process of its own, and the one protocol of these processes
    process       its environment, errors and memory
    arrays        kinds of arrays
    json_files    JSON that is written
    markdown      tables to paste into a page
    checks        checks of arguments
    folders       where things are kept between processes
    files, locks  files that appear whole or not at all; locks between processes and threads
    progress      the bar on a terminal
    matplotlib    matplotlib, loaded when a picture is asked for
"""
