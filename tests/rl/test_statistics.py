"""Log-probabilities, divergences and entropies against whole logits of single rows, without padding or chunks."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical

from rlhf.config.models import LoraConfig
from rlhf.models import logprobs as model_logprobs
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.batch import Batch, collate
from rlhf.models.logprobs import chunk_tokens, spread, token_logprobs
from rlhf.regularizers import FullForm, entropy, full_alpha, full_forward_kl, full_js, full_kl
from rlhf.rl.statistics import TokenTerms, token_statistics, token_terms
from tests.tiny import VOCABULARY, tiny_lm

PROMPTS = [[1, 4, 5, 6, 7], [1, 8], [9, 4, 4]]
RESPONSES = [[5, 2], [6, 0, 7, 11, 3, 2], [2]]  # 9 tokens, one of them the pad token
LORA = LoraConfig(
    r=2, alpha=4.0, dropout=0.0, target_modules=["q_proj", "v_proj"], rslora=False, dora=False, dtype="float32"
)
CHUNKS = [pytest.param(size * len(VOCABULARY), id=f"{size}-tokens") for size in (9, 4, 1)]
"""Logits of as many tokens at once."""

Roles = tuple[Role, Role]


def alpha_third(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return full_alpha(logprobs, ref_logprobs, 0.3)


FORMS = {"full_kl": full_kl, "full_forward_kl": full_forward_kl, "full_js": full_js, "full_alpha": alpha_third}


@pytest.fixture
def batch() -> Batch:
    return collate(PROMPTS, RESPONSES, 0, torch.device("cpu"))


def disturb(weights: list[Any], deviation: float) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in weights:
            weight.add_(deviation * torch.randn(weight.shape, generator=generator))


def make_roles(kind: str) -> Roles:
    """A policy that differs from the reference: an adapter on it, or a whole model whose output head is trained too."""
    base = SharedBase(tiny_lm())
    policy = base.add("policy", LORA, trainable=True) if kind == "lora" else base.full_copy()
    disturb(policy.parameters(), 1.0 if kind == "lora" else 0.1)
    return policy, base.reference()


@pytest.fixture(params=["lora", "full"], scope="module")
def roles(request: pytest.FixtureRequest) -> Roles:
    return make_roles(request.param)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Role, int]]:
    """Every call for logits: of which role, and of how many tokens."""
    calls: list[tuple[Role, int]] = []
    whole = Role.logits

    def counting(role: Role, hidden: Tensor) -> Tensor:
        calls.append((role, len(hidden)))
        return whole(role, hidden)

    monkeypatch.setattr(Role, "logits", counting)
    return calls


def naive_logprobs(role: Role, row: int, temperature: float) -> Tensor:
    """Over the vocabulary, before each token of one row's response: the causal LM on that row alone."""
    prompt, response = PROMPTS[row], RESPONSES[row]
    with role.on() as lm:
        logits = lm(torch.tensor([prompt + response]), use_cache=False).logits[0]
    return (logits[len(prompt) - 1 : -1].double() / temperature).log_softmax(-1)


def picked(logprobs: Tensor, row: int) -> Tensor:
    return logprobs[torch.arange(len(RESPONSES[row])), torch.tensor(RESPONSES[row])]


def check_row(actual: Tensor, wanted: Tensor) -> None:
    """The row's real tokens as wanted, and zeros after them."""
    torch.testing.assert_close(actual[: len(wanted)].double(), wanted, rtol=1e-5, atol=1e-5)
    assert not actual[len(wanted) :].any()


def states_of(role: Role, batch: Batch) -> Tensor:
    return batch.before_responses(role.hidden(batch))


def terms_of(roles: Roles, batch: Batch, full: FullForm | None = full_js, with_entropy: bool = True) -> TokenTerms:
    """As the update computes them: the reference's states were kept from the rollout."""
    with torch.no_grad():
        ref_states = states_of(roles[1], batch)
    states = states_of(roles[0], batch)
    return token_terms(*roles, states, ref_states, batch, 0.7, full, with_entropy)


