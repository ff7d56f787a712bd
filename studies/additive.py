"""One model for all forms and worlds: value = world + form (+ slope x covariate) + residual, of one variance.

Beside the plain interval of a difference, whose spread is that of its own worlds alone, this one's is pooled over all
forms: narrower where they are alike, and wrong where they are not.
"""

from collections.abc import Mapping

import numpy as np
from statsmodels.regression.linear_model import OLS

from rlhf.evaluation.pooling import Pooled

Table = Mapping[str, Mapping[int, float]]
"""Form -> world -> value."""


def differences(values: Table, reference: str, covariate: Table | None = None) -> dict[str, Pooled]:
    """Each form less the reference, in the worlds that all have; at equal `covariate` where one is given.

    Empty without two forms and two worlds, or where there is nothing left to take the residual's variance from.
    """
    tables = [values] if covariate is None else [values, covariate]
    worlds = sorted(set.intersection(*(set(each) for table in tables for each in table.values())))
    others = [form for form in values if form != reference]
    forms = [reference, *others]
    parameters = len(worlds) + len(others) + (covariate is not None)
    if reference not in values or not others or len(worlds) * len(forms) <= parameters:
        return {}
    cells = [(form, world) for form in forms for world in worlds]
    rows = [[*(form == other for other in others), *(world == one for one in worlds)] for form, world in cells]
    design = np.array(rows, dtype=float)
    if covariate is not None:
        design = np.column_stack([design, [covariate[form][world] for form, world in cells]])
    fit = OLS(np.array([values[form][world] for form, world in cells]), design).fit()
    columns = zip(others, fit.params, fit.bse, *np.transpose(fit.conf_int(0.05)), fit.pvalues, strict=False)
    return {
        form: Pooled(float(estimate), float(error), float(low), float(high), None, float(p), len(worlds))
        for form, estimate, error, low, high, p in columns
    }
