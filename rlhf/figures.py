"""The figures that runs write: what each is called, its unit, how it is shown and what bounds it.

One table for everything that shows them: the console, reports, model cards, trackers. A figure's standard error stands
in metrics.json and history.jsonl under its name with `_se`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GREEDY, SAMPLED, REWARD = "win_rate_greedy", "win_rate", "reward"
"""The two win rates: greedy responses are judged against the SFT model's greedy ones, sampled against sampled.

And what runs without a judge are compared by: their common objective.
"""

UNBOUNDED, POSITIVE, PERCENT, SHARE = (-math.inf, math.inf), (0.0, math.inf), (0.0, 100.0), (0.0, 1.0)


def headline(*metrics: Mapping[str, Any]) -> str:
    """The win rate that all these runs have: the greedy one, unless one of them took the best of several responses.

    The reward where none of them has a win rate.
    """
    if metrics and not any(each.get(name) is not None for name in (GREEDY, SAMPLED) for each in metrics):
        return REWARD
    return GREEDY if metrics and all(each.get(GREEDY) is not None for each in metrics) else SAMPLED


@dataclass(frozen=True)
class Figure:
    """`label` is short, for tables; `long` is for the axis of a picture; intervals stay within `bounds`.

    `decoding` says how the responses were drawn, where there are figures of both kinds.
    """

    name: str
    label: str
    unit: str = ""
    digits: int = 1
    bounds: tuple[float, float] = UNBOUNDED
    decoding: str = ""
    long: str = ""

    @property
    def qualifier(self) -> str:
        """`%, greedy`."""
        return ", ".join(filter(None, (self.unit, self.decoding)))

    @property
    def title(self) -> str:
        """`win rate, %, greedy`."""
        return ", ".join(filter(None, (self.label, self.qualifier)))

    @property
    def plain(self) -> str:
        """`win rate, %`, whatever the decoding."""
        return ", ".join(filter(None, (self.label, self.unit)))

    @property
    def axis(self) -> str:
        """`greedy win rate against SFT, %`."""
        return ", ".join(filter(None, (f"{self.decoding} {self.long or self.label}".strip(), self.unit)))

    @property
    def unit_after(self) -> str:
        """What follows a value in a sentence: ` %`."""
        return f" {self.unit}" if self.unit else ""

    @property
    def difference_unit(self) -> str:
        return "points" if self.unit == "%" else self.unit


def both(name: str, suffix: str, label: str, unit: str, **more: Any) -> tuple[Figure, Figure]:
    """The same figure of greedy and of sampled responses."""
    return (
        Figure(f"{name}_greedy{suffix}", label, unit, decoding="greedy", **more),
        Figure(f"{name}{suffix}", label, unit, decoding="sampled", **more),
    )


EVALUATION = (
    *both("win_rate", "", "win rate", "%", bounds=PERCENT, long="win rate against SFT"),
    *both("win_rate", "_length_controlled", "at equal length", "%", bounds=PERCENT, long="win rate at equal length"),
    *both("win_rate", "_ties_as_losses", "ties as losses", "%", long="win rate, ties as losses"),
    Figure("objective", "objective", "SFT deviations", 2),
    Figure("reward", "reward", "SFT deviations", 2, long="reward"),
    Figure("raw_reward", "reward, unscaled", "its own unit", 3),
    Figure("true_kl_per_response", "KL per response", "nats", 2, POSITIVE, long="true KL to SFT per response"),
    Figure("true_kl_per_token", "KL per token", "nats", 3, POSITIVE, long="true KL to SFT per token"),
    Figure("kl_bound_per_response", "KL, at most", "nats", 2),
    *both("factuality", "", "factuality", "%", bounds=PERCENT),
    *both("factuality", "_penalized", "factuality, short responses penalized", "%"),
    *both("factuality", "_respond_ratio", "responses that state facts", "%"),
    *both("factuality", "_facts", "facts in such a response", ""),
    *both("factuality", "_null", "facts or responses that could not be read", ""),
    *both("response_length", "", "length", "tokens", bounds=POSITIVE, long="response length"),
    Figure("repeats", "repeated 4-grams", "share", 3, SHARE),
    Figure("finished", "ended by EOS", "share", 3),
    Figure("cost", "cost", "s", 0),
    Figure("n_eval", "prompts judged", digits=0),
    Figure("n_null", "judgements that could not be read", digits=0),
)
"""Figures of an evaluation; `cost` is the seconds of training and evaluation, summed where runs are loaded."""

COUNTED = (
    Figure("correct_facts", "right facts", "per response"),
    Figure("wrong_facts", "wrong facts", "per response"),
    Figure("repeated_facts", "repeated facts", "per response"),
    Figure("fillers", "fillers", "per response"),
    Figure("dont_know", "admissions of not knowing", "per response"),
    Figure("unparseable", "unparseable sentences", "per response"),
    Figure("sentences", "sentences", "per response"),
    Figure("count_error", "off the number of facts asked for", "facts"),
    Figure("right_answer", "right answers", "share"),
    Figure("wrong_answer", "wrong answers", "share"),
    Figure("words", "words", "per response"),
    Figure("characters", "characters", "per response"),
)
"""What a data source counts in the responses of an evaluation."""

TRAINING = (
    Figure("rollout/objective", "score less weighted penalty", "SFT deviations"),
    Figure("rollout/score", "reward model's score", "SFT deviations"),
    Figure("rollout/score_spread", "deviation among the reward models' scores", "SFT deviations"),
    Figure("rollout/kl_per_response", "KL to SFT per response", "nats"),
    Figure("rollout/kl", "KL to SFT per token", "nats"),
    Figure("rollout/k1", "k1 estimate of the KL per token", "nats"),
    Figure("rollout/k3", "k3 estimate of the KL per token", "nats"),
    Figure("rollout/entropy", "entropy per token", "nats"),
    Figure("rollout/penalty_per_response", "penalty per response"),
    Figure("rollout/penalty", "penalty per token"),
    Figure("rollout/value", "value per token", "SFT deviations"),
    Figure("rollout/response_length", "response length", "tokens"),
    Figure("rollout/finished", "ended by EOS", "share"),
    Figure("rollout/repeats", "repeated 4-grams", "share"),
    Figure("rollout/long_prompts", "prompts passed over, being too long"),
    Figure("regularizer/coef", "penalty's coefficient"),
    Figure("ppo/policy_loss", "policy loss"),
    Figure("ppo/value_loss", "value loss"),
    Figure("ppo/penalty_loss", "penalty in the loss"),
    Figure("ppo/entropy_bonus", "entropy bonus"),
    Figure("ppo/clip_fraction", "clipped ratios", "share"),
    Figure("ppo/value_clip_fraction", "clipped values", "share"),
    Figure("ppo/approx_kl", "KL from the rollout's policy per token", "nats"),
    Figure("ppo/ratio_error", "distance of the first ratios from 1"),
    Figure("ppo/grad_norm", "policy's gradient norm before clipping"),
    Figure("ppo/value_grad_norm", "value's gradient norm before clipping"),
    Figure("ppo/lr", "learning rate"),
    Figure("ppo/optimizer_steps", "optimizer steps"),
    Figure("seconds/rollout", "rollout", "s"),
    Figure("seconds/scoring", "scoring", "s"),
    Figure("seconds/update", "update", "s"),
    Figure("seconds/evaluation", "evaluation", "s"),
    Figure("samples_per_second", "samples per second"),
)
"""Figures of a PPO step."""

FIGURES = {figure.name: figure for figure in (*EVALUATION, *COUNTED, *TRAINING)}
"""Every figure of metrics.json and history.jsonl, by its name."""

JUDGING = {
    figure.name: figure
    for figure in (
        Figure("n_identical", "identical outputs, ties without a question"),
        Figure("n_from_text", "preferences without log-probabilities"),
        Figure("first_preferred", "prefers what is shown first", "share"),
        Figure("inconsistent", "changes its mind with the order", "share"),
        Figure("n_left_out", "outputs left out, as the run did"),
        Figure("n_without_reference", "outputs without a reference"),
        Figure("n_references_unused", "references without an output"),
        Figure("cost", "cost of this command"),
        Figure("kept_cost", "cost of answers kept from before"),
    )
}
"""What `python -m rlhf.evaluate` writes beside a win rate and a factuality."""


def bounds(name: str) -> tuple[float, float]:
    return FIGURES[name].bounds if name in FIGURES else UNBOUNDED


def heading(name: str) -> str:
    """A title for any figure of history.jsonl; figures of a PPO step keep their names, unknown ones have only those."""
    figure = FIGURES.get(name)
    if figure is None:
        return name
    return f"{name}: {figure.title}" if "/" in name else figure.axis
