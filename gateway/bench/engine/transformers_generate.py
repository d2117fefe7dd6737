"""transformers' `generate` as a process, for `sparkgate bench engine`.

In: a model folder, a device and a number of threads as arguments; then a JSON line for each batch on stdin,
`{"prompts": [text, …], "tokens": n}`. Out: a line when the model is loaded, then one for each batch,
`{"steps_s": […]}`: when each of its n steps was done, in seconds after the line was read. Greedy, bfloat16
where the processor is fast at it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

_FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # among the flags of /proc/cpuinfo


def main(folder: str, device: str, threads: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not come between our lines
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    torch.set_num_threads(int(threads))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device != "cpu" or _has_fast_bfloat16() else "float32"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    _serve(tokenizer, model.to(device).eval(), answers)


class _Clock:
    """What `generate` takes for a streamer: it is handed the prompt, then each step's tokens."""

    def __init__(self) -> None:
        self.began, self.times_s = time.perf_counter(), list[float]()

    def put(self, tokens: Any) -> None:
        self.times_s.append(time.perf_counter() - self.began)

    def end(self) -> None:
        pass


def _serve(tokenizer: Any, model: Any, answers: TextIO) -> None:
    print(json.dumps({"dtype": str(model.dtype), "device": str(model.device)}), file=answers)
    for line in sys.stdin:
        clock, batch = _Clock(), json.loads(line)
        chats = [[{"role": "user", "content": prompt}] for prompt in batch["prompts"]]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        tokens = batch["tokens"]
        model.generate(
            **inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, streamer=clock
        )
        print(json.dumps({"steps_s": clock.times_s[1:]}), file=answers)


def _has_fast_bfloat16() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(flag in flags.read_text().split() for flag in _FAST_BFLOAT16)


if __name__ == "__main__":
    main(*sys.argv[1:])
