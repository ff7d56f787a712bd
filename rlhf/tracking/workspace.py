"""A wandb workspace for an ablation: panels by penalty, built and checked without a network (wandb-workspaces)."""

from typing import Any

from rlhf.errors import ConfigError
from rlhf.figures import FIGURES, GREEDY, SAMPLED, heading
from rlhf.tracking.tracker import numbers

FORM = "regularizer.name"
"""The key of the configuration that panels group by."""

CURVES = (
    *(GREEDY, SAMPLED, "objective", "rollout/objective", "reward", "true_kl_per_response", "true_kl_per_token"),
    *("factuality_greedy", "response_length_greedy", "samples_per_second"),
)
"""Over the steps: the mean of a penalty's runs, and its standard error."""

FINAL = (GREEDY, f"{GREEDY}_length_controlled", SAMPLED, "objective", "factuality_greedy")
"""Bars at the end of training; for each also `_se`, its error over prompts."""

TRADES = (
    ("true_kl_per_response", GREEDY),
    ("true_kl_per_response", f"{GREEDY}_length_controlled"),
    ("reward", GREEDY),  # over-optimisation
    ("response_length_greedy", "factuality_greedy"),
)
"""A point per run."""

PICTURES = ("win_rate", "win_rate_by_step", "overoptimisation", "training")
"""Pictures of the run that compares the others."""


def build(sweep: str, project: str, entity: str) -> Any:
    """A `wandb_workspaces` Workspace of the sweep's runs; raises ConfigError where the package is missing."""
    try:
        from wandb_workspaces import expr
        from wandb_workspaces import workspaces as ws
        from wandb_workspaces.reports import v2 as wr
    except ImportError as error:
        raise ConfigError("this needs the package wandb-workspaces: pip install wandb-workspaces") from error
    group = wr.Config(FORM)
    means = {"groupby": group, "groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
    curves = [wr.LinePlot(title=heading(name), x="step", y=[*numbers({name: 0.0})], **means) for name in CURVES]
    bars = [wr.BarPlot(title=FIGURES[name].title, metrics=[name], **means) for name in FINAL]
    errors = [wr.BarPlot(title=f"{FIGURES[name].title}: error over prompts", metrics=[f"{name}_se"]) for name in FINAL]
    points = [
        wr.ScatterPlot(title=f"{heading(y)} by {heading(x)}", x=wr.SummaryMetric(x), y=wr.SummaryMetric(y))
        for x, y in TRADES
    ]
    sections = {
        "At the end, by penalty": bars + errors,
        "What it costs, and over-optimisation": points,
        "Along training, by penalty": curves,
    }
    comparison: list[Any] = [wr.MediaBrowser(media_keys=[f"figures/{name}" for name in PICTURES])]
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=f"{sweep}: ablation",
        sections=[
            *(ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()),
            ws.Section(name="The comparison", panels=comparison, is_open=True),
        ],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == sweep),
            groupby=[expr.Config(FORM)],
            order=[expr.Ordering(expr.Summary(GREEDY))],
        ),
    )
    workspace._to_model()  # refuses here what wandb could not show
    return workspace


def described(workspace: Any) -> str:
    """Its sections and their panels' titles, a line each."""
    lines = [f"{workspace.name} ({workspace.entity}/{workspace.project})"]
    for section in workspace.sections:
        titles = [getattr(panel, "title", None) or "figures" for panel in section.panels]
        lines.append(f"  {section.name}: {'; '.join(titles)}")
    return "\n".join(lines)
