#!/usr/bin/env python3
"""Runs llama.cpp's converter on a checkpoint whose tokenizer it has never seen.

    to_gguf.py LLAMA_CPP_SOURCE CHECKPOINT OUT.gguf

Two of the converter's checks know published tokenizers only and are answered here. It recognises a
pre-tokenizer by the ids of a test sentence: ours splits like DeepSeek-V3's. And it asks
transformers whether a BOS is added, but transformers 5 drops `add_bos_token` of a tokenizer without
a class of its own; the converter's vocabulary code reads it from the file itself.
"""

import runpy
import sys
from pathlib import Path


def main():
    source, model, out = (Path(argument).resolve() for argument in sys.argv[1:])
    sys.path[:0] = [str(source / "gguf-py"), str(source)]
    from conversion.base import TextModel
    from conversion.deepseek import DeepseekV32Model

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "deepseek-v3"
    DeepseekV32Model.set_vocab = lambda self: self._set_vocab_gpt2()
    sys.argv = ["convert_hf_to_gguf.py", str(model), "--outtype", "f32", "--outfile", str(out)]
    runpy.run_path(str(source / sys.argv[0]), run_name="__main__")


if __name__ == "__main__":
    main()
