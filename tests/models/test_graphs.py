"""Decoding by CUDA graphs: the static decoder is the fused one's equal on a CPU too; replays need a GPU."""

import pytest
import torch

from rlhf.config.rl import RolloutConfig
from rlhf.data.source import Prompt
from rlhf.models import graphs
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.batch import pad_left
from rlhf.models.decoding import Decoder, ModelDecoder
from rlhf.models.fused import FusedDecoder
from rlhf.models.graphs import StaticDecoder
from rlhf.models.sampler import Sampler
from tests.models.test_fused import FAMILIES, assert_same, decoded, disturb, lora, make
from tests.tiny import tiny_lm, tiny_tokenizer

GPU = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("extent", [2, 128])
@pytest.mark.parametrize("family", FAMILIES)
def test_places_that_are_not_written_yet_change_nothing(
    family: str, extent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "EXTENT", extent)
    base = SharedBase(make(family))
    with disturb(base.add("policy", lora(), trainable=True)).on() as lm:
        assert_same(decoded(StaticDecoder(lm, 6)), decoded(ModelDecoder(lm)))


def test_the_extent_grows_by_steps_and_covers_all_that_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "EXTENT", 4)
    decoder = StaticDecoder(make("llama"), 5)
    extents = []
    with torch.inference_mode():
        decoder.start(*pad_left([[1, 4, 5], [8]], 0, torch.device("cpu")))
        for _ in range(5):
            extents.append(decoder.extent)
            decoder.step(torch.tensor([[2], [3]]))
    assert extents == [4, 8, 8, 8, 8]
    assert decoder.cache.shape[-2] == 8
    assert decoder.place.tolist() == [8]


def test_graphs_are_for_a_gpu_where_steps_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, on_cpu = make("llama"), sampler(True, torch.device("cpu"))
    assert type(on_cpu._decoder(lm, 4)) is FusedDecoder
    on_gpu = sampler(True, torch.device("cpu"))
    on_gpu.device = GPU
    assert type(on_gpu._decoder(lm, 4)) is StaticDecoder
    monkeypatch.setattr(lm, "is_loaded_in_8bit", True, raising=False)
    assert type(on_gpu._decoder(lm, 4)) is FusedDecoder
    monkeypatch.undo()
    on_gpu.config.cuda_graphs = False
    assert type(on_gpu._decoder(lm, 4)) is FusedDecoder


def sampler(graphs: bool, device: torch.device, limit: int = 40) -> Sampler:
    config = RolloutConfig(max_prompt_tokens=8, max_response_tokens=limit, decode_batch_size=100, cuda_graphs=graphs)
    return Sampler(tiny_tokenizer(), config, device)


def prompts(count: int) -> list[Prompt]:
    texts = ("a", "<bos> b a", "c c c c c c", "d", "a b c d e f g", "<bos> h")
    return [Prompt(text, text, "letters") for _ in range(count) for text in texts]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replayed_responses_are_those_of_single_launches(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses end after 1 to 40 tokens, so rows are dropped, and with an extent of 16 the cache grows twice."""
    monkeypatch.setattr(graphs, "EXTENT", 16)
    policy = disturb_on_gpu()
    drawn = []
    for recorded in (True, False):
        generator = torch.Generator(GPU).manual_seed(0)
        drawn.append(sampler(recorded, GPU).sample(policy, prompts(20), temperature, generator))
    assert [response.token_ids for response in drawn[0]] == [response.token_ids for response in drawn[1]]
    if temperature > 0:
        lengths = [len(response.token_ids) for response in drawn[0]]
        assert min(lengths) < 8 < max(lengths)


def disturb_on_gpu() -> Role:
    base = SharedBase(tiny_lm(13).to(GPU))
    role = base.add("policy", lora(), trainable=True)
    with torch.no_grad():
        for weight in role.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)).to(GPU)
    return role


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu_logits_are_the_models_own(family: str) -> None:
    """In float32 within 1e-4; in bfloat16 as near to float64 as transformers' own, within a factor of two."""
    lm = make(family)
    exact = decoded(ModelDecoder(lm.double()))
    for dtype, allowed in ((torch.float32, 1e-3), (torch.bfloat16, None)):
        lm = make(family).to(dtype)
        wanted = on_gpu(ModelDecoder(lm.to(GPU)))
        for decoder in (FusedDecoder(lm, 6), StaticDecoder(lm, 6)):
            error, own = worst(on_gpu(decoder), exact), worst(wanted, exact)
            assert error < (allowed or 2 * own)


def on_gpu(decoder: Decoder) -> list[torch.Tensor]:
    return [logits.cpu() for logits in decoded(decoder, GPU)]


def worst(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    return max((mine - own).abs().max().item() for mine, own in zip(found, exact, strict=True))
