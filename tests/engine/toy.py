"""A toy Llama with random weights and a byte tokenizer: the engine's tests in milliseconds.

`write_toy_model` makes a model folder like any other; the rest builds sequences and engines for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Sequence as Ordered
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from engine.checkpoint import read_config, read_weights
from engine.drafters.base import Drafter
from engine.loop import Engine
from engine.model import Llama, Model
from engine.scheduler import Limits
from engine.sequence import Event, Sampling, Sequence
from engine.text import TextStream

MAX_POSITIONS = 512
START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOY_SETTINGS: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": MAX_POSITIONS,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 257,
    "pad_token_id": 257,
}


def write_toy_model(folder: Path, **changes: Any) -> LlamaForCausalLM:
    """Write a small random Llama to `folder` and return transformers' own copy of it."""
    torch.manual_seed(11)
    reference = LlamaForCausalLM(LlamaConfig(**{**TOY_SETTINGS, **changes})).eval()
    _save(reference, folder)
    return reference


def write_toy_qwen3(folder: Path, **changes: Any) -> Qwen3ForCausalLM:
    """The same for Qwen3; the norms of its heads are made to matter."""
    torch.manual_seed(12)
    reference = Qwen3ForCausalLM(Qwen3Config(**{**TOY_SETTINGS, **changes})).eval()
    for layer in reference.model.layers:
        for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
            torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    _save(reference, folder)
    return reference


def _save(reference: PreTrainedModel, folder: Path) -> None:
    reference.save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    tokenizer_settings = {"eos_token": END, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_settings), encoding="utf-8")


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and the two control tokens of ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: at for at, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    return tokenizer


def load_toy(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Llama:
    return Llama(read_config(folder), read_weights(folder), dtype, torch.device(device))


def make_sequence(
    name: str,
    prompt_ids: list[int],
    max_new_tokens: int = 8,
    *,
    sampling: Sampling | None = None,
    end_ids: frozenset[int] = frozenset(),
    stops: tuple[str, ...] = (),
    caller: str = "",
    min_new_tokens: int = 0,
    suppressed_ids: frozenset[int] = frozenset(),
    token_bytes: Callable[[int], bytes] = lambda token_id: bytes([token_id % 128]),
) -> Sequence:
    """A greedy sequence unless told otherwise."""
    return Sequence(
        id=name,
        prompt_ids=prompt_ids,
        sampling=sampling or Sampling(temperature=0.0),
        max_new_tokens=max_new_tokens,
        text=TextStream(token_bytes, stops, min_new_tokens),
        end_ids=end_ids,
        caller=caller,
        min_new_tokens=min_new_tokens,
        suppressed_ids=suppressed_ids,
    )


def make_engine(
    model: Model,
    *,
    max_batch: int = 4,
    chunk: int = 16,
    kv_tokens: int = 512,
    max_waiting: int = 1000,
    max_waiting_per_caller: int = 1000,
    prefix_cache: bool = True,
    drafter: Drafter | None = None,
    draft_confidence: float = 0.0,
) -> Engine:
    """An engine that is stepped by hand."""
    return Engine(
        model,
        limits=Limits(max_batch, chunk),
        kv_tokens=kv_tokens,
        max_waiting=max_waiting,
        max_waiting_per_caller=max_waiting_per_caller,
        prefix_cache=prefix_cache,
        drafter=drafter,
        drafter_name="of the test",
        draft_confidence=draft_confidence,
        deliver=lambda events: None,
    )


def run_all(engine: Engine, sequences: Ordered[Sequence]) -> list[Event]:
    """Submit everything and step until nothing is left."""
    for sequence in sequences:
        engine.submit(sequence)
    engine.take_commands()
    events: list[Event] = []
    while engine.running or engine.waiting:
        events += engine.step()
    return events
