"""Where the time goes, and whether it is more than it was: behind ``whisperq-edge bench``.

::

    random_model  a model of a published shape with random weights: speed does not depend on them
    systems       what runs against what: types, engines, numbers of threads, other runtimes
    peers         other runtimes that are installed, and the same weights in their format
    ctranslate2_folder  the same weights for faster-whisper
    graph_weights, graph_loop  what runtimes need that run graphs: weights by name; mel, windows and greedy tokens
    openvino_graph, onnxruntime_graph  encoder and decoder with these runtimes' own operations
    worker        a system in a process of its own, which stays loaded and transcribes when it is asked to
    run           rounds over all systems, in turn
    tune          types x threads, and the choice for this machine
    card          the machine: what it is, and what it did meanwhile
    statistics    intervals of medians, of ratios, and of the difference of two runs; numpy only
    report        the results as data and as rows of tables; a run against an earlier one
    plot          stacked stages as a picture, by the package matplotlib
"""
