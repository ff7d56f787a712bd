"""The model card of an exported policy: how it is loaded, what it can do, and the command that makes it again."""

import re
from pathlib import Path

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from rlhf.data.templates import WITHOUT_INPUT
from rlhf.escape import code, fenced, markdown
from rlhf.export.hub import NAME
from rlhf.export.policy import Policy
from rlhf.report.load import Leaf
from rlhf.report.settings import command
from rlhf.summary import rows_of, shown

SETTINGS = (
    *("algorithm.name", "regularizer.name", "regularizer.placement", "regularizer.coef", "regularizer.strength"),
    *("lora.r", "lora.alpha", "lora.dropout", "lora.target_modules", "lora.rslora", "lora.dora", "lora.path"),
    *("ppo.lr", "ppo.steps", "rollout.batch_size", "value.name", "reward.backbone", "judge.name", "evaluation.prompts"),
    *("data.name", "model.path", "model.dtype", "model.quantization", "seed", "data.seed"),
)
"""What the card shows of a run's settings; run/config.yaml has all of them."""

PROMPTS = {
    "world": "<bos> <user> {instruction} <assistant>",
    "alpaca": WITHOUT_INPUT,
    "chat": """messages = [{"role": "user", "content": "{instruction}"}]
tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)""",
    "plain": "{instruction}",
}
"""The form that prompts had while it was trained, by data.name or data.template."""


TEMPLATES = Environment(
    loader=PackageLoader("rlhf.export", "."),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


TEMPLATES.filters |= {"text": markdown, "code": code, "fenced": fenced}


def model_card(policy: Policy, name: str, whole: bool, pushed: bool) -> str:
    """README.md of a folder, or if it is pushed a repository, of that name; `whole`: it holds a model, no adapter."""
    config, metrics = policy.run.config, policy.run.metrics
    figures = [(row.title, shown(metrics["baseline"], row.name), shown(metrics, row.name)) for row in rows_of(metrics)]
    return TEMPLATES.get_template("card.md.j2").render(
        front=front(policy, whole).to_yaml(),
        name=name.rsplit("/", 1)[-1],
        algorithm=config["algorithm.name"],
        regularizer=config["regularizer.name"],
        whole=whole,
        base=policy.published,
        source=name,
        pushed=pushed,
        prompt=PROMPTS[prompt_form(config)],
        figures=figures,
        n_eval=metrics.get("n_eval"),
        problem=metrics.get("objective_problem"),
        judge=config.get("judge.name"),
        command=command([policy.run]),
        settings=[(key, config[key]) for key in SETTINGS if config.get(key) is not None],
        quantization=config.get("model.quantization"),
    )


def front(policy: Policy, whole: bool) -> ModelCardData:
    """What the hub reads of a card; the base only where it is one of the hub's."""
    config, base = policy.run.config, policy.published
    with_lora = "lora" if not policy.whole else "full-fine-tuning"
    published = base if base and on_hub(base) else None
    relation = "finetune" if whole else "adapter"
    return ModelCardData(
        base_model=published,
        library_name="transformers" if whole else "peft",
        pipeline_tag="text-generation",
        datasets=hub_datasets(config) or None,
        tags=["rlhf", str(config["algorithm.name"]), with_lora, f"regularizer:{config['regularizer.name']}"],
        base_model_relation=relation if published else None,
    )


def on_hub(base: str) -> bool:
    return not Path(base).expanduser().exists() and bool(NAME.fullmatch(base) or "/" not in base)


def hub_datasets(config: dict[str, Leaf]) -> list[str]:
    """The data sets of the hub that the run names: hub:OWNER/NAME, with a revision, a file or a split after it."""
    leaves = [str(leaf) for key, leaf in config.items() if key.startswith("data.")]
    found = [re.match(r"hub:([\w.-]+/[\w.-]+)", leaf) for leaf in leaves]
    return sorted({each[1] for each in found if each})


def prompt_form(config: dict[str, Leaf]) -> str:
    return "world" if config.get("data.name") == "world" else str(config.get("data.template") or "alpaca")
