"""Any model file or folder to a ``Source``: names, shapes and rows of tensors, read when they are asked for.

::

    open_source                                    which reader a path is for; what a source lacks, put in
    openai, huggingface, ctranslate2, ggml         a format each; the first two also write
    torch_file, pickle_reader, zip_reader          an OpenAI .pt or a pytorch_model.bin, by its parts
    safetensors                                    files of that name, read and written
    tokenizer_files, token_ids                     which Whisper the ids are of; rows that have no place there
    source, rows                                   the result of every reader; its rows in another type

Readers trust nothing and load nothing but the rows that they are asked for. The arithmetic on rows is native
(``_ggml.quantize_rows``).
"""
