"""An evaluation row by row: what judgements.jsonl and responses.jsonl hold."""

from dataclasses import asdict
from typing import Any

from rlhf.stages.evaluator import Evaluation, Evaluator


def judgement_rows(evaluator: Evaluator, evaluation: Evaluation) -> list[dict[str, Any]]:
    """All that statistics of a run need, one row per prompt: preferences, lengths in tokens, facts, the score.

    For reading, also the first of the references that it was compared with, and where in both texts facts stand.
    """
    columns = (evaluator.prompts, *evaluation[1:4], evaluator.references[0])
    rows = []
    for prompt, response, judgement, value, reference in zip(*columns, strict=True):
        correct, wrong = evaluator.source.facts(prompt, response) or (None, None)
        row = {"instruction": prompt.instruction, "dataset": prompt.dataset, **asdict(judgement)}
        row |= {"correct": correct, "wrong": wrong, "score": value, "reference": reference.text}
        row |= {"facts": evaluator.source.fact_spans(prompt, response)}
        rows.append(row | {"reference_facts": evaluator.source.fact_spans(prompt, reference)})
    for row, judgement in zip(rows, evaluation.greedy_judgements or [], strict=False):
        row |= {f"greedy_{name}": value for name, value in asdict(judgement).items()}
    return rows


def response_rows(evaluator: Evaluator, evaluation: Evaluation, step: int) -> list[dict[str, Any]]:
    """The same with the policy's responses, and the step after which it gave them: all that is to be read of them."""
    judged = judgement_rows(evaluator, evaluation)
    texts = [response.text for response in evaluation.responses]
    rows = [{"step": step, **row, "response": text} for row, text in zip(judged, texts, strict=True)]
    for row, own, reference in zip(rows, evaluation.greedy or [], evaluator.greedy_reference, strict=False):
        row |= {"greedy_response": own.text, "greedy_reference": reference.text}
    return rows
