"""What the functions cost that every PPO step calls: `make bench-micro`. Nothing here asserts a time.

Shapes are those of the benchmarks' work (experiment=bench): 64 responses of 48 tokens, micro-batches of 16.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.options import configure
from benchmarks.synthetic import Setting, build_setting, load_lm
from rlhf.models.batch import Batch, collate
from rlhf.models.drawing import draw_tokens
from rlhf.models.logprobs import token_logprobs
from rlhf.regularizers import FULL_FORMS, SAMPLED_FORMS
from rlhf.rl.advantage import generalized_advantages
from rlhf.rl.statistics import token_statistics
from rlhf.stages.learner import Learner

Benchmark = Callable[..., Any]

BATCH, MICRO, PROMPT, RESPONSE = 64, 16, 24, 48
VOCABULARIES = (1024, 32000)
PADS = torch.device("cpu")


def token_lists(rows: int, length: int) -> list[list[int]]:
    return torch.randint(2, 1024, (rows, length), generator=torch.Generator().manual_seed(length)).tolist()


def a_batch(rows: int) -> Batch:
    return collate(token_lists(rows, PROMPT), token_lists(rows, RESPONSE), 0, PADS)


@pytest.fixture(params=VOCABULARIES, ids=lambda size: f"vocabulary {size}")
def vocabulary(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def setting(vocabulary: int) -> Setting:
    config = configure([f"model.vocab_size={vocabulary}"])
    return build_setting(config, *load_lm(config, None))


@pytest.fixture
def learner(setting: Setting) -> Learner:
    return setting.learner()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_draw_tokens(benchmark: Benchmark, vocabulary: int, temperature: float) -> None:
    logits, chance = torch.randn(BATCH, vocabulary), torch.rand(BATCH)
    benchmark(draw_tokens, logits, temperature, chance)


def test_collate(benchmark: Benchmark) -> None:
    benchmark(collate, token_lists(BATCH, PROMPT), token_lists(BATCH, RESPONSE), 0, PADS)


def test_token_statistics(benchmark: Benchmark, learner: Learner) -> None:
    benchmark(token_statistics, learner.policy, learner.reference, a_batch(MICRO), 1.0)


def test_hidden(benchmark: Benchmark, learner: Learner) -> None:
    """The trunk alone, which the statistics and log-probabilities read."""
    with torch.no_grad():
        benchmark(learner.policy.hidden, a_batch(MICRO))


def test_token_logprobs_forward_and_backward(benchmark: Benchmark, learner: Learner) -> None:
    batch = a_batch(MICRO)

    def both() -> None:
        states = batch.before_responses(learner.policy.hidden(batch))
        token_logprobs(learner.policy, states, batch, 1.0).sum().backward()

    benchmark(both)


def test_generalized_advantages(benchmark: Benchmark) -> None:
    rewards, values = torch.randn(BATCH, RESPONSE), torch.randn(BATCH, RESPONSE)
    benchmark(generalized_advantages, rewards, values, torch.ones(BATCH, RESPONSE, dtype=torch.bool), 1.0, 0.95)


@pytest.mark.parametrize("name", SAMPLED_FORMS)
def test_sampled_regularizer(benchmark: Benchmark, name: str) -> None:
    logprobs, ref_logprobs = -torch.rand(MICRO, RESPONSE), -torch.rand(MICRO, RESPONSE)
    benchmark(SAMPLED_FORMS[name], logprobs, ref_logprobs)


@pytest.mark.parametrize("name", FULL_FORMS)
def test_full_regularizer(benchmark: Benchmark, vocabulary: int, name: str) -> None:
    logprobs, ref_logprobs = (torch.randn(MICRO * RESPONSE, vocabulary).log_softmax(-1) for _ in range(2))
    options = {"alpha": 0.5} if name == "full_alpha" else {}
    benchmark(FULL_FORMS[name], logprobs, ref_logprobs, **options)
