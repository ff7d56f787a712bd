"""Settings of the optimization: rollout, regularizer, PPO and the further algorithms."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from rlhf.config.algorithms import NAMES, needs
from rlhf.validate import check, check_choice, check_fraction, check_not_negative, check_positive


@dataclass
class RolloutConfig:
    batch_size: int = 64  # responses per PPO step, algorithm.samples_per_prompt to each prompt
    # longer prompts are left out of training, and cut on the left in evaluation; both are reported
    max_prompt_tokens: int = 24
    max_response_tokens: int = 64  # longer responses are cut off, and count as unfinished
    temperature: float = 1.0  # of sampling and of every log-probability
    decode_batch_size: int = 256  # responses decoded together
    # fast: adapters merged, for Llama, Mistral, Qwen; hf: by transformers, as other models always are
    engine: str = "fast"
    cuda_graphs: bool = True  # with engine=fast on a GPU: a token's operations are recorded once, then replayed

    def __post_init__(self) -> None:
        check_positive("rollout", self, "batch_size", "max_prompt_tokens", "max_response_tokens", "decode_batch_size")
        check_positive("rollout", self, "temperature")
        check_choice("rollout.engine", self.engine, ("fast", "hf"))


REFUSED_IN_LOSS = {
    "negative_kl": "its expected gradient there is 0, and only noise would be left; use reward",
    "js": "its gradient there follows no divergence; use both, or full_js for a loss",
    "js_exact": "its gradient there is that of -KL(reference, mixture) / 2; use reward or both, or full_js for a loss",
    "forward_kl": "its gradient there is that of -KL(reference, policy); use reward, or bregman for a loss",
}

KL, FORWARD_KL, JS = "KL(policy, reference)", "KL(reference, policy)", "JS(policy, reference)"
NEGATIVE_KL, MIXTURE_KL, ALPHA = f"-{KL}", "KL(policy, mixture) / 2", "the alpha-divergence"
OWN, ZERO = "its own expectation", "its own expectation, which is 0"


class Followed(NamedTuple):
    """What a form's expected gradient is the gradient of, by placement; None: of nothing that the form is named for."""

    reward: str | None
    loss: str | None
    both: str | None


FOLLOWED = {
    "none": Followed(ZERO, ZERO, ZERO),
    "dropout_only": Followed(ZERO, ZERO, ZERO),
    "kl": Followed(KL, None, KL),
    "clamped_kl": Followed(None, None, OWN),
    "squared_error": Followed(None, KL, OWN),
    "bregman": Followed(None, FORWARD_KL, KL),
    "js": Followed(None, None, OWN),
    "js_unbiased": Followed(None, None, JS),
    "js_exact": Followed(JS, None, MIXTURE_KL),
    "forward_kl": Followed(FORWARD_KL, None, ZERO),
    "negative_kl": Followed(NEGATIVE_KL, None, NEGATIVE_KL),
    "custom": Followed(None, None, OWN),
    "full_kl": Followed(None, KL, KL),
    "full_forward_kl": Followed(None, FORWARD_KL, FORWARD_KL),
    "full_js": Followed(None, JS, JS),
    "full_alpha": Followed(None, ALPHA, ALPHA),
}
"""`reward` and `loss` say what is followed in each state, `both` what is followed over whole responses."""

FULL = tuple(name for name in FOLLOWED if name.startswith("full_"))
SAMPLED = tuple(name for name in FOLLOWED if name not in FULL)


def followed(name: str, placement: str) -> str | None:
    """The quantity whose gradient a form follows there; None where it follows that of nothing it is named for."""
    return getattr(FOLLOWED[name], placement)


def left_out(name: str, placement: str) -> str | None:
    """What a placement lacks of the gradient of the form's expectation over whole responses; None: nothing."""
    form = FOLLOWED[name]
    if placement == "both" or form.loss == ZERO or (placement == "reward" and form.reward == form.both):
        return None
    if placement == "loss":
        return "how the policy's choices change what is sampled"
    return f"the gradient of {form.loss or 'the penalty itself'}"


