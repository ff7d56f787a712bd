"""Settings of a model behind an OpenAI-compatible endpoint, which judges and factuality ask alike."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from omegaconf import MISSING

from rlhf.config.gate import HIDDEN, check_tree
from rlhf.validate import check, check_not_negative, check_positive

OWN_FIELDS = ("model", "messages", "stream", "n")
"""Fields of a request that are no further parameters: more answers than one would cost more than is counted."""


@dataclass
class EndpointConfig:
    model: str = MISSING  # its name there
    base_url: str = "https://api.openai.com/v1"  # any server of that protocol, such as http://localhost:8000/v1
    # environment variable that holds the key, which is saved nowhere; null: no key is needed
    api_key_env: str | None = "OPENAI_API_KEY"
    temperature: float | None = 0.0  # null: the field is left out, as some models want it
    max_tokens: int | None = None  # tokens of an answer; null: no limit
    # further fields of each request, set by +judge.parameters.NAME=VALUE, such as seed or top_p
    parameters: dict[str, Any] = field(default_factory=dict)
    concurrency: int = 8  # requests at a time
    timeout: float = 60.0  # seconds until a request is given up and tried again
    retries: int = 5  # further tries of a request that failed, each after a longer pause
    # answers by model and request; what is there is not asked again; null: answers.sqlite in cache_dir
    cache: str | None = None
    input_price: float | None = None  # of a million tokens read, in any currency; null: costs are not counted
    output_price: float | None = None  # of a million tokens written
    max_cost: float | None = None  # in the same currency: a command stops before it would spend more; null: no limit

    @property
    def longest_answer(self) -> int | None:
        """Tokens that an answer may take, by whatever name the endpoint has for that; None without a limit."""
        return self.parameters.get("max_completion_tokens", self.max_tokens)

    def fill(self, cache_dir: str) -> None:
        """Keep answers in the cache, where no other place is named."""
        self.cache = self.cache or f"{cache_dir}/answers.sqlite"

    def check(self, section: str) -> None:
        """Raises ConfigError, naming keys by their `section`."""
        check_tree({section: vars(self)})
        for name in OWN_FIELDS:
            allowed = "the request has it from elsewhere"
            check(name not in self.parameters, f"{section}.parameters.{name}", self.parameters.get(name), allowed)
        check(bool(self.model.strip()), f"{section}.model", self.model, "name a model that the endpoint serves")
        self._check_address(section)
        check_positive(section, self, "concurrency", "timeout")
        check_not_negative(section, self, "retries")
        optional = {"temperature": check_not_negative, "max_tokens": check_positive, "max_cost": check_positive}
        for name, rule in (optional | dict.fromkeys(("input_price", "output_price"), check_not_negative)).items():
            if getattr(self, name) is not None:
                rule(section, self, name)
        if self.max_cost is not None:
            priced = self.input_price is not None and self.output_price is not None
            allowed = "a limit needs input_price and output_price, and max_tokens, to know what a call may cost"
            bounded = type(self.longest_answer) is int and self.longest_answer > 0
            check(priced and bounded, f"{section}.max_cost", self.max_cost, allowed)

    def _check_address(self, section: str) -> None:
        plain = not set("@?#") & set(self.base_url)
        shown = self.base_url if plain else HIDDEN
        allowed = "must begin with http:// or https:// and a host, and hold no user, password or query"
        try:
            parts = urlsplit(self.base_url)
            ok = parts.scheme in ("http", "https") and bool(parts.hostname) and plain
        except ValueError:  # brackets around what is no address
            ok = False
        check(ok, f"{section}.base_url", shown, allowed)
