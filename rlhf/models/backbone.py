"""The causal LM that everything starts from: built from scratch, or loaded with its tokenizer."""

import warnings
from pathlib import Path

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
from rlhf.models.hub import loading
from rlhf.models.layers import finish_logits, leave_out_unknown
from rlhf.models.precision import DTYPES, mix, quantized

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
    return LlamaForCausalLM(scratch_shape(config, len(tokenizer), tokenizer)).to(device)  # pyright: ignore[reportArgumentType]


def random_backbone(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> PreTrainedModel:
    """The same with all of `model.vocab_size`, made on `device` at once, and but for mixed in `model.dtype`."""
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
    """Of the Llama that the config says."""
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
    and never counted from pads. Ids that the tokenizer does not know get no logits.
    """
    tokenizer = load_tokenizer(path)
    with loading("model.path", str(path), "causal LM with these model.attention and model.quantization"):
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=DTYPES[dtype],
            device_map={"": device},
            attn_implementation=attention,
            quantization_config=quantized(quantization, dtype),
            trust_remote_code=False,
        )
    _check_vocabulary(model, tokenizer, str(path))
    leave_out_unknown(model, len(tokenizer))
    _check_head(model.eval(), str(path))
    if dtype == "mixed":
        mix(model)
    return model, tokenizer


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the model at `path`, with an EOS, and a pad token, if need be the same one."""
    with loading("model.path", str(path), "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model.path={path} is not allowed: its tokenizer has no EOS token, so responses would never end"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    return tokenizer


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    rows = model.get_input_embeddings().num_embeddings
    assert isinstance(rows, int)
    if len(tokenizer) > rows:
        raise ConfigError(
            f"model.path={path} is not allowed: its tokenizer has {len(tokenizer)} tokens and its embedding {rows} "
            "rows, so they do not belong together; save the tokenizer that the model was trained with beside it"
        )


@torch.no_grad()
def _check_head(model: PreTrainedModel, path: str) -> None:
    """Logits are computed from the trunk's states by the output head; refuse a model that does more than is known."""
    probe = torch.tensor([[0, 1]], device=model.device)
    head = model.get_output_embeddings()
    if isinstance(head, torch.nn.Module):
        states = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
        if torch.equal(finish_logits(head(states), model.config), model(input_ids=probe, use_cache=False).logits):
            return
    raise ConfigError(
        f"model.path={path} is not allowed: its logits are not its output head applied to its last states"
    )


def expand(path: str) -> str:
    """A path with its `~` written out; a hub id as it is."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


def model_shape(config: ModelConfig) -> PreTrainedConfig:
    """Of the model at `model.path`, or of the one that would be made from scratch."""
    return load_shape(expand(config.path)) if config.path else scratch_shape(config, config.vocab_size)


def load_shape(path: str) -> PreTrainedConfig:
    """The config of the causal LM at `path`, without its weights."""
    with loading("model.path", path, "model"):
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def context_length(path: str) -> int:
    """The longest sequence that the model at `path` was made for, in tokens; raises ConfigError where there is none."""
    return int(load_shape(path).get_text_config().max_position_embeddings)


def save_backbone(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
