"""The causal LM that everything starts from: built from scratch, or loaded with its tokenizer."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.config.models import ModelConfig
from rlhf.errors import ConfigError
from rlhf.models.batch import special_ids

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prepare_torch(threads: int | None) -> None:
    """Set the number of CPU threads, if one is asked for, and quieten what transformers says while loading."""
    if threads is not None:
        torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    # peft reads an attribute that transformers has renamed
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def resolve_device(device: str, memory: float | None = None) -> torch.device:
    """`auto` is the first GPU, or else the CPU; raises ConfigError where CUDA is asked for and missing.

    Of a GPU this process may then take `memory` GiB, or all there is.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda is not allowed: this machine shows no CUDA GPU; use device=auto or device=cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and memory is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory * 2**30 / total))
    return torch.device(device)


def build_backbone(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> PreTrainedModel:
    """A Llama for this tokenizer, as large as the config says, with float32 weights from torch's global generator."""
    pad_id, eos_id = special_ids(tokenizer)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        initializer_range=config.initializer_range,
        pad_token_id=pad_id,
        eos_token_id=eos_id,
    )
    return LlamaForCausalLM(shape).to(device)  # pyright: ignore[reportArgumentType]


def load_backbone(path: str | Path, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM in evaluation mode and its tokenizer, from a directory or by hub id.

    The tokenizer must know an EOS; a missing pad token is taken to be EOS, which is safe because lengths are carried
    and never counted from pads.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype])
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.path={path} is not allowed: no causal LM with a tokenizer can be loaded from there ({error})"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model.path={path} is not allowed: its tokenizer has no EOS token, so responses would never end"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    _check_head(model.eval(), str(path))
    return model, tokenizer


@torch.no_grad()
def _check_head(model: PreTrainedModel, path: str) -> None:
    """Logits are computed from the trunk's states by the output head alone; refuse a model that does more than that."""
    probe = torch.tensor([[0, 1]], device=model.device)
    head = model.get_output_embeddings()
    if isinstance(head, torch.nn.Module):
        states = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
        if torch.equal(head(states), model(input_ids=probe, use_cache=False).logits):
            return
    raise ConfigError(
        f"model.path={path} is not allowed: its logits are not its output head applied to its last states"
    )


def context_length(path: str) -> int:
    """The longest sequence that the model at `path` was made for, in tokens; raises ConfigError where there is none."""
    try:
        shape = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path={path} is not allowed: no model can be loaded from there ({error})") from error
    return int(shape.get_text_config().max_position_embeddings)


def save_backbone(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def fingerprint(path: str) -> list[Any]:
    """What identifies the weights at `path`: names, sizes and times of a directory's files, or else the hub id."""
    if not Path(path).is_dir():
        return [path]
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    return [[entry.name, entry.stat().st_size, entry.stat().st_mtime_ns] for entry in entries if entry.is_file()]
