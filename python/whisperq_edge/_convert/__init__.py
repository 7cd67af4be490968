"""Any Whisper model in, a small one out.

::

    convert.py                                          convert_model: all of the below in order
    hub.py open_source.py                               what the user named -> a file or folder -> its reader
    openai.py huggingface.py ctranslate2.py ggml.py     readers: a file or folder -> Source; the first two also write
    torch_file.py pickle_reader.py zip_reader.py        what an OpenAI .pt or a pytorch_model.bin is made of
    safetensors.py                                      files of that name, read and written
    tokenizer_files.py token_ids.py                     which Whisper the ids are of; rows that have no place there
    source.py vocabulary.py                             what every reader gives; tokens and mel filters that files lack
    plan.py sensitivity.py                              which type each tensor gets, and why
    rows.py writer.py                                   rows in another type; Source + plan -> ggml file
    read_back.py                                        the file as the disk gives it back, while it is written
    probe.py proof.py report.py                         what it cost

Readers trust nothing and load nothing but the rows they are asked for. The arithmetic on rows is native
(``_ggml.quantize_rows``).
"""
