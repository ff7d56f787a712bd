"""TRL's PPO on a given model, timed: run by `python -m benchmarks trl` in an environment of its own.

Reads a JSON file with the work and writes one with the figures. Imports nothing of the project, which that environment
lacks.
"""

import itertools
import json
import os
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

Work = dict[str, Any]


def main(work_file: str, figures_file: str) -> None:
    work = json.loads(Path(work_file).read_text())
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    figures = run(work)
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Path(figures_file).write_text(json.dumps(figures))


def run(work: Work) -> dict[str, Any]:
    """Train for `steps` updates after one that warms up; seconds of each, and the mean length of its responses."""
    import torch

    torch.set_num_threads(work["threads"])
    trainer = build_trainer(work)
    lengths, ends = record(trainer)
    ends.append(now())
    trainer.train()
    wall, cpu = ([end - start for start, end in itertools.pairwise(clock)] for clock in zip(*ends, strict=True))
    return {
        "seconds": wall[1:],
        "cpu_seconds": cpu[1:],
        "mean_lengths": lengths[1:],
        "trained_weights": sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad),
        "versions": {name: version(name) for name in ("trl", "transformers", "torch", "peft")},
    }


def build_trainer(work: Work) -> Any:
    """TRL's trainer with models of its own for value and reward, as its example has it."""
    import torch
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer  # pyright: ignore[reportMissingImports]

    tokenizer = AutoTokenizer.from_pretrained(work["model"], padding_side="left")
    dtype = getattr(torch, work["dtype"])
    policy = AutoModelForCausalLM.from_pretrained(work["model"], dtype=dtype)
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(work["model"], num_labels=1, dtype=dtype) for _ in range(2)
    )
    lora = work["lora"]
    if work["value"] == "lora":
        value = get_peft_model(value, LoraConfig(**lora, task_type="SEQ_CLS"))
    settings = PPOConfig(
        output_dir=work["folder"],
        per_device_train_batch_size=work["batch_size"],
        gradient_accumulation_steps=1,
        num_mini_batches=work["minibatches"],
        num_ppo_epochs=work["epochs"],
        total_episodes=work["batch_size"] * (work["steps"] + 1),
        local_rollout_forward_batch_size=work["batch_size"],
        response_length=work["response_length"],
        stop_token="eos" if work["stops"] else None,
        num_sample_generations=0,
        use_cpu=work["device"] == "cpu",
        bf16=work["bf16"],
        gradient_checkpointing=False,
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        **work["ppo"],
    )
    prompts = Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in work["prompts"]])
    adapter = LoraConfig(**lora, task_type="CAUSAL_LM")
    return PPOTrainer(settings, tokenizer, policy, None, reward, prompts, value, peft_config=adapter)


def now() -> tuple[float, float]:
    """Wall-clock seconds, and this process's on the CPU."""
    return time.perf_counter(), time.process_time()


def record(trainer: Any) -> tuple[list[float], list[tuple[float, float]]]:
    """Lists that training will fill: the mean response length of each rollout, and when each update ended."""
    import trl.experimental.ppo.ppo_trainer as module  # pyright: ignore[reportMissingImports]

    lengths: list[float] = []
    ends: list[tuple[float, float]] = []
    generate, eos_id = module.batch_generation, trainer.processing_class.eos_token_id

    def batch_generation(model: Any, queries: Any, *others: Any) -> Any:
        found = generate(model, queries, *others)
        responses = found[0][:, queries.shape[1] :]
        lengths.append(mean_length(responses.tolist(), eos_id))
        return found

    module.batch_generation = batch_generation
    trainer.log = lambda *others, **named: ends.append(now())
    return lengths, ends


def mean_length(responses: list[list[int]], eos_id: int) -> float:
    """Tokens up to EOS, that one too, or all."""
    lengths = [row.index(eos_id) + 1 if eos_id in row else len(row) for row in responses]
    return sum(lengths) / len(lengths)


if __name__ == "__main__":
    main(*sys.argv[1:])
