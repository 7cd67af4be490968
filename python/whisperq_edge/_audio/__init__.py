"""Sound in; samples, log-mel spectrograms and speech out.

::

    pcm                              files, bytes, pipes and arrays to samples: ``to_pcm``, ``open_samples``
    samples                          samples read a piece at a time
    containers, mp3, spliced         a file cut into its streams; frames of MP3; a file made of pieces
    mp3_process                      MP3 decoded in a process of its own
    mel, window_mel                  the spectrogram of the whole; that of one window, with the same bits
    vad                              speech, silence, and times of cut audio
"""
