#!/usr/bin/env python3
"""Makes a case for `sparsight verify` of a checkpoint that is there, such as models/tiny.

The same recording as `make_fixture.py`, from transformers' own modules. FP8 matrices are expanded to
f32 by this script, block by block, because transformers' FP8 kernels need a GPU; Sparsight reads the
files as they are stored. The MTP layer is not compared: transformers leaves it out.

    check_tiny.py models/tiny CASE && sparsight verify CASE
"""

import argparse
import json
import math
import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from make_fixture import DECIDED_BY_ROUNDING, run

BLOCK = 128

# The bound on logits. The residual stream of a trained model is larger, so its f32 is coarser.
TOLERANCE = 1e-3

TEXT = """Once there was a girl called Mia. She had a red kite and a small brown dog. Every morning they went
to the park by the river. The dog liked to run after the birds, and Mia liked to sit under the old tree.
One day the wind was strong. It took the kite high over the trees and out of her hands. Mia ran and ran,
but the kite was gone. "Do not cry," said an old man on a bench. "The wind will bring it back."
They waited until the sun was low. Then the dog barked, and there was the kite, on the grass by the gate.
Question: What colour was the kite? Answer: red. Question: Who was on the bench? Answer: an old man.
"""


class LowestFirst(TorchFunctionMode):
    """While entered, `topk` gives ties to the lower position, as Sparsight does.

    ReLU makes many index scores exactly 0, and torch leaves open which of equal ones it takes. One such
    choice changes everything after it.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.topk, torch.Tensor.topk):
            values = args[0] if args else kwargs["input"]
            k = args[1] if len(args) > 1 else kwargs["k"]
            best = values.sort(dim=-1, descending=True, stable=True)
            return torch.return_types.topk((best.values[..., :k], best.indices[..., :k]))
        return function(*args, **kwargs)


def expanded(tensors):
    """The tensors in f32, FP8 codes times the scale of their block."""
    plain = {}
    for name, tensor in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        scales = tensors.get(f"{name}_scale_inv")
        tensor = tensor.float()
        if scales is not None:
            rows, cols = tensor.shape
            scales = scales.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :cols]
            tensor = tensor * scales
        plain[name] = tensor.contiguous()
    return plain


def prompt_ids(model, ids, n):
    if ids:
        return torch.tensor([int(id) for id in ids.split(",")])
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(model / "tokenizer.json")).encode(TEXT * (1 + n // 100)).ids
    return torch.tensor([0] + encoded[: n - 1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the checkpoint")
    parser.add_argument("folder", type=Path, help="where the case goes")
    parser.add_argument("--prompt", type=int, default=300, metavar="N", help="tokens of the prompt")
    parser.add_argument("--ids", help="ids of the prompt, with commas between, instead of a text")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="greedily decoded tokens")
    options = parser.parse_args()

    torch.set_grad_enabled(False)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(options.model / name, options.folder / name)
    with tempfile.TemporaryDirectory() as plain:
        config = json.loads((options.model / "config.json").read_text())
        config.pop("quantization_config", None)
        (Path(plain) / "config.json").write_text(json.dumps(config))
        tensors = expanded(load_file(options.model / "model.safetensors"))
        save_file(tensors, Path(plain) / "model.safetensors", metadata={"format": "pt"})
        prompt = prompt_ids(options.model, options.ids, options.prompt)
        with LowestFirst():
            oracle, topk_gap, expert_gap = run(Path(plain), prompt, options.steps)

    oracle = {name: tensor.clone().contiguous() for name, tensor in oracle.items()}
    save_file(oracle, options.folder / "oracle.safetensors")
    facts = {
        "arch": config["model_type"],
        "seed": 0,
        "store": "as in the checkpoint",
        "tolerance": TOLERANCE,
        "fp8_index": False,
        "fp8_kv": False,
        "min_topk_gap": topk_gap if topk_gap < math.inf else None,
        "min_expert_gap": expert_gap if expert_gap < math.inf else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (options.folder / "oracle.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    print(json.dumps(facts, indent=2, sort_keys=True))
    print(f"{len(prompt)} tokens, loss of the next one {loss(oracle['logits'], prompt):.3f} nats")
    if min(topk_gap, expert_gap) < DECIDED_BY_ROUNDING:
        print("some boundary is decided by rounding, so sets will not be compared there")


def loss(logits, prompt):
    return torch.nn.functional.cross_entropy(logits[:-1], prompt[1:]).item()


if __name__ == "__main__":
    main()
