"""The table of algorithms, and the losses of those that have one of their own; by hand in float64."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.algorithms import gspo
from rlhf.config.algorithms import NAMES, Needs, needs, training_steps
from rlhf.rl.algorithm import load_algorithm
from rlhf.rl.loss import loss_weights, policy_loss

CONF = Path(__file__).parents[2] / "conf" / "algorithm"


@pytest.mark.parametrize("name", NAMES)
def test_the_needs_read_without_torch_are_those_of_the_algorithm(name: str) -> None:
    algorithm = load_algorithm(name)
    assert asdict(needs(name)) == {key: getattr(algorithm, key) for key in asdict(needs(name))}


def test_the_table_is_the_folder_and_each_has_its_file_in_conf() -> None:
    assert NAMES == ("best_of_n", "dr_grpo", "grpo", "gspo", "ppo", "reinforce", "rloo")
    assert {path.stem for path in CONF.glob("*.yaml")} == set(NAMES)
    assert {name for name in NAMES if needs(name).samples > 1} == {"rloo", "grpo", "dr_grpo", "gspo"}
    assert [name for name in NAMES if needs(name).value] == ["ppo"]
    assert [training_steps(name, 7) for name in NAMES] == [0, 7, 7, 7, 7, 7, 7]


def test_a_run_of_an_algorithm_that_is_gone_is_still_read() -> None:
    assert (needs("gone"), training_steps("gone", 7)) == (Needs(), 7)


# ---- GSPO. ---------------------------------------------------------------------------------------------------------

MASK = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
CLIP = 0.2


def at_tokens(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None] * MASK


def test_the_ratio_of_a_response_is_the_geometric_mean_of_its_tokens_by_hand() -> None:
    # Ratios 2 and 1/8, 1.5, and 1, 1.21, 1.1: geometric means 1/2, 1.5 and the cube root of 1.331, 1.1. Advantages
    # 2, 2 and -1: -min(1/2 x 2, 0.8 x 2), -min(1.5 x 2, 1.2 x 2) and min(-1.1, -1.1), of which the second is clipped,
    # though one token of the first is above the range, and another below it.
    ratios = torch.tensor([[2.0, 1 / 8, 1], [1.5, 1, 1], [1, 1.21, 1.1]], dtype=torch.float64)
    loss, clipped = gspo.policy_loss(ratios.log(), torch.zeros(3, 3).double(), at_tokens([2, 2, -1]), MASK, CLIP)
    torch.testing.assert_close(loss, at_tokens([-1.0, -2.4, 1.1]))
    assert clipped.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    weights = loss_weights(MASK, "responses")
    assert (loss * weights).sum().item() == pytest.approx((-1.0 - 2.4 + 1.1) / 3, rel=1e-6)
    assert (clipped * weights).sum().item() == pytest.approx(1 / 3, rel=1e-6)  # of responses, not of tokens


def as_defined(logprobs: Tensor, old: Tensor, advantages: list[float]) -> Tensor:
    """Equation 5, a response at a time: (pi(y) / pi_old(y))^(1 / |y|) by the probabilities of whole responses."""
    total = torch.zeros((), dtype=torch.float64)
    for row, advantage in enumerate(advantages):
        length = int(MASK[row].sum())
        new, before = (each[row, :length].exp().prod() for each in (logprobs, old))
        ratio = (new / before) ** (1 / length)
        total = total - torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
    return total / len(advantages)


@pytest.mark.parametrize("step", [0.0, 0.1, 1.0])
def test_loss_and_gradient_are_those_of_the_definition(step: float) -> None:
    generator = torch.Generator().manual_seed(0)
    old, moved = -torch.rand(2, 3, 3, dtype=torch.float64, generator=generator) - 0.1
    logprobs = torch.where(MASK, old - step * moved, 0.0).requires_grad_()
    advantages = [0.7, -1.2, 0.4]
    loss = gspo.policy_loss(logprobs, old * MASK, at_tokens(advantages), MASK, CLIP).loss
    found, wanted = (loss * loss_weights(MASK, "responses").double()).sum(), as_defined(logprobs, old, advantages)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    gradients = [torch.autograd.grad(each, logprobs)[0] for each in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
    assert gradients[1].any()


def test_before_the_first_update_the_gradient_is_grpo_s() -> None:
    old = torch.where(MASK, -1.5, 0.0).double()
    logprobs = old.clone().requires_grad_()
    given = (logprobs, old, at_tokens([1.0, -2.0, 3.0]), MASK, CLIP)
    weights = loss_weights(MASK, "responses")
    found, wanted = (
        torch.autograd.grad((function(*given).loss * weights).sum(), logprobs)[0]
        for function in (gspo.policy_loss, policy_loss)
    )
    torch.testing.assert_close(found, wanted)


def test_a_response_does_not_change_with_padding_or_company() -> None:
    logprobs, old = -torch.rand(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * MASK
    whole = gspo.policy_loss(logprobs, old, at_tokens([1.0, -2.0, 3.0]), MASK, CLIP).loss
    for row, width in ((0, 2), (1, 1), (1, 3)):
        alone = (each[row : row + 1, :width] for each in (logprobs, old, at_tokens([1.0, -2.0, 3.0]), MASK))
        torch.testing.assert_close(gspo.policy_loss(*alone, CLIP).loss, whole[row : row + 1, :width])
