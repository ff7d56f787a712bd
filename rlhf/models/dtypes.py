"""Number formats by the names that conf/ gives them."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "mixed": torch.float32}
"""Of the states between layers, of embeddings and heads."""

LINEAR_DTYPES = DTYPES | {"mixed": torch.bfloat16}
"""Of the weights of linear layers."""
