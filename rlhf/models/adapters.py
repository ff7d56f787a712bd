"""One base, many adapters: a causal LM whose weights are shared by every role of a run.

The base is frozen. A role (policy, value, reward) is a named LoRA adapter on it, the reference is the base with
adapters off. Where LoRA is off (lora=full) the policy is a copy of its own, and the base remains the reference.
"""

import copy
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path

import torch
from jaxtyping import Float
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.config.models import LoraConfig
from rlhf.errors import ConfigError
from rlhf.models.batch import Batch
from rlhf.models.hub import check_same_weights
from rlhf.models.layers import (
    attention_layers,
    checkpointed_layers,
    finish_logits,
    module_names,
    recomputed,
    stores_transposed,
)
from rlhf.models.lora import quicken
from rlhf.models.packing import keeps_apart
from rlhf.storage.files import share
from rlhf.validate import check


def check_modules(lm: PreTrainedModel, config: LoraConfig, section: str = "lora") -> None:
    """Raise ConfigError where any of `target_modules` is no linear layer between the embeddings of `lm`."""
    key, asked = f"{section}.target_modules", list(config.target_modules)
    check(len(asked) == len(set(asked)) > 0, key, asked, "name each module once, and one at least")
    check("all-linear" not in asked or len(asked) == 1, key, asked, "all-linear stands for all: name nothing beside it")
    names = module_names(lm)
    endings = {".".join(parts[start:]) for parts in (name.split(".") for name in names) for start in range(len(parts))}
    embeddings = [lm.get_input_embeddings(), lm.get_output_embeddings()]
    ends = [name for name, module in lm.named_modules() if any(module is each for each in embeddings)]
    for name in (name for name in asked if name not in ("all-linear", "attention")):
        ends_there = any(f".{end}".endswith(f".{name}") for end in ends)
        check(not ends_there, key, asked, f"{name}: name layers between the embeddings, whose weights serve all roles")
        known = ", ".join(sorted({each.rsplit(".", 1)[-1] for each in names}))
        check(name in endings, key, asked, f"the base has no linear layer {name}; it has {known}")


class SharedBase:
    """A frozen causal LM and the LoRA adapters on it, at most one of them on at a time."""

    def __init__(self, lm: PreTrainedModel, path: str = "", recompute: bool = False, quick: bool = False) -> None:
        """`path` is where the weights lie, for whoever loads an adapter saved from here.

        With `recompute`, roles keep no activations inside layers for the backward pass (gradient checkpointing). With
        `quick`, they run LoRA in few operations and pack sequences tightly, which changes the last bits of numbers.
        """
        if recompute and not checkpointed_layers(lm):
            raise ConfigError(
                f"model.gradient_checkpointing=true is not allowed: {type(lm).__name__} marks no layers for it"
            )
        self.lm, self.path, self.recompute = lm.requires_grad_(False).eval(), path, recompute
        self.quick = quick
        self.attention = attention_layers(lm)
        self.packs = keeps_apart(lm)
        self.peft: PeftModel | None = None
        self.layers: list[BaseTunerLayer] = []
        self.active: str | None = None

    def add(self, name: str, config: LoraConfig, trainable: bool) -> "Role":
        """Add an adapter, which changes nothing until trained: its second factor starts at zero.

        The role's `adapter` is `name`, numbered where the base carries one of that name.
        """
        name = self._unused(name)
        check_modules(self.lm, config)
        modules, has_none = list(config.target_modules), "attention" in config.target_modules and not self.attention
        check(not has_none, "lora.target_modules", modules, "the base has no attention whose layers are known by name")
        settings = self._peft_config(config)
        if self.peft is None:
            self.peft = get_peft_model(self.lm, settings, adapter_name=name)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            self.peft.add_adapter(name, settings)
        self.layers = [module for module in self.lm.modules() if isinstance(module, BaseTunerLayer)]
        for layer in self.layers if self.quick else ():
            quicken(layer)  # pyright: ignore[reportArgumentType]
        self.switch(self.active)
        self.lm.eval()  # peft makes an adapter's dropout in training mode, whatever the base's
        role = Role(self.lm, self, name)
        for weight in role.parameters():
            weight.data = weight.data.to(getattr(torch, config.dtype))
            weight.requires_grad_(trainable)
        return role

    def remove(self, name: str) -> None:
        """Delete an adapter and its weights; the other roles compute what they did before."""
        assert self.peft is not None
        for layer in self.layers:  # where an adapter is on, peft would turn on another one, and freeze all others
            layer._active_adapter = []
        self.peft.delete_adapter(name)
        self.switch(None if self.active == name else self.active)

    def adapter_weights(self, name: str) -> list[nn.Parameter]:
        """The weights of one adapter, in the order of the model's own parameters."""
        kept = [
            child[name]
            for layer in self.layers
            if isinstance(layer, nn.Module)
            for kind, child in layer.named_children()
            if kind in layer.adapter_layer_names and isinstance(child, nn.ModuleDict) and name in child
        ]
        return [weight for module in kept for weight in module.parameters()]

    def reference(self) -> "Role":
        """The base itself, adapters off."""
        return Role(self.lm, self, None)

    def full_copy(self) -> "Role":
        """All weights of a copy of the base, without its adapters, in float32 and trainable."""
        copied = self.reference().copy()
        return Role(copied.float().requires_grad_(True).eval(), None, None, self.recompute, self.quick)  # pyright: ignore[reportArgumentType]

    def switch(self, name: str | None) -> None:
        """Turn on the adapter `name` alone, or none.

        peft's own way would also switch which adapters are trainable, and a backward pass here may reach adapters that
        are off by then; and it takes as long as a layer of a small model.
        """
        self.active = name
        for layer in self.layers:
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [name]

    @contextmanager
    def on(self, name: str | None) -> Iterator[None]:
        """The adapter `name` alone, or none, inside the block."""
        before = self.active
        if name != before:
            self.switch(name)
        try:
            yield
        finally:
            if name != before:
                self.switch(before)

    def _unused(self, name: str) -> str:
        taken = set() if self.peft is None else set(self.peft.peft_config)
        numbered = (f"{name}_{number}" for number in count(2))
        return name if name not in taken else next(each for each in numbered if each not in taken)

    def _peft_config(self, config: LoraConfig) -> PeftLoraConfig:
        assert config.r is not None
        lists = [self.attention if name == "attention" else [name] for name in config.target_modules]
        modules = [name for names in lists for name in names]
        return PeftLoraConfig(
            r=config.r,
            lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]
            lora_dropout=config.dropout,
            target_modules="all-linear" if modules == ["all-linear"] else modules,
            fan_in_fan_out=stores_transposed(self.lm),
            use_rslora=config.rslora,
            use_dora=config.dora,
            task_type="CAUSAL_LM",
        )


