"""Log-probabilities, divergences and entropies against whole logits of single rows, without padding, in float64."""

import pytest
import torch
from torch import Tensor

from rlhf.config import LoraConfig
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.batch import Batch, collate
from rlhf.rl import statistics
from rlhf.rl.statistics import exact_entropy, exact_kl, spread, token_logprobs, token_statistics
from tests.tiny import tiny_lm

PROMPTS = [[1, 4, 5, 6, 7], [1, 8], [9, 4, 4]]
RESPONSES = [[5, 2], [6, 0, 7, 11, 3, 2], [2]]
LORA = LoraConfig(
    enabled=True, r=2, alpha=4.0, dropout=0.0, target_modules=["q_proj", "v_proj"], rslora=False, dora=False
)


@pytest.fixture
def batch() -> Batch:
    return collate(PROMPTS, RESPONSES, 0, torch.device("cpu"))


@pytest.fixture
def roles() -> tuple[Role, Role]:
    """A policy with an adapter that does something, and the reference below it."""
    base = SharedBase(tiny_lm())
    policy = base.add("policy", LORA, trainable=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return policy, base.reference()


def naive_logprobs(role: Role, row: int, temperature: float) -> Tensor:
    """Over the vocabulary, before each token of one row's response: the causal LM on that row alone."""
    prompt, response = PROMPTS[row], RESPONSES[row]
    with role.on() as lm:
        logits = lm(torch.tensor([prompt + response]), use_cache=False).logits[0]
    return (logits[len(prompt) - 1 : -1].double() / temperature).log_softmax(-1)


def naive_picked(role: Role, row: int, temperature: float) -> Tensor:
    tokens = torch.tensor(RESPONSES[row])
    return naive_logprobs(role, row, temperature)[torch.arange(len(tokens)), tokens]


def check_row(actual: Tensor, wanted: Tensor) -> None:
    """The row's real tokens as wanted, and zeros after them."""
    torch.testing.assert_close(actual[: len(wanted)].double(), wanted, rtol=1e-5, atol=1e-5)
    assert not actual[len(wanted) :].any()


def states_of(role: Role, batch: Batch) -> Tensor:
    return batch.before_responses(role.hidden(batch))


def test_collate_by_hand() -> None:
    batch = collate([[1, 4], [5]], [[6], [7, 2]], 0, torch.device("cpu"))
    assert batch.prompt_length == 2
    assert batch.input_ids.tolist() == [[1, 4, 6, 0], [0, 5, 7, 2]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 2], [0, 0, 1, 2]]
    assert batch.mask.tolist() == [[True, False], [True, True]]
    assert batch.responses.tolist() == [[6, 0], [7, 2]]
    assert batch.lengths.tolist() == [1, 2]
    chosen = batch.select(torch.tensor([1]))
    assert (chosen.input_ids.tolist(), chosen.mask.tolist()) == ([[0, 5, 7, 2]], [[True, True]])


def test_the_adapter_makes_a_difference(roles: tuple[Role, Role]) -> None:
    assert (naive_logprobs(roles[0], 1, 1.0) - naive_logprobs(roles[1], 1, 1.0)).abs().max() > 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_those_of_each_row_alone(batch: Batch, roles: tuple[Role, Role], temperature: float) -> None:
    policy = roles[0]
    logprobs = token_logprobs(policy, states_of(policy, batch), batch, temperature)
    for row in range(len(PROMPTS)):
        check_row(logprobs[row], naive_picked(policy, row, temperature))


