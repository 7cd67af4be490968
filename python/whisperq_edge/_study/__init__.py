"""What each choice of a quantisation costs: behind ``whisperq-edge study``.

arXiv 2511.08093 compares ready-made libraries, which differ in many things at once. Here is one model, one set of
matrices and one engine; rows of the table differ in what their names say and in nothing else.

::

    schemes    names such as int4-asym-group32 or dynamic-token, what they mean, the bits that they take
    rounding   weights to codes and back, in numpy
    scope      which matrices are rounded, and the model with them rounded
    noise      speech and noise mixed at a signal-to-noise ratio
    run        every row on every condition: the encoder's SQNR, and what `_eval` hears
    report     the results as data, as rows of tables and in words
    plot       the same as a picture

Weights are stored rounded in an f32 file and activations rounded by the edge engine while it computes in float: what is
measured is the rounding alone, not another arithmetic.
"""