class Role:
    """A causal LM in one role: with one adapter on, with all off, or with no adapters at all (`shared` is None)."""

    def __init__(
        self,
        lm: PreTrainedModel,
        shared: SharedBase | None = None,
        adapter: str | None = None,
        recompute: bool = False,
        quick: bool = False,
    ) -> None:
        self.lm, self.shared, self.adapter = lm, shared, adapter
        self.recompute = recompute if shared is None else shared.recompute
        self.quick = quick if shared is None else shared.quick
        self.packs = keeps_apart(lm) if shared is None else shared.packs

    @contextmanager
    def on(self) -> Iterator[PreTrainedModel]:
        """The causal LM, playing this role inside the block."""
        with nullcontext() if self.shared is None else self.shared.on(self.adapter):
            yield self.lm

    @property
    def _peft(self) -> PeftModel | None:
        """The adapters' owner, where this role is one of its adapters."""
        return self.shared.peft if self.shared is not None and self.adapter is not None else None

    def parameters(self) -> list[nn.Parameter]:
        """The weights that are this role's alone."""
        if self.shared is None:
            return list(self.lm.parameters())
        return [] if self.adapter is None else self.shared.adapter_weights(self.adapter)

    def remove(self) -> None:
        """Take the role's adapter off the base; a whole model, or the reference, has none."""
        if self.shared is not None and self.adapter is not None:
            self.shared.remove(self.adapter)

    def copy(self) -> PreTrainedModel:
        """A causal LM of its own with the weights of this role, its adapter merged into them."""
        with self.on():
            owner = None if self.shared is None else self.shared.peft
            copied = copy.deepcopy(self.lm if owner is None else owner)
        if owner is not None:
            copied = copied.unload() if self.adapter is None else copied.merge_and_unload(adapter_names=[self.adapter])  # pyright: ignore[reportCallIssue]
        return copied  # pyright: ignore[reportReturnType]

    def freeze(self) -> None:
        for weight in self.parameters():
            weight.requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        """Those weights by name, as peft names them where this is an adapter."""
        if self._peft is not None:
            return get_peft_model_state_dict(self._peft, adapter_name=self.adapter or "")
        return self.lm.state_dict()

    def load_state(self, state: dict[str, Tensor], key: str = "adapter", path: str = "what was saved") -> None:
        """Take the weights that were at `path`; raises ConfigError where they are of other names or shapes."""
        check_same_weights(self.state(), state, key, path, f"this base's {self.adapter or 'model'}")
        if self._peft is not None:
            set_peft_model_state_dict(self._peft, state, adapter_name=self.adapter or "")
        else:
            self.lm.load_state_dict(state)

    def save(self, directory: Path) -> None:
        """A checkpoint that plain peft loads on the base's path; or, of a whole model, one that transformers loads."""
        parent = directory.with_name(f".{directory.name}.unfinished")
        shutil.rmtree(parent, ignore_errors=True)  # a killed process may have left it
        try:
            saved = parent / (self.adapter or "model")
            if self._peft is None or self.adapter is None or self.shared is None:
                self.lm.save_pretrained(saved)
            else:
                self._peft.peft_config[self.adapter].base_model_name_or_path = self.shared.path
                self._peft.save_pretrained(str(parent), selected_adapters=[self.adapter])
            share(saved)
            shutil.rmtree(directory, ignore_errors=True)
            saved.rename(directory)
        finally:
            shutil.rmtree(parent, ignore_errors=True)

    def hidden(self, batch: Batch) -> Float[Tensor, "batch length hidden"]:
        """The trunk's last hidden states at every position, 0 at padding."""
        with self.on() as lm, recomputed(lm, self._contexts) if self.recompute else nullcontext():
            if self.packs:
                rows = batch.tight_packing if self.quick else batch.packing
                given = lm.base_model(input_ids=rows.input_ids, position_ids=rows.position_ids, use_cache=False)
                return rows.unpack(given.last_hidden_state, batch.input_ids.shape)
            states = lm.base_model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
            ).last_hidden_state
            return states * batch.attention_mask[..., None]

    def logits(self, hidden: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens vocabulary"]:
        """The output head on hidden states, in float32."""
        head = self.lm.get_output_embeddings()
        assert isinstance(head, nn.Module)
        return finish_logits(head(hidden.to(next(head.parameters()).dtype)), self.lm.config).float()

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """By the time of the backward pass another role may be on, or none: what is computed again needs this one."""
        again = nullcontext() if self.shared is None else self.shared.on(self.adapter)
        return nullcontext(), again
