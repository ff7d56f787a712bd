from random import Random

from rlhf.data.world import World
from rlhf.stages.pretrain import packed_blocks
from tests.stages.conftest import MakeSetting


class Counted(World):
    """Documents that are numbers of tokens long, and remember the progress at which they were asked for."""

    def document(self, rng: Random, progress: float) -> str:
        self.asked = [*getattr(self, "asked", []), progress]
        return "<bos> who is ? <eos>"


def test_blocks_are_cut_from_one_stream_of_documents(make_setting: MakeSetting) -> None:
    setting = make_setting("pretrain.steps=3", "pretrain.batch_size=2", "pretrain.block_size=4")
    source = Counted(setting.config.data)  # pyright: ignore[reportArgumentType]
    tokenizer = setting.sampler.tokenizer
    document = tokenizer("<bos> who is ? <eos>", add_special_tokens=False)["input_ids"]
    blocks = list(packed_blocks(source, tokenizer, setting.config.pretrain, Random(0)))
    assert [tuple(block.shape) for block in blocks] == [(2, 4)] * 3
    # documents of 5 tokens, end to end: 24 tokens take five of them, of which the last is cut
    assert [token for block in blocks for token in block.flatten().tolist()] == (document * 5)[:24]
    # two documents fill the first 8 tokens, two more the next 8, one the rest
    assert source.asked == [0, 0, 1 / 3, 1 / 3, 2 / 3]
