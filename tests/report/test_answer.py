"""The answer that stands first, from runs whose numbers are known."""

from dataclasses import replace

from rlhf.report.answer import answer
from rlhf.report.groups import ablation
from rlhf.report.load import Run, Unfinished
from tests.report.conftest import make_run, point


def run(form: str, rate: float, wins: int | None = None, world: int = 0, seed: int = 0) -> Run:
    judgements = None if wins is None else [2.0] * wins + [1.0] * (10 - wins)
    more = {"factuality_greedy": 90.0, "response_length_greedy": 21.0}
    points = [
        point(0, 50.0, 0.0, factuality_greedy=88.0, response_length_greedy=20.0),
        point(40, rate, 2.0, 80.0, **more),
    ]
    return make_run(points, judgements, regularizer__name=form, data__seed=world, seed=seed)


def test_the_answer_names_the_winner_its_lead_and_the_reference() -> None:
    worlds = range(6)
    runs = [
        run(form, 10.0 * wins, wins, world) for form, wins in (("js", 8), ("kl", 5), ("none", 2)) for world in worlds
    ]
    found = answer(ablation(runs))
    assert found.headline.startswith("js has the highest greedy win rate: 80.0 ±")
    assert (found.winner.label, found.reference.label) == ("js", "none")
    # of 10 prompts, 8 won against 5 and against 2
    assert found.sentences[0].startswith("It leads kl, the next, by 30.0 points (95 % interval ")
    assert "ahead of 2 of 2 other settings beyond error (Holm, 5 %)." in found.sentences[0]
    assert found.sentences[1] == "The winner was run in 6 worlds (worlds x seeds: 6 x 1); 3 settings in the table."
    facts = {fact.name: fact.figure for fact in found.facts}
    assert facts["win rate minus SFT's, points"] == "+30.0"
    assert facts["win rate minus none's, points"] == "+60.0"
    assert facts["objective minus SFT's, SFT deviations"] == "+0.60"
    assert facts["factuality minus SFT's, points"] == "+2.0"  # of greedy responses
    assert facts["length minus SFT's, tokens"] == "+1.0"


def test_what_is_not_told_apart_is_named() -> None:
    runs = [run("js", 60.0, 6, 0), run("js", 60.0, 6, 1), run("kl", 59.0, 7, 0), run("kl", 58.0, 5, 1)]
    [first, _] = answer(ablation(runs)).sentences
    assert "ahead of 0 of 1 other setting beyond error (Holm, 5 %); not told apart from it: kl." in first


def test_one_world_is_said_to_be_one() -> None:
    found = answer(ablation([run("js", 80.0, 8), run("kl", 50.0, 5)]))
    assert "All is from one world" in found.sentences[0]
    assert [each.p_value for each in found.to_winner] == [None]
    assert found.reference is None


def test_without_greedy_responses_the_sampled_ones_are_compared_and_said_to_be() -> None:
    runs = [run("js", 60.0), run("kl", 70.0)]
    for each in runs:
        each.metrics["win_rate_greedy"] = None
    found = ablation(runs)
    assert found.headline == "win_rate"
    assert answer(found).headline == "kl has the highest sampled win rate: 60.0 ± 1.2 %"


def test_a_winner_whose_objective_fell_is_told_so() -> None:
    runs = [run("js", 60.0), run("js", 61.0, seed=1), run("kl", 50.0)]
    assert answer(ablation(runs)).problem is None
    runs[2].metrics["objective_problem"] = "kl's own"
    assert answer(ablation(runs)).problem is None  # of another setting
    runs[1].metrics["objective_problem"] = "it ended below"
    problem = answer(ablation(runs)).problem
    assert ("1 of 2 runs" in problem, problem.endswith("it ended below")) == (True, True)
    assert answer(ablation(runs[1:])).problem == "it ended below"


def test_one_setting_has_nothing_to_lead() -> None:
    found = answer(ablation([run("none", 61.0)]))
    assert found.headline == "all runs: greedy win rate 61.0 ± 1.5 %"
    assert found.to_winner == []
    assert found.reference is None


def test_no_finished_run() -> None:
    assert answer(ablation([])).headline == "No finished run yet"


def pruned(split: str, rule: str = "asha") -> Unfinished:
    return Unfinished("p", "pruned", "behind", 10, 40, {"evaluation.split": split, "prune.name": rule})


def test_what_was_chosen_on_the_evaluation_split_gets_no_verdict_and_the_reason() -> None:
    sound = [run("js", 60.0, 6, world) for world in range(2)]
    by_search = replace(sound[0], made_by={"config": "search", "overrides": [], "sweeper": "some.OptunaSweeper"})
    by_choice = replace(sound[0], chosen={"split": "eval", "step": 20, "figure": "win_rate", "figures": {}})
    why = "On the evaluation split, on which these runs would be compared, "
    cases = {
        "the settings of 1 run were chosen by OptunaSweeper.": ([by_search, sound[1]], []),
        "the policies of 1 run were chosen among those kept on the way.": ([by_choice, sound[1]], []),
        "2 runs fell out by pruning.": (sound, [pruned("eval"), pruned("eval")]),
    }
    for reason, (runs, ended) in cases.items():
        found = answer(ablation(runs), ended)
        assert found.headline == "No verdict: these runs were chosen by their own figures"
        assert found.sentences[0] == why + reason
        assert (found.winner, found.to_reference, found.to_winner, found.facts) == (None, [], [], [])


def test_what_was_chosen_on_tuning_people_is_told_with_what_that_does_to_its_figures() -> None:
    sound = [run("js", 60.0, 6, world) for world in range(2)]
    on_tune = [replace(each, config=each.config | {"evaluation.split": "tune"}) for each in sound]
    by_search = replace(on_tune[0], made_by={"config": "search", "overrides": [], "sweeper": "some.OptunaSweeper"})
    found = answer(ablation([by_search, on_tune[1]]), [pruned("tune")])
    assert found.winner is not None
    assert found.sentences[-2].startswith("1 run ended as pruned and stands in no mean. Those left were selected by ")
    assert found.sentences[-1].startswith("These are figures of the tuning people, to choose by and not to report: ")
    assert answer(ablation(sound), [pruned("eval", rule="none")]).winner is not None  # stopped by hand
    assert answer(ablation(sound)).sentences == answer(ablation(sound), []).sentences
