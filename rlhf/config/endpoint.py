"""Settings of a model behind an OpenAI-compatible endpoint, which judges and factuality ask alike."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from omegaconf import MISSING

from rlhf.validate import check, check_not_negative, check_positive

SECRETS = ("key", "token", "secret", "password", "authorization")


@dataclass
class EndpointConfig:
    model: str = MISSING
    base_url: str = MISSING
    api_key_env: str | None = MISSING
    temperature: float | None = MISSING
    max_tokens: int | None = MISSING
    parameters: dict[str, Any] = MISSING
    concurrency: int = MISSING
    timeout: float = MISSING
    retries: int = MISSING
    cache: str = MISSING
    input_price: float | None = MISSING
    output_price: float | None = MISSING
    max_cost: float | None = MISSING

    @property
    def longest_answer(self) -> int | None:
        """Tokens that an answer may take, by whatever name the endpoint has for that; None without a limit."""
        return self.parameters.get("max_completion_tokens", self.max_tokens)

    def check(self, section: str) -> None:
        """Raises ConfigError, naming keys by their `section`."""
        check(bool(self.model.strip()), f"{section}.model", self.model, "name a model that the endpoint serves")
        self._check_address(section)
        names = ", ".join(name for name in self.parameters if name.lower() in SECRETS or name.lower().endswith("_key"))
        allowed = f"{names} would be saved with the run: put keys in the environment, and name them in api_key_env"
        check(not names, f"{section}.parameters", "(not shown)", allowed)
        check_positive(section, self, "concurrency", "timeout")
        check_not_negative(section, self, "retries")
        optional = {"temperature": check_not_negative, "max_tokens": check_positive, "max_cost": check_positive}
        for name, rule in (optional | dict.fromkeys(("input_price", "output_price"), check_not_negative)).items():
            if getattr(self, name) is not None:
                rule(section, self, name)
        if self.max_cost is not None:
            priced = self.input_price is not None and self.output_price is not None
            allowed = "a limit needs input_price and output_price, and max_tokens, to know what a call may cost"
            check(priced and self.longest_answer is not None, f"{section}.max_cost", self.max_cost, allowed)

    def _check_address(self, section: str) -> None:
        parts = urlsplit(self.base_url)
        shown = self.base_url if parts.username is None and parts.password is None else "(not shown)"
        allowed = "must begin with http:// or https:// and a host, and hold no user or password"
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and shown == self.base_url
        check(ok, f"{section}.base_url", shown, allowed)
