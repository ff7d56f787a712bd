"""A frozen base in 8 or 4 bits, by bitsandbytes."""

import importlib.util

from transformers import BitsAndBytesConfig

from rlhf.errors import ConfigError
from rlhf.models.dtypes import DTYPES


def quantized(quantization: str | None, dtype: str) -> BitsAndBytesConfig | None:
    """How transformers is to load the linear layers, to compute in `dtype`; raises ConfigError without the library."""
    if quantization is None:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantization={quantization} is not allowed: bitsandbytes is not installed; install "
            "rlhf[quantized], or use model.quantization=null with model.dtype=bfloat16"
        )
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[dtype],
    )