@dataclass
class RegularizerConfig:
    name: str = "js"
    placement: str = "reward"  # reward: subtracted from it; loss: a term of it; both: the whole gradient
    coef: float = 0.5  # weight of the penalty per token, in standard deviations of the SFT model's scores
    strength: float = 1.0  # multiplies the weights: sweeping it scales every form's own coefficient alike
    # of the coefficient: constant, linear to end_coef, adaptive to target_kl, or published, adaptive to target_penalty
    schedule: str = "constant"
    end_coef: float = 0.0  # with schedule=linear: the coefficient at the last PPO step
    target_kl: float = 0.05  # with schedule=adaptive: true KL, nats per token
    # with schedule=adaptive: a rollout of n responses multiplies the coefficient by 1 - 0.2 n / horizon to
    # 1 + 0.2 n / horizon; null: rollout.batch_size
    horizon: int | None = None
    target_penalty: float = 6.0  # with schedule=published: the penalty's sum over a response
    k_beta: float = 0.1  # with schedule=published: a step multiplies the coefficient by at most 1 + 0.2 k_beta
    alpha: float = 0.5  # of regularizer=full_alpha: 1 is KL(policy || reference), 0 the other way round
    function: dict[str, Any] | None = None  # of regularizer=custom: its _target_ and keywords

    def __post_init__(self) -> None:
        check_choice("regularizer.name", self.name, SAMPLED + FULL)
        self._check_placement()
        check_not_negative("regularizer", self, "coef", "strength", "end_coef")
        check_choice("regularizer.schedule", self.schedule, ("constant", "linear", "adaptive", "published"))
        check_positive("regularizer", self, "target_kl", *(["horizon"] if self.horizon is not None else []))
        check_positive("regularizer", self, "target_penalty", "k_beta")
        self._check_adaptive()
        near_limit = any(0 < abs(self.alpha - limit) < 0.01 for limit in (0, 1))
        allowed = "must lie between 0 and 2, and be 0 or 1 or at least 0.01 away from both"
        check(0 <= self.alpha <= 2 and not near_limit, "regularizer.alpha", self.alpha, allowed)
        has_function = self.function is not None and "_target_" in self.function
        allowed = "regularizer=custom needs a _target_, the dotted path of a function, and no other form has one"
        check(has_function == (self.name == "custom"), "regularizer.function", self.function, allowed)

    def _check_placement(self) -> None:
        key, placement = "regularizer.placement", self.placement
        check_choice(key, placement, ("reward", "loss", "both"))
        if self.name in FULL:
            allowed = (
                f"{self.name} is the same for all actions in a state, and as a reward moves none; use loss or both"
            )
            check(placement != "reward", key, placement, allowed)
        reason = REFUSED_IN_LOSS.get(self.name) if placement == "loss" else None
        check(reason is None, key, placement, f"of {self.name}, {reason}")

    def _check_adaptive(self) -> None:
        if self.schedule in ("adaptive", "published"):
            check(self.coef > 0, "regularizer.coef", self.coef, f"schedule={self.schedule} scales it: start above 0")
            check(
                self.strength > 0, "regularizer.strength", self.strength, f"schedule={self.schedule} scales it: not 0"
            )
        if self.schedule == "adaptive":
            reason = None if self.name == "custom" else self._not_steered()
            check(reason is None, "regularizer.schedule", self.schedule, f"of {reason}")

    def _not_steered(self) -> str | None:
        """Why a controller can't hold the policy by the weight; None where it can."""
        name, found = self.name, followed(self.name, self.placement)
        if found == NEGATIVE_KL:
            return "negative_kl, more weight means more divergence: nothing would hold it; use constant or linear"
        if found == ZERO:
            reason = "its expectation is 0 whatever the policy does: no weight of it holds the policy"
        elif found is None:
            reason = f"it leaves out {left_out(name, self.placement)}: no weight of it holds the policy as it should"
        else:
            return None
        better = [place for place in ("reward", "both") if followed(name, place) not in (None, ZERO)]
        instead = [f"regularizer.placement={place}" for place in better[:1]] + ["regularizer=kl"] * (name != "kl")
        return f"{name} with regularizer.placement={self.placement}, {reason}; use {', or '.join(instead)}"


