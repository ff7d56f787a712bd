"""Work so small that a benchmark of it takes a second."""

SMALL = (
    *("model.hidden_size=16", "model.layers=1", "model.heads=2", "model.intermediate_size=32", "model.vocab_size=64"),
    *("rollout.batch_size=4", "rollout.max_prompt_tokens=7", "rollout.max_response_tokens=6", "device=cpu"),
    *("ppo.epochs=2", "ppo.step_batch_size=2", "ppo.micro_batch_size=2"),
)
