"""The mains of subprocesses. Nobody imports them: ``_system.worker.Worker`` starts them by their names.

::

    probe    a model looked at from inside            asked by ``_convert/probe``
    eval     a model that hears a set of utterances   asked by ``_eval/worker``
    bench    a system that transcribes in turns       asked by ``_bench/worker``
    mp3      libsndfile, for MP3                      asked by ``_audio/mp3_process``, in bytes instead of JSON

``mp3`` imports nothing of ours, because it has to start in 0.05 s.
"""
