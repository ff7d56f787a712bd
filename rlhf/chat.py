"""Talk to a policy beside its SFT model: `python -m rlhf.chat RUN_DIR [--prompt TEXT]`.

The run is done or goes on; its policy is that of its last evaluation. Each line is a prompt of its own, in the template
that the run was trained with; both models draw with the same random numbers.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import load_peft_weights
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from rlhf.config.data import TextConfig, WorldConfig
from rlhf.config.run import Config
from rlhf.console import PlainConsole, command, number, whole
from rlhf.data.encoding import tell_template
from rlhf.data.grammar import prompt_text
from rlhf.data.source import Prompt, Response
from rlhf.data.templates import instruction_prompt
from rlhf.data.world import KINDS, World, possible_prompts
from rlhf.errors import DataError
from rlhf.escape import visible
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.backbone import load_backbone, prepare_torch, resolve_device
from rlhf.models.sampler import Sampler
from rlhf.samples import marked
from rlhf.stages.baseline import evaluation_prompts
from rlhf.stages.learner import POLICY
from rlhf.stages.pipeline import Pipeline
from rlhf.storage.reader import read_base
from rlhf.storage.rundir import RunDirectory


@dataclass(frozen=True)
class Chat:
    """Both models of a run; `world` is the embedded one, where it was trained in that."""

    config: Config
    sampler: Sampler
    sft: Role
    policy: Role
    world: World | None

    def prompt(self, text: str) -> Prompt:
        """Put a text into the run's template; raises DataError where the models can't read all of it."""
        tokenizer = self.sampler.tokenizer
        if isinstance(self.config.data, TextConfig):
            prompt = instruction_prompt(text, "", "", self.config.data.template)
        else:
            assert self.world is not None
            prompt = request(text, self.world, tokenizer)
        if not self.sampler.fits(prompt):
            limit = self.config.rollout.max_prompt_tokens
            raise DataError(f"the prompt is longer than rollout.max_prompt_tokens={limit}, with its template")
        return prompt

    def answers(self, prompt: Prompt, temperature: float, seed: int, max_tokens: int | None) -> list[Response]:
        """The SFT model's answer and the policy's."""
        found = []
        for role in (self.sft, self.policy):
            chance = torch.Generator(self.sampler.device).manual_seed(seed)
            found += self.sampler.sample(role, [prompt], temperature, chance, max_tokens)
        return found


def load(directory: Path) -> Chat:
    """Load both models; raises UserError where there is no run with a policy, or what that was trained on is gone."""
    config, policy = RunDirectory(directory).config(), directory / POLICY
    if not policy.is_dir():
        raise DataError(f"{policy} does not exist: a run saves its policy at each evaluation, first before its steps")
    prepare_torch(config.model.threads)
    device, model = resolve_device(config.device), config.model
    with_lora = config.lora.r is not None
    path = base_of(policy) if with_lora else sft_of(config)
    lm, tokenizer = load_backbone(path, model.dtype, device, model.attention, model.quantization)
    tell_template(tokenizer, getattr(config.data, "template_options", None))
    base = SharedBase(lm)
    if with_lora:
        role = base.add(POLICY, config.lora, trainable=False)
        role.load_state(load_peft_weights(str(policy), device=str(device)), "policy", str(policy))
    else:
        role = Role(load_backbone(policy, model.dtype, device)[0])
    world = World(config.data) if isinstance(config.data, WorldConfig) else None
    return Chat(config, Sampler(tokenizer, config.rollout, device), base.reference(), role, world)


def base_of(policy: Path) -> str:
    """The SFT model that an adapter belongs to: a directory, or a hub id."""
    path = read_base(policy)
    if Path(path).is_absolute() and not Path(path).is_dir():
        raise DataError(f"{path} does not exist: the policy's SFT model lay there")
    return path


def sft_of(config: Config) -> str:
    """The SFT model of a policy that is a whole model and names none: the stage in the cache."""
    if config.sft.epochs > 0 and not Path(config.cache_dir).is_dir():
        raise DataError(f"cache_dir={config.cache_dir} does not exist from here: start where the run was started")
    path = Pipeline(config).sft()[0]
    if path is None:
        raise DataError("the policy's SFT model had random weights, which are never written: there is nothing to load")
    return path


def request(text: str, world: World, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """A text in the world's spelling; with what it asks for, where it is a request of the grammar.

    Raises DataError naming the words that the world does not have.
    """
    known, words = tokenizer.get_vocab(), re.findall(r"'s|\w+|[^\w\s]", text)
    spelled = [
        next((form for form in (word, word.lower(), word.capitalize()) if form in known), word) for word in words
    ]
    unknown = [word for word in spelled if word not in known]
    if unknown or not words:
        raise DataError(f"this world has no word {', '.join(unknown)}" if unknown else "the prompt is empty")
    for ending in ("", " .", " ?"):
        for person in (person for person in world.people if person.name in spelled):
            for prompt in (each for kind in KINDS for each in possible_prompts(person, kind)):
                if prompt.instruction == " ".join(spelled) + ending:
                    return prompt
    return Prompt(" ".join(spelled), prompt_text(" ".join(spelled)), "")


def main(arguments: Sequence[str] | None = None) -> None:
    options, console = parser().parse_args(arguments), PlainConsole()
    with command():
        chat = load(options.directory)
        if options.prompt is not None:
            console.print(reply(chat, options.prompt, options))
            return
        introduce(chat, console)
        for number, text in enumerate(lines(console)):
            try:
                console.print(reply(chat, text, options, number))
            except DataError as error:
                console.print(str(error), style="red")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m rlhf.chat", description="Talk to a policy beside its SFT model; a line is a prompt."
    )
    made.add_argument("directory", type=Path, help="a run directory, of a run that goes on or is done")
    made.add_argument("--prompt", metavar="TEXT", help="answer this one and end")
    made.add_argument(
        "--temperature",
        type=number(0.0, 1e6, "temperature"),
        metavar="T",
        help="0: greedy; default: evaluation.temperature",
    )
    made.add_argument(
        "--max-tokens", type=whole(1), metavar="N", help="of an answer; default: as in the run's evaluation"
    )
    made.add_argument(
        "--seed",
        type=whole(0, 2**63 - 2**32),
        default=0,
        help="of the first answer; the next ones count up from it (0)",
    )
    return made


def introduce(chat: Chat, console: PlainConsole) -> None:
    if not sys.stdin.isatty():
        return
    if chat.world is not None:
        examples = [prompt.instruction for prompt in evaluation_prompts(chat.config, chat.world)[:3]]
        console.print("this world knows requests as these, and no other words:", *examples, sep="\n  ")
    console.print("an empty line ends", style="dim")


def lines(console: PlainConsole) -> Iterator[str]:
    """Lines of a terminal until an empty one; of a pipe, all that are not empty."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    with suppress(EOFError):
        while text := console.input("[bold]> [/]").strip():
            yield text


def reply(chat: Chat, text: str, options: argparse.Namespace, number: int = 0) -> Table:
    """Both answers side by side, facts marked where the world knows them."""
    prompt, settings = chat.prompt(text), chat.config.evaluation
    degree = settings.temperature if options.temperature is None else options.temperature
    limit = settings.max_response_tokens if options.max_tokens is None else options.max_tokens
    table = Table(
        "SFT", "policy", title=Text(visible(prompt.instruction), style="bold"), title_justify="left", expand=True
    )
    table.add_row(*(shown(chat, prompt, each) for each in chat.answers(prompt, degree, options.seed + number, limit)))
    if chat.world is not None and prompt.detail is None:
        table.caption = "no request of this world's grammar: neither model was trained on such"
    return table


def shown(chat: Chat, prompt: Prompt, response: Response) -> Text:
    spans = chat.world.fact_spans(prompt, response) if chat.world is not None and prompt.detail is not None else None
    text = marked(response.text, [list(span) for span in spans or []])
    return text if response.finished else text.append(f" … (cut at {len(response.token_ids)} tokens)", "dim")


if __name__ == "__main__":
    main()
