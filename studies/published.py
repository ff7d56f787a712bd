"""What the paper published (arXiv 2309.09055), as far as this report compares with it."""

SOURCE = "arXiv 2309.09055"

SFT_WIN_RATE = 37.0
PPO_WIN_RATE = 46.7
"""Win rates in per cent of AlpacaFarm's SFT10k and PPO against text-davinci-003, ties as losses."""

STEPS = (20, 60, 100, 140, 180)
WIN_RATE_BY_STEP = {
    "none": (34.5, 43.8, 48.2, 48.3, 48.2),
    "kl": (35.6, 41.9, 46.7, 48.1, 47.6),
    "js": (34.5, 44.8, 49.8, 49.8, 48.7),
}
"""Read off its first figure; to about half a point."""

PEAK_KL = (0.03, 0.17)
PEAK_WIN_RATE = (47.0, 52.0)
NEGATIVE_KL_END = (0.5, 37.0)
"""Read off its second figure: token-level true KL in nats per token, win rate in per cent."""
