"""AlpacaFarm's reward model (arXiv 2305.14387), in the layout of its checkpoints.

A causal LM whose head is not read, `backbone_model`, and a linear `reward_head` on the last token's last hidden state.
Its config names the SFT model that it was made on, by path, and holds no shape of its own.
"""

from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from rlhf.errors import ConfigError
from rlhf.models.layers import state_width
from rlhf.storage.files import read_json


class AlpacaFarmReward(PreTrainedModel):
    """`config` is the backbone's."""

    config_class = PreTrainedConfig
    base_model_prefix = "backbone_model"

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.backbone_model = AutoModelForCausalLM.from_config(config)
        self.reward_head = nn.Linear(state_width(self.backbone_model), 1)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Int[Tensor, "batch length"],
        position_ids: Int[Tensor, "batch length"],
    ) -> Float[Tensor, " batch"]:
        """A reward per row; rows end at the last column."""
        trunk = self.backbone_model.base_model
        states = trunk(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)
        return self.reward_head(states.last_hidden_state[:, -1]).squeeze(-1)


def backbone_shape(path: str) -> PreTrainedConfig:
    """The config of the model that the one at `path` was made on: where its config.json says, or a directory beside.

    Raises ConfigError where it is in neither place.
    """
    named = read_json(Path(path) / "config.json").get("backbone_model_name_or_path")
    if named is None:
        raise ConfigError(
            f"reward.path={path} is not allowed: its config.json has no backbone_model_name_or_path, as AlpacaFarm's do"
        )
    for place in (Path(named), Path(path).parent / Path(named).name):
        if (place / "config.json").exists():
            return AutoConfig.from_pretrained(place, trust_remote_code=False)
    raise ConfigError(
        f"reward.path={path} is not allowed: the model it was made on, backbone_model_name_or_path={named} of its "
        f"config.json, lies neither there nor beside it; put the SFT model there, or correct the path"
    )
