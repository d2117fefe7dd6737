"""Features of answers: the target's own, computed once, and never those of something else."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import StartError
from engine.model import Llama, Model
from engine.training.answers import Answers, Conversation
from engine.training.features import FeatureStore
from tests.engine.toy import load_toy, write_toy_model

LENGTHS, PROMPT_LENS, LAYER_IDS = (30, 17, 40), (5, 4, 16), (0, 1)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Llama]:
    """transformers' copy of the target, and ours."""
    folder = tmp_path_factory.mktemp("target")
    reference = write_toy_model(folder)
    return reference, load_toy(folder)


@pytest.fixture
def answers() -> Answers:
    noise = np.random.default_rng(4)
    return Answers.of(
        [
            Conversation(noise.integers(0, 256, length).tolist(), prompt_len, 0.0, 0, 0)
            for length, prompt_len in zip(LENGTHS, PROMPT_LENS, strict=True)
        ]
    )


def test_features_are_what_the_target_computes(
    toy: tuple[Any, Llama], answers: Answers, tmp_path: Path
) -> None:
    reference, model = toy
    found = FeatureStore(tmp_path, answers, model, LAYER_IDS).get([2, 0, 1, 0])
    for conversation, features in zip([2, 0, 1, 0], found, strict=True):
        token_ids = torch.tensor(list(answers)[conversation].astype(np.int64)).unsqueeze(0)
        with torch.no_grad():
            expected = reference(token_ids, output_hidden_states=True)
        layers = torch.cat([expected.hidden_states[one + 1][0] for one in LAYER_IDS], dim=1)
        torch.testing.assert_close(features.layers, layers, rtol=1e-2, atol=1e-2)  # kept in bfloat16
        torch.testing.assert_close(features.last_hidden, expected.hidden_states[-1][0], rtol=1e-2, atol=1e-2)
        norms = torch.logsumexp(expected.logits[0], dim=-1)
        seen = slice(PROMPT_LENS[conversation] - 1, LENGTHS[conversation] - 1)
        torch.testing.assert_close(features.log_norms[seen], norms[seen], rtol=1e-4, atol=1e-4)
        assert not features.log_norms[: seen.start].any()


def test_features_are_computed_once_in_one_pass_and_found_again(
    toy: tuple[Any, Llama], answers: Answers, tmp_path: Path
) -> None:
    model = Counting(toy[1])
    first = FeatureStore(tmp_path, answers, model, LAYER_IDS).get([0, 1])
    assert model.num_forwards == 1
    again = FeatureStore(tmp_path, answers, model, LAYER_IDS)
    for one, other in zip(first, again.get([0, 1]), strict=True):
        assert torch.equal(one.layers, other.layers)
        assert torch.equal(one.last_hidden, other.last_hidden)
    assert model.num_forwards == 1
    again.get([0, 2])
    assert model.num_forwards == 2


class Counting:
    """A target that counts its forwards."""

    def __init__(self, model: Model) -> None:
        self._model, self.num_forwards = model, 0

    def __getattr__(self, name: str) -> Any:
        self.num_forwards += name == "forward"
        return getattr(self._model, name)


def test_processes_that_begin_together_share_a_folder(
    toy: tuple[Any, Llama], answers: Answers, tmp_path: Path
) -> None:
    together = threading.Barrier(4)

    def begin(folder: Path) -> FeatureStore:
        together.wait()
        return FeatureStore(folder, answers, toy[1], LAYER_IDS)

    with ThreadPoolExecutor(4) as threads:
        for number in range(25):
            folder = tmp_path / str(number)
            list(threads.map(begin, [folder] * 4))
            assert sorted(path.name for path in folder.iterdir()) == [
                "features.json",
                "is_there.bin",
                "log_norms.bin",
                "rows.bin",
            ]


def test_features_of_other_answers_or_layers_are_refused(
    toy: tuple[Any, Llama], answers: Answers, tmp_path: Path
) -> None:
    FeatureStore(tmp_path, answers, toy[1], LAYER_IDS)
    with pytest.raises(StartError, match="layer_ids"):
        FeatureStore(tmp_path, answers, toy[1], (0,))
    with pytest.raises(StartError, match="answers"):
        FeatureStore(tmp_path, replace(answers, tokens=answers.tokens[::-1]), toy[1], LAYER_IDS)
