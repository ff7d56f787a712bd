"""The causal LM that everything starts from: built from scratch, or loaded with its tokenizer."""

import ctypes
import os
import platform
import re
import warnings
from contextlib import suppress
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
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.config.models import ModelConfig
from rlhf.data.encoding import special_ids
from rlhf.errors import ConfigError
from rlhf.models.hub import load_whole, loading
from rlhf.models.layers import finish_logits, leave_out_unknown, reads_padded
from rlhf.models.precision import DTYPES, mix, quantized
from rlhf.process.slurm import GPU_SHARE
from rlhf.validate import check

CPU = torch.device("cpu")


def prepare_torch(threads: int | None) -> None:
    """Set the number of CPU threads, if one is asked for, and quieten what transformers says while loading."""
    if threads is not None:
        torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    # peft reads an attribute that transformers has renamed
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def resolve_device(device: str, memory: float | None = None) -> torch.device:
    """`auto` is the first GPU, or else the CPU; raises ConfigError where CUDA is asked for and missing.

    Of a GPU this process may then take what `usable_memory` says.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda is not allowed: this machine shows no CUDA GPU; use device=auto or device=cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(usable_memory(total, memory) / total)
    return torch.device(device)


def held_by_others() -> str:
    """Return what other processes hold of the GPU, to stand in a message; "" where it is less than a tenth."""
    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    others = total - free - torch.cuda.memory_reserved()
    return f", of which other processes hold {others / 2**30:.0f} GiB" if others > total / 10 else ""


def processor(device: torch.device) -> str:
    """What computes there, and by which torch: where either differs, results may differ in their last bits."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{cpu_name()} with {torch.backends.cpu.get_cpu_capability()}"
    return f"{name}, torch {torch.__version__}"


def cpu_name() -> str:
    """As Linux names the first core's model; else what kind it is."""
    with suppress(OSError):
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if named:
            return named[1].strip()
    return platform.machine()


def usable_memory(total: float, memory: float | None) -> float:
    """Bytes of a GPU's `total` that this process may take: its share, where several have one; at most `memory` GiB."""
    share = total * float(os.environ.get(GPU_SHARE, "1"))
    return share if memory is None else min(share, memory * 2**30)


def build_backbone(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> PreTrainedModel:
    """A Llama for this tokenizer, as large as the config says, with float32 weights from torch's global generator."""
    return LlamaForCausalLM(scratch_shape(config, len(tokenizer), tokenizer)).to(device)  # pyright: ignore[reportArgumentType]


def random_backbone(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> PreTrainedModel:
    """A random Llama with `model.vocab_size` rows, made on `device` at once, in `model.dtype` or mixed."""
    with device:
        lm = AutoModelForCausalLM.from_config(
            scratch_shape(config, config.vocab_size, tokenizer),
            dtype=DTYPES[config.dtype],
            attn_implementation=config.attention,
        )
    leave_out_unknown(lm, len(tokenizer))
    if config.dtype == "mixed":
        mix(lm)
    return lm.eval()


def scratch_shape(
    config: ModelConfig, vocab_size: int, tokenizer: PreTrainedTokenizerBase | None = None
) -> LlamaConfig:
    """The shape of the Llama that the config describes."""
    pad_id, eos_id = special_ids(tokenizer) if tokenizer is not None else (None, None)
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.context,
        tie_word_embeddings=config.tied,
        initializer_range=config.initializer_range,
        pad_token_id=pad_id,
        eos_token_id=eos_id,
    )


def load_backbone(
    path: str | Path,
    dtype: str,
    device: torch.device = CPU,
    attention: str | None = None,
    quantization: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM in evaluation mode and its tokenizer, from a directory or by hub id.

    The tokenizer must know an EOS; a missing pad token is taken to be EOS, which is safe because lengths are carried
    and never counted from pads. Ids above the highest that the tokenizer knows get no logits.
    """
    tokenizer = load_tokenizer(path)
    model = load_causal_lm(str(path), dtype, device, attention, quantization)
    known, rows = known_ids(tokenizer), embedding_rows(model)
    allowed = f"its tokenizer has ids up to {known - 1} and its embedding {rows} rows: save the model's own beside it"
    check(known <= rows, "model.path", str(path), allowed)
    leave_out_unknown(model, known)
    with loading("model.path", str(path), "causal LM that can be run"):
        allowed = "its logits are not its output head applied to its last states"
        check(has_plain_head(model), "model.path", str(path), allowed)
        check(looks_back_only(model), "model.path", str(path), "its tokens read those behind them: it is no causal LM")
    if dtype == "mixed":
        mix(model)
        release()
    return model, tokenizer


def release() -> None:
    """Give the memory of freed weights back to the system, where the C library is glibc, which would keep it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def load_causal_lm(
    path: str, dtype: str, device: torch.device, attention: str | None = None, quantization: str | None = None
) -> PreTrainedModel:
    """The model alone; with the device "meta" its files are checked, and no weight is read."""
    model = load_whole(
        AutoModelForCausalLM,
        "model.path",
        path,
        "causal LM with these model.attention and model.quantization",
        dtype=DTYPES[dtype],
        device_map={"": device},
        attn_implementation=attention,
        quantization_config=quantized(quantization, dtype),
    )
    allowed = "its family keeps no state that can be padded, as attention does: use a decoder of attention layers"
    check(reads_padded(model), "model.path", path, allowed)
    return model


def known_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the highest id of a token, which may be more than there are tokens: ids may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def embedding_rows(model: PreTrainedModel) -> int:
    rows: Any = model.get_input_embeddings().num_embeddings
    return rows


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the model at `path`, with an EOS, and a pad token, if need be the same one."""
    with loading("model.path", str(path), "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    allowed = "its tokenizer has no EOS token, so responses would never end"
    check(tokenizer.eos_token_id is not None, "model.path", str(path), allowed)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    return tokenizer


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are the output head applied to the trunk's states, but for what `finish_logits` knows."""
    probe = torch.tensor([[0, 1]], device=model.device)
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Module):
        return False
    states = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
    return torch.equal(finish_logits(head(states), model.config), model(input_ids=probe, use_cache=False).logits)


@torch.no_grad()
def looks_back_only(model: PreTrainedModel) -> bool:
    """Whether the states of a token stay the same when what follows it changes, as an encoder's do not."""
    probe = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]], device=model.device)
    first, second = model.base_model(input_ids=probe, use_cache=False).last_hidden_state[:, :2].float()
    return torch.allclose(first, second, rtol=1e-4, atol=1e-4 * float(first.abs().max()))


def expand(path: str) -> str:
    """A path with its `~` written out; a hub id as it is."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


def model_shape(config: ModelConfig) -> PreTrainedConfig:
    """The shape of the model at `model.path`, or of the one that would be made from scratch."""
    return load_shape(expand(config.path)) if config.path else scratch_shape(config, config.vocab_size)


def load_shape(path: str) -> PreTrainedConfig:
    """The config of the causal LM at `path`, without its weights."""
    with loading("model.path", path, "model"):
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def save_backbone(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
