"""Any Whisper model in, a small one out.

::

    openai.py huggingface.py ctranslate2.py ggml.py     readers: a file or folder -> Source
    plan.py                                             which type each tensor gets, and why
    writer.py exports.py                                Source + plan -> ggml file, safetensors folder, OpenAI .pt
    proof.py sensitivity.py report.py                   what it cost

Readers trust nothing and load nothing but the rows they are asked for. The arithmetic on rows is native
(``_ggml.quantize_rows``).
"""