def test_policy_and_reference_differ(roles: Roles) -> None:
    assert (naive_logprobs(roles[0], 1, 1.0) - naive_logprobs(roles[1], 1, 1.0)).abs().max() > 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_those_of_each_row_alone(batch: Batch, roles: Roles, temperature: float) -> None:
    policy = roles[0]
    logprobs = token_logprobs(policy, states_of(policy, batch), batch, temperature)
    for row in range(len(PROMPTS)):
        check_row(logprobs[row], picked(naive_logprobs(policy, row, temperature), row))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_statistics_equal_those_of_each_row_alone(
    batch: Batch, roles: Roles, temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_logprobs, "CHUNK", chunk)
    found, *states = token_statistics(*roles, batch, temperature, full_forward_kl)
    for role, role_states in zip(roles, states, strict=True):
        torch.testing.assert_close(role_states, states_of(role, batch), rtol=0, atol=0)
    for row in range(len(PROMPTS)):
        logprobs, ref_logprobs = (naive_logprobs(role, row, temperature) for role in roles)
        check_row(found.logprobs[row], picked(logprobs, row))
        check_row(found.ref_logprobs[row], picked(ref_logprobs, row))
        check_row(found.kl[row], (logprobs.exp() * (logprobs - ref_logprobs)).sum(1))
        check_row(found.divergence[row], (ref_logprobs.exp() * (ref_logprobs - logprobs)).sum(1))
        check_row(found.entropy[row], Categorical(logits=logprobs).entropy())


def test_a_policy_may_be_taken_at_a_temperature_of_its_own(batch: Batch, roles: Roles) -> None:
    policy, reference = roles
    found, _, _ = token_statistics(policy, reference, batch, 1.0, policy_temperature=0.5)
    for row in range(len(PROMPTS)):
        sharper, plain = naive_logprobs(policy, row, 0.5), naive_logprobs(reference, row, 1.0)
        check_row(found.logprobs[row], picked(sharper, row))
        check_row(found.ref_logprobs[row], picked(plain, row))
        check_row(found.kl[row], full_kl(sharper, plain))


@pytest.mark.parametrize("name", FORMS)
def test_divergence_is_that_of_the_form(batch: Batch, roles: Roles, name: str) -> None:
    found = token_statistics(*roles, batch, 0.7, FORMS[name])[0]
    terms = terms_of(roles, batch, FORMS[name])
    for row in range(len(PROMPTS)):
        wanted = FORMS[name](*(naive_logprobs(role, row, 0.7) for role in roles)).detach()
        check_row(found.divergence[row], wanted)
        check_row(terms.divergence[row].detach(), wanted)


def test_without_a_form_there_is_no_divergence(batch: Batch, roles: Roles) -> None:
    found = token_statistics(*roles, batch, 0.7)[0]
    assert not found.divergence.any()
    assert found.kl.any()


def test_terms_equal_the_statistics_exactly(batch: Batch, roles: Roles) -> None:
    found, terms = token_statistics(*roles, batch, 0.7, full_js)[0], terms_of(roles, batch)
    for name in ("logprobs", "divergence", "entropy"):  # so that the first ratio is 1
        torch.testing.assert_close(getattr(terms, name).detach(), getattr(found, name), rtol=0, atol=0)
    logprobs = token_logprobs(roles[0], states_of(roles[0], batch), batch, 0.7)
    torch.testing.assert_close(logprobs.detach(), found.logprobs, rtol=0, atol=0)


def test_terms_that_were_not_asked_for_are_zero_and_read_no_reference(
    batch: Batch, roles: Roles, sizes: list[tuple[Role, int]]
) -> None:
    policy, reference = roles
    states = states_of(policy, batch)
    terms = token_terms(policy, reference, states, states.detach()[..., :0], batch, 0.7)
    assert not terms.divergence.any()
    assert not terms.entropy.any()
    assert sizes == [(policy, 9)]
    check_row(terms.logprobs[1].detach(), picked(naive_logprobs(policy, 1, 0.7), 1).detach())


