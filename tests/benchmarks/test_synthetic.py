"""Random weights, made-up prompts, and responses that end when they are told to."""

from random import Random

import pytest
import torch

from benchmarks.options import configure
from benchmarks.synthetic import EOS, PAD, Setting, build_setting, load_lm, word_tokenizer
from rlhf.errors import ConfigError
from rlhf.models.backbone import save_backbone
from rlhf.models.precision import MixedLinear
from rlhf.stages.learner import POLICY
from tests.benchmarks.small import SMALL


def make(*overrides: str, mean_length: float | None = None) -> Setting:
    config = configure([*SMALL, *overrides])
    return build_setting(config, *load_lm(config, mean_length))


def sampled_lengths(setting: Setting, count: int, limit: int) -> list[int]:
    policy = setting.base.add(POLICY, setting.config.lora, trainable=True)
    prompts, generator = setting.source.prompts("train", count, Random(0)), torch.Generator().manual_seed(0)
    responses = setting.sampler.sample(policy, prompts, 1.0, generator, limit)
    assert not any(PAD in response.token_ids for response in responses)
    return [len(response.token_ids) for response in responses]


def test_a_word_is_a_token() -> None:
    tokenizer = word_tokenizer(8)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (PAD, EOS, 8)
    assert tokenizer.decode([2, 7, 3]) == "w2 w7 w3"
    assert tokenizer("w2 w7 w3")["input_ids"] == [2, 7, 3]


def test_prompts_are_as_long_as_they_are_asked_to_be() -> None:
    setting = make("rollout.max_prompt_tokens=28")
    lengths = {len(ids) for ids in setting.sampler.encode(setting.source.pool)}
    assert lengths == set(range(20, 29))
    assert len(setting.source.prompts("train", 5, Random(0))) == 5


def test_responses_never_end_unless_told_to() -> None:
    assert sampled_lengths(make(), 64, 40) == [40] * 64


def test_responses_end_after_their_mean_length() -> None:
    """Geometric with mean 5: standard deviation sqrt(20); of the mean of 400, 0.22."""
    lengths = sampled_lengths(make(mean_length=5.0), 400, 64)
    assert sum(lengths) / 400 == pytest.approx(5.0, abs=1.0)
    assert lengths.count(1) / 400 == pytest.approx(1 / 5, abs=0.08)


def test_a_length_that_no_response_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--mean-length=1\.0 is not allowed"):
        make(mean_length=1.0)


def test_a_head_that_embeds_too_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.tied=True is not allowed"):
        make("model.tied=true")


def test_a_saved_model_is_measured_as_it_is(tmp_path: object) -> None:
    config = configure([*SMALL])
    lm, tokenizer = load_lm(config, None)
    save_backbone(lm, tokenizer, tmp_path)  # pyright: ignore[reportArgumentType]
    config = configure([*SMALL, f"model.path={tmp_path}", "model.attention=eager"])
    loaded, _ = load_lm(config, None)
    assert torch.equal(loaded.lm_head.weight, lm.lm_head.weight)
    assert loaded.config._attn_implementation == "eager"
    with pytest.raises(ConfigError, match="how long responses are is the model's matter"):
        load_lm(config, 5.0)


def test_one_base_carries_all_roles() -> None:
    setting = make("value=adapter")
    learner = setting.learner()
    row = learner.step()
    assert row["rollout/response_length"] == 6.0
    prompts, responses = setting.sampler.lengths()
    assert (len(prompts), responses) == (4, [6] * 4)
    assert learner.policy.lm is setting.base.lm is setting.reward.trunk.lm


def test_the_base_is_held_and_recomputed_as_the_settings_say() -> None:
    setting = make("model.dtype=mixed", "model.gradient_checkpointing=true")
    assert setting.base.recompute
    assert sum(isinstance(layer, MixedLinear) for layer in setting.base.lm.modules()) == 7 * setting.config.model.layers
    assert not make().base.recompute


def test_four_bits_keep_the_heads_precision() -> None:
    pytest.importorskip("bitsandbytes")
    small = [*SMALL, "model.hidden_size=64", "model.intermediate_size=64", "model.dtype=bfloat16"]
    config = configure([*small, "model.quantization=4bit"])
    (whole, _), (lm, tokenizer) = load_lm(configure(small), None), load_lm(config, None)
    before, after = (
        sum(weight.numel() * weight.element_size() for weight in each.base_model.layers.parameters())  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        for each in (whole, lm)
    )
    assert after < before / 3  # 4 bits for 16, the norms as they were
    assert lm.lm_head.weight.dtype == torch.bfloat16
    assert build_setting(config, lm, tokenizer).learner().step()["rollout/response_length"] == 6.0


def test_eight_bits_are_refused_of_random_weights() -> None:
    with pytest.raises(ConfigError, match=r"model\.quantization=8bit is not allowed: random weights take 4bit or null"):
        make("model.quantization=8bit")
