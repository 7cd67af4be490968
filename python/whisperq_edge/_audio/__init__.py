"""Sound in; samples, log-mel spectrograms and speech out.

::

    pcm                                  the face: ``to_pcm``, ``to_stereo``, ``open_samples``
    samples                              samples read a piece at a time
    encoded, decoders                    bytes that are decoded as often as needed, by the decoders that can
    soundfile_decoder, av_decoder        libsndfile; FFmpeg
    decoding                             what both need: for whom they decode, and what to say of damage
    mono                                 values of any kind to one channel at 16 kHz
    containers, mp3, matroska, spliced   a file cut into its streams; frames of MP3; elements; a file made of pieces
    mp3_process                          MP3 decoded in a process of its own
    mel, window_mel                      the spectrogram of the whole; that of one window, with the same bits
    speech, silence, timeline            spans of speech and of silence; times of audio that was cut to its speech
"""
