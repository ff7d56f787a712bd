"""rlhf.launch.shared with fake runs: `python -m tests.launch.fake_shared SHEET ELEMENT`."""

from rlhf.launch import shared, starter
from tests.launch.fake_starter import FAKE

if __name__ == "__main__":
    starter.WORKER = (*FAKE, "--worker")
    shared.main()