# ---- Chunks. -------------------------------------------------------------------------------------------------------


def gradients(terms: TokenTerms, weights: list[Any]) -> tuple[Tensor, ...]:
    """The gradient of all terms at once, in which each token counts differently."""
    counts = torch.arange(1.0, terms.logprobs.numel() + 1).view_as(terms.logprobs)
    total = (counts * (terms.logprobs + 2 * terms.divergence - 3 * terms.entropy)).sum()
    return torch.autograd.grad(total, weights, allow_unused=True)


def naive_gradients(roles: Roles, form: FullForm, weights: list[Any]) -> tuple[Tensor, ...]:
    counts = torch.arange(1.0, 19).view(3, 6)
    total = torch.zeros((), dtype=torch.float64)
    for row, response in enumerate(RESPONSES):
        logprobs, ref_logprobs = (naive_logprobs(role, row, 0.7) for role in roles)
        terms = picked(logprobs, row) + 2 * form(logprobs, ref_logprobs) - 3 * Categorical(logits=logprobs).entropy()
        total = total + (counts[row, : len(response)] * terms).sum()
    return torch.autograd.grad(total, weights, allow_unused=True)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_gradients_equal_those_of_whole_logits(
    batch: Batch, roles: Roles, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_logprobs, "CHUNK", chunk)
    weights = roles[0].parameters()
    found = gradients(terms_of(roles, batch), weights)
    for actual, wanted in zip(found, naive_gradients(roles, full_js, weights), strict=True):
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-3)


def test_a_whole_policy_trains_its_output_head() -> None:
    policy = make_roles("full")[0]
    head = policy.lm.get_output_embeddings().weight
    assert any(weight is head for weight in policy.parameters())  # what the test above has compared


def test_chunks_change_neither_values_nor_gradients(
    batch: Batch, roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, policy = [], roles[0]
    for chunk in (2**24, 2 * len(VOCABULARY)):
        monkeypatch.setattr(model_logprobs, "CHUNK", chunk)
        terms, logprobs = terms_of(roles, batch), token_logprobs(policy, states_of(policy, batch), batch, 0.7)
        pulls = torch.autograd.grad(logprobs.sum(), policy.parameters(), allow_unused=True)
        found = token_statistics(*roles, batch, 0.7, full_js)[0]
        results.append([*found, *terms, logprobs, *pulls, *gradients(terms, policy.parameters())])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-3, atol=5e-4)


