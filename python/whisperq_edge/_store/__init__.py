"""Which file a name means, where it is, and how it was tuned.

::

    catalog, published               models by name; the files that were published under these names
    fetch                            one file over HTTP
    hub, snapshots                   the Hugging Face hub: variables and cache, folders of models
    cache                            models that were fetched or converted once
    locate                           a name, a path or a hub id to a file that an engine can open
    profile                          what ``whisperq-edge tune`` found
"""
