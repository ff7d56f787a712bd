"""Checks of the configuration's values; a refusal names the key, the value and what is allowed."""

import math

from rlhf.errors import ConfigError


def check(ok: bool, key: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{key}={value} is not allowed: {allowed}")


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    check(value in choices, key, value, f"choose one of {', '.join(choices)}")


def check_positive(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        check(0 < value < math.inf, f"{section}.{name}", value, "must be greater than 0")


def check_not_negative(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        check(0 <= value < math.inf, f"{section}.{name}", value, "must be 0 or greater")


def check_fraction(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        check(0 <= value <= 1, f"{section}.{name}", value, "must lie between 0 and 1")