@dataclass
class PPOConfig:
    steps: int = 40  # rollouts, each followed by an update
    epochs: int = 2  # passes over each rollout
    step_batch_size: int = 32  # responses per optimizer step
    # responses per forward and backward pass; changes memory, not the result. null: as many as the GPU has room for
    micro_batch_size: int | None = 32
    lr: float = 0.001  # of the policy's adapter; the value has its own
    lr_full: float = 0.0004  # of the policy where all its weights are trained (lora=full)
    lr_schedule: str = "linear"  # linear (to 0) or constant, after the warm-up
    lr_steps: int | None = None  # PPO steps until lr_schedule=linear is at 0; null: ppo.steps
    warmup_steps: int = 5  # PPO steps
    warmup_from_zero: bool = False  # the first PPO step has the learning rate 0, else 1 / warmup_steps of it
    adam_eps: float = 1e-05  # added to the root of the second moment
    max_grad_norm: float = 1.0  # gradients are scaled down to it, policy and value apart; logged before
    clip: float = 0.2  # of the probability ratio
    gamma: float = 1.0  # discount per token
    lam: float = 0.95  # of generalised advantage estimation
    whiten_rewards: bool = False  # divide rewards by their standard deviation over the rollout's response tokens
    whiten_advantages: bool = True  # zero mean and unit deviation over the rollout's response tokens
    # the score of a response that was cut off, in the scores' unit; null: what the reward model says
    missing_eos_score: float | None = -3.0
    # leave the passes over a rollout once the approximate KL to its policy exceeds this
    early_stop_kl: float | None = None
    entropy_coef: float = 0.0  # weight of the policy's exact entropy as a bonus in the loss
    dropout: bool = False  # dropout (LoRA's, and the base's own) in the update; the ratio is then not 1 at first
    # of losses. tokens: over a step's; responses: over each response's, then over them; constant: their sum over
    # responses x rollout.max_response_tokens; positions: over padding too
    average: str = "tokens"
    keep_every: int = 0  # PPO steps between adapters that are kept, as kept/step-N of the run; 0: none is
    # What the code of arXiv 2309.09055 does otherwise, with average=positions; see rlhf/stages/published.py.
    # a step for each micro-batch, its gradient added up as often as a step has micro-batches
    repeat_micro_batch: bool = False
    whiten_padding: bool = False  # whiten over padding too, and add the mean reward back to each position
    bootstrap_padding: bool = False  # values after EOS, read from a state of 0, count in the advantages
    retokenize: bool = False  # the reward model reads the decoded text of prompt and response, and so never an EOS
    raw_scores: bool = False  # scores, and so a coefficient, are in the reward model's unit, not in SFT deviations
    clip_jointly: bool = False  # policy and value are clipped by the norm of both gradients together
    whole_epochs: bool = False  # prompts come in shuffled epochs of the training split, not as drawn by its source

    def __post_init__(self) -> None:
        check_not_negative("ppo", self, "steps", "warmup_steps", "entropy_coef", "keep_every")
        if self.lr_steps is not None:
            check_positive("ppo", self, "lr_steps")
        check_positive("ppo", self, "epochs", "step_batch_size", "lr", "lr_full", "adam_eps")
        if self.micro_batch_size is not None:
            check_positive("ppo", self, "micro_batch_size")
        found = self.micro_batch_size is None and self.repeat_micro_batch
        allowed = "with ppo.repeat_micro_batch it decides what is learnt, and so must be a number"
        check(not found, "ppo.micro_batch_size", self.micro_batch_size, allowed)
        check_positive("ppo", self, "max_grad_norm", "clip")
        check_choice("ppo.lr_schedule", self.lr_schedule, ("constant", "linear"))
        check_choice("ppo.average", self.average, ("tokens", "responses", "constant", "positions"))
        check_fraction("ppo", self, "gamma", "lam")
        if self.early_stop_kl is not None:
            check_positive("ppo", self, "early_stop_kl")

    @property
    def as_published(self) -> bool:
        """Whether any of the published code's ways is on."""
        padding = (self.average == "positions", self.whiten_padding, self.bootstrap_padding)
        return any((*padding, self.repeat_micro_batch, self.retokenize, self.clip_jointly, self.whole_epochs))


@dataclass
class AlgorithmConfig:
    name: str = "ppo"  # that of a file of rlhf/algorithms/
    samples_per_prompt: int = 1  # responses to each prompt of a rollout; rollout.batch_size is all of them
    scale_by_deviation: bool = False  # of grpo and gspo: divide by the deviation of the returns to the same prompt

    def __post_init__(self) -> None:
        check_choice("algorithm.name", self.name, NAMES)
        check_positive("algorithm", self, "samples_per_prompt")
        fewest = needs(self.name).samples
        allowed = f"algorithm={self.name} compares the responses to one prompt with each other: {fewest} or more"
        check(self.samples_per_prompt >= fewest, "algorithm.samples_per_prompt", self.samples_per_prompt, allowed)