def test_no_more_than_a_chunk_of_logits_exists_at_once(
    batch: Batch, roles: Roles, sizes: list[tuple[Role, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_logprobs, "CHUNK", 5 * len(VOCABULARY) - 1)  # not quite five tokens
    policy, reference = roles
    token_statistics(policy, reference, batch, 1.0)
    assert sizes == [(policy, 4), (reference, 4), (policy, 4), (reference, 4), (policy, 1), (reference, 1)]
    sizes.clear()
    terms = terms_of(roles, batch)
    assert sizes == [(policy, 4), (reference, 4), (policy, 4), (reference, 4), (policy, 1), (reference, 1)]
    sizes.clear()
    gradients(terms, policy.parameters())
    assert sorted(size for role, size in sizes if role is policy) == [1, 4, 4]  # computed again, not kept
    sizes.clear()
    token_logprobs(policy, states_of(policy, batch), batch, 1.0)
    assert [size for _, size in sizes] == [4, 4, 1]


def test_several_chunks_keep_nothing_but_states_for_the_backward_pass(
    batch: Batch, roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, reference = roles
    states, ref_states = states_of(policy, batch), states_of(reference, batch)

    def kept(chunk: int) -> int:
        """Floating-point numbers that the backward pass of the terms will read."""
        monkeypatch.setattr(model_logprobs, "CHUNK", chunk)
        tensors: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda each: tensors.append(each) or each, lambda each: each):
            token_terms(policy, reference, states, ref_states, batch, 0.7, full_js, True)
        return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())

    both_states = 2 * 9 * states.shape[-1]
    assert kept(2 * len(VOCABULARY)) == both_states
    assert kept(2**24) > 2 * both_states


def test_a_chunk_holds_one_token_at_least(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chunk_tokens(roles[0]) == 2**24 // 16
    monkeypatch.setattr(model_logprobs, "CHUNK", 3)
    assert chunk_tokens(roles[0]) == 1


# ---- What has no gradient. -----------------------------------------------------------------------------------------


def test_statistics_carry_no_gradient(batch: Batch, roles: Roles) -> None:
    found, *states = token_statistics(*roles, batch, 0.7, full_js)
    assert not any(tensor.requires_grad for tensor in (*found, *states))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_reference_gets_no_gradient(batch: Batch, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_logprobs, "CHUNK", chunk)
    policy, reference = make_roles("full")[0], SharedBase(tiny_lm(seed=5)).full_copy()
    ref_states = states_of(reference, batch).detach().requires_grad_()
    terms = token_terms(policy, reference, states_of(policy, batch), ref_states, batch, 0.7, full_js)
    terms.divergence.sum().backward()
    assert ref_states.grad is None
    assert all(weight.grad is None for weight in reference.parameters())
    assert all(weight.grad is not None for weight in policy.parameters())


def test_same_role_has_no_divergence_at_all(batch: Batch, roles: Roles) -> None:
    for role in roles:
        found = token_statistics(role, role, batch, 0.7, full_forward_kl)[0]
        assert not found.kl.any()
        assert not found.divergence.any()
        assert torch.equal(found.logprobs, found.ref_logprobs)


@pytest.mark.parametrize("name", FORMS)
def test_an_untrained_adapter_has_no_divergence_and_no_gradient_of_it(batch: Batch, name: str) -> None:
    base = SharedBase(tiny_lm())
    policy, reference = base.add("policy", LORA, trainable=True), base.reference()
    found = token_statistics(policy, reference, batch, 1.0, FORMS[name])[0]
    assert not found.kl.any()
    assert found.divergence.abs().max() < 1e-5
    terms = terms_of((policy, reference), batch, FORMS[name])
    pulls = torch.autograd.grad(terms.divergence.sum(), policy.parameters(), retain_graph=True)
    assert max(pull.abs().max().item() for pull in pulls) < 1e-4
    others = torch.autograd.grad(terms.logprobs.sum(), policy.parameters())
    assert max(other.abs().max().item() for other in others) > 0.1


# ---- By hand. ------------------------------------------------------------------------------------------------------


def test_kl_and_entropy_by_hand() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4): KL = log 2 / 2 + log(2/3) / 2 = log(4/3) / 2; entropy log 2.
    p, q = torch.tensor([[1 / 2, 1 / 2]]).log(), torch.tensor([[1 / 4, 3 / 4]]).log()
    assert full_kl(p, q).item() == pytest.approx(0.1438410, abs=1e-6)
    assert full_kl(q, p).item() == pytest.approx(0.1308120, abs=1e-6)  # log(1/2) / 4 + 3 log(3/2) / 4
    assert entropy(p).item() == pytest.approx(0.6931472, abs=1e-6)
    assert entropy(q).item() == pytest.approx(0.5623351, abs=1e-6)  # log(4) / 4 + 3 log(4/3) / 4


def test_spread_puts_values_back_row_by_row() -> None:
    mask = torch.tensor([[True, False, False], [True, True, False]])
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    placed = spread(values, mask)
    assert placed.tolist() == [[1, 0, 0], [2, 3, 0]]
    (placed * torch.tensor([[5.0, 9, 9], [6, 7, 9]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [5, 6, 7]