@pytest.mark.parametrize("chunk", [512, 3, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_statistics_equal_those_of_each_row_alone(
    batch: Batch, roles: tuple[Role, Role], temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    policy, reference = roles
    found, states = token_statistics(policy, reference, batch, temperature)
    torch.testing.assert_close(states, states_of(policy, batch), rtol=0, atol=0)
    for row in range(len(PROMPTS)):
        logprobs, ref_logprobs = (naive_logprobs(role, row, temperature) for role in (policy, reference))
        check_row(found.logprobs[row], naive_picked(policy, row, temperature))
        check_row(found.ref_logprobs[row], naive_picked(reference, row, temperature))
        check_row(
            found.kl[row], torch.nn.functional.kl_div(ref_logprobs, logprobs, log_target=True, reduction="none").sum(1)
        )
        check_row(found.entropy[row], torch.distributions.Categorical(logits=logprobs).entropy())


def test_logits_of_no_more_than_a_chunk_exist_at_once(
    batch: Batch, roles: tuple[Role, Role], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = Role.logits

    def counting(role: Role, hidden: Tensor) -> Tensor:
        sizes.append(len(hidden))
        return whole(role, hidden)

    monkeypatch.setattr(Role, "logits", counting)
    monkeypatch.setattr(statistics, "CHUNK", 4)
    token_statistics(*roles, batch, 1.0)
    assert sizes == [4, 4, 4, 4, 1, 1]  # 2 + 6 + 1 tokens in three chunks, once for each role


def test_statistics_and_logprobs_agree_and_carry_no_gradient(batch: Batch, roles: tuple[Role, Role]) -> None:
    policy = roles[0]
    found, states = token_statistics(*roles, batch, 0.7)
    logprobs = token_logprobs(policy, states_of(policy, batch), batch, 0.7)
    torch.testing.assert_close(found.logprobs, logprobs.detach(), rtol=0, atol=0)  # so that the first ratio is 1
    assert not any(tensor.requires_grad for tensor in (*found, states))


def test_same_role_has_no_divergence_at_all(batch: Batch, roles: tuple[Role, Role]) -> None:
    for role in roles:
        found = token_statistics(role, role, batch, 0.7)[0]
        assert not found.kl.any()
        assert torch.equal(found.logprobs, found.ref_logprobs)


def test_an_untrained_adapter_has_no_divergence_at_all(batch: Batch) -> None:
    base = SharedBase(tiny_lm())
    found = token_statistics(base.add("policy", LORA, trainable=True), base.reference(), batch, 1.0)[0]
    assert not found.kl.any()


def test_gradient_equals_that_of_whole_logits(batch: Batch, roles: tuple[Role, Role]) -> None:
    policy = roles[0]
    weights = policy.parameters()
    factors = torch.arange(1.0, batch.mask.numel() + 1).view_as(batch.mask)  # each token counts differently
    chunked = (token_logprobs(policy, states_of(policy, batch), batch, 0.7) * factors).sum()
    naive = sum(
        (naive_picked(policy, row, 0.7) * factors[row, : len(response)]).sum() for row, response in enumerate(RESPONSES)
    )
    assert isinstance(naive, Tensor)
    pairs = zip(torch.autograd.grad(chunked, weights), torch.autograd.grad(naive, weights), strict=True)
    for actual, wanted in pairs:
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-3)


def test_kl_and_entropy_by_hand() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4): KL = log 2 / 2 + log(2/3) / 2 = log(4/3) / 2; entropy log 2.
    p, q = torch.tensor([[1 / 2, 1 / 2]]).log(), torch.tensor([[1 / 4, 3 / 4]]).log()
    assert exact_kl(p, q).item() == pytest.approx(0.1438410, abs=1e-6)
    assert exact_kl(q, p).item() == pytest.approx(0.1308120, abs=1e-6)  # log(1/2) / 4 + 3 log(3/2) / 4
    assert exact_entropy(p).item() == pytest.approx(0.6931472, abs=1e-6)


def test_spread_puts_values_back_row_by_row() -> None:
    mask = torch.tensor([[True, False, False], [True, True, False]])
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    placed = spread(values, mask)
    assert placed.tolist() == [[1, 0, 0], [2, 3, 0]]
    (placed * torch.tensor([[5.0, 9, 9], [6, 7, 9]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [5, 6, 7]
